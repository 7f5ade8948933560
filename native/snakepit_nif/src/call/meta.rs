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
pub(super) fn unplaced(request_id: &str, waited: Duration) -> Meta {
    Meta {
        request_id: request_id.into(),
        queue_us: micros(waited),
        ..Meta::default()
    }
}

/// When a call arrived, and when it had a destination.
pub(super) struct Clock {
    request_id: String,
    worker_id: Option<String>,
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
    pub(super) fn new(call: &Call, worker_id: Option<String>) -> Self {
        Self {
            request_id: call.header.request_id().to_owned(),
            worker_id,
            started: call.started,
            placed: Instant::now(),
            batch: BatchPart::default(),
        }
    }

    pub(super) fn set_batch(&mut self, batch: BatchPart) {
        self.batch = batch;
    }

    pub(super) fn meta(&self) -> Meta {
        Meta {
            request_id: self.request_id.clone(),
            worker_id: self.worker_id.clone(),
            queue_us: micros(self.placed - self.started),
            execution_us: micros(self.placed.elapsed()),
            batch_size: self.batch.size,
            batch_wait_us: self.batch.wait_us,
        }
    }
}

/// A call whose result is on its way to its caller.
pub(super) struct Succeeded {
    numbers: Arc<Numbers>,
    command: String,
}

impl Succeeded {
    /// `None` if the call is not of a pool.
    pub(super) fn of(call: &mut Call) -> Option<Self> {
        let numbers = call.numbers.take()?;
        let command = call.header.take_command();
        Some(Self { numbers, command })
    }

    /// Counts it. What fails is counted by Elixir, which knows how often it is tried again.
    pub(super) fn count(&self, meta: &Meta) {
        self.numbers.record(&Ended {
            command: &self.command,
            error: None,
            times: Some((meta.queue_us, meta.execution_us)),
            batch_size: meta.batch_size,
        });
    }
}

pub(super) fn failed_term<'a>(env: Env<'a>, failure: &Failure, meta: &Meta) -> Term<'a> {
    (atom::error(), failure_term(env, failure), meta).encode(env)
}

/// The failure of a call that got no destination.
pub(super) fn refused_term<'a>(env: Env<'a>, failure: &Failure, call: &Call) -> Term<'a> {
    failed_term(env, failure, &refused_meta(call))
}

pub(super) fn refused_meta(call: &Call) -> Meta {
    unplaced(call.header.request_id(), call.started.elapsed())
}
