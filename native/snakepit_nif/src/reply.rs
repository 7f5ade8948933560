//! Messages to the process that waits for a call.

use crate::{
    failure_term::error_term,
    message_env::{self, MessageEnv},
    runtime,
    send_guard::SendGuard,
};
use rustler::{Encoder, Env, LocalPid, OwnedEnv, Term, env::SavedTerm};
use snakepit_client::{
    error::Failure,
    overdue::{OVERDUE_AFTER, Watch},
};
use std::time::{Duration, Instant};

/// The one terminal reply of a call, `{ref, term}`. If it is dropped unsent, because a task panicked for example, the
/// caller gets the failure `Dropped`, so that it does not wait forever.
pub(crate) struct Reply {
    pid: LocalPid,
    reference: Option<(MessageEnv, SavedTerm)>,
    guard: Option<SendGuard>,
    watch: Option<Watch>,
}

impl Reply {
    pub(crate) fn new(pid: LocalPid, reference: Term<'_>) -> Self {
        let env = message_env::take();
        let saved = env.save(reference);
        Self {
            pid,
            reference: Some((env, saved)),
            guard: None,
            watch: None,
        }
    }

    /// As `new`; nothing is sent once the guard is closed.
    pub(crate) fn guarded(pid: LocalPid, reference: Term<'_>, guard: SendGuard) -> Self {
        let mut reply = Self::new(pid, reference);
        reply.guard = Some(guard);
        reply
    }

    /// As `new`; the failure of a deadline is sent even while the runtime is stuck.
    pub(crate) fn watched(pid: LocalPid, reference: Term<'_>, after: Duration) -> Self {
        let guard = SendGuard::default();
        let env = message_env::take();
        let saved = env.save(reference);
        let (mut kept, late) = (Some(env), guard.clone());
        let watch = Watch::new(Instant::now() + after + OVERDUE_AFTER, move |_| {
            let failure = Failure::overdue(after);
            send(pid, kept.take()?, &saved, Some(&late), |env| {
                error_term(env, &failure)
            });
            None
        });
        let mut reply = Self::guarded(pid, reference, guard);
        reply.watch = Some(watch);
        reply
    }

    /// Must not be called on a scheduler's thread, like all functions here that send, but for `send_from`.
    pub(crate) fn send(self, build: impl for<'a> FnOnce(Env<'a>) -> Term<'a>) {
        self.deliver(build);
    }

    /// As `send`; on a scheduler's thread `env` must be that of the process that has called the NIF.
    pub(crate) fn send_from(
        mut self,
        env: Option<Env<'_>>,
        build: impl for<'a> FnOnce(Env<'a>) -> Term<'a>,
    ) {
        let Some(env) = env else {
            return self.send(build);
        };
        let Some((kept, reference)) = self.reference.take() else {
            return;
        };
        let reference = kept.run(|kept| reference.load(kept).in_env(env));
        let message = (reference, build(env)).encode(env);
        pass_last(self.guard.as_ref(), || {
            // A caller that has exited needs no reply.
            let _ = env.send(&self.pid, message);
        });
        kept.keep_used();
    }

    /// Returns whether this is the reply that the process gets.
    pub(crate) fn send_result<T>(
        self,
        result: Result<T, Failure>,
        encode: impl for<'a> FnOnce(Env<'a>, T) -> Term<'a>,
    ) -> bool {
        self.deliver(|env| match result {
            Ok(value) => (rustler::types::atom::ok(), encode(env, value)).encode(env),
            Err(failure) => error_term(env, &failure),
        })
    }

    fn deliver(mut self, build: impl for<'a> FnOnce(Env<'a>) -> Term<'a>) -> bool {
        match self.reference.take() {
            Some((env, reference)) => send(self.pid, env, &reference, self.guard.as_ref(), build),
            None => false,
        }
    }

    /// No reply is to be sent after all.
    pub(crate) fn forget(mut self) {
        self.reference = None;
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        let Some((env, reference)) = self.reference.take() else {
            return;
        };
        let (pid, guard) = (self.pid, self.guard.take());
        off_scheduler(move || {
            send(pid, env, &reference, guard.as_ref(), |env| {
                error_term(env, &Failure::Dropped)
            });
        });
    }
}

/// Builds the term, which may take long, before the guard is locked. Returns whether the term was sent.
fn send(
    pid: LocalPid,
    mut env: MessageEnv,
    reference: &SavedTerm,
    guard: Option<&SendGuard>,
    build: impl for<'a> FnOnce(Env<'a>) -> Term<'a>,
) -> bool {
    let message = env.run(|inner| env.save((reference.load(inner), build(inner)).encode(inner)));
    let sent = pass_last(guard, || {
        // A caller that has exited needs no reply.
        let _ = env.send_and_clear(&pid, |env| message.load(env));
    });
    if sent {
        env.keep_cleared();
    }
    sent
}

/// Calls `send`, unless the guard is closed. Returns whether it did.
fn pass_last(guard: Option<&SendGuard>, send: impl FnOnce()) -> bool {
    match guard {
        Some(guard) => guard.pass_last(send),
        None => {
            send();
            true
        }
    }
}

/// Runs `send` here, or on the runtime if this is a scheduler's thread, on which nothing must be sent.
pub(crate) fn off_scheduler(send: impl FnOnce() + Send + 'static) {
    if !rustler::thread::is_scheduler_thread() {
        send();
    } else if let Ok(runtime) = runtime::get() {
        runtime.spawn(async move { send() });
    }
}

/// Sends a message to a manager or to the owner of a worker.
pub(crate) fn notify(pid: LocalPid, build: impl for<'a> FnOnce(Env<'a>) -> Term<'a>) {
    let _ = OwnedEnv::new().send_and_clear(&pid, build);
}
