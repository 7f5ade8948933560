//! A pool: its workers, its sessions.

use super::{channel::ChannelResource, millis};
use crate::{
    atoms,
    dispatcher::{Dispatcher, Limits, Unavailable, WorkerKey},
    pool::{Pool, Worker, drop_session, listener},
};

use rustler::{Atom, Env, LocalPid, Monitor, Resource, ResourceArc};
use std::{sync::Arc, time::Duration};

pub(super) struct PoolResource(pub(super) Arc<Pool>);

#[rustler::resource_impl]
impl Resource for PoolResource {
    const IMPLEMENTS_DOWN: bool = true;

    /// The control plane is gone: nobody would start another worker.
    fn down<'a>(&'a self, _env: Env<'a>, _pid: LocalPid, _monitor: Monitor) {
        self.0.close();
    }
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
