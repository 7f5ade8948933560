//! Answers a call in the way of its RPC.

use crate::{
    calls_stream::CallsStream, failure::Failure, outcome::Outcome,
    stream_responder::StreamResponder,
};
use parking_lot::Mutex;
use snakepit_proto::{CallEvent, HandlerExit};
use std::sync::Arc;
use tokio::sync::oneshot;

/// Answers one call. `J` is the start journal of its `CallsStream`.
pub struct Responder<J>(Way<J>);

enum Way<J> {
    /// By a frame of a `Calls` RPC.
    Frame {
        calls: Arc<CallsStream<J>>,
        call_id: u64,
    },
    Unary(Mutex<Option<UnaryAnswer>>),
    Stream(Arc<StreamResponder>),
}

/// The answer to a call that has an RPC of its own, before it is sent.
struct UnaryAnswer {
    sender: oneshot::Sender<(Outcome, Vec<CallEvent>)>,
    events: Vec<CallEvent>,
}

/// How many events an answer has at most.
const MAX_EVENTS: usize = 1000;

impl<J> Responder<J> {
    #[inline]
    pub fn frame(calls: Arc<CallsStream<J>>, call_id: u64) -> Self {
        Self(Way::Frame { calls, call_id })
    }

    /// The receiver gets the outcome, and what the command has reported.
    pub fn unary() -> (Self, oneshot::Receiver<(Outcome, Vec<CallEvent>)>) {
        let (sender, receiver) = oneshot::channel();
        let answer = UnaryAnswer {
            sender,
            events: Vec::new(),
        };
        (Self(Way::Unary(Mutex::new(Some(answer)))), receiver)
    }

    pub fn stream(stream: Arc<StreamResponder>) -> Self {
        Self(Way::Stream(stream))
    }

    /// Answers the call, or ends its stream. A frame is sent by the next `flush`.
    pub fn finish(&self, outcome: Outcome) {
        match &self.0 {
            Way::Frame { calls, call_id } => calls.reply(outcome.into_reply(*call_id)),
            Way::Unary(answer) => {
                if let Some(answer) = answer.lock().take() {
                    // The receiver may be gone.
                    let _ = answer.sender.send((outcome, answer.events));
                }
            }
            Way::Stream(stream) => stream.finish(outcome.result.err()),
        }
    }

    /// Sends what the command reports while it runs. False if the event was dropped.
    pub fn report(&self, event: CallEvent) -> bool {
        match &self.0 {
            Way::Frame { calls, call_id } => calls.report(*call_id, event),
            Way::Unary(answer) => match &mut *answer.lock() {
                Some(answer) if answer.events.len() < MAX_EVENTS => {
                    answer.events.push(event);
                    true
                }
                _ => false,
            },
            Way::Stream(stream) => stream.report(event),
        }
    }

    /// Answers a call whose handler does not run. The network's thread sends the answer, so that the
    /// calling thread never waits for the socket.
    pub fn refuse(&self, failure: Failure, exit: HandlerExit) {
        self.finish(Outcome::not_run(failure, exit));
        if let Way::Frame { calls, .. } = &self.0 {
            calls.wake();
        }
    }

    /// Tells the client that the call has not started. Only the calls of a `Calls` RPC can be recalled.
    pub fn give_back(&self) {
        if let Way::Frame { calls, call_id } = &self.0 {
            calls.give_back(*call_id);
        }
    }

    /// Whether finished replies wait for `flush`.
    #[inline]
    pub fn needs_flush(&self) -> bool {
        matches!(&self.0, Way::Frame { calls, .. } if calls.has_unsent())
    }

    /// Sends finished replies on this thread, which may wait for the socket.
    pub fn flush(&self) {
        if let Way::Frame { calls, .. } = &self.0 {
            calls.flush();
        }
    }

    /// The client takes no further chunks.
    pub fn cancel(&self) {
        if let Way::Stream(stream) = &self.0 {
            stream.cancel();
        }
    }

    #[inline]
    pub fn as_stream(&self) -> Option<&StreamResponder> {
        match &self.0 {
            Way::Stream(stream) => Some(stream),
            _ => None,
        }
    }

    /// The `Calls` RPC of the call, if it has one.
    #[inline]
    pub fn calls(&self) -> Option<&Arc<CallsStream<J>>> {
        match &self.0 {
            Way::Frame { calls, .. } => Some(calls),
            _ => None,
        }
    }

    #[inline]
    pub fn is_on(&self, stream: &CallsStream<J>) -> bool {
        self.calls()
            .is_some_and(|calls| std::ptr::eq(&raw const **calls, stream))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use snakepit_proto::Fields;
    use std::{
        task::{Context, Poll, Waker},
        time::Duration,
    };

    fn done() -> Outcome {
        Outcome {
            result: Ok(Fields::default()),
            took: Duration::ZERO,
            exit: HandlerExit::Unknown,
            batch: crate::outcome::BatchPart::default(),
        }
    }

    #[tokio::test]
    async fn a_unary_call_has_one_outcome() {
        let (responder, outcome) = Responder::<()>::unary();
        responder.finish(done());
        responder.refuse(Failure::cancelled(), HandlerExit::Stopped);
        assert!(outcome.await.unwrap().0.result.is_ok());
        assert!(!responder.needs_flush());
    }

    #[tokio::test]
    async fn a_unary_call_has_what_its_command_reported_and_nothing_after_its_end() {
        let (responder, outcome) = Responder::<()>::unary();
        for _ in 0..MAX_EVENTS {
            assert!(responder.report(CallEvent::progress(0.5, "half".into())));
        }
        assert!(!responder.report(CallEvent::default()));
        responder.finish(done());
        assert!(!responder.report(CallEvent::default()));
        let events = outcome.await.unwrap().1;
        assert_eq!(events.len(), MAX_EVENTS);
        assert_eq!(events[0], CallEvent::progress(0.5, "half".into()));
    }

    #[test]
    fn the_client_may_be_gone() {
        let (responder, outcome) = Responder::<()>::unary();
        drop(outcome);
        responder.finish(done());
    }

    #[test]
    fn a_stream_ends_with_its_outcome() {
        let mut cx = Context::from_waker(Waker::noop());
        let stream = Arc::new(StreamResponder::new("r", 1000));
        let responder = Responder::<()>::stream(stream.clone());
        assert!(responder.as_stream().is_some());
        let mut take = || stream.buffer().poll_take(&mut cx, |_| Poll::Pending);
        assert!(take().is_pending());
        responder.finish(done());
        assert_eq!(take(), Poll::Ready(None));
    }
}
