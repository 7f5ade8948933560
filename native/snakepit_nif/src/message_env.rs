//! Environments of messages, which are used again.
//!
//! A reply takes its environment on a scheduler's thread and uses it up on one of tokio's. If that freed its memory, the
//! BEAM would have to wake the scheduler to collect it, for each call.

use parking_lot::Mutex;
use rustler::OwnedEnv;

/// How many unused ones are kept.
const KEPT: usize = 1024;

static UNUSED: Mutex<Vec<OwnedEnv>> = Mutex::new(Vec::new());

pub(crate) fn take() -> OwnedEnv {
    let unused = UNUSED.lock().pop();
    unused.unwrap_or_default()
}

/// Keeps an environment that has been cleared.
pub(crate) fn keep(env: OwnedEnv) {
    let mut unused = UNUSED.lock();
    if unused.len() < KEPT {
        unused.push(env);
    }
}
