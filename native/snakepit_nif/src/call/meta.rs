//! The metadata of a reply: ids and times.

use super::request::Call;
use crate::{
    failure_term::failure_term,
    numbers::Numbers,
    terms::{Meta, micros},
};
use rustler::{Encoder, Env, Term, types::atom};
use snakepit_client::{error::Failure, numbers::Ended};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};

/// For a call that has not reached a worker.
pub(super) fn unplaced(request_id: &str, waited: Duration) -> Meta<'_> {
    Meta {
        request_id,
        queue_us: micros(waited),
        ..Meta::default()
    }
}

/// When a call arrived, and when it had a destination.
#[derive(Clone)]
pub(super) struct Clock {
    worker_id: Option<Arc<str>>,
    started: Instant,
    placed: Instant,
    batch: BatchPart,
}

/// The part of a call in a batch, as its reply says.
#[derive(Clone, Copy, Default)]
pub(super) struct BatchPart {
    pub(super) size: u32,
    pub(super) wait_us: u64,
}

impl Clock {
    pub(super) fn new(call: &Call, worker_id: Option<Arc<str>>, placed: Instant) -> Self {
        Self {
            worker_id,
            started: call.started,
            placed,
            batch: BatchPart::default(),
        }
    }

    pub(super) fn set_batch(&mut self, batch: BatchPart) {
        self.batch = batch;
    }

    /// The metadata of a reply that is sent now.
    pub(super) fn meta<'a>(&'a self, request_id: &'a str, now: Instant) -> Meta<'a> {
        Meta {
            batch_size: self.batch.size,
            batch_wait_us: self.batch.wait_us,
            execution_us: micros(now.saturating_duration_since(self.placed)),
            queue_us: micros(self.placed.saturating_duration_since(self.started)),
            request_id,
            worker_id: self.worker_id.as_deref(),
        }
    }
}

/// What is left of a call whose result is on its way to its caller.
pub(super) struct Answered {
    pub(super) request_id: String,
    command: String,
    /// `None` if the call is not of a pool.
    numbers: Option<Arc<Numbers>>,
}

impl Answered {
    pub(super) fn of(call: &mut Call) -> Self {
        Self {
            request_id: call.header.take_request_id(),
            command: call.header.take_command(),
            numbers: call.numbers.take(),
        }
    }

    /// Counts a call that has succeeded. What fails is counted by Elixir, which knows how often it is tried again.
    pub(super) fn count(&self, meta: &Meta<'_>, now: Instant) {
        if let Some(numbers) = &self.numbers {
            let ended = Ended {
                command: &self.command,
                error: None,
                times: Some((meta.queue_us, meta.execution_us)),
                batch_size: meta.batch_size,
            };
            numbers.record_at(now, &ended);
        }
    }
}

pub(super) fn failed_term<'a>(env: Env<'a>, failure: &Failure, meta: &Meta<'_>) -> Term<'a> {
    (atom::error(), failure_term(env, failure), meta).encode(env)
}

/// The failure of a call that got no destination.
pub(super) fn refused_term<'a>(env: Env<'a>, failure: &Failure, call: &Call) -> Term<'a> {
    failed_term(env, failure, &refused_meta(call))
}

pub(super) fn refused_meta(call: &Call) -> Meta<'_> {
    unplaced(call.header.request_id(), call.started.elapsed())
}
