//! A call as its caller makes it, with its deadlines.

use crate::{
    conversation::ConversationResource, numbers::Numbers, progress_listener::ProgressListener,
};
use rustler::ResourceArc;
use snakepit_client::{
    channel::Channel,
    error::Failure,
    pool::{Priority, Session},
};
use snakepit_proto::CallHeader;
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use tokio_util::sync::CancellationToken;

/// A call with larger arguments is not sent to a worker that is still busy.
const SHORT_UP_TO: usize = 256 * 1024;

pub(crate) struct Call {
    /// Identifies the call on all connections, unlike the id of a frame.
    pub(crate) id: u64,
    /// The part that is sent. Elixir has checked its metadata.
    pub(crate) header: CallHeader,
    /// The session, for the dispatcher.
    pub(crate) session: Option<Session>,
    pub(crate) started: Instant,
    pub(crate) timeout: Option<Duration>,
    pub(crate) queue_timeout: Option<Duration>,
    pub(crate) priority: Priority,
    pub(crate) cancelled: CancellationToken,
    /// Whether the workers of its pool are endpoints.
    pub(crate) remote: bool,
    /// Those of the pool, unless the call has none.
    pub(crate) numbers: Option<Arc<Numbers>>,
    /// If the caller takes the call's progress.
    pub(crate) progress: Option<Arc<ProgressListener>>,
    /// The calls that wait for this one, because a tool or an input of theirs has made it.
    pub(crate) holding: Vec<ResourceArc<ConversationResource>>,
}

/// A call that was not started.
pub(crate) struct Refused {
    pub(crate) failure: Failure,
    pub(crate) call: Box<Call>,
}

impl Call {
    /// Whether it may be sent to a worker that is still busy with earlier calls.
    pub(crate) fn is_short(&self) -> bool {
        self.header.args().size() <= SHORT_UP_TO
    }

    /// Refuses a request that the server would refuse, before it is sent.
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

    /// Stops `work` when the call is cancelled or its deadline passes.
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

/// Without a deadline it never returns.
pub(super) async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
        None => std::future::pending().await,
    }
}
