//! `GetInfo` describes the worker and its commands.

use crate::worker::Worker;
use snakepit_proto::{InfoRequest, InfoResponse, WorkerStats};
use snakepit_server::{Rpc, cpu_time};
use tonic::Status;

pub(super) async fn serve(worker: &Worker, rpc: &mut Rpc) -> Result<(), Status> {
    let request: InfoRequest = rpc.message(worker.settings.max_message_size).await?;
    let commands = || worker.commands.iter();
    let mut info = InfoResponse {
        worker_type: "python".into(),
        version: worker.settings.version.clone(),
        supported_commands: commands().map(|command| command.name.clone()).collect(),
        system_info: worker.settings.system_info.iter().cloned().collect(),
        ..InfoResponse::default()
    };
    if request.include_capabilities {
        info.capabilities = commands()
            .map(|command| (command.name.clone(), command.help.clone()))
            .collect();
    }
    if request.include_stats {
        info.stats = Some(stats(worker).await);
    }
    if request.include_commands {
        info.commands = commands().map(|command| command.info.clone()).collect();
    }
    rpc.answer(&info);
    Ok(())
}

async fn stats(worker: &Worker) -> WorkerStats {
    let figures = worker.figures().await;
    let cpu = cpu_time().saturating_sub(worker.cpu_before);
    let uptime = worker.started.elapsed().as_secs_f64().max(0.001);
    WorkerStats {
        requests_handled: worker.counters.handled(),
        requests_failed: worker.counters.failed(),
        uptime_ms: worker.uptime_ms(),
        memory_usage_bytes: figures.memory_bytes,
        cpu_usage_percent: (1000.0 * cpu.as_secs_f64() / uptime).round() / 10.0,
        active_sessions: figures.sessions,
        progress: worker.progress().await,
        // After those that ask Python.
        python_stuck_ms: worker.python_stuck_ms(),
    }
}
