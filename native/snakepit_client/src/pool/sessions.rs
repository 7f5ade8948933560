//! Which worker each session lives on: plain data under the dispatcher's lock.
//!
//! A session has one life after the other. Each has a generation, by which a worker tells the state
//! of an earlier life from the present one's.

use super::WorkerKey;
use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::{Duration, Instant},
};

type Lives = HashMap<Arc<str>, Life>;

pub(crate) struct Sessions {
    lives: Lives,
    /// The lives that no call is in, the least recently used first.
    idle: BTreeMap<u64, (Arc<str>, Instant)>,
    max: usize,
    ttl: Option<Duration>,
    clock: u64,
}

struct Life {
    generation: u64,
    worker: Option<WorkerKey>,
    /// How many calls wait or run.
    calls: usize,
    /// Its place in the order of the idle ones.
    idle: Option<u64>,
}

/// A call's part in a life; what took it has to give it back.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Stay {
    pub(crate) id: Arc<str>,
    pub(crate) generation: u64,
}

/// A life that is over.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Past {
    pub(crate) id: Arc<str>,
    pub(crate) generation: u64,
    pub(crate) worker: Option<WorkerKey>,
}

impl Sessions {
    /// `max` bounds the idle lives and those in use together, but never ends one in use.
    pub(crate) fn new(max: usize, ttl: Option<Duration>) -> Self {
        Self {
            lives: Lives::new(),
            idle: BTreeMap::new(),
            max,
            ttl,
            clock: 0,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.lives.len()
    }

    pub(crate) fn worker(&self, id: &str) -> Option<WorkerKey> {
        self.lives.get(id)?.worker
    }

    /// Takes part in the session's life, or begins one.
    pub(crate) fn enter(&mut self, id: &Arc<str>) -> Stay {
        self.clock += 1;
        let generation = self.clock;
        let life = self.lives.entry(id.clone()).or_insert(Life {
            generation,
            worker: None,
            calls: 0,
            idle: None,
        });
        life.calls += 1;
        if let Some(place) = life.idle.take() {
            self.idle.remove(&place);
        }
        Stay {
            id: id.clone(),
            generation: life.generation,
        }
    }

    /// Settles the session on a worker, where `stay` is the call that begins there. A session that
    /// lives elsewhere begins a new life: its state stays behind.
    pub(crate) fn settle(&mut self, stay: &mut Stay, worker: WorkerKey) -> Settled {
        match self.lives.get_mut(&stay.id) {
            Some(life) if life.worker.is_none() => {
                life.worker = Some(worker);
                self.join(stay);
                Settled::Created
            }
            Some(life) if life.worker == Some(worker) => {
                self.join(stay);
                Settled::Stayed
            }
            _ => {
                let past = self.end(&stay.id);
                *stay = self.enter(&stay.id);
                if let Some(life) = self.lives.get_mut(&stay.id) {
                    life.worker = Some(worker);
                }
                past.map_or(Settled::Created, Settled::Moved)
            }
        }
    }

    /// Makes `stay` a part of the present life if it is one of an earlier.
    fn join(&mut self, stay: &mut Stay) {
        if self.lives.get(&stay.id).map(|life| life.generation) != Some(stay.generation) {
            *stay = self.enter(&stay.id);
        }
    }

    pub(crate) fn leave(&mut self, stay: &Stay, now: Instant) {
        let Some(life) = self.lives.get_mut(&stay.id) else {
            return;
        };
        if life.generation != stay.generation {
            return;
        }
        life.calls -= 1;
        if life.calls > 0 {
            return;
        }
        if life.worker.is_none() {
            self.lives.remove(&stay.id);
            return;
        }
        self.clock += 1;
        life.idle = Some(self.clock);
        self.idle.insert(self.clock, (stay.id.clone(), now));
    }

    pub(crate) fn end(&mut self, id: &str) -> Option<Past> {
        let (id, life) = self.lives.remove_entry(id)?;
        if let Some(place) = life.idle {
            self.idle.remove(&place);
        }
        Some(Past {
            id,
            generation: life.generation,
            worker: life.worker,
        })
    }

    /// Ends the session's life if its time is up.
    pub(crate) fn expire(&mut self, id: &str, now: Instant) -> Option<Past> {
        let place = self.lives.get(id)?.idle?;
        self.expire_at(place, now)
    }

    /// Ends the least recently used life if its time is up.
    pub(crate) fn expire_oldest(&mut self, now: Instant) -> Option<Past> {
        let place = *self.idle.first_key_value()?.0;
        self.expire_at(place, now)
    }

    fn expire_at(&mut self, place: u64, now: Instant) -> Option<Past> {
        let ttl = self.ttl?;
        let (id, since) = self.idle.get(&place)?;
        if now.saturating_duration_since(*since) < ttl {
            return None;
        }
        let id = id.clone();
        self.end(&id)
    }

    /// Ends the least recently used life if there are too many.
    pub(crate) fn evict(&mut self) -> Option<Past> {
        if self.lives.len() <= self.max {
            return None;
        }
        let (_, (id, _)) = self.idle.first_key_value()?;
        let id = id.clone();
        self.end(&id)
    }
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Settled {
    Created,
    Stayed,
    Moved(Past),
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const A: WorkerKey = WorkerKey(1);
    const B: WorkerKey = WorkerKey(2);

    fn sessions(max: usize) -> Sessions {
        Sessions::new(max, Some(Duration::from_secs(60)))
    }

    /// One call in the session, on a worker.
    fn visit(sessions: &mut Sessions, id: &str, worker: WorkerKey, at: Instant) -> Settled {
        let mut stay = sessions.enter(&id.into());
        let settled = sessions.settle(&mut stay, worker);
        sessions.leave(&stay, at);
        settled
    }

    #[test]
    fn a_session_begins_where_it_is_settled_and_stays_there() {
        let mut sessions = sessions(9);
        let now = Instant::now();
        assert_eq!(visit(&mut sessions, "s", A, now), Settled::Created);
        assert_eq!(sessions.worker("s"), Some(A));
        assert_eq!(visit(&mut sessions, "s", A, now), Settled::Stayed);
    }

    #[test]
    fn a_session_that_moves_begins_a_new_life_and_calls_of_the_old_one_leave_it_alone() {
        let mut sessions = sessions(9);
        let mut old = sessions.enter(&"s".into());
        sessions.settle(&mut old, A);
        let mut new = sessions.enter(&"s".into());
        let past = Past {
            id: "s".into(),
            generation: old.generation,
            worker: Some(A),
        };
        assert_eq!(sessions.settle(&mut new, B), Settled::Moved(past));
        assert!(new.generation > old.generation);
        sessions.leave(&old, Instant::now());
        assert!(sessions.idle.is_empty());
        sessions.leave(&new, Instant::now());
        assert_eq!(sessions.idle.len(), 1);
    }

    #[test]
    fn a_call_that_never_got_a_worker_leaves_nothing_behind() {
        let mut sessions = sessions(9);
        let stay = sessions.enter(&"s".into());
        sessions.leave(&stay, Instant::now());
        assert_eq!(sessions.len(), 0);
    }

    #[test]
    fn the_least_recently_used_goes_first_and_none_that_a_call_is_in() {
        let mut sessions = sessions(2);
        let now = Instant::now();
        let mut busy = sessions.enter(&"busy".into());
        sessions.settle(&mut busy, A);
        visit(&mut sessions, "one", A, now);
        visit(&mut sessions, "two", B, now);
        visit(&mut sessions, "one", A, now);
        let past = sessions.evict().unwrap();
        assert_eq!((&*past.id, past.worker), ("two", Some(B)));
        assert_eq!(sessions.evict(), None);
    }

    #[test]
    fn time_counts_from_the_end_of_the_last_call() {
        let mut sessions = sessions(9);
        let now = Instant::now();
        let later = now + Duration::from_secs(60);
        visit(&mut sessions, "one", A, now);
        visit(&mut sessions, "two", A, now + Duration::from_secs(1));
        let mut busy = sessions.enter(&"busy".into());
        sessions.settle(&mut busy, A);
        assert_eq!(sessions.expire_oldest(now + Duration::from_secs(59)), None);
        assert_eq!(sessions.expire("two", later), None);
        assert_eq!(&*sessions.expire_oldest(later).unwrap().id, "one");
        assert_eq!(sessions.expire_oldest(later), None);
        assert_eq!(sessions.len(), 2);
    }

    #[test]
    fn a_session_that_was_ended_and_begun_anew_is_not_touched_by_calls_of_the_old_life() {
        let mut sessions = sessions(9);
        let mut old = sessions.enter(&"s".into());
        sessions.settle(&mut old, A);
        assert!(sessions.end("s").is_some());
        let mut new = sessions.enter(&"s".into());
        assert_eq!(sessions.settle(&mut new, A), Settled::Created);
        sessions.leave(&old, Instant::now());
        assert!(sessions.idle.is_empty());
        assert_eq!(sessions.end("other"), None);
    }
}
