//! A stream's messages to its owner: `{:snakepit, ref, event}`.

use crate::{atoms, call::Meta, failure::Failure, map, reply::off_scheduler};
use rustler::{Encoder, Env, LocalPid, OwnedEnv, Term, env::SavedTerm, types::atom};
use std::{
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

/// Closed by a cancel: once that has returned, nothing of the call reaches its owner.
#[derive(Clone, Default)]
pub(crate) struct Gate(Arc<Mutex<bool>>);

impl Gate {
    pub(crate) fn close(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = true;
    }

    /// Sends what is ready to be sent: a cancel waits for it.
    pub(crate) fn pass(&self, send: impl FnOnce()) {
        let closed = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !*closed {
            send();
        }
    }
}

/// Sends chunks, then one terminal event. Dropped before that, in a task that panicked for one, it
/// says so, so that nobody waits for ever.
pub(crate) struct Events {
    pid: LocalPid,
    kept: Option<OwnedEnv>,
    reference: SavedTerm,
    pool: SavedTerm,
    command: String,
    gate: Gate,
    observer: Option<Observer>,
}

/// Who is told of the end beside the owner, whatever that has become, and with which term.
struct Observer {
    pid: LocalPid,
    term: SavedTerm,
    started: Instant,
    chunks: AtomicUsize,
    first_chunk: OnceLock<Duration>,
}

impl Events {
    pub(crate) fn new(
        pid: LocalPid,
        reference: Term<'_>,
        pool: Term<'_>,
        command: &str,
        gate: Gate,
        observer: Option<(LocalPid, Term<'_>)>,
    ) -> Self {
        let kept = OwnedEnv::new();
        let observer = observer.map(|(pid, term)| Observer {
            pid,
            term: kept.save(term),
            started: Instant::now(),
            chunks: AtomicUsize::new(0),
            first_chunk: OnceLock::new(),
        });
        Self {
            pid,
            observer,
            reference: kept.save(reference),
            pool: kept.save(pool),
            kept: Some(kept),
            command: command.into(),
            gate,
        }
    }

    /// Must not be called on a scheduler's thread, as all sending here.
    pub(crate) fn chunks(
        &self,
        count: usize,
        decode: impl for<'a> FnOnce(Env<'a>) -> Result<Term<'a>, Failure>,
    ) -> Result<(), Failure> {
        if let Some(observer) = &self.observer {
            observer.chunks.fetch_add(count, Ordering::Relaxed);
            observer
                .first_chunk
                .get_or_init(|| observer.started.elapsed());
        }
        match &self.kept {
            Some(kept) => self.send(kept, |env| Ok((atoms::chunks(), decode(env)?).encode(env))),
            None => Ok(()),
        }
    }

    /// The terminal event: `{:done, info}` or `{:error, %Snakepit.Error{}}`.
    pub(crate) fn finish(mut self, result: Result<(), Failure>, meta: &Meta) {
        if let Some(kept) = self.kept.take() {
            self.end(&kept, result, meta);
        }
    }

    fn end(&self, kept: &OwnedEnv, result: Result<(), Failure>, meta: &Meta) {
        // Nothing here can fail but the sending, and an owner that is gone needs no event.
        let _ = self.send(kept, |env| {
            let event = match result {
                Ok(()) => (atoms::done(), info(env, meta)).encode(env),
                Err(failure) => {
                    let pool = kept.run(|kept| self.pool.load(kept).in_env(env));
                    (atom::error(), self.error(env, &failure, pool, meta)).encode(env)
                }
            };
            if let Some(observer) = &self.observer {
                observer.tell(env, kept, event, meta);
            }
            Ok(event)
        });
    }

    fn send(
        &self,
        kept: &OwnedEnv,
        build: impl for<'a> FnOnce(Env<'a>) -> Result<Term<'a>, Failure>,
    ) -> Result<(), Failure> {
        let message = OwnedEnv::new();
        message.run(|env| {
            let reference = kept.run(|kept| self.reference.load(kept).in_env(env));
            let event = (atoms::snakepit(), reference, build(env)?).encode(env);
            self.gate.pass(|| {
                // An owner that is gone cancels the call through its monitor.
                let _ = env.send(&self.pid, event);
            });
            Ok(())
        })
    }

    fn error<'a>(
        &self,
        env: Env<'a>,
        failure: &Failure,
        pool: Term<'a>,
        (request_id, worker_id, _, _): &Meta,
    ) -> Term<'a> {
        let pairs = [
            (atoms::__struct__(), atoms::snakepit_error().encode(env)),
            (atoms::__exception__(), true.encode(env)),
            (atoms::reason(), failure.reason().atom().encode(env)),
            (atoms::message(), failure.to_string().encode(env)),
            (atoms::command(), self.command.encode(env)),
            (atoms::pool(), pool),
            (atoms::worker_id(), worker_id.encode(env)),
            (
                atoms::request_id(),
                Some(request_id).filter(|id| !id.is_empty()).encode(env),
            ),
            (atoms::details(), failure.details(env)),
        ];
        map::from_pairs(env, pairs)
    }
}

impl Observer {
    /// `{:snakepit_stream_ended, term, event, meta, chunks, first_chunk_us}`
    fn tell(&self, env: Env<'_>, kept: &OwnedEnv, event: Term<'_>, meta: &Meta) {
        let term = kept.run(|kept| self.term.load(kept).in_env(env));
        let micros = |time: &Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        let first_chunk = self.first_chunk.get().map(micros);
        let chunks = self.chunks.load(Ordering::Relaxed);
        let kind = atoms::snakepit_stream_ended();
        let message = (kind, term, event, meta, chunks, first_chunk).encode(env);
        // A pool that has stopped needs not to know.
        let _ = env.send(&self.pid, message);
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        let Some(kept) = self.kept.take() else {
            return;
        };
        let lost = Self {
            pid: self.pid,
            kept: None,
            reference: self.reference.clone(),
            pool: self.pool.clone(),
            command: std::mem::take(&mut self.command),
            observer: self.observer.take(),
            gate: self.gate.clone(),
        };
        off_scheduler(move || lost.end(&kept, Err(Failure::Dropped), &Meta::default()));
    }
}

fn info<'a>(env: Env<'a>, (request_id, worker_id, queue_us, execution_us): &Meta) -> Term<'a> {
    let pairs = [
        (atoms::request_id(), request_id.encode(env)),
        (atoms::worker_id(), worker_id.encode(env)),
        (atoms::queue_us(), queue_us.encode(env)),
        (atoms::execution_us(), execution_us.encode(env)),
    ];
    map::from_pairs(env, pairs)
}
