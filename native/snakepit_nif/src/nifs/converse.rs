//! Two-way calls: their start, the answers to what they ask, and the items of their inputs.

use super::call::{Demand, Prepared, QUICK_BUDGET, Spec, StreamResource, StreamSpec, prepare};
use crate::{
    asks::{Asker, failed},
    atoms,
    call::{Refused, Route, Shape, Sink, StreamTimeouts, TwoWay, run_two_way},
    codec::{self, EncodeError, Rules},
    conversation::{ConversationResource, InputWaiter},
    failure_term::error_term,
    progress::Progress,
    progress_listener::ProgressListener,
    reply::Reply,
    runtime::spawn,
    send_guard::SendGuard,
};
use bytes::Bytes;
use rustler::{Atom, Binary, Encoder, Env, Error, LocalPid, NifMap, NifResult, ResourceArc, Term};
use snakepit_client::{
    conversation::{Conversation, Pushed, Taking},
    error::Failure,
};
use snakepit_proto::{ErrorDetail, InputArgument, ToolAnswer};
use snakepit_values::Kind;
use std::sync::Arc;

/// The properties of a two-way call in addition to those of a call.
#[derive(NifMap)]
#[rustler(decode)]
struct TwoWaySpec<'a> {
    /// Without it the calling process gets a reply.
    stream: Option<StreamSpec<'a>>,
    /// The process that serves its asks.
    asks: Option<LocalPid>,
    tools: Vec<String>,
    max_asks: u32,
    inputs: Vec<InputSpec>,
}

#[derive(NifMap)]
#[rustler(decode)]
struct InputSpec {
    name: String,
    max_items: u32,
    max_bytes: u64,
}

impl InputSpec {
    fn ahead(&self) -> snakepit_proto::Demand {
        snakepit_proto::Demand {
            count: self.max_items,
            bytes: self.max_bytes,
        }
    }
}

/// `{:ok, handle}`; or what `call` returns, and `:large` wants `converse_large`.
#[rustler::nif]
fn converse<'a>(
    env: Env<'a>,
    target: Term<'a>,
    reference: Term<'a>,
    arguments: Term<'a>,
    spec: Spec,
    two_way: TwoWaySpec<'a>,
) -> NifResult<Term<'a>> {
    let progress = spec.takes_progress();
    let prepared = prepare(target, arguments, spec, QUICK_BUDGET)?;
    Ok(start(env, reference, progress, prepared, two_way))
}

#[rustler::nif(schedule = "DirtyCpu")]
fn converse_large<'a>(
    env: Env<'a>,
    target: Term<'a>,
    reference: Term<'a>,
    arguments: Term<'a>,
    spec: Spec,
    two_way: TwoWaySpec<'a>,
) -> NifResult<Term<'a>> {
    let progress = spec.takes_progress();
    let prepared = prepare(target, arguments, spec, usize::MAX)?;
    Ok(start(env, reference, progress, prepared, two_way))
}

fn start<'a>(
    env: Env<'a>,
    reference: Term<'a>,
    progress: bool,
    prepared: Prepared,
    spec: TwoWaySpec<'a>,
) -> Term<'a> {
    let (mut call, target) = match prepared {
        Ok(prepared) => prepared,
        Err(error) => return error.encode(env),
    };
    let route = match Route::to(target, &call, false) {
        Ok(route) => route,
        Err(failure) => return Refused { failure, call }.encode(env),
    };
    let guard = SendGuard::default();
    let max_asks = usize::try_from(spec.max_asks).unwrap_or(usize::MAX);
    let conversation = Conversation::new(spec.inputs.iter().map(InputSpec::ahead), max_asks);
    let stream = spec.stream.as_ref();
    if let Some(stream) = stream {
        conversation.stream(stream.demand, stream.bounded);
    }
    let resource = ResourceArc::new(ConversationResource::new(conversation));
    let messages = stream.filter(|stream| !stream.bounded);
    let handle = ResourceArc::new(StreamResource {
        cancelled: call.cancelled.clone(),
        demand: Demand::Conversation(resource.clone()),
        progress: messages.map(|stream| Progress::new(call.started, stream.demand)),
        guard: guard.clone(),
    });
    StreamResource::end_with(&handle, env, &env.pid());
    if let Some(asks) = spec.asks {
        StreamResource::end_with(&handle, env, &asks);
    }
    if progress {
        call.progress = Some(ProgressListener::new(env.pid(), reference, guard.clone()));
    }
    let sink = match stream {
        Some(stream) => Sink::Events(stream.events(env, reference, &call, &handle)),
        None => Sink::Reply(Reply::guarded(env.pid(), reference, guard)),
    };
    let two_way = TwoWay {
        asker: spec
            .asks
            .map(|pid| Arc::new(Asker::new(pid, resource.clone()))),
        resource,
        timeouts: stream.map_or(NO_TIMEOUTS, StreamSpec::timeouts),
        shape: Shape {
            stream: stream.is_some(),
            tools: spec.tools,
            max_asks: spec.max_asks,
            inputs: (1..).zip(spec.inputs).map(argument).collect(),
        },
    };
    match spawn(run_two_way(call, route, two_way, sink)) {
        Ok(()) => (atoms::ok(), handle).encode(env),
        Err(failure) => error_term(env, &failure),
    }
}

const NO_TIMEOUTS: StreamTimeouts = StreamTimeouts {
    first_chunk: None,
    idle: None,
};

fn argument((input_id, input): (u32, InputSpec)) -> InputArgument {
    InputArgument {
        name: input.name,
        input_id,
        max_items: input.max_items,
        max_bytes: input.max_bytes,
    }
}

/// Answers an ask. `:ok`, also if nobody waits for the answer; `:large` when the value wants `answer_large`; or as
/// `call` for a value that cannot be sent.
#[rustler::nif]
fn answer<'a>(
    env: Env<'a>,
    resource: ResourceArc<ConversationResource>,
    ask_id: u64,
    value: Term<'a>,
) -> Term<'a> {
    answer_with(env, &resource, ask_id, value, QUICK_BUDGET)
}

#[rustler::nif(schedule = "DirtyCpu")]
fn answer_large<'a>(
    env: Env<'a>,
    resource: ResourceArc<ConversationResource>,
    ask_id: u64,
    value: Term<'a>,
) -> Term<'a> {
    answer_with(env, &resource, ask_id, value, usize::MAX)
}

fn answer_with<'a>(
    env: Env<'a>,
    resource: &ConversationResource,
    ask_id: u64,
    value: Term<'a>,
    budget: usize,
) -> Term<'a> {
    match encoded(resource, value, "answer", budget) {
        Ok((kind, value)) => {
            resource.conversation.answer(ToolAnswer {
                ask_id,
                value,
                kind: kind as u32,
                error: None,
            });
            atoms::ok().encode(env)
        }
        Err(refused) => refused.encode(env),
    }
}

/// The tools of so many asks that were withdrawn have ended.
#[rustler::nif]
fn withdrawals_handled(resource: ResourceArc<ConversationResource>, count: usize) -> Atom {
    resource.conversation.withdrawals_handled(count);
    atoms::ok()
}

/// What a process says of a failure.
#[derive(NifMap)]
#[rustler(decode)]
struct FailureSpec<'a> {
    code: String,
    r#type: String,
    message: String,
    /// Extended JSON, or empty.
    data: Binary<'a>,
}

impl From<FailureSpec<'_>> for ErrorDetail {
    fn from(spec: FailureSpec<'_>) -> Self {
        Self {
            code: spec.code,
            r#type: spec.r#type,
            message: spec.message,
            data: Bytes::copy_from_slice(&spec.data),
            ..Self::default()
        }
    }
}

/// Answers an ask with a failure.
#[rustler::nif]
fn answer_failed(
    resource: ResourceArc<ConversationResource>,
    ask_id: u64,
    failure: FailureSpec<'_>,
) -> Atom {
    let answer = failed(ask_id, failure.into());
    resource.conversation.answer(answer);
    atoms::ok()
}

/// Sends an item of an input. `:more` if it takes another one; `:full` if it does not now; `:busy` if it has not taken
/// this one; `:stopped` if it takes none any more. `:large` and failures are as those of `call`.
#[rustler::nif]
fn push<'a>(
    env: Env<'a>,
    handle: ResourceArc<StreamResource>,
    input_id: u32,
    item: Term<'a>,
) -> NifResult<Term<'a>> {
    push_with(env, &handle, input_id, item, QUICK_BUDGET)
}

#[rustler::nif(schedule = "DirtyCpu")]
fn push_large<'a>(
    env: Env<'a>,
    handle: ResourceArc<StreamResource>,
    input_id: u32,
    item: Term<'a>,
) -> NifResult<Term<'a>> {
    push_with(env, &handle, input_id, item, usize::MAX)
}

fn push_with<'a>(
    env: Env<'a>,
    handle: &StreamResource,
    input_id: u32,
    item: Term<'a>,
    budget: usize,
) -> NifResult<Term<'a>> {
    let resource = handle.conversation()?;
    Ok(match encoded(resource, item, "item", budget) {
        Ok((kind, value)) => {
            let pushed = match resource.conversation.push(input_id, value, kind as u8) {
                Pushed::More => atoms::more(),
                Pushed::Full => atoms::full(),
                Pushed::Busy => atoms::busy(),
                Pushed::Stopped => atoms::stopped(),
            };
            pushed.encode(env)
        }
        Err(refused) => refused.encode(env),
    })
}

/// Whether an input takes items: `:more` if it does; `:stopped` if it does not any more; `:wait` if not now: the calling
/// process gets `{:snakepit_input, reference, input_id}` when that has changed. `tied`: it gets that only while it gets
/// the messages of the call.
#[rustler::nif]
fn await_input<'a>(
    env: Env<'a>,
    handle: ResourceArc<StreamResource>,
    input_id: u32,
    reference: Term<'a>,
    tied: bool,
) -> NifResult<Atom> {
    let waiter = || {
        let guard = tied.then(|| handle.guard.clone());
        InputWaiter::new(env.pid(), reference, guard)
    };
    let conversation = &handle.conversation()?.conversation;
    Ok(match conversation.wait(input_id, waiter) {
        Taking::More => atoms::more(),
        Taking::Later => atoms::wait(),
        Taking::Stopped => atoms::stopped(),
    })
}

/// The calling process waits no longer: no message with this reference is sent.
#[rustler::nif]
fn stop_waiting<'a>(
    env: Env<'a>,
    handle: ResourceArc<StreamResource>,
    reference: Term<'a>,
) -> NifResult<Atom> {
    let pid = env.pid();
    let conversation = &handle.conversation()?.conversation;
    conversation.stop_waiting(|waiter| waiter.is(pid, reference));
    Ok(atoms::ok())
}

/// Ends an input; with a `failure` the command gets an error. Whether it had not ended.
#[rustler::nif]
fn end_input(
    handle: ResourceArc<StreamResource>,
    input_id: u32,
    failure: Option<FailureSpec<'_>>,
) -> NifResult<bool> {
    let failure = failure.map(|failure| ErrorDetail {
        reason: INPUT_ERROR.into(),
        ..failure.into()
    });
    let conversation = &handle.conversation()?.conversation;
    Ok(conversation.end_input(input_id, failure))
}

/// The reason of an input that has failed.
const INPUT_ERROR: &str = "input_error";

impl StreamResource {
    fn conversation(&self) -> NifResult<&ConversationResource> {
        match &self.demand {
            Demand::Conversation(resource) => Ok(resource),
            Demand::Credit(_) => Err(Error::BadArg),
        }
    }
}

/// A value that cannot be sent.
enum Unsendable {
    Encoding(EncodeError),
    Failure(Failure),
}

impl Encoder for Unsendable {
    fn encode<'a>(&self, env: Env<'a>) -> Term<'a> {
        match self {
            Self::Encoding(error) => error.encode(env),
            Self::Failure(failure) => error_term(env, failure),
        }
    }
}

fn encoded(
    resource: &ConversationResource,
    value: Term<'_>,
    what: &'static str,
    budget: usize,
) -> Result<(Kind, Bytes), Unsendable> {
    let (kind, bytes) = codec::encode_value(value, Rules::Kinds, budget)
        .map_err(|error| Unsendable::Encoding(error.under(what)))?;
    let (size, limit) = (bytes.len(), resource.limit());
    if size > limit {
        return Err(Unsendable::Failure(Failure::TooLarge { what, size, limit }));
    }
    Ok((kind, bytes))
}
