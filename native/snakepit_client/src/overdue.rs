//! Deadlines that hold while the runtime's threads stand still: a thread that does nothing else looks
//! after what has to reach a process as a message. Whoever waits in a receive bounds that instead.

use parking_lot::{Condvar, Mutex, MutexGuard};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::LazyLock,
    thread,
    time::{Duration, Instant},
};

/// How long after a deadline the runtime is given up: it keeps deadlines itself as a rule.
pub const OVERDUE_AFTER: Duration = Duration::from_secs(1);

/// Looks whether something is overdue; the moment of the next look, or nothing where none is wanted.
type Look = Box<dyn FnMut(Instant) -> Option<Instant> + Send>;

struct Watches {
    state: Mutex<State>,
    sooner: Condvar,
}

#[derive(Default)]
struct State {
    last: u64,
    running: bool,
    order: BTreeSet<(Instant, u64)>,
    /// The look is away while it is taken.
    looks: BTreeMap<u64, (Instant, Option<Look>)>,
}

static WATCHES: LazyLock<Watches> = LazyLock::new(|| Watches {
    state: Mutex::default(),
    sooner: Condvar::new(),
});

/// Ends with its drop; a look that is being taken then is the last.
pub struct Watch(u64);

impl Watch {
    /// Has `look` called at that moment, and from then on at those that it returns. It must not block, nor
    /// drop the watch itself.
    pub fn new(at: Instant, look: impl FnMut(Instant) -> Option<Instant> + Send + 'static) -> Self {
        let mut state = WATCHES.state.lock();
        state.last += 1;
        let id = state.last;
        state.looks.insert(id, (at, Some(Box::new(look))));
        state.order.insert((at, id));
        if !state.running {
            // Without it the runtime alone keeps the deadline; the next one tries again.
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
        let removed = state.looks.remove(&self.0);
        if let Some((at, _)) = &removed {
            state.order.remove(&(*at, self.0));
        }
        drop(state);
        // What it holds is dropped without the lock.
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
                    Self::take(&mut state, first.1, now);
                }
            }
        }
    }

    /// Takes the look, and drops the one that is done with, without the lock.
    fn take(state: &mut MutexGuard<'_, State>, id: u64, now: Instant) {
        let look = state.looks.get_mut(&id).and_then(|(_, look)| look.take());
        let taken = MutexGuard::unlocked(state, || look.map(|mut look| (look(now), look)));
        match taken {
            Some((Some(next), look)) if state.looks.contains_key(&id) => {
                state.looks.insert(id, (next, Some(look)));
                state.order.insert((next, id));
            }
            done => {
                state.looks.remove(&id);
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
    fn looks_are_taken_in_the_order_of_their_moments_until_no_other_is_wanted() {
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
    fn a_watch_that_was_dropped_looks_no_more_and_holds_nothing() {
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
