//! Feeding a connection: a thread that is not the driving task's reads the socket and hands out the replies.
//!
//! A thread of the runtime that has to be woken for each reply, and then wakes the caller's, costs two switches of
//! threads. A port of the BEAM is read by the scheduler that would otherwise sleep, and the caller runs right after
//! that: one call at a time on one CPU costs 2.2 to 2.5 times the CPU time of a port with JSON so, and 2.9 to 3.1 times
//! without (`guides/performance.md`).
//!
//! Only small replies are handed out so: what takes long, sends other messages or has to come after something that
//! was left to the task is left to the task. Nor is the socket read so while large replies arrive: a port reads 64 KiB at
//! a time, and copies them. The task reads it then, until a number of reads were small.
//!
//! The receiver is locked by who polls the connection. A feeder that finds it locked leaves what it has read to the
//! task and wakes that.

use std::sync::{
    OnceLock,
    atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering},
};

/// When so many bytes arrive at once, of large replies, the task reads.
pub(super) const MUCH: usize = 32 * 1024;
/// When so many bytes have come of a DATA frame that is not complete, the task reads.
const MUCH_OF_A_FRAME: usize = 128 * 1024;
/// Replies of this mean size are large. Smaller ones, as those of a batch of calls, are fed however many arrive at once.
const LARGE_MEAN: usize = 2 * 1024;
/// When so many calls may have their replies in what arrives at once, the task hands these out.
pub(super) const MANY: usize = 256;
/// How often the task reads less than `MUCH` before the connection is fed again.
pub(super) const LITTLE_READS: u32 = 16;

/// What has arrived.
#[derive(Clone, Copy, Default)]
pub(super) struct Arrived {
    /// In DATA frames that are complete.
    pub(super) bytes: usize,
    /// How many replies have ended.
    pub(super) replies: usize,
}

impl Arrived {
    fn is_large(self) -> bool {
        self.bytes >= LARGE_MEAN * self.replies
    }
}

/// When to feed a connection, and what starts it.
pub(super) struct Feeding<S> {
    start: OnceLock<S>,
    /// How often the task has read little since much has arrived.
    little_reads: AtomicU32,
    /// How many bytes were fed of a DATA frame that is not complete.
    of_a_frame: AtomicUsize,
    /// Whether what was fed may lack something.
    gone: AtomicBool,
}

impl<S> Default for Feeding<S> {
    fn default() -> Self {
        Self {
            start: OnceLock::new(),
            little_reads: AtomicU32::new(LITTLE_READS),
            of_a_frame: AtomicUsize::new(0),
            gone: AtomicBool::new(false),
        }
    }
}

impl<S> Feeding<S> {
    /// Returns whether there was none.
    pub(super) fn set_start(&self, start: S) -> bool {
        self.start.set(start).is_ok()
    }

    /// What is to start feeding, if it is time for that. The task has read what has arrived, which may end with a part of a
    /// message.
    pub(super) fn offer(&self, arrived: Arrived, is_cut_off: bool) -> Option<&S> {
        let start = self.start.get()?;
        if arrived.is_large() && (arrived.bytes >= MUCH || is_cut_off) {
            self.stop();
        } else if arrived.bytes > 0 {
            self.little_reads.fetch_add(1, Ordering::Relaxed);
        }
        let fed = !is_cut_off && self.little_reads.load(Ordering::Relaxed) >= LITTLE_READS;
        fed.then_some(start)
    }

    /// Whether the task is to read on, after so many bytes were fed at once, with which this has arrived.
    pub(super) fn is_much(&self, fed: usize, arrived: Arrived) -> bool {
        if arrived.bytes > 0 {
            self.of_a_frame.store(0, Ordering::Relaxed);
            fed >= MUCH && arrived.is_large()
        } else {
            self.of_a_frame.fetch_add(fed, Ordering::Relaxed) + fed >= MUCH_OF_A_FRAME
        }
    }

    pub(super) fn set_gone(&self) {
        self.gone.store(true, Ordering::Release);
    }

    pub(super) fn is_gone(&self) -> bool {
        self.gone.load(Ordering::Acquire)
    }

    /// Large replies arrive.
    pub(super) fn stop(&self) {
        self.little_reads.store(0, Ordering::Relaxed);
        self.of_a_frame.store(0, Ordering::Relaxed);
    }
}
