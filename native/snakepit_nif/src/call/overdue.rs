//! Ends overdue streams even while the runtime is blocked.

use super::{meta::unplaced, request::Call, timeouts::StreamTimeouts};
use crate::{events::Recipient, progress::Progress};
use snakepit_client::{
    error::Failure,
    overdue::{OVERDUE_AFTER, Watch},
};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use tokio_util::sync::CancellationToken;

/// Fails a stream whose owner receives its messages, once one of its timeouts has passed.
pub(crate) struct Overdue {
    to: Recipient,
    progress: Arc<Progress>,
    timeouts: StreamTimeouts,
    started: Instant,
    timeout: Option<Duration>,
    request_id: String,
    cancelled: CancellationToken,
}

impl Overdue {
    pub(crate) fn new(
        call: &Call,
        to: Recipient,
        progress: Arc<Progress>,
        timeouts: StreamTimeouts,
    ) -> Self {
        Self {
            to,
            progress,
            timeouts,
            started: call.started,
            timeout: call.timeout,
            request_id: call.header.request_id().to_owned(),
            cancelled: call.cancelled.clone(),
        }
    }

    /// `None` for a stream without timeouts.
    pub(crate) fn watch(self) -> Option<Watch> {
        let (at, _) = self.next(self.started)?;
        Some(Watch::new(at + OVERDUE_AFTER, move |now| self.look(now)))
    }

    fn look(&self, now: Instant) -> Option<Instant> {
        let (at, failure) = self.next(now)?;
        if at + OVERDUE_AFTER > now {
            return Some(at + OVERDUE_AFTER);
        }
        // A cancelled stream sends its end on its own.
        if !self.cancelled.is_cancelled() {
            let meta = unplaced(&self.request_id, Duration::ZERO);
            self.to.end(Err(failure), &meta);
            self.cancelled.cancel();
        }
        None
    }

    /// The timeout that ends first, as of now.
    fn next(&self, now: Instant) -> Option<(Instant, Failure)> {
        let whole = self
            .timeout
            .map(|after| (self.started + after, Failure::overdue(after)));
        let chunk = match (self.progress.has_begun(), self.timeouts) {
            (
                false,
                StreamTimeouts {
                    first_chunk: Some(after),
                    ..
                },
            ) => Some((self.started + after, no_chunk(after, "first_chunk_timeout"))),
            (
                begun,
                StreamTimeouts {
                    idle: Some(after), ..
                },
            ) => {
                let since = self.progress.wanted_since().filter(|_| begun);
                Some((
                    since.unwrap_or(now) + after,
                    no_chunk(after, "idle_timeout"),
                ))
            }
            _ => None,
        };
        whole.into_iter().chain(chunk).min_by_key(|(at, _)| *at)
    }
}

fn no_chunk(after: Duration, option: &'static str) -> Failure {
    Failure::Overdue(Failure::NoChunk { after, option }.to_string())
}
