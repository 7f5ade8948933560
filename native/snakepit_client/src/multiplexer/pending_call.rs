//! What a multiplexer does with a call.

use snakepit_proto::{CallHeader, HandlerExit, ReplyFrame};
use std::time::Duration;

/// A call that was sent, and whoever waits for its reply. One of `replied`, `exited`, `lost` and
/// `not_started` takes it.
pub trait PendingCall: Send + 'static {
    /// What is sent of it.
    fn header(&mut self) -> &mut CallHeader;
    fn replied(self, reply: ReplyFrame);
    /// Its caller waits no longer. `exited` follows.
    fn cancelled(&mut self, why: Cancelled);
    /// The handler of a cancelled call has exited. `None`: it went on past the grace, or the worker is
    /// lost.
    fn exited(self, exit: Option<HandlerExit>, after: Duration);
    /// The worker died while it may have run the call.
    fn lost(self, cause: &str);
    /// Another worker may take the call.
    fn not_started(self, reason: ReturnReason);
    /// The worker that has the call stands still.
    fn stalled(&self);
}

/// Why a caller waits no longer, while the handler of its call may still run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cancelled {
    TimedOut,
    /// The caller is gone, or has cancelled the call: it expects no reply.
    ByCaller,
}

/// Why a call comes back that has not started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReturnReason {
    /// The worker has given it back, and goes on.
    Recalled,
    /// Nothing starts on this connection any more.
    ConnectionLost,
}
