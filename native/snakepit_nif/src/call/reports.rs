//! Passes on what commands report: their progress to the caller, telemetry to the manager of the pool.

use super::{destination::Destination, request::Call};
use crate::{atoms, codec, reply::notify, terms::PythonEvent};
use bytes::Bytes;
use rustler::{Encoder, Env, Term};
use snakepit_client::multiplexer::Report;
use snakepit_proto::{CallEvent, call_event::Event};

impl Call {
    /// What is to be done about an event of the call, which must not happen on a scheduler's thread.
    pub(super) fn report(&self, destination: &Destination, event: CallEvent) -> Option<Report> {
        match event.event? {
            Event::Progress(progress) => {
                let listener = self.progress.clone()?;
                Some(Box::new(move || listener.send(&progress)))
            }
            Event::Telemetry(event) => {
                let worker = destination.worker()?;
                let observer = worker.observer.filter(|_| worker.events.take())?;
                let (worker_id, header) = (worker.id.clone(), &self.header);
                let command = header.command().to_owned();
                let request_id = header.request_id().to_owned();
                let session_id = header.session().map(|session| session.id.to_owned());
                Some(Box::new(move || {
                    notify(observer, |env| {
                        let event = PythonEvent {
                            measurements: values(env, &event.measurements),
                            metadata: values(env, &event.metadata),
                            name: event.name,
                            worker_id: worker_id.as_ref().to_owned(),
                            command,
                            request_id,
                            session_id,
                        };
                        (atoms::snakepit_event(), event).encode(env)
                    });
                }))
            }
        }
    }
}

/// An empty map if it is none, which only another program than Snakepit's worker sends.
fn values<'a>(env: Env<'a>, bytes: &Bytes) -> Term<'a> {
    let decoded = codec::decode_extended(env, bytes).ok();
    decoded
        .filter(|term| term.is_map())
        .unwrap_or_else(|| Term::map_new(env))
}
