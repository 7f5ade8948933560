//! A stream: the same call with many replies, at the consumer's pace.

use super::{Call, Clock, Ended, Route, decode_aside, failed_term, fields_size, refused_term};
use crate::{atoms, channel::Channel, codec, failure::Failure, reply::Reply};
use futures_util::FutureExt;
use rustler::{Encoder, Env, Term, types::atom};
use snakepit_proto::StreamResponse;
use std::sync::Arc;
use tokio::sync::Semaphore;
use tonic::Streaming;

/// Chunks that are ready together travel in one message, of at most about this many bytes.
const BATCH_BYTES: usize = 64 * 1024;

/// How many chunks the consumer has asked for and not been sent yet.
#[derive(Clone)]
pub(crate) struct Credit(Arc<Semaphore>);

impl Credit {
    pub(crate) fn new(chunks: usize) -> Self {
        Self(Arc::new(Semaphore::new(chunks.min(Semaphore::MAX_PERMITS))))
    }

    pub(crate) fn add(&self, chunks: usize) {
        let room = Semaphore::MAX_PERMITS - self.0.available_permits();
        self.0.add_permits(chunks.min(room));
    }

    async fn take(&self) {
        if let Ok(permit) = self.0.acquire().await {
            permit.forget();
        }
    }

    fn try_take(&self) -> bool {
        self.0.try_acquire().map(|permit| permit.forget()).is_ok()
    }
}

enum Status {
    More,
    Done,
    Failed(Failure),
}

impl Status {
    /// Only a stream that the server ended, or an error chunk it sent, says that the handler has.
    fn ended(&self) -> Ended {
        match self {
            Self::Done => Ended::Answered,
            Self::Failed(failure) => Ended::by(failure),
            Self::More => Ended::Unknown,
        }
    }

    fn encode<'a>(&self, env: Env<'a>, clock: &Clock) -> Term<'a> {
        match self {
            Self::More => atoms::more().encode(env),
            Self::Done => (atom::ok(), clock.meta()).encode(env),
            Self::Failed(failure) => failed_term(env, failure, &clock.meta()),
        }
    }
}

/// Runs a stream; its messages are `{ref, chunks, status}`, the status `:more` until the last one
/// says `{:ok, meta}` or `{:error, failure, meta}`.
pub(crate) async fn run_stream(call: Call, route: Route, credit: Credit, reply: Reply) {
    let place = match route.place(&call).await {
        Ok(place) => place,
        Err(failure) => {
            return reply.send_last(|env| {
                (
                    Term::list_new_empty(env),
                    refused_term(env, &failure, &call),
                )
            });
        }
    };
    let clock = Clock::new(&call, &place);
    let channel = place.channel().clone();
    let opened = call.within(call.open_stream(&channel)).await;
    let (chunks, status) = match opened {
        Err(failure) => (Vec::new(), Status::Failed(failure)),
        Ok(mut stream) => loop {
            let (batch, status) = next_batch(&call, &channel, &credit, &mut stream).await;
            if !matches!(status, Status::More) {
                break (batch, status);
            }
            let size = batch.iter().map(|chunk| fields_size(&chunk.chunk)).sum();
            let part = reply.part();
            let sent = decode_aside(size, move || {
                part.send(|env| {
                    let chunks = decode_chunks(env, &batch)?;
                    Ok((chunks, atoms::more().encode(env)))
                })
            });
            if let Some(Err(failure)) = sent.await {
                break (Vec::new(), Status::Failed(failure));
            }
        },
    };
    let rest = place.give_back(call.id, status.ended());
    let size = chunks.iter().map(|chunk| fields_size(&chunk.chunk)).sum();
    decode_aside(size, move || {
        reply.send_last(|env| match decode_chunks(env, &chunks) {
            Ok(chunks) => (chunks, status.encode(env, &clock)),
            Err(failure) => (
                Term::list_new_empty(env),
                failed_term(env, &failure, &clock.meta()),
            ),
        });
    })
    .await;
    if let Some(rest) = rest {
        rest.await;
    }
}

/// Waits for a chunk that the consumer wants, then takes those that are there as well.
async fn next_batch(
    call: &Call,
    channel: &Channel,
    credit: &Credit,
    stream: &mut Streaming<StreamResponse>,
) -> (Vec<StreamResponse>, Status) {
    let mut chunks = Vec::new();
    let mut size = 0;
    let first = call.within(async {
        credit.take().await;
        Ok(stream.message().await)
    });
    let mut next = match first.await {
        Ok(message) => message,
        Err(failure) => return (chunks, Status::Failed(failure)),
    };
    loop {
        match next {
            Ok(Some(chunk)) if chunk.error.is_empty() && chunk.error_detail.is_none() => {
                size += fields_size(&chunk.chunk);
                chunks.push(chunk);
            }
            Ok(Some(chunk)) => {
                let failure = Failure::from_reply(chunk.error, chunk.error_detail);
                return (chunks, Status::Failed(failure));
            }
            Ok(None) => return (chunks, Status::Done),
            Err(status) => {
                let failure = call.failed(&status, channel, true);
                return (chunks, Status::Failed(failure));
            }
        }
        if size >= BATCH_BYTES || !credit.try_take() {
            return (chunks, Status::More);
        }
        match stream.message().now_or_never() {
            Some(message) => next = message,
            None => {
                credit.add(1);
                return (chunks, Status::More);
            }
        }
    }
}

fn decode_chunks<'a>(env: Env<'a>, chunks: &[StreamResponse]) -> Result<Term<'a>, Failure> {
    chunks
        .iter()
        .map(|chunk| codec::decode_fields(env, &chunk.chunk, Some(chunk.is_final)))
        .collect::<Result<Vec<_>, _>>()
        .map(|terms| terms.encode(env))
}
