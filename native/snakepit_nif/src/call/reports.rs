//! Sends what commands report: their progress to the caller, telemetry to the manager of the pool.

use super::{destination::Destination, request::Call};
use crate::{
    allowance::Allowance, atoms, codec, reply::notify, send_guard::SendGuard, terms::PythonEvent,
};
use bytes::Bytes;
use parking_lot::Mutex;
use rustler::{Encoder, Env, LocalPid, OwnedEnv, Term, env::SavedTerm};
use snakepit_client::multiplexer::Report;
use snakepit_proto::{CallEvent, Progress, call_event::Event};
use std::sync::Arc;

/// How many reports of a call's progress its caller gets in a second. A worker sends about half as many.
const PROGRESS_PER_SECOND: u32 = 20;

/// The caller that takes the progress of its call.
pub(crate) struct ProgressListener {
    pid: LocalPid,
    reference: Mutex<(OwnedEnv, SavedTerm)>,
    guard: SendGuard,
    allowance: Allowance,
}

impl ProgressListener {
    pub(crate) fn new(pid: LocalPid, reference: Term<'_>, guard: SendGuard) -> Arc<Self> {
        let env = OwnedEnv::new();
        let saved = env.save(reference);
        Arc::new(Self {
            pid,
            reference: Mutex::new((env, saved)),
            guard,
            allowance: Allowance::new(PROGRESS_PER_SECOND),
        })
    }

    /// `{:snakepit_progress, ref, {fraction, message}}`.
    fn send(&self, progress: &Progress) {
        if !progress.fraction.is_finite() || !self.allowance.take() {
            return;
        }
        OwnedEnv::new().run(|env| {
            let (kept, reference) = &*self.reference.lock();
            let reference = kept.run(|kept| reference.load(kept).in_env(env));
            let reported = (progress.fraction.clamp(0.0, 1.0), &progress.message);
            let message = (atoms::snakepit_progress(), reference, reported).encode(env);
            // If the caller has exited, its monitor cancels the call.
            self.guard.pass(|| {
                let _ = env.send(&self.pid, message);
            });
        });
    }
}

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
                            worker_id,
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
