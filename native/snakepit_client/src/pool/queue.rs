//! The calls that wait for a worker, and how long they do.

use super::{
    commands::CommandTimes,
    sessions::SessionLease,
    types::{AcquireError, CommandId, HeldPlace, Priority},
};
use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, Instant},
};

/// Calls are served in the order of their places: by when they came and by their priority. The order of two calls
/// never changes, so that each call gets its turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    turn: Instant,
    number: u64,
}

impl Place {
    pub(super) fn new(since: Instant, priority: Priority, number: u64) -> Self {
        let turn = since + priority.delay();
        Self { turn, number }
    }
}

/// What a call needs of a worker.
#[derive(Clone, Copy)]
pub(super) struct Demand {
    /// It may wait on the worker itself.
    pub(super) pipelines: bool,
    /// It may share a slot with other calls of this command, where those gather.
    pub(super) command: CommandId,
    /// What it may take, in nanoseconds.
    pub(super) time: u64,
    /// Its place in the queue: where a call before it waits for a worker alone, it neither joins calls on that worker nor
    /// is sent ahead to it. None if another call waits for any worker.
    pub(super) joins_before: Option<Place>,
}

/// A call that waits for a worker. `C` is what gets the lease.
pub(super) struct Queued<C> {
    pub(super) call: C,
    pub(super) wait: Wait,
}

/// How a call waits.
pub(super) struct Wait {
    pub(super) place: Place,
    pub(super) command: CommandId,
    pub(super) pipelines: bool,
    pub(super) session: Option<QueuedSession>,
    pub(super) limits: WaitLimits,
    /// The places of the calls that wait for this one.
    pub(super) held: Vec<HeldPlace>,
}

pub(super) struct QueuedSession {
    pub(super) lease: SessionLease,
    pub(super) strict: bool,
}

impl Wait {
    pub(super) fn demand(&self, times: &CommandTimes) -> Demand {
        Demand {
            pipelines: self.pipelines,
            command: self.command,
            time: times.expected(self.command),
            joins_before: Some(self.place),
        }
    }

    /// The call's session, and whether it waits for the session's worker.
    pub(super) fn session(&self) -> Option<(&Arc<str>, bool)> {
        let session = self.session.as_ref()?;
        Some((&session.lease.id, session.strict))
    }
}

/// How long a call may wait.
pub(super) struct WaitLimits {
    /// The call's own.
    pub(super) deadline: Option<Instant>,
    pub(super) queue_timeout: Option<Duration>,
    /// When the queue timeout began: once the pool has had a ready worker.
    pub(super) counted_from: Option<Instant>,
}

impl WaitLimits {
    fn queue_deadline(&self) -> Option<Instant> {
        Some(self.counted_from? + self.queue_timeout?)
    }

    pub(super) fn end(&self) -> Option<Instant> {
        self.deadline.into_iter().chain(self.queue_deadline()).min()
    }

    pub(super) fn is_late(&self, now: Instant) -> bool {
        self.end().is_some_and(|end| end <= now)
    }

    /// Why a call that is late gets no worker, of a pool that has had one.
    pub(super) fn error(&self, has_workers: bool) -> AcquireError {
        let queue = self.queue_deadline();
        match self.deadline {
            Some(deadline) if queue.is_none_or(|queue| deadline <= queue) => AcquireError::TimedOut,
            _ => AcquireError::QueueTimedOut { has_workers },
        }
    }
}

/// When the waits of the queued calls end, in order.
#[derive(Default)]
pub(super) struct WaitEnds(BTreeSet<(Instant, Place)>);

impl WaitEnds {
    pub(super) fn insert(&mut self, wait: &Wait) {
        if let Some(end) = wait.limits.end() {
            self.0.insert((end, wait.place));
        }
    }

    pub(super) fn remove(&mut self, wait: &Wait) {
        if let Some(end) = wait.limits.end() {
            self.0.remove(&(end, wait.place));
        }
    }

    pub(super) fn first(&self) -> Option<Instant> {
        Some(self.0.first()?.0)
    }

    /// A call whose wait has ended by `now`. It stays in the table.
    pub(super) fn due(&self, now: Instant) -> Option<Place> {
        let (end, place) = *self.0.first()?;
        (end <= now).then_some(place)
    }
}
