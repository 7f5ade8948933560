//! Runs two-way calls: those whose commands ask their callers, or read what these send.

use super::{
    answer::answer,
    consumer::{Chunk, failed, send},
    destination::Destination,
    exit::HandlerState,
    meta::{Answered, BatchPart, refused_meta, refused_term},
    request::{Call, sleep_until},
    route::Route,
    stream::{OwnRpc, count, open},
    timeouts::StreamTimeouts,
};
use crate::{
    asks::Asker,
    conversation::{ConversationResource, wake},
    events::Events,
    reply::Reply,
};
use rustler::ResourceArc;
use snakepit_client::{chunk_order::ChunkOrder, conversation::Broken, error::Failure};
use snakepit_proto::{
    ConverseCall, ConverseDown, Fields, InputArgument, ReplyFrame, StreamResponse,
};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::time::timeout;
use tokio_util::sync::DropGuard;
use tonic::Streaming;

/// How long after the reply the server may take to end the RPC.
const ENDS_WITHIN: Duration = Duration::from_secs(1);

/// What the server is told of a two-way call besides the call.
pub(crate) struct Shape {
    pub(crate) stream: bool,
    pub(crate) tools: Vec<String>,
    pub(crate) max_asks: u32,
    pub(crate) inputs: Vec<InputArgument>,
}

/// To whom the results go.
pub(crate) enum Sink {
    Reply(Reply),
    Events(Events),
}

pub(crate) struct TwoWay {
    pub(crate) resource: ResourceArc<ConversationResource>,
    pub(crate) shape: Shape,
    pub(crate) asker: Option<Arc<Asker>>,
    pub(crate) timeouts: StreamTimeouts,
}

/// How a two-way call ended.
enum Ended {
    Reply(Box<ReplyFrame>),
    Stream,
    Failed(Failure),
}

impl From<Broken> for Ended {
    fn from(broken: Broken) -> Self {
        Self::Failed(broken.into())
    }
}

/// Runs the call, and sends its results to the caller.
pub(crate) async fn run_two_way(mut call: Box<Call>, route: Route, two_way: TwoWay, sink: Sink) {
    let opening = open(&mut call, route, &two_way.timeouts, &two_way);
    let (destination, mut clock, opened) = match opening.await {
        Ok(opened) => opened,
        Err(failure) => {
            two_way.end();
            return sink.refuse(&call, failure);
        }
    };
    let (mut events, reply) = match sink {
        Sink::Events(events) => (Some(events), None),
        Sink::Reply(reply) => (None, Some(reply)),
    };
    let (ended, rest) = match opened {
        Err(failure) => (Ended::Failed(failure), None),
        Ok((mut stream, reset)) => {
            let dialogue = Dialogue {
                call: &call,
                destination: &destination,
                two_way: &two_way,
            };
            let ended = dialogue.run(&mut stream, &mut events).await;
            (ended, Some((stream, reset)))
        }
    };
    // A call that was cancelled is reset, before its end could be taken for that of what its caller sends.
    let rest = rest.filter(|_| !matches!(ended, Ended::Failed(_)));
    two_way.end();
    let result = match ended {
        Ended::Reply(frame) => {
            clock.set_batch(BatchPart {
                size: frame.batch_size,
                wait_us: frame.batch_wait_us,
            });
            if frame.success {
                Ok(Some(Fields::received(frame.result, frame.result_kinds)))
            } else {
                Err(Failure::from_reply(frame.error, frame.error_detail))
            }
        }
        Ended::Stream => Ok(None),
        Ended::Failed(failure) => Err(destination.channel().explain(failure).await),
    };
    let handler = HandlerState::of(&result);
    let (result, exit) = destination.settle(&call, result, handler).await;
    match (events, reply) {
        (_, Some(reply)) => {
            let answered = Answered::of(&mut call);
            answer(
                reply,
                result.map(Option::unwrap_or_default),
                clock,
                answered,
                None,
            );
        }
        (Some(events), None) => {
            let meta = clock.meta(call.header.request_id(), Instant::now());
            let result = result.map(drop);
            count(&call, &result, Some(&meta));
            events.finish(result, &meta);
        }
        // Decoding panicked: dropping the events has sent the owner a failure.
        (None, None) => {}
    }
    if let Some((mut stream, _reset)) = rest {
        // Ignored: then the RPC is reset.
        let _ = timeout(ENDS_WITHIN, stream.message()).await;
    }
    if let Some(exit) = exit {
        exit.await;
    }
}

impl Sink {
    /// The call has got no destination.
    fn refuse(self, call: &Call, failure: Failure) {
        match self {
            Self::Reply(reply) => reply.send(|env| refused_term(env, &failure, call)),
            Self::Events(events) => {
                let failed = Err(failure);
                count(call, &failed, None);
                events.finish(failed, &refused_meta(call));
            }
        }
    }
}

impl OwnRpc for TwoWay {
    /// The RPC is reset when the guard is dropped.
    type Opened = (Streaming<ConverseDown>, DropGuard);

    async fn open(&self, call: &Call, destination: &Destination) -> Result<Self::Opened, Failure> {
        call.converse(destination, self).await
    }
}

impl TwoWay {
    /// What is to be sent first.
    pub(super) fn call(&self, call: &Call) -> ConverseCall {
        let frame = call.header.clone().frame(call.id, Instant::now()).clone();
        ConverseCall {
            call: Some(frame),
            stream: self.shape.stream,
            tools: self.shape.tools.clone(),
            max_asks: self.shape.max_asks,
            inputs: self.shape.inputs.clone(),
        }
    }

    /// Returns when a chunk that is wanted has not come in time.
    async fn no_chunk(&self, started: Instant, begun: bool) -> Failure {
        let StreamTimeouts { first_chunk, idle } = self.timeouts;
        let (after, option) = match (begun, first_chunk, idle) {
            (false, Some(after), _) => (after, "first_chunk_timeout"),
            (true, _, Some(after)) => (after, "idle_timeout"),
            _ => std::future::pending().await,
        };
        loop {
            let now = Instant::now();
            let since = if begun {
                self.resource.conversation.wanted_since()
            } else {
                Some(started)
            };
            let at = since.unwrap_or(now) + after;
            if at <= now {
                return Failure::NoChunk { after, option };
            }
            sleep_until(Some(at)).await;
        }
    }

    /// Nobody waits for the call any more.
    fn end(self) {
        self.resource.set_place(None);
        for (input_id, waiting) in self.resource.conversation.end() {
            wake(waiting, input_id);
        }
    }
}

type Message = Result<Option<ConverseDown>, tonic::Status>;

struct Dialogue<'a> {
    call: &'a Call,
    destination: &'a Destination,
    two_way: &'a TwoWay,
}

impl Dialogue<'_> {
    /// Reads what the server sends until the call has ended. Takes the events if decoding panicked.
    async fn run(
        &self,
        stream: &mut Streaming<ConverseDown>,
        events: &mut Option<Events>,
    ) -> Ended {
        let mut order = ChunkOrder::default();
        let mut begun = false;
        loop {
            let message = match self.next_message(stream, begun).await {
                Ok(Ok(Some(message))) => message,
                Ok(Ok(None)) if self.two_way.shape.stream => return Ended::Stream,
                Ok(Ok(None)) => {
                    let broken = "the server ended the call without a reply".into();
                    return Ended::Failed(Failure::BrokenStream(broken));
                }
                Ok(Err(status)) => {
                    let channel = self.destination.channel();
                    let stream = self.two_way.shape.stream;
                    return Ended::Failed(self.call.ended(&status, channel, stream));
                }
                Err(failure) => return Ended::Failed(failure),
            };
            begun = begun || !message.chunks.is_empty();
            if let Err(ended) = self.handle(message, &mut order, events).await {
                return ended;
            }
        }
    }

    async fn next_message(
        &self,
        stream: &mut Streaming<ConverseDown>,
        begun: bool,
    ) -> Result<Message, Failure> {
        let message = async { Ok(stream.message().await) };
        tokio::select! {
            biased;
            done = self.call.within(message) => done,
            failure = self.two_way.no_chunk(self.call.started, begun) => Err(failure),
        }
    }

    async fn handle(
        &self,
        message: ConverseDown,
        order: &mut ChunkOrder,
        events: &mut Option<Events>,
    ) -> Result<(), Ended> {
        for event in message.events {
            self.call.pass_on(self.destination, event);
        }
        let conversation = &self.two_way.resource.conversation;
        match &self.two_way.asker {
            Some(asker) => {
                if !message.withdrawn_asks.is_empty() {
                    let room = async {
                        conversation.room_for_withdrawals().await;
                        Ok(())
                    };
                    self.call.within(room).await.map_err(Ended::Failed)?;
                }
                let passed_on = asker.pass_on(message.asks, message.withdrawn_asks);
                passed_on.await.map_err(Ended::Failed)?;
            }
            None if message.asks.is_empty() => {}
            None => return Err(no_tools()),
        }
        for demand in message.input_demands {
            let input_id = demand.input_id;
            wake(
                conversation.demanded(input_id, demand.demand.unwrap_or_default())?,
                input_id,
            );
        }
        for input_id in message.stopped_inputs {
            wake(conversation.stopped(input_id)?, input_id);
        }
        if !message.chunks.is_empty() {
            self.pass_on(message.chunks, order, events).await?;
        }
        match message.reply {
            Some(reply) => Err(Ended::Reply(reply)),
            None => Ok(()),
        }
    }

    async fn pass_on(
        &self,
        mut chunks: Vec<StreamResponse>,
        order: &mut ChunkOrder,
        events: &mut Option<Events>,
    ) -> Result<(), Ended> {
        let failed = chunks.iter().position(failed);
        let failed = failed.and_then(|index| chunks.drain(index..).next());
        self.two_way
            .resource
            .conversation
            .received_chunks(&chunks)?;
        for chunk in &chunks {
            order.check(chunk).map_err(Ended::Failed)?;
        }
        if !chunks.is_empty()
            && let Some(to) = events.take()
        {
            let chunks = chunks.into_iter().map(Chunk::from).collect();
            match send(to, chunks).await {
                Some((kept, sent)) => {
                    *events = Some(kept);
                    sent.map_err(Ended::Failed)?;
                }
                None => return Err(Ended::Failed(Failure::Dropped)),
            }
        }
        match failed {
            Some(chunk) => {
                let failure = Failure::from_reply(chunk.error, chunk.error_detail);
                Err(Ended::Failed(failure))
            }
            None => Ok(()),
        }
    }
}

fn no_tools() -> Ended {
    let broken = "the server asked a call that has no tools".into();
    Ended::Failed(Failure::BrokenStream(broken))
}
