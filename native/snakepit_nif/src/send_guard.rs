//! What comes between a call's last message and its cancel.

use parking_lot::Mutex;
use std::sync::Arc;

/// Closed by the last message of a call, and by a cancel: once that has returned, nothing of the call
/// reaches its owner.
#[derive(Clone, Default)]
pub(crate) struct SendGuard(Arc<Mutex<bool>>);

impl SendGuard {
    pub(crate) fn close(&self) {
        *self.0.lock() = true;
    }

    /// Sends what is ready to be sent: a cancel waits for it.
    pub(crate) fn pass(&self, send: impl FnOnce()) {
        let closed = self.0.lock();
        if !*closed {
            send();
        }
    }

    /// Sends what is the last, whoever sends it first. Whether it was sent.
    pub(crate) fn pass_last(&self, send: impl FnOnce()) -> bool {
        let mut closed = self.0.lock();
        if *closed {
            return false;
        }
        *closed = true;
        send();
        true
    }
}
