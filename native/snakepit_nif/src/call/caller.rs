//! The processes that wait for unary calls, whose exit cancels their calls.
//!
//! One resource monitors each process from its first call until it exits. A resource for each call had the BEAM wake its
//! own scheduler three times a call, to release the resource and to collect its memory.

use super::request::Call;
use crate::{runtime::spawn, send_guard::SendGuard};
use parking_lot::Mutex;
use rustler::{Encoder, Env, LocalPid, Monitor, Resource, ResourceArc, sys::ErlNifTerm};
use std::{
    collections::BTreeMap,
    sync::{Arc, LazyLock},
};
use tokio_util::sync::CancellationToken;

/// Every process that has made a call, until it exits.
static CALLERS: Mutex<BTreeMap<Key, Calls>> = Mutex::new(BTreeMap::new());

/// Monitors all of them.
static MONITORS: LazyLock<ResourceArc<Monitors>> = LazyLock::new(|| ResourceArc::new(Monitors));

/// A process, by the word that its term is: to compare two pids takes the BEAM a hundred instructions.
type Key = ErlNifTerm;

fn key(env: Env<'_>, pid: LocalPid) -> Key {
    pid.encode(env).as_c_arg()
}

/// The calls that a process waits for. `None` once it has exited.
type Calls = Arc<Mutex<Option<Vec<Arc<WaitedCall>>>>>;

struct Monitors;

#[rustler::resource_impl]
impl Resource for Monitors {
    const IMPLEMENTS_DOWN: bool = true;

    fn down<'a>(&'a self, env: Env<'a>, pid: LocalPid, _monitor: Monitor) {
        let calls = CALLERS.lock().remove(&key(env, pid));
        let calls = calls.and_then(|calls| calls.lock().take());
        calls.iter().flatten().for_each(|call| call.cancel());
    }
}

/// A call that a process waits for.
pub(super) struct WaitedCall {
    id: u64,
    cancelled: CancellationToken,
    /// What else to do when the call is cancelled.
    on_cancel: Mutex<Option<Box<dyn FnOnce() + Send>>>,
    guard: SendGuard,
}

impl WaitedCall {
    /// Has a cancellation call `cancel`; at once if there was one.
    pub(super) fn on_cancel(self: Arc<Self>, cancel: impl FnOnce() + Send + 'static) {
        *self.on_cancel.lock() = Some(Box::new(cancel));
        if self.cancelled.is_cancelled() {
            let _ = spawn(async move { self.cancel() });
        }
    }

    fn cancel(&self) {
        self.cancelled.cancel();
        let cancel = self.on_cancel.lock().take();
        if let Some(cancel) = cancel {
            cancel();
        }
    }
}

/// Kept until the call has ended.
pub(crate) struct Waited {
    call: Arc<WaitedCall>,
    of_caller: Calls,
}

impl Waited {
    /// Cancels `call` when the calling process exits, or by `cancel`.
    pub(crate) fn by(env: Env<'_>, call: &Call) -> Self {
        let waited = Arc::new(WaitedCall {
            id: call.id,
            cancelled: call.cancelled.clone(),
            on_cancel: Mutex::default(),
            guard: SendGuard::default(),
        });
        let of_caller = calls_of(env);
        match &mut *of_caller.lock() {
            Some(calls) => calls.push(waited.clone()),
            // The process was killed while a dirty scheduler runs this.
            None => waited.cancelled.cancel(),
        }
        Self {
            call: waited,
            of_caller,
        }
    }

    /// Closed by a cancellation of the caller.
    pub(crate) fn guard(&self) -> SendGuard {
        self.call.guard.clone()
    }

    pub(super) fn call(&self) -> Arc<WaitedCall> {
        self.call.clone()
    }

    /// Has a cancellation call `cancel`; at once if there was one.
    pub(crate) fn on_cancel(&self, cancel: impl FnOnce() + Send + 'static) {
        self.call().on_cancel(cancel);
    }
}

impl Drop for Waited {
    fn drop(&mut self) {
        let mut of_caller = self.of_caller.lock();
        if let Some(calls) = &mut *of_caller
            && let Some(at) = calls.iter().position(|one| Arc::ptr_eq(one, &self.call))
        {
            calls.swap_remove(at);
        }
    }
}

fn calls_of(env: Env<'_>) -> Calls {
    let pid = env.pid();
    let key = key(env, pid);
    if let Some(calls) = CALLERS.lock().get(&key) {
        return calls.clone();
    }
    let calls: Calls = Arc::new(Mutex::new(Some(Vec::new())));
    CALLERS.lock().insert(key, calls.clone());
    if env.monitor(&MONITORS, &pid).is_none() {
        CALLERS.lock().remove(&key);
        *calls.lock() = None;
    }
    calls
}

/// Cancels a call of the calling process. Once it has returned, no reply to the call is sent.
pub(crate) fn cancel(env: Env<'_>, id: u64) {
    let calls = CALLERS.lock().get(&key(env, env.pid())).cloned();
    let call = calls.and_then(|calls| {
        let calls = calls.lock();
        calls.iter().flatten().find(|call| call.id == id).cloned()
    });
    if let Some(call) = call {
        call.guard.close();
        call.cancelled.cancel();
        let _ = spawn(async move { call.cancel() });
    }
}
