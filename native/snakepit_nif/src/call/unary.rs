//! A unary call: one frame among others where the server has `Calls`, else an RPC of its own.

use super::{
    Call, Route,
    cause::{Witness, explained},
    destination::{Ended, Place},
    meta::{Clock, failed_term, refused_term},
};
use crate::{
    codec,
    pool::{self, Worker},
    reply::{Reply, off_scheduler},
    runtime,
};
use rustler::{Encoder, types::atom};
use snakepit_client::{
    aside::{DECODED_ASIDE_FROM, decode_aside},
    channel::ClientConnection,
    connection::MOST_ATTEMPTS,
    failure::Failure,
    multiplexer::{Abandoned, Calls, Job, ReturnReason, WorkEnded},
};
use snakepit_proto::{CallFrame, Fields, ReplyFrame};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};

/// From here on a call is not sent ahead of what its worker does.
pub(crate) const SHORT_UP_TO: usize = 256 * 1024;
/// From here on a call is an RPC of its own, so that its worker's other calls do not wait for its
/// bytes. Below that they wait for some milliseconds: an RPC of its own takes twice as long.
const FRAMED_UP_TO: usize = 32 * 1024 * 1024;

pub(crate) type UnaryCalls = Calls<ClientConnection, Unary>;

/// Watches the owner of a call, and cancels it with that.
pub(crate) trait Owner: Send + Sync {
    fn watch(&self, cancel: Box<dyn FnOnce() + Send>);
}

pub(crate) type Watched = Arc<dyn Owner>;

/// A call on a server's `Calls`.
pub(crate) struct Unary {
    call: Call,
    place: Place,
    clock: Clock,
    /// None once the caller was told.
    reply: Option<Reply>,
    owner: Watched,
}

/// Runs a unary call; its reply is `{ref, {:ok, map, meta}}` or `{ref, {:error, failure, meta}}`.
pub(crate) async fn run_unary(call: Call, mut route: Route, reply: Reply, owner: Watched) {
    let mut attempt = 0;
    let (place, clock, result) = loop {
        let place = match route.place(&call).await {
            Ok(place) => place,
            Err(failure) => return reply.send(|env| refused_term(env, &failure, &call)),
        };
        if let Some(calls) = place.calls(&call) {
            if let Err(failure) = call.check_size(place.channel()) {
                return reply.send(|env| refused_term(env, &failure, &call));
            }
            return Unary::start(&calls, call, place, reply, owner);
        }
        let clock = Clock::new(&call, &place);
        let result = call.within(call.unary_rpc(&place)).await;
        attempt += 1;
        match result {
            Err(Failure::NotStarted { refused, .. }) if attempt < MOST_ATTEMPTS => {
                route = match place.elsewhere(&call, call.is_short(), !refused) {
                    Ok(route) => route,
                    Err(failure) => return reply.send(|env| refused_term(env, &failure, &call)),
                };
            }
            result => break (place, clock, result),
        }
    };
    let witness = result
        .as_ref()
        .err()
        .and_then(|failure| place.witness(failure));
    let rest = place.give_back(
        &call,
        result.as_ref().err().map_or(Ended::Answered, Ended::by),
    );
    let result = match result {
        Err(failure) => Err(explained(failure, witness).await),
        result => result,
    };
    answer(reply, result, clock);
    drop(owner);
    if let Some(rest) = rest {
        rest.await;
    }
}

/// Decodes and sends as `decode_aside` does.
fn answer(reply: Reply, result: Result<Fields, Failure>, clock: Clock) {
    let size = result.as_ref().map_or(0, Fields::size);
    let send = move || {
        reply.send(|env| {
            match result.and_then(|fields| codec::decode_fields(env, &fields, None)) {
                Ok(map) => (atom::ok(), map, clock.meta()).encode(env),
                Err(failure) => failed_term(env, &failure, &clock.meta()),
            }
        });
    };
    match runtime::get() {
        Ok(runtime) if size >= DECODED_ASIDE_FROM => {
            runtime.spawn(async move { decode_aside(size, send).await });
        }
        _ => send(),
    }
}

impl Unary {
    /// Sends a call that has its place; safe on a scheduler's thread.
    pub(crate) fn start(
        calls: &Arc<UnaryCalls>,
        call: Call,
        place: Place,
        reply: Reply,
        owner: Watched,
    ) {
        let clock = Clock::new(&call, &place);
        let watched = owner.clone();
        let job = Self {
            call,
            place,
            clock,
            reply: Some(reply),
            owner,
        };
        let weak = Arc::downgrade(calls);
        calls.start(job, |id| {
            watched.watch(Box::new(move || {
                if let Some(calls) = weak.upgrade() {
                    calls.cancel(id);
                }
            }));
        });
    }

    fn tell(&mut self, failure: Failure) {
        tell(self.reply.take(), &self.clock, failure);
    }
}

fn tell(reply: Option<Reply>, clock: &Clock, failure: Failure) {
    if let Some(reply) = reply {
        let meta = clock.meta();
        off_scheduler(move || reply.send(|env| failed_term(env, &failure, &meta)));
    }
}

fn tell_explained(reply: Option<Reply>, clock: Clock, failure: Failure, witness: Option<Witness>) {
    match runtime::get() {
        Ok(runtime) if witness.is_some() => drop(runtime.spawn(async move {
            tell(reply, &clock, explained(failure, witness).await);
        })),
        _ => tell(reply, &clock, failure),
    }
}

impl Job for Unary {
    fn deadline(&self) -> Option<Instant> {
        self.call.deadline()
    }

    fn grace(&self) -> Duration {
        self.place
            .worker()
            .map_or(Duration::from_secs(5), |worker| worker.kill_grace)
    }

    fn frame(&mut self, call_id: u64) -> CallFrame {
        let left = self.call.remaining();
        CallFrame {
            call_id,
            command: std::mem::take(&mut self.call.command),
            args: std::mem::take(&mut self.call.args.values),
            arg_kinds: self.call.args.kinds.clone(),
            session_id: self
                .call
                .session
                .as_ref()
                .map_or_else(String::new, |one| one.id.to_string()),
            session_generation: self.place.session_generation(),
            request_id: self.call.request_id.clone(),
            metadata: self.call.metadata.iter().cloned().collect(),
            timeout_us: left.map_or(0, |left| {
                u64::try_from(left.as_micros()).unwrap_or(0).max(1)
            }),
            ..CallFrame::default()
        }
    }

    fn framed(&mut self, frame: CallFrame) {
        self.call.command = frame.command;
        self.call.args.values = frame.args;
    }

    fn answered(mut self, frame: ReplyFrame) {
        let Some(reply) = self.reply.take() else {
            return;
        };
        let result = if frame.success {
            Ok(Fields::received(frame.result, frame.result_kinds))
        } else {
            Err(Failure::from_reply(frame.error, frame.error_detail))
        };
        let clock = self.clock;
        let witness = result
            .as_ref()
            .err()
            .and_then(|failure| self.place.witness(failure));
        self.place.done(Duration::from_nanos(frame.handler_ns));
        match (result, witness) {
            (Err(failure), Some(witness)) => {
                tell_explained(Some(reply), clock, failure, Some(witness));
            }
            (result, _) => answer(reply, result, clock),
        }
    }

    fn abandoned(&mut self, why: Abandoned) {
        match why {
            Abandoned::TimedOut => self.tell(self.call.timed_out()),
            Abandoned::Cancelled => {
                if let Some(reply) = self.reply.take() {
                    reply.forget();
                }
            }
        }
    }

    fn ended(self, ended: WorkEnded) {
        if let Place::Worker(lease, _) = self.place {
            pool::work_ended(lease, &ended, &self.call.command, &self.call.request_id);
        }
    }

    fn lost(self, cause: &str) {
        let failure = Failure::WorkerCrashed(cause.into());
        let witness = self.place.witness(&failure);
        // The caller's next call must not find the worker again.
        if let Place::Worker(lease, _) = self.place {
            lease.retire();
        }
        tell_explained(self.reply, self.clock, failure, witness);
    }

    fn not_started(self, why: ReturnReason) {
        let Self {
            call,
            place,
            reply: Some(reply),
            owner,
            ..
        } = self
        else {
            return;
        };
        let route = place.elsewhere(&call, true, why == ReturnReason::ConnectionLost);
        match (route, runtime::get()) {
            (Ok(route), Ok(runtime)) => drop(runtime.spawn(run_unary(call, route, reply, owner))),
            (Err(failure), _) => {
                off_scheduler(move || reply.send(|env| refused_term(env, &failure, &call)));
            }
            (_, Err(_)) => drop(reply),
        }
    }

    fn stalled(&self) {
        if let Place::Worker(lease, _) = &self.place {
            lease.stall();
        }
    }
}

impl Place {
    fn worker(&self) -> Option<&Arc<Worker>> {
        match self {
            Self::Worker(lease, _) => Some(lease.worker()),
            Self::Channel(..) => None,
        }
    }

    /// The `Calls` to send a call on.
    pub(crate) fn calls(&self, call: &Call) -> Option<Arc<UnaryCalls>> {
        let link = match self {
            Self::Worker(_, link) | Self::Channel(_, link) => link,
        };
        let framed = call.args.size() <= FRAMED_UP_TO;
        framed.then(|| link.calls.clone()).flatten()
    }

    fn done(self, took: Duration) {
        if let Self::Worker(lease, _) = self {
            lease.done(took);
        }
    }
}
