//! Decides which thread drives the network, which is a single-threaded runtime.
//!
//! A worker that runs one command at a time shares the runtime between two threads. The thread that runs
//! commands drives it while it has no command: a call then costs no switch of threads. A standby thread
//! takes over while a command takes long, and gives the runtime back as soon as the command has ended.
//! A worker with more threads for commands leaves the runtime to the standby thread.
//!
//! Both threads use `state`, which is never locked while one of them drives. `go` says that a command
//! starts, and wakes the standby thread through `changed` if that sleeps or must take over at once;
//! otherwise the standby thread looks every `MOMENT`. `come_back` says that the command has ended, and
//! stops the standby thread through `give_back` if that drives.

use crate::scheduler::{Schedulable, Scheduler};
use parking_lot::{Condvar, Mutex};
use std::{future::poll_fn, io, sync::Arc, time::Duration};
use tokio::{
    runtime::{Builder, Runtime},
    sync::Notify,
    task::JoinHandle,
};

/// The standby thread takes over from a command that runs for one to two of these.
const MOMENT: Duration = Duration::from_millis(1);
/// After so many moments without a command the standby thread sleeps.
const QUIET: u32 = 10;

pub struct IoDriver {
    pub(crate) runtime: Runtime,
    /// Whether the thread that runs commands drives as well. Only one thread could.
    shared: bool,
    state: Mutex<State>,
    changed: Condvar,
    give_back: Notify,
}

struct State {
    /// Whether the thread that runs commands runs one.
    away: bool,
    /// The number of commands so far.
    turn: u64,
    standby: Standby,
    /// The standby thread should take over at once.
    now: bool,
    ending: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Standby {
    Asleep,
    Watching,
    Driving,
}

impl IoDriver {
    pub fn new(shared: bool) -> io::Result<Self> {
        Ok(Self {
            runtime: Builder::new_current_thread().enable_all().build()?,
            shared,
            state: Mutex::new(State {
                away: true,
                turn: 0,
                standby: Standby::Watching,
                now: true,
                ending: false,
            }),
            changed: Condvar::new(),
            give_back: Notify::new(),
        })
    }

    /// Whether the main thread runs all commands that are not `async`.
    pub fn is_shared(&self) -> bool {
        self.shared
    }

    /// Waits for the next call to run, and drives the network meanwhile. None once the scheduler is
    /// closed or was woken.
    pub fn wait_next<J: Schedulable>(&self, scheduler: &Scheduler<J>) -> Option<Arc<J>> {
        if !self.shared {
            return scheduler.wait_next();
        }
        self.come_back();
        let next = self.runtime.block_on(poll_fn(|cx| scheduler.poll_next(cx)));
        self.go(false);
        next
    }

    /// To be called before a command that takes long.
    pub fn leave(&self) {
        if self.shared {
            self.go(true);
        }
    }

    fn come_back(&self) {
        let mut state = self.state.lock();
        state.away = false;
        state.now = false;
        let driven = state.standby == Standby::Driving;
        drop(state);
        if driven {
            self.give_back.notify_one();
        }
    }

    fn go(&self, for_long: bool) {
        let mut state = self.state.lock();
        state.away = true;
        state.turn += 1;
        let wake = match state.standby {
            Standby::Asleep => true,
            Standby::Watching => for_long,
            Standby::Driving => false,
        };
        state.now |= for_long;
        drop(state);
        if wake {
            self.changed.notify_one();
        }
    }

    /// Runs the standby thread until `serving` has ended.
    pub(crate) fn stand_by(&self, mut serving: JoinHandle<()>) {
        if !self.shared {
            let _ = self.runtime.block_on(serving);
            return;
        }
        let mut over = false;
        while !over {
            self.watch();
            over = self.runtime.block_on(async {
                tokio::select! {
                    biased;
                    _ = &mut serving => true,
                    () = self.give_back.notified() => self.state.lock().ending,
                }
            });
        }
        if !serving.is_finished() {
            let _ = self.runtime.block_on(serving);
        }
    }

    /// Returns once the standby thread must drive.
    fn watch(&self) {
        let mut state = self.state.lock();
        state.standby = Standby::Watching;
        let (mut seen, mut quiet) = (state.turn, 0);
        loop {
            if state.ending || state.now {
                break;
            }
            if quiet > QUIET && !state.away {
                state.standby = Standby::Asleep;
                self.changed.wait(&mut state);
                state.standby = Standby::Watching;
                (seen, quiet) = (state.turn, 0);
                continue;
            }
            let before = state.turn;
            self.changed.wait_for(&mut state, MOMENT);
            if state.away && state.turn == before && state.turn == seen {
                break;
            }
            quiet = if state.turn == seen { quiet + 1 } else { 0 };
            seen = state.turn;
        }
        state.now = false;
        state.standby = Standby::Driving;
    }

    /// No further calls will come.
    pub(crate) fn end(&self) {
        self.state.lock().ending = true;
        self.changed.notify_one();
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
    use tokio::sync::oneshot;

    const PATIENCE: Duration = Duration::from_secs(60);

    struct Nothing;

    impl Schedulable for Nothing {
        fn is_async(&self) -> bool {
            false
        }
    }

    /// Whether anybody drives the network.
    fn assert_driven(driver: &IoDriver) {
        let (sender, receiver) = mpsc::channel();
        driver.runtime.spawn(async move { sender.send(()) });
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
        let driver = Arc::new(IoDriver::new(shared).unwrap());
        let scheduler = Arc::new(Scheduler::new(1, || {}));
        let (end, ended) = oneshot::channel::<()>();
        let serving = driver.runtime.spawn(async move { drop(ended.await) });
        let standing_by = driver.clone();
        let standby = thread::spawn(move || standing_by.stand_by(serving));
        assert_driven(&driver);
        let (go_on, wait) = mpsc::channel();
        let (running, commands) = serve(&driver, &scheduler, wait);
        for _ in 0..3 {
            assert_driven(&driver);
            scheduler.submit([Arc::new(Nothing)]);
            running.recv_timeout(PATIENCE).unwrap();
            assert_driven(&driver);
            go_on.send(()).unwrap();
        }
        scheduler.close();
        commands.join().unwrap();
        assert_driven(&driver);
        end.send(()).unwrap();
        driver.end();
        standby.join().unwrap();
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
