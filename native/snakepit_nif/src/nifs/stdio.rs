//! What workers need that are spoken to over stdin and stdout.

use super::{
    call::{Spec, watch_owner},
    pool::PoolResource,
    spawn,
};
use crate::{
    atoms,
    call::Waiting,
    codec,
    credit::Credit,
    dispatcher::Lease,
    failure::Failure,
    output,
    pool::Worker,
    reply::{Reply, notify},
    runtime, wire,
};
use bytes::Bytes;
use rustix::process::{Pid, Signal, kill_process_group};
use rustler::{Atom, Encoder, Env, NifResult, OwnedEnv, Resource, ResourceArc, Term};
use snakepit_proto::Fields;
use std::sync::{Arc, Mutex, PoisonError};

/// A worker's place, held by whoever holds this: it is given back with the last of them.
struct LeaseResource(Mutex<Option<Lease<Arc<Worker>>>>);

#[rustler::resource_impl]
impl Resource for LeaseResource {}

impl LeaseResource {
    /// `{lease, owner, worker_id, session_generation}`
    fn term(env: Env<'_>, lease: Lease<Arc<Worker>>) -> Term<'_> {
        let (worker, generation) = (lease.worker.clone(), lease.session_generation());
        let lease = ResourceArc::new(Self(Mutex::new(Some(lease))));
        (lease, worker.owner, worker.id.as_str(), generation).encode(env)
    }
}

/// A place on a worker that is spoken to through its owner: `{:ok, lease}` if one is
/// free, `:wait` if it comes as `{ref, {:ok, _} | {:error, failure}}`, or a refusal.
#[rustler::nif]
fn acquire<'a>(env: Env<'a>, pool: ResourceArc<PoolResource>, spec: Spec<'a>) -> Term<'a> {
    let reference = spec.reference;
    let call = spec.call(Fields::default());
    let mut waiting = match Waiting::begin(&pool.0, &call, false) {
        Ok(waiting) => waiting,
        Err(failure) => return env.error_tuple(failure),
    };
    if let Some(lease) = waiting.at_once() {
        return (atoms::ok(), LeaseResource::term(env, lease)).encode(env);
    }
    let owner = watch_owner(env, &call, Credit::new(0, false));
    let reply = Reply::new(env.pid(), reference);
    let done = spawn(async move {
        let _owner = owner;
        reply.send_result(waiting.lease(&call).await, LeaseResource::term);
    });
    match done {
        Ok(()) => atoms::wait().encode(env),
        Err(failure) => env.error_tuple(failure),
    }
}

#[rustler::nif]
fn release(lease: ResourceArc<LeaseResource>) -> Atom {
    let held = lease
        .0
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .take();
    drop(held);
    atoms::ok()
}

struct OutputResource(output::Guard);

#[rustler::resource_impl]
impl Resource for OutputResource {}

/// Reads the lines that come through a named pipe: `{ref, {:data, line}}` each, `{ref, :closed}` at the
/// end, which does not come before `output_close`.
#[rustler::nif]
fn output_open<'a>(env: Env<'a>, reference: Term<'a>, path: &str) -> NifResult<Term<'a>> {
    let failed = |error: std::io::Error| rustler::Error::Term(Box::new(error.to_string()));
    let runtime = runtime::get().map_err(failed)?;
    let _entered = runtime.enter();
    let (receiver, guard) = output::open(path).map_err(failed)?;
    let owner = env.pid();
    let closed = Reply::new(owner, reference);
    let kept = OwnedEnv::new();
    let saved = kept.save(reference);
    runtime.spawn(async move {
        output::read_lines(receiver, move |line| {
            notify(owner, |env| {
                let reference = kept.run(|kept| saved.load(kept).in_env(env));
                (reference, (atoms::data(), codec::copied(env, line))).encode(env)
            });
        })
        .await;
        closed.send(|env| atoms::closed().encode(env));
    });
    Ok((atoms::ok(), ResourceArc::new(OutputResource(guard))).encode(env))
}

/// The worker has ended: what it has started may still write.
#[rustler::nif]
fn output_close(output: ResourceArc<OutputResource>) -> Atom {
    output.0.release();
    atoms::ok()
}

/// The `id` of a response.
#[rustler::nif]
fn response_id(message: rustler::Binary<'_>) -> Option<u64> {
    wire::response_id(&message)
}

/// A message of a worker over stdin/stdout.
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
        Err(problem) => env.error_tuple(Failure::InvalidResult(format!("the message {problem}"))),
    }
}

/// Signals a worker's process group, and with it what its handlers have started.
#[rustler::nif]
fn signal_group(os_pid: i32, kill: bool) -> bool {
    let signal = if kill { Signal::KILL } else { Signal::TERM };
    Pid::from_raw(os_pid).is_some_and(|pid| kill_process_group(pid, signal).is_ok())
}
