//! The table of NIFs.

use crate::{
    atoms,
    call::{Call, Link, Owner, Patience, Route, Unary, Waiting, Watched, run_stream, run_unary},
    channel::{Address, Channel, Target},
    codec::{self, EncodeError, Rules},
    credit::Credit,
    dispatcher::{Dispatcher, Lease, Limits, Session, Unavailable, WorkerKey},
    events::{Events, Gate},
    failure::Failure,
    output,
    pool::{Pool, Worker, drop_session, listener},
    reply::{Reply, notify},
    runtime, wire,
};
use bytes::Bytes;
use rustix::process::{Pid, Signal, kill_process_group};
use rustler::{
    Atom, Encoder, Env, LocalPid, Monitor, NifResult, NifTuple, OwnedEnv, Resource, ResourceArc,
    Term,
};
use snakepit_proto::{Field, Fields, HealthRequest, InfoRequest};
use std::{
    collections::{BTreeMap, HashMap},
    hash::{BuildHasher, RandomState},
    sync::{
        Arc, LazyLock, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};
use tokio_util::sync::CancellationToken;

/// What a quick NIF may encode, in bytes' worth of work: some ten microseconds.
const QUICK_BUDGET: usize = 64 * 1024;

struct PoolResource(Arc<Pool>);

#[rustler::resource_impl]
impl Resource for PoolResource {
    const IMPLEMENTS_DOWN: bool = true;

    /// The control plane is gone: nobody would start another worker.
    fn down<'a>(&'a self, _env: Env<'a>, _pid: LocalPid, _monitor: Monitor) {
        self.0.close();
    }
}

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

struct ChannelResource(Arc<Link>);

#[rustler::resource_impl]
impl Resource for ChannelResource {}

/// Watches a call's owner. A unary call's task holds it; a stream's belongs to Elixir, so that
/// dropping it cancels the stream too.
struct CallResource {
    cancelled: CancellationToken,
    /// What else is to be done when the owner is gone.
    cancel: Mutex<Option<Box<dyn FnOnce() + Send>>>,
    credit: Credit,
    gate: Gate,
}

#[rustler::resource_impl]
impl Resource for CallResource {
    const IMPLEMENTS_DOWN: bool = true;

    fn down<'a>(&'a self, _env: Env<'a>, _pid: LocalPid, _monitor: Monitor) {
        self.cancelled.cancel();
        if let Some(cancel) = self.take_cancel() {
            cancel();
        }
    }
}

impl CallResource {
    fn take_cancel(&self) -> Option<Box<dyn FnOnce() + Send>> {
        self.cancel
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
    }
}

struct Owned(ResourceArc<CallResource>);

impl Owner for Owned {
    fn watch(&self, cancel: Box<dyn FnOnce() + Send>) {
        let kept = &self.0.cancel;
        *kept.lock().unwrap_or_else(PoisonError::into_inner) = Some(cancel);
        // Whoever found nothing to do before has left it to us.
        if self.0.cancelled.is_cancelled()
            && let Some(cancel) = self.0.take_cancel()
        {
            let _ = spawn(async move { cancel() });
        }
    }
}

impl Drop for CallResource {
    fn drop(&mut self) {
        self.cancelled.cancel();
    }
}

fn millis(timeout: Option<u64>) -> Option<Duration> {
    timeout.map(Duration::from_millis)
}

/// `:ok`, or the failure as the NIF's value.
fn started<'a>(env: Env<'a>, done: Result<(), Failure>) -> Term<'a> {
    match done {
        Ok(()) => atoms::ok().encode(env),
        Err(failure) => env.error_tuple(failure),
    }
}

fn spawn(work: impl Future<Output = ()> + Send + 'static) -> Result<(), Failure> {
    let runtime = runtime::get().map_err(|error| Failure::Unreachable {
        address: "tokio".into(),
        cause: error.to_string(),
    })?;
    runtime.spawn(work);
    Ok(())
}

/// With `told` the calling process gets `{:snakepit_session, event, ids, worker_id}`.
#[rustler::nif]
fn pool_new(
    env: Env<'_>,
    max_queue: usize,
    max_sessions: usize,
    session_ttl: Option<u64>,
    pipeline_budget: u64,
    told: bool,
) -> ResourceArc<PoolResource> {
    let told = told.then(|| env.pid());
    let limits = Limits {
        max_queue,
        max_sessions,
        session_ttl: millis(session_ttl),
        pipeline_budget: Duration::from_micros(pipeline_budget),
    };
    let pool = ResourceArc::new(PoolResource(Dispatcher::new(limits, listener(told))));
    env.monitor(&pool, &env.pid());
    pool
}

#[rustler::nif]
fn pool_close(pool: ResourceArc<PoolResource>) -> Atom {
    pool.0.close();
    atoms::ok()
}

#[rustler::nif]
fn pool_set_unavailable(pool: ResourceArc<PoolResource>, why: String, no_grpc: bool) -> Atom {
    pool.0.set_unavailable(Unavailable { why, no_grpc });
    atoms::ok()
}

/// Adds the calling process's worker.
#[rustler::nif]
fn pool_add(
    env: Env<'_>,
    pool: ResourceArc<PoolResource>,
    channel: Option<ResourceArc<ChannelResource>>,
    id: String,
    capacity: usize,
    kill_grace: u64,
) -> u64 {
    if let Some(calls) = channel
        .as_ref()
        .and_then(|channel| channel.0.calls.as_ref())
    {
        calls.set_capacity(capacity);
    }
    let worker = Worker {
        id,
        link: channel.map(|channel| channel.0.clone()),
        owner: env.pid(),
        kill_grace: Duration::from_millis(kill_grace),
    };
    pool.0.add(Arc::new(worker), capacity).0
}

#[rustler::nif]
fn pool_drain(pool: ResourceArc<PoolResource>, key: u64) -> usize {
    pool.0.drain(WorkerKey(key))
}

#[rustler::nif]
fn pool_remove(pool: ResourceArc<PoolResource>, key: u64) -> bool {
    pool.0.remove(WorkerKey(key))
}

/// Whether there was such a session.
#[rustler::nif]
fn pool_end_session(pool: ResourceArc<PoolResource>, id: &str) -> bool {
    let ended = pool.0.end_session(id);
    let known = ended.is_some();
    if let Some((worker, generation)) = ended {
        drop_session(worker, id.into(), generation);
    }
    known
}

#[rustler::nif]
fn pool_sessions(pool: ResourceArc<PoolResource>) -> usize {
    pool.0.snapshot().sessions
}

#[rustler::nif]
fn runtime_tasks() -> usize {
    runtime::tasks()
}

#[rustler::nif]
fn pool_expire_sessions(pool: ResourceArc<PoolResource>) -> Atom {
    pool.0.expire_sessions();
    atoms::ok()
}

/// `{queued, [{key, in_flight, draining}]}`.
#[rustler::nif]
fn pool_snapshot(pool: ResourceArc<PoolResource>) -> (usize, Vec<(u64, usize, bool)>) {
    let snapshot = pool.0.snapshot();
    let workers = snapshot.workers.into_iter();
    (
        snapshot.queued,
        workers
            .map(|(key, in_flight, draining)| (key.0, in_flight, draining))
            .collect(),
    )
}

/// Replies `{ref, {:ok, channel} | {:error, failure}}` and, if it is to be watched, `{ref, :closed}`
/// once the connection is lost.
#[rustler::nif]
fn connect<'a>(
    env: Env<'a>,
    reference: Term<'a>,
    address: &str,
    secret: Option<String>,
    max_message_size: usize,
    timeout: u64,
    watched: bool,
) -> Term<'a> {
    let deadline = Instant::now() + Duration::from_millis(timeout);
    let target = match Address::parse(address) {
        Ok(address) => Target {
            address,
            secret,
            max_message_size,
            deadline,
        },
        Err(failure) => return env.error_tuple(failure),
    };
    let owner = env.pid();
    let reply = Reply::new(owner, reference);
    let closing = watched.then(|| Reply::new(owner, reference));
    let done = spawn(async move {
        let connected = Link::connect(&target).await;
        let closed = connected
            .as_ref()
            .ok()
            .map(|link| link.channel.closed.clone());
        reply.send_result(connected, |env, link| {
            ResourceArc::new(ChannelResource(link)).encode(env)
        });
        match (closing, closed) {
            (Some(closing), Some(closed)) => {
                closed.cancelled().await;
                closing.send(|env| atoms::closed().encode(env));
            }
            (Some(closing), None) => closing.forget(),
            (None, _) => {}
        }
    });
    started(env, done)
}

#[rustler::nif]
fn health<'a>(
    env: Env<'a>,
    reference: Term<'a>,
    channel: ResourceArc<ChannelResource>,
    worker_id: String,
    timeout: u64,
) -> Term<'a> {
    let channel = channel.0.channel.clone();
    let request = HealthRequest {
        worker_id,
        await_call_id: 0,
    };
    let work = async move |channel: Channel, timeout| {
        let mut client = channel.client.clone();
        client
            .health(Channel::request(request, Some(timeout)))
            .await
    };
    ask(env, reference, channel, timeout, work, |env, health| {
        Term::map_from_pairs(
            env,
            &[
                ("healthy", health.healthy.encode(env)),
                ("worker_id", health.worker_id.encode(env)),
                ("uptime_ms", health.uptime_ms.encode(env)),
                ("total_requests", health.total_requests.encode(env)),
                ("total_errors", health.total_errors.encode(env)),
                ("version", health.version.encode(env)),
                ("running", health.running_call_ids.len().encode(env)),
                ("python_stuck_ms", health.python_stuck_ms.encode(env)),
            ],
        )
    })
}

#[rustler::nif]
fn get_info<'a>(
    env: Env<'a>,
    reference: Term<'a>,
    channel: ResourceArc<ChannelResource>,
    timeout: u64,
) -> Term<'a> {
    let channel = channel.0.channel.clone();
    let request = InfoRequest {
        include_capabilities: true,
        include_stats: true,
    };
    let work = async move |channel: Channel, timeout| {
        let mut client = channel.client.clone();
        client
            .get_info(Channel::request(request, Some(timeout)))
            .await
    };
    ask(env, reference, channel, timeout, work, |env, info| {
        let stats = info.stats.unwrap_or_default();
        let stats = Term::map_from_pairs(
            env,
            &[
                ("requests_handled", stats.requests_handled.encode(env)),
                ("requests_failed", stats.requests_failed.encode(env)),
                ("uptime_ms", stats.uptime_ms.encode(env)),
                ("memory_usage_bytes", stats.memory_usage_bytes.encode(env)),
                ("cpu_usage_percent", stats.cpu_usage_percent.encode(env)),
                ("active_sessions", stats.active_sessions.encode(env)),
                ("python_stuck_ms", stats.python_stuck_ms.encode(env)),
            ],
        )?;
        Term::map_from_pairs(
            env,
            &[
                ("worker_type", info.worker_type.encode(env)),
                ("version", info.version.encode(env)),
                ("supported_commands", info.supported_commands.encode(env)),
                ("capabilities", string_map(info.capabilities).encode(env)),
                ("stats", stats),
                ("system_info", string_map(info.system_info).encode(env)),
            ],
        )
    })
}

fn string_map(map: BTreeMap<String, String>) -> HashMap<String, String> {
    map.into_iter().collect()
}

/// Runs one of a server's own RPCs and replies `{ref, {:ok, term} | {:error, failure}}`.
fn ask<'a, T, W, F>(
    env: Env<'a>,
    reference: Term<'a>,
    channel: Channel,
    timeout: u64,
    rpc: W,
    encode: impl for<'b> FnOnce(Env<'b>, T) -> NifResult<Term<'b>> + Send + 'static,
) -> Term<'a>
where
    T: Send + 'static,
    W: FnOnce(Channel, Duration) -> F + Send + 'static,
    F: Future<Output = Result<tonic::Response<T>, tonic::Status>> + Send + 'static,
{
    let reply = Reply::new(env.pid(), reference);
    let after = Duration::from_millis(timeout);
    let done = spawn(async move {
        let limit = channel.max_message_size;
        let answer = match tokio::time::timeout(after, rpc(channel, after)).await {
            Ok(Ok(response)) => Ok(response.into_inner()),
            Ok(Err(status)) => Err(Failure::from_status(&status, limit, false)),
            Err(_) => Err(Failure::Timeout {
                after,
                queued: false,
            }),
        };
        reply.send_result(answer, |env, value| {
            encode(env, value).unwrap_or_else(|_| atoms::nil().encode(env))
        });
    });
    started(env, done)
}

#[derive(NifTuple)]
struct Spec<'a> {
    reference: Term<'a>,
    command: String,
    args: Term<'a>,
    /// Its id, and whether its calls wait for its worker.
    session: Option<(String, bool)>,
    request_id: Option<String>,
    timeout: Option<u64>,
    queue_timeout: Option<u64>,
    metadata: Vec<(String, String)>,
}

impl Spec<'_> {
    fn call(self, args: Fields) -> Call {
        let id = next_call_id();
        Call {
            id,
            command: self.command,
            args,
            session: self.session.map(|(id, strict)| Session {
                id: id.into(),
                strict,
            }),
            request_id: self.request_id.unwrap_or_else(|| make_request_id(id)),
            metadata: self.metadata,
            started: Instant::now(),
            timeout: millis(self.timeout),
            queue_timeout: millis(self.queue_timeout),
            cancelled: CancellationToken::new(),
        }
    }
}

/// `:ok`; `:large` when the arguments want `call_large`, `{:struct, path, name}` when they have a
/// struct that only Elixir can encode; or a refusal.
#[rustler::nif]
fn call<'a>(env: Env<'a>, target: Term<'a>, spec: Spec<'a>) -> NifResult<Term<'a>> {
    start_unary(env, target, spec, QUICK_BUDGET)
}

#[rustler::nif(schedule = "DirtyCpu")]
fn call_large<'a>(env: Env<'a>, target: Term<'a>, spec: Spec<'a>) -> NifResult<Term<'a>> {
    start_unary(env, target, spec, usize::MAX)
}

/// What a stream is beside a call.
#[derive(NifTuple)]
struct StreamSpec<'a> {
    pool: Term<'a>,
    demand: usize,
    /// Whether credit comes back for each chunk.
    bounded: bool,
    first_chunk_timeout: Option<u64>,
    idle_timeout: Option<u64>,
    /// Who is told of the end as well, and with which term.
    observer: Option<(LocalPid, Term<'a>)>,
}

/// `{:ok, handle}`; or what `call` returns, and `:large` wants `stream_large`.
#[rustler::nif]
fn stream<'a>(
    env: Env<'a>,
    target: Term<'a>,
    spec: Spec<'a>,
    how: StreamSpec<'a>,
) -> NifResult<Term<'a>> {
    start_stream(env, target, spec, how, QUICK_BUDGET)
}

#[rustler::nif(schedule = "DirtyCpu")]
fn stream_large<'a>(
    env: Env<'a>,
    target: Term<'a>,
    spec: Spec<'a>,
    how: StreamSpec<'a>,
) -> NifResult<Term<'a>> {
    start_stream(env, target, spec, how, usize::MAX)
}

#[rustler::nif]
fn ask_more(handle: ResourceArc<CallResource>, chunks: usize) -> Atom {
    handle.credit.add(chunks);
    atoms::ok()
}

/// Once it has returned, no event of the stream is sent any more.
#[rustler::nif]
fn cancel(handle: ResourceArc<CallResource>) -> Atom {
    handle.gate.close();
    handle.cancelled.cancel();
    atoms::ok()
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

/// `{id, request_id}` for a call that does not go through `call`.
#[rustler::nif]
fn new_call() -> (u64, String) {
    let id = next_call_id();
    (id, make_request_id(id))
}

fn start_unary<'a>(
    env: Env<'a>,
    target: Term<'a>,
    spec: Spec<'a>,
    budget: usize,
) -> NifResult<Term<'a>> {
    let reference = spec.reference;
    let (call, route) = match prepare(target, spec, budget, true)? {
        Ok(prepared) => prepared,
        Err(term) => return Ok(term.encode(env)),
    };
    let owner: Watched = Arc::new(Owned(watch_owner(env, &call, Credit::new(0, false))));
    let reply = Reply::new(env.pid(), reference);
    let route = match route.at_once() {
        Ok(place) => match place.calls(&call) {
            Some(calls) => {
                if let Err(failure) = call.check_size(place.channel()) {
                    reply.forget();
                    return Ok(env.error_tuple(failure));
                }
                Unary::start(&calls, call, place, reply, owner);
                return Ok(atoms::ok().encode(env));
            }
            None => Route::At(place),
        },
        Err(route) => route,
    };
    let done = spawn(run_unary(call, route, reply, owner));
    Ok(started(env, done))
}

fn start_stream<'a>(
    env: Env<'a>,
    target: Term<'a>,
    spec: Spec<'a>,
    how: StreamSpec<'a>,
    budget: usize,
) -> NifResult<Term<'a>> {
    let reference = spec.reference;
    let (call, route) = match prepare(target, spec, budget, false)? {
        Ok(prepared) => prepared,
        Err(term) => return Ok(term.encode(env)),
    };
    let credit = Credit::new(how.demand, how.bounded);
    let handle = watch_owner(env, &call, credit.clone());
    let patience = Patience {
        first_chunk: millis(how.first_chunk_timeout),
        idle: millis(how.idle_timeout),
    };
    let gate = handle.gate.clone();
    let events = Events::new(
        env.pid(),
        reference,
        how.pool,
        &call.command,
        gate,
        how.observer,
    );
    Ok(
        match spawn(run_stream(call, route, credit, patience, events)) {
            Ok(()) => (atoms::ok(), handle).encode(env),
            Err(failure) => env.error_tuple(failure),
        },
    )
}

fn watch_owner(env: Env<'_>, call: &Call, credit: Credit) -> ResourceArc<CallResource> {
    let owner = ResourceArc::new(CallResource {
        cancelled: call.cancelled.clone(),
        cancel: Mutex::default(),
        credit,
        gate: Gate::default(),
    });
    env.monitor(&owner, &env.pid());
    owner
}

/// Why a NIF did not start a call.
enum NotStarted {
    NotEncoded(EncodeError),
    /// With the request's id.
    Failed(Failure, String),
}

impl Encoder for NotStarted {
    fn encode<'a>(&self, env: Env<'a>) -> Term<'a> {
        match self {
            Self::NotEncoded(error) => error.encode(env),
            Self::Failed(failure, request_id) => (atoms::error(), failure, request_id).encode(env),
        }
    }
}

impl Encoder for EncodeError {
    fn encode<'a>(&self, env: Env<'a>) -> Term<'a> {
        match self {
            Self::OverBudget => atoms::large().encode(env),
            Self::Struct { path, name } => (atoms::r#struct(), path, name).encode(env),
            Self::Invalid { path, message } => {
                env.error_tuple(Failure::InvalidArgs(format!("{path} {message}")))
            }
        }
    }
}

type Prepared = Result<(Call, Route), NotStarted>;

/// Encodes the arguments, then takes a place on a worker or in the queue.
fn prepare(target: Term<'_>, spec: Spec<'_>, budget: usize, unary: bool) -> NifResult<Prepared> {
    let args = match codec::encode_args(spec.args, Rules::Kinds, budget) {
        Ok(args) => args,
        Err(error) => return Ok(Err(NotStarted::NotEncoded(error))),
    };
    let call = spec.call(args);
    if let Ok(pool) = target.decode::<ResourceArc<PoolResource>>() {
        return Ok(
            match Waiting::begin(&pool.0, &call, unary && call.is_short()) {
                Ok(waiting) => Ok((call, Route::Pool(waiting))),
                Err(failure) => Err(NotStarted::Failed(failure, call.request_id)),
            },
        );
    }
    let channel: ResourceArc<ChannelResource> = target.decode()?;
    Ok(Ok((call, Route::Channel(channel.0.clone()))))
}

fn next_call_id() -> u64 {
    static LAST: AtomicU64 = AtomicU64::new(0);
    LAST.fetch_add(1, Ordering::Relaxed) + 1
}

/// Unique within a cluster for all purposes: a random part for the node, a number for the call.
fn make_request_id(id: u64) -> String {
    static NODE: LazyLock<u64> = LazyLock::new(|| RandomState::new().hash_one(0));
    format!("{:016x}-{id}", *NODE)
}

/// The plain rules as functions, for `Snakepit.GRPC.Client`.
#[rustler::nif(schedule = "DirtyCpu")]
fn encode_args<'a>(env: Env<'a>, args: Term<'a>) -> NifResult<Term<'a>> {
    match codec::encode_args(args, Rules::Plain, usize::MAX) {
        Ok(fields) => {
            let pairs: Vec<_> = fields
                .values
                .iter()
                .map(|field| {
                    (
                        codec::copied(env, &field.key),
                        codec::binary(env, &field.value),
                    )
                })
                .collect();
            Ok((atoms::ok(), Term::map_from_pairs(env, &pairs)?).encode(env))
        }
        Err(error) => Ok(error.encode(env)),
    }
}

#[rustler::nif(schedule = "DirtyCpu")]
fn decode_result<'a>(env: Env<'a>, result: HashMap<String, rustler::Binary<'a>>) -> Term<'a> {
    let values = result
        .into_iter()
        .map(|(key, value)| Field::new(key, Bytes::copy_from_slice(&value)));
    let fields = Fields::received(values.collect(), None);
    match codec::decode_fields(env, &fields, None) {
        Ok(map) => (atoms::ok(), map).encode(env),
        Err(failure) => env.error_tuple(failure),
    }
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
