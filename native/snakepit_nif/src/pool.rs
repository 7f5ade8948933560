//! What a pool's calls share: the dispatcher and, behind each place, a worker's channel.

use crate::{
    atoms,
    call::{Call, Connection},
    reply::{notify, off_scheduler},
    runtime,
    terms::{Sessions, WorkEnd, micros},
};
use rustler::{Atom, Encoder, Env, LocalPid, Term};
use snakepit_client::{
    channel::Channel,
    pool::{Dispatcher, Event, Lease},
};
use snakepit_proto::{EndSessionRequest, HandlerExit, HealthRequest, SessionKey};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};

pub(crate) type Pool = Dispatcher<Arc<Worker>>;

/// How long a worker may take to drop a session's state; it would do so by its own bounds as well.
const END_SESSION_TIMEOUT: Duration = Duration::from_secs(5);

/// How long another connection to a worker takes, as a rule.
const RECONNECTED_AFTER: Duration = Duration::from_millis(20);

pub(crate) struct Worker {
    pub(crate) id: String,
    /// None of a worker that is spoken to through its owner.
    pub(crate) connection: Option<Arc<Connection>>,
    /// The process that owns the worker, and can kill it.
    pub(crate) owner: LocalPid,
    pub(crate) kill_grace: Duration,
}

/// The listener of a pool: tells `told`, lets workers drop what no call will find again, and tells the
/// owner of a worker that has drained.
pub(crate) fn listener(told: Option<LocalPid>) -> impl Fn(Event<Arc<Worker>>) {
    move |event| {
        let (kind, ids, worker) = match event {
            Event::Created { id, worker } => (atoms::created(), vec![id], worker),
            Event::Moved {
                id,
                generation,
                from,
                to,
            } => {
                drop_session(from, id.clone(), generation);
                (atoms::moved(), vec![id], to)
            }
            Event::Expired { id, worker } => (atoms::expired(), vec![id], worker),
            Event::Evicted {
                id,
                generation,
                worker,
            } => {
                drop_session(worker.clone(), id.clone(), generation);
                (atoms::evicted(), vec![id], worker)
            }
            Event::Lost { ids, worker } => (atoms::lost(), ids.into_iter().collect(), worker),
            Event::Drained { worker } => {
                return off_scheduler(move || {
                    notify(worker.owner, |env| atoms::snakepit_drained().encode(env));
                });
            }
        };
        if let Some(told) = told {
            off_scheduler(move || notify(told, |env| session_term(env, kind, &ids, &worker)));
        }
    }
}

fn session_term<'a>(env: Env<'a>, kind: Atom, ids: &[Arc<str>], worker: &Worker) -> Term<'a> {
    let of = Sessions {
        ids: ids.iter().map(AsRef::as_ref).collect(),
        worker_id: &worker.id,
    };
    (atoms::snakepit_session(), kind, of).encode(env)
}

/// Lets a worker drop the state of a life that is over, or of an earlier one. One that is spoken to
/// through its owner is told by that.
pub(crate) fn drop_session(worker: Arc<Worker>, id: Arc<str>, generation: u64) {
    if let Ok(runtime) = runtime::get() {
        runtime.spawn(async move {
            match &worker.connection {
                Some(connection) => end_session(&connection.channel, &id, generation).await,
                None => notify(worker.owner, |env| {
                    (atoms::snakepit_end_session(), id.as_ref(), generation).encode(env)
                }),
            }
        });
    }
}

async fn end_session(channel: &Channel, id: &str, generation: u64) {
    let session = SessionKey {
        id: id.to_owned(),
        generation,
    };
    let request = EndSessionRequest::from(session);
    let mut client = channel.client.clone();
    // A server without our additions, or without a connection, has nothing that could be ended.
    let _ = client
        .end_session(Channel::request(request, Some(END_SESSION_TIMEOUT)))
        .await;
}

/// A call that ended for its caller while its handler may still run.
pub(crate) struct CancelledCall {
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

/// After a cancel or a timeout only the server can say when the handler has exited: its Health
/// answers once it has, and the place is given back then. A handler that goes on past the grace
/// costs its worker. Either way the worker's owner hears how the handler exited.
pub(crate) async fn await_exit(lease: Lease<Arc<Worker>>, call: CancelledCall) {
    let since = Instant::now();
    let grace = lease.worker().kill_grace;
    let exit = tokio::time::timeout(grace, ask_exit(&lease, call.id)).await;
    let exit = exit.unwrap_or_default();
    handler_exited(
        lease,
        exit,
        since.elapsed(),
        &call.command,
        &call.request_id,
    );
}

/// Gives the place of a cancelled call back or, if its handler has not exited, has its worker killed.
pub(crate) fn handler_exited(
    lease: Lease<Arc<Worker>>,
    exit: Option<HandlerExit>,
    after: Duration,
    command: &str,
    request_id: &str,
) {
    let worker = lease.worker().clone();
    match exit {
        Some(_) => drop(lease),
        None => drop(lease.retire()),
    }
    let how = match exit {
        None => atoms::killed(),
        Some(HandlerExit::Stopped) => atoms::stopped(),
        Some(HandlerExit::Closed) => atoms::closed(),
        Some(HandlerExit::Unknown) => atoms::unknown(),
    };
    let end = WorkEnd {
        how,
        after_us: micros(after),
        command,
        request_id,
    };
    notify(worker.owner, |env| {
        (atoms::snakepit_work_ended(), end).encode(env)
    });
    if exit.is_none() {
        notify(worker.owner, |env| {
            let why = format!(
                "a cancelled call went on for {} ms (:kill_grace)",
                worker.kill_grace.as_millis()
            );
            (atoms::snakepit_kill(), why).encode(env)
        });
    }
}

/// Nothing if it has not exited within the worker's grace, or the worker cannot be asked.
async fn ask_exit(lease: &Lease<Arc<Worker>>, call_id: u64) -> Option<HandlerExit> {
    loop {
        let worker = lease.present_worker();
        let channel = &worker.connection.as_ref()?.channel;
        let request = HealthRequest {
            worker_id: worker.id.clone(),
            await_call_id: call_id,
        };
        let mut client = channel.client.clone();
        let asked = Channel::request(request, Some(worker.kill_grace));
        return match client.health(asked).await {
            Ok(health) if !health.get_ref().running_call_ids.contains(&call_id) => {
                Some(health.get_ref().exit())
            }
            Err(status) if status.code() == tonic::Code::Unimplemented => {
                Some(HandlerExit::Unknown)
            }
            Err(_) if channel.closed.is_cancelled() => {
                // The worker may be about to get another connection.
                tokio::time::sleep(RECONNECTED_AFTER).await;
                continue;
            }
            _ => None,
        };
    }
}
