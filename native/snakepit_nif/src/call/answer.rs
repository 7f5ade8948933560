//! The replies to unary calls.

use super::{
    cause::PendingCause,
    meta::{Clock, Succeeded, failed_term},
};
use crate::{
    codec,
    reply::{Reply, off_scheduler},
    runtime,
};
use rustler::{Encoder, types::atom};
use snakepit_client::{
    error::Failure,
    offload::{OFFLOAD_FROM, offload},
};
use snakepit_proto::Fields;

/// Decodes and sends the reply; one that takes long to decode on another thread.
pub(super) fn answer(
    reply: Reply,
    result: Result<Fields, Failure>,
    clock: Clock,
    succeeded: Option<Succeeded>,
) {
    let size = result.as_ref().map_or(0, codec::bytes_to_read);
    let send = move || {
        let meta = clock.meta();
        let mut decoded = false;
        reply.send(|env| {
            match result.and_then(|fields| codec::decode_fields(env, &fields, None)) {
                Ok(map) => {
                    decoded = true;
                    (atom::ok(), map, &meta).encode(env)
                }
                Err(failure) => failed_term(env, &failure, &meta),
            }
        });
        if let Some(succeeded) = succeeded.filter(|_| decoded) {
            succeeded.count(&meta);
        }
    };
    match runtime::get() {
        Ok(runtime) if size >= OFFLOAD_FROM => {
            runtime.spawn(async move { offload(size, send).await });
        }
        _ => send(),
    }
}

pub(super) fn fail(reply: Reply, clock: &Clock, failure: Failure) {
    let meta = clock.meta();
    off_scheduler(move || reply.send(|env| failed_term(env, &failure, &meta)));
}

/// Fails the call once the cause is known.
pub(super) fn fail_with_cause(
    reply: Reply,
    clock: Clock,
    failure: Failure,
    cause: Option<PendingCause>,
) {
    match (cause, runtime::get()) {
        (Some(cause), Ok(runtime)) => drop(runtime.spawn(async move {
            fail(reply, &clock, cause.explain(failure).await);
        })),
        _ => fail(reply, &clock, failure),
    }
}
