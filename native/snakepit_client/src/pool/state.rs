//! The table behind the lock: workers, who waits for them, and whose sessions live on them.

use super::sessions::{Past, Sessions, Settled, Stay};
use super::{
    Event, Grant, Lease, Limits, Notices, Refusal, Snapshot, Startup, Unavailable, Waiter, Worker,
    WorkerKey,
};
use std::{
    collections::{BTreeMap, HashSet},
    mem::take,
    sync::Arc,
    time::{Duration, Instant},
};

/// How many calls wait on a worker at most.
const MOST_AHEAD: usize = 128;
/// Below it are the numbers of calls that go in front of the queue.
const FIRST_NUMBER: u64 = 1 << 32;
/// How many lives of sessions are ended under one lock: more than one call can begin.
const ENDED_AT_ONCE: usize = 4;

pub(super) struct State<W: Worker> {
    workers: Vec<Entry<W>>,
    queue: BTreeMap<u64, Queued<W>>,
    /// How many wait for one worker alone, in its entry.
    pinned: usize,
    max_queue: usize,
    sessions: Sessions,
    /// Names workers, tickets and leases in the order in which they came.
    clock: u64,
    /// As `clock`, for calls that go in front of the queue.
    early: u64,
    pipeline_budget: Duration,
    size: usize,
    startup_timeout: Duration,
    created: Instant,
    /// Whether a worker has been ready.
    started: bool,
    /// How many workers have failed to start, and why the last one did.
    failed: usize,
    failure: Option<Arc<Unavailable>>,
    /// Workers that have left after they had answered.
    answered: HashSet<WorkerKey>,
    /// What every call hears once the pool has ended.
    closed: Option<Refusal>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Open,
    /// Until it has another connection.
    Paused,
    /// For good.
    Draining,
}

struct Entry<W: Worker> {
    key: WorkerKey,
    worker: W,
    capacity: usize,
    in_flight: usize,
    /// Those in flight that nothing may be sent ahead behind.
    exclusive: usize,
    /// The mean time of its commands, moving; none is known before the first has ended.
    mean: Option<Duration>,
    /// It stands still: nothing is sent ahead until something has ended.
    stalled: bool,
    last_lease: u64,
    phase: Phase,
    /// Counts its connections.
    connection: u64,
    /// It has come through a call.
    answered: bool,
    /// Those who wait for this worker: calls of its sessions.
    pinned: BTreeMap<u64, Queued<W>>,
    sessions: HashSet<Arc<str>>,
}

impl<W: Worker> Entry<W> {
    /// Whether a call may be sent to it, ahead of the ones before it if it `pipelines`.
    fn is_free(&self, pipelines: bool, budget: Duration) -> bool {
        let room = self.capacity + if pipelines { self.ahead(budget) } else { 0 };
        self.phase == Phase::Open && self.in_flight < room
    }

    /// How many calls may wait on the worker itself: so many that it is busy with them for about as
    /// long as the budget says.
    fn ahead(&self, budget: Duration) -> usize {
        let places = self.capacity.saturating_sub(self.exclusive);
        match self.mean {
            Some(mean) if !self.stalled && mean <= budget => {
                let calls = budget.as_nanos() / mean.as_nanos().max(1);
                usize::try_from(calls).unwrap_or(MOST_AHEAD).min(MOST_AHEAD) * places.min(1)
            }
            _ => 0,
        }
    }

    fn drained(&self) -> Option<Event<W>> {
        let drained = self.phase == Phase::Draining && self.in_flight == 0;
        drained.then(|| Event::Drained {
            worker: self.worker.clone(),
        })
    }

    fn observe(&mut self, time: Duration) {
        let mean = self.mean.unwrap_or(time);
        self.mean = Some(mean - mean / 8 + time / 8);
        self.stalled = false;
    }
}

pub(super) struct Queued<W: Worker> {
    pub(super) deadline: Option<Instant>,
    pub(super) waiter: Waiter<W>,
    pub(super) visit: Option<Visit>,
    pub(super) pipelines: bool,
}

impl<W: Worker> Queued<W> {
    fn is_late(&self) -> bool {
        self.deadline
            .is_some_and(|deadline| deadline <= Instant::now())
    }
}

/// A call's part in a session.
pub(super) struct Visit {
    pub(super) stay: Stay,
    pub(super) strict: bool,
}

/// Where a call goes; workers by their place in the table.
pub(super) enum Choice {
    Take(usize),
    /// For any worker, or for this one alone.
    Wait(Option<usize>),
    Lost,
}

pub(super) struct Place<W> {
    pub(super) exclusive: bool,
    pub(super) key: WorkerKey,
    pub(super) connection: u64,
    pub(super) worker: W,
    pub(super) stay: Option<Stay>,
}

impl<W: Worker> State<W> {
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            workers: Vec::new(),
            queue: BTreeMap::new(),
            pinned: 0,
            max_queue: limits.max_queue,
            sessions: Sessions::new(limits.max_sessions, limits.session_ttl),
            clock: FIRST_NUMBER,
            early: 0,
            pipeline_budget: limits.pipeline_budget,
            size: limits.size,
            startup_timeout: limits.startup_timeout,
            created: Instant::now(),
            started: false,
            failed: 0,
            failure: None,
            answered: HashSet::new(),
            closed: None,
        }
    }

    pub(super) fn add(&mut self, worker: W, capacity: usize) -> WorkerKey {
        let key = WorkerKey(self.tick());
        self.started = true;
        self.failed = 0;
        self.workers.push(Entry {
            key,
            worker,
            capacity,
            in_flight: 0,
            exclusive: 0,
            mean: None,
            stalled: false,
            last_lease: 0,
            phase: Phase::Open,
            connection: 0,
            answered: false,
            pinned: BTreeMap::new(),
            sessions: HashSet::new(),
        });
        key
    }

    pub(super) fn drain(&mut self, key: WorkerKey, notices: &mut Notices<W>) {
        let Some(entry) = self.entry(key) else {
            return;
        };
        entry.phase = Phase::Draining;
        let worker = entry.worker.clone();
        let (pinned, sessions) = (take(&mut entry.pinned), take(&mut entry.sessions));
        let drained = entry.drained();
        self.lose_sessions(pinned, sessions, worker, notices);
        notices.events.extend(drained);
    }

    /// Pauses a worker, if `connection` is still the one that it has.
    pub(super) fn pause(&mut self, key: WorkerKey, connection: Option<u64>) -> bool {
        let Some(entry) = self.entry(key) else {
            return false;
        };
        let present = connection.is_none_or(|connection| connection == entry.connection);
        if entry.phase == Phase::Open && present {
            entry.phase = Phase::Paused;
        }
        true
    }

    pub(super) fn resume(&mut self, key: WorkerKey, worker: W) -> bool {
        let Some(entry) = self.entry(key).filter(|entry| entry.phase == Phase::Paused) else {
            return false;
        };
        entry.phase = Phase::Open;
        entry.connection += 1;
        entry.worker = worker;
        entry.stalled = false;
        true
    }

    pub(super) fn set_failed(&mut self, failed: usize, why: Arc<Unavailable>) -> Notices<W> {
        self.failed = failed;
        self.failure = Some(why);
        match self.unavailable() {
            Some(why) => self.refuse_all(&Refusal::Unavailable(why)),
            None => Notices::new(),
        }
    }

    /// Why no worker can be had, while there is none that is ready or may yet be.
    fn unavailable(&self) -> Option<Arc<Unavailable>> {
        let all_failed = self.workers.is_empty() && self.failed >= self.size;
        self.failure.clone().filter(|_| all_failed)
    }

    pub(super) fn has_started(&self) -> bool {
        self.started
    }

    pub(super) fn has_workers(&self) -> bool {
        !self.workers.is_empty()
    }

    pub(super) fn startup(&self) -> Startup {
        Startup {
            starting: self.size.saturating_sub(self.failed),
            size: self.size,
            elapsed: self.created.elapsed(),
            startup_timeout: self.startup_timeout,
            failed: self.failure.clone(),
        }
    }

    pub(super) fn had_answered(&mut self, key: WorkerKey) -> bool {
        self.answered.remove(&key)
    }

    pub(super) fn close(&mut self, refusal: Refusal) -> Notices<W> {
        let refusal = self.closed.get_or_insert(refusal).clone();
        self.refuse_all(&refusal)
    }

    pub(super) fn snapshot(&self) -> Snapshot {
        Snapshot {
            queued: self.queue.len() + self.pinned,
            sessions: self.sessions.len(),
            workers: self
                .workers
                .iter()
                .map(|entry| (entry.key, entry.in_flight, entry.phase != Phase::Open))
                .collect(),
        }
    }

    pub(super) fn end_session(&mut self, id: &str) -> Option<(W, u64)> {
        let past = self.sessions.end(id)?;
        let worker = self.unsettle(&past)?;
        Some((worker, past.generation))
    }

    /// A call is over, and its place free. The last one of a worker that drains is an event.
    pub(super) fn leave(&mut self, lease: &Lease<W>) -> Option<Event<W>> {
        if let Some(stay) = &lease.stay {
            self.sessions.leave(stay, Instant::now());
        }
        let entry = self.entry(lease.key)?;
        entry.in_flight -= 1;
        entry.exclusive -= usize::from(lease.exclusive);
        entry.answered |= !lease.unused;
        if let Some(took) = lease.took {
            entry.observe(took);
        }
        entry.drained()
    }

    /// Whether a call that is sent ahead overtakes nobody who wants a place of its own.
    pub(super) fn nobody_waits(&self) -> bool {
        self.queue.is_empty()
    }

    pub(super) fn worker(&mut self, key: WorkerKey) -> Option<W> {
        self.entry(key).map(|entry| entry.worker.clone())
    }

    pub(super) fn is_leaving(&self, key: WorkerKey) -> bool {
        let entry = self.workers.iter().find(|entry| entry.key == key);
        entry.is_none_or(|entry| entry.phase == Phase::Draining)
    }

    pub(super) fn stall(&mut self, key: WorkerKey) {
        if let Some(entry) = self.entry(key) {
            entry.stalled = true;
        }
    }

    pub(super) fn choose(&self, session: Option<(&Arc<str>, bool)>, pipelines: bool) -> Choice {
        if self.closed.is_some() {
            return Choice::Wait(None);
        }
        if let Some((id, strict)) = session
            && let Some(key) = self.sessions.worker(id)
        {
            match self.index(key) {
                None => return Choice::Lost,
                Some(index) if self.workers[index].phase == Phase::Draining => return Choice::Lost,
                Some(index) if self.workers[index].is_free(pipelines, self.pipeline_budget) => {
                    return Choice::Take(index);
                }
                Some(index) if strict => return Choice::Wait(Some(index)),
                Some(_) => {}
            }
        }
        self.least_loaded(pipelines)
            .map_or(Choice::Wait(None), Choice::Take)
    }

    /// The worker with the fewest calls; of equals, the one idle longest. One that runs it at once goes
    /// before one where it would wait.
    fn least_loaded(&self, pipelines: bool) -> Option<usize> {
        self.workers
            .iter()
            .enumerate()
            .filter(|(_, entry)| entry.is_free(pipelines, self.pipeline_budget))
            .min_by_key(|(_, entry)| {
                let waits = entry.in_flight >= entry.capacity;
                (waits, entry.in_flight, entry.last_lease)
            })
            .map(|(index, _)| index)
    }

    /// Takes a place on a worker, and settles the session there.
    pub(super) fn take(
        &mut self,
        index: usize,
        stay: Option<Stay>,
        pipelines: bool,
        events: &mut Vec<Event<W>>,
    ) -> Place<W> {
        let clock = self.tick();
        let entry = &mut self.workers[index];
        let exclusive = !pipelines;
        entry.in_flight += 1;
        entry.exclusive += usize::from(exclusive);
        entry.last_lease = clock;
        let (key, connection) = (entry.key, entry.connection);
        let worker = entry.worker.clone();
        let stay = stay.map(|stay| self.settle(stay, index, events));
        Place {
            exclusive,
            key,
            connection,
            worker,
            stay,
        }
    }

    fn settle(&mut self, mut stay: Stay, index: usize, events: &mut Vec<Event<W>>) -> Stay {
        let settled = self.sessions.settle(&mut stay, self.workers[index].key);
        if settled == Settled::Stayed {
            return stay;
        }
        let from = match &settled {
            Settled::Moved(past) => self.unsettle(past).map(|from| (from, past.generation)),
            _ => None,
        };
        let entry = &mut self.workers[index];
        entry.sessions.insert(stay.id.clone());
        let (id, worker) = (stay.id.clone(), entry.worker.clone());
        events.push(match from {
            None => Event::Created { id, worker },
            Some((from, generation)) => Event::Moved {
                id,
                generation,
                from,
                to: worker,
            },
        });
        stay
    }

    /// Takes a life that is over from its worker, if that is still there.
    fn unsettle(&mut self, past: &Past) -> Option<W> {
        let entry = self.entry(past.worker?)?;
        entry.sessions.remove(&past.id);
        Some(entry.worker.clone())
    }

    /// Takes part in a session's life; a new one may cost that of another.
    pub(super) fn enter(&mut self, id: &Arc<str>, events: &mut Vec<Event<W>>) -> Stay {
        let stay = self.sessions.enter(id);
        for _ in 0..ENDED_AT_ONCE {
            let Some(past) = self.sessions.evict() else {
                break;
            };
            if let Some(worker) = self.unsettle(&past) {
                events.push(Event::Evicted {
                    id: past.id,
                    generation: past.generation,
                    worker,
                });
            }
        }
        stay
    }

    /// Ends this life if it is past its time, and some others that are. Whether there may be more.
    pub(super) fn expire(&mut self, id: Option<&str>, events: &mut Vec<Event<W>>) -> bool {
        let now = Instant::now();
        let mut next = id.and_then(|id| self.sessions.expire(id, now));
        for _ in 0..ENDED_AT_ONCE {
            let Some(past) = next.take().or_else(|| self.sessions.expire_oldest(now)) else {
                return false;
            };
            if let Some(worker) = self.unsettle(&past) {
                events.push(Event::Expired {
                    id: past.id,
                    worker,
                });
            }
        }
        true
    }

    /// Whether one more call may wait. One that comes back has its place in the queue already.
    pub(super) fn admit(&self, early: bool) -> Result<(), Refusal> {
        if let Some(refusal) = &self.closed {
            return Err(refusal.clone());
        }
        if let Some(why) = self.unavailable() {
            return Err(Refusal::Unavailable(why));
        }
        if !early && self.queue.len() + self.pinned >= self.max_queue {
            return Err(Refusal::Saturated {
                max_queue: self.max_queue,
            });
        }
        Ok(())
    }

    pub(super) fn enqueue(&mut self, number: u64, pinned: Option<usize>, queued: Queued<W>) {
        match pinned {
            None => self.queue.insert(number, queued),
            Some(index) => {
                self.pinned += 1;
                self.workers[index].pinned.insert(number, queued)
            }
        };
    }

    /// Takes a waiter out, wherever it waits.
    pub(super) fn dequeue(&mut self, number: u64) -> Option<Queued<W>> {
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

    /// Takes out whoever has waited longest of those for whom a worker is free, with that worker.
    pub(super) fn next(&mut self, notices: &mut Notices<W>) -> Option<(Queued<W>, usize)> {
        loop {
            self.least_loaded(true)?;
            let first = self.queue.first_key_value().map(|(number, _)| *number);
            let number = first.into_iter().chain(self.first_pinned()).min()?;
            let queued = self.dequeue(number)?;
            if queued.is_late() {
                notices.grants.push(self.refuse(queued, Refusal::Expired));
                continue;
            }
            let visit = queued.visit.as_ref();
            let session = visit.map(|visit| (&visit.stay.id, visit.strict));
            match self.choose(session, queued.pipelines) {
                Choice::Take(index) => return Some((queued, index)),
                Choice::Wait(None) => {
                    // It wants a place of its own. Nobody overtakes it meanwhile.
                    self.enqueue(number, None, queued);
                    return None;
                }
                Choice::Wait(pinned) => self.enqueue(number, pinned, queued),
                Choice::Lost => notices.grants.push(self.lose(queued)),
            }
        }
    }

    /// Who has waited longest of those who wait for a worker that is free.
    fn first_pinned(&self) -> Option<u64> {
        if self.pinned == 0 {
            return None;
        }
        let firsts = self.workers.iter().filter_map(|entry| {
            let (number, queued) = entry.pinned.first_key_value()?;
            entry
                .is_free(queued.pipelines, self.pipeline_budget)
                .then_some(*number)
        });
        firsts.min()
    }

    pub(super) fn refuse(&mut self, queued: Queued<W>, refusal: Refusal) -> (Waiter<W>, Grant<W>) {
        if let Some(visit) = &queued.visit {
            self.sessions.leave(&visit.stay, Instant::now());
        }
        (queued.waiter, Err(refusal))
    }

    fn lose(&mut self, queued: Queued<W>) -> (Waiter<W>, Grant<W>) {
        if let Some(visit) = &queued.visit {
            self.sessions.end(&visit.stay.id);
        }
        (queued.waiter, Err(Refusal::SessionLost))
    }

    /// Takes workers out, and tells those who wait for them that their sessions are gone.
    pub(super) fn remove(
        &mut self,
        which: impl Fn(WorkerKey, &W) -> bool,
        notices: &mut Notices<W>,
    ) -> bool {
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
            self.lose_sessions(entry.pinned, entry.sessions, entry.worker, notices);
            removed = true;
        }
        removed
    }

    /// Tells those who wait for a worker that their sessions are gone.
    fn lose_sessions(
        &mut self,
        pinned: BTreeMap<u64, Queued<W>>,
        sessions: HashSet<Arc<str>>,
        worker: W,
        notices: &mut Notices<W>,
    ) {
        self.pinned -= pinned.len();
        for (number, queued) in pinned {
            let visit = queued.visit.as_ref();
            if visit.is_some_and(|visit| sessions.contains(&visit.stay.id)) {
                notices.grants.push(self.lose(queued));
            } else {
                self.queue.insert(number, queued);
            }
        }
        if !sessions.is_empty() {
            notices.events.push(Event::Lost {
                ids: sessions,
                worker,
            });
        }
    }

    fn index(&self, key: WorkerKey) -> Option<usize> {
        self.workers.iter().position(|entry| entry.key == key)
    }

    fn entry(&mut self, key: WorkerKey) -> Option<&mut Entry<W>> {
        self.workers.iter_mut().find(|entry| entry.key == key)
    }

    fn refuse_all(&mut self, refusal: &Refusal) -> Notices<W> {
        let mut waiting = take(&mut self.queue);
        for entry in &mut self.workers {
            waiting.append(&mut entry.pinned);
        }
        self.pinned = 0;
        let mut notices = Notices::new();
        for queued in waiting.into_values() {
            let grant = self.refuse(queued, refusal.clone());
            notices.grants.push(grant);
        }
        notices
    }

    pub(super) fn tick(&mut self) -> u64 {
        self.clock += 1;
        self.clock
    }

    /// The number of a call that goes in front of those that came before it, but for others that did.
    pub(super) fn tick_early(&mut self) -> u64 {
        self.early += 1;
        self.early
    }
}
