//! What a pool's calls share: the dispatcher and, behind each place, a worker's channel.

use crate::{
    atoms,
    channel::Channel,
    dispatcher::{Dispatcher, Lease},
    reply::notify,
};
use rustler::{Atom, Encoder, LocalPid};
use snakepit_proto::HealthRequest;
use std::{
    sync::Arc,
    time::{Duration, Instant},
};

pub(crate) type Pool = Dispatcher<Arc<Worker>>;

pub(crate) struct Worker {
    pub(crate) id: String,
    /// None of a worker that is spoken to through its owner.
    pub(crate) channel: Option<Channel>,
    /// The process that owns the worker, and can kill it.
    pub(crate) owner: LocalPid,
    pub(crate) kill_grace: Duration,
}

/// A call that ended for its caller while its handler may still run.
pub(crate) struct Abandoned {
    pub(crate) id: u64,
    pub(crate) command: String,
    pub(crate) request_id: String,
}

/// After a cancel or a timeout only the server can say when the handler has stopped: its Health
/// answers once it has, and the place is given back then. A handler that goes on past the grace
/// costs its worker. Either way the worker's owner hears how the work ended.
pub(crate) async fn await_idle(lease: Lease<Arc<Worker>>, channel: Channel, call: Abandoned) {
    let since = Instant::now();
    let worker = lease.worker.clone();
    let ended = how_ended(&worker, &channel, call.id).await;
    match ended {
        Some(_) => drop(lease),
        None => drop(lease.condemn()),
    }
    let micros = u64::try_from(since.elapsed().as_micros()).unwrap_or(u64::MAX);
    notify(worker.owner, |env| {
        let how = ended.unwrap_or_else(atoms::killed);
        (
            atoms::snakepit_work_ended(),
            how,
            micros,
            call.command,
            call.request_id,
        )
            .encode(env)
    });
    if ended.is_none() {
        notify(worker.owner, |env| {
            let why = format!(
                "a cancelled call went on for {} ms (:kill_grace)",
                worker.kill_grace.as_millis()
            );
            (atoms::snakepit_kill(), why).encode(env)
        });
    }
}

/// Nothing if it has not ended within the worker's grace.
async fn how_ended(worker: &Worker, channel: &Channel, call_id: u64) -> Option<Atom> {
    let request = HealthRequest {
        worker_id: worker.id.clone(),
        await_call_id: call_id,
    };
    let mut client = channel.client.clone();
    let health = client.health(Channel::request(request, Some(worker.kill_grace)));
    match tokio::time::timeout(worker.kill_grace, health).await {
        Ok(Ok(health)) if !health.get_ref().running_call_ids.contains(&call_id) => {
            Some(match health.get_ref().await_ended.as_str() {
                "stopped" => atoms::stopped(),
                "closed" => atoms::closed(),
                _ => atoms::unknown(),
            })
        }
        Ok(Err(status)) => (!channel.closed.is_cancelled()
            && status.code() == tonic::Code::Unimplemented)
            .then(atoms::unknown),
        _ => None,
    }
}
