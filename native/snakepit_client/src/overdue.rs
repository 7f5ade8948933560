//! Enforces deadlines while the runtime's threads are stuck. A separate thread checks the deadlines that end in a
//! message to a process; a process that waits for a reply limits its `receive` instead.

use parking_lot::{Condvar, Mutex, MutexGuard};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::LazyLock,
    thread,
    time::{Duration, Instant},
};

/// How long after a deadline this thread acts. As a rule the runtime has done so in time.
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
    /// A check is taken out of the table while it runs.
    checks: BTreeMap<u64, (Instant, Option<Check>)>,
}

static WATCHES: LazyLock<Watches> = LazyLock::new(|| Watches {
    state: Mutex::default(),
    sooner: Condvar::new(),
});

/// A deadline that is watched until this is dropped. A check that runs at that moment is the last.
pub struct Watch(u64);

impl Watch {
    /// Calls `check` at that time, and again at the times that it returns. It must not block or drop the watch.
    pub fn new(
        at: Instant,
        check: impl FnMut(Instant) -> Option<Instant> + Send + 'static,
    ) -> Self {
        let mut state = WATCHES.state.lock();
        state.last += 1;
        let id = state.last;
        state.checks.insert(id, (at, Some(Box::new(check))));
        state.order.insert((at, id));
        if !state.running {
            // If it cannot start, only the runtime keeps the deadline. The next watch tries again.
            let thread = thread::Builder::new().name("snakepit-late".into());
            state.running = thread.spawn(|| WATCHES.run()).is_ok();
        } else if state.order.first() == Some(&(at, id)) {
            WATCHES.sooner.notify_one();
        }
        Self(id)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let mut state = WATCHES.state.lock();
        let removed = state.checks.remove(&self.0);
        if let Some((at, _)) = &removed {
            state.order.remove(&(*at, self.0));
        }
        drop(state);
        // The check is dropped without the lock.
        drop(removed);
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

    /// Runs a check, and drops it if it is done, without the lock.
    fn run_check(state: &mut MutexGuard<'_, State>, id: u64, now: Instant) {
        let check = state
            .checks
            .get_mut(&id)
            .and_then(|(_, check)| check.take());
        let checked = MutexGuard::unlocked(state, || check.map(|mut check| (check(now), check)));
        match checked {
            Some((Some(next), check)) if state.checks.contains_key(&id) => {
                state.checks.insert(id, (next, Some(check)));
                state.order.insert((next, id));
            }
            done => {
                state.checks.remove(&id);
                MutexGuard::unlocked(state, || drop(done));
            }
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
        let taken: Vec<_> = rx.iter().collect();
        assert_eq!(taken, ["sooner", "later", "sooner"]);
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
