//! What a pool's calls share: the dispatcher and, behind each place, a worker's channel.

use crate::{
    atoms,
    call::Link,
    reply::{notify, off_scheduler},
    runtime,
    terms::{Sessions, WorkEnd},
};
use rustler::{Atom, Encoder, Env, LocalPid, Term};
use snakepit_client::{
    channel::Channel,
    multiplexer::WorkEnded,
    pool::{Dispatcher, Event, Lease},
};
use snakepit_proto::{EndSessionRequest, HealthRequest};
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
    pub(crate) link: Option<Arc<Link>>,
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
            match &worker.link {
                Some(link) => end_session(&link.channel, &id, generation).await,
                None => notify(worker.owner, |env| {
                    (atoms::snakepit_end_session(), id.as_ref(), generation).encode(env)
                }),
            }
        });
    }
}

async fn end_session(channel: &Channel, id: &str, generation: u64) {
    let request = EndSessionRequest {
        session_id: id.into(),
        session_generation: generation,
    };
    let mut client = channel.client.clone();
    // A server without our additions, or without a connection, has nothing that could be ended.
    let _ = client
        .end_session(Channel::request(request, Some(END_SESSION_TIMEOUT)))
        .await;
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
pub(crate) async fn await_idle(lease: Lease<Arc<Worker>>, call: Abandoned) {
    let since = Instant::now();
    let grace = lease.worker().kill_grace;
    let how = tokio::time::timeout(grace, how_ended(&lease, call.id)).await;
    let how = how.unwrap_or_default();
    let ended = WorkEnded {
        how,
        after: since.elapsed(),
    };
    work_ended(lease, &ended, &call.command, &call.request_id);
}

/// Gives the place of an abandoned call back, or has its worker killed.
pub(crate) fn work_ended(
    lease: Lease<Arc<Worker>>,
    ended: &WorkEnded,
    command: &str,
    request_id: &str,
) {
    let worker = lease.worker().clone();
    match ended.how {
        Some(_) => drop(lease),
        None => drop(lease.retire()),
    }
    let how = match ended.how.as_deref() {
        None => atoms::killed(),
        Some("stopped") => atoms::stopped(),
        Some("closed") => atoms::closed(),
        Some(_) => atoms::unknown(),
    };
    let end = WorkEnd {
        how,
        after_us: u64::try_from(ended.after.as_micros()).unwrap_or(u64::MAX),
        command,
        request_id,
    };
    notify(worker.owner, |env| {
        (atoms::snakepit_work_ended(), end).encode(env)
    });
    if ended.how.is_none() {
        notify(worker.owner, |env| {
            let why = format!(
                "a cancelled call went on for {} ms (:kill_grace)",
                worker.kill_grace.as_millis()
            );
            (atoms::snakepit_kill(), why).encode(env)
        });
    }
}

/// Nothing if it has not ended within the worker's grace, or the worker cannot be asked.
async fn how_ended(lease: &Lease<Arc<Worker>>, call_id: u64) -> Option<String> {
    loop {
        let worker = lease.present_worker();
        let channel = &worker.link.as_ref()?.channel;
        let request = HealthRequest {
            worker_id: worker.id.clone(),
            await_call_id: call_id,
        };
        let mut client = channel.client.clone();
        let asked = Channel::request(request, Some(worker.kill_grace));
        return match client.health(asked).await {
            Ok(health) if !health.get_ref().running_call_ids.contains(&call_id) => {
                Some(health.into_inner().await_ended)
            }
            Err(status) if status.code() == tonic::Code::Unimplemented => Some(String::new()),
            Err(_) if channel.closed.is_cancelled() => {
                // The worker may be about to get another connection.
                tokio::time::sleep(RECONNECTED_AFTER).await;
                continue;
            }
            _ => None,
        };
    }
}
