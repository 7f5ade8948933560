//! Passes chunks from the server to the consumer, at the consumer's pace.

use super::{destination::Destination, request::Call, timeouts::StreamTimeouts};
use crate::{codec, events::Events};
use futures_util::FutureExt;
use rustler::{Encoder, Env, Term};
use snakepit_client::{
    channel::Channel, chunk_order::ChunkOrder, credit::Credit, error::Failure, offload::offload,
};
use snakepit_proto::{Fields, StreamResponse};
use tonic::Streaming;

/// Chunks that are ready together are sent in one message of about this many bytes at most.
const BATCH_BYTES: usize = 64 * 1024;

/// Whether a stream continues.
enum Status {
    More,
    Done,
    Failed(Failure),
}

pub(super) struct Chunk {
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

pub(super) fn failed(chunk: &StreamResponse) -> bool {
    !chunk.error.is_empty() || chunk.error_detail.is_some()
}

pub(super) struct Consumer<'a> {
    pub(super) call: &'a Call,
    pub(super) destination: &'a Destination,
    pub(super) channel: &'a Channel,
    pub(super) credit: &'a Credit,
    pub(super) timeouts: &'a StreamTimeouts,
}

impl Consumer<'_> {
    /// Returns no events if decoding panicked: dropping them has sent the owner a failure.
    pub(super) async fn pass_on(
        &self,
        mut stream: Streaming<StreamResponse>,
        mut events: Events,
    ) -> (Option<Events>, Result<(), Failure>) {
        let mut first = true;
        let mut order = ChunkOrder::default();
        loop {
            let (chunks, status) = self.next_batch(&mut stream, &mut order, first).await;
            first = false;
            if !chunks.is_empty() {
                match send(events, chunks).await {
                    Some((kept, Ok(()))) => events = kept,
                    Some((kept, Err(failure))) => return (Some(kept), Err(failure)),
                    None => return (None, Err(Failure::Dropped)),
                }
            }
            match status {
                Status::More => {}
                Status::Done => return (Some(events), Ok(())),
                Status::Failed(failure) => return (Some(events), Err(failure)),
            }
        }
    }

    /// Reads one chunk ahead of the demand, so that the end arrives without demand.
    async fn next_message(
        &self,
        stream: &mut Streaming<StreamResponse>,
        first: bool,
    ) -> Result<Message, Failure> {
        if !self.credit.try_take() {
            tokio::select! {
                biased;
                () = self.credit.take() => {}
                message = self.message(stream) => {
                    if matches!(&message, Ok(Some(chunk)) if !failed(chunk)) {
                        self.credit.take().await;
                    }
                    return Ok(message);
                }
            }
        }
        let message = async { Ok(self.message(stream).await) };
        if first {
            self.timeouts.for_first(self.call.started, message).await
        } else {
            self.timeouts.for_next(message).await
        }
    }

    /// The next chunk; passes on what the command reports before it.
    async fn message(&self, stream: &mut Streaming<StreamResponse>) -> Message {
        loop {
            match stream.message().await {
                Ok(Some(StreamResponse {
                    event: Some(event), ..
                })) => self.call.pass_on(self.destination, *event),
                message => return message,
            }
        }
    }

    /// Waits for a chunk that is in demand, then takes further ones that have already arrived.
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
            match self.message(stream).now_or_never() {
                Some(message) => next = message,
                None => {
                    self.credit.unused();
                    return (chunks, Status::More);
                }
            }
        }
    }
}

/// Sends chunks in one message. Returns nothing if decoding panicked.
pub(super) async fn send(
    events: Events,
    chunks: Vec<Chunk>,
) -> Option<(Events, Result<(), Failure>)> {
    let size = chunks.iter().map(|chunk| chunk.fields.size()).sum();
    let work = move || {
        let sent = events.chunks(chunks.len(), |env| decode_chunks(env, &chunks));
        (events, sent)
    };
    offload(size, work).await
}

fn decode_chunks<'a>(env: Env<'a>, chunks: &[Chunk]) -> Result<Term<'a>, Failure> {
    chunks
        .iter()
        .map(|chunk| codec::decode_fields(env, &chunk.fields, Some(chunk.is_final)))
        .collect::<Result<Vec<_>, _>>()
        .map(|terms| terms.encode(env))
}
