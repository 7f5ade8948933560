//! Two-way calls as resources: what the processes hold that serve their asks and feed their inputs.

use crate::{atoms, send_guard::SendGuard};
use parking_lot::Mutex;
use rustler::{Encoder, LocalPid, OwnedEnv, Resource, Term, env::SavedTerm};
use snakepit_client::{conversation, pool::HeldPlace};
use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

pub(crate) type Conversation = conversation::Conversation<InputWaiter>;

/// A two-way call, which references to this do not keep running.
pub(crate) struct ConversationResource {
    pub(crate) conversation: Arc<Conversation>,
    /// The largest value that may be sent, once the call has a destination.
    limit: AtomicUsize,
    /// The place that the call has while it runs, and in the pool of which number.
    place: Mutex<Option<(u64, HeldPlace)>>,
}

#[rustler::resource_impl]
impl Resource for ConversationResource {}

impl ConversationResource {
    pub(crate) fn new(conversation: Arc<Conversation>) -> Self {
        Self {
            conversation,
            limit: AtomicUsize::new(usize::MAX),
            place: Mutex::default(),
        }
    }

    pub(crate) fn set_limit(&self, limit: usize) {
        self.limit.store(limit, Ordering::Relaxed);
    }

    pub(crate) fn set_place(&self, place: Option<(u64, HeldPlace)>) {
        *self.place.lock() = place;
    }

    /// The place that the call has in the pool of this number (`Dispatcher::client_id`).
    pub(crate) fn place_in(&self, pool: u64) -> Option<HeldPlace> {
        let place = self.place.lock().filter(|(of, _)| *of == pool);
        place.map(|(_, place)| place)
    }

    pub(crate) fn limit(&self) -> usize {
        self.limit.load(Ordering::Relaxed)
    }
}

/// A process that waits until an input takes items.
pub(crate) struct InputWaiter {
    pid: LocalPid,
    env: OwnedEnv,
    reference: SavedTerm,
    /// Set if the process waits for the call as well.
    guard: Option<SendGuard>,
}

impl InputWaiter {
    pub(crate) fn new(pid: LocalPid, reference: Term<'_>, guard: Option<SendGuard>) -> Self {
        let env = OwnedEnv::new();
        let reference = env.save(reference);
        Self {
            pid,
            env,
            reference,
            guard,
        }
    }

    pub(crate) fn is(&self, pid: LocalPid, reference: Term<'_>) -> bool {
        let env = reference.get_env();
        let own = || self.env.run(|own| self.reference.load(own).in_env(env));
        self.pid == pid && own() == reference
    }

    /// `{:snakepit_input, ref, input_id}`: the process looks what the input takes now.
    fn wake(mut self, input_id: u32) {
        let (pid, reference) = (self.pid, self.reference);
        let env = &mut self.env;
        let message = env.run(|inner| {
            let term = (atoms::snakepit_input(), reference.load(inner), input_id).encode(inner);
            env.save(term)
        });
        let mut send = || {
            // A process that has exited waits no more.
            let _ = env.send_and_clear(&pid, |env| message.load(env));
        };
        match self.guard {
            Some(guard) => guard.pass(send),
            None => send(),
        }
    }
}

/// Must not be called on a scheduler's thread.
pub(crate) fn wake(waiting: Vec<InputWaiter>, input_id: u32) {
    for waiter in waiting {
        waiter.wake(input_id);
    }
}
