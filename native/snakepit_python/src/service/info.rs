//! `GetInfo` describes the worker and its commands.

use crate::worker::Worker;
use rustix::time::{ClockId, clock_gettime};
use snakepit_proto::{InfoRequest, InfoResponse, WorkerStats};
use snakepit_server::Rpc;
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
    let uptime = worker.started.elapsed();
    let cpu = clock_gettime(ClockId::ProcessCPUTime);
    let cpu = cpu.tv_sec as f64 + cpu.tv_nsec as f64 / 1e9;
    WorkerStats {
        requests_handled: worker.counters.handled(),
        requests_failed: worker.counters.failed(),
        uptime_ms: worker.uptime_ms(),
        memory_usage_bytes: resident_memory(),
        cpu_usage_percent: (1000.0 * cpu / uptime.as_secs_f64().max(0.001)).round() / 10.0,
        active_sessions: worker.active_sessions().await,
        // After `active_sessions`, which asks Python.
        python_stuck_ms: worker.python_stuck_ms(),
    }
}

/// The resident memory of this process.
fn resident_memory() -> i64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages: Option<i64> = statm.split(' ').nth(1).and_then(|pages| pages.parse().ok());
    let page = i64::try_from(rustix::param::page_size()).unwrap_or(4096);
    pages.unwrap_or_default() * page
}
