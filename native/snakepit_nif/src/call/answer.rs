//! The replies to unary calls.

use super::{
    cause::PendingCause,
    meta::{Answered, Clock, failed_term},
};
use crate::{
    codec,
    reply::{Reply, off_scheduler},
    runtime,
};
use rustler::{Encoder, Env, types::atom};
use snakepit_client::{
    error::Failure,
    offload::{OFFLOAD_FROM, offload},
};
use snakepit_proto::Fields;
use std::time::Instant;

/// Decodes and sends the reply; one that takes long to decode on another thread. `env`: as in `Reply::send_from`.
pub(super) fn answer(
    reply: Reply,
    result: Result<Fields, Failure>,
    clock: Clock,
    answered: Answered,
    env: Option<Env<'_>>,
) {
    let size = result.as_ref().map_or(0, codec::bytes_to_read);
    let send = move |env: Option<Env<'_>>| {
        let now = Instant::now();
        let meta = clock.meta(&answered.request_id, now);
        let mut decoded = false;
        reply.send_from(env, |env| {
            match result.and_then(|fields| codec::decode_fields(env, &fields, None)) {
                Ok(map) => {
                    decoded = true;
                    (atom::ok(), map, &meta).encode(env)
                }
                Err(failure) => failed_term(env, &failure, &meta),
            }
        });
        if decoded {
            answered.count(&meta, now);
        }
    };
    match runtime::get() {
        Ok(runtime) if size >= OFFLOAD_FROM => {
            runtime.spawn(async move { offload(size, || send(None)).await });
        }
        _ => send(env),
    }
}

pub(super) fn fail(reply: Reply, clock: Clock, request_id: String, failure: Failure) {
    let now = Instant::now();
    off_scheduler(move || {
        let meta = clock.meta(&request_id, now);
        reply.send(|env| failed_term(env, &failure, &meta));
    });
}

/// Fails the call once the cause is known.
pub(super) fn fail_with_cause(
    reply: Reply,
    clock: Clock,
    request_id: String,
    failure: Failure,
    cause: Option<PendingCause>,
) {
    match (cause, runtime::get()) {
        (Some(cause), Ok(runtime)) => drop(runtime.spawn(async move {
            fail(reply, clock, request_id, cause.explain(failure).await);
        })),
        _ => fail(reply, clock, request_id, failure),
    }
}
