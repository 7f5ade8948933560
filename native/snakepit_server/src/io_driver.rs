//! Decides which thread drives the network: the `Tasks`, on a single-threaded runtime.
//!
//! A worker that runs one command at a time shares the runtime between two threads. The thread that runs
//! commands drives it while it has no command: a call then costs no switch of threads. A standby thread takes
//! over from a command that takes long, and gives the runtime back as soon as the command has ended. A worker with
//! more threads for commands leaves the runtime to the standby thread.
//!
//! Nobody wakes by a timer in an idle worker, and at most once in `MOMENT` in a busy one. (A standby thread that
//! looked after a millisecond woke 860 times a second in each of 50 busy workers, which took 8 µs of each call.)
//!
//! The threads agree through `state`, which is never locked while one of them drives, and never both drive:
//!
//!   * `go` says that a command starts, and sets the alarm of the standby thread unless it is set: at once for a
//!     command that is known to take long, otherwise for `MOMENT`.
//!   * When the alarm rings, the standby thread drives if the command for which it was set still runs. If others
//!     have run meanwhile, it sets the alarm again; if none runs, the next command does.
//!   * `come_back` says that the command has ended. If the standby thread drives, it asks for the runtime through
//!     `give_back`, and waits on `given` until the standby thread has left it.

use crate::{
    alarm::Alarm,
    scheduler::{Schedulable, Scheduler},
    tasks::Tasks,
    work::Work,
};
use parking_lot::{Condvar, Mutex};
use std::{
    future::poll_fn,
    io,
    pin::{Pin, pin},
    sync::Arc,
    task::Poll,
    time::Duration,
};
use tokio::{
    runtime::{Builder, EnterGuard, Runtime},
    sync::{Notify, oneshot},
    task::coop::has_budget_remaining,
};

/// The standby thread takes over from a command that runs for one to two of these.
const MOMENT: Duration = Duration::from_millis(10);

pub struct IoDriver {
    runtime: Runtime,
    tasks: Arc<Tasks>,
    /// Whether the thread that runs commands drives as well. Only one thread could.
    shared: bool,
    state: Mutex<State>,
    /// Wakes the standby thread.
    alarm: Alarm,
    give_back: Notify,
    given: Condvar,
}

struct State {
    /// Whether the thread that runs commands runs one.
    away: bool,
    /// How often it has begun to.
    turn: u64,
    /// The turn for which the alarm is set.
    watched: Option<u64>,
    /// Whether the standby thread drives.
    standby_drives: bool,
    ending: bool,
}

impl IoDriver {
    pub fn new(shared: bool) -> io::Result<Self> {
        let alarm = Alarm::new()?;
        // Until commands run, the standby thread drives.
        alarm.set(Duration::ZERO);
        Ok(Self {
            runtime: Builder::new_current_thread().enable_all().build()?,
            tasks: Arc::default(),
            shared,
            state: Mutex::new(State {
                away: true,
                turn: 0,
                watched: Some(0),
                standby_drives: false,
                ending: false,
            }),
            alarm,
            give_back: Notify::new(),
            given: Condvar::new(),
        })
    }

    /// Whether the main thread runs all commands that are not `async`.
    pub fn is_shared(&self) -> bool {
        self.shared
    }

    pub(crate) fn enter(&self) -> EnterGuard<'_> {
        self.runtime.enter()
    }

    pub(crate) fn tasks(&self) -> &Arc<Tasks> {
        &self.tasks
    }

    /// Runs a task on the network's thread until the server ends.
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn(task);
    }

    /// Waits for the next call to run, and drives the network meanwhile. None once the scheduler is
    /// closed or was woken.
    pub fn wait_next<J: Schedulable>(&self, scheduler: &Scheduler<J>) -> Option<Work<J>> {
        if !self.shared {
            return scheduler.wait_next();
        }
        self.come_back();
        let next = self.drive_until(poll_fn(|cx| scheduler.poll_next(cx)));
        self.go(MOMENT);
        next
    }

    /// Waits for `end` within a command, on the thread that runs commands, and drives the network meanwhile: whatever
    /// the command waits for arrives without a switch of threads. None if that thread does not drive.
    pub(crate) fn wait_here<T>(&self, end: impl Future<Output = T>) -> Option<T> {
        if !self.shared {
            return None;
        }
        self.come_back();
        let done = self.drive_until(end);
        self.go(MOMENT);
        Some(done)
    }

    /// To be called before commands during which the network must be driven: they take long, or replies wait
    /// for the thread that drives.
    pub fn leave(&self) {
        if self.shared {
            self.go(Duration::ZERO);
        }
    }

    fn come_back(&self) {
        let mut state = self.state.lock();
        state.away = false;
        if state.standby_drives {
            self.give_back.notify_one();
            let drives = |state: &mut State| state.standby_drives;
            self.given.wait_while(&mut state, drives);
        }
    }

    /// A command starts. After this time the standby thread looks whether it still runs.
    fn go(&self, rings_after: Duration) {
        let mut state = self.state.lock();
        state.away = true;
        state.turn += 1;
        if state.standby_drives {
            return;
        }
        self.tasks.pause();
        if state.watched.is_none() || rings_after.is_zero() {
            self.watch_turn(&mut state, rings_after);
        }
    }

    /// Runs the standby thread until `serving` has ended.
    pub(crate) fn stand_by(&self, mut serving: oneshot::Receiver<()>) {
        while self.shared && self.watch() && !self.drive(&mut serving) {
            self.gave_back();
        }
        if !serving.is_terminated() {
            let _ = self.drive_until(&mut serving);
        }
        self.gave_back();
        self.tasks.clear();
    }

    fn gave_back(&self) {
        self.state.lock().standby_drives = false;
        self.given.notify_one();
    }

    /// Returns once the standby thread must drive: true until the end.
    fn watch(&self) -> bool {
        loop {
            self.alarm.wait();
            let mut state = self.state.lock();
            let watched = state.watched.take();
            if state.ending || state.away && watched == Some(state.turn) {
                state.standby_drives = true;
                return !state.ending;
            }
            if state.away {
                self.watch_turn(&mut state, MOMENT);
            }
        }
    }

    /// The lock makes sure that the alarm and `watched` agree. To set an alarm never blocks.
    fn watch_turn(&self, state: &mut State, rings_after: Duration) {
        state.watched = Some(state.turn);
        self.alarm.set(rings_after);
    }

    /// Drives until the runtime is wanted back. Returns true at the end.
    fn drive(&self, serving: &mut oneshot::Receiver<()>) -> bool {
        let mut give_back = pin!(self.give_back.notified());
        self.drive_until(poll_fn(|cx| {
            let over = Pin::new(&mut *serving).poll(cx).is_ready();
            let wanted = give_back.as_mut().poll(cx).is_ready();
            match over || wanted {
                true => Poll::Ready(over || self.state.lock().ending),
                false => Poll::Pending,
            }
        }))
    }

    /// When the tasks have used up their turn, the runtime wakes them at its next look for events, and would forget
    /// them if `block_on` returned before. `end` is polled first after that look, so that tasks without an end do not
    /// keep it waiting.
    fn drive_until<T>(&self, end: impl Future<Output = T>) -> T {
        let mut end = pin!(end);
        let mut looked = false;
        self.runtime.block_on(poll_fn(|cx| {
            if std::mem::take(&mut looked)
                && let Poll::Ready(done) = end.as_mut().poll(cx)
            {
                return Poll::Ready(done);
            }
            self.tasks.poll(cx);
            if has_budget_remaining() {
                return end.as_mut().poll(cx);
            }
            looked = true;
            cx.waker().wake_by_ref();
            Poll::Pending
        }))
    }

    /// No further calls will come.
    pub(crate) fn end(&self) {
        self.state.lock().ending = true;
        self.alarm.set(Duration::ZERO);
        self.give_back.notify_one();
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::{
        sync::mpsc::{self, Receiver},
        thread,
    };
    const PATIENCE: Duration = Duration::from_secs(60);

    struct Nothing;

    impl Schedulable for Nothing {
        fn is_async(&self) -> bool {
            false
        }

        fn withdraw(&self) -> bool {
            false
        }
    }

    /// A driver with its standby thread, for one command at a time.
    struct Driven {
        driver: Arc<IoDriver>,
        scheduler: Arc<Scheduler<Nothing>>,
        serving: oneshot::Sender<()>,
        standby: thread::JoinHandle<()>,
    }

    impl Driven {
        /// Calls `begin` on the standby thread before that stands by.
        fn new(shared: bool, begin: impl FnOnce() + Send + 'static) -> Self {
            let driver = Arc::new(IoDriver::new(shared).unwrap());
            let (serving, served) = oneshot::channel();
            let standing_by = driver.clone();
            let standby = thread::spawn(move || {
                begin();
                standing_by.stand_by(served);
            });
            Self {
                driver,
                scheduler: Arc::new(Scheduler::new(1, usize::MAX, || {})),
                serving,
                standby,
            }
        }

        fn end(self) {
            assert!(!self.serving.is_closed());
            drop(self.serving);
            self.driver.end();
            self.standby.join().unwrap();
        }
    }

    /// Whether anybody drives the network.
    fn assert_driven(driver: &IoDriver) {
        let (sender, receiver) = mpsc::channel();
        driver
            .tasks()
            .spawn(async move { sender.send(()).unwrap() });
        receiver.recv_timeout(PATIENCE).unwrap();
    }

    /// A thread that runs commands, each until `go_on` says so; it reports each.
    fn serve(
        driver: &Arc<IoDriver>,
        scheduler: &Arc<Scheduler<Nothing>>,
        go_on: Receiver<()>,
    ) -> (Receiver<()>, thread::JoinHandle<()>) {
        let (driver, scheduler) = (driver.clone(), scheduler.clone());
        let (runs, running) = mpsc::channel();
        let thread = thread::spawn(move || {
            while let Some(call) = driver.wait_next(&scheduler) {
                runs.send(()).unwrap();
                go_on.recv_timeout(PATIENCE).unwrap();
                scheduler.leave(&call);
            }
        });
        (running, thread)
    }

    fn assert_network_is_driven_always(shared: bool) {
        let driven = Driven::new(shared, || {});
        let (driver, scheduler) = (&driven.driver, &driven.scheduler);
        assert_driven(driver);
        let (go_on, wait) = mpsc::channel();
        let (running, commands) = serve(driver, scheduler, wait);
        for _ in 0..3 {
            assert_driven(driver);
            scheduler.submit([Arc::new(Nothing)]);
            running.recv_timeout(PATIENCE).unwrap();
            assert_driven(driver);
            go_on.send(()).unwrap();
        }
        scheduler.close();
        commands.join().unwrap();
        assert_driven(driver);
        driven.end();
    }

    #[test]
    fn a_task_that_has_used_up_its_turn_when_a_call_comes_goes_on() {
        let driver = Arc::new(IoDriver::new(true).unwrap());
        let scheduler = Arc::new(Scheduler::new(1, usize::MAX, || {}));
        // More than tokio lets a task receive in one turn.
        let (values, mut received) = tokio::sync::mpsc::unbounded_channel();
        (0..1000).for_each(|value| values.send(value).unwrap());
        drop(values);
        let (finished, finish) = mpsc::channel();
        driver.tasks().spawn(async move {
            while received.recv().await.is_some() {}
            finished.send(()).unwrap();
        });
        scheduler.submit([Arc::new(Nothing)]);
        let (go_on, wait) = mpsc::channel();
        let (running, commands) = serve(&driver, &scheduler, wait);
        running.recv_timeout(PATIENCE).unwrap();
        go_on.send(()).unwrap();
        finish.recv_timeout(PATIENCE).unwrap();
        scheduler.close();
        commands.join().unwrap();
    }

    /// A thread that only waits wakes for nothing, whether the other one waits for a call or has run some.
    #[cfg(target_os = "linux")]
    #[test]
    fn the_standby_thread_of_an_idle_worker_sleeps() {
        let (sender, path) = mpsc::channel();
        let driven = Driven::new(true, move || {
            let thread = std::fs::canonicalize("/proc/thread-self").unwrap();
            sender.send(thread).unwrap();
        });
        let scheduler = &driven.scheduler;
        let status = path.recv_timeout(PATIENCE).unwrap().join("status");
        let switches = || {
            let status = std::fs::read_to_string(&status).unwrap();
            let line = status.lines().find(|line| line.starts_with("voluntary"));
            line.unwrap().to_owned()
        };
        let (go_on, wait) = mpsc::channel();
        let (running, commands) = serve(&driven.driver, scheduler, wait);
        for _ in 0..3 {
            scheduler.submit([Arc::new(Nothing)]);
            running.recv_timeout(PATIENCE).unwrap();
            go_on.send(()).unwrap();
            while scheduler.count() > 0 {
                thread::yield_now();
            }
        }
        // Time in which it could wake.
        let sleeps = |_| {
            let before = switches();
            thread::sleep(10 * MOMENT);
            switches() == before
        };
        assert!((0..100).any(sleeps));
        scheduler.close();
        commands.join().unwrap();
        driven.end();
    }

    /// Waits, within a command, for tasks that it spawns: at first nobody drives, later the standby thread does.
    #[test]
    fn a_command_that_waits_drives_the_network() {
        let driven = Driven::new(true, || {});
        let (waiting, serving) = (driven.driver.clone(), driven.scheduler.clone());
        let (done, is_done) = mpsc::channel();
        let commands = thread::spawn(move || {
            while let Some(call) = waiting.wait_next(&serving) {
                for turn in 0..100 {
                    if turn % 2 == 0 {
                        waiting.leave();
                        assert_driven(&waiting);
                    }
                    let (answer, answered) = oneshot::channel();
                    let mut turns = 0;
                    let third_turn = poll_fn(move |cx| {
                        turns += 1;
                        cx.waker().wake_by_ref();
                        if turns == 3 {
                            Poll::Ready(())
                        } else {
                            Poll::Pending
                        }
                    });
                    waiting.tasks().spawn(async move {
                        third_turn.await;
                        answer.send(turn).unwrap();
                    });
                    assert_eq!(waiting.wait_here(answered), Some(Ok(turn)));
                }
                serving.leave(&call);
                done.send(()).unwrap();
            }
        });
        driven.scheduler.submit([Arc::new(Nothing)]);
        is_done.recv_timeout(PATIENCE).unwrap();
        driven.scheduler.close();
        commands.join().unwrap();
        driven.end();
    }

    #[test]
    fn only_the_thread_that_runs_commands_waits_so() {
        let driver = IoDriver::new(false).unwrap();
        assert_eq!(driver.wait_here(async {}), None);
    }

    #[test]
    fn the_runtime_changes_hands_at_every_command_and_nobody_loses_a_wakeup() {
        let driven = Driven::new(true, || {});
        let (driver, scheduler) = (&driven.driver, &driven.scheduler);
        let (calls, mut called) = tokio::sync::mpsc::unbounded_channel();
        let submitting = scheduler.clone();
        driver.tasks().spawn(async move {
            while let Some(()) = called.recv().await {
                submitting.submit([Arc::new(Nothing)]);
            }
        });
        let (leaving, serving, serves) = (driver.clone(), scheduler.clone(), calls.clone());
        let (done, is_done) = mpsc::channel();
        let commands = thread::spawn(move || {
            let mut count = 0;
            while let Some(call) = leaving.wait_next(&serving) {
                count += 1;
                if count % 2 == 0 {
                    leaving.leave();
                }
                if count % 3 == 0 {
                    thread::yield_now();
                }
                serving.leave(&call);
                if count < 1_000 {
                    serves.send(()).unwrap();
                } else {
                    done.send(()).unwrap();
                }
            }
        });
        calls.send(()).unwrap();
        is_done.recv_timeout(PATIENCE).unwrap();
        scheduler.close();
        commands.join().unwrap();
        driven.end();
    }

    #[test]
    fn one_of_two_threads_drives_whether_a_command_runs_or_not() {
        assert_network_is_driven_always(true);
    }

    #[test]
    fn a_worker_with_more_threads_leaves_the_network_to_one_of_its_own() {
        assert_network_is_driven_always(false);
    }
}
