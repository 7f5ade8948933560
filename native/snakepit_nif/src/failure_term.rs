//! Failures as terms.

use crate::{atoms, codec, map};
use rustler::{Atom, Encoder, Env, Term};
use snakepit_client::error::{Failure, Reason};
use snakepit_proto::{ErrorDetail, ErrorFrame};

/// `{:error, failure}`, see `failure_term`.
pub(crate) fn error_term<'a>(env: Env<'a>, failure: &Failure) -> Term<'a> {
    env.error_tuple(failure_term(env, failure))
}

/// `{reason, message, details}`, from which Elixir makes a `Snakepit.Error`.
pub(crate) fn failure_term<'a>(env: Env<'a>, failure: &Failure) -> Term<'a> {
    let reason = reason_atom(failure.reason());
    (reason, failure.to_string(), failure_details(env, failure)).encode(env)
}

pub(crate) fn failure_details<'a>(env: Env<'a>, failure: &Failure) -> Term<'a> {
    let pairs: Vec<(Atom, Term<'a>)> = match failure {
        Failure::Saturated { max_queue, .. } => vec![(atoms::max_queue(), max_queue.encode(env))],
        Failure::Timeout { queued, .. } => vec![(atoms::queued(), queued.encode(env))],
        Failure::NotStarted { .. } => vec![(atoms::started(), false.encode(env))],
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

/// The details of a Python exception.
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
        Reason::ReentrantCall => atoms::reentrant_call(),
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
