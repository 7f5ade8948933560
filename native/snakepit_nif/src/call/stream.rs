//! A stream: the same call with many replies, at the consumer's pace.

use super::{
    destination::Destination,
    exit::HandlerState,
    meta::{Clock, refused_meta, unplaced},
    request::{Call, sleep_until},
    route::Route,
};
use crate::{
    codec,
    events::{Events, Recipient},
    progress::Progress,
};
use futures_util::FutureExt;
use rustler::{Encoder, Env, Term};
use snakepit_client::{
    aside::decode_aside,
    channel::Channel,
    chunk_order::ChunkOrder,
    connection::MOST_ATTEMPTS,
    credit::Credit,
    failure::Failure,
    overdue::{OVERDUE_AFTER, Watch},
};
use snakepit_proto::{Fields, StreamResponse};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use tokio_util::sync::CancellationToken;
use tonic::Streaming;

/// Chunks that are ready together travel in one message, of at most about this many bytes.
const BATCH_BYTES: usize = 64 * 1024;

/// How long a consumer waits for chunks, within the deadline of the whole.
#[derive(Clone, Copy)]
pub(crate) struct StreamTimeouts {
    /// From the call's first moment on.
    pub(crate) first_chunk: Option<Duration>,
    /// From the moment on at which a further chunk is wanted.
    pub(crate) idle: Option<Duration>,
}

impl StreamTimeouts {
    async fn for_first<T>(
        &self,
        started: Instant,
        work: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        let late = self.first_chunk.map(|after| (after, started + after));
        expect(late, "first_chunk_timeout", work).await
    }

    async fn for_next<T>(
        &self,
        work: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        let late = self.idle.map(|after| (after, Instant::now() + after));
        expect(late, "idle_timeout", work).await
    }
}

async fn expect<T>(
    late: Option<(Duration, Instant)>,
    option: &'static str,
    work: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    tokio::select! {
        biased;
        done = work => done,
        () = sleep_until(late.map(|(_, at)| at)) => Err(Failure::NoChunk {
            after: late.map(|(after, _)| after).unwrap_or_default(),
            option,
        }),
    }
}

/// Ends a stream of messages that is overdue, while the runtime stands still.
pub(crate) struct Overdue {
    to: Recipient,
    progress: Arc<Progress>,
    timeouts: StreamTimeouts,
    started: Instant,
    timeout: Option<Duration>,
    request_id: String,
    cancelled: CancellationToken,
}

impl Overdue {
    pub(crate) fn new(
        call: &Call,
        to: Recipient,
        progress: Arc<Progress>,
        timeouts: StreamTimeouts,
    ) -> Self {
        Self {
            to,
            progress,
            timeouts,
            started: call.started,
            timeout: call.timeout,
            request_id: call.header.request_id().to_owned(),
            cancelled: call.cancelled.clone(),
        }
    }

    /// None for a stream that may take for ever.
    pub(crate) fn watch(self) -> Option<Watch> {
        let (at, _) = self.next(self.started)?;
        Some(Watch::new(at + OVERDUE_AFTER, move |now| self.look(now)))
    }

    fn look(&self, now: Instant) -> Option<Instant> {
        let (at, failure) = self.next(now)?;
        if at + OVERDUE_AFTER > now {
            return Some(at + OVERDUE_AFTER);
        }
        // What was cancelled tells its end by itself.
        if !self.cancelled.is_cancelled() {
            let meta = unplaced(&self.request_id, Duration::ZERO);
            self.to.end(Err(failure), &meta);
            self.cancelled.cancel();
        }
        None
    }

    /// Which of its times ends first, as it looks now.
    fn next(&self, now: Instant) -> Option<(Instant, Failure)> {
        let whole = self
            .timeout
            .map(|after| (self.started + after, Failure::overdue(after)));
        let chunk = match (self.progress.has_begun(), self.timeouts) {
            (
                false,
                StreamTimeouts {
                    first_chunk: Some(after),
                    ..
                },
            ) => Some((self.started + after, no_chunk(after, "first_chunk_timeout"))),
            (
                begun,
                StreamTimeouts {
                    idle: Some(after), ..
                },
            ) => {
                let since = self.progress.wanted_since().filter(|_| begun);
                Some((
                    since.unwrap_or(now) + after,
                    no_chunk(after, "idle_timeout"),
                ))
            }
            _ => None,
        };
        whole.into_iter().chain(chunk).min_by_key(|(at, _)| *at)
    }
}

fn no_chunk(after: Duration, option: &'static str) -> Failure {
    Failure::Overdue(Failure::NoChunk { after, option }.to_string())
}

enum Status {
    More,
    Done,
    Failed(Failure),
}

impl Status {
    /// Only a stream that the server ended, or an error chunk it sent, says that the handler has.
    fn handler(&self) -> HandlerState {
        match self {
            Self::Done => HandlerState::Exited,
            Self::Failed(failure) => HandlerState::after(failure),
            Self::More => HandlerState::MayRun,
        }
    }
}

/// Runs a stream and sends its events.
pub(crate) async fn run_stream(
    mut call: Call,
    route: Route,
    credit: Credit,
    timeouts: StreamTimeouts,
    events: Events,
) {
    let (destination, clock, opened) = match open(&mut call, route, &timeouts).await {
        Ok(opened) => opened,
        Err(failure) => return events.finish(Err(failure), &refused_meta(&call)),
    };
    let channel = destination.channel().clone();
    let (events, status) = match opened {
        Err(failure) => (Some(events), Status::Failed(failure)),
        Ok(stream) => {
            let consumer = Consumer {
                call: &call,
                channel: &channel,
                credit: &credit,
                timeouts: &timeouts,
            };
            consumer.pass_on(stream, events).await
        }
    };
    let handler = status.handler();
    let failed = match status {
        Status::Failed(failure) => Some((destination.pending_cause(&failure), failure)),
        Status::Done | Status::More => None,
    };
    let exit = destination.release(&call, handler);
    let result = match failed {
        Some((Some(cause), failure)) => Err(cause.explain(failure).await),
        Some((None, failure)) => Err(failure),
        None => Ok(()),
    };
    if let Some(events) = events {
        events.finish(result, &clock.meta());
    }
    if let Some(exit) = exit {
        exit.await;
    }
}

type Opened = Result<Streaming<StreamResponse>, Failure>;

/// Finds a destination and opens the stream there, or on another one while nothing of it has started. The
/// failure is that of a stream that had no destination.
async fn open(
    call: &mut Call,
    mut route: Route,
    timeouts: &StreamTimeouts,
) -> Result<(Destination, Clock, Opened), Failure> {
    let started = call.started;
    let mut attempt = 0;
    loop {
        let destination = timeouts.for_first(started, route.destination(call)).await?;
        let clock = Clock::new(call, destination.worker_id());
        let opening = call.within(call.open_stream(&destination));
        let opened = timeouts.for_first(started, opening).await;
        attempt += 1;
        match opened {
            Err(Failure::NotStarted { refused, .. }) if attempt < MOST_ATTEMPTS => {
                route = destination.redirect(call, false, !refused)?;
            }
            opened => return Ok((destination, clock, opened)),
        }
    }
}

struct Chunk {
    fields: Fields,
    is_final: bool,
}

impl From<StreamResponse> for Chunk {
    fn from(message: StreamResponse) -> Self {
        Self {
            fields: Fields::received(message.chunk, message.chunk_kinds),
            is_final: message.is_final,
        }
    }
}

type Message = Result<Option<StreamResponse>, tonic::Status>;

fn failed(chunk: &StreamResponse) -> bool {
    !chunk.error.is_empty() || chunk.error_detail.is_some()
}

struct Consumer<'a> {
    call: &'a Call,
    channel: &'a Channel,
    credit: &'a Credit,
    timeouts: &'a StreamTimeouts,
}

impl Consumer<'_> {
    /// The events are gone when decoding panicked: dropped, they have told the owner.
    async fn pass_on(
        &self,
        mut stream: Streaming<StreamResponse>,
        mut events: Events,
    ) -> (Option<Events>, Status) {
        let mut first = true;
        let mut order = ChunkOrder::default();
        loop {
            let (chunks, status) = self.next_batch(&mut stream, &mut order, first).await;
            first = false;
            if !chunks.is_empty() {
                match send(events, chunks).await {
                    Some((kept, Ok(()))) => events = kept,
                    Some((kept, Err(failure))) => return (Some(kept), Status::Failed(failure)),
                    None => return (None, Status::Failed(Failure::Dropped)),
                }
            }
            if !matches!(status, Status::More) {
                return (Some(events), status);
            }
        }
    }

    /// One chunk is read ahead, so that the end is told without being asked for.
    async fn next_message(
        &self,
        stream: &mut Streaming<StreamResponse>,
        first: bool,
    ) -> Result<Message, Failure> {
        if !self.credit.try_take() {
            tokio::select! {
                biased;
                () = self.credit.take() => {}
                message = stream.message() => {
                    if matches!(&message, Ok(Some(chunk)) if !failed(chunk)) {
                        self.credit.take().await;
                    }
                    return Ok(message);
                }
            }
        }
        let message = async { Ok(stream.message().await) };
        if first {
            self.timeouts.for_first(self.call.started, message).await
        } else {
            self.timeouts.for_next(message).await
        }
    }

    /// Waits for a chunk that the consumer wants, then takes those that are there as well.
    async fn next_batch(
        &self,
        stream: &mut Streaming<StreamResponse>,
        order: &mut ChunkOrder,
        first: bool,
    ) -> (Vec<Chunk>, Status) {
        let mut chunks = Vec::new();
        let mut size = 0;
        let awaited = self.call.within(self.next_message(stream, first));
        let mut next = match awaited.await {
            Ok(message) => message,
            Err(failure) => return (chunks, Status::Failed(failure)),
        };
        loop {
            match next {
                Ok(Some(chunk)) if !failed(&chunk) => {
                    if let Err(failure) = order.check(&chunk) {
                        return (chunks, Status::Failed(failure));
                    }
                    let chunk = Chunk::from(chunk);
                    let bytes = chunk.fields.size();
                    self.credit.sent(bytes);
                    size += bytes;
                    chunks.push(chunk);
                }
                Ok(Some(chunk)) => {
                    let failure = Failure::from_reply(chunk.error, chunk.error_detail);
                    return (chunks, Status::Failed(failure));
                }
                Ok(None) => return (chunks, Status::Done),
                Err(status) => {
                    let failure = self.call.ended(&status, self.channel, true);
                    return (chunks, Status::Failed(failure));
                }
            }
            if size >= BATCH_BYTES || !self.credit.try_take() {
                return (chunks, Status::More);
            }
            match stream.message().now_or_never() {
                Some(message) => next = message,
                None => {
                    self.credit.unused();
                    return (chunks, Status::More);
                }
            }
        }
    }
}

async fn send(events: Events, chunks: Vec<Chunk>) -> Option<(Events, Result<(), Failure>)> {
    let size = chunks.iter().map(|chunk| chunk.fields.size()).sum();
    let work = move || {
        let sent = events.chunks(chunks.len(), |env| decode_chunks(env, &chunks));
        (events, sent)
    };
    decode_aside(size, work).await
}

fn decode_chunks<'a>(env: Env<'a>, chunks: &[Chunk]) -> Result<Term<'a>, Failure> {
    chunks
        .iter()
        .map(|chunk| codec::decode_fields(env, &chunk.fields, Some(chunk.is_final)))
        .collect::<Result<Vec<_>, _>>()
        .map(|terms| terms.encode(env))
}
