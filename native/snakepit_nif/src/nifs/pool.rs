//! A pool: its workers and its sessions.

use super::{channel::ChannelResource, millis, time};
use crate::{
    allowance::Allowance,
    atoms,
    call::{Pool, Worker},
    numbers::Numbers,
    pool::{drop_server_session, drop_session, listener},
    terms::{CommandTerm, NumbersTerm},
};
use snakepit_client::faults::FaultCount;
use snakepit_client::numbers::{Ended, EndedAsk};
use snakepit_client::pool::{
    AcquireError, BatchCommand, Dispatcher, Limits, Unavailable, WorkerKey,
};
use snakepit_client::target::ExitCause;

use parking_lot::Mutex;
use rustler::{Atom, Encoder, Env, LocalPid, Monitor, NifMap, Resource, ResourceArc, Term};
use std::{num::NonZero, sync::Arc, thread, time::Duration};

/// How many events of commands a pool takes of one worker in a second. A worker sends half as many.
const EVENTS_PER_SECOND: u32 = 2000;

/// A pool, and what its calls took.
pub(super) struct PoolResource {
    pub(super) dispatcher: Arc<Pool>,
    manager: LocalPid,
    pub(super) numbers: Arc<Numbers>,
    /// Why the local workers have exited, by their owners.
    exit_causes: Mutex<Vec<(LocalPid, ExitCause)>>,
    /// The owners of workers, each of which it monitors.
    owners: Mutex<Vec<LocalPid>>,
}

#[rustler::resource_impl]
impl Resource for PoolResource {
    const IMPLEMENTS_DOWN: bool = true;

    /// A pool ends with its manager, because no more workers would be started. A worker leaves with its owner,
    /// however that has ended.
    fn down<'a>(&'a self, _env: Env<'a>, pid: LocalPid, _monitor: Monitor) {
        if pid == self.manager {
            self.dispatcher.close(AcquireError::Closed);
        } else {
            self.owners.lock().retain(|owner| *owner != pid);
            self.owner_ended(pid);
            self.dispatcher
                .remove_where(|_key, worker| worker.owner == pid);
        }
    }
}

impl PoolResource {
    /// Its worker may have left already, with its connection.
    fn owner_ended(&self, owner: LocalPid) {
        self.exit_causes.lock().retain(|(one, cause)| {
            let is_its = *one == owner;
            if is_its {
                // Only if the owner was killed before it could say why.
                cause.set("its process has ended".into());
            }
            !is_its
        });
    }
}

/// How the calls of an endpoint fail.
struct FaultsResource(Arc<FaultCount>);

#[rustler::resource_impl]
impl Resource for FaultsResource {}

/// The owner of an endpoint with this count gets `{:snakepit_failing, why}` each time so many of its calls have failed in
/// a row.
#[rustler::nif]
fn faults(limit: u32) -> ResourceArc<FaultsResource> {
    ResourceArc::new(FaultsResource(FaultCount::new(limit)))
}

/// The options of a pool.
#[derive(NifMap)]
#[rustler(decode)]
struct PoolLimits {
    max_queue: usize,
    max_sessions: usize,
    /// Without it sessions do not expire.
    session_ttl: Option<u64>,
    /// In microseconds, all other times in ms.
    pipeline_budget: u64,
    size: usize,
    startup_timeout: u64,
    remote: bool,
}

/// The CPUs of the workers; not known of those of endpoints.
fn cpus(remote: bool) -> Option<usize> {
    let all = thread::available_parallelism().ok();
    all.map(NonZero::get).filter(|_| !remote)
}

/// With `observed` the calling process gets `{:snakepit_session, event, %{ids: ids, worker_id: id}}`.
#[rustler::nif]
fn pool_new(env: Env<'_>, limits: PoolLimits, observed: bool) -> Term<'_> {
    let observer = observed.then(|| env.pid());
    let limits = Limits {
        max_queue: limits.max_queue,
        max_sessions: limits.max_sessions,
        session_ttl: millis(limits.session_ttl),
        pipeline_budget: Duration::from_micros(limits.pipeline_budget),
        size: limits.size,
        startup_timeout: time(limits.startup_timeout),
        cpus: cpus(limits.remote),
        remote: limits.remote,
    };
    let dispatcher = Dispatcher::new(limits, listener(observer));
    let pool = ResourceArc::new(PoolResource {
        dispatcher,
        manager: env.pid(),
        numbers: Arc::default(),
        exit_causes: Mutex::default(),
        owners: Mutex::default(),
    });
    env.monitor(&pool, &env.pid());
    pool.encode(env)
}

#[rustler::nif]
fn pool_close(pool: ResourceArc<PoolResource>) -> Atom {
    pool.dispatcher.close(AcquireError::Closed);
    atoms::ok()
}

/// As `pool_close`, for a pool that falls back to workers without gRPC.
#[rustler::nif]
fn pool_fell_back(pool: ResourceArc<PoolResource>, why: String) -> Atom {
    let unavailable = Unavailable { why, no_grpc: true };
    pool.dispatcher
        .close(AcquireError::Unavailable(unavailable.into()));
    atoms::ok()
}

#[rustler::nif]
fn pool_set_failed(
    pool: ResourceArc<PoolResource>,
    failed: usize,
    why: String,
    no_grpc: bool,
) -> Atom {
    pool.dispatcher
        .set_failed(failed, Unavailable { why, no_grpc });
    atoms::ok()
}

/// Whether a worker that has left had answered a call. Kept until the first question.
#[rustler::nif]
fn pool_had_answered(pool: ResourceArc<PoolResource>, key: u64) -> bool {
    pool.dispatcher.had_answered(WorkerKey(key))
}

/// Adds the calling process's worker, which leaves with the process.
#[rustler::nif]
fn pool_add(
    env: Env<'_>,
    pool: ResourceArc<PoolResource>,
    channel: Option<ResourceArc<ChannelResource>>,
    spec: WorkerSpec,
) -> u64 {
    let capacity = spec.max_concurrency;
    let batches = spec.batches.iter().map(|(name, size)| BatchCommand {
        name: name.clone(),
        size: *size,
    });
    let batches = batches.collect();
    let worker = spec.worker(env.pid(), &pool.dispatcher, channel);
    let local = worker.connection.as_ref();
    if let Some(connection) = local.filter(|one| one.channel.endpoint.is_none()) {
        let cause = connection.exit_cause.clone();
        pool.exit_causes.lock().push((env.pid(), cause));
    }
    let mut owners = pool.owners.lock();
    // That of an endpoint adds it for each of its connections.
    if !owners.contains(&env.pid()) {
        owners.push(env.pid());
        env.monitor(&pool, &env.pid());
    }
    drop(owners);
    pool.dispatcher.add_batching(worker, capacity, batches).0
}

#[derive(NifMap)]
#[rustler(decode)]
struct WorkerSpec {
    id: String,
    max_concurrency: usize,
    kill_grace: u64,
    /// The process that gets the events of commands, if the pool has telemetry.
    observer: Option<LocalPid>,
    /// The commands whose calls gather, and how many calls a batch has at most.
    batches: Vec<(String, usize)>,
    /// Whether the pool has started it, and it gets the calls of this pool alone.
    owned: bool,
    /// How often calls may fail in a row.
    faults: Option<ResourceArc<FaultsResource>>,
}

impl WorkerSpec {
    fn worker(
        self,
        owner: LocalPid,
        pool: &Pool,
        channel: Option<ResourceArc<ChannelResource>>,
    ) -> Arc<Worker> {
        let kill_grace = time(self.kill_grace);
        let connection = channel.map(|channel| channel.connection());
        if let Some(connection) = &connection {
            connection.set_worker(self.max_concurrency, kill_grace, self.owned);
        }
        Arc::new(Worker {
            id: self.id.into(),
            client_id: pool.client_id(),
            connection,
            owner,
            kill_grace,
            faults: self.faults.map(|faults| faults.0.of_connection()),
            observer: self.observer,
            events: Allowance::new(EVENTS_PER_SECOND),
        })
    }
}

/// The worker gets no calls until `pool_resume`. False if it is not in the pool.
#[rustler::nif]
fn pool_pause(pool: ResourceArc<PoolResource>, key: u64) -> bool {
    pool.dispatcher.pause(WorkerKey(key))
}

/// The calling process's worker, which is paused, gets another channel. False if it is not paused any more.
#[rustler::nif]
fn pool_resume(
    env: Env<'_>,
    pool: ResourceArc<PoolResource>,
    key: u64,
    channel: ResourceArc<ChannelResource>,
    spec: WorkerSpec,
) -> bool {
    let worker = spec.worker(env.pid(), &pool.dispatcher, Some(channel));
    pool.dispatcher.resume(WorkerKey(key), worker)
}

/// The calling process's worker gets no more calls; the process gets `:snakepit_drained` once none is left.
#[rustler::nif]
fn pool_drain(pool: ResourceArc<PoolResource>, key: u64) -> Atom {
    pool.dispatcher.drain(WorkerKey(key));
    atoms::ok()
}

/// As `pool_drain`, once the sessions of the worker have ended as well: until then it gets their calls.
#[rustler::nif]
fn pool_drain_sessions(pool: ResourceArc<PoolResource>, key: u64) -> Atom {
    pool.dispatcher.drain_sessions(WorkerKey(key));
    atoms::ok()
}

/// The process of the worker gets `{:snakepit_served, calls}` once, when so many of its calls have ended.
#[rustler::nif]
fn pool_report_at(pool: ResourceArc<PoolResource>, key: u64, calls: u64) -> Atom {
    pool.dispatcher.report_at(WorkerKey(key), calls);
    atoms::ok()
}

#[rustler::nif]
fn pool_set_size(pool: ResourceArc<PoolResource>, size: usize) -> Atom {
    pool.dispatcher.set_size(size);
    atoms::ok()
}

#[rustler::nif]
fn pool_remove(pool: ResourceArc<PoolResource>, key: u64) -> bool {
    pool.dispatcher.remove(WorkerKey(key))
}

/// Whether the session existed.
#[rustler::nif]
fn pool_end_session(pool: ResourceArc<PoolResource>, id: &str) -> bool {
    let ended = pool.dispatcher.end_session(id);
    let known = ended.is_some();
    if let Some((worker, generation)) = ended {
        drop_session(worker, id.into(), generation);
    }
    known
}

/// As `pool_end_session`, for a session that the pool does not know, because a balancer chooses its server.
#[rustler::nif]
fn pool_end_server_session(pool: ResourceArc<PoolResource>, id: String) -> Atom {
    if let Some(worker) = pool.dispatcher.any_worker() {
        drop_server_session(worker, id);
    }
    atoms::ok()
}

#[rustler::nif]
fn pool_sessions(pool: ResourceArc<PoolResource>) -> usize {
    pool.dispatcher.snapshot().sessions
}

/// How many calls of the command are a full batch: 1 if they do not gather, or no worker has been ready.
#[rustler::nif]
fn pool_batch_size(pool: ResourceArc<PoolResource>, command: &str) -> usize {
    pool.dispatcher.batch_size(command)
}

#[rustler::nif]
fn pool_expire_sessions(pool: ResourceArc<PoolResource>) -> Atom {
    pool.dispatcher.expire_sessions();
    atoms::ok()
}

/// `{queued, [{key, in_flight, draining}]}`.
#[rustler::nif]
fn pool_snapshot(pool: ResourceArc<PoolResource>) -> (usize, Vec<(u64, usize, bool)>) {
    let snapshot = pool.dispatcher.snapshot();
    let workers = snapshot.workers.into_iter();
    (
        snapshot.queued,
        workers
            .map(|(key, in_flight, draining)| (key.0, in_flight, draining))
            .collect(),
    )
}

/// A call that has ended and that only Elixir knows of.
#[derive(NifMap)]
#[rustler(decode)]
struct EndedCall<'a> {
    command: &'a str,
    /// The reason of its error, or nil.
    error: Atom,
    /// Nil for a call that got no worker.
    queue_us: Option<u64>,
    execution_us: Option<u64>,
    batch_size: u32,
}

#[rustler::nif]
fn pool_count(pool: ResourceArc<PoolResource>, ended: EndedCall<'_>) -> Atom {
    pool.numbers.record(&Ended {
        command: ended.command,
        error: Some(ended.error).filter(|reason| *reason != atoms::nil()),
        times: ended.queue_us.zip(ended.execution_us),
        batch_size: ended.batch_size,
    });
    atoms::ok()
}

/// Counts a tool that has ended, and that took so many microseconds.
#[rustler::nif]
fn pool_count_ask(
    pool: ResourceArc<PoolResource>,
    command: &str,
    has_failed: bool,
    time: u64,
) -> Atom {
    pool.numbers.record_ask(&EndedAsk {
        command,
        has_failed,
        time,
    });
    atoms::ok()
}

#[rustler::nif]
fn pool_numbers(pool: ResourceArc<PoolResource>) -> NumbersTerm {
    let summary = pool.numbers.summary();
    let commands = summary.commands.into_iter();
    NumbersTerm {
        commands: commands
            .map(|(name, numbers)| CommandTerm {
                name,
                calls: numbers.calls,
                asks: numbers.asks,
                failed_asks: numbers.failed_asks,
                errors: numbers.errors,
                batched: numbers.batched.into_iter().collect(),
            })
            .collect(),
        calls: summary.calls,
        queue: summary.queue.map(Into::into),
        execution: summary.execution.map(Into::into),
        asks: summary.asks.map(Into::into),
    }
}
