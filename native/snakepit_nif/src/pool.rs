//! The events of a pool's dispatcher, for processes of Elixir and for the workers.

use crate::{
    atoms,
    call::Worker,
    reply::{notify, off_scheduler},
    runtime,
    terms::Sessions,
};
use rustler::{Atom, Encoder, Env, LocalPid, Term};
use snakepit_client::{channel::Channel, pool::Event};
use snakepit_proto::{EndSessionRequest, SessionKey};
use std::{sync::Arc, time::Duration};
use tonic::Request;

/// How long a worker may take to drop a session's state. Its own limits would make it do so much later.
const END_SESSION_TIMEOUT: Duration = Duration::from_secs(5);

/// By which balancers find the server of a session, as `Snakepit.Codec.metadata/1` says.
const SESSION_METADATA: &str = "session_id";

/// The listener of a pool. It sends events of sessions to `observer`, has workers drop state that no call can reach
/// any more, and notifies the owner of a worker that has served its calls or has drained.
pub(crate) fn listener(observer: Option<LocalPid>) -> impl Fn(Event<Arc<Worker>>) {
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
            Event::Expired {
                id,
                generation,
                worker,
            } => {
                drop_session(worker.clone(), id.clone(), generation);
                (atoms::expired(), vec![id], worker)
            }
            Event::Evicted {
                id,
                generation,
                worker,
            } => {
                drop_session(worker.clone(), id.clone(), generation);
                (atoms::evicted(), vec![id], worker)
            }
            Event::Lost { ids, worker } => (atoms::lost(), ids.into_iter().collect(), worker),
            Event::Served { worker, calls } => {
                return off_scheduler(move || {
                    notify(worker.owner, |env| {
                        (atoms::snakepit_served(), calls).encode(env)
                    });
                });
            }
            Event::Drained { worker } => {
                return off_scheduler(move || {
                    notify(worker.owner, |env| atoms::snakepit_drained().encode(env));
                });
            }
        };
        if let Some(observer) = observer {
            off_scheduler(move || notify(observer, |env| session_term(env, kind, &ids, &worker)));
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

/// Has a worker drop a session's state of this generation or an earlier one. A worker over stdin and stdout gets
/// that from its owner.
pub(crate) fn drop_session(worker: Arc<Worker>, id: Arc<str>, generation: u64) {
    if let Ok(runtime) = runtime::get() {
        runtime.spawn(async move {
            match &worker.connection {
                Some(connection) => {
                    let session = SessionKey {
                        id: id.as_ref().to_owned(),
                        client_id: worker.client_id,
                        generation,
                    };
                    end_session(&connection.channel, session).await;
                }
                None => notify(worker.owner, |env| {
                    (atoms::snakepit_end_session(), id.as_ref(), generation).encode(env)
                }),
            }
        });
    }
}

/// Has the state of a session dropped of which the pool does not know the server: a balancer finds it by the metadata.
pub(crate) fn drop_server_session(worker: Arc<Worker>, id: String) {
    if let Ok(runtime) = runtime::get() {
        runtime.spawn(async move {
            if let Some(connection) = &worker.connection {
                let session = SessionKey::from(id.clone());
                let mut request = Channel::request(session.into(), Some(END_SESSION_TIMEOUT));
                if let Ok(id) = id.parse() {
                    request.metadata_mut().insert(SESSION_METADATA, id);
                }
                send_end(&connection.channel, request).await;
            }
        });
    }
}

async fn end_session(channel: &Channel, session: SessionKey) {
    let request = Channel::request(session.into(), Some(END_SESSION_TIMEOUT));
    send_end(channel, request).await;
}

async fn send_end(channel: &Channel, request: Request<EndSessionRequest>) {
    let mut client = channel.client.clone();
    // A server without Snakepit's additions, or without a connection, has no session to end.
    let _ = client.end_session(request).await;
}
