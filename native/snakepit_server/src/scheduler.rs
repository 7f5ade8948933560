//! Decides which calls run: a limited number at once, in the order of their arrival. Calls of a command that takes
//! batches gather, and a batch counts as one. Threads that run commands wait here without Python's lock.
//!
//! All data is behind one mutex. Whoever makes calls ready wakes others after it has unlocked: a thread
//! through `ready`, the thread that drives the network through its waker, the event loop through
//! `wake_loop`, and those that wait for the last call's end through `idle`. What becomes ready only because time has
//! passed is admitted by `keep_time`.

use crate::work::{Batch, BatchLimits, Gathering, History, Work};
use parking_lot::{Condvar, Mutex, MutexGuard};
use std::{
    collections::VecDeque,
    future::pending,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};
use tokio::{sync::Notify, time::sleep_until};

/// A call, as far as the scheduler is concerned.
pub trait Schedulable: Send + Sync {
    /// Whether it runs on the event loop and needs no thread.
    fn is_async(&self) -> bool;

    /// Keeps a call from beginning that was taken to run. False if it has begun: whoever takes a call may have to wait
    /// for Python's lock.
    fn withdraw(&self) -> bool;

    /// How the calls of its command gather, if they do.
    fn batch_limits(&self) -> Option<BatchLimits> {
        None
    }

    /// The size of its arguments, for a batch.
    fn bytes(&self) -> usize {
        0
    }
}

pub struct Scheduler<J> {
    state: Mutex<State<J>>,
    ready: Condvar,
    idle: Condvar,
    /// Wakes the event loop, which has calls to start.
    wake_loop: Box<dyn Fn() + Send + Sync>,
    /// Wakes `keep_time`, which has to wait for another time.
    timer: Notify,
}

struct State<J> {
    slots: usize,
    /// How many calls may wait while no slot is free.
    max_queue: usize,
    /// Calls beyond the limit, and batches that gather.
    waiting: VecDeque<Waiting<J>>,
    /// Those within the limit that no thread has started.
    admitted: VecDeque<Work<J>>,
    /// Those within the limit that the event loop has not started.
    for_loop: VecDeque<Work<J>>,
    running: Vec<Work<J>>,
    /// How many batches gather.
    gathering: usize,
    /// By the index of the command.
    histories: Vec<History>,
    /// When `keep_time` wakes.
    armed: Option<Instant>,
    threads: usize,
    idle_threads: usize,
    /// Wakes the thread that drives the network while it waits for a call.
    driver: Option<Waker>,
    /// `poll_next` must return without a call once.
    woken: bool,
    closed: bool,
}

enum Waiting<J> {
    Call(Arc<J>),
    Batch(Gathering<J>),
}

impl<J: Schedulable> Scheduler<J> {
    pub fn new(
        slots: usize,
        max_queue: usize,
        wake_loop: impl Fn() + Send + Sync + 'static,
    ) -> Self {
        Self {
            wake_loop: Box::new(wake_loop),
            state: Mutex::new(State {
                slots,
                max_queue,
                waiting: VecDeque::new(),
                admitted: VecDeque::new(),
                for_loop: VecDeque::new(),
                running: Vec::new(),
                gathering: 0,
                histories: Vec::new(),
                armed: None,
                // The worker starts the first one itself.
                threads: 1,
                idle_threads: 0,
                driver: None,
                woken: false,
                closed: false,
            }),
            ready: Condvar::new(),
            idle: Condvar::new(),
            timer: Notify::new(),
        }
    }

    /// Adds calls. Returns those for which the queue has no room.
    pub fn submit(&self, calls: impl IntoIterator<Item = Arc<J>>) -> Vec<Arc<J>> {
        let mut refused = Vec::new();
        let mut state = self.state.lock();
        for call in calls {
            if state.has_room(&*call) {
                state.queue(call);
            } else {
                refused.push(call);
            }
        }
        state.admit();
        self.tell(state);
        refused
    }

    /// Takes the next work to run, if there is any. The work `done` has ended.
    pub fn next(&self, done: Option<&Work<J>>) -> Option<Work<J>> {
        let mut state = self.state.lock();
        if let Some(done) = done {
            state.leave(done);
        }
        let next = state.start_next();
        self.tell(state);
        next
    }

    /// Waits for the next work to run. None once the scheduler is closed.
    pub fn wait_next(&self) -> Option<Work<J>> {
        let mut state = self.state.lock();
        loop {
            if let Some(work) = state.start_next() {
                return Some(work);
            }
            if state.closed {
                return None;
            }
            state.idle_threads += 1;
            self.ready.wait(&mut state);
            state.idle_threads -= 1;
        }
    }

    /// As `wait_next`, for a thread that drives the network meanwhile. None also after `wake`.
    pub fn poll_next(&self, cx: &mut Context<'_>) -> Poll<Option<Work<J>>> {
        let mut state = self.state.lock();
        if let Some(work) = state.start_next() {
            return Poll::Ready(Some(work));
        }
        if state.closed || std::mem::take(&mut state.woken) {
            return Poll::Ready(None);
        }
        state.driver = Some(cx.waker().clone());
        Poll::Pending
    }

    /// Takes all work that the event loop must start.
    pub fn take_for_loop(&self) -> Vec<Work<J>> {
        let mut state = self.state.lock();
        let work: Vec<_> = state.for_loop.drain(..).collect();
        state.running.extend(work.iter().cloned());
        work
    }

    /// Work on the event loop has ended.
    pub fn leave(&self, done: &Work<J>) {
        let mut state = self.state.lock();
        state.leave(done);
        self.tell(state);
    }

    /// Removes and returns those calls selected by `which` that have not begun.
    pub fn take_back(&self, which: impl Fn(&J) -> bool) -> Vec<Arc<J>> {
        let mut state = self.state.lock();
        let mut taken = state.take_unstarted(&which);
        state.withdraw(&which, &mut taken);
        state.admit();
        self.tell(state);
        taken
    }

    /// Removes the calls selected by `which`, as far as no command runs for them alone. Returns the removed calls, and
    /// the selected calls that run.
    pub fn take_cancelled(&self, which: impl Fn(&J) -> bool) -> (Vec<Arc<J>>, Vec<Arc<J>>) {
        let mut state = self.state.lock();
        let mut taken = state.take_unstarted(&which);
        let mut running = state.withdraw(&which, &mut taken);
        for work in &state.running {
            if let Work::Batch(batch) = work {
                let (left, last) = batch.leave(&which);
                taken.extend(left);
                if let Some(last) = last {
                    let withdrawn = last.withdraw() && batch.take(&last);
                    let list = if withdrawn { &mut taken } else { &mut running };
                    list.push(last);
                }
            }
        }
        state.admit();
        self.tell(state);
        (taken, running)
    }

    /// Whether any call selected by `which` is queued or runs.
    pub fn has(&self, which: impl Fn(&J) -> bool) -> bool {
        let mut found = false;
        self.state.lock().each(|call| found |= which(call));
        found
    }

    /// The number of calls that are queued or run.
    pub fn count(&self) -> i64 {
        i64::try_from(self.state.lock().count()).unwrap_or(i64::MAX)
    }

    /// Waits up to `timeout` until no call is queued or runs; returns whether that is so.
    pub fn wait_idle(&self, timeout: Duration) -> bool {
        let mut state = self.state.lock();
        let busy = |state: &mut State<J>| !state.is_idle();
        self.idle.wait_while_for(&mut state, busy, timeout);
        state.is_idle()
    }

    pub fn running<T>(&self, pick: impl Fn(&Arc<J>) -> Option<T>) -> Vec<T> {
        let mut picked = Vec::new();
        for work in &self.state.lock().running {
            work.each(|call| picked.extend(pick(call)));
        }
        picked
    }

    /// Starts batches whose time has come. Never returns.
    pub async fn keep_time(&self) {
        loop {
            let changed = self.timer.notified();
            let due = {
                let mut state = self.state.lock();
                state.admit();
                state.armed = state.due();
                let due = state.armed;
                self.tell(state);
                due
            };
            let wait = async {
                match due {
                    Some(due) => sleep_until(due.into()).await,
                    None => pending().await,
                }
            };
            tokio::select! {
                () = changed => {}
                () = wait => {}
            }
        }
    }

    /// Whether the caller should start another thread, so that one is idle when a call arrives.
    pub fn wants_thread(&self) -> bool {
        let mut state = self.state.lock();
        let wanted = state.idle_threads == 0 && state.threads < state.slots && !state.closed;
        if wanted {
            state.threads += 1;
        }
        wanted
    }

    /// The thread that `wants_thread` has asked for could not be started.
    pub fn has_no_thread(&self) {
        self.state.lock().threads -= 1;
    }

    /// Counts the calling thread as one that runs commands until the value is dropped.
    pub fn thread(&self) -> impl Drop + '_ {
        Thread(self)
    }

    /// Whether there are threads that run commands, or the scheduler is closed.
    pub fn has_threads(&self) -> bool {
        let state = self.state.lock();
        state.threads > 0 || state.closed
    }

    pub fn is_closed(&self) -> bool {
        self.state.lock().closed
    }

    /// Has `poll_next` return without a call once.
    pub fn wake(&self) {
        let driver = {
            let mut state = self.state.lock();
            state.woken = true;
            state.driver.take()
        };
        if let Some(driver) = driver {
            driver.wake();
        }
    }

    /// Ends the threads that wait. Running calls continue.
    pub fn close(&self) {
        let driver = {
            let mut state = self.state.lock();
            state.closed = true;
            state.driver.take()
        };
        self.ready.notify_all();
        if let Some(driver) = driver {
            driver.wake();
        }
    }

    fn tell(&self, mut state: MutexGuard<'_, State<J>>) {
        let (sync, for_loop) = (state.admitted.len(), !state.for_loop.is_empty());
        let idle = state.idle_threads;
        let is_idle = state.is_idle();
        let late = state.gathering > 0 && state.is_armed_too_late();
        let driver = if sync > 0 { state.driver.take() } else { None };
        drop(state);
        if let Some(driver) = driver {
            driver.wake();
        }
        match sync.min(idle) {
            0 => {}
            1 => {
                self.ready.notify_one();
            }
            _ => {
                self.ready.notify_all();
            }
        }
        if for_loop {
            (self.wake_loop)();
        }
        if late {
            self.timer.notify_one();
        }
        // Without waiters this costs no system call.
        if is_idle {
            self.idle.notify_all();
        }
    }
}

struct Thread<'a, J: Schedulable>(&'a Scheduler<J>);

impl<J: Schedulable> Drop for Thread<'_, J> {
    fn drop(&mut self) {
        self.0.state.lock().threads -= 1;
    }
}

impl<J: Schedulable> State<J> {
    fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.occupied() == 0
    }

    /// How many slots are taken.
    fn occupied(&self) -> usize {
        self.running.len() + self.admitted.len() + self.for_loop.len()
    }

    fn count(&self) -> usize {
        let mut count = 0;
        self.each(|_| count += 1);
        count
    }

    /// Calls that the free slots are about to take do not count.
    fn has_room(&self, call: &J) -> bool {
        let each = call.batch_limits().map_or(1, |limits| limits.size);
        let free = self.slots.saturating_sub(self.occupied());
        let most = self.max_queue.saturating_add(free.saturating_mul(each));
        // None of them is an empty batch.
        self.gathering == 0 && self.waiting.len() < most || self.waiting_calls() < most
    }

    fn waiting_calls(&self) -> usize {
        let waiting = self.waiting.iter();
        waiting
            .map(|one| match one {
                Waiting::Call(_) => 1,
                Waiting::Batch(batch) => batch.len(),
            })
            .sum()
    }

    fn each(&self, mut visit: impl FnMut(&Arc<J>)) {
        for waiting in &self.waiting {
            match waiting {
                Waiting::Call(call) => visit(call),
                Waiting::Batch(batch) => batch.calls().for_each(&mut visit),
            }
        }
        for work in self
            .admitted
            .iter()
            .chain(&self.for_loop)
            .chain(&self.running)
        {
            work.each(&mut visit);
        }
    }

    /// Adds a call behind all others, or to the batch that gathers for its command.
    fn queue(&mut self, call: Arc<J>) {
        match call.batch_limits() {
            None => self.waiting.push_back(Waiting::Call(call)),
            Some(limits) => self.gather(call, limits),
        }
    }

    fn gather(&mut self, call: Arc<J>, limits: BatchLimits) {
        let (bytes, now) = (call.bytes(), Instant::now());
        let latest = self
            .gatherings()
            .rfind(|one| one.limits.index == limits.index);
        let left = match latest {
            Some(gathering) => gathering.add(call, bytes, now),
            None => Some(call),
        };
        if let Some(call) = left {
            let mut gathering = Gathering::new(limits, now);
            gathering.add(call, bytes, now);
            self.gathering += 1;
            self.waiting.push_back(Waiting::Batch(gathering));
        }
    }

    fn gatherings(&mut self) -> impl DoubleEndedIterator<Item = &mut Gathering<J>> {
        self.waiting.iter_mut().filter_map(|waiting| match waiting {
            Waiting::Call(_) => None,
            Waiting::Batch(gathering) => Some(gathering),
        })
    }

    fn history(&mut self, index: usize) -> &mut History {
        if self.histories.len() <= index {
            self.histories.resize(index + 1, History::default());
        }
        &mut self.histories[index]
    }

    /// Calls and batches that are ready take the free slots, in the order in which they, or their first calls, came.
    fn admit(&mut self) {
        let mut at = 0;
        while at < self.waiting.len() && self.occupied() < self.slots {
            if let Some(Waiting::Batch(gathering)) = self.waiting.get(at) {
                let (index, now) = (gathering.limits.index, Instant::now());
                let history = self.histories.get(index).copied().unwrap_or_default();
                if gathering.due(&history) > now {
                    at += 1;
                    continue;
                }
            }
            match self.waiting.remove(at) {
                Some(Waiting::Call(call)) => {
                    let is_async = call.is_async();
                    self.admit_work(Work::Call(call), is_async);
                }
                Some(Waiting::Batch(gathering)) => self.start_batch(gathering),
                None => {}
            }
        }
    }

    fn start_batch(&mut self, gathering: Gathering<J>) {
        self.gathering -= 1;
        let is_async = gathering.calls().next().is_some_and(|call| call.is_async());
        let now = Instant::now();
        let batch = gathering.start(now);
        self.history(batch.limits.index).started(&batch, now);
        self.admit_work(Work::Batch(Arc::new(batch)), is_async);
    }

    fn admit_work(&mut self, work: Work<J>, is_async: bool) {
        if is_async {
            self.for_loop.push_back(work);
        } else {
            self.admitted.push_back(work);
        }
    }

    /// When the first batch is due that could start now. None without one, or without a slot.
    fn due(&self) -> Option<Instant> {
        if self.gathering == 0 || self.occupied() >= self.slots {
            return None;
        }
        let dues = self.waiting.iter().filter_map(|waiting| match waiting {
            Waiting::Call(_) => None,
            Waiting::Batch(gathering) => {
                let history = self.histories.get(gathering.limits.index);
                Some(gathering.due(&history.copied().unwrap_or_default()))
            }
        });
        dues.min()
    }

    fn is_armed_too_late(&self) -> bool {
        let due = self.due();
        due.is_some_and(|due| self.armed.is_none_or(|armed| due < armed))
    }

    fn start_next(&mut self) -> Option<Work<J>> {
        let work = self.admitted.pop_front()?;
        self.running.push(work.clone());
        Some(work)
    }

    fn leave(&mut self, done: &Work<J>) {
        let was_full = self.occupied() >= self.slots;
        if let Some(at) = self.running.iter().position(|work| work.is(done)) {
            self.running.swap_remove(at);
        }
        if let Work::Batch(batch) = done {
            self.batch_ended(batch, was_full);
        }
        self.admit();
    }

    fn batch_ended(&mut self, batch: &Batch<J>, was_full: bool) {
        let (index, now) = (batch.limits.index, Instant::now());
        let mut calls = batch.calls.len();
        for gathering in self.gatherings().filter(|one| one.limits.index == index) {
            calls += gathering.len();
            if was_full {
                gathering.wait_from(now);
            }
        }
        self.history(index).ended(batch, calls, now);
    }

    /// Moves those calls selected by `which` to `taken` that were taken to run, in no batch, and have not begun. Returns
    /// those that have.
    fn withdraw(&mut self, which: impl Fn(&J) -> bool, taken: &mut Vec<Arc<J>>) -> Vec<Arc<J>> {
        let mut running = Vec::new();
        self.running.retain(|work| match work {
            Work::Call(call) if which(call) => {
                let withdrawn = call.withdraw();
                let list = if withdrawn { &mut *taken } else { &mut running };
                list.push(call.clone());
                !withdrawn
            }
            _ => true,
        });
        running
    }

    /// Removes and returns the calls selected by `which` that have not started.
    fn take_unstarted(&mut self, which: impl Fn(&J) -> bool) -> Vec<Arc<J>> {
        let mut taken = Vec::new();
        let mut emptied = Vec::new();
        for queue in [&mut self.admitted, &mut self.for_loop] {
            queue.retain(|work| match work {
                Work::Call(call) => {
                    !which(call) || {
                        taken.push(call.clone());
                        false
                    }
                }
                Work::Batch(batch) => {
                    let (left, last) = batch.leave(&which);
                    taken.extend(left);
                    last.is_none_or(|last| {
                        taken.push(last);
                        emptied.push(batch.limits.index);
                        false
                    })
                }
            });
        }
        for index in emptied {
            self.history(index).running -= 1;
        }
        self.waiting.retain_mut(|waiting| match waiting {
            Waiting::Call(call) => {
                !which(call) || {
                    taken.push(call.clone());
                    false
                }
            }
            Waiting::Batch(gathering) => {
                taken.extend(gathering.take(&which, J::bytes));
                gathering.len() > 0
            }
        });
        self.gathering = self.gatherings().count();
        taken
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::{
        sync::atomic::{AtomicUsize, Ordering},
        thread,
    };

    const LONG: Duration = Duration::from_secs(1000);

    #[derive(Default)]
    struct Named(&'static str, bool, Option<BatchLimits>);

    impl Schedulable for Named {
        fn is_async(&self) -> bool {
            self.1
        }

        fn withdraw(&self) -> bool {
            self.0 == "unbegun"
        }

        fn batch_limits(&self) -> Option<BatchLimits> {
            self.2
        }

        fn bytes(&self) -> usize {
            self.0.len()
        }
    }

    fn scheduler(slots: usize) -> Scheduler<Named> {
        Scheduler::new(slots, usize::MAX, || {})
    }

    fn sync(name: &'static str) -> Arc<Named> {
        Arc::new(Named(name, false, None))
    }

    fn names(calls: &[Arc<Named>]) -> Vec<&'static str> {
        calls.iter().map(|call| call.0).collect()
    }

    fn names_of(work: &Work<Named>) -> Vec<&'static str> {
        let mut names = Vec::new();
        work.each(|call| names.push(call.0));
        names
    }

    #[test]
    fn calls_run_in_order_and_within_the_limit() {
        let scheduler = scheduler(2);
        scheduler.submit([sync("a"), sync("b"), sync("c")]);
        let first = scheduler.next(None).unwrap();
        assert_eq!(names_of(&first), ["a"]);
        assert_eq!(names_of(&scheduler.next(None).unwrap()), ["b"]);
        assert!(scheduler.next(None).is_none());
        assert_eq!(names_of(&scheduler.next(Some(&first)).unwrap()), ["c"]);
    }

    #[test]
    fn calls_are_refused_while_the_queue_is_full() {
        let scheduler = Scheduler::new(1, 1, || {});
        let refused = scheduler.submit([sync("runs"), sync("waits"), sync("too many")]);
        assert_eq!(names(&refused), ["too many"]);
        let first = scheduler.next(None).unwrap();
        assert_eq!(names(&scheduler.submit([sync("later")])), ["later"]);
        let second = scheduler.next(Some(&first)).unwrap();
        assert_eq!(names_of(&second), ["waits"]);
        assert!(scheduler.submit([sync("next")]).is_empty());
    }

    #[test]
    fn calls_that_gather_for_a_free_slot_take_no_room_in_the_queue() {
        let scheduler = Scheduler::new(1, 0, || {});
        let one = scheduler.submit([patient("a"), patient("b")]);
        assert!(one.is_empty());
        scheduler.next(None).unwrap();
        assert_eq!(names(&scheduler.submit([patient("c")])), ["c"]);
    }

    #[test]
    fn async_calls_count_towards_the_limit_and_need_no_thread() {
        let scheduler = scheduler(1);
        let call = Arc::new(Named("async", true, None));
        scheduler.submit([call, sync("a")]);
        assert!(scheduler.next(None).is_none());
        let taken = scheduler.take_for_loop();
        assert_eq!(names_of(&taken[0]), ["async"]);
        scheduler.leave(&taken[0]);
        assert_eq!(names_of(&scheduler.next(None).unwrap()), ["a"]);
    }

    #[test]
    fn the_event_loop_is_woken_for_each_call_that_it_can_start() {
        let woken = Arc::new(AtomicUsize::new(0));
        let count = woken.clone();
        let scheduler = Scheduler::new(1, usize::MAX, move || {
            count.fetch_add(1, Ordering::SeqCst);
        });
        let call = Arc::new(Named("async", true, None));
        scheduler.submit([sync("a"), call, Arc::new(Named("next", true, None))]);
        let running = scheduler.next(None).unwrap();
        assert_eq!(woken.load(Ordering::SeqCst), 0);
        assert!(scheduler.next(Some(&running)).is_none());
        assert_eq!(woken.load(Ordering::SeqCst), 1);
        let taken = scheduler.take_for_loop();
        scheduler.leave(&taken[0]);
        assert_eq!(woken.load(Ordering::SeqCst), 2);
    }

    #[test]
    fn calls_that_have_not_started_can_be_taken_back() {
        let scheduler = scheduler(1);
        scheduler.submit([sync("a"), sync("b"), sync("c")]);
        let running = scheduler.next(None).unwrap();
        let (taken, runs) = scheduler.take_cancelled(|call| call.0 != "c");
        assert_eq!((names(&taken), names(&runs)), (vec!["b"], vec!["a"]));
        assert_eq!(names_of(&scheduler.next(Some(&running)).unwrap()), ["c"]);
    }

    #[test]
    fn an_admitted_call_that_is_taken_back_leaves_its_slot_to_the_next() {
        let scheduler = scheduler(1);
        scheduler.submit([sync("a"), sync("b")]);
        assert_eq!(names(&scheduler.take_back(|call| call.0 == "a")), ["a"]);
        assert_eq!(names_of(&scheduler.next(None).unwrap()), ["b"]);
    }

    #[test]
    fn a_waiting_thread_gets_the_next_call_and_ends_when_the_scheduler_is_closed() {
        let scheduler = Arc::new(scheduler(1));
        let waiting = scheduler.clone();
        let thread = thread::spawn(move || {
            let work = waiting.wait_next().unwrap();
            assert!(waiting.next(Some(&work)).is_none());
            waiting.wait_next()
        });
        while scheduler.state.lock().idle_threads == 0 {
            thread::yield_now();
        }
        scheduler.submit([sync("a")]);
        while scheduler.has(|_| true) {
            thread::yield_now();
        }
        scheduler.close();
        assert!(thread.join().unwrap().is_none());
    }

    #[test]
    fn a_call_that_was_taken_and_has_not_begun_is_taken_back() {
        let scheduler = scheduler(2);
        scheduler.submit(["unbegun", "begun", "waiting"].map(sync));
        while scheduler.next(None).is_some() {}
        let (taken, running) = scheduler.take_cancelled(|call| call.0 != "waiting");
        assert_eq!(
            (names(&taken), names(&running)),
            (vec!["unbegun"], vec!["begun"])
        );
        assert_eq!(names_of(&scheduler.next(None).unwrap()), ["waiting"]);
    }

    #[test]
    fn threads_that_have_ended_do_not_count_and_can_be_replaced() {
        let scheduler = scheduler(1);
        assert!(!scheduler.wants_thread());
        drop(scheduler.thread());
        assert!(!scheduler.has_threads());
        assert!(scheduler.wants_thread());
        drop(scheduler.thread());
        scheduler.close();
        assert!(scheduler.has_threads());
    }

    #[test]
    fn wake_returns_without_a_call_once() {
        let scheduler = scheduler(1);
        let mut cx = Context::from_waker(Waker::noop());
        assert!(scheduler.poll_next(&mut cx).is_pending());
        scheduler.wake();
        assert!(matches!(scheduler.poll_next(&mut cx), Poll::Ready(None)));
        assert!(!scheduler.is_closed());
        assert!(scheduler.poll_next(&mut cx).is_pending());
        scheduler.close();
        assert!(matches!(scheduler.poll_next(&mut cx), Poll::Ready(None)));
        assert!(scheduler.is_closed());
    }

    #[test]
    fn threads_are_wanted_up_to_the_slots_while_none_is_idle() {
        let scheduler = scheduler(2);
        assert!(scheduler.wants_thread());
        assert!(!scheduler.wants_thread());
    }

    /// A call of a command whose batches have three calls of ten bytes in all.
    fn gathers(name: &'static str, wait: Duration) -> Arc<Named> {
        let limits = BatchLimits {
            index: 0,
            size: 3,
            wait,
            max_bytes: 10,
        };
        Arc::new(Named(name, false, Some(limits)))
    }

    fn patient(name: &'static str) -> Arc<Named> {
        gathers(name, LONG)
    }

    #[test]
    fn a_lone_call_starts_at_once_and_those_that_come_meanwhile_together() {
        let scheduler = scheduler(1);
        scheduler.submit([patient("a")]);
        let first = scheduler.next(None).unwrap();
        assert_eq!(names_of(&first), ["a"]);
        for name in ["b", "c", "d", "e"] {
            scheduler.submit([patient(name)]);
        }
        assert_eq!(scheduler.count(), 5);
        let second = scheduler.next(Some(&first)).unwrap();
        assert_eq!(names_of(&second), ["b", "c", "d"]);
        assert!(scheduler.next(None).is_none());
    }

    #[test]
    fn calls_that_arrive_together_are_a_batch() {
        let scheduler = scheduler(1);
        scheduler.submit([patient("a"), patient("b")]);
        assert_eq!(names_of(&scheduler.next(None).unwrap()), ["a", "b"]);
    }

    #[test]
    fn a_batch_waits_for_as_many_calls_as_there_were_and_not_for_more() {
        let scheduler = scheduler(1);
        scheduler.submit([patient("a"), patient("b")]);
        let first = scheduler.next(None).unwrap();
        assert!(scheduler.next(Some(&first)).is_none());
        scheduler.submit([patient("c")]);
        assert!(scheduler.next(None).is_none());
        scheduler.submit([patient("d")]);
        assert_eq!(names_of(&scheduler.next(None).unwrap()), ["c", "d"]);
    }

    #[test]
    fn one_that_ends_is_followed_by_its_own_calls_and_those_that_gathered() {
        let scheduler = scheduler(1);
        scheduler.submit([patient("a")]);
        let first = scheduler.next(None).unwrap();
        scheduler.submit([patient("b")]);
        assert!(scheduler.next(Some(&first)).is_none());
        scheduler.submit([patient("a")]);
        assert_eq!(names_of(&scheduler.next(None).unwrap()), ["b", "a"]);
    }

    #[test]
    fn a_batch_is_full_by_its_bytes() {
        let scheduler = scheduler(2);
        scheduler.submit([
            patient("six---"),
            patient("five-"),
            patient("more than ten"),
            patient("g"),
        ]);
        assert_eq!(names_of(&scheduler.next(None).unwrap()), ["six---"]);
        assert_eq!(names_of(&scheduler.next(None).unwrap()), ["five-"]);
        scheduler.submit([]);
        assert!(scheduler.next(None).is_none());
        let (taken, _) = scheduler.take_cancelled(|call| call.0.len() > 10);
        assert_eq!(names(&taken), ["more than ten"]);
        assert_eq!(scheduler.count(), 3);
    }

    #[test]
    fn while_another_batch_runs_a_batch_waits_for_its_time_in_spite_of_a_free_slot() {
        let scheduler = scheduler(2);
        scheduler.submit([patient("a")]);
        let first = scheduler.next(None).unwrap();
        scheduler.submit([patient("b")]);
        assert!(scheduler.next(None).is_none());
        scheduler.submit([sync("other")]);
        assert_eq!(names_of(&scheduler.next(None).unwrap()), ["other"]);
        scheduler.submit([patient("c"), patient("d")]);
        assert!(scheduler.next(None).is_none());
        assert_eq!(
            names_of(&scheduler.next(Some(&first)).unwrap()),
            ["b", "c", "d"]
        );
    }

    #[test]
    fn a_batch_does_not_overtake_calls_that_came_before_it() {
        let scheduler = scheduler(1);
        scheduler.submit([sync("a"), sync("b"), patient("c"), sync("d"), patient("e")]);
        let mut work = scheduler.next(None).unwrap();
        for expected in [vec!["b"], vec!["c", "e"], vec!["d"]] {
            work = scheduler.next(Some(&work)).unwrap();
            assert_eq!(names_of(&work), expected);
        }
    }

    #[test]
    fn a_cancelled_call_leaves_a_batch_and_the_last_one_stays() {
        let scheduler = scheduler(1);
        scheduler.submit([patient("a"), patient("b"), patient("c")]);
        let first = scheduler.next(None).unwrap();
        scheduler.submit([patient("d"), patient("e")]);
        let (taken, runs) = scheduler.take_cancelled(|call| "bd".contains(call.0));
        assert_eq!((names(&taken), runs.len()), (vec!["d", "b"], 0));
        assert_eq!(names_of(&first), ["a", "c"]);
        assert!(scheduler.take_back(|call| call.0 == "a").is_empty());
        let (taken, runs) = scheduler.take_cancelled(|call| "ac".contains(call.0));
        assert_eq!((names(&taken), names(&runs)), (vec!["a"], vec!["c"]));
        let (taken, _) = scheduler.take_cancelled(|call| call.0 == "e");
        assert_eq!(names(&taken), ["e"]);
        assert!(scheduler.next(Some(&first)).is_none());
        assert_eq!(scheduler.count(), 0);
        assert!(scheduler.wait_idle(Duration::ZERO));
    }

    #[test]
    fn a_batch_that_was_taken_and_has_not_begun_is_left_by_all_its_calls() {
        let scheduler = scheduler(1);
        scheduler.submit([patient("a"), patient("unbegun")]);
        let work = scheduler.next(None).unwrap();
        let (taken, running) = scheduler.take_cancelled(|_| true);
        assert_eq!((names(&taken), running.len()), (vec!["a", "unbegun"], 0));
        assert!(names_of(&work).is_empty());
        assert!(scheduler.next(Some(&work)).is_none());
        assert!(scheduler.wait_idle(Duration::ZERO));
    }

    #[tokio::test]
    async fn the_time_of_a_batch_comes_without_another_call() {
        let scheduler = Arc::new(scheduler(2));
        let keeping = scheduler.clone();
        let keeper = tokio::spawn(async move { keeping.keep_time().await });
        let soon = Duration::from_millis(20);
        scheduler.submit([gathers("a", soon)]);
        let _first = scheduler.next(None).unwrap();
        let submitted = Instant::now();
        scheduler.submit([gathers("b", soon)]);
        let second = std::future::poll_fn(|cx| scheduler.poll_next(cx)).await;
        assert!(submitted.elapsed() >= soon);
        let Some(Work::Batch(batch)) = second else {
            unreachable!()
        };
        assert!(batch.calls[0].1 >= soon);
        keeper.abort();
    }
}
