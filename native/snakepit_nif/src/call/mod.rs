//! A call on its way to a worker and back.

mod cause;
mod destination;
mod meta;
mod route;
mod rpc;
mod stream;
mod unary;

pub(crate) use route::{Route, Waiting};
pub(crate) use stream::{Overdue, Patience, run_stream};
pub(crate) use unary::{Owner, Unary, Watched, run_unary};

use crate::pool::Worker;
use snakepit_client::{
    connection,
    failure::Failure,
    pool::{AcquireError, Granted, Lease, Session},
};
use snakepit_proto::Fields;
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

pub(crate) type Link = connection::Link<Unary>;
pub(crate) type Endpoint = connection::Endpoint<Unary>;

pub(crate) struct Call {
    pub(crate) id: u64,
    pub(crate) command: String,
    pub(crate) args: Fields,
    pub(crate) session: Option<Session>,
    pub(crate) request_id: String,
    /// What the caller wants to go with the call; keys and values are checked where it comes in.
    pub(crate) metadata: Vec<(String, String)>,
    pub(crate) started: Instant,
    pub(crate) timeout: Option<Duration>,
    pub(crate) queue_timeout: Option<Duration>,
    pub(crate) cancelled: CancellationToken,
}

impl Call {
    /// Whether it may be sent ahead.
    pub(crate) fn is_short(&self) -> bool {
        self.args.size() <= unary::SHORT_UP_TO
    }

    fn deadline(&self) -> Option<Instant> {
        self.timeout.map(|timeout| self.started + timeout)
    }

    /// The end of the wait for a worker, of which the queue timeout runs from `since` on.
    fn queue_deadline(&self, since: Instant) -> Option<Instant> {
        let queue = self.queue_timeout.map(|timeout| since + timeout);
        self.deadline().into_iter().chain(queue).min()
    }

    fn expired(&self, since: Instant, has_workers: bool) -> Failure {
        let queue = self.queue_timeout.map(|timeout| since + timeout);
        match (self.timeout, self.queue_timeout) {
            (Some(after), _) if queue.is_none_or(|queue| self.started + after <= queue) => {
                Failure::Timeout {
                    after,
                    queued: true,
                }
            }
            (_, after) => Failure::QueueTimeout {
                after: after.unwrap_or_default(),
                has_workers,
            },
        }
    }

    fn granted(
        &self,
        granted: Result<Granted<Arc<Worker>>, oneshot::error::RecvError>,
    ) -> Result<Lease<Arc<Worker>>, Failure> {
        match granted {
            Ok(granted) => granted.map_err(|error| self.refused(error)),
            Err(_) => Err(Failure::Dropped),
        }
    }

    fn refused(&self, error: AcquireError) -> Failure {
        match error {
            AcquireError::Saturated { max_queue } => Failure::Saturated { max_queue },
            AcquireError::Expired => self.expired(self.started, true),
            AcquireError::SessionLost => Failure::SessionLost,
            AcquireError::Unavailable(unavailable) if unavailable.no_grpc => {
                Failure::NoGrpc(unavailable.why.clone())
            }
            AcquireError::Unavailable(unavailable) => Failure::NoWorker(unavailable.why.clone()),
            AcquireError::Closed => Failure::PoolStopped,
        }
    }

    fn remaining(&self) -> Option<Duration> {
        self.deadline()
            .map(|deadline| deadline.saturating_duration_since(Instant::now()))
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
            () = sleep_until(self.deadline()) => Err(self.timed_out()),
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
