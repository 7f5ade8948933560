//! Calls and streams.

use super::{channel::ChannelResource, millis, pool::PoolResource, spawn};
use crate::{
    atoms,
    call::{
        self, Call, Overdue, Refused, Route, StreamTimeouts, Target, Waited, run_stream,
        start_unary,
    },
    codec::{self, EncodeError, Rules},
    conversation::ConversationResource,
    events::{Events, Recipient},
    failure_term::{error_term, failure_term},
    progress::Progress,
    progress_listener::ProgressListener,
    reply::Reply,
    send_guard::SendGuard,
};
use rustler::{
    Atom, Decoder, Encoder, Env, LocalPid, Monitor, NifMap, NifResult, NifUnitEnum, Resource,
    ResourceArc, Term,
};
use snakepit_client::{
    credit::Credit,
    error::Failure,
    pool::{Priority, Session},
};
use snakepit_proto::{CallHeader, Fields};
use std::{
    fmt::Write,
    hash::{BuildHasher, RandomState},
    sync::{
        Arc, LazyLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};
use tokio_util::sync::CancellationToken;

/// How much a quick NIF may encode, in bytes: some forty microseconds of work.
pub(super) const QUICK_BUDGET: usize = 256 * 1024;

/// A stream, or a two-way call. Elixir has the only reference to it: dropping that cancels it, as does the exit of its
/// owner.
pub(super) struct StreamResource {
    pub(super) cancelled: CancellationToken,
    pub(super) demand: Demand,
    /// Only if the owner receives the chunks as messages.
    pub(super) progress: Option<Arc<Progress>>,
    pub(super) guard: SendGuard,
}

/// What the owner's demand for chunks adds to.
pub(super) enum Demand {
    Credit(Credit),
    /// Of a two-way call.
    Conversation(ResourceArc<ConversationResource>),
}

#[rustler::resource_impl]
impl Resource for StreamResource {
    const IMPLEMENTS_DOWN: bool = true;

    fn down<'a>(&'a self, _env: Env<'a>, _pid: LocalPid, _monitor: Monitor) {
        self.cancelled.cancel();
    }
}

impl StreamResource {
    /// The call ends with this process, which may have ended already.
    pub(super) fn end_with(call: &ResourceArc<Self>, env: Env<'_>, pid: &LocalPid) {
        if env.monitor(call, pid).is_none() {
            call.cancelled.cancel();
        }
    }
}

impl Drop for StreamResource {
    fn drop(&mut self) {
        self.cancelled.cancel();
    }
}

#[derive(Default, NifUnitEnum)]
enum PriorityTerm {
    High,
    #[default]
    Normal,
    Low,
}

impl From<PriorityTerm> for Priority {
    fn from(term: PriorityTerm) -> Self {
        match term {
            PriorityTerm::High => Self::High,
            PriorityTerm::Normal => Self::Normal,
            PriorityTerm::Low => Self::Low,
        }
    }
}

/// Who chooses the worker of a session.
#[derive(NifUnitEnum)]
enum AffinityTerm {
    Strict,
    Prefer,
    Server,
}

impl AffinityTerm {
    /// Whether the calls of a session wait for its worker; `None` if the pool does not know the session.
    fn is_strict(&self) -> Option<bool> {
        match self {
            Self::Strict => Some(true),
            Self::Prefer => Some(false),
            Self::Server => None,
        }
    }
}

/// A call but for its arguments.
#[derive(NifMap)]
#[rustler(decode)]
pub(super) struct Spec {
    command: String,
    request_id: Option<String>,
    timeout: Option<u64>,
    queue_timeout: Option<u64>,
    further: Option<Further>,
}

/// What most calls have none of.
#[derive(Default, NifMap)]
#[rustler(decode)]
struct Further {
    priority: PriorityTerm,
    session: Option<(String, AffinityTerm)>,
    metadata: Vec<(String, String)>,
    /// Whether the caller takes the call's progress.
    progress: bool,
    /// The calls that wait for this one.
    holding: Vec<Holding>,
}

/// A two-way call that waits for another one.
struct Holding(Option<ResourceArc<ConversationResource>>);

impl<'a> Decoder<'a> for Holding {
    /// From what the process of a tool has of its call, or from the handle that the call's caller has.
    fn decode(term: Term<'a>) -> NifResult<Self> {
        if let Ok(conversation) = term.decode() {
            return Ok(Self(Some(conversation)));
        }
        let handle: ResourceArc<StreamResource> = term.decode()?;
        Ok(Self(match &handle.demand {
            Demand::Conversation(conversation) => Some(conversation.clone()),
            Demand::Credit(_) => None,
        }))
    }
}

impl Spec {
    pub(super) fn takes_progress(&self) -> bool {
        self.further
            .as_ref()
            .is_some_and(|further| further.progress)
    }

    pub(super) fn call(self, args: Fields, started: Instant) -> Call {
        let id = next_call_id();
        let timeout = millis(self.timeout);
        let further = self.further.unwrap_or_default();
        let mut header = CallHeader::new(self.command, args);
        header.set_request_id(self.request_id.unwrap_or_else(|| make_request_id(id)));
        header.set_metadata(further.metadata);
        header.set_deadline(timeout.map(|timeout| started + timeout));
        let session = further.session.and_then(|(id, affinity)| {
            let strict = affinity.is_strict();
            let session = strict.map(|strict| Session {
                id: id.as_str().into(),
                strict,
            });
            header.set_session(id.into());
            session
        });
        Call {
            id,
            header,
            session,
            started,
            timeout,
            queue_timeout: millis(self.queue_timeout),
            priority: further.priority.into(),
            cancelled: CancellationToken::new(),
            remote: false,
            numbers: None,
            progress: None,
            holding: further
                .holding
                .into_iter()
                .filter_map(|one| one.0)
                .collect(),
        }
    }
}

/// `{:ok, handle}`; `:large` when the arguments want `call_large`, `{:struct, path, name}` when they have a
/// struct that only Elixir can encode; or a refusal.
#[rustler::nif]
fn call<'a>(
    env: Env<'a>,
    target: Term<'a>,
    reference: Term<'a>,
    arguments: Term<'a>,
    spec: Spec,
) -> NifResult<Term<'a>> {
    let progress = spec.takes_progress();
    let prepared = prepare(target, arguments, spec, QUICK_BUDGET)?;
    Ok(unary(env, reference, progress, prepared))
}

#[rustler::nif(schedule = "DirtyCpu")]
fn call_large<'a>(
    env: Env<'a>,
    target: Term<'a>,
    reference: Term<'a>,
    arguments: Term<'a>,
    spec: Spec,
) -> NifResult<Term<'a>> {
    let progress = spec.takes_progress();
    let prepared = prepare(target, arguments, spec, usize::MAX)?;
    Ok(unary(env, reference, progress, prepared))
}

/// The properties of a stream in addition to those of a call.
#[derive(NifMap)]
#[rustler(decode)]
pub(super) struct StreamSpec<'a> {
    pool: Term<'a>,
    pub(super) demand: usize,
    /// Whether credit comes back for each chunk.
    pub(super) bounded: bool,
    first_chunk_timeout: Option<u64>,
    idle_timeout: Option<u64>,
    /// The process that is also notified of the end, and the term for that message.
    observer: Option<(LocalPid, Term<'a>)>,
}

/// `{:ok, handle}`; or what `call` returns, and `:large` wants `stream_large`.
#[rustler::nif]
fn stream<'a>(
    env: Env<'a>,
    target: Term<'a>,
    reference: Term<'a>,
    arguments: Term<'a>,
    spec: Spec,
    stream_spec: StreamSpec<'a>,
) -> NifResult<Term<'a>> {
    let prepared = prepare(target, arguments, spec, QUICK_BUDGET)?;
    Ok(streaming(env, reference, prepared, &stream_spec))
}

#[rustler::nif(schedule = "DirtyCpu")]
fn stream_large<'a>(
    env: Env<'a>,
    target: Term<'a>,
    reference: Term<'a>,
    arguments: Term<'a>,
    spec: Spec,
    stream_spec: StreamSpec<'a>,
) -> NifResult<Term<'a>> {
    let prepared = prepare(target, arguments, spec, usize::MAX)?;
    Ok(streaming(env, reference, prepared, &stream_spec))
}

#[rustler::nif]
fn ask_more(handle: ResourceArc<StreamResource>, chunks: usize) -> Atom {
    if let Some(progress) = &handle.progress {
        progress.ask(chunks);
    }
    match &handle.demand {
        Demand::Credit(credit) => credit.add(chunks),
        Demand::Conversation(resource) => resource.conversation.ask_chunks(chunks),
    }
    atoms::ok()
}

/// Takes the handle of a stream or of a call. Once it has returned, no event of the stream and no reply to the call is
/// sent.
#[rustler::nif]
fn cancel<'a>(env: Env<'a>, handle: Term<'a>) -> NifResult<Atom> {
    match handle.decode::<ResourceArc<StreamResource>>() {
        Ok(stream) => {
            stream.guard.close();
            stream.cancelled.cancel();
        }
        Err(_) => call::cancel(env, handle.decode()?),
    }
    Ok(atoms::ok())
}

/// `{id, request_id}` for a call that does not go through `call`.
#[rustler::nif]
fn new_call() -> (u64, String) {
    let id = next_call_id();
    (id, make_request_id(id))
}

fn unary<'a>(env: Env<'a>, reference: Term<'a>, progress: bool, prepared: Prepared) -> Term<'a> {
    let (mut call, target) = match prepared {
        Ok(prepared) => prepared,
        Err(error) => return error.encode(env),
    };
    let waited = Waited::by(env, &call);
    if progress {
        let listener = ProgressListener::new(env.pid(), reference, waited.guard());
        call.progress = Some(listener);
    }
    let reply = Reply::guarded(env.pid(), reference, waited.guard());
    let id = call.id;
    match start_unary(call, target, reply, waited) {
        Ok(()) => (atoms::ok(), id).encode(env),
        Err(refused) => refused.encode(env),
    }
}

fn streaming<'a>(
    env: Env<'a>,
    reference: Term<'a>,
    prepared: Prepared,
    stream: &StreamSpec<'a>,
) -> Term<'a> {
    let (call, target) = match prepared {
        Ok(prepared) => prepared,
        Err(error) => return error.encode(env),
    };
    let route = match Route::to(target, &call, false) {
        Ok(route) => route,
        Err(failure) => return Refused { failure, call }.encode(env),
    };
    let credit = Credit::new(stream.demand, stream.bounded);
    let progress = (!stream.bounded).then(|| Progress::new(call.started, stream.demand));
    let handle = ResourceArc::new(StreamResource {
        cancelled: call.cancelled.clone(),
        demand: Demand::Credit(credit.clone()),
        progress,
        guard: SendGuard::default(),
    });
    StreamResource::end_with(&handle, env, &env.pid());
    let timeouts = stream.timeouts();
    let events = stream.events(env, reference, &call, &handle);
    match spawn(run_stream(*call, route, credit, timeouts, events)) {
        Ok(()) => (atoms::ok(), handle).encode(env),
        Err(failure) => error_term(env, &failure),
    }
}

impl<'a> StreamSpec<'a> {
    pub(super) fn timeouts(&self) -> StreamTimeouts {
        StreamTimeouts {
            first_chunk: millis(self.first_chunk_timeout),
            idle: millis(self.idle_timeout),
        }
    }

    /// What sends the stream's messages to the calling process.
    pub(super) fn events(
        &self,
        env: Env<'a>,
        reference: Term<'a>,
        call: &Call,
        handle: &StreamResource,
    ) -> Events {
        let recipient = || {
            Recipient::new(
                env.pid(),
                reference,
                self.pool,
                call.header.command(),
                handle.guard.clone(),
                self.observer,
                handle.progress.clone(),
            )
        };
        let watch = handle.progress.clone().and_then(|progress| {
            Overdue::new(call, recipient(), progress, self.timeouts()).watch()
        });
        Events::new(recipient(), watch)
    }
}

/// With the request's id.
impl Encoder for Refused {
    fn encode<'a>(&self, env: Env<'a>) -> Term<'a> {
        let request_id = self.call.header.request_id();
        (atoms::error(), failure_term(env, &self.failure), request_id).encode(env)
    }
}

impl Encoder for EncodeError {
    fn encode<'a>(&self, env: Env<'a>) -> Term<'a> {
        match self {
            Self::OverBudget => atoms::large().encode(env),
            Self::Struct { path, name } => (atoms::r#struct(), path, name).encode(env),
            Self::Invalid { path, message } => error_term(
                env,
                &Failure::InvalidArgs(format!("{path} {message}").trim_start().into()),
            ),
        }
    }
}

pub(super) type Prepared = Result<(Box<Call>, Target), EncodeError>;

/// Encodes the arguments.
pub(super) fn prepare(
    target: Term<'_>,
    args: Term<'_>,
    spec: Spec,
    budget: usize,
) -> NifResult<Prepared> {
    let args = match codec::encode_args(args, Rules::Kinds, budget) {
        Ok(args) => args,
        Err(error) => return Ok(Err(error)),
    };
    let mut call = Box::new(spec.call(args, Instant::now()));
    let target = match target.decode::<ResourceArc<PoolResource>>() {
        Ok(pool) => {
            call.numbers = Some(pool.numbers.clone());
            call.remote = pool.dispatcher.is_remote();
            Target::Pool(pool.dispatcher.clone())
        }
        Err(_) => Target::Channel(target.decode::<ResourceArc<ChannelResource>>()?.0.clone()),
    };
    Ok(Ok((call, target)))
}

fn next_call_id() -> u64 {
    static LAST: AtomicU64 = AtomicU64::new(0);
    LAST.fetch_add(1, Ordering::Relaxed) + 1
}

/// Enough for the longest one, so that it is never moved.
const REQUEST_ID_SIZE: usize = 37;

/// Unique within a cluster: a random part for the node, a number for the call.
fn make_request_id(id: u64) -> String {
    static NODE: LazyLock<String> =
        LazyLock::new(|| format!("{:016x}-", RandomState::new().hash_one(0)));
    let mut request_id = String::with_capacity(REQUEST_ID_SIZE);
    request_id.push_str(&NODE);
    // This cannot fail.
    let _ = write!(request_id, "{id}");
    request_id
}
