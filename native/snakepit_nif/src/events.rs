//! A stream's messages to its owner: `{:snakepit, ref, event}`.

use crate::{
    atoms, map,
    reply::{failure_details, off_scheduler, reason_atom},
    terms::{Meta, StreamEnd},
};
use parking_lot::Mutex;
use rustler::{Encoder, Env, LocalPid, OwnedEnv, Term, env::SavedTerm, types::atom};
use snakepit_client::{failure::Failure, overdue::Watch};
use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

/// Closed by the last message of a call, and by a cancel: once that has returned, nothing of the call
/// reaches its owner.
#[derive(Clone, Default)]
pub(crate) struct Gate(Arc<Mutex<bool>>);

impl Gate {
    pub(crate) fn close(&self) {
        *self.0.lock() = true;
    }

    /// Sends what is ready to be sent: a cancel waits for it.
    pub(crate) fn pass(&self, send: impl FnOnce()) {
        let closed = self.0.lock();
        if !*closed {
            send();
        }
    }

    /// Sends what is the last, whoever sends it first. Whether it was sent.
    pub(crate) fn pass_last(&self, send: impl FnOnce()) -> bool {
        let mut closed = self.0.lock();
        if *closed {
            return false;
        }
        *closed = true;
        send();
        true
    }
}

/// Sends chunks, then one terminal event. Dropped before that, in a task that panicked for one, it
/// says so, so that nobody waits for ever.
pub(crate) struct Events {
    to: Option<Recipient>,
    _watch: Option<Watch>,
}

/// Who gets the messages of a stream, and what they have in common.
pub(crate) struct Recipient {
    pid: LocalPid,
    kept: OwnedEnv,
    reference: SavedTerm,
    pool: SavedTerm,
    command: String,
    gate: Gate,
    /// Who is told of the end beside the owner, whatever that has become, and with which term.
    observer: Option<(LocalPid, SavedTerm)>,
    /// Of a stream whose consumer takes messages on its own.
    progress: Option<Arc<Progress>>,
}

impl Events {
    /// `watch` sends the end of a stream that is overdue.
    pub(crate) fn new(to: Recipient, watch: Option<Watch>) -> Self {
        Self {
            to: Some(to),
            _watch: watch,
        }
    }

    /// Must not be called on a scheduler's thread, as all sending here.
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
    pub(crate) fn finish(mut self, result: Result<(), Failure>, meta: &Meta) {
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
        gate: Gate,
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
            gate,
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
            self.gate.pass(|| self.send(env, event));
            Ok(())
        })
    }

    /// Nothing is sent after it.
    pub(crate) fn end(&self, result: Result<(), Failure>, meta: &Meta) {
        OwnedEnv::new().run(|env| {
            let event = match result {
                Ok(()) => (atoms::done(), meta).encode(env),
                Err(failure) => {
                    let pool = self.kept.run(|kept| self.pool.load(kept).in_env(env));
                    (atom::error(), self.error(env, &failure, pool, meta)).encode(env)
                }
            };
            self.tell_observer(env, event, meta);
            let event = self.event(env, event);
            self.gate.pass_last(|| self.send(env, event));
        });
    }

    fn event<'a>(&self, env: Env<'a>, event: Term<'a>) -> Term<'a> {
        let reference = self.kept.run(|kept| self.reference.load(kept).in_env(env));
        (atoms::snakepit(), reference, event).encode(env)
    }

    fn send(&self, env: Env<'_>, message: Term<'_>) {
        // An owner that is gone cancels the call through its monitor.
        let _ = env.send(&self.pid, message);
    }

    fn error<'a>(&self, env: Env<'a>, failure: &Failure, pool: Term<'a>, meta: &Meta) -> Term<'a> {
        let pairs = [
            (atoms::__struct__(), atoms::snakepit_error().encode(env)),
            (atoms::__exception__(), true.encode(env)),
            (atoms::reason(), reason_atom(failure.reason()).encode(env)),
            (atoms::message(), failure.to_string().encode(env)),
            (atoms::command(), self.command.encode(env)),
            (atoms::pool(), pool),
            (atoms::worker_id(), meta.worker_id.encode(env)),
            (
                atoms::request_id(),
                Some(&meta.request_id)
                    .filter(|id| !id.is_empty())
                    .encode(env),
            ),
            (atoms::details(), failure_details(env, failure)),
        ];
        map::from_pairs(env, pairs)
    }

    /// `{:snakepit_stream_ended, term, end}`, once.
    fn tell_observer<'a>(&self, env: Env<'a>, event: Term<'a>, meta: &'a Meta) {
        let (Some((pid, term)), Some(progress)) = (&self.observer, &self.progress) else {
            return;
        };
        if progress.observed.swap(true, Ordering::AcqRel) {
            return;
        }
        let term = self.kept.run(|kept| term.load(kept).in_env(env));
        let micros = |time: &Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        let end = StreamEnd {
            event,
            meta,
            chunks: progress.chunks.load(Ordering::Relaxed),
            first_chunk_us: progress.first_chunk.get().map(micros),
        };
        let message = (atoms::snakepit_stream_ended(), term, end).encode(env);
        // A pool that has stopped needs not to know.
        let _ = env.send(pid, message);
    }
}

/// How far a stream has come.
pub(crate) struct Progress {
    started: Instant,
    /// How many chunks the consumer has asked for, and was sent.
    asked: AtomicUsize,
    chunks: AtomicUsize,
    first_chunk: OnceLock<Duration>,
    /// In ms since the start: when the last chunk was sent, or one was asked for where none was wanted.
    wanted: AtomicU64,
    observed: AtomicBool,
}

impl Progress {
    pub(crate) fn new(started: Instant, asked: usize) -> Arc<Self> {
        Arc::new(Self {
            started,
            asked: AtomicUsize::new(asked),
            chunks: AtomicUsize::new(0),
            first_chunk: OnceLock::new(),
            wanted: AtomicU64::new(0),
            observed: AtomicBool::new(false),
        })
    }

    pub(crate) fn ask(&self, chunks: usize) {
        if self.asked.load(Ordering::Acquire) <= self.chunks.load(Ordering::Acquire) {
            self.set_wanted();
        }
        self.asked.fetch_add(chunks, Ordering::AcqRel);
    }

    fn sent(&self, chunks: usize) {
        self.first_chunk.get_or_init(|| self.started.elapsed());
        self.set_wanted();
        self.chunks.fetch_add(chunks, Ordering::AcqRel);
    }

    fn set_wanted(&self) {
        let since = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.wanted.store(since, Ordering::Release);
    }

    pub(crate) fn has_begun(&self) -> bool {
        self.first_chunk.get().is_some()
    }

    /// Since when the consumer waits for a chunk.
    pub(crate) fn wanted_since(&self) -> Option<Instant> {
        let asked = self.asked.load(Ordering::Acquire);
        let since = Duration::from_millis(self.wanted.load(Ordering::Acquire));
        (asked > self.chunks.load(Ordering::Acquire)).then(|| self.started + since)
    }
}
