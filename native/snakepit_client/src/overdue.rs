//! Keeps deadlines on a thread of its own, also while the runtime's threads are stuck: those of calls that wait in a
//! pool's queue, and, some time later, those that end in a message to a process. A process that waits for a reply
//! limits its `receive` instead.

use parking_lot::{Condvar, Mutex, MutexGuard};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::LazyLock,
    thread,
    time::{Duration, Instant},
};

/// How long after a deadline that the runtime keeps this thread acts. As a rule the runtime has done so in time.
pub const OVERDUE_AFTER: Duration = Duration::from_secs(1);

/// Checks whether something is overdue. Returns when to check again, or nothing.
type Check = Box<dyn FnMut(Instant) -> Option<Instant> + Send>;

struct Watches {
    state: Mutex<State>,
    sooner: Condvar,
}

#[derive(Default)]
struct State {
    last: u64,
    running: bool,
    order: BTreeSet<(Instant, u64)>,
    checks: BTreeMap<u64, Watched>,
}

struct Watched {
    /// When to check next.
    at: Option<Instant>,
    /// Taken out of the table while it runs.
    check: Option<Check>,
}

static WATCHES: LazyLock<Watches> = LazyLock::new(|| Watches {
    state: Mutex::default(),
    sooner: Condvar::new(),
});

/// A deadline that is watched until this is dropped. A check that runs at that moment is the last.
pub struct Watch(u64);

impl Watch {
    /// Calls `check` at that time, and again at the times that it returns. It must not block.
    pub fn new(
        at: Instant,
        check: impl FnMut(Instant) -> Option<Instant> + Send + 'static,
    ) -> Self {
        let watch = Self::idle(check);
        watch.check_by(at);
        watch
    }

    /// As `new`, without a first time.
    pub fn idle(check: impl FnMut(Instant) -> Option<Instant> + Send + 'static) -> Self {
        let mut state = WATCHES.state.lock();
        state.last += 1;
        let id = state.last;
        let check: Check = Box::new(check);
        let watched = Watched {
            at: None,
            check: Some(check),
        };
        state.checks.insert(id, watched);
        Self(id)
    }

    /// Has the check run at that time, unless it runs earlier.
    pub fn check_by(&self, at: Instant) {
        let mut state = WATCHES.state.lock();
        if !state.schedule(self.0, at) {
            return;
        }
        if !state.running {
            // If it cannot start, the next watch tries again.
            let thread = thread::Builder::new().name("snakepit-late".into());
            state.running = thread.spawn(|| WATCHES.run()).is_ok();
        } else if state.order.first() == Some(&(at, self.0)) {
            WATCHES.sooner.notify_one();
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let mut state = WATCHES.state.lock();
        let removed = state.checks.remove(&self.0);
        if let Some(at) = removed.as_ref().and_then(|watched| watched.at) {
            state.order.remove(&(at, self.0));
        }
        drop(state);
        // The check is dropped without the lock.
        drop(removed);
    }
}

impl State {
    /// Returns false if the check runs by then anyway.
    fn schedule(&mut self, id: u64, at: Instant) -> bool {
        let Some(watched) = self.checks.get_mut(&id) else {
            return false;
        };
        if watched.at.is_some_and(|before| before <= at) {
            return false;
        }
        if let Some(before) = watched.at.replace(at) {
            self.order.remove(&(before, id));
        }
        self.order.insert((at, id))
    }
}

impl Watches {
    fn run(&self) {
        let mut state = self.state.lock();
        loop {
            let now = Instant::now();
            match state.order.first().copied() {
                None => self.sooner.wait(&mut state),
                Some((at, _)) if at > now => {
                    self.sooner.wait_until(&mut state, at);
                }
                Some(first) => {
                    state.order.remove(&first);
                    Self::run_check(&mut state, first.1, now);
                }
            }
        }
    }

    /// Runs a check without the lock.
    fn run_check(state: &mut MutexGuard<'_, State>, id: u64, now: Instant) {
        let Some(mut check) = state.checks.get_mut(&id).and_then(|watched| {
            watched.at = None;
            watched.check.take()
        }) else {
            return;
        };
        let next = MutexGuard::unlocked(state, || check(now));
        match state.checks.get_mut(&id) {
            Some(watched) => {
                watched.check = Some(check);
                if let Some(next) = next {
                    state.schedule(id, next);
                }
            }
            None => MutexGuard::unlocked(state, || drop(check)),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::sync::mpsc::{TryRecvError, channel};

    #[test]
    fn checks_run_in_the_order_of_their_times_until_they_ask_for_no_other() {
        let (tx, rx) = channel();
        let now = Instant::now();
        let soon = |n: u64| now + Duration::from_millis(20 * n);
        let later = tx.clone();
        let _later = Watch::new(soon(2), move |_| {
            later.send("later").unwrap();
            None
        });
        let mut again = Some(soon(3));
        let _sooner = Watch::new(soon(1), move |_| {
            tx.send("sooner").unwrap();
            again.take()
        });
        let taken: Vec<_> = rx.iter().take(3).collect();
        assert_eq!(taken, ["sooner", "later", "sooner"]);
    }

    #[test]
    fn a_check_can_be_had_sooner_and_keeps_its_time_if_asked_for_a_later_one() {
        let (tx, rx) = channel();
        let now = Instant::now();
        let hour = Duration::from_secs(3600);
        let watch = Watch::idle(move |_| {
            tx.send(Instant::now()).unwrap();
            Some(now + hour)
        });
        watch.check_by(now + hour);
        let soon = now + Duration::from_millis(20);
        watch.check_by(soon);
        watch.check_by(now + hour);
        assert!(rx.recv().unwrap() >= soon);
        watch.check_by(Instant::now());
        rx.recv().unwrap();
    }

    #[test]
    fn a_dropped_watch_checks_no_more_and_drops_what_it_holds() {
        let (tx, rx) = channel::<()>();
        let watch = Watch::new(Instant::now() + Duration::from_secs(3600), move |_| {
            tx.send(()).unwrap();
            None
        });
        assert_eq!(rx.try_recv(), Err(TryRecvError::Empty));
        drop(watch);
        assert_eq!(rx.try_recv(), Err(TryRecvError::Disconnected));
    }
}
