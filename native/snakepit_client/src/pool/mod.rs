//! Which worker takes a call, and which calls wait for one.
//!
//! `Dispatcher` is a table behind a mutex that is held for well under a microsecond. What follows from a change
//! of the table, grants to waiting calls and events, is sent once the mutex is released.

mod batches;
mod commands;
mod in_turn;
mod queue;
mod sessions;
mod state;
mod types;
mod worker;

#[cfg(test)]
mod batch_tests;
#[cfg(test)]
mod reentrant_tests;
#[cfg(test)]
mod session_tests;
#[cfg(test)]
mod tests;

pub use state::Limits;
pub use types::{
    AcquireError, AcquireOptions, BatchCommand, CommandId, Event, HeldPlace, Priority, Session,
    Snapshot, Startup, Unavailable, Worker, WorkerKey,
};

use crate::overdue::Watch;
use commands::Commands;
use in_turn::in_turn;
use parking_lot::{Mutex, MutexGuard};
use queue::Place;
use state::{Effects, Placed, State};
use std::{
    hash::{BuildHasher, Hasher, RandomState},
    sync::{Arc, Weak},
    time::{Duration, Instant},
};
use tokio::sync::oneshot;
use worker::{Slot, SlotUse};

pub type Granted<W> = Result<Lease<W>, AcquireError>;

/// A call that can wait in the queue.
pub trait QueuedCall<W: Worker>: Send + 'static {
    /// The call has a place, which `Ticket::give_up` gives up. It may get its lease as soon as this returns. The
    /// dispatcher is locked.
    fn queued(&self, ticket: Ticket<W>);
    /// The call has left the queue, with a lease or the reason why it gets none.
    fn granted(self: Box<Self>, granted: Granted<W>);
}

/// For a future that waits.
impl<W: Worker> QueuedCall<W> for oneshot::Sender<Granted<W>> {
    fn queued(&self, _ticket: Ticket<W>) {}

    fn granted(self: Box<Self>, granted: Granted<W>) {
        // If nobody waits any more, the lease is dropped here, which frees the slot.
        drop(self.send(granted));
    }
}

/// What became of a call.
pub enum Submitted<W: Worker, C> {
    /// A worker was free.
    Now(Lease<W>, C),
    Queued(Ticket<W>),
    Refused(AcquireError, C),
}

type Listener<W> = Box<dyn Fn(Event<W>) + Send + Sync>;

type AnyCall<W> = Box<dyn QueuedCall<W>>;

pub struct Dispatcher<W: Worker> {
    state: Mutex<State<W, AnyCall<W>>>,
    commands: Commands,
    listener: Listener<W>,
    client_id: u64,
    /// Whether the workers are endpoints.
    remote: bool,
    /// Refuses the calls that have waited too long.
    late: Watch,
}

impl<W: Worker> Dispatcher<W> {
    /// The listener must not block: the thread that causes an event calls it.
    pub fn new(limits: Limits, listener: impl Fn(Event<W>) + Send + Sync + 'static) -> Arc<Self> {
        Arc::new_cyclic(|dispatcher: &Weak<Self>| {
            let dispatcher = dispatcher.clone();
            Self {
                state: Mutex::new(State::new(limits)),
                commands: Commands::default(),
                listener: Box::new(listener),
                client_id: random(),
                remote: limits.remote,
                late: Watch::idle(move |now| dispatcher.upgrade()?.refuse_late(now)),
            }
        })
    }

    /// Leases the least loaded worker, or the session's, if it is free; queues the call otherwise.
    pub fn submit<C: QueuedCall<W>>(
        self: &Arc<Self>,
        options: AcquireOptions,
        call: C,
    ) -> Submitted<W, C> {
        let mut events = Vec::new();
        let mut state = self.lock();
        let placed = state.submit(options, &mut events);
        let (submitted, end) = match placed {
            Ok(Placed::Slot(slot)) => (Submitted::Now(self.lease(slot), call), None),
            Ok(Placed::Queue { wait, pinned }) => {
                let ticket = Ticket {
                    dispatcher: Arc::downgrade(self),
                    place: wait.place,
                };
                call.queued(ticket.clone());
                let end = state.enqueue(Box::new(call), wait, pinned);
                (Submitted::Queued(ticket), end)
            }
            Err(error) => (Submitted::Refused(error, call), None),
        };
        drop(state);
        self.watch(end);
        events.into_iter().for_each(&self.listener);
        submitted
    }

    /// Distinguishes the sessions of this pool on a worker from those of other clients, which count their
    /// generations themselves.
    #[inline]
    pub fn client_id(&self) -> u64 {
        self.client_id
    }

    /// Whether the workers are endpoints, to which connections are made.
    #[inline]
    pub fn is_remote(&self) -> bool {
        self.remote
    }

    /// The number of a command in this pool. Beyond a thousand they share one.
    #[inline]
    pub fn command(&self, name: &str) -> CommandId {
        self.commands.id(name)
    }

    /// How many calls of a command a worker takes in one slot.
    pub fn batch_size(&self, command: &str) -> usize {
        self.commands.batch_size(command)
    }

    pub fn add(self: &Arc<Self>, worker: W, capacity: usize) -> WorkerKey {
        self.add_batching(worker, capacity, Vec::new())
    }

    /// As `add`, for a worker that takes the calls of some commands in batches. A batch counts as one call towards its
    /// capacity.
    pub fn add_batching(
        self: &Arc<Self>,
        worker: W,
        capacity: usize,
        batches: Vec<BatchCommand>,
    ) -> WorkerKey {
        let batches = self.commands.announce(batches);
        let (key, effects, end) = self.lock().add(worker, capacity, batches);
        self.watch(end);
        self.send(effects);
        key
    }

    /// The worker gets no more calls and loses its sessions; running calls continue. Once it has none the
    /// listener gets `Drained`.
    pub fn drain(self: &Arc<Self>, key: WorkerKey) {
        let effects = self.lock().drain(key);
        self.send(effects);
    }

    /// The worker gets only the calls of its sessions; calls with a session that need not stay move it to another
    /// worker. Once it has neither calls nor sessions, the listener gets `Drained`.
    pub fn drain_sessions(self: &Arc<Self>, key: WorkerKey) {
        let effects = self.lock().drain_sessions(key);
        self.send(effects);
    }

    /// The listener gets `Served` once, when so many calls of the worker have ended.
    pub fn report_at(&self, key: WorkerKey, calls: u64) {
        let event = self.lock().report_at(key, calls);
        event.into_iter().for_each(&self.listener);
    }

    /// How many workers the pool is to have from now on.
    pub fn set_size(self: &Arc<Self>, size: usize) {
        let effects = self.lock().set_size(size);
        self.send(effects);
    }

    /// The worker gets no calls until `resume`, because its connection takes no more. False if it is not there.
    pub fn pause(&self, key: WorkerKey) -> bool {
        self.lock().pause(key, None)
    }

    /// A paused worker has a new connection. False if it is not paused.
    pub fn resume(self: &Arc<Self>, key: WorkerKey, worker: W) -> bool {
        let (resumed, effects) = self.lock().resume(key, worker);
        self.send(effects);
        resumed
    }

    /// Removes a worker, and with it its sessions. Calls keep their leases of it, which free nothing when they
    /// are dropped.
    pub fn remove(self: &Arc<Self>, key: WorkerKey) -> bool {
        self.remove_where(|one, _worker| one == key)
    }

    /// As `remove`, for the workers that `which` picks.
    pub fn remove_where(self: &Arc<Self>, which: impl Fn(WorkerKey, &W) -> bool) -> bool {
        let (removed, effects) = self.lock().remove(which);
        self.send(effects);
        removed
    }

    /// Ends a session. Returns its worker and its generation.
    pub fn end_session(self: &Arc<Self>, id: &str) -> Option<(W, u64)> {
        let mut effects = Effects::new();
        let mut state = self.lock();
        let ended = state.end_session(id, &mut effects.events);
        // Its calls that waited for its worker may now get another one.
        let effects = state.settle(effects);
        drop(state);
        self.send(effects);
        ended
    }

    /// A worker that takes calls.
    pub fn any_worker(&self) -> Option<W> {
        self.lock().any_worker()
    }

    /// Ends sessions whose time to live has passed, without waiting for the next call to do so.
    pub fn expire_sessions(self: &Arc<Self>) {
        let mut more = true;
        while more {
            let mut effects = Effects::new();
            let mut state = self.lock();
            more = state.expire_sessions(None, &mut effects.events);
            let effects = state.settle(effects);
            drop(state);
            self.send(effects);
        }
    }

    /// So many workers have failed to start and will be tried again, the last for this reason. While these are
    /// all of the pool's, every call is refused with it.
    pub fn set_failed(self: &Arc<Self>, failed: usize, unavailable: Unavailable) {
        let effects = self.lock().set_failed(failed, unavailable.into());
        self.send(effects);
    }

    /// Whether a removed worker had answered a call. Kept until the first question.
    pub fn had_answered(&self, key: WorkerKey) -> bool {
        self.lock().had_answered(key)
    }

    /// Ends the pool: waiting calls are refused, and so is every later one. Its workers stay until they are
    /// removed, because their running calls continue.
    pub fn close(self: &Arc<Self>, error: AcquireError) {
        let effects = self.lock().close(error);
        self.send(effects);
    }

    pub fn snapshot(&self) -> Snapshot {
        self.lock().snapshot()
    }

    fn lease(self: &Arc<Self>, slot: Slot<W>) -> Lease<W> {
        Lease {
            dispatcher: self.clone(),
            used: SlotUse::Ended,
            slot,
        }
    }

    fn watch(&self, end: Option<Instant>) {
        if let Some(end) = end {
            self.late.check_by(end);
        }
    }

    fn refuse_late(self: &Arc<Self>, now: Instant) -> Option<Instant> {
        let (effects, next) = self.lock().expire(now);
        self.send(effects);
        next
    }

    fn send(self: &Arc<Self>, effects: Effects<W, AnyCall<W>>) {
        for (call, granted) in effects.grants {
            let granted = granted.map(|slot| self.lease(slot));
            in_turn(move || call.granted(granted));
        }
        effects.events.into_iter().for_each(&self.listener);
    }

    fn lock(&self) -> MutexGuard<'_, State<W, AnyCall<W>>> {
        self.state.lock()
    }
}

/// Any number but 0, from the system's random keys for hash tables.
fn random() -> u64 {
    RandomState::new().build_hasher().finish().max(1)
}

/// A worker's slot, which goes to the first call of the queue when this is dropped.
pub struct Lease<W: Worker> {
    dispatcher: Arc<Dispatcher<W>>,
    used: SlotUse,
    slot: Slot<W>,
}

impl<W: Worker> Lease<W> {
    #[inline]
    pub fn worker(&self) -> &W {
        &self.slot.worker
    }

    /// The generation of the call's session, which the worker compares with that of the state it has; 0 without
    /// a session.
    #[inline]
    pub fn generation(&self) -> u64 {
        let session = self.slot.session.as_ref();
        session.map_or(0, |session| session.generation)
    }

    /// Identifies the worker in the pool.
    pub fn key(&self) -> WorkerKey {
        self.slot.key
    }

    /// Whether the call shares its slot with others, with which it gathers on the worker.
    #[inline]
    pub fn is_batched(&self) -> bool {
        self.slot.batched
    }

    /// Frees the slot, and reports how long the command took.
    pub fn done(mut self, took: Duration) {
        self.used = SlotUse::Took(took);
    }

    /// Frees the slot of a call that the worker has not started.
    pub fn give_back_unused(mut self) {
        self.used = SlotUse::NotStarted;
    }

    pub fn dispatcher(&self) -> Arc<Dispatcher<W>> {
        self.dispatcher.clone()
    }

    /// The worker's command takes unexpectedly long: nothing more is sent ahead until it has ended.
    pub fn stall(&self) {
        self.dispatcher.lock().stall(self.slot.key);
    }

    /// Whether the worker drains or was removed.
    pub fn is_leaving(&self) -> bool {
        self.dispatcher.lock().is_leaving(self.slot.key)
    }

    /// The call was cancelled, and keeps its slot until it has ended.
    pub fn set_cancelled(&mut self) {
        self.dispatcher.lock().set_cancelled(&mut self.slot);
    }

    /// Whether the worker may not have begun the call because of an earlier one that was not cancelled.
    pub fn may_wait(&self) -> bool {
        self.slot.behind && self.dispatcher.lock().is_in_use(self.slot.key)
    }

    /// The worker with its present connection; the lease's own once it was removed.
    pub fn present_worker(&self) -> W {
        let present = self.dispatcher.lock().worker(self.slot.key);
        present.unwrap_or_else(|| self.slot.worker.clone())
    }

    /// The connection takes no more calls: the worker gets none before it has another one.
    pub fn pause(&self) {
        let connection = Some(self.slot.connection);
        self.dispatcher.lock().pause(self.slot.key, connection);
    }

    /// Removes the worker from the pool, because it must not get another call. Returns whether it was there.
    pub fn retire(self) -> bool {
        self.dispatcher.remove(self.slot.key)
    }

    /// As `retire`, because the connection of the call is lost: unless the worker has, or is about to have, another one.
    pub fn retire_lost(self) {
        let (key, connection) = (self.slot.key, self.slot.connection);
        let effects = self.dispatcher.lock().remove_lost(key, connection);
        self.dispatcher.send(effects);
    }
}

impl<W: Worker> Drop for Lease<W> {
    fn drop(&mut self) {
        let effects = self.dispatcher.lock().release(&self.slot, self.used);
        self.dispatcher.send(effects);
    }
}

/// A place in the queue.
pub struct Ticket<W: Worker> {
    dispatcher: Weak<Dispatcher<W>>,
    place: Place,
}

impl<W: Worker> Clone for Ticket<W> {
    fn clone(&self) -> Self {
        Self {
            dispatcher: self.dispatcher.clone(),
            place: self.place,
        }
    }
}

impl<W: Worker> Ticket<W> {
    /// The call gets `GivenUp`, unless it has left the queue.
    pub fn give_up(&self) {
        if let Some(dispatcher) = self.dispatcher.upgrade() {
            let effects = dispatcher.lock().give_up(self.place);
            dispatcher.send(effects);
        }
    }
}
