//! Counts calls, and keeps the mean time of a command.

use snakepit_wire::moving_mean;
use std::{
    sync::atomic::{AtomicI64, AtomicU64, Ordering},
    time::Duration,
};

/// While commands take less, it pays to send replies together.
const SHORT: Duration = Duration::from_micros(20);

pub struct Counters {
    handled: AtomicI64,
    failed: AtomicI64,
    /// The moving mean time of a command, in nanoseconds.
    mean: AtomicU64,
}

impl Default for Counters {
    fn default() -> Self {
        Self {
            handled: AtomicI64::new(0),
            failed: AtomicI64::new(0),
            mean: AtomicU64::new(u64::from(u32::MAX)),
        }
    }
}

impl Counters {
    #[inline]
    pub fn count(&self, failed: bool) {
        self.handled.fetch_add(1, Ordering::Relaxed);
        self.failed.fetch_add(i64::from(failed), Ordering::Relaxed);
    }

    pub fn handled(&self) -> i64 {
        self.handled.load(Ordering::Relaxed)
    }

    pub fn failed(&self) -> i64 {
        self.failed.load(Ordering::Relaxed)
    }

    /// Adds the time of a command to the mean.
    #[inline]
    pub fn took(&self, time: Duration) {
        let time = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        let _ = self
            .mean
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |mean| {
                Some(moving_mean(mean, time))
            });
    }

    #[inline]
    pub fn commands_are_short(&self) -> bool {
        u128::from(self.mean.load(Ordering::Relaxed)) < SHORT.as_nanos()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_short_once_many_were_and_no_more_once_one_was_not() {
        let counters = Counters::default();
        assert!(!counters.commands_are_short());
        for _ in 0..200 {
            counters.took(Duration::from_micros(5));
        }
        assert!(counters.commands_are_short());
        counters.took(Duration::from_secs(1));
        assert!(!counters.commands_are_short());
    }

    #[test]
    fn failures_are_counted_among_all() {
        let counters = Counters::default();
        for failed in [false, true, false] {
            counters.count(failed);
        }
        assert_eq!((counters.handled(), counters.failed()), (3, 1));
    }
}
