//! Decides which calls run: a limited number at once, in the order of their arrival. Threads that run
//! commands wait here without Python's lock.
//!
//! All data is behind one mutex. Whoever makes calls ready wakes others after it has unlocked: a thread
//! through `ready`, the thread that drives the network through its waker, the event loop through
//! `wake_loop`, and those that wait for the last call's end through `idle`.

use parking_lot::{Condvar, Mutex, MutexGuard};
use std::{
    collections::VecDeque,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Duration,
};

/// A call, as far as the scheduler is concerned.
pub trait Schedulable: Send + Sync {
    /// Whether it runs on the event loop and needs no thread.
    fn is_async(&self) -> bool;

    /// Keeps a call from beginning that was taken to run. False if it has begun: whoever takes a call may have to wait
    /// for Python's lock.
    fn withdraw(&self) -> bool;
}

pub struct Scheduler<J> {
    state: Mutex<State<J>>,
    ready: Condvar,
    idle: Condvar,
    /// Wakes the event loop, which has calls to start.
    wake_loop: Box<dyn Fn() + Send + Sync>,
}

struct State<J> {
    slots: usize,
    /// Calls beyond the limit.
    waiting: VecDeque<Arc<J>>,
    /// Calls within the limit that no thread has started.
    admitted: VecDeque<Arc<J>>,
    /// Calls within the limit that the event loop has not started.
    for_loop: VecDeque<Arc<J>>,
    running: Vec<Arc<J>>,
    threads: usize,
    idle_threads: usize,
    /// Wakes the thread that drives the network while it waits for a call.
    driver: Option<Waker>,
    /// `poll_next` must return without a call once.
    woken: bool,
    closed: bool,
}

impl<J: Schedulable> Scheduler<J> {
    pub fn new(slots: usize, wake_loop: impl Fn() + Send + Sync + 'static) -> Self {
        Self {
            wake_loop: Box::new(wake_loop),
            state: Mutex::new(State {
                slots,
                waiting: VecDeque::new(),
                admitted: VecDeque::new(),
                for_loop: VecDeque::new(),
                running: Vec::new(),
                // The worker starts the first one itself.
                threads: 1,
                idle_threads: 0,
                driver: None,
                woken: false,
                closed: false,
            }),
            ready: Condvar::new(),
            idle: Condvar::new(),
        }
    }

    pub fn submit(&self, calls: impl IntoIterator<Item = Arc<J>>) {
        let mut state = self.state.lock();
        state.waiting.extend(calls);
        state.admit();
        self.tell(state);
    }

    /// Takes the next call to run, if there is one. The call `done` has ended.
    pub fn next(&self, done: Option<&Arc<J>>) -> Option<Arc<J>> {
        let mut state = self.state.lock();
        if let Some(done) = done {
            state.leave(done);
        }
        let next = state.start_next();
        self.tell(state);
        next
    }

    /// Waits for the next call to run. None once the scheduler is closed.
    pub fn wait_next(&self) -> Option<Arc<J>> {
        let mut state = self.state.lock();
        loop {
            if let Some(call) = state.start_next() {
                return Some(call);
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
    pub fn poll_next(&self, cx: &mut Context<'_>) -> Poll<Option<Arc<J>>> {
        let mut state = self.state.lock();
        if let Some(call) = state.start_next() {
            return Poll::Ready(Some(call));
        }
        if state.closed || std::mem::take(&mut state.woken) {
            return Poll::Ready(None);
        }
        state.driver = Some(cx.waker().clone());
        Poll::Pending
    }

    /// Takes all calls that the event loop must start.
    pub fn take_for_loop(&self) -> Vec<Arc<J>> {
        let mut state = self.state.lock();
        let calls: Vec<_> = state.for_loop.drain(..).collect();
        state.running.extend(calls.iter().cloned());
        calls
    }

    /// A call on the event loop has ended.
    pub fn leave(&self, done: &Arc<J>) {
        let mut state = self.state.lock();
        state.leave(done);
        self.tell(state);
    }

    /// Removes those calls selected by `which` that have not begun. Returns them, and the selected
    /// calls that run.
    pub fn take_back(&self, which: impl Fn(&J) -> bool) -> (Vec<Arc<J>>, Vec<Arc<J>>) {
        let mut guard = self.state.lock();
        let state = &mut *guard;
        let mut taken = Vec::new();
        for queue in [&mut state.admitted, &mut state.for_loop, &mut state.waiting] {
            queue.retain(|call| {
                let keep = !which(call);
                if !keep {
                    taken.push(call.clone());
                }
                keep
            });
        }
        let mut running = Vec::new();
        state.running.retain(|call| {
            if !which(call) {
                return true;
            }
            let withdrawn = call.withdraw();
            let list = if withdrawn { &mut taken } else { &mut running };
            list.push(call.clone());
            !withdrawn
        });
        state.admit();
        self.tell(guard);
        (taken, running)
    }

    /// Whether any call selected by `which` is queued or runs.
    pub fn has(&self, which: impl Fn(&J) -> bool) -> bool {
        let state = self.state.lock();
        let mut all = state.waiting.iter();
        all.by_ref().any(|call| which(call))
            || state.admitted.iter().any(|call| which(call))
            || state.for_loop.iter().any(|call| which(call))
            || state.running.iter().any(|call| which(call))
    }

    /// The number of calls that are queued or run.
    pub fn count(&self) -> i64 {
        i64::try_from(self.state.lock().count()).unwrap_or(i64::MAX)
    }

    /// Waits up to `timeout` until no call is queued or runs; returns whether that is so.
    pub fn wait_idle(&self, timeout: Duration) -> bool {
        let mut state = self.state.lock();
        let busy = |state: &mut State<J>| state.count() > 0;
        self.idle.wait_while_for(&mut state, busy, timeout);
        state.count() == 0
    }

    pub fn running<T>(&self, pick: impl Fn(&Arc<J>) -> Option<T>) -> Vec<T> {
        self.state.lock().running.iter().filter_map(pick).collect()
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
        let is_idle = state.count() == 0;
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
    fn count(&self) -> usize {
        self.waiting.len() + self.admitted.len() + self.for_loop.len() + self.running.len()
    }

    fn admit(&mut self) {
        while self.running.len() + self.admitted.len() + self.for_loop.len() < self.slots
            && let Some(call) = self.waiting.pop_front()
        {
            if call.is_async() {
                self.for_loop.push_back(call);
            } else {
                self.admitted.push_back(call);
            }
        }
    }

    fn start_next(&mut self) -> Option<Arc<J>> {
        let call = self.admitted.pop_front()?;
        self.running.push(call.clone());
        Some(call)
    }

    fn leave(&mut self, done: &Arc<J>) {
        if let Some(at) = self.running.iter().position(|call| Arc::ptr_eq(call, done)) {
            self.running.swap_remove(at);
        }
        self.admit();
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

    #[derive(Debug, PartialEq)]
    struct Named(&'static str, bool);

    impl Schedulable for Named {
        fn is_async(&self) -> bool {
            self.1
        }

        fn withdraw(&self) -> bool {
            self.0 == "unbegun"
        }
    }

    fn scheduler(slots: usize) -> Scheduler<Named> {
        Scheduler::new(slots, || {})
    }

    fn sync(name: &'static str) -> Arc<Named> {
        Arc::new(Named(name, false))
    }

    fn names(calls: &[Arc<Named>]) -> Vec<&'static str> {
        calls.iter().map(|call| call.0).collect()
    }

    #[test]
    fn calls_run_in_order_and_within_the_limit() {
        let scheduler = scheduler(2);
        scheduler.submit([sync("a"), sync("b"), sync("c")]);
        let first = scheduler.next(None).unwrap();
        assert_eq!(first.0, "a");
        assert_eq!(scheduler.next(None).unwrap().0, "b");
        assert!(scheduler.next(None).is_none());
        assert_eq!(scheduler.next(Some(&first)).unwrap().0, "c");
    }

    #[test]
    fn async_calls_count_towards_the_limit_and_need_no_thread() {
        let scheduler = scheduler(1);
        let call = Arc::new(Named("async", true));
        scheduler.submit([call.clone(), sync("a")]);
        assert!(scheduler.next(None).is_none());
        assert_eq!(names(&scheduler.take_for_loop()), ["async"]);
        scheduler.leave(&call);
        assert_eq!(scheduler.next(None).unwrap().0, "a");
    }

    #[test]
    fn the_event_loop_is_woken_for_each_call_that_it_can_start() {
        let woken = Arc::new(AtomicUsize::new(0));
        let count = woken.clone();
        let scheduler = Scheduler::new(1, move || {
            count.fetch_add(1, Ordering::SeqCst);
        });
        let call = Arc::new(Named("async", true));
        scheduler.submit([sync("a"), call.clone(), Arc::new(Named("next", true))]);
        let running = scheduler.next(None).unwrap();
        assert_eq!(woken.load(Ordering::SeqCst), 0);
        assert!(scheduler.next(Some(&running)).is_none());
        assert_eq!(woken.load(Ordering::SeqCst), 1);
        scheduler.take_for_loop();
        scheduler.leave(&call);
        assert_eq!(woken.load(Ordering::SeqCst), 2);
    }

    #[test]
    fn calls_that_have_not_started_can_be_taken_back() {
        let scheduler = scheduler(1);
        scheduler.submit([sync("a"), sync("b"), sync("c")]);
        let running = scheduler.next(None).unwrap();
        let (taken, runs) = scheduler.take_back(|call| call.0 != "c");
        assert_eq!((names(&taken), names(&runs)), (vec!["b"], vec!["a"]));
        assert_eq!(scheduler.next(Some(&running)).unwrap().0, "c");
    }

    #[test]
    fn an_admitted_call_that_is_taken_back_leaves_its_slot_to_the_next() {
        let scheduler = scheduler(1);
        scheduler.submit([sync("a"), sync("b")]);
        let (taken, runs) = scheduler.take_back(|call| call.0 == "a");
        assert_eq!((names(&taken), runs.len()), (vec!["a"], 0));
        assert_eq!(scheduler.next(None).unwrap().0, "b");
    }

    #[test]
    fn a_waiting_thread_gets_the_next_call_and_ends_when_the_scheduler_is_closed() {
        let scheduler = Arc::new(scheduler(1));
        let waiting = scheduler.clone();
        let thread = thread::spawn(move || {
            let call = waiting.wait_next().unwrap();
            assert!(waiting.next(Some(&call)).is_none());
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
        let (taken, running) = scheduler.take_back(|call| call.0 != "waiting");
        assert_eq!(
            (names(&taken), names(&running)),
            (vec!["unbegun"], vec!["begun"])
        );
        assert_eq!(scheduler.next(None).unwrap().0, "waiting");
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
        assert_eq!(scheduler.poll_next(&mut cx), Poll::Ready(None));
        assert!(!scheduler.is_closed());
        assert!(scheduler.poll_next(&mut cx).is_pending());
        scheduler.close();
        assert_eq!(scheduler.poll_next(&mut cx), Poll::Ready(None));
        assert!(scheduler.is_closed());
    }

    #[test]
    fn threads_are_wanted_up_to_the_slots_while_none_is_idle() {
        let scheduler = scheduler(2);
        assert!(scheduler.wants_thread());
        assert!(!scheduler.wants_thread());
    }
}
