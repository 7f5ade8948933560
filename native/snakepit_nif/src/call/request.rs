//! What a caller asks for, and until when.

use snakepit_client::{channel::Channel, failure::Failure, pool::Session};
use snakepit_proto::CallHeader;
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use tokio_util::sync::CancellationToken;

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
    pub(super) fn check_size(&self, channel: &Channel) -> Result<(), Failure> {
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

    pub(super) fn timed_out(&self) -> Failure {
        Failure::Timeout {
            after: self.timeout.unwrap_or_default(),
            queued: false,
        }
    }

    /// Ends `work` when the call is cancelled or its time is up.
    pub(super) async fn within<T>(
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
pub(super) async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
        None => std::future::pending().await,
    }
}

/// Watches the owner of a call, and cancels it with that.
pub(crate) trait Owner: Send + Sync {
    fn watch(&self, cancel: Box<dyn FnOnce() + Send>);
}

pub(crate) type Watched = Arc<dyn Owner>;
