//! One worker of the table, and the calls that wait for it alone.

use super::{
    batches::WorkerBatches,
    queue::{Demand, Place, Queued},
    sessions::SessionLease,
    types::{CommandId, Event, Worker, WorkerKey},
};
use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
    time::Duration,
};

/// How many calls may wait on a worker itself.
const MAX_AHEAD: usize = 128;

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    Open,
    /// Until it has another connection.
    Paused,
    /// For good.
    Draining,
}

pub(super) struct WorkerEntry<W, C> {
    pub(super) key: WorkerKey,
    pub(super) worker: W,
    capacity: usize,
    in_flight: usize,
    /// How many calls in flight were cancelled.
    cancelled: usize,
    batches: Vec<WorkerBatches>,
    /// How many of the calls in flight are in `batches`.
    batched: usize,
    /// How many calls in flight keep others from being sent ahead behind them.
    exclusive: usize,
    /// What the calls in flight may take behind which others may wait, in nanoseconds.
    work: u64,
    /// Set on a new connection, and while a command takes unexpectedly long: nothing is sent ahead until something has
    /// ended.
    stalled: bool,
    last_lease: u64,
    phase: Phase,
    /// Whether it gets only the calls of its sessions, until none of either is left.
    draining_sessions: bool,
    /// Counts its connections.
    connection: u64,
    /// How many calls on it have ended, and at which number that is an event, once.
    ended: u64,
    report_at: Option<u64>,
    /// The calls that wait for this worker alone, because their sessions are on it.
    pub(super) pinned: BTreeMap<Place, Queued<C>>,
    pub(super) sessions: HashSet<Arc<str>>,
}

/// What one call takes of a worker.
pub(super) struct Slot<W> {
    pub(super) worker: W,
    pub(super) key: WorkerKey,
    /// Which of the worker's connections `worker` has.
    pub(super) connection: u64,
    pub(super) session: Option<SessionLease>,
    pub(super) command: CommandId,
    /// Whether it shares a slot with other calls of its command.
    pub(super) batched: bool,
    exclusive: bool,
    /// What it adds to the worker's work.
    work: u64,
    /// Whether the worker had other calls before it.
    pub(super) behind: bool,
    cancelled: bool,
}

/// How the call ended that had a slot.
#[derive(Clone, Copy)]
pub(super) enum SlotUse {
    /// The worker has not started the call.
    NotStarted,
    Ended,
    /// Its command took this long.
    Took(Duration),
}

impl<W: Worker, C> WorkerEntry<W, C> {
    pub(super) fn new(
        key: WorkerKey,
        worker: W,
        capacity: usize,
        batches: Vec<(CommandId, usize)>,
    ) -> Self {
        Self {
            key,
            worker,
            capacity,
            in_flight: 0,
            cancelled: 0,
            batches: batches.into_iter().map(WorkerBatches::new).collect(),
            batched: 0,
            exclusive: 0,
            work: 0,
            stalled: true,
            last_lease: 0,
            phase: Phase::Open,
            draining_sessions: false,
            connection: 0,
            ended: 0,
            report_at: None,
            pinned: BTreeMap::new(),
            sessions: HashSet::new(),
        }
    }

    /// Whether a call may be sent to it: to a slot that is free, into a batch that has room, or behind calls that run
    /// if it `pipelines`.
    pub(super) fn is_free(&self, demand: Demand, budget: u64) -> bool {
        self.phase == Phase::Open
            && match self.batches_of(demand.command) {
                _ if self.has_slot() => true,
                Some(_) => self.joinable(demand) > 0,
                None => demand.pipelines && !self.overtakes(demand) && self.may_wait_here(budget),
            }
    }

    fn has_slot(&self) -> bool {
        self.occupied() < self.capacity
    }

    /// Whether one more call may wait on the worker itself, which has no slot left.
    fn may_wait_here(&self, budget: u64) -> bool {
        self.may_send_ahead(budget) && self.occupied() < self.capacity + MAX_AHEAD
    }

    /// Whether there may be a call that could be sent to it.
    pub(super) fn may_take_some(&self, budget: u64) -> bool {
        let has_room = |batches: &WorkerBatches| batches.room() > 0;
        let joinable = self.batched > 0 && self.batches.iter().any(has_room);
        self.is_open() && (joinable || self.has_slot() || self.may_wait_here(budget))
    }

    /// How many calls like this one could join those that are there, without another slot.
    fn joinable(&self, demand: Demand) -> usize {
        let batches = self.batches_of(demand.command);
        let batches = batches.filter(|_| !self.overtakes(demand));
        batches.map_or(0, WorkerBatches::room)
    }

    /// Whether a call before this one waits for a slot, of any worker or of this one.
    fn overtakes(&self, demand: Demand) -> bool {
        let first = self.pinned.first_key_value().map(|(place, _)| *place);
        demand
            .joins_before
            .is_none_or(|place| first.is_some_and(|first| first < place))
    }

    fn batches_of(&self, command: CommandId) -> Option<&WorkerBatches> {
        self.batches.iter().find(|one| one.is(command))
    }

    /// How many slots are taken.
    fn occupied(&self) -> usize {
        self.in_flight - self.batched + self.batch_slots()
    }

    fn batch_slots(&self) -> usize {
        if self.batched == 0 {
            return 0;
        }
        self.batches.iter().map(WorkerBatches::slots).sum()
    }

    /// Whether a call may wait on the worker itself, because those there are less work than this.
    fn may_send_ahead(&self, budget: u64) -> bool {
        let taken_whole = self.exclusive + self.batch_slots();
        !self.stalled && taken_whole < self.capacity && self.work < budget
    }

    /// The worker with the smallest load is taken first: one whose batch the call fills up, and of these the fullest;
    /// then, with a budget to `share`, a busy one with less work than that; then one that would run the call at once
    /// before one where it would wait, then the one with the fewest calls. Of idle workers the one that was leased last
    /// is taken, whose code and data are in the processor's caches, and which may not even sleep yet; of busy ones the
    /// one that was leased the longest time ago.
    pub(super) fn load(&self, demand: Demand, share: Option<u64>) -> (usize, usize, u64) {
        let joinable = self.joinable(demand);
        if joinable > 0 {
            return (0, joinable, self.last_lease);
        }
        let rank = match share {
            Some(budget) if self.is_busy() && self.may_send_ahead(budget) => 1,
            _ if self.has_slot() => 2,
            _ => 3,
        };
        let order = match self.in_flight {
            0 => u64::MAX - self.last_lease,
            _ => self.last_lease,
        };
        (rank, self.occupied(), order)
    }

    pub(super) fn is_busy(&self) -> bool {
        self.in_flight > 0
    }

    pub(super) fn capacity(&self) -> usize {
        self.capacity
    }

    pub(super) fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// Whether it takes calls of any session, and calls without one.
    pub(super) fn is_open(&self) -> bool {
        self.phase == Phase::Open && !self.draining_sessions
    }

    /// Whether it is not about to go.
    pub(super) fn stays(&self) -> bool {
        self.phase != Phase::Draining && !self.draining_sessions
    }

    pub(super) fn is_draining_sessions(&self) -> bool {
        self.draining_sessions
    }

    /// Whether a call on it has ended.
    pub(super) fn has_answered(&self) -> bool {
        self.ended > 0
    }

    pub(super) fn takes_calls_on(&self, connection: u64) -> bool {
        self.connection == connection && self.phase != Phase::Paused
    }

    pub(super) fn is_draining(&self) -> bool {
        self.phase == Phase::Draining
    }

    /// `number` orders the leases of all workers.
    pub(super) fn take(&mut self, number: u64, demand: Demand) -> Slot<W> {
        let batched = self.with_batches(demand.command, WorkerBatches::enter);
        let exclusive = !batched && !demand.pipelines;
        let work = if batched || exclusive { 0 } else { demand.time };
        let behind = self.is_busy();
        self.in_flight += 1;
        self.batched += usize::from(batched);
        self.exclusive += usize::from(exclusive);
        self.work += work;
        self.last_lease = number;
        Slot {
            worker: self.worker.clone(),
            key: self.key,
            connection: self.connection,
            session: None,
            command: demand.command,
            batched,
            exclusive,
            work,
            behind,
            cancelled: false,
        }
    }

    pub(super) fn set_cancelled(&mut self, slot: &mut Slot<W>) {
        if !slot.cancelled {
            slot.cancelled = true;
            self.cancelled += 1;
        }
    }

    /// Whether it has calls that were not cancelled.
    pub(super) fn is_in_use(&self) -> bool {
        self.in_flight > self.cancelled
    }

    /// False if calls of the command do not gather.
    fn with_batches(
        &mut self,
        command: CommandId,
        change: impl FnOnce(&mut WorkerBatches),
    ) -> bool {
        let batches = self.batches.iter_mut().find(|one| one.is(command));
        batches.map(change).is_some()
    }

    /// The last call of a draining worker is an event, and so is the one that `report_at` has asked for.
    pub(super) fn release(&mut self, slot: &Slot<W>, used: SlotUse) -> [Option<Event<W>>; 2] {
        self.in_flight -= 1;
        self.exclusive -= usize::from(slot.exclusive);
        self.cancelled -= usize::from(slot.cancelled);
        self.work -= slot.work;
        if slot.batched {
            self.batched -= 1;
            self.with_batches(slot.command, WorkerBatches::leave);
        }
        self.ended += u64::from(!matches!(used, SlotUse::NotStarted));
        self.stalled &= !matches!(used, SlotUse::Took(_));
        [self.served(), self.drained()]
    }

    /// An event once so many of its calls have ended.
    pub(super) fn report_at(&mut self, calls: u64) -> Option<Event<W>> {
        self.report_at = Some(calls);
        self.served()
    }

    fn served(&mut self) -> Option<Event<W>> {
        self.report_at.take_if(|at| *at <= self.ended)?;
        Some(Event::Served {
            worker: self.worker.clone(),
            calls: self.ended,
        })
    }

    pub(super) fn stall(&mut self) {
        self.stalled = true;
    }

    /// It gets only the calls of its sessions from now on.
    pub(super) fn drain_sessions(&mut self) {
        self.draining_sessions = true;
    }

    /// The worker drains once it has neither calls nor sessions, if it was to drain its sessions.
    pub(super) fn sessions_drained(&mut self) -> Option<Event<W>> {
        let drained = self.draining_sessions && self.sessions.is_empty() && self.in_flight == 0;
        if !drained || self.phase == Phase::Draining {
            return None;
        }
        self.drain()
    }

    /// An event if it has no calls.
    pub(super) fn drain(&mut self) -> Option<Event<W>> {
        self.phase = Phase::Draining;
        self.drained()
    }

    fn drained(&self) -> Option<Event<W>> {
        let drained = self.phase == Phase::Draining && self.in_flight == 0;
        drained.then(|| Event::Drained {
            worker: self.worker.clone(),
        })
    }

    /// Takes no calls until `resume`, if `connection` is still the present one.
    pub(super) fn pause(&mut self, connection: Option<u64>) {
        let present = connection.is_none_or(|connection| connection == self.connection);
        if self.phase == Phase::Open && present {
            self.phase = Phase::Paused;
        }
    }

    /// False if it is not paused.
    pub(super) fn resume(&mut self, worker: W) -> bool {
        let paused = self.phase == Phase::Paused;
        if paused {
            self.phase = Phase::Open;
            self.connection += 1;
            self.worker = worker;
            self.stalled = true;
        }
        paused
    }
}
