//! What a thread runs at once: a call, or a batch of calls of one command.

use parking_lot::Mutex;
use std::{
    sync::Arc,
    time::{Duration, Instant},
};

/// How calls of a command gather in batches.
#[derive(Clone, Copy, Debug)]
pub struct BatchLimits {
    /// Identifies the command: a small number.
    pub index: usize,
    /// How many calls are a full batch.
    pub size: usize,
    /// How long a batch waits for further calls.
    pub wait: Duration,
    /// How large the arguments of a batch may be. A larger call is a batch of its own.
    pub max_bytes: usize,
}

pub enum Work<C> {
    Call(Arc<C>),
    Batch(Arc<Batch<C>>),
}

impl<C> Clone for Work<C> {
    fn clone(&self) -> Self {
        match self {
            Self::Call(call) => Self::Call(call.clone()),
            Self::Batch(batch) => Self::Batch(batch.clone()),
        }
    }
}

impl<C> Work<C> {
    pub(crate) fn is(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Call(one), Self::Call(other)) => Arc::ptr_eq(one, other),
            (Self::Batch(one), Self::Batch(other)) => Arc::ptr_eq(one, other),
            _ => false,
        }
    }

    /// The calls that this serves; of a batch those that have not left it.
    pub fn each(&self, mut visit: impl FnMut(&Arc<C>)) {
        match self {
            Self::Call(call) => visit(call),
            Self::Batch(batch) => batch.present.lock().iter().for_each(visit),
        }
    }
}

/// The calls that one run of a command serves.
pub struct Batch<C> {
    pub limits: BatchLimits,
    /// In the order of their arrival, each with the time that it has waited.
    pub calls: Vec<(Arc<C>, Duration)>,
    /// Those that are to be answered when the command has ended.
    present: Mutex<Vec<Arc<C>>>,
}

impl<C> Batch<C> {
    /// Its call, if it has only one.
    pub fn only(&self) -> Option<&Arc<C>> {
        match &self.calls[..] {
            [(call, _)] => Some(call),
            _ => None,
        }
    }

    pub fn present(&self) -> Vec<Arc<C>> {
        self.present.lock().clone()
    }

    /// Takes a call, to answer it. False if it has left.
    pub fn take(&self, call: &Arc<C>) -> bool {
        let mut present = self.present.lock();
        let at = present.iter().position(|one| Arc::ptr_eq(one, call));
        if let Some(at) = at {
            present.remove(at);
        }
        at.is_some()
    }

    /// The calls selected by `which` leave, unless no other would be left: then the last of them stays, and is
    /// returned as the second value.
    pub(crate) fn leave(&self, which: impl Fn(&C) -> bool) -> (Vec<Arc<C>>, Option<Arc<C>>) {
        let mut present = self.present.lock();
        let (mut selected, mut others): (Vec<_>, Vec<_>) =
            present.drain(..).partition(|call| which(call));
        let last = if others.is_empty() {
            selected.pop()
        } else {
            None
        };
        others.extend(last.iter().cloned());
        *present = others;
        (selected, last)
    }
}

/// A batch that has not started.
pub(crate) struct Gathering<C> {
    pub(crate) limits: BatchLimits,
    /// With the time of their arrival.
    calls: Vec<(Arc<C>, Instant)>,
    bytes: usize,
    /// Since when it waits for further calls.
    since: Instant,
    /// Whether a call that came later did not fit in.
    closed: bool,
}

impl<C> Gathering<C> {
    pub(crate) fn new(limits: BatchLimits, now: Instant) -> Self {
        Self {
            limits,
            calls: Vec::new(),
            bytes: 0,
            since: now,
            closed: false,
        }
    }

    /// Adds a call, or returns it if there is no room.
    pub(crate) fn add(&mut self, call: Arc<C>, bytes: usize, now: Instant) -> Option<Arc<C>> {
        let fits =
            self.calls.is_empty() || self.bytes.saturating_add(bytes) <= self.limits.max_bytes;
        if self.is_full() || !fits {
            self.closed = true;
            return Some(call);
        }
        self.bytes = self.bytes.saturating_add(bytes);
        self.calls.push((call, now));
        None
    }

    pub(crate) fn len(&self) -> usize {
        self.calls.len()
    }

    pub(crate) fn calls(&self) -> impl Iterator<Item = &Arc<C>> {
        self.calls.iter().map(|(call, _)| call)
    }

    /// Takes out the calls that `which` selects, with `bytes` of each.
    pub(crate) fn take(
        &mut self,
        which: impl Fn(&C) -> bool,
        bytes: impl Fn(&C) -> usize,
    ) -> Vec<Arc<C>> {
        let (taken, kept): (Vec<_>, Vec<_>) = std::mem::take(&mut self.calls)
            .into_iter()
            .partition(|(call, _)| which(call));
        self.calls = kept;
        if !taken.is_empty() {
            self.bytes = self.calls().map(|call| bytes(call)).sum();
            self.closed = false;
        }
        taken.into_iter().map(|(call, _)| call).collect()
    }

    /// The place for the batch has become free only now.
    pub(crate) fn wait_from(&mut self, now: Instant) {
        self.since = now;
    }

    fn is_full(&self) -> bool {
        self.closed || self.calls.len() >= self.limits.size || self.bytes >= self.limits.max_bytes
    }

    /// When it starts if no further call comes.
    pub(crate) fn due(&self, history: &History) -> Instant {
        let waited = self.since + self.limits.wait;
        let expected = history.last.filter(|last| {
            history.running == 0 && self.calls.len() < last.calls.min(self.limits.size)
        });
        match expected {
            _ if self.is_full() => self.since,
            Some(last) => waited.min(last.ended + self.limits.wait),
            None if history.running == 0 => self.since,
            None => waited,
        }
    }

    pub(crate) fn start(self, now: Instant) -> Batch<C> {
        let calls = self.calls.into_iter();
        let calls: Vec<_> = calls
            .map(|(call, since)| (call, now.saturating_duration_since(since)))
            .collect();
        Batch {
            limits: self.limits,
            present: Mutex::new(calls.iter().map(|(call, _)| call.clone()).collect()),
            calls,
        }
    }
}

/// What is known of the batches of a command.
#[derive(Clone, Copy, Default)]
pub(crate) struct History {
    pub(crate) running: usize,
    last: Option<Last>,
}

/// The batch that has ended last.
#[derive(Clone, Copy)]
struct Last {
    ended: Instant,
    /// How many calls of the command there were when it ended: its own, and those that had gathered.
    calls: usize,
}

impl History {
    pub(crate) fn ended(&mut self, calls: usize, now: Instant) {
        self.running -= 1;
        self.last = Some(Last { ended: now, calls });
    }
}
