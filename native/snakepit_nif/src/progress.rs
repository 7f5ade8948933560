//! The progress of a stream whose owner receives the chunks as messages.

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

pub(crate) struct Progress {
    started: Instant,
    /// How many chunks the consumer has asked for, and has been sent.
    asked: AtomicUsize,
    chunks: AtomicUsize,
    first_chunk: OnceLock<Duration>,
    /// In ms since the start: when the last chunk was sent, or when the consumer began to ask for more.
    wanted: AtomicU64,
    observed: AtomicBool,
}

impl Progress {
    pub(crate) fn new(started: Instant, asked: usize) -> Arc<Self> {
        Arc::new(Self {
            started,
            asked: AtomicUsize::new(asked),
            chunks: AtomicUsize::new(0),
            first_chunk: OnceLock::new(),
            wanted: AtomicU64::new(0),
            observed: AtomicBool::new(false),
        })
    }

    pub(crate) fn ask(&self, chunks: usize) {
        if self.asked.load(Ordering::Acquire) <= self.chunks.load(Ordering::Acquire) {
            self.set_wanted();
        }
        self.asked.fetch_add(chunks, Ordering::AcqRel);
    }

    pub(crate) fn sent(&self, chunks: usize) {
        self.first_chunk.get_or_init(|| self.started.elapsed());
        self.set_wanted();
        self.chunks.fetch_add(chunks, Ordering::AcqRel);
    }

    fn set_wanted(&self) {
        let since = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.wanted.store(since, Ordering::Release);
    }

    pub(crate) fn has_begun(&self) -> bool {
        self.first_chunk.get().is_some()
    }

    /// How many chunks have been sent.
    pub(crate) fn chunks(&self) -> usize {
        self.chunks.load(Ordering::Acquire)
    }

    /// The time from the start of the stream to its first chunk.
    pub(crate) fn first_chunk(&self) -> Option<Duration> {
        self.first_chunk.get().copied()
    }

    /// Returns true once: its caller then sends the end of the stream to the observer.
    pub(crate) fn observe_end(&self) -> bool {
        !self.observed.swap(true, Ordering::AcqRel)
    }

    /// Since when the consumer has been waiting for a chunk.
    pub(crate) fn wanted_since(&self) -> Option<Instant> {
        let asked = self.asked.load(Ordering::Acquire);
        let since = Duration::from_millis(self.wanted.load(Ordering::Acquire));
        (asked > self.chunks.load(Ordering::Acquire)).then(|| self.started + since)
    }
}
