//! Messages to the process that waits for a call.

use crate::{atoms, codec, events::Gate, map, runtime};
use rustler::{Atom, Encoder, Env, LocalPid, OwnedEnv, Term, env::SavedTerm};
use snakepit_client::{
    failure::{Failure, Reason},
    overdue::{OVERDUE_AFTER, Watch},
};
use snakepit_proto::{ErrorDetail, ErrorFrame};
use std::time::{Duration, Instant};

/// The one terminal reply that a call owes its caller, `{ref, term}`. Dropping it unsent, in a
/// task that panicked for one, sends the failure `Dropped`, so that nobody waits for ever.
pub(crate) struct Reply {
    pid: LocalPid,
    reference: Option<(OwnedEnv, SavedTerm)>,
    gate: Option<Gate>,
    watch: Option<Watch>,
}

impl Reply {
    pub(crate) fn new(pid: LocalPid, reference: Term<'_>) -> Self {
        let env = OwnedEnv::new();
        let saved = env.save(reference);
        Self {
            pid,
            reference: Some((env, saved)),
            gate: None,
            watch: None,
        }
    }

    /// As `new`; nothing is sent once the gate is closed.
    pub(crate) fn gated(pid: LocalPid, reference: Term<'_>, gate: Gate) -> Self {
        let mut reply = Self::new(pid, reference);
        reply.gate = Some(gate);
        reply
    }

    /// As `new`; the failure of a deadline is sent also while the runtime stands still.
    pub(crate) fn watched(pid: LocalPid, reference: Term<'_>, after: Duration) -> Self {
        let gate = Gate::default();
        let env = OwnedEnv::new();
        let saved = env.save(reference);
        let (mut kept, late) = (Some(env), gate.clone());
        let watch = Watch::new(Instant::now() + after + OVERDUE_AFTER, move |_| {
            let failure = Failure::overdue(after);
            send(pid, kept.take()?, &saved, Some(&late), |env| {
                error_term(env, &failure)
            });
            None
        });
        let mut reply = Self::gated(pid, reference, gate);
        reply.watch = Some(watch);
        reply
    }

    /// Must not be called on a scheduler's thread, as all sending here.
    pub(crate) fn send(self, build: impl for<'a> FnOnce(Env<'a>) -> Term<'a>) {
        self.deliver(build);
    }

    /// Whether this is the reply that the process gets.
    pub(crate) fn send_result<T>(
        self,
        result: Result<T, Failure>,
        encode: impl for<'a> FnOnce(Env<'a>, T) -> Term<'a>,
    ) -> bool {
        self.deliver(|env| match result {
            Ok(value) => (rustler::types::atom::ok(), encode(env, value)).encode(env),
            Err(failure) => error_term(env, &failure),
        })
    }

    fn deliver(mut self, build: impl for<'a> FnOnce(Env<'a>) -> Term<'a>) -> bool {
        match self.reference.take() {
            Some((env, reference)) => send(self.pid, env, &reference, self.gate.as_ref(), build),
            None => false,
        }
    }

    /// Nothing is owed after all.
    pub(crate) fn forget(mut self) {
        self.reference = None;
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        let Some((env, reference)) = self.reference.take() else {
            return;
        };
        let (pid, gate) = (self.pid, self.gate.take());
        off_scheduler(move || {
            send(pid, env, &reference, gate.as_ref(), |env| {
                error_term(env, &Failure::Dropped)
            });
        });
    }
}

/// What takes long, to build the term, is done before the gate. Whether it was sent.
fn send(
    pid: LocalPid,
    mut env: OwnedEnv,
    reference: &SavedTerm,
    gate: Option<&Gate>,
    build: impl for<'a> FnOnce(Env<'a>) -> Term<'a>,
) -> bool {
    let message = env.run(|inner| env.save((reference.load(inner), build(inner)).encode(inner)));
    let mut send = || {
        // A caller that is gone needs no reply.
        let _ = env.send_and_clear(&pid, |env| message.load(env));
    };
    if let Some(gate) = gate {
        return gate.pass_last(send);
    }
    send();
    true
}

/// Runs `send` here, or on the runtime if this is a scheduler's thread, which must not send.
pub(crate) fn off_scheduler(send: impl FnOnce() + Send + 'static) {
    if !rustler::thread::is_scheduler_thread() {
        send();
    } else if let Ok(runtime) = runtime::get() {
        runtime.spawn(async move { send() });
    }
}

/// A message to a process of the control plane.
pub(crate) fn notify(pid: LocalPid, build: impl for<'a> FnOnce(Env<'a>) -> Term<'a>) {
    let _ = OwnedEnv::new().send_and_clear(&pid, build);
}

/// `{:error, failure}`, see `failure_term`.
pub(crate) fn error_term<'a>(env: Env<'a>, failure: &Failure) -> Term<'a> {
    env.error_tuple(failure_term(env, failure))
}

/// `{reason, message, details}`, of which Elixir makes a `Snakepit.Error`.
pub(crate) fn failure_term<'a>(env: Env<'a>, failure: &Failure) -> Term<'a> {
    let reason = reason_atom(failure.reason());
    (reason, failure.to_string(), failure_details(env, failure)).encode(env)
}

pub(crate) fn failure_details<'a>(env: Env<'a>, failure: &Failure) -> Term<'a> {
    let pairs: Vec<(Atom, Term<'a>)> = match failure {
        Failure::Saturated { max_queue } => vec![(atoms::max_queue(), max_queue.encode(env))],
        Failure::Timeout { queued, .. } => vec![(atoms::queued(), queued.encode(env))],
        Failure::TooLarge { size, limit, .. } => vec![
            (atoms::size(), size.encode(env)),
            (atoms::limit(), limit.encode(env)),
        ],
        Failure::RefusedAsTooLarge { limit, .. } => vec![(atoms::limit(), limit.encode(env))],
        Failure::Status { code, .. } => {
            vec![(atoms::grpc_status(), i32::from(*code).encode(env))]
        }
        Failure::Remote(detail) if !detail.r#type.is_empty() => exception(env, detail),
        Failure::Remote(detail) if !detail.data.is_empty() => {
            let errors = codec::decode_extended(env, &detail.data).ok();
            vec![(atoms::errors(), errors.encode(env))]
        }
        _ => Vec::new(),
    };
    map::from_pairs(env, pairs)
}

/// What a Python exception is to Elixir.
fn exception<'a>(env: Env<'a>, detail: &ErrorDetail) -> Vec<(Atom, Term<'a>)> {
    let frames: Vec<Term<'a>> = detail.frames.iter().map(|at| frame(env, at)).collect();
    let cause = detail
        .cause
        .as_ref()
        .map(|cause| map::from_pairs(env, exception(env, cause)));
    let mut pairs = vec![
        (atoms::r#type(), detail.r#type.as_str().encode(env)),
        (atoms::message(), detail.message.as_str().encode(env)),
        (atoms::frames(), frames.encode(env)),
        (atoms::notes(), detail.notes.encode(env)),
        (atoms::cause(), cause.encode(env)),
    ];
    if !detail.traceback.is_empty() {
        pairs.push((atoms::traceback(), detail.traceback.as_str().encode(env)));
    }
    if !detail.code.is_empty() {
        let data = codec::decode_extended(env, &detail.data).ok();
        pairs.push((atoms::code(), detail.code.as_str().encode(env)));
        pairs.push((atoms::data(), data.encode(env)));
    }
    pairs
}

fn frame<'a>(env: Env<'a>, frame: &ErrorFrame) -> Term<'a> {
    let pairs = [
        (atoms::file(), frame.file.as_str().encode(env)),
        (atoms::line(), frame.line.encode(env)),
        (atoms::function(), frame.function.as_str().encode(env)),
        (atoms::source(), frame.source.as_str().encode(env)),
    ];
    map::from_pairs(env, pairs)
}

pub(crate) fn reason_atom(reason: Reason) -> Atom {
    match reason {
        Reason::Cancelled => atoms::cancelled(),
        Reason::CommandError => atoms::command_error(),
        Reason::GrpcUnavailable => atoms::grpc_unavailable(),
        Reason::InternalError => atoms::internal_error(),
        Reason::InvalidArgs => atoms::invalid_args(),
        Reason::InvalidResult => atoms::invalid_result(),
        Reason::MessageTooLarge => atoms::message_too_large(),
        Reason::NotReady => atoms::not_ready(),
        Reason::PoolSaturated => atoms::pool_saturated(),
        Reason::PoolStopped => atoms::pool_stopped(),
        Reason::PythonError => atoms::python_error(),
        Reason::QueueTimeout => atoms::queue_timeout(),
        Reason::RpcError => atoms::rpc_error(),
        Reason::SessionLost => atoms::session_lost(),
        Reason::StreamingNotSupported => atoms::streaming_not_supported(),
        Reason::Timeout => atoms::timeout(),
        Reason::Unauthenticated => atoms::unauthenticated(),
        Reason::UnknownCommand => atoms::unknown_command(),
        Reason::WorkerCrashed => atoms::worker_crashed(),
        Reason::WorkerStartFailed => atoms::worker_start_failed(),
    }
}
