//! Which worker each session is on: plain data under the dispatcher's lock.
//!
//! A session that has ended begins anew with the next call under its id. Each such beginning is a generation,
//! by which a worker distinguishes its state from that of an earlier one.

use super::types::WorkerKey;
use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::{Duration, Instant},
};

pub(super) struct Sessions {
    entries: HashMap<Arc<str>, SessionEntry>,
    /// The sessions without a call, the least recently used first.
    idle: BTreeMap<u64, (Arc<str>, Instant)>,
    max: usize,
    ttl: Option<Duration>,
    clock: u64,
}

struct SessionEntry {
    generation: u64,
    worker: Option<WorkerKey>,
    /// How many calls wait or run.
    calls: usize,
    /// Its key in `idle`.
    idle: Option<u64>,
}

/// A call's part in a session. Whoever took it has to give it back with `leave`.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct SessionLease {
    pub(super) id: Arc<str>,
    pub(super) generation: u64,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) struct EndedSession {
    pub(super) id: Arc<str>,
    pub(super) generation: u64,
    pub(super) worker: Option<WorkerKey>,
}

/// What assigning a call to a worker meant for its session.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Assigned {
    Created,
    Unchanged,
    Moved(EndedSession),
}

impl Sessions {
    /// `max` limits how many sessions are kept, but a session with a call is never ended for it.
    pub(super) fn new(max: usize, ttl: Option<Duration>) -> Self {
        Self {
            entries: HashMap::new(),
            idle: BTreeMap::new(),
            max,
            ttl,
            clock: 0,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn worker(&self, id: &str) -> Option<WorkerKey> {
        self.entries.get(id)?.worker
    }

    /// Adds a call to the session, which begins with it if there is none.
    pub(super) fn enter(&mut self, id: &Arc<str>) -> SessionLease {
        self.clock += 1;
        let generation = self.clock;
        let entry = self.entries.entry(id.clone()).or_insert(SessionEntry {
            generation,
            worker: None,
            calls: 0,
            idle: None,
        });
        entry.calls += 1;
        if let Some(key) = entry.idle.take() {
            self.idle.remove(&key);
        }
        SessionLease {
            id: id.clone(),
            generation: entry.generation,
        }
    }

    /// Assigns the session to the worker that starts the call of `lease`. A session that is on another worker
    /// begins anew: its state stays behind.
    pub(super) fn assign(&mut self, lease: &mut SessionLease, worker: WorkerKey) -> Assigned {
        match self.entries.get_mut(&lease.id) {
            Some(entry) if entry.worker.is_none() => {
                entry.worker = Some(worker);
                self.renew(lease);
                Assigned::Created
            }
            Some(entry) if entry.worker == Some(worker) => {
                self.renew(lease);
                Assigned::Unchanged
            }
            _ => {
                let ended = self.end(&lease.id);
                *lease = self.enter(&lease.id);
                if let Some(entry) = self.entries.get_mut(&lease.id) {
                    entry.worker = Some(worker);
                }
                ended.map_or(Assigned::Created, Assigned::Moved)
            }
        }
    }

    /// Makes a lease of an earlier generation one of the present generation.
    fn renew(&mut self, lease: &mut SessionLease) {
        if self.entries.get(&lease.id).map(|entry| entry.generation) != Some(lease.generation) {
            *lease = self.enter(&lease.id);
        }
    }

    pub(super) fn leave(&mut self, lease: &SessionLease, now: Instant) {
        let Some(entry) = self.entries.get_mut(&lease.id) else {
            return;
        };
        if entry.generation != lease.generation {
            return;
        }
        entry.calls -= 1;
        if entry.calls > 0 {
            return;
        }
        if entry.worker.is_none() {
            self.entries.remove(&lease.id);
            return;
        }
        self.clock += 1;
        entry.idle = Some(self.clock);
        self.idle.insert(self.clock, (lease.id.clone(), now));
    }

    pub(super) fn end(&mut self, id: &str) -> Option<EndedSession> {
        let (id, entry) = self.entries.remove_entry(id)?;
        if let Some(key) = entry.idle {
            self.idle.remove(&key);
        }
        Some(EndedSession {
            id,
            generation: entry.generation,
            worker: entry.worker,
        })
    }

    /// Ends the session if its time to live has passed.
    pub(super) fn expire(&mut self, id: &str, now: Instant) -> Option<EndedSession> {
        let key = self.entries.get(id)?.idle?;
        self.expire_idle(key, now)
    }

    /// Ends the least recently used session if its time to live has passed.
    pub(super) fn expire_oldest(&mut self, now: Instant) -> Option<EndedSession> {
        let key = *self.idle.first_key_value()?.0;
        self.expire_idle(key, now)
    }

    fn expire_idle(&mut self, key: u64, now: Instant) -> Option<EndedSession> {
        let ttl = self.ttl?;
        let (id, since) = self.idle.get(&key)?;
        if now.saturating_duration_since(*since) < ttl {
            return None;
        }
        let id = id.clone();
        self.end(&id)
    }

    /// Ends the least recently used session if there are too many.
    pub(super) fn evict(&mut self) -> Option<EndedSession> {
        if self.entries.len() <= self.max {
            return None;
        }
        let (_, (id, _)) = self.idle.first_key_value()?;
        let id = id.clone();
        self.end(&id)
    }
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
    fn visit(sessions: &mut Sessions, id: &str, worker: WorkerKey, at: Instant) -> Assigned {
        let mut lease = sessions.enter(&id.into());
        let assigned = sessions.assign(&mut lease, worker);
        sessions.leave(&lease, at);
        assigned
    }

    #[test]
    fn a_session_begins_on_the_worker_it_is_assigned_to_and_stays_there() {
        let mut sessions = sessions(9);
        let now = Instant::now();
        assert_eq!(visit(&mut sessions, "s", A, now), Assigned::Created);
        assert_eq!(sessions.worker("s"), Some(A));
        assert_eq!(visit(&mut sessions, "s", A, now), Assigned::Unchanged);
    }

    #[test]
    fn a_session_that_moves_begins_a_new_generation_which_calls_of_the_old_one_leave_alone() {
        let mut sessions = sessions(9);
        let mut old = sessions.enter(&"s".into());
        sessions.assign(&mut old, A);
        let mut new = sessions.enter(&"s".into());
        let ended = EndedSession {
            id: "s".into(),
            generation: old.generation,
            worker: Some(A),
        };
        assert_eq!(sessions.assign(&mut new, B), Assigned::Moved(ended));
        assert!(new.generation > old.generation);
        sessions.leave(&old, Instant::now());
        assert!(sessions.idle.is_empty());
        sessions.leave(&new, Instant::now());
        assert_eq!(sessions.idle.len(), 1);
    }

    #[test]
    fn a_call_that_never_got_a_worker_leaves_no_session_behind() {
        let mut sessions = sessions(9);
        let lease = sessions.enter(&"s".into());
        sessions.leave(&lease, Instant::now());
        assert_eq!(sessions.len(), 0);
    }

    #[test]
    fn the_least_recently_used_session_is_evicted_first_and_none_with_a_call() {
        let mut sessions = sessions(2);
        let now = Instant::now();
        let mut busy = sessions.enter(&"busy".into());
        sessions.assign(&mut busy, A);
        visit(&mut sessions, "one", A, now);
        visit(&mut sessions, "two", B, now);
        visit(&mut sessions, "one", A, now);
        let ended = sessions.evict().unwrap();
        assert_eq!((&*ended.id, ended.worker), ("two", Some(B)));
        assert_eq!(sessions.evict(), None);
    }

    #[test]
    fn the_time_to_live_counts_from_the_end_of_the_last_call() {
        let mut sessions = sessions(9);
        let now = Instant::now();
        let later = now + Duration::from_secs(60);
        visit(&mut sessions, "one", A, now);
        visit(&mut sessions, "two", A, now + Duration::from_secs(1));
        let mut busy = sessions.enter(&"busy".into());
        sessions.assign(&mut busy, A);
        assert_eq!(sessions.expire_oldest(now + Duration::from_secs(59)), None);
        assert_eq!(sessions.expire("two", later), None);
        assert_eq!(&*sessions.expire_oldest(later).unwrap().id, "one");
        assert_eq!(sessions.expire_oldest(later), None);
        assert_eq!(sessions.len(), 2);
    }

    #[test]
    fn a_session_that_ended_and_began_anew_is_not_affected_by_calls_of_the_old_generation() {
        let mut sessions = sessions(9);
        let mut old = sessions.enter(&"s".into());
        sessions.assign(&mut old, A);
        assert!(sessions.end("s").is_some());
        let mut new = sessions.enter(&"s".into());
        assert_eq!(sessions.assign(&mut new, A), Assigned::Created);
        sessions.leave(&old, Instant::now());
        assert!(sessions.idle.is_empty());
        assert_eq!(sessions.end("other"), None);
    }
}
