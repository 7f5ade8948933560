//! Which thread drives the network. In a worker that runs one command at a time the thread that runs
//! commands does, while there is none to run: a call then costs no switch of threads. A second thread
//! stands by, and drives while a command takes longer than a moment.

use crate::scheduler::{Schedulable, Scheduler};
use parking_lot::{Condvar, Mutex};
use std::{future::poll_fn, io, sync::Arc, time::Duration};
use tokio::{
    runtime::{Builder, Runtime},
    sync::Notify,
    task::JoinHandle,
};

/// How long a command may run before somebody else looks after the network, at most twice that.
const MOMENT: Duration = Duration::from_millis(1);
/// After so many moments in which nothing came the other thread sleeps.
const QUIET: u32 = 10;

pub struct IoDriver {
    pub(crate) runtime: Runtime,
    /// Whether the thread that runs commands drives at all: no two of them could.
    shared: bool,
    state: Mutex<State>,
    changed: Condvar,
    give_back: Notify,
}

struct State {
    /// Whether the thread that runs commands is at one.
    away: bool,
    /// Counts how often it went.
    turn: u64,
    standby: Standby,
    /// The other thread is to take over at once.
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

    /// Whether one thread, the main one, runs all commands that take a thread.
    pub fn is_shared(&self) -> bool {
        self.shared
    }

    /// The next call to run, once there is one; nothing when there will be no more. Whoever waits
    /// here drives the network.
    pub fn wait_next<J: Schedulable>(&self, scheduler: &Scheduler<J>) -> Option<Arc<J>> {
        if !self.shared {
            return scheduler.wait_next();
        }
        self.come_back();
        let next = self.runtime.block_on(poll_fn(|cx| scheduler.poll_next(cx)));
        self.go(false);
        next
    }

    /// The calling thread is about to run something that takes long.
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

    /// For the other thread: drives whenever that is wanted, until `serving` is over.
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

    /// Returns when it is time to drive.
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

    /// No more calls will come.
    pub(crate) fn end(&self) {
        self.state.lock().ending = true;
        self.changed.notify_one();
        self.give_back.notify_one();
    }
}
