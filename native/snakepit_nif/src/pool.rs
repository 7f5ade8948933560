//! What a pool's calls share: the dispatcher and, behind each place, a worker's channel.

use crate::{
    atoms,
    channel::Channel,
    dispatcher::{Dispatcher, Lease},
    reply::notify,
};
use rustler::{Encoder, LocalPid};
use snakepit_proto::HealthRequest;
use std::{sync::Arc, time::Duration};

pub(crate) type Pool = Dispatcher<Arc<Worker>>;

pub(crate) struct Worker {
    pub(crate) id: String,
    pub(crate) channel: Channel,
    /// The process that owns the worker, and can kill it.
    pub(crate) owner: LocalPid,
    pub(crate) kill_grace: Duration,
}

/// After a cancel or a timeout only the server can say when the handler has stopped: its Health
/// answers once it has, and the place is given back then. A handler that goes on past the grace
/// costs its worker.
pub(crate) async fn await_idle(lease: Lease<Arc<Worker>>, call_id: u64) {
    let worker = lease.worker.clone();
    let request = HealthRequest {
        worker_id: worker.id.clone(),
        await_call_id: call_id,
    };
    let mut client = worker.channel.client.clone();
    let health = client.health(Channel::request(request, Some(worker.kill_grace)));
    let idle = match tokio::time::timeout(worker.kill_grace, health).await {
        Ok(Ok(health)) => !health.get_ref().running_call_ids.contains(&call_id),
        Ok(Err(status)) => {
            !worker.channel.closed.is_cancelled() && status.code() == tonic::Code::Unimplemented
        }
        Err(_) => false,
    };
    if idle {
        drop(lease);
    } else {
        lease.condemn();
        notify(worker.owner, |env| {
            let why = format!(
                "a cancelled call went on for {} ms (:kill_grace)",
                worker.kill_grace.as_millis()
            );
            (atoms::snakepit_kill(), why).encode(env)
        });
    }
}
