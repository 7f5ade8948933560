//! The table behind the dispatcher's lock: the workers, the calls that wait for them, and their sessions.

use super::{
    commands::CommandTimes,
    queue::{Demand, Place, Queued, QueuedSession, Wait, WaitEnds, WaitLimits},
    sessions::{Assigned, EndedSession, SessionLease, Sessions},
    types::{
        AcquireError, AcquireOptions, CommandId, Event, HeldPlace, Snapshot, Startup, Unavailable,
        Worker, WorkerKey,
    },
    worker::{Slot, SlotUse, WorkerEntry},
};
use snakepit_wire::nanos;
use std::{
    collections::{BTreeMap, HashMap, HashSet},
    mem::take,
    sync::Arc,
    time::{Duration, Instant},
};

/// How many sessions are ended under one lock: more than one call can begin.
const ENDED_AT_ONCE: usize = 4;

/// While all CPUs are busy, a call goes to a busy worker with less work than this part of the budget, though others are
/// idle: to wake another process costs more CPU time than a short call. With 32 callers on two CPUs, pools of 10 and 50
/// workers made 2 to 3 times as many calls (guides/performance.md).
const SHARED_PART: u64 = 5;

/// The options of a pool.
#[derive(Clone, Copy, Default)]
pub struct Limits {
    pub max_queue: usize,
    pub max_sessions: usize,
    pub session_ttl: Option<Duration>,
    /// How much work may be sent to a worker ahead of what it runs.
    pub pipeline_budget: Duration,
    /// How many CPUs the workers share. None if it is not known.
    pub cpus: Option<usize>,
    /// Whether the workers are endpoints, to which connections are made.
    pub remote: bool,
    /// How many workers the pool keeps, and how long each may take to become ready.
    pub size: usize,
    pub startup_timeout: Duration,
}

/// `C` is a call in the queue, which gets a lease.
pub(super) struct State<W: Worker, C> {
    limits: Limits,
    workers: Vec<WorkerEntry<W, C>>,
    times: CommandTimes,
    queue: BTreeMap<Place, Queued<C>>,
    /// How many calls wait for one worker alone, in its entry.
    pinned: usize,
    ends: WaitEnds,
    sessions: Sessions,
    /// Numbers workers, places and leases in the order in which they came.
    last_number: u64,
    created: Instant,
    /// When the first worker was ready.
    started: Option<Instant>,
    /// How many workers have failed to start, and why the last one did.
    failed: usize,
    failure: Option<Arc<Unavailable>>,
    /// Removed workers that had answered a call.
    answered: HashSet<WorkerKey>,
    /// What every call is refused with once the pool has ended.
    closed: Option<AcquireError>,
}

/// A queued call and what it gets.
type Grant<W, C> = (C, Result<Slot<W>, AcquireError>);

/// What has to be sent once the lock is released.
#[must_use]
pub(super) struct Effects<W, C> {
    pub(super) grants: Vec<Grant<W, C>>,
    pub(super) events: Vec<Event<W>>,
}

impl<W, C> Effects<W, C> {
    pub(super) fn new() -> Self {
        Self {
            grants: Vec::new(),
            events: Vec::new(),
        }
    }
}

pub(super) enum Placed<W> {
    Slot(Slot<W>),
    /// The call is to be queued, before the lock is released.
    Queue {
        wait: Wait,
        /// The worker that it waits for alone, by its index in the table.
        pinned: Option<usize>,
    },
}

/// Where a call goes; workers by their index in the table.
enum Placement {
    Worker(usize),
    /// It waits for any worker, or for this one alone.
    Queue(Option<usize>),
    SessionLost,
}

impl<W: Worker, C> State<W, C> {
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            limits,
            workers: Vec::new(),
            times: CommandTimes::default(),
            queue: BTreeMap::new(),
            pinned: 0,
            ends: WaitEnds::default(),
            sessions: Sessions::new(limits.max_sessions, limits.session_ttl),
            last_number: 0,
            created: Instant::now(),
            started: None,
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
    ) -> Result<Placed<W>, AcquireError> {
        let AcquireOptions {
            since,
            priority,
            deadline,
            queue_timeout,
            session,
            command,
            pipelines,
            requeued,
            held,
        } = options;
        if let Some(session) = &session {
            self.expire_sessions(Some(&session.id), events);
        }
        let wanted = session
            .as_ref()
            .map(|session| (&session.id, session.strict));
        let place = Place::new(since, priority, self.next_number());
        // A call that is sent ahead must not overtake one that waits for a slot of its own.
        let first = self.is_first(place);
        let demand = Demand {
            pipelines: pipelines && first,
            command,
            time: self.times.expected(command),
            joins_before: first.then_some(place),
        };
        match self.place(wanted, demand) {
            Placement::Worker(index) => {
                let session = session.map(|session| self.enter(&session.id, events));
                let demand = Demand {
                    pipelines,
                    ..demand
                };
                let slot = self.take(index, session, demand, events);
                Ok(Placed::Slot(slot))
            }
            Placement::Queue(pinned) => {
                self.admit(requeued)?;
                if self.is_reentrant(pinned, &held) {
                    return Err(AcquireError::Reentrant);
                }
                let session = session.map(|session| QueuedSession {
                    lease: self.enter(&session.id, events),
                    strict: session.strict,
                });
                let limits = WaitLimits {
                    deadline,
                    queue_timeout,
                    // That of a requeued call may have come before.
                    counted_from: self.started.map(|started| started.max(since)),
                };
                let wait = Wait {
                    place,
                    command,
                    pipelines,
                    session,
                    limits,
                    held,
                };
                Ok(Placed::Queue { wait, pinned })
            }
            Placement::SessionLost => {
                if let Some(session) = session {
                    self.end_session(&session.id, events);
                }
                Err(AcquireError::SessionLost)
            }
        }
    }

    fn is_first(&self, place: Place) -> bool {
        let first = self.queue.first_key_value();
        first.is_none_or(|(first, _)| place < *first)
    }

    /// Queues a call for which `submit` has found no slot. Returns when its wait ends, if that is before all others.
    pub(super) fn enqueue(
        &mut self,
        call: C,
        wait: Wait,
        pinned: Option<usize>,
    ) -> Option<Instant> {
        let first = self.ends.first();
        self.ends.insert(&wait);
        self.insert(pinned, Queued { call, wait });
        self.ends.first().filter(|end| first != Some(*end))
    }

    /// Returns when the first of the calls' waits ends, besides.
    pub(super) fn add(
        &mut self,
        worker: W,
        capacity: usize,
        batches: Vec<(CommandId, usize)>,
    ) -> (WorkerKey, Effects<W, C>, Option<Instant>) {
        let key = WorkerKey(self.next_number());
        self.failed = 0;
        let entry = WorkerEntry::new(key, worker, capacity, batches);
        self.workers.push(entry);
        let effects = self.serve(Effects::new());
        self.start();
        (key, effects, self.ends.first())
    }

    /// The queue timeouts begin of the calls that came before the first worker and got no place on it.
    fn start(&mut self) {
        if self.started.is_some() {
            return;
        }
        let now = Instant::now();
        self.started = Some(now);
        let pinned = self.workers.iter_mut();
        let pinned = pinned.flat_map(|entry| entry.pinned.values_mut());
        for Queued { wait, .. } in self.queue.values_mut().chain(pinned) {
            self.ends.remove(wait);
            wait.limits.counted_from = Some(now);
            self.ends.insert(wait);
        }
    }

    pub(super) fn drain(&mut self, key: WorkerKey) -> Effects<W, C> {
        let mut effects = Effects::new();
        if let Some(entry) = self.entry(key) {
            let drained = entry.drain();
            let worker = entry.worker.clone();
            let (pinned, sessions) = (take(&mut entry.pinned), take(&mut entry.sessions));
            self.lose_sessions(pinned, sessions, worker, &mut effects);
            effects.events.extend(drained);
        }
        self.settle(effects)
    }

    /// The worker gets only calls of its sessions. Once neither is left it drains.
    pub(super) fn drain_sessions(&mut self, key: WorkerKey) -> Effects<W, C> {
        let mut effects = Effects::new();
        if let Some(index) = self.index(key) {
            self.workers[index].drain_sessions();
            self.pin_strict(index, key);
            self.end_drained(key, &mut effects.events);
        }
        self.settle(effects)
    }

    /// The calls in the queue that have to wait for this worker wait for it alone: it takes none of the others.
    fn pin_strict(&mut self, index: usize, key: WorkerKey) {
        let is_its = |queued: &Queued<C>| {
            let session = queued.wait.session();
            session.is_some_and(|(id, strict)| strict && self.sessions.worker(id) == Some(key))
        };
        let places = self.queue.iter().filter(|(_, queued)| is_its(queued));
        let places: Vec<_> = places.map(|(place, _)| *place).collect();
        for place in places {
            if let Some(queued) = self.queue.remove(&place) {
                self.insert(Some(index), queued);
            }
        }
    }

    /// A worker that has no call or session any more, after it had to drain them. Calls that still wait for it may get any
    /// worker.
    fn end_drained(&mut self, key: WorkerKey, events: &mut Vec<Event<W>>) {
        if let Some(entry) = self.entry(key)
            && let Some(drained) = entry.sessions_drained()
        {
            events.push(drained);
            let pinned = take(&mut entry.pinned);
            self.pinned -= pinned.len();
            self.queue.extend(pinned);
        }
    }

    /// Reports once so many calls of the worker have ended.
    pub(super) fn report_at(&mut self, key: WorkerKey, calls: u64) -> Option<Event<W>> {
        self.entry(key)?.report_at(calls)
    }

    pub(super) fn set_size(&mut self, size: usize) -> Effects<W, C> {
        self.limits.size = size;
        self.settle(Effects::new())
    }

    /// Pauses a worker, if `connection` is still the one that it has. False if there is no such worker.
    pub(super) fn pause(&mut self, key: WorkerKey, connection: Option<u64>) -> bool {
        let entry = self.entry(key);
        entry.map(|entry| entry.pause(connection)).is_some()
    }

    pub(super) fn resume(&mut self, key: WorkerKey, worker: W) -> (bool, Effects<W, C>) {
        let entry = self.entry(key);
        let resumed = entry.is_some_and(|entry| entry.resume(worker));
        (resumed, self.serve(Effects::new()))
    }

    pub(super) fn set_failed(&mut self, failed: usize, why: Arc<Unavailable>) -> Effects<W, C> {
        self.failed = failed;
        self.failure = Some(why).filter(|why| !why.why.is_empty());
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

    fn startup(&self) -> Startup {
        Startup {
            remote: self.limits.remote,
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

    pub(super) fn close(&mut self, error: AcquireError) -> Effects<W, C> {
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

    pub(super) fn end_session(&mut self, id: &str, events: &mut Vec<Event<W>>) -> Option<(W, u64)> {
        let ended = self.sessions.end(id)?;
        let worker = self.unassign(&ended, events)?;
        Some((worker, ended.generation))
    }

    /// A call has ended, and its slot is free.
    pub(super) fn release(&mut self, slot: &Slot<W>, used: SlotUse) -> Effects<W, C> {
        if let Some(session) = &slot.session {
            self.sessions.leave(session, Instant::now());
        }
        // A call that was refused has taken no time.
        if let SlotUse::Took(time) = used
            && !time.is_zero()
        {
            self.times.add(slot.command, time);
        }
        let mut effects = Effects::new();
        if let Some(entry) = self.entry(slot.key) {
            effects
                .events
                .extend(entry.release(slot, used).into_iter().flatten());
            if entry.is_draining_sessions() {
                self.end_drained(slot.key, &mut effects.events);
                return self.settle(effects);
            }
        }
        self.serve(effects)
    }

    pub(super) fn worker(&mut self, key: WorkerKey) -> Option<W> {
        self.entry(key).map(|entry| entry.worker.clone())
    }

    pub(super) fn any_worker(&self) -> Option<W> {
        let open = self.workers.iter().find(|entry| entry.is_open());
        open.map(|entry| entry.worker.clone())
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

    fn place(&self, session: Option<(&Arc<str>, bool)>, demand: Demand) -> Placement {
        if self.closed.is_some() {
            return Placement::Queue(None);
        }
        if let Some((id, strict)) = session
            && let Some(key) = self.sessions.worker(id)
        {
            match self.index(key) {
                None => return Placement::SessionLost,
                Some(index) if self.workers[index].is_draining() => return Placement::SessionLost,
                // It moves now, as from a busy worker.
                Some(index) if !strict && self.workers[index].is_draining_sessions() => {}
                Some(index) if self.workers[index].is_free(demand, self.budget()) => {
                    return Placement::Worker(index);
                }
                Some(index) if strict => return Placement::Queue(Some(index)),
                Some(_) => {}
            }
        }
        let share = self.budget() / SHARED_PART;
        let is_short = demand.pipelines && demand.time < share;
        let shares = is_short && session.is_none() && self.has_busy_cpus();
        self.least_loaded(demand, shares.then_some(share))
            .map_or(Placement::Queue(None), Placement::Worker)
    }

    /// How much work may be sent ahead to a worker, in nanoseconds.
    fn budget(&self) -> u64 {
        nanos(self.limits.pipeline_budget)
    }

    /// Whether as many workers are busy as there are CPUs: another one would not run at once.
    fn has_busy_cpus(&self) -> bool {
        let busy = self.workers.iter().filter(|entry| entry.is_busy());
        let cpus = self.limits.cpus;
        cpus.is_some_and(|cpus| busy.take(cpus).count() == cpus)
    }

    fn least_loaded(&self, demand: Demand, share: Option<u64>) -> Option<usize> {
        let budget = self.budget();
        self.workers
            .iter()
            .enumerate()
            .filter(|(_, entry)| entry.is_open() && entry.is_free(demand, budget))
            .min_by_key(|(_, entry)| entry.load(demand, share))
            .map(|(index, _)| index)
    }

    /// Takes a slot of a worker, and assigns the session to it.
    fn take(
        &mut self,
        index: usize,
        session: Option<SessionLease>,
        demand: Demand,
        events: &mut Vec<Event<W>>,
    ) -> Slot<W> {
        let number = self.next_number();
        let mut slot = self.workers[index].take(number, demand);
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
            Assigned::Moved(ended) => self
                .unassign(&ended, events)
                .map(|from| (from, ended.generation)),
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

    /// Takes an ended session from its worker, if that is still there. Its calls that wait for that worker begin it anew on
    /// any.
    fn unassign(&mut self, ended: &EndedSession, events: &mut Vec<Event<W>>) -> Option<W> {
        let key = ended.worker?;
        let entry = self.entry(key)?;
        entry.sessions.remove(&ended.id);
        let worker = entry.worker.clone();
        if !entry.pinned.is_empty() {
            let is_its = |queued: &Queued<C>| {
                let session = queued.wait.session();
                session.is_some_and(|(id, _)| **id == *ended.id)
            };
            let pinned = take(&mut entry.pinned).into_iter();
            let (own, others) = pinned.partition(|(_, queued)| is_its(queued));
            entry.pinned = others;
            let own: BTreeMap<_, _> = own;
            self.pinned -= own.len();
            self.queue.extend(own);
        }
        self.end_drained(key, events);
        Some(worker)
    }

    /// Adds a call to a session. A new session may cost another one its place.
    fn enter(&mut self, id: &Arc<str>, events: &mut Vec<Event<W>>) -> SessionLease {
        let session = self.sessions.enter(id);
        for _ in 0..ENDED_AT_ONCE {
            let Some(ended) = self.sessions.evict() else {
                break;
            };
            if let Some(worker) = self.unassign(&ended, events) {
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
    pub(super) fn expire_sessions(&mut self, id: Option<&str>, events: &mut Vec<Event<W>>) -> bool {
        let now = Instant::now();
        let mut next = id.and_then(|id| self.sessions.expire(id, now));
        for _ in 0..ENDED_AT_ONCE {
            let Some(ended) = next.take().or_else(|| self.sessions.expire_oldest(now)) else {
                return false;
            };
            if let Some(worker) = self.unassign(&ended, events) {
                events.push(Event::Expired {
                    id: ended.id,
                    generation: ended.generation,
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

    /// Whether a call that would wait could never be served: each place that it waits for is held by a call that waits
    /// for a place itself, through one that it makes. A worker that is about to go is no place for a call that may go
    /// anywhere.
    fn is_reentrant(&self, pinned: Option<usize>, held: &[HeldPlace]) -> bool {
        !held.is_empty() && self.is_blocked(pinned, &self.blocked_places(held))
    }

    /// How many places of each worker are held by calls that wait, and by one with these.
    fn blocked_places(&self, held: &[HeldPlace]) -> HashMap<WorkerKey, usize> {
        let waiting = self.waits().flat_map(|(_, wait)| &wait.held);
        let places: HashSet<HeldPlace> = waiting.chain(held).copied().collect();
        let mut counts = HashMap::new();
        for place in places {
            *counts.entry(place.worker).or_default() += 1;
        }
        counts
    }

    fn is_blocked(&self, pinned: Option<usize>, places: &HashMap<WorkerKey, usize>) -> bool {
        let is_blocked = |entry: &WorkerEntry<W, C>| {
            let count = places.get(&entry.key).copied().unwrap_or_default();
            count >= entry.capacity()
        };
        if let Some(index) = pinned {
            return self.workers.get(index).is_some_and(is_blocked);
        }
        let mut staying = self.workers.iter().filter(|entry| entry.stays());
        staying.clone().count() >= self.limits.size && staying.all(is_blocked)
    }

    /// All calls that wait, and the worker, by its index, for which each waits alone.
    fn waits(&self) -> impl Iterator<Item = (Option<usize>, &Wait)> {
        let queue = self.queue.values().map(|queued| (None, &queued.wait));
        let workers = self.workers.iter().enumerate();
        let pinned = workers.flat_map(|(index, entry)| {
            let calls = entry.pinned.values();
            calls.map(move |queued| (Some(index), &queued.wait))
        });
        queue.chain(pinned)
    }

    /// Calls that could be served when they came may have lost the worker that would have served them: of those that now
    /// wait for each other the last is refused.
    fn refuse_reentrant(&mut self, effects: &mut Effects<W, C>) {
        loop {
            let places = self.blocked_places(&[]);
            if places.is_empty() {
                return;
            }
            let holding = self.waits().filter(|(_, wait)| !wait.held.is_empty());
            let reentrant = holding.filter(|(pinned, _)| self.is_blocked(*pinned, &places));
            let Some(last) = reentrant.map(|(_, wait)| wait.place).max() else {
                return;
            };
            if let Some(queued) = self.remove_call(last) {
                self.refuse(queued, AcquireError::Reentrant, effects);
            }
        }
    }

    fn insert(&mut self, pinned: Option<usize>, queued: Queued<C>) {
        let place = queued.wait.place;
        match pinned {
            None => self.queue.insert(place, queued),
            Some(index) => {
                self.pinned += 1;
                self.workers[index].pinned.insert(place, queued)
            }
        };
    }

    /// Removes a call from the queue or from the calls pinned to a worker.
    fn remove_call(&mut self, place: Place) -> Option<Queued<C>> {
        if let Some(queued) = self.queue.remove(&place) {
            return Some(queued);
        }
        if self.pinned == 0 {
            return None;
        }
        let mut entries = self.workers.iter_mut();
        let queued = entries.find_map(|entry| entry.pinned.remove(&place))?;
        self.pinned -= 1;
        Some(queued)
    }

    /// A queued call gives up.
    pub(super) fn give_up(&mut self, place: Place) -> Effects<W, C> {
        let mut effects = Effects::new();
        if let Some(queued) = self.remove_call(place) {
            self.refuse(queued, AcquireError::GivenUp, &mut effects);
        }
        effects
    }

    /// Refuses the calls that have waited too long. Returns when the wait of another one ends.
    pub(super) fn expire(&mut self, now: Instant) -> (Effects<W, C>, Option<Instant>) {
        let mut effects = Effects::new();
        while let Some(place) = self.ends.due(now)
            && let Some(queued) = self.remove_call(place)
        {
            self.refuse_late(queued, &mut effects);
        }
        (effects, self.ends.first())
    }

    /// As `serve`, after workers have gone, or are about to, or calls have lost their worker.
    pub(super) fn settle(&mut self, effects: Effects<W, C>) -> Effects<W, C> {
        let mut effects = self.serve(effects);
        self.refuse_reentrant(&mut effects);
        effects
    }

    /// Gives free slots to the first calls of the queue. Calls that have waited too long are refused.
    fn serve(&mut self, mut effects: Effects<W, C>) -> Effects<W, C> {
        while let Some((queued, demand, index)) = self.next(&mut effects) {
            self.ends.remove(&queued.wait);
            let session = queued.wait.session.map(|session| session.lease);
            let slot = self.take(index, session, demand, &mut effects.events);
            effects.grants.push((queued.call, Ok(slot)));
        }
        effects
    }

    /// Removes the first of the calls for which a worker is free; returns it and the worker.
    fn next(&mut self, effects: &mut Effects<W, C>) -> Option<(Queued<C>, Demand, usize)> {
        // Whether the first call of the queue needs a slot of its own, so that no later one overtakes it.
        let mut blocked = false;
        while !self.queue.is_empty() || self.pinned > 0 {
            let budget = self.budget();
            let open = !blocked && self.workers.iter().any(|entry| entry.may_take_some(budget));
            let first = self.queue.first_key_value().filter(|_| open);
            let first = first.map(|(place, _)| *place);
            let pinned = self.first_pinned(blocked);
            let place = first.into_iter().chain(pinned).min()?;
            let queued = self.remove_call(place)?;
            if queued.wait.limits.is_late(Instant::now()) {
                self.refuse_late(queued, effects);
                continue;
            }
            let demand = queued.wait.demand(&self.times);
            match self.place(queued.wait.session(), demand) {
                Placement::Worker(index) => return Some((queued, demand, index)),
                Placement::Queue(pinned) => {
                    blocked |= pinned.is_none();
                    self.insert(pinned, queued);
                }
                Placement::SessionLost => self.refuse_lost(queued, effects),
            }
        }
        None
    }

    /// The first of the calls that wait for one worker which is free. `blocked`: of a worker that would not get the first
    /// call of the queue.
    fn first_pinned(&self, blocked: bool) -> Option<Place> {
        if self.pinned == 0 {
            return None;
        }
        let budget = self.budget();
        let workers = self.workers.iter();
        let workers = workers.filter(|entry| !blocked || entry.is_draining_sessions());
        let firsts = workers.filter_map(|entry| {
            let (place, queued) = entry.pinned.first_key_value()?;
            entry
                .is_free(queued.wait.demand(&self.times), budget)
                .then_some(*place)
        });
        firsts.min()
    }

    /// A call that was removed gets no worker.
    fn refuse(&mut self, queued: Queued<C>, error: AcquireError, effects: &mut Effects<W, C>) {
        self.ends.remove(&queued.wait);
        if let Some(session) = &queued.wait.session {
            self.sessions.leave(&session.lease, Instant::now());
        }
        effects.grants.push((queued.call, Err(error)));
    }

    fn refuse_late(&mut self, queued: Queued<C>, effects: &mut Effects<W, C>) {
        let error = if self.started.is_some() {
            queued.wait.limits.error(!self.workers.is_empty())
        } else {
            AcquireError::NotReady(self.startup())
        };
        self.refuse(queued, error, effects);
    }

    fn refuse_lost(&mut self, queued: Queued<C>, effects: &mut Effects<W, C>) {
        if let Some((id, _)) = queued.wait.session() {
            self.sessions.end(id);
        }
        self.refuse(queued, AcquireError::SessionLost, effects);
    }

    fn refuse_all(&mut self, error: &AcquireError) -> Effects<W, C> {
        let mut waiting = take(&mut self.queue);
        for entry in &mut self.workers {
            waiting.append(&mut entry.pinned);
        }
        self.pinned = 0;
        let mut effects = Effects::new();
        for queued in waiting.into_values() {
            self.refuse(queued, error.clone(), &mut effects);
        }
        effects
    }

    /// Removes workers, and refuses the calls whose sessions are on them. Whether there were any.
    pub(super) fn remove(
        &mut self,
        which: impl Fn(WorkerKey, &W) -> bool,
    ) -> (bool, Effects<W, C>) {
        let mut effects = Effects::new();
        let mut removed = false;
        while let Some(index) = self
            .workers
            .iter()
            .position(|entry| which(entry.key, &entry.worker))
        {
            let entry = self.workers.remove(index);
            // Nobody asks for that of an endpoint.
            if entry.has_answered() && !self.limits.remote {
                self.answered.insert(entry.key);
            }
            self.lose_sessions(entry.pinned, entry.sessions, entry.worker, &mut effects);
            removed = true;
        }
        (removed, self.settle(effects))
    }

    /// Removes a worker whose connection is lost, if it takes calls on that.
    pub(super) fn remove_lost(&mut self, key: WorkerKey, connection: u64) -> Effects<W, C> {
        let entry = self.entry(key);
        if entry.is_some_and(|entry| entry.takes_calls_on(connection)) {
            self.remove(|one, _| one == key).1
        } else {
            Effects::new()
        }
    }

    /// Refuses the calls whose sessions were on a worker. Its other calls wait for any worker.
    fn lose_sessions(
        &mut self,
        pinned: BTreeMap<Place, Queued<C>>,
        sessions: HashSet<Arc<str>>,
        worker: W,
        effects: &mut Effects<W, C>,
    ) {
        self.pinned -= pinned.len();
        for queued in pinned.into_values() {
            let session = queued.wait.session();
            if session.is_some_and(|(id, _)| sessions.contains(id)) {
                self.refuse_lost(queued, effects);
            } else {
                self.insert(None, queued);
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

    fn entry(&mut self, key: WorkerKey) -> Option<&mut WorkerEntry<W, C>> {
        self.workers.iter_mut().find(|entry| entry.key == key)
    }

    fn next_number(&mut self) -> u64 {
        self.last_number += 1;
        self.last_number
    }
}
