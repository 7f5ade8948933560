//! Answers a call in the way of its RPC.

use crate::{
    calls_stream::CallsStream, conversation::Conversation, failure::Failure, outcome::Outcome,
    stream_responder::StreamResponder,
};
use parking_lot::Mutex;
use snakepit_proto::{CallEvent, HandlerExit};
use std::sync::Arc;
use tokio::sync::oneshot;

/// Answers one call. `J` is the start journal of its `CallsStream`.
pub struct Responder<J> {
    way: Way<J>,
    on_end: Option<EndHook>,
}

/// What is done when a call has its answer.
pub struct EndHook(Mutex<Option<Hook>>);

type Hook = Box<dyn FnOnce(&str) + Send>;

impl EndHook {
    /// `hook` receives the reason why the call has failed, or `ok`.
    pub fn new(hook: impl FnOnce(&str) + Send + 'static) -> Self {
        Self(Mutex::new(Some(Box::new(hook))))
    }

    fn run(&self, outcome: &Outcome) {
        let hook = self.0.lock().take();
        if let Some(hook) = hook {
            let failure = outcome.result.as_ref().err();
            hook(failure.map_or("ok", |failure| &failure.detail.reason));
        }
    }
}

enum Way<J> {
    /// By a frame of a `Calls` RPC.
    Frame {
        calls: Arc<CallsStream<J>>,
        call_id: u64,
    },
    Unary(Mutex<Option<UnaryAnswer>>),
    Stream(Arc<StreamResponder>),
    Converse(Arc<Conversation>),
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
        Self::new(Way::Frame { calls, call_id })
    }

    /// The receiver gets the outcome, and what the command has reported.
    pub fn unary() -> (Self, oneshot::Receiver<(Outcome, Vec<CallEvent>)>) {
        let (sender, receiver) = oneshot::channel();
        let answer = UnaryAnswer {
            sender,
            events: Vec::new(),
        };
        (Self::new(Way::Unary(Mutex::new(Some(answer)))), receiver)
    }

    pub fn stream(stream: Arc<StreamResponder>) -> Self {
        Self::new(Way::Stream(stream))
    }

    pub fn converse(conversation: Arc<Conversation>) -> Self {
        Self::new(Way::Converse(conversation))
    }

    fn new(way: Way<J>) -> Self {
        Self { way, on_end: None }
    }

    /// Runs `hook` when the call has its answer.
    #[must_use]
    pub fn on_end(self, hook: Option<EndHook>) -> Self {
        Self {
            on_end: hook,
            ..self
        }
    }

    /// Answers the call, or ends its stream. A frame is sent by the next `flush`.
    pub fn finish(&self, outcome: Outcome) {
        if let Some(hook) = &self.on_end {
            hook.run(&outcome);
        }
        match &self.way {
            Way::Frame { calls, call_id } => calls.reply(outcome.into_reply(*call_id)),
            Way::Unary(answer) => {
                if let Some(answer) = answer.lock().take() {
                    // The receiver may be gone.
                    let _ = answer.sender.send((outcome, answer.events));
                }
            }
            Way::Stream(stream) => stream.finish(outcome.result.err()),
            Way::Converse(conversation) => conversation.finish(outcome),
        }
    }

    /// Sends what the command reports while it runs. False if the event was dropped.
    pub fn report(&self, event: CallEvent) -> bool {
        match &self.way {
            Way::Frame { calls, call_id } => calls.report(*call_id, event),
            Way::Unary(answer) => match &mut *answer.lock() {
                Some(answer) if answer.events.len() < MAX_EVENTS => {
                    answer.events.push(event);
                    true
                }
                _ => false,
            },
            Way::Stream(stream) => stream.report(event),
            Way::Converse(conversation) => conversation.report(event),
        }
    }

    /// Answers a call whose handler does not run. The network's thread sends the answer, so that the
    /// calling thread never waits for the socket.
    pub fn refuse(&self, failure: Failure, exit: HandlerExit) {
        self.finish(Outcome::not_run(failure, exit));
        self.wake();
    }

    /// Has the network's thread send a finished reply.
    pub fn wake(&self) {
        match &self.way {
            Way::Frame { calls, .. } => calls.wake(),
            Way::Converse(conversation) => conversation.wake(),
            _ => {}
        }
    }

    /// Tells the client that the call has not started. Only the calls of a `Calls` RPC can be recalled.
    pub fn give_back(&self) {
        if let Way::Frame { calls, call_id } = &self.way {
            calls.give_back(*call_id);
        }
    }

    /// Whether finished replies wait for `flush`.
    #[inline]
    pub fn needs_flush(&self) -> bool {
        match &self.way {
            Way::Frame { calls, .. } => calls.has_unsent(),
            Way::Converse(conversation) => conversation.needs_flush(),
            _ => false,
        }
    }

    /// Sends finished replies on this thread, which may wait for the socket.
    pub fn flush(&self) {
        match &self.way {
            Way::Frame { calls, .. } => calls.flush(),
            Way::Converse(conversation) => conversation.flush(),
            _ => {}
        }
    }

    /// The client takes no further chunks.
    pub fn cancel(&self) {
        match &self.way {
            Way::Stream(stream) => stream.cancel(),
            Way::Converse(conversation) => conversation.cancel(),
            _ => {}
        }
    }

    #[inline]
    pub fn as_stream(&self) -> Option<&StreamResponder> {
        match &self.way {
            Way::Stream(stream) => Some(stream),
            Way::Converse(conversation) => conversation.chunks(),
            _ => None,
        }
    }

    /// The two-way part of the call, if it has one.
    #[inline]
    pub fn conversation(&self) -> Option<&Arc<Conversation>> {
        match &self.way {
            Way::Converse(conversation) => Some(conversation),
            _ => None,
        }
    }

    /// Whether the thread that drives the network sends the answer, and not the thread that has it.
    #[inline]
    pub fn waits_for_network(&self) -> bool {
        match &self.way {
            Way::Frame { .. } => false,
            Way::Converse(conversation) => conversation.chunks().is_some(),
            Way::Unary(_) | Way::Stream(_) => true,
        }
    }

    /// The `Calls` RPC of the call, if it has one.
    #[inline]
    pub fn calls(&self) -> Option<&Arc<CallsStream<J>>> {
        match &self.way {
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
    fn the_end_of_a_call_is_told_once_with_its_outcome() {
        let told = Arc::new(Mutex::new(Vec::new()));
        let tell = told.clone();
        let (responder, _outcome) = Responder::<()>::unary();
        let hook = EndHook::new(move |outcome| tell.lock().push(outcome.to_owned()));
        let responder = responder.on_end(Some(hook));
        responder.refuse(Failure::cancelled(), HandlerExit::Stopped);
        responder.finish(done());
        assert_eq!(*told.lock(), ["cancelled"]);
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
