//! How far a stream has come whose consumer takes messages on its own.

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

pub(crate) struct Progress {
    started: Instant,
    /// How many chunks the consumer has asked for, and was sent.
    asked: AtomicUsize,
    chunks: AtomicUsize,
    first_chunk: OnceLock<Duration>,
    /// In ms since the start: when the last chunk was sent, or one was asked for where none was wanted.
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

    /// How many chunks were sent.
    pub(crate) fn chunks(&self) -> usize {
        self.chunks.load(Ordering::Acquire)
    }

    /// How long after the start of the stream the first one was sent.
    pub(crate) fn first_chunk(&self) -> Option<Duration> {
        self.first_chunk.get().copied()
    }

    /// Whether the end of the stream has yet to be observed: once.
    pub(crate) fn observe_end(&self) -> bool {
        !self.observed.swap(true, Ordering::AcqRel)
    }

    /// Since when the consumer waits for a chunk.
    pub(crate) fn wanted_since(&self) -> Option<Instant> {
        let asked = self.asked.load(Ordering::Acquire);
        let since = Duration::from_millis(self.wanted.load(Ordering::Acquire));
        (asked > self.chunks.load(Ordering::Acquire)).then(|| self.started + since)
    }
}
