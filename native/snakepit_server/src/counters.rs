//! Counts calls.

use std::sync::atomic::{AtomicI64, Ordering};

#[derive(Default)]
pub struct Counters {
    handled: AtomicI64,
    failed: AtomicI64,
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
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_counted_among_all() {
        let counters = Counters::default();
        for failed in [false, true, false] {
            counters.count(failed);
        }
        assert_eq!((counters.handled(), counters.failed()), (3, 1));
    }
}
