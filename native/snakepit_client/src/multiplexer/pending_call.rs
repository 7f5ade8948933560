//! The calls that a multiplexer sends, and how they end.

use snakepit_proto::{CallEvent, CallHeader, HandlerExit, ReplyFrame};
use std::time::Duration;

/// A call that was sent. It ends with exactly one of `replied`, `exited`, `lost` and `not_started`.
pub trait PendingCall: Send + 'static {
    /// The part of the call that is sent.
    fn header(&mut self) -> &mut CallHeader;
    /// What its command has reported, to be sent to those who take it.
    fn report(&self, _event: CallEvent) -> Option<Report> {
        None
    }

    /// Whether it gathers on the worker with others of its command, so that it does not wait behind those that run.
    fn is_batched(&self) -> bool {
        false
    }

    fn replied(self, reply: ReplyFrame);
    /// The caller no longer waits, of which the report informs it. `exited` follows.
    fn cancelled(&mut self, why: Cancelled) -> Report;
    /// The call was cancelled, and nothing more is awaited of its handler.
    fn exited(self, exit: Exit, after: Duration);
    /// `what` has ended. The worker may have run the call.
    fn lost(self, what: Lost, cause: &str);
    /// The call has not started: another worker may run it.
    fn not_started(self, reason: ReturnReason);
    /// The worker that has the call has stalled.
    fn stalled(&self);
}

/// Sends an event, or a reply, once the table of calls is unlocked.
pub type Report = Box<dyn FnOnce() + Send>;

/// How the handler of a cancelled call has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// The server says so.
    Reported(HandlerExit),
    /// It ran past the grace.
    PastGrace,
    /// With what it was sent on, or it runs on unseen.
    Lost(Lost),
}

/// Why a caller no longer waits. The handler of its call may still run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cancelled {
    TimedOut,
    /// The caller has exited or cancelled the call, and expects no reply.
    ByCaller,
}

/// Why a call is returned that has not started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReturnReason {
    /// The worker was asked to return it, and keeps serving.
    Recalled,
    Lost(Lost),
}

/// What has ended while calls were sent on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lost {
    /// The RPC alone: the worker may live, and other RPCs reach it or another one.
    Rpc,
    /// The connection, and the worker with it.
    Connection,
}
