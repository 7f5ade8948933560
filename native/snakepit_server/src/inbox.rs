//! Values that one thread leaves for another.

use parking_lot::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

/// To look into an empty one takes no lock.
pub struct Inbox<T> {
    values: Mutex<Vec<T>>,
    has_values: AtomicBool,
}

impl<T> Default for Inbox<T> {
    fn default() -> Self {
        Self {
            values: Mutex::new(Vec::new()),
            has_values: AtomicBool::new(false),
        }
    }
}

impl<T> Inbox<T> {
    /// Returns whether it was empty: otherwise the other thread was woken already.
    pub fn push(&self, value: T) -> bool {
        let mut values = self.values.lock();
        values.push(value);
        !self.has_values.swap(true, Ordering::AcqRel)
    }

    #[inline]
    pub fn is_empty(&self) -> bool {
        !self.has_values.load(Ordering::Acquire)
    }

    pub fn take(&self) -> Vec<T> {
        if self.is_empty() {
            return Vec::new();
        }
        let mut values = self.values.lock();
        self.has_values.store(false, Ordering::Release);
        std::mem::take(&mut *values)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_taken_in_their_order_and_once() {
        let inbox = Inbox::default();
        assert!(inbox.is_empty() && inbox.take().is_empty());
        assert!(inbox.push(1));
        assert!(!inbox.push(2));
        assert!(!inbox.is_empty());
        assert_eq!(inbox.take(), [1, 2]);
        assert!(inbox.is_empty() && inbox.take().is_empty());
    }
}
