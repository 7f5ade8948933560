//! The table of calls that were sent on a connection, with their timers. It does no I/O: the multiplexer
//! sends the frames.

use super::{
    pending_call::{Cancelled, Lost, PendingCall, Report},
    silence::{Silence, Step},
};
use snakepit_proto::CallEvent;
use std::{
    collections::VecDeque,
    mem::{replace, take},
    time::{Duration, Instant},
};

/// When this many calls wait behind those that the worker runs, further ones gather until a reply arrives.
const GATHERED_BEHIND: usize = 4;
/// How long a worker may go without a reply before the calls behind those that it runs are recalled.
const STALLED_AFTER: Duration = Duration::from_millis(1);
/// How long the handler of a cancelled call may run on, until the worker's own limit is set.
const DEFAULT_GRACE: Duration = Duration::from_secs(5);

pub(super) struct State<P> {
    /// In the order in which they were sent, which is that of their ids. As a rule the first one leaves next.
    calls: VecDeque<Box<Entry<P>>>,
    /// How many of them are batched.
    batched: usize,
    last_id: u64,
    /// No call has an earlier timer. Most calls leave before their timers fire, so that nothing else keeps these in order.
    timers_from: Option<Instant>,
    /// When the driving task wakes next.
    armed: Option<Instant>,
    /// How many calls the worker runs at once.
    capacity: usize,
    /// Whether it runs no others, and no more than that.
    owned: bool,
    /// How long the handler of a cancelled call may run on.
    grace: Duration,
    /// When the worker last replied, or became busy.
    progress: Instant,
    recalled_to: u64,
    lost: Option<Lost>,
    draining: Draining,
    /// If the server is to be asked whether it is there.
    silence: Option<Silence>,
}

/// Whether the server takes no more calls, and waits for the end of those that it has.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Draining {
    No,
    Yes,
    /// It knows that no call is left.
    Finished,
}

pub(super) struct Entry<P> {
    pub(super) id: u64,
    pub(super) call: P,
    pub(super) cancelled_at: Option<Instant>,
    timer: Option<Instant>,
}

/// The calls whose timers have fired.
pub(super) struct Due<P> {
    /// Calls past their deadlines, now cancelled, with what informs their callers.
    pub(super) timed_out: Vec<(u64, Report)>,
    /// Cancelled calls whose handlers run past the grace, and when each was cancelled.
    pub(super) past_grace: Vec<(P, Instant)>,
}

/// The calls to recall from a worker that has stalled.
#[derive(Default)]
pub(super) struct Recall {
    pub(super) ids: Vec<u64>,
    /// When to check again.
    pub(super) next: Option<Instant>,
}

/// The calls that are left when the connection is lost.
pub(super) struct Left<P> {
    /// In the order in which they were sent.
    pub(super) calls: VecDeque<Box<Entry<P>>>,
    /// How many of them the worker may have run at once.
    pub(super) capacity: usize,
}

impl<P: PendingCall> State<P> {
    pub(super) fn new(silence: Option<Silence>) -> Self {
        Self {
            calls: VecDeque::new(),
            batched: 0,
            last_id: 0,
            timers_from: None,
            armed: None,
            capacity: usize::MAX,
            owned: true,
            grace: DEFAULT_GRACE,
            progress: Instant::now(),
            recalled_to: 0,
            lost: None,
            draining: Draining::No,
            silence,
        }
    }

    pub(super) fn set_worker(&mut self, capacity: usize, grace: Duration, owned: bool) {
        self.capacity = capacity;
        self.owned = owned;
        self.grace = grace;
    }

    /// Why no call can be sent, if so.
    pub(super) fn lost(&self) -> Option<Lost> {
        match self.draining {
            Draining::No => self.lost,
            // Another connection is needed.
            Draining::Yes | Draining::Finished => Some(Lost::Connection),
        }
    }

    /// The server takes no more calls.
    pub(super) fn drain(&mut self) {
        if self.draining == Draining::No {
            self.draining = Draining::Yes;
        }
    }

    /// Whether the server is to be told that no call is left. Once.
    pub(super) fn take_drained(&mut self) -> bool {
        let drained = self.has_drained();
        if drained {
            self.draining = Draining::Finished;
        }
        drained
    }

    fn has_drained(&self) -> bool {
        self.draining == Draining::Yes && self.calls.is_empty()
    }

    pub(super) fn next_id(&mut self) -> u64 {
        self.last_id += 1;
        self.last_id
    }

    pub(super) fn last_id(&self) -> u64 {
        self.last_id
    }

    /// How many calls wait behind those that the worker runs.
    fn behind(&self) -> usize {
        (self.calls.len() - self.batched).saturating_sub(self.capacity)
    }

    /// Whether further calls are sent once a reply arrives.
    pub(super) fn gathers(&self) -> bool {
        self.behind() >= GATHERED_BEHIND
    }

    pub(super) fn len(&self) -> usize {
        self.calls.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.calls.is_empty()
    }

    /// Adds the call of the id that `next_id` has returned last.
    pub(super) fn insert(&mut self, id: u64, call: P, deadline: Option<Instant>, now: Instant) {
        if self.calls.is_empty() {
            self.progress = now;
        }
        self.batched += usize::from(call.is_batched());
        self.calls.push_back(Box::new(Entry {
            id,
            call,
            timer: deadline,
            cancelled_at: None,
        }));
        self.expect_timer(deadline);
    }

    pub(super) fn take(&mut self, id: u64) -> Option<Box<Entry<P>>> {
        let entry = self.calls.remove(self.index(id)?)?;
        self.batched -= usize::from(entry.call.is_batched());
        if self.calls.is_empty() {
            self.timers_from = None;
        }
        Some(entry)
    }

    fn index(&self, id: u64) -> Option<usize> {
        let first = self.calls.front()?;
        if first.id == id {
            return Some(0);
        }
        self.calls.binary_search_by_key(&id, |entry| entry.id).ok()
    }

    /// What is to be done about an event of a call: nothing if its caller no longer waits.
    pub(super) fn report(&self, id: u64, event: CallEvent) -> Option<Report> {
        let entry = &self.calls[self.index(id)?];
        let waits = entry.cancelled_at.is_none();
        waits.then(|| entry.call.report(event)).flatten()
    }

    /// Notes that the worker has replied.
    pub(super) fn progressed(&mut self) {
        self.progress = Instant::now();
    }

    /// Returns what informs the caller if this cancels the call: only once, and only while it is in the table.
    pub(super) fn cancel(&mut self, id: u64, why: Cancelled) -> Option<Report> {
        let now = Instant::now();
        let until = now + self.grace;
        let index = self.index(id)?;
        let entry = &mut self.calls[index];
        if entry.cancelled_at.is_some() {
            return None;
        }
        entry.cancelled_at = Some(now);
        entry.timer = Some(until);
        let report = entry.call.cancelled(why);
        self.expect_timer(Some(until));
        Some(report)
    }

    pub(super) fn take_due(&mut self, now: Instant) -> Due<P> {
        let mut due = Due {
            timed_out: Vec::new(),
            past_grace: Vec::new(),
        };
        if self.timers_from.is_none_or(|at| at > now) {
            return due;
        }
        let calls = self.calls.iter();
        let fired = calls.filter(|entry| entry.timer.is_some_and(|at| at <= now));
        let fired: Vec<_> = fired.map(|entry| (entry.id, entry.cancelled_at)).collect();
        for (id, cancelled_at) in fired {
            match cancelled_at {
                None => {
                    let report = self.cancel(id, Cancelled::TimedOut);
                    due.timed_out.extend(report.map(|report| (id, report)));
                }
                Some(at) => due
                    .past_grace
                    .extend(self.take(id).map(|entry| (entry.call, at))),
            }
        }
        self.timers_from = self.calls.iter().filter_map(|entry| entry.timer).min();
        due
    }

    /// Finds the calls to recall if the worker has stalled. Each is recalled once.
    pub(super) fn recall(&mut self, now: Instant) -> Recall {
        let Some((last, due)) = self.recalls_from() else {
            return Recall::default();
        };
        if now < due {
            return Recall {
                ids: Vec::new(),
                next: Some(due),
            };
        }
        let recalled_to = replace(&mut self.recalled_to, last);
        if let Some((_, call)) = self.ordinary().next() {
            call.stalled();
        }
        let ahead = self.ordinary().skip(self.capacity).map(|(id, _)| id);
        Recall {
            ids: ahead.filter(|id| *id > recalled_to).collect(),
            next: None,
        }
    }

    /// The last call, and when it is recalled with others that were not, if the worker makes no progress.
    fn recalls_from(&self) -> Option<(u64, Instant)> {
        let behind = self.behind() > 0;
        let (last, _) = behind.then(|| self.ordinary().next_back()).flatten()?;
        (last > self.recalled_to).then_some((last, self.progress + STALLED_AFTER))
    }

    /// The calls that are not batched, which the worker starts in their order.
    fn ordinary(&self) -> impl DoubleEndedIterator<Item = (u64, &P)> {
        let calls = self.calls.iter().map(|entry| (entry.id, &entry.call));
        calls.filter(|(_, call)| !call.is_batched())
    }

    /// Returns when the driving task must wake: for the first timer or at `also`.
    pub(super) fn arm(&mut self, now: Instant, also: Option<Instant>) -> Option<Instant> {
        let next = self.timers_from.into_iter().chain(also).min();
        if self.armed.is_some_and(|armed| armed <= now) {
            self.armed = None;
        }
        if self.is_early(next) {
            self.armed = next;
        }
        self.armed
    }

    /// Whether the driving task has something to do before it wakes: to recall calls, or to tell the server that it has
    /// drained.
    pub(super) fn needs_task(&self) -> bool {
        let recalls = self
            .recalls_from()
            .is_some_and(|(_, due)| self.is_early(Some(due)));
        recalls || self.has_drained()
    }

    /// Whether the driving task would wake too late for this.
    pub(super) fn is_early(&self, at: Option<Instant>) -> bool {
        at.is_some_and(|at| self.armed.is_none_or(|armed| at < armed))
    }

    /// What is to be done about a silent server, of whose connection there have been so many reads.
    pub(super) fn silence_due(&mut self, reads: u64, now: Instant) -> Step {
        let idle = self.calls.is_empty();
        self.silence.as_mut().map_or(Step::Nothing, |silence| {
            silence.heard(reads, now);
            silence.due(idle, now)
        })
    }

    /// When something has to be done about it, if it stays silent; `idle`: while no call is in flight.
    pub(super) fn silent_until(&self, idle: bool) -> Option<Instant> {
        self.silence.as_ref()?.next(idle)
    }

    /// Removes all calls. From now on none can be added.
    pub(super) fn lose(&mut self, what: Lost) -> Left<P> {
        self.lost = Some(what);
        self.batched = 0;
        self.timers_from = None;
        Left {
            calls: take(&mut self.calls),
            capacity: if self.owned {
                self.capacity
            } else {
                usize::MAX
            },
        }
    }

    fn expect_timer(&mut self, at: Option<Instant>) {
        self.timers_from = self.timers_from.into_iter().chain(at).min();
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::multiplexer::pending_call::{Exit, ReturnReason};
    use parking_lot::Mutex;
    use snakepit_proto::{CallHeader, ReplyFrame};
    use std::sync::Arc;

    /// Records how it is called.
    #[derive(Clone, Default)]
    struct Call {
        told: Arc<Mutex<Vec<String>>>,
        header: CallHeader,
        batched: bool,
    }

    impl Call {
        fn told(&self) -> Vec<String> {
            take(&mut self.told.lock())
        }
    }

    impl PendingCall for Call {
        fn header(&mut self) -> &mut CallHeader {
            &mut self.header
        }
        fn report(&self, event: CallEvent) -> Option<Report> {
            let told = self.told.clone();
            Some(Box::new(move || told.lock().push(format!("{event:?}"))))
        }
        fn is_batched(&self) -> bool {
            self.batched
        }
        fn replied(self, _reply: ReplyFrame) {}
        fn cancelled(&mut self, why: Cancelled) -> Report {
            let told = self.told.clone();
            Box::new(move || told.lock().push(format!("cancelled: {why:?}")))
        }
        fn exited(self, _exit: Exit, _after: Duration) {}
        fn lost(self, _what: Lost, _cause: &str) {}
        fn not_started(self, _reason: ReturnReason) {}
        fn stalled(&self) {
            self.told.lock().push("stalled".into());
        }
    }

    const GRACE: Duration = Duration::from_secs(100);

    fn state(capacity: usize, calls: usize) -> (State<Call>, Vec<Call>) {
        let mut state = State::new(None);
        state.set_worker(capacity, GRACE, true);
        let calls: Vec<Call> = (0..calls).map(|_| Call::default()).collect();
        for call in &calls {
            let id = state.next_id();
            state.insert(id, call.clone(), None, Instant::now());
        }
        (state, calls)
    }

    #[test]
    fn a_call_is_cancelled_at_its_deadline_and_given_up_after_the_grace() {
        let (mut state, _) = state(1, 0);
        let (call, now) = (Call::default(), Instant::now());
        let deadline = now + Duration::from_secs(1);
        let id = state.next_id();
        state.insert(id, call.clone(), Some(deadline), Instant::now());
        let before = state.take_due(now);
        assert!(before.timed_out.is_empty() && before.past_grace.is_empty());
        let due = state.take_due(deadline);
        assert!(due.past_grace.is_empty());
        let [(timed_out, report)] = due.timed_out.try_into().ok().unwrap();
        assert_eq!(timed_out, id);
        assert!(call.told().is_empty());
        report();
        assert_eq!(call.told(), ["cancelled: TimedOut"]);
        let due = state.take_due(Instant::now() + GRACE);
        assert!(due.timed_out.is_empty());
        assert_eq!(due.past_grace.len(), 1);
        assert!(state.is_empty());
    }

    #[test]
    fn a_call_is_cancelled_once() {
        let (mut state, calls) = state(1, 1);
        state.cancel(1, Cancelled::ByCaller).unwrap()();
        assert!(state.cancel(1, Cancelled::TimedOut).is_none());
        assert!(state.cancel(2, Cancelled::ByCaller).is_none());
        assert_eq!(calls[0].told(), ["cancelled: ByCaller"]);
        assert!(state.take(1).unwrap().cancelled_at.is_some());
    }

    #[test]
    fn an_event_is_reported_while_the_caller_waits_and_not_later() {
        let (mut state, calls) = state(1, 1);
        let event = || CallEvent::progress(0.5, "half".into());
        state.report(1, event()).unwrap()();
        assert_eq!(calls[0].told(), [format!("{:?}", event())]);
        assert!(state.report(2, event()).is_none());
        state.cancel(1, Cancelled::ByCaller);
        assert!(state.report(1, event()).is_none());
    }

    #[test]
    fn a_call_that_has_ended_has_no_timer_any_more() {
        let (mut state, _) = state(1, 1);
        state.cancel(1, Cancelled::ByCaller);
        state.take(1).unwrap();
        assert_eq!(state.arm(Instant::now(), None), None);
        let due = state.take_due(Instant::now() + GRACE);
        assert!(due.past_grace.is_empty());
    }

    #[test]
    fn calls_behind_a_stalled_worker_are_recalled_once() {
        let (mut state, calls) = state(2, 5);
        assert_eq!(state.behind(), 3);
        let now = Instant::now();
        let later = now + STALLED_AFTER + Duration::from_secs(1);
        let recall = state.recall(later);
        assert_eq!((recall.ids, recall.next), (vec![3, 4, 5], None));
        assert_eq!(calls[0].told(), ["stalled"]);
        let id = state.next_id();
        state.insert(id, Call::default(), None, Instant::now());
        assert_eq!(state.recall(later).ids, [id]);
        assert!(state.recall(later).ids.is_empty());
    }

    #[test]
    fn nothing_is_recalled_from_a_worker_that_makes_progress_or_that_runs_all_calls() {
        let (mut busy, calls) = state(1, 3);
        busy.progressed();
        let recall = busy.recall(busy.progress);
        assert!(recall.ids.is_empty());
        assert_eq!(recall.next, Some(busy.progress + STALLED_AFTER));
        assert!(calls[0].told().is_empty());
        let (mut free, _) = state(3, 3);
        let recall = free.recall(Instant::now() + GRACE);
        assert!(recall.ids.is_empty() && recall.next.is_none());
    }

    #[test]
    fn calls_in_batches_wait_behind_none_and_are_not_recalled() {
        let (mut state, calls) = state(1, 0);
        assert!(calls.is_empty());
        for batched in [true, false, true, false, true] {
            let id = state.next_id();
            let call = Call {
                batched,
                ..Call::default()
            };
            state.insert(id, call, None, Instant::now());
        }
        assert_eq!(state.behind(), 1);
        let later = Instant::now() + GRACE;
        assert_eq!(state.recall(later).ids, [4]);
        state.take(2).unwrap();
        state.take(3).unwrap();
        assert_eq!(state.behind(), 0);
        assert!(state.recall(later).ids.is_empty());
    }

    #[test]
    fn the_timer_is_armed_for_what_comes_first_and_again_once_it_has_fired() {
        let (mut state, _) = state(1, 0);
        let now = Instant::now();
        let at = |seconds| now + Duration::from_secs(seconds);
        let id = state.next_id();
        assert!(state.is_early(Some(at(9))));
        state.insert(id, Call::default(), Some(at(9)), Instant::now());
        assert_eq!(state.arm(now, None), Some(at(9)));
        assert!(!state.is_early(Some(at(10))));
        assert_eq!(state.arm(now, Some(at(5))), Some(at(5)));
        assert_eq!(state.arm(now, None), Some(at(5)));
        assert_eq!(state.arm(at(5), None), Some(at(9)));
    }

    #[test]
    fn the_timer_of_a_call_that_has_left_fires_for_nothing_and_then_that_of_the_next_call_is_armed()
    {
        let (mut state, _) = state(1, 0);
        let now = Instant::now();
        let at = |seconds| now + Duration::from_secs(seconds);
        for seconds in [1, 9, 5] {
            let id = state.next_id();
            state.insert(id, Call::default(), Some(at(seconds)), now);
        }
        state.take(1).unwrap();
        assert_eq!(state.arm(now, None), Some(at(1)));
        assert!(state.take_due(at(1)).timed_out.is_empty());
        assert_eq!(state.arm(at(1), None), Some(at(5)));
        let timed_out = state.take_due(at(9)).timed_out.into_iter();
        assert_eq!(timed_out.map(|(id, _)| id).collect::<Vec<_>>(), [2, 3]);
    }

    #[test]
    fn a_server_of_somebody_else_may_run_each_call_that_was_sent() {
        let (mut state, _) = state(2, 3);
        state.set_worker(2, GRACE, false);
        assert_eq!(state.behind(), 1);
        assert_eq!(state.lose(Lost::Connection).capacity, usize::MAX);
    }

    #[test]
    fn a_lost_connection_gives_its_calls_back_in_the_order_in_which_they_were_sent() {
        let (mut state, _) = state(2, 3);
        let left = state.lose(Lost::Rpc);
        assert_eq!(state.lost(), Some(Lost::Rpc));
        assert!(state.is_empty());
        assert_eq!(left.capacity, 2);
        assert_eq!(
            left.calls.iter().map(|entry| entry.id).collect::<Vec<_>>(),
            [1, 2, 3]
        );
    }
}
