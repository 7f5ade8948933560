//! What a reply says of its call beside the result.

use super::{Call, destination::Place};
use crate::reply::failure_term;
use rustler::{Encoder, Env, Term, types::atom};
use snakepit_client::failure::Failure;
use std::time::{Duration, Instant};

/// What the reply says beside the result: `{request_id, worker_id, queue_us, execution_us}`.
pub(crate) type Meta = (String, Option<String>, u64, u64);

pub(super) struct Clock {
    request_id: String,
    worker_id: Option<String>,
    started: Instant,
    placed: Instant,
}

impl Clock {
    pub(super) fn new(call: &Call, place: &Place) -> Self {
        Self {
            request_id: call.request_id.clone(),
            worker_id: place.worker_id(),
            started: call.started,
            placed: Instant::now(),
        }
    }

    pub(super) fn meta(&self) -> Meta {
        let micros = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        (
            self.request_id.clone(),
            self.worker_id.clone(),
            micros(self.placed - self.started),
            micros(self.placed.elapsed()),
        )
    }
}

pub(super) fn failed_term<'a>(env: Env<'a>, failure: &Failure, meta: &Meta) -> Term<'a> {
    (atom::error(), failure_term(env, failure), meta).encode(env)
}

pub(super) fn refused_term<'a>(env: Env<'a>, failure: &Failure, call: &Call) -> Term<'a> {
    failed_term(env, failure, &refused_meta(call))
}

pub(super) fn refused_meta(call: &Call) -> Meta {
    let waited = u64::try_from(call.started.elapsed().as_micros()).unwrap_or(u64::MAX);
    (call.request_id.clone(), None, waited, 0)
}
