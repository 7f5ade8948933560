//! Keeps a call from sending messages after its last one or after its cancellation.

use parking_lot::Mutex;
use std::sync::Arc;

/// Closed by the last message of a call and by its cancellation. Once `cancel` has returned, the owner gets no message
/// of the call.
#[derive(Clone, Default)]
pub(crate) struct SendGuard(Arc<Mutex<bool>>);

impl SendGuard {
    pub(crate) fn close(&self) {
        *self.0.lock() = true;
    }

    /// Sends a message that is ready. A cancellation waits for it.
    pub(crate) fn pass(&self, send: impl FnOnce()) {
        let closed = self.0.lock();
        if !*closed {
            send();
        }
    }

    /// Sends the last message, unless another one was the last. Returns whether it was sent.
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
