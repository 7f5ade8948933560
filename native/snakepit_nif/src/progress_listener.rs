//! Sends the progress of a call to its caller.

use crate::{allowance::Allowance, atoms, send_guard::SendGuard};
use parking_lot::Mutex;
use rustler::{Encoder, LocalPid, OwnedEnv, Term, env::SavedTerm};
use snakepit_proto::Progress;
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
    pub(crate) fn send(&self, progress: &Progress) {
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
