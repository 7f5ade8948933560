//! How a handler exits that outlives its call.

use super::{
    destination::{Destination, Worker},
    request::Call,
};
use crate::{
    atoms,
    reply::notify,
    terms::{HandlerExited, micros},
};
use rustler::Encoder;
use snakepit_client::{
    channel::Channel,
    error::Failure,
    multiplexer::{Exit, Lost},
    pool::Lease,
};
use snakepit_proto::{HandlerExit, HealthRequest};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use tonic::Code;

/// How long to wait before a worker that cannot be asked, answers nothing or refuses is asked again.
const ASKED_AGAIN_AFTER: Duration = Duration::from_millis(20);

/// What the end of an RPC implies about its handler.
#[derive(Clone, Copy)]
pub(super) enum HandlerState {
    Exited,
    /// The worker is gone.
    Lost,
    MayRun,
}

impl HandlerState {
    /// The handler has exited only if the server ended the call or sent an error.
    pub(super) fn of<T>(result: &Result<T, Failure>) -> Self {
        match result {
            Ok(_)
            | Err(
                Failure::Remote(_)
                | Failure::TooLarge { .. }
                | Failure::NotStarted { .. }
                | Failure::NoConverse
                // Something between has lost the server that ran it, and has others.
                | Failure::CallEnded(_),
            ) => Self::Exited,
            Err(Failure::WorkerCrashed(_)) => Self::Lost,
            Err(_) => Self::MayRun,
        }
    }
}

impl Destination {
    /// Counts how an RPC of its own has ended, gives its lease back, and adds the cause to its failure. Await the
    /// returned future, if there is one, once the caller has its reply.
    pub(super) async fn settle<T>(
        self,
        call: &Call,
        result: Result<T, Failure>,
        handler: HandlerState,
    ) -> (
        Result<T, Failure>,
        Option<impl Future<Output = ()> + use<T>>,
    ) {
        let (result, cause) = match result {
            Ok(value) => {
                self.count(Ok(()));
                (Ok(value), None)
            }
            Err(failure) => {
                let (failure, cause) = self.failed(failure);
                (Err(failure), cause)
            }
        };
        let exit = self.release(call, handler);
        let result = match (result, cause) {
            (Err(failure), Some(cause)) => Err(cause.explain(failure).await),
            (result, _) => result,
        };
        (result, exit)
    }

    /// Gives the lease back if the handler has exited. Otherwise the returned future does that; await it once
    /// the caller has its reply.
    pub(super) fn release(
        self,
        call: &Call,
        handler: HandlerState,
    ) -> Option<impl Future<Output = ()> + use<>> {
        let Self::Worker(lease, _) = self else {
            return None;
        };
        match handler {
            HandlerState::Exited => None,
            HandlerState::Lost => {
                lease.retire_lost();
                None
            }
            HandlerState::MayRun => Some(await_exit(lease, CancelledCall::from(call))),
        }
    }
}

/// A call whose caller has its reply while its handler may still run.
struct CancelledCall {
    id: u64,
    command: String,
    request_id: String,
}

impl From<&Call> for CancelledCall {
    fn from(call: &Call) -> Self {
        Self {
            id: call.id,
            command: call.header.command().to_owned(),
            request_id: call.header.request_id().to_owned(),
        }
    }
}

/// The answer to the question whether a handler has exited.
enum Answer {
    Exited(HandlerExit),
    /// It runs, or the worker cannot be asked.
    No,
    /// The worker answers nothing.
    Nothing,
    /// Its connection is closed, and it has no other one yet.
    Unconnected,
    /// The worker has refused the question, for instance because it has too many.
    Refused,
}

/// Waits for the handler's exit, which the server's Health RPC reports, then gives the lease back. If the
/// handler runs past the grace, its worker is killed. Either way the worker's owner is notified.
///
/// A server in Python answers nothing while a command holds Python's lock. That may be an earlier command, behind which
/// this one has not begun: then the worker is not killed. If it never answers again, its health checks say so. Neither is
/// it killed while it is without a connection: if it cannot be reached again, it is replaced.
async fn await_exit(mut lease: Lease<Arc<Worker>>, call: CancelledCall) {
    let since = Instant::now();
    let grace = lease.worker().kill_grace;
    lease.set_cancelled();
    let mut grace_from = since;
    let exit = loop {
        let left = grace.saturating_sub(grace_from.elapsed());
        let asked = tokio::time::timeout(left, ask_exit(&lease, call.id, left)).await;
        match asked.unwrap_or(Answer::Nothing) {
            Answer::Exited(exit) => break Exit::Reported(exit),
            Answer::Nothing if lease.may_wait() => grace_from = Instant::now(),
            Answer::Unconnected if !lease.is_leaving() => grace_from = Instant::now(),
            Answer::Refused | Answer::Unconnected if grace_from.elapsed() < grace => {}
            Answer::No | Answer::Nothing | Answer::Refused | Answer::Unconnected => {
                break Exit::PastGrace;
            }
        }
        tokio::time::sleep(ASKED_AGAIN_AFTER).await;
    };
    handler_exited(
        lease,
        exit,
        since.elapsed(),
        &call.command,
        &call.request_id,
    );
}

/// Gives the lease back or, if the handler runs past the grace, has the worker killed.
pub(super) fn handler_exited(
    lease: Lease<Arc<Worker>>,
    exit: Exit,
    after: Duration,
    command: &str,
    request_id: &str,
) {
    let worker = lease.worker().clone();
    let is_to_be_killed = match exit {
        // What lost its RPC alone may run on: the worker can be asked only for calls that were no frames.
        Exit::Reported(_) | Exit::Lost(Lost::Rpc) => {
            drop(lease);
            false
        }
        // Its owner knows of one that was removed.
        Exit::PastGrace => lease.retire(),
        Exit::Lost(Lost::Connection) => {
            lease.retire_lost();
            false
        }
    };
    let how = match exit {
        Exit::PastGrace | Exit::Lost(Lost::Connection) => atoms::killed(),
        Exit::Reported(HandlerExit::Stopped) => atoms::stopped(),
        Exit::Reported(HandlerExit::Closed) => atoms::closed(),
        Exit::Reported(HandlerExit::Unknown) | Exit::Lost(Lost::Rpc) => atoms::unknown(),
    };
    let exited = HandlerExited {
        how,
        after_us: micros(after),
        command,
        request_id,
    };
    notify(worker.owner, |env| {
        (atoms::snakepit_handler_exited(), exited).encode(env)
    });
    if is_to_be_killed {
        notify(worker.owner, |env| {
            let why = format!(
                "a cancelled call continued for {} ms (:kill_grace)",
                worker.kill_grace.as_millis()
            );
            (atoms::snakepit_kill(), why).encode(env)
        });
    }
}

async fn ask_exit(lease: &Lease<Arc<Worker>>, call_id: u64, within: Duration) -> Answer {
    let worker = lease.present_worker();
    let Some(connection) = &worker.connection else {
        return Answer::No;
    };
    let channel = &connection.channel;
    let request = HealthRequest {
        worker_id: worker.id.as_ref().to_owned(),
        await_call_id: call_id,
    };
    let mut client = channel.client.clone();
    let asked = Channel::request(request, Some(within));
    match client.health(asked).await {
        Ok(health) if !health.get_ref().running_call_ids.contains(&call_id) => {
            Answer::Exited(health.get_ref().exit())
        }
        Ok(_) => Answer::No,
        Err(status) if status.code() == Code::Unimplemented => Answer::Exited(HandlerExit::Unknown),
        Err(_) if channel.closed.is_cancelled() => Answer::Unconnected,
        // The second is tonic's code for the deadline of a request.
        Err(status) => match status.code() {
            Code::DeadlineExceeded | Code::Cancelled => Answer::Nothing,
            _ => Answer::Refused,
        },
    }
}
