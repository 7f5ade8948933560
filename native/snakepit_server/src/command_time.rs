//! The mean time of a command.

use snakepit_wire::{moving_mean, nanos};
use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

/// While a command takes less, it pays to send replies together.
const SHORT: Duration = Duration::from_micros(20);
/// For a command that takes more, it pays to have another thread drive the network meanwhile.
const LONG: Duration = Duration::from_millis(2);

/// The moving mean time of a command, in nanoseconds. At first it is long.
pub struct CommandTime(AtomicU64);

impl Default for CommandTime {
    fn default() -> Self {
        Self(AtomicU64::new(u64::from(u32::MAX)))
    }
}

impl CommandTime {
    /// Adds the time of a call.
    #[inline]
    pub fn add(&self, time: Duration) {
        let mean = moving_mean(self.0.load(Ordering::Relaxed), nanos(time));
        // Of two calls that end at once, one may not count.
        self.0.store(mean, Ordering::Relaxed);
    }

    fn mean(&self) -> Duration {
        Duration::from_nanos(self.0.load(Ordering::Relaxed))
    }

    #[inline]
    pub fn is_short(&self) -> bool {
        self.mean() < SHORT
    }

    #[inline]
    pub fn is_long(&self) -> bool {
        self.mean() > LONG
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_short_once_many_calls_were_and_no_more_once_one_was_not() {
        let time = CommandTime::default();
        assert!(time.is_long() && !time.is_short());
        for _ in 0..200 {
            time.add(Duration::from_micros(5));
        }
        assert!(time.is_short() && !time.is_long());
        time.add(Duration::from_secs(1));
        assert!(time.is_long() && !time.is_short());
    }
}
