//! Which worker takes a call, and which calls wait for one.
//!
//! `Dispatcher` is a table behind a mutex that is held for well under a microsecond. What follows from a change
//! of the table, grants to waiting calls and events, is sent once the mutex is released.

mod sessions;
mod state;
mod types;
mod worker;

#[cfg(test)]
mod session_tests;
#[cfg(test)]
mod tests;

pub use state::Limits;
pub use types::{
    AcquireError, AcquireOptions, Event, Session, Snapshot, Startup, Unavailable, Worker, WorkerKey,
};

use parking_lot::{Mutex, MutexGuard};
use state::{Effects, State, Submitted};
use std::{sync::Arc, time::Duration};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;
use worker::{Slot, SlotUse};

pub type Granted<W> = Result<Lease<W>, AcquireError>;

/// What a call got.
pub enum Acquired<W: Worker> {
    /// A worker that was free.
    Now(Lease<W>),
    /// A place in the queue. The receiver gets the lease, or the reason why there is none.
    Queued(Ticket<W>, oneshot::Receiver<Granted<W>>),
}

type Listener<W> = Box<dyn Fn(Event<W>) + Send + Sync>;

pub struct Dispatcher<W: Worker> {
    state: Mutex<State<W, Lease<W>>>,
    listener: Listener<W>,
    /// Cancelled once the pool has had a ready worker.
    started: CancellationToken,
}

impl<W: Worker> Dispatcher<W> {
    /// The listener must not block: the thread that causes an event calls it.
    pub fn new(limits: Limits, listener: impl Fn(Event<W>) + Send + Sync + 'static) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::new(State::new(limits)),
            listener: Box::new(listener),
            started: CancellationToken::new(),
        })
    }

    /// Leases the least loaded worker, or the session's, if it is free; queues the call in order of arrival
    /// otherwise.
    pub fn submit(self: &Arc<Self>, options: AcquireOptions) -> Result<Acquired<W>, AcquireError> {
        let mut events = Vec::new();
        let submitted = self.lock().submit(options, &mut events);
        let acquired = submitted.map(|submitted| match submitted {
            Submitted::Slot(slot) => Acquired::Now(self.lease(slot)),
            Submitted::Queued {
                number,
                granted,
                started,
            } => {
                let ticket = Ticket {
                    dispatcher: self.clone(),
                    number,
                    starting: (!started).then(|| self.started.clone()),
                };
                Acquired::Queued(ticket, granted)
            }
        });
        events.into_iter().for_each(&self.listener);
        acquired
    }

    pub fn add(self: &Arc<Self>, worker: W, capacity: usize) -> WorkerKey {
        let (key, effects) = self.lock().add(worker, capacity);
        self.send(effects);
        self.started.cancel();
        key
    }

    /// The worker gets no more calls and loses its sessions; running calls continue. Once it has none the
    /// listener gets `Drained`.
    pub fn drain(self: &Arc<Self>, key: WorkerKey) {
        let effects = self.lock().drain(key);
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
    pub fn end_session(&self, id: &str) -> Option<(W, u64)> {
        self.lock().end_session(id)
    }

    /// Ends sessions whose time to live has passed, without waiting for the next call to do so.
    pub fn expire_sessions(&self) {
        let mut more = true;
        while more {
            let mut events = Vec::new();
            more = self.lock().expire(None, &mut events);
            events.into_iter().for_each(&self.listener);
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

    fn send(self: &Arc<Self>, effects: Effects<W, Lease<W>>) {
        for (waiter, granted) in effects.grants {
            // If the call has given up, its lease is dropped here, which frees the slot.
            drop(waiter.send(granted.map(|slot| self.lease(slot))));
        }
        effects.events.into_iter().for_each(&self.listener);
    }

    fn lock(&self) -> MutexGuard<'_, State<W, Lease<W>>> {
        self.state.lock()
    }
}

/// A worker's slot, which goes to the call that has waited longest when this is dropped.
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

    /// Removes the worker from the pool, because it must not get another call.
    pub fn retire(self) -> W {
        self.dispatcher.remove(self.slot.key);
        self.slot.worker.clone()
    }
}

impl<W: Worker> Drop for Lease<W> {
    fn drop(&mut self) {
        let effects = self.dispatcher.lock().release(&self.slot, self.used);
        self.dispatcher.send(effects);
    }
}

/// A place in the queue, which is given up when this is dropped.
pub struct Ticket<W: Worker> {
    dispatcher: Arc<Dispatcher<W>>,
    number: u64,
    /// Of a call that came before the pool's first worker was ready: cancelled when one is.
    starting: Option<CancellationToken>,
}

impl<W: Worker> Ticket<W> {
    pub fn starting(&self) -> Option<CancellationToken> {
        self.starting.clone()
    }

    pub fn startup(&self) -> Startup {
        self.dispatcher.lock().startup()
    }

    /// Whether the pool has a worker that the call could wait for.
    pub fn has_workers(&self) -> bool {
        self.dispatcher.lock().has_workers()
    }
}

impl<W: Worker> Drop for Ticket<W> {
    fn drop(&mut self) {
        let waiter = self.dispatcher.lock().give_up(self.number);
        drop(waiter);
    }
}
