//! How far a stream may run ahead of its consumer.

use parking_lot::{Mutex, MutexGuard};
use std::{collections::VecDeque, sync::Arc};
use tokio::sync::Notify;

/// If the consumer gives credit back for each chunk, no chunk is read while this many bytes are on their way to
/// it.
pub const BYTES_AHEAD: usize = 1024 * 1024;

/// The chunks that the consumer has asked for and not been sent yet.
#[derive(Clone)]
pub struct Credit(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    changed: Notify,
    max_bytes: usize,
}

struct State {
    chunks: usize,
    /// The sizes of the chunks for which no credit has come back, the oldest first.
    sent: VecDeque<usize>,
    bytes: usize,
}

impl Credit {
    /// `bounded`: whether the consumer gives credit back for each chunk that it has handled. Then bytes are limited
    /// as well as chunks.
    pub fn new(chunks: usize, bounded: bool) -> Self {
        Self(Arc::new(Shared {
            state: Mutex::new(State {
                chunks,
                sent: VecDeque::new(),
                bytes: 0,
            }),
            changed: Notify::new(),
            max_bytes: if bounded { BYTES_AHEAD } else { usize::MAX },
        }))
    }

    pub fn add(&self, chunks: usize) {
        {
            let mut state = self.lock();
            state.chunks = state.chunks.saturating_add(chunks);
            let done = chunks.min(state.sent.len());
            let bytes: usize = state.sent.drain(..done).sum();
            state.bytes -= bytes;
        }
        self.0.changed.notify_one();
    }

    /// Waits until another chunk is wanted. Has to be followed by `sent` or `unused`.
    pub async fn take(&self) {
        while !self.try_take() {
            self.0.changed.notified().await;
        }
    }

    #[inline]
    pub fn try_take(&self) -> bool {
        let mut state = self.lock();
        let wanted = state.chunks > 0 && state.bytes < self.0.max_bytes;
        if wanted {
            state.chunks -= 1;
        }
        wanted
    }

    #[inline]
    pub fn sent(&self, size: usize) {
        if self.0.max_bytes < usize::MAX {
            let mut state = self.lock();
            state.sent.push_back(size);
            state.bytes += size;
        }
    }

    #[inline]
    pub fn unused(&self) {
        let mut state = self.lock();
        state.chunks = state.chunks.saturating_add(1);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_are_taken_while_there_is_credit() {
        let credit = Credit::new(2, true);
        assert!(credit.try_take() && credit.try_take());
        assert!(!credit.try_take());
        credit.add(1);
        assert!(credit.try_take());
        credit.unused();
        assert!(credit.try_take());
    }

    #[test]
    fn bytes_that_were_not_given_back_stop_a_bounded_stream() {
        let credit = Credit::new(256, true);
        for size in [BYTES_AHEAD - 1, 1] {
            assert!(credit.try_take());
            credit.sent(size);
        }
        assert!(!credit.try_take());
        credit.add(1);
        assert!(credit.try_take());
    }

    #[test]
    fn a_chunk_larger_than_the_limit_is_sent_alone() {
        let credit = Credit::new(256, true);
        assert!(credit.try_take());
        credit.sent(10 * BYTES_AHEAD);
        assert!(!credit.try_take());
        credit.add(1);
        assert!(credit.try_take());
    }

    #[test]
    fn an_unbounded_stream_counts_only_chunks() {
        let credit = Credit::new(2, false);
        assert!(credit.try_take());
        credit.sent(10 * BYTES_AHEAD);
        assert!(credit.try_take());
        credit.add(usize::MAX);
        credit.add(1);
        assert!(credit.try_take());
        credit.add(usize::MAX);
        credit.unused();
        assert!(credit.try_take());
    }

    #[tokio::test]
    async fn a_waiting_stream_continues_when_credit_arrives() {
        let credit = Credit::new(0, true);
        let waiting = credit.clone();
        let task = tokio::spawn(async move { waiting.take().await });
        tokio::task::yield_now().await;
        credit.add(1);
        assert!(task.await.is_ok());
        assert!(!credit.try_take());
    }
}
