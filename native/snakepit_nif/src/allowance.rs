//! Bounds how many messages a worker makes this side send to a process.

use parking_lot::Mutex;
use std::time::{Duration, Instant};

/// Allows so many messages a second, and as many at once.
pub(crate) struct Allowance {
    per_second: u32,
    /// When all of them are allowed again.
    full_at: Mutex<Option<Instant>>,
}

impl Allowance {
    pub(crate) fn new(per_second: u32) -> Self {
        Self {
            per_second,
            full_at: Mutex::new(None),
        }
    }

    /// Whether one more message is allowed.
    pub(crate) fn take(&self) -> bool {
        let now = Instant::now();
        let mut full_at = self.full_at.lock();
        let next = full_at.map_or(now, |at| at.max(now)) + Duration::from_secs(1) / self.per_second;
        let allowed = next <= now + Duration::from_secs(1);
        if allowed {
            *full_at = Some(next);
        }
        allowed
    }
}
