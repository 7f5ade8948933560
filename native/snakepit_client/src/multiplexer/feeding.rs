//! Feeding a connection: a thread that is not the driving task's reads the socket and hands out the replies.
//!
//! A thread of the runtime that has to be woken for each reply, and then wakes the caller's, costs two switches of
//! threads. A port of the BEAM is read by the scheduler that would otherwise sleep, and the caller runs right after
//! that: one call at a time on one CPU costs 2.2 to 2.5 times the CPU time of a port with JSON so, and 2.9 to 3.1 times
//! without (`guides/performance.md`).
//!
//! Only small replies are handed out so: what takes long, sends other messages or has to come after something that
//! was left to the task is left to the task. Nor is the socket read so while much arrives: a port reads 64 KiB at a
//! time, and copies them. The task reads it then, until a number of replies were small.
//!
//! The receiver is locked by who polls the connection. A feeder that finds it locked leaves what it has read to the
//! task and wakes that.

use std::sync::{
    OnceLock,
    atomic::{AtomicBool, AtomicU32, Ordering},
};

/// When so many bytes arrive at once, the task reads.
pub(super) const MUCH: usize = 32 * 1024;
/// How often the task reads less than that before the connection is fed again.
pub(super) const LITTLE_READS: u32 = 16;

/// When to feed a connection, and what starts it.
pub(super) struct Feeding<S> {
    start: OnceLock<S>,
    /// How often the task has read little since much has arrived.
    little_reads: AtomicU32,
    /// Whether what was fed may lack something.
    gone: AtomicBool,
}

impl<S> Default for Feeding<S> {
    fn default() -> Self {
        Self {
            start: OnceLock::new(),
            little_reads: AtomicU32::new(LITTLE_READS),
            gone: AtomicBool::new(false),
        }
    }
}

impl<S> Feeding<S> {
    /// Returns whether there was none.
    pub(super) fn set_start(&self, start: S) -> bool {
        self.start.set(start).is_ok()
    }

    /// What is to start feeding, if it is time for that. The task has read so many bytes, the last of which may be part of a
    /// message.
    pub(super) fn offer(&self, received: usize, is_cut_off: bool) -> Option<&S> {
        let start = self.start.get()?;
        if received >= MUCH || is_cut_off {
            self.stop();
        } else if received > 0 {
            self.little_reads.fetch_add(1, Ordering::Relaxed);
        }
        (self.little_reads.load(Ordering::Relaxed) >= LITTLE_READS).then_some(start)
    }

    pub(super) fn set_gone(&self) {
        self.gone.store(true, Ordering::Release);
    }

    pub(super) fn is_gone(&self) -> bool {
        self.gone.load(Ordering::Acquire)
    }

    /// Much arrives.
    pub(super) fn stop(&self) {
        self.little_reads.store(0, Ordering::Relaxed);
    }
}
