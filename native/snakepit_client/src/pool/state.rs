//! The table behind the dispatcher's lock: the workers, the calls that wait for them, and their sessions.

use super::{
    sessions::{Assigned, EndedSession, SessionLease, Sessions},
    types::{
        AcquireError, AcquireOptions, Event, Snapshot, Startup, Unavailable, Worker, WorkerKey,
    },
    worker::{Queued, QueuedSession, Slot, SlotUse, Waiter, WorkerEntry},
};
use std::{
    collections::{BTreeMap, HashSet},
    mem::take,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::sync::oneshot;

/// Requeued calls have numbers below it, and so go to the front of the queue.
const FIRST_NUMBER: u64 = 1 << 32;
/// How many sessions are ended under one lock: more than one call can begin.
const ENDED_AT_ONCE: usize = 4;

/// The options of a pool.
#[derive(Clone, Copy, Default)]
pub struct Limits {
    pub max_queue: usize,
    pub max_sessions: usize,
    pub session_ttl: Option<Duration>,
    /// How much work may be sent to a worker ahead of what it runs.
    pub pipeline_budget: Duration,
    /// How many workers the pool keeps, and how long each may take to become ready.
    pub size: usize,
    pub startup_timeout: Duration,
}

/// `L` is the lease that the dispatcher makes of a slot.
pub(super) struct State<W: Worker, L> {
    limits: Limits,
    workers: Vec<WorkerEntry<W, L>>,
    queue: BTreeMap<u64, Queued<L>>,
    /// How many calls wait for one worker alone, in its entry.
    pinned: usize,
    sessions: Sessions,
    /// Numbers workers, tickets and leases in the order in which they came.
    last_number: u64,
    /// The same for requeued calls.
    last_requeued: u64,
    created: Instant,
    /// Whether a worker has been ready.
    started: bool,
    /// How many workers have failed to start, and why the last one did.
    failed: usize,
    failure: Option<Arc<Unavailable>>,
    /// Removed workers that had answered a call.
    answered: HashSet<WorkerKey>,
    /// What every call is refused with once the pool has ended.
    closed: Option<AcquireError>,
}

/// A queued call and what it gets.
type Grant<W, L> = (Waiter<L>, Result<Slot<W>, AcquireError>);

/// What has to be sent once the lock is released.
#[must_use]
pub(super) struct Effects<W, L> {
    pub(super) grants: Vec<Grant<W, L>>,
    pub(super) events: Vec<Event<W>>,
}

impl<W, L> Effects<W, L> {
    fn new() -> Self {
        Self {
            grants: Vec::new(),
            events: Vec::new(),
        }
    }
}

pub(super) enum Submitted<W, L> {
    Slot(Slot<W>),
    Queued {
        number: u64,
        granted: oneshot::Receiver<Result<L, AcquireError>>,
        /// Whether a worker of the pool has been ready.
        started: bool,
    },
}

/// Where a call goes; workers by their index in the table.
enum Placement {
    Worker(usize),
    /// It waits for any worker, or for this one alone.
    Queue(Option<usize>),
    SessionLost,
}

impl<W: Worker, L> State<W, L> {
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            limits,
            workers: Vec::new(),
            queue: BTreeMap::new(),
            pinned: 0,
            sessions: Sessions::new(limits.max_sessions, limits.session_ttl),
            last_number: FIRST_NUMBER,
            last_requeued: 0,
            created: Instant::now(),
            started: false,
            failed: 0,
            failure: None,
            answered: HashSet::new(),
            closed: None,
        }
    }

    /// Gives the call a slot, or a place in the queue.
    pub(super) fn submit(
        &mut self,
        options: AcquireOptions,
        events: &mut Vec<Event<W>>,
    ) -> Result<Submitted<W, L>, AcquireError> {
        let AcquireOptions {
            deadline,
            session,
            pipelines,
            requeued,
        } = options;
        if let Some(session) = &session {
            self.expire(Some(&session.id), events);
        }
        let wanted = session
            .as_ref()
            .map(|session| (&session.id, session.strict));
        // A call that is sent ahead must not overtake one that waits for a slot of its own.
        let ahead = pipelines && (requeued || self.queue.is_empty());
        match self.place(wanted, ahead) {
            Placement::Worker(index) => {
                let session = session.map(|session| self.enter(&session.id, events));
                let slot = self.take(index, session, pipelines, events);
                Ok(Submitted::Slot(slot))
            }
            Placement::Queue(pinned) => {
                self.admit(requeued)?;
                let session = session.map(|session| QueuedSession {
                    lease: self.enter(&session.id, events),
                    strict: session.strict,
                });
                let (waiter, granted) = oneshot::channel();
                let started = self.started;
                let queued = Queued {
                    deadline: deadline.filter(|_| started),
                    waiter,
                    session,
                    pipelines,
                };
                let number = if requeued {
                    self.next_requeued()
                } else {
                    self.next_number()
                };
                self.enqueue(number, pinned, queued);
                Ok(Submitted::Queued {
                    number,
                    granted,
                    started,
                })
            }
            Placement::SessionLost => {
                if let Some(session) = session {
                    self.end_session(&session.id);
                }
                Err(AcquireError::SessionLost)
            }
        }
    }

    pub(super) fn add(&mut self, worker: W, capacity: usize) -> (WorkerKey, Effects<W, L>) {
        let key = WorkerKey(self.next_number());
        self.started = true;
        self.failed = 0;
        self.workers.push(WorkerEntry::new(key, worker, capacity));
        (key, self.serve(Effects::new()))
    }

    pub(super) fn drain(&mut self, key: WorkerKey) -> Effects<W, L> {
        let mut effects = Effects::new();
        if let Some(entry) = self.entry(key) {
            let drained = entry.drain();
            let worker = entry.worker.clone();
            let (pinned, sessions) = (take(&mut entry.pinned), take(&mut entry.sessions));
            self.lose_sessions(pinned, sessions, worker, &mut effects);
            effects.events.extend(drained);
        }
        self.serve(effects)
    }

    /// Pauses a worker, if `connection` is still the one that it has. False if there is no such worker.
    pub(super) fn pause(&mut self, key: WorkerKey, connection: Option<u64>) -> bool {
        let entry = self.entry(key);
        entry.map(|entry| entry.pause(connection)).is_some()
    }

    pub(super) fn resume(&mut self, key: WorkerKey, worker: W) -> (bool, Effects<W, L>) {
        let entry = self.entry(key);
        let resumed = entry.is_some_and(|entry| entry.resume(worker));
        (resumed, self.serve(Effects::new()))
    }

    pub(super) fn set_failed(&mut self, failed: usize, why: Arc<Unavailable>) -> Effects<W, L> {
        self.failed = failed;
        self.failure = Some(why);
        match self.unavailable() {
            Some(why) => self.refuse_all(&AcquireError::Unavailable(why)),
            None => Effects::new(),
        }
    }

    /// Why the pool has no worker, while none is ready or may become so.
    fn unavailable(&self) -> Option<Arc<Unavailable>> {
        let all_failed = self.workers.is_empty() && self.failed >= self.limits.size;
        self.failure.clone().filter(|_| all_failed)
    }

    pub(super) fn has_workers(&self) -> bool {
        !self.workers.is_empty()
    }

    pub(super) fn startup(&self) -> Startup {
        Startup {
            starting: self.limits.size.saturating_sub(self.failed),
            size: self.limits.size,
            elapsed: self.created.elapsed(),
            startup_timeout: self.limits.startup_timeout,
            failed: self.failure.clone(),
        }
    }

    pub(super) fn had_answered(&mut self, key: WorkerKey) -> bool {
        self.answered.remove(&key)
    }

    pub(super) fn close(&mut self, error: AcquireError) -> Effects<W, L> {
        let error = self.closed.get_or_insert(error).clone();
        self.refuse_all(&error)
    }

    pub(super) fn snapshot(&self) -> Snapshot {
        Snapshot {
            queued: self.queue.len() + self.pinned,
            sessions: self.sessions.len(),
            workers: self
                .workers
                .iter()
                .map(|entry| (entry.key, entry.in_flight(), !entry.is_open()))
                .collect(),
        }
    }

    pub(super) fn end_session(&mut self, id: &str) -> Option<(W, u64)> {
        let ended = self.sessions.end(id)?;
        let worker = self.unassign(&ended)?;
        Some((worker, ended.generation))
    }

    /// A call has ended, and its slot is free.
    pub(super) fn release(&mut self, slot: &Slot<W>, used: SlotUse) -> Effects<W, L> {
        if let Some(session) = &slot.session {
            self.sessions.leave(session, Instant::now());
        }
        let mut effects = Effects::new();
        let entry = self.entry(slot.key);
        effects
            .events
            .extend(entry.and_then(|entry| entry.release(slot, used)));
        self.serve(effects)
    }

    pub(super) fn worker(&mut self, key: WorkerKey) -> Option<W> {
        self.entry(key).map(|entry| entry.worker.clone())
    }

    /// Whether the worker drains or was removed.
    pub(super) fn is_leaving(&mut self, key: WorkerKey) -> bool {
        self.entry(key).is_none_or(|entry| entry.is_draining())
    }

    pub(super) fn set_cancelled(&mut self, slot: &mut Slot<W>) {
        if let Some(entry) = self.entry(slot.key) {
            entry.set_cancelled(slot);
        }
    }

    /// Whether the worker has calls that were not cancelled.
    pub(super) fn is_in_use(&mut self, key: WorkerKey) -> bool {
        self.entry(key).is_some_and(|entry| entry.is_in_use())
    }

    pub(super) fn stall(&mut self, key: WorkerKey) {
        if let Some(entry) = self.entry(key) {
            entry.stall();
        }
    }

    fn place(&self, session: Option<(&Arc<str>, bool)>, pipelines: bool) -> Placement {
        if self.closed.is_some() {
            return Placement::Queue(None);
        }
        if let Some((id, strict)) = session
            && let Some(key) = self.sessions.worker(id)
        {
            match self.index(key) {
                None => return Placement::SessionLost,
                Some(index) if self.workers[index].is_draining() => return Placement::SessionLost,
                Some(index)
                    if self.workers[index].is_free(pipelines, self.limits.pipeline_budget) =>
                {
                    return Placement::Worker(index);
                }
                Some(index) if strict => return Placement::Queue(Some(index)),
                Some(_) => {}
            }
        }
        self.least_loaded(pipelines)
            .map_or(Placement::Queue(None), Placement::Worker)
    }

    fn least_loaded(&self, pipelines: bool) -> Option<usize> {
        self.workers
            .iter()
            .enumerate()
            .filter(|(_, entry)| entry.is_free(pipelines, self.limits.pipeline_budget))
            .min_by_key(|(_, entry)| entry.load())
            .map(|(index, _)| index)
    }

    /// Takes a slot of a worker, and assigns the session to it.
    fn take(
        &mut self,
        index: usize,
        session: Option<SessionLease>,
        pipelines: bool,
        events: &mut Vec<Event<W>>,
    ) -> Slot<W> {
        let number = self.next_number();
        let mut slot = self.workers[index].take(number, pipelines);
        slot.session = session.map(|session| self.assign(session, index, events));
        slot
    }

    fn assign(
        &mut self,
        mut session: SessionLease,
        index: usize,
        events: &mut Vec<Event<W>>,
    ) -> SessionLease {
        let key = self.workers[index].key;
        let from = match self.sessions.assign(&mut session, key) {
            Assigned::Unchanged => return session,
            Assigned::Created => None,
            Assigned::Moved(ended) => self.unassign(&ended).map(|from| (from, ended.generation)),
        };
        let entry = &mut self.workers[index];
        entry.sessions.insert(session.id.clone());
        let (id, worker) = (session.id.clone(), entry.worker.clone());
        events.push(match from {
            None => Event::Created { id, worker },
            Some((from, generation)) => Event::Moved {
                id,
                generation,
                from,
                to: worker,
            },
        });
        session
    }

    /// Takes an ended session from its worker, if that is still there.
    fn unassign(&mut self, ended: &EndedSession) -> Option<W> {
        let entry = self.entry(ended.worker?)?;
        entry.sessions.remove(&ended.id);
        Some(entry.worker.clone())
    }

    /// Adds a call to a session. A new session may cost another one its place.
    fn enter(&mut self, id: &Arc<str>, events: &mut Vec<Event<W>>) -> SessionLease {
        let session = self.sessions.enter(id);
        for _ in 0..ENDED_AT_ONCE {
            let Some(ended) = self.sessions.evict() else {
                break;
            };
            if let Some(worker) = self.unassign(&ended) {
                events.push(Event::Evicted {
                    id: ended.id,
                    generation: ended.generation,
                    worker,
                });
            }
        }
        session
    }

    /// Ends this session if its time to live has passed, and some others. Whether there may be more.
    pub(super) fn expire(&mut self, id: Option<&str>, events: &mut Vec<Event<W>>) -> bool {
        let now = Instant::now();
        let mut next = id.and_then(|id| self.sessions.expire(id, now));
        for _ in 0..ENDED_AT_ONCE {
            let Some(ended) = next.take().or_else(|| self.sessions.expire_oldest(now)) else {
                return false;
            };
            if let Some(worker) = self.unassign(&ended) {
                events.push(Event::Expired {
                    id: ended.id,
                    worker,
                });
            }
        }
        true
    }

    /// Whether one more call may wait. A requeued one was counted when it came first.
    fn admit(&self, requeued: bool) -> Result<(), AcquireError> {
        if let Some(error) = &self.closed {
            return Err(error.clone());
        }
        if let Some(why) = self.unavailable() {
            return Err(AcquireError::Unavailable(why));
        }
        if !requeued && self.queue.len() + self.pinned >= self.limits.max_queue {
            return Err(AcquireError::Saturated {
                max_queue: self.limits.max_queue,
            });
        }
        Ok(())
    }

    fn enqueue(&mut self, number: u64, pinned: Option<usize>, queued: Queued<L>) {
        match pinned {
            None => self.queue.insert(number, queued),
            Some(index) => {
                self.pinned += 1;
                self.workers[index].pinned.insert(number, queued)
            }
        };
    }

    /// Removes a call from the queue or from the calls pinned to a worker.
    fn dequeue(&mut self, number: u64) -> Option<Queued<L>> {
        if let Some(queued) = self.queue.remove(&number) {
            return Some(queued);
        }
        if self.pinned == 0 {
            return None;
        }
        let mut entries = self.workers.iter_mut();
        let queued = entries.find_map(|entry| entry.pinned.remove(&number))?;
        self.pinned -= 1;
        Some(queued)
    }

    /// A queued call gives up. Its waiter is to be dropped without the lock.
    pub(super) fn give_up(&mut self, number: u64) -> Option<Waiter<L>> {
        let queued = self.dequeue(number)?;
        Some(self.withdraw(queued))
    }

    /// Gives free slots to the calls that have waited longest. Calls that have waited too long are refused.
    fn serve(&mut self, mut effects: Effects<W, L>) -> Effects<W, L> {
        while let Some((queued, index)) = self.next(&mut effects) {
            let session = queued.session.map(|session| session.lease);
            let slot = self.take(index, session, queued.pipelines, &mut effects.events);
            effects.grants.push((queued.waiter, Ok(slot)));
        }
        effects
    }

    /// Removes the call that has waited longest of those for which a worker is free; returns it and the worker.
    fn next(&mut self, effects: &mut Effects<W, L>) -> Option<(Queued<L>, usize)> {
        loop {
            self.least_loaded(true)?;
            let first = self.queue.first_key_value().map(|(number, _)| *number);
            let number = first.into_iter().chain(self.first_pinned()).min()?;
            let queued = self.dequeue(number)?;
            if queued.is_late() {
                let waiter = self.withdraw(queued);
                effects.grants.push((waiter, Err(AcquireError::Expired)));
                continue;
            }
            let session = queued.session.as_ref();
            let session = session.map(|session| (&session.lease.id, session.strict));
            match self.place(session, queued.pipelines) {
                Placement::Worker(index) => return Some((queued, index)),
                Placement::Queue(None) => {
                    // It needs a slot of its own, and no later call overtakes it.
                    self.enqueue(number, None, queued);
                    return None;
                }
                Placement::Queue(pinned) => self.enqueue(number, pinned, queued),
                Placement::SessionLost => self.refuse_lost(queued, effects),
            }
        }
    }

    /// The call that has waited longest of those for one worker which is free.
    fn first_pinned(&self) -> Option<u64> {
        if self.pinned == 0 {
            return None;
        }
        let firsts = self.workers.iter().filter_map(|entry| {
            let (number, queued) = entry.pinned.first_key_value()?;
            entry
                .is_free(queued.pipelines, self.limits.pipeline_budget)
                .then_some(*number)
        });
        firsts.min()
    }

    /// Takes a call that gets no worker out of its session.
    fn withdraw(&mut self, queued: Queued<L>) -> Waiter<L> {
        if let Some(session) = &queued.session {
            self.sessions.leave(&session.lease, Instant::now());
        }
        queued.waiter
    }

    fn refuse_lost(&mut self, queued: Queued<L>, effects: &mut Effects<W, L>) {
        if let Some(id) = queued.session_id() {
            self.sessions.end(id);
        }
        let refused = (queued.waiter, Err(AcquireError::SessionLost));
        effects.grants.push(refused);
    }

    fn refuse_all(&mut self, error: &AcquireError) -> Effects<W, L> {
        let mut waiting = take(&mut self.queue);
        for entry in &mut self.workers {
            waiting.append(&mut entry.pinned);
        }
        self.pinned = 0;
        let mut effects = Effects::new();
        for queued in waiting.into_values() {
            let waiter = self.withdraw(queued);
            effects.grants.push((waiter, Err(error.clone())));
        }
        effects
    }

    /// Removes workers, and refuses the calls whose sessions are on them. Whether there were any.
    pub(super) fn remove(
        &mut self,
        which: impl Fn(WorkerKey, &W) -> bool,
    ) -> (bool, Effects<W, L>) {
        let mut effects = Effects::new();
        let mut removed = false;
        while let Some(index) = self
            .workers
            .iter()
            .position(|entry| which(entry.key, &entry.worker))
        {
            let entry = self.workers.remove(index);
            if entry.answered {
                self.answered.insert(entry.key);
            }
            self.lose_sessions(entry.pinned, entry.sessions, entry.worker, &mut effects);
            removed = true;
        }
        (removed, self.serve(effects))
    }

    /// Refuses the calls whose sessions were on a worker. Its other calls wait for any worker.
    fn lose_sessions(
        &mut self,
        pinned: BTreeMap<u64, Queued<L>>,
        sessions: HashSet<Arc<str>>,
        worker: W,
        effects: &mut Effects<W, L>,
    ) {
        self.pinned -= pinned.len();
        for (number, queued) in pinned {
            if queued.session_id().is_some_and(|id| sessions.contains(id)) {
                self.refuse_lost(queued, effects);
            } else {
                self.queue.insert(number, queued);
            }
        }
        if !sessions.is_empty() {
            effects.events.push(Event::Lost {
                ids: sessions,
                worker,
            });
        }
    }

    fn index(&self, key: WorkerKey) -> Option<usize> {
        self.workers.iter().position(|entry| entry.key == key)
    }

    fn entry(&mut self, key: WorkerKey) -> Option<&mut WorkerEntry<W, L>> {
        self.workers.iter_mut().find(|entry| entry.key == key)
    }

    fn next_number(&mut self) -> u64 {
        self.last_number += 1;
        self.last_number
    }

    fn next_requeued(&mut self) -> u64 {
        self.last_requeued += 1;
        self.last_requeued
    }
}
