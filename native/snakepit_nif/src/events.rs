//! A stream's messages to its owner: `{:snakepit, ref, event}`.

use crate::{
    atoms,
    failure_term::{failure_details, reason_atom},
    progress::Progress,
    reply::off_scheduler,
    send_guard::SendGuard,
    terms::{ErrorTerm, Meta, StreamEnd, micros},
};
use rustler::{Encoder, Env, LocalPid, OwnedEnv, Term, env::SavedTerm, types::atom};
use snakepit_client::{error::Failure, overdue::Watch};
use std::sync::Arc;

/// Sends chunks, then one terminal event. If it is dropped before that, because a task panicked for example, the
/// owner gets the failure `Dropped`, so that it does not wait forever.
pub(crate) struct Events {
    to: Option<Recipient>,
    _watch: Option<Watch>,
}

/// The processes that get the messages of a stream, and what the messages have in common.
pub(crate) struct Recipient {
    pid: LocalPid,
    kept: OwnedEnv,
    reference: SavedTerm,
    pool: SavedTerm,
    command: String,
    guard: SendGuard,
    /// A process that also gets the end, whether the owner still exists or not, and the term that it gets it with.
    observer: Option<(LocalPid, SavedTerm)>,
    /// Only if the owner receives the chunks as messages.
    progress: Option<Arc<Progress>>,
}

impl Events {
    /// `watch` ends the stream when it is overdue.
    pub(crate) fn new(to: Recipient, watch: Option<Watch>) -> Self {
        Self {
            to: Some(to),
            _watch: watch,
        }
    }

    /// Must not be called on a scheduler's thread, like all functions here that send.
    pub(crate) fn chunks(
        &self,
        count: usize,
        decode: impl for<'a> FnOnce(Env<'a>) -> Result<Term<'a>, Failure>,
    ) -> Result<(), Failure> {
        match &self.to {
            Some(to) => to.chunks(count, decode),
            None => Ok(()),
        }
    }

    /// The terminal event: `{:done, info}` or `{:error, %Snakepit.Error{}}`.
    pub(crate) fn finish(mut self, result: Result<(), Failure>, meta: &Meta<'_>) {
        if let Some(to) = self.to.take() {
            to.end(result, meta);
        }
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        if let Some(to) = self.to.take() {
            off_scheduler(move || to.end(Err(Failure::Dropped), &Meta::default()));
        }
    }
}

impl Recipient {
    pub(crate) fn new(
        pid: LocalPid,
        reference: Term<'_>,
        pool: Term<'_>,
        command: &str,
        guard: SendGuard,
        observer: Option<(LocalPid, Term<'_>)>,
        progress: Option<Arc<Progress>>,
    ) -> Self {
        let kept = OwnedEnv::new();
        Self {
            pid,
            reference: kept.save(reference),
            pool: kept.save(pool),
            observer: observer.map(|(pid, term)| (pid, kept.save(term))),
            kept,
            command: command.into(),
            guard,
            progress,
        }
    }

    fn chunks(
        &self,
        count: usize,
        decode: impl for<'a> FnOnce(Env<'a>) -> Result<Term<'a>, Failure>,
    ) -> Result<(), Failure> {
        if let Some(progress) = &self.progress {
            progress.sent(count);
        }
        let message = OwnedEnv::new();
        message.run(|env| {
            let event = (atoms::chunks(), decode(env)?).encode(env);
            let event = self.event(env, event);
            self.guard.pass(|| self.send(env, event));
            Ok(())
        })
    }

    /// Nothing is sent after it.
    pub(crate) fn end(&self, result: Result<(), Failure>, meta: &Meta<'_>) {
        OwnedEnv::new().run(|env| {
            let event = match result {
                Ok(()) => (atoms::done(), meta).encode(env),
                Err(failure) => {
                    let pool = self.kept.run(|kept| self.pool.load(kept).in_env(env));
                    (atom::error(), self.error(env, &failure, pool, meta)).encode(env)
                }
            };
            self.send_to_observer(env, event, meta);
            let event = self.event(env, event);
            self.guard.pass_last(|| self.send(env, event));
        });
    }

    fn event<'a>(&self, env: Env<'a>, event: Term<'a>) -> Term<'a> {
        let reference = self.kept.run(|kept| self.reference.load(kept).in_env(env));
        (atoms::snakepit(), reference, event).encode(env)
    }

    fn send(&self, env: Env<'_>, message: Term<'_>) {
        // If the owner has exited, its monitor cancels the call.
        let _ = env.send(&self.pid, message);
    }

    fn error<'a>(
        &self,
        env: Env<'a>,
        failure: &Failure,
        pool: Term<'a>,
        meta: &Meta<'_>,
    ) -> Term<'a> {
        let request_id = Some(meta.request_id).filter(|id| !id.is_empty());
        let error = ErrorTerm {
            reason: reason_atom(failure.reason()),
            message: failure.to_string(),
            command: self.command.encode(env),
            pool,
            worker_id: meta.worker_id.encode(env),
            request_id: request_id.encode(env),
            details: failure_details(env, failure),
        };
        error.encode(env)
    }

    /// `{:snakepit_stream_ended, term, end}`, once.
    fn send_to_observer<'a>(&self, env: Env<'a>, event: Term<'a>, meta: &'a Meta<'a>) {
        let (Some((pid, term)), Some(progress)) = (&self.observer, &self.progress) else {
            return;
        };
        if !progress.observe_end() {
            return;
        }
        let term = self.kept.run(|kept| term.load(kept).in_env(env));
        let end = StreamEnd {
            event,
            meta,
            chunks: progress.chunks(),
            first_chunk_us: progress.first_chunk().map(micros),
        };
        let message = (atoms::snakepit_stream_ended(), term, end).encode(env);
        // A pool that has stopped does not need it.
        let _ = env.send(pid, message);
    }
}
