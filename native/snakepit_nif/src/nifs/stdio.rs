//! The functions for workers over stdin and stdout.

use super::{call::Spec, pool::PoolResource, spawn};
use crate::{
    atoms,
    call::{Waited, Waiting, Worker},
    codec,
    failure_term::error_term,
    reply::Reply,
    terms::LeaseTerm,
};
use bytes::Bytes;
use parking_lot::Mutex;
use rustler::{Atom, Encoder, Env, Resource, ResourceArc, Term};
use snakepit_client::{
    error::Failure,
    pool::{Acquired, Lease},
    stdio_id,
};
use snakepit_proto::Fields;
use std::sync::Arc;

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
            worker_id: worker.id.encode(env),
            generation,
        };
        term.encode(env)
    }
}

/// Leases a worker over stdin and stdout: `{:ok, lease}` if one is free, `{:wait, id}` if `{ref, {:ok, lease} |
/// {:error, failure}}` follows, or `{:error, failure}`. `again`: for a call that had a lease and has not started.
#[rustler::nif]
fn acquire<'a>(
    env: Env<'a>,
    pool: ResourceArc<PoolResource>,
    reference: Term<'a>,
    spec: Spec,
    again: bool,
) -> Term<'a> {
    let call = spec.call(Fields::default());
    let waiting = match call.acquire(&pool.0, false, again) {
        Ok(Acquired::Now(lease)) => {
            return (atoms::ok(), LeaseResource::term(env, lease)).encode(env);
        }
        Ok(Acquired::Queued(ticket, granted)) => Waiting::new(ticket, granted),
        Err(failure) => return error_term(env, &failure),
    };
    let waited = Waited::by(env, &call);
    let reply = Reply::guarded(env.pid(), reference, waited.guard());
    let id = call.id;
    let done = spawn(async move {
        let _waited = waited;
        reply.send_result(waiting.lease(&call).await, LeaseResource::term);
    });
    match done {
        Ok(()) => (atoms::wait(), id).encode(env),
        Err(failure) => error_term(env, &failure),
    }
}

#[rustler::nif]
fn release(lease: ResourceArc<LeaseResource>) -> Atom {
    let held = lease.0.lock().take();
    drop(held);
    atoms::ok()
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
