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
    started: Instant,
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
        let calls = self.calls.len();
        let last = history.last.filter(|_| history.running == 0);
        let last = last.map(|last| (last.ended, last.calls.min(self.limits.size)));
        match last.filter(|(_, expected)| calls < *expected) {
            _ if self.is_full() => self.since,
            Some((_, expected)) if history.pays_to_start(calls, expected) => self.since,
            Some((ended, _)) => {
                // No caller could come back before the batch ended.
                let latest = self
                    .calls
                    .last()
                    .map_or(ended, |(_, came)| ended.max(*came));
                let pause = history.longest_pause().unwrap_or(self.limits.wait);
                waited.min(ended + self.limits.wait).min(latest + pause)
            }
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
            started: now,
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
    cost: Cost,
    arrivals: Arrivals,
}

/// The batch that has ended last.
#[derive(Clone, Copy)]
struct Last {
    ended: Instant,
    /// How many calls of the command there were when it ended: its own, and those that had gathered.
    calls: usize,
}

/// Of how many batches the cost is a mean.
const COST_OF: f64 = 64.0;
/// Of how many batches the pace is a mean.
const PACE_OF: f64 = 16.0;
/// How many times the mean interval between calls a pause lasts after which no other is expected.
const PAUSE: f64 = 8.0;

/// Moving means of how many calls came after the ends of past batches, and in which time.
#[derive(Clone, Copy, Default)]
struct Arrivals {
    count: f64,
    time: f64,
}

impl Arrivals {
    fn add(&mut self, count: usize, time: Duration) {
        move_means(
            PACE_OF,
            [
                (&mut self.count, float(count)),
                (&mut self.time, time.as_secs_f64()),
            ],
        );
    }

    /// In which time one more call comes, in seconds.
    fn pace(&self) -> Option<f64> {
        (self.count > 0.0).then(|| self.time / self.count)
    }
}

/// Moving means of the sizes and times of batches, of their squares and products.
#[derive(Clone, Copy, Default)]
struct Cost {
    weight: f64,
    size: f64,
    time: f64,
    size_size: f64,
    size_time: f64,
}

impl Cost {
    fn add(&mut self, size: f64, time: f64) {
        move_means(
            COST_OF,
            [
                (&mut self.weight, 1.0),
                (&mut self.size, size),
                (&mut self.time, time),
                (&mut self.size_size, size * size),
                (&mut self.size_time, size * time),
            ],
        );
    }

    /// What a batch takes whatever its size, and what each of its calls adds, in seconds. None if all had about the same
    /// size.
    fn line(&self) -> Option<(f64, f64)> {
        let Self { weight, .. } = self;
        let (size, time) = (self.size / weight, self.time / weight);
        let variance = self.size_size / weight - size * size;
        if variance.is_nan() || variance < 1.0 {
            return None;
        }
        let each = ((self.size_time / weight - size * time) / variance).max(0.0);
        Some(((time - each * size).max(0.0), each))
    }
}

impl History {
    pub(crate) fn started<C>(&mut self, batch: &Batch<C>, now: Instant) {
        self.running += 1;
        let Some(last) = self.last else {
            return;
        };
        let since = now.saturating_duration_since(last.ended);
        let came = batch.calls.iter().filter(|(_, waited)| *waited < since);
        let (count, waited) = came.fold((0, since), |(count, least), (_, waited)| {
            (count + 1, least.min(*waited))
        });
        // The first calls after a pause say nothing of those that are expected.
        if count > 0 && since - waited < batch.limits.wait {
            self.arrivals.add(count, since - waited);
        }
    }

    /// `calls`: how many of the command there are, those of the batch included.
    pub(crate) fn ended<C>(&mut self, batch: &Batch<C>, calls: usize, now: Instant) {
        self.running -= 1;
        let took = now.saturating_duration_since(batch.started);
        self.cost.add(float(batch.calls.len()), took.as_secs_f64());
        self.last = Some(Last { ended: now, calls });
    }

    /// Whether to start a batch of so many calls though more are expected: if it takes as long as these need to come, and
    /// to wait for them would cost more than one more batch.
    fn pays_to_start(&self, calls: usize, expected: usize) -> bool {
        let Some(pace) = self.arrivals.pace() else {
            return false;
        };
        let coming = float(expected - calls) * pace;
        match self.cost.line() {
            Some((batch, each)) => batch < coming && coming <= batch + each * float(calls),
            // To learn what batches of another size take.
            None => expected <= 4 * calls,
        }
    }

    /// How long to wait for the next call of those that are expected: as long as one more batch would cost. So if it does
    /// not come, no more than that was lost. None while the cost is unknown.
    fn longest_pause(&self) -> Option<Duration> {
        let (batch, _each) = self.cost.line()?;
        let pause = batch.max(PAUSE * self.arrivals.pace()?);
        Duration::try_from_secs_f64(pause).ok()
    }
}

/// They begin at zero: only their ratios are of use.
fn move_means<const N: usize>(of: f64, means: [(&mut f64, f64); N]) {
    for (mean, new) in means {
        *mean += (new - *mean) / of;
    }
}

fn float(count: usize) -> f64 {
    f64::from(u32::try_from(count).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// After batches of these sizes, each of which took `batch` and `each` for a call, in ms; calls come every 0.06 ms.
    fn history(sizes: &[usize], batch: f64, each: f64) -> History {
        let mut history = History::default();
        history.arrivals.add(10, Duration::from_micros(600));
        for size in sizes {
            history
                .cost
                .add(float(*size), (batch + each * float(*size)) / 1000.0);
        }
        history
    }

    fn first_that_pays(history: &History) -> Option<usize> {
        (1..32).find(|calls| history.pays_to_start(*calls, 32))
    }

    #[test]
    fn a_batch_whose_calls_each_take_time_starts_when_it_takes_as_long_as_the_others_need_to_come()
    {
        assert_eq!(first_that_pays(&history(&[32, 8, 24], 0.12, 0.23)), Some(7));
        assert_eq!(first_that_pays(&history(&[32, 8, 24], 1.0, 0.05)), Some(9));
    }

    #[test]
    fn a_batch_that_takes_the_same_time_whatever_its_size_waits_for_all() {
        assert_eq!(first_that_pays(&history(&[32, 8, 24], 20.0, 0.0)), None);
    }

    #[test]
    fn while_the_cost_is_unknown_a_quarter_starts_and_nothing_does_while_the_pace_is() {
        assert_eq!(first_that_pays(&history(&[32, 32], 20.0, 0.0)), Some(8));
        assert_eq!(first_that_pays(&History::default()), None);
    }

    /// How long a batch of one call waits that came so long before the last batch ended, while 32 are expected.
    fn waits(history: &History, before: Duration) -> Duration {
        let came = Instant::now();
        let now = came + before;
        let wait = Duration::from_millis(5);
        let limits = BatchLimits {
            index: 0,
            size: 32,
            wait,
            max_bytes: usize::MAX,
        };
        let last = Some(Last {
            ended: now,
            calls: 32,
        });
        let mut gathering = Gathering::new(limits, came);
        gathering.add(Arc::new(()), 0, came);
        gathering.wait_from(now);
        gathering.due(&History { last, ..*history }) - now
    }

    #[test]
    fn a_pause_that_costs_as_much_as_one_more_batch_ends_the_wait() {
        let near = |history: &History, micros| {
            [0, 10].map(Duration::from_millis).iter().all(|before| {
                let difference = waits(history, *before).abs_diff(Duration::from_micros(micros));
                difference < Duration::from_micros(2)
            })
        };
        assert!(near(&history(&[32, 8, 24], 1.0, 0.05), 1000));
        // Calls come every 0.06 ms.
        assert!(near(&history(&[32, 8, 24], 0.12, 0.23), 480));
        assert!(near(&history(&[32, 8, 24], 20.0, 0.0), 5000));
        assert!(near(&history(&[32, 32], 1.0, 0.05), 5000));
    }

    #[test]
    fn the_cost_is_forgotten_once_all_batches_have_the_same_size() {
        let sizes: Vec<_> = [8, 24]
            .into_iter()
            .chain(std::iter::repeat_n(32, 400))
            .collect();
        assert_eq!(first_that_pays(&history(&sizes, 20.0, 0.0)), Some(8));
    }
}
