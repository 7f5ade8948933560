//! The timeouts of a stream's chunks.

use super::request::sleep_until;
use snakepit_client::error::Failure;
use std::time::{Duration, Instant};

/// They apply in addition to the deadline of the whole call.
#[derive(Clone, Copy)]
pub(crate) struct StreamTimeouts {
    /// Since the start of the call.
    pub(crate) first_chunk: Option<Duration>,
    /// Since a further chunk is in demand.
    pub(crate) idle: Option<Duration>,
}

impl StreamTimeouts {
    pub(super) async fn for_first<T>(
        &self,
        started: Instant,
        work: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        let late = self.first_chunk.map(|after| (after, started + after));
        expect(late, "first_chunk_timeout", work).await
    }

    pub(super) async fn for_next<T>(
        &self,
        work: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        let late = self.idle.map(|after| (after, Instant::now() + after));
        expect(late, "idle_timeout", work).await
    }
}

async fn expect<T>(
    late: Option<(Duration, Instant)>,
    option: &'static str,
    work: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    tokio::select! {
        biased;
        done = work => done,
        () = sleep_until(late.map(|(_, at)| at)) => Err(Failure::NoChunk {
            after: late.map(|(after, _)| after).unwrap_or_default(),
            option,
        }),
    }
}
