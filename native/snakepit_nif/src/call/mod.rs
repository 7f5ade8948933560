//! A call on its way to a worker and back.

mod cause;
mod destination;
mod meta;
mod route;
mod rpc;
mod stream;
mod unary;

pub(crate) use route::{Route, Waiting};
pub(crate) use stream::{Overdue, StreamTimeouts, run_stream};
pub(crate) use unary::{Owner, UnaryCall, Watched, start_unary};

use snakepit_client::{
    channel::{Channel, ClientConnection},
    connection,
    failure::Failure,
    multiplexer,
    pool::Session,
};
use snakepit_proto::CallHeader;
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

pub(crate) type Connection = connection::Connection<UnaryCall>;
pub(crate) type Endpoint = connection::Endpoint<UnaryCall>;
pub(crate) type Multiplexer = multiplexer::Multiplexer<ClientConnection, UnaryCall>;

/// From here on a call is not sent ahead of what its worker does.
const SHORT_UP_TO: usize = 256 * 1024;

pub(crate) struct Call {
    /// Unlike the id of a frame the same on all connections.
    pub(crate) id: u64,
    /// What is sent of it; what the caller wants to go with it is checked where it comes in.
    pub(crate) header: CallHeader,
    /// Which worker its session wants.
    pub(crate) session: Option<Session>,
    pub(crate) started: Instant,
    pub(crate) timeout: Option<Duration>,
    pub(crate) queue_timeout: Option<Duration>,
    pub(crate) cancelled: CancellationToken,
}

impl Call {
    /// Whether it may be sent ahead.
    pub(crate) fn is_short(&self) -> bool {
        self.header.args().size() <= SHORT_UP_TO
    }

    /// Refuses what the server would, before it is on its way.
    fn check_size(&self, channel: &Channel) -> Result<(), Failure> {
        let (size, limit) = (self.header.args().size(), channel.max_message_size);
        if size <= limit {
            return Ok(());
        }
        Err(Failure::TooLarge {
            what: "request",
            size,
            limit,
        })
    }

    fn timed_out(&self) -> Failure {
        Failure::Timeout {
            after: self.timeout.unwrap_or_default(),
            queued: false,
        }
    }

    /// Ends `work` when the call is cancelled or its time is up.
    async fn within<T>(
        &self,
        work: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        tokio::select! {
            biased;
            done = work => done,
            () = self.cancelled.cancelled() => Err(Failure::Cancelled),
            () = sleep_until(self.header.deadline()) => Err(self.timed_out()),
        }
    }
}

/// Sleeps for ever without a deadline.
async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
        None => std::future::pending().await,
    }
}
