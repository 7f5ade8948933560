//! The functions for workers over stdin and stdout.

use super::{call::Spec, pool::PoolResource};
use crate::{
    atoms,
    call::{Call, Waited, Worker},
    codec,
    conversation::{Conversation, ConversationResource},
    failure_term::error_term,
    reply::{Reply, off_scheduler},
    terms::LeaseTerm,
};
use bytes::Bytes;
use parking_lot::Mutex;
use rustler::{Atom, Encoder, Env, Resource, ResourceArc, Term};
use snakepit_client::{
    error::Failure,
    pool::{Granted, HeldPlace, Lease, QueuedCall, Submitted, Ticket},
    stdio_id,
};
use snakepit_proto::Fields;
use std::{
    sync::Arc,
    time::{Duration, Instant},
};

/// A lease of a worker, which ends with the last reference to this or with `release`.
struct LeaseResource(Mutex<Option<Lease<Arc<Worker>>>>);

#[rustler::resource_impl]
impl Resource for LeaseResource {}

impl LeaseResource {
    fn term(env: Env<'_>, lease: Lease<Arc<Worker>>) -> Term<'_> {
        let (worker, generation) = (lease.worker().clone(), lease.generation());
        let term = LeaseTerm {
            lease: ResourceArc::new(Self(Mutex::new(Some(lease)))).encode(env),
            worker: worker.owner,
            worker_id: worker.id.as_ref().encode(env),
            generation,
        };
        term.encode(env)
    }
}

/// A call that waits for a lease.
struct LeaseCall {
    call: Call,
    reply: Reply,
    waited: Waited,
}

impl QueuedCall<Arc<Worker>> for LeaseCall {
    fn queued(&self, ticket: Ticket<Arc<Worker>>) {
        self.waited.on_cancel(move || ticket.give_up());
    }

    fn granted(self: Box<Self>, granted: Granted<Arc<Worker>>) {
        let lease = granted.map_err(|error| self.call.not_acquired(error));
        off_scheduler(move || {
            self.reply.send_result(lease, LeaseResource::term);
        });
    }
}

/// Leases a worker over stdin and stdout: `{:ok, lease}` if one is free, `{:wait, id}` if `{ref, {:ok, lease} |
/// {:error, failure}}` follows, or `{:error, failure}`. `again`: the microseconds since a call was made that had a lease
/// and has not started.
#[rustler::nif]
fn acquire<'a>(
    env: Env<'a>,
    pool: ResourceArc<PoolResource>,
    reference: Term<'a>,
    spec: Spec,
    again: Option<u64>,
) -> Term<'a> {
    let now = Instant::now();
    let since = again.and_then(|ago| now.checked_sub(Duration::from_micros(ago)));
    let call = spec.call(Fields::default(), since.unwrap_or(now));
    let id = call.id;
    let options = call.acquire_options(&pool.dispatcher, false, again.is_some());
    let waited = Waited::by(env, &call);
    let reply = Reply::guarded(env.pid(), reference, waited.guard());
    let call = LeaseCall {
        call,
        reply,
        waited,
    };
    match pool.dispatcher.submit(options, call) {
        Submitted::Now(lease, call) => {
            call.reply.forget();
            (atoms::ok(), LeaseResource::term(env, lease)).encode(env)
        }
        Submitted::Queued(_) => (atoms::wait(), id).encode(env),
        Submitted::Refused(error, call) => {
            let failure = call.call.not_acquired(error);
            call.reply.forget();
            error_term(env, &failure)
        }
    }
}

/// As `release`, for a call that the worker has not got.
#[rustler::nif]
fn give_back(lease: ResourceArc<LeaseResource>) -> Atom {
    if let Some(unused) = lease.0.lock().take() {
        unused.give_back_unused();
    }
    atoms::ok()
}

#[rustler::nif]
fn release(lease: ResourceArc<LeaseResource>) -> Atom {
    let held = lease.0.lock().take();
    drop(held);
    atoms::ok()
}

/// What stands for the place of a two-way call, for the calls that its tools make.
#[rustler::nif]
fn holding<'a>(env: Env<'a>, lease: ResourceArc<LeaseResource>, call_id: u64) -> Term<'a> {
    let resource = ConversationResource::new(Conversation::new([], 0));
    let place = lease.0.lock().as_ref().map(|lease| {
        let worker = lease.key();
        (
            lease.dispatcher().client_id(),
            HeldPlace { worker, call_id },
        )
    });
    resource.set_place(place);
    ResourceArc::new(resource).encode(env)
}

/// The `id` of a response.
#[rustler::nif]
fn response_id(message: rustler::Binary<'_>) -> Option<u64> {
    stdio_id::response_id(&message)
}

/// Encodes a message to a worker over stdin and stdout.
#[rustler::nif(schedule = "DirtyCpu")]
fn encode_extended<'a>(env: Env<'a>, value: Term<'a>) -> Term<'a> {
    match codec::encode_extended(value) {
        Ok(bytes) => (atoms::ok(), codec::binary(env, &bytes.into())).encode(env),
        Err(error) => error.encode(env),
    }
}

#[rustler::nif(schedule = "DirtyCpu")]
fn decode_extended<'a>(env: Env<'a>, bytes: rustler::Binary<'a>) -> Term<'a> {
    match codec::decode_extended(env, &Bytes::copy_from_slice(&bytes)) {
        Ok(term) => (atoms::ok(), term).encode(env),
        Err(problem) => error_term(
            env,
            &Failure::InvalidResult(format!("the message {problem}")),
        ),
    }
}
