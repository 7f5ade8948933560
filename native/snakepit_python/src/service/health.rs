//! `Health` describes the worker, if wanted after the end of a call.

use crate::worker::Worker;
use snakepit_proto::{HealthRequest, HealthResponse};
use snakepit_server::Rpc;
use std::time::{Duration, Instant};
use tonic::Status;

/// A Health that awaits a call answers this long before its own deadline.
const MARGIN: Duration = Duration::from_millis(50);

pub(super) async fn serve(worker: &Worker, rpc: &mut Rpc) -> Result<(), Status> {
    let request: HealthRequest = rpc.message(worker.settings.max_message_size).await?;
    let id = request.await_call_id;
    if id != 0 {
        let until = rpc
            .deadline()
            .map(|at| at.checked_sub(MARGIN).unwrap_or(at));
        tokio::select! {
            () = worker.wait_ended(id) => {}
            () = sleep_until(until) => {}
            () = rpc.given_up() => return Ok(()),
        }
    }
    let mut health = HealthResponse {
        healthy: rpc.takes_clients && worker.scheduler.has_threads(),
        worker_id: worker.settings.worker_id.clone(),
        uptime_ms: worker.uptime_ms(),
        total_requests: worker.counters.handled(),
        total_errors: worker.counters.failed(),
        version: worker.settings.version.clone(),
        running_call_ids: worker
            .scheduler
            .running(|call| Some(call.header.call_id()).filter(|id| *id != 0)),
        in_flight: worker.scheduler.count(),
        python_stuck_ms: worker.python_stuck_ms(),
        batch_sizes: worker.commands.batch_sizes().collect(),
        instance_id: worker.settings.instance_id,
        has_converse: true,
        ..HealthResponse::default()
    };
    health.set_exit(worker.exits.find(id));
    rpc.answer(&health);
    Ok(())
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}
