#![allow(clippy::unwrap_used, clippy::panic)]
use super::{
    tests::{Acquired, Waits, acquire, prefer, strict, wait_for},
    *,
};
use std::{
    sync::{
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    thread,
};

type Name = &'static str;
type Waiting = (Waits<Name>, oneshot::Receiver<Granted<Name>>);

/// A pool whose workers have one slot each, and the events of its listener as text.
struct Probe {
    pool: Arc<Dispatcher<Name>>,
    keys: Vec<WorkerKey>,
    events: mpsc::Receiver<String>,
}

impl Probe {
    fn new(workers: &[Name], max_sessions: usize, session_ttl: Option<Duration>) -> Self {
        let limits = Limits {
            max_queue: 8,
            max_sessions,
            session_ttl,
            size: 1,
            ..Limits::default()
        };
        let (tx, events) = mpsc::channel();
        let pool = Dispatcher::new(limits, move |event| drop(tx.send(text(event))));
        let keys = workers.iter().map(|name| pool.add(*name, 1)).collect();
        Self { pool, keys, events }
    }

    fn submit(&self, session: Option<Session>) -> Result<Acquired<Name>, AcquireError> {
        let options = AcquireOptions {
            session,
            ..AcquireOptions::default()
        };
        acquire(&self.pool, options)
    }

    fn lease_any(&self, session: Option<Session>) -> Lease<Name> {
        match self.submit(session) {
            Ok(Acquired::Now(lease)) => lease,
            Ok(Acquired::Queued(..)) => panic!("the call waits"),
            Err(error) => panic!("{error:?}"),
        }
    }

    fn lease(&self, session: Session) -> Lease<Name> {
        self.lease_any(Some(session))
    }

    fn queue(&self, session: Option<Session>) -> Waiting {
        match self.submit(session) {
            Ok(Acquired::Queued(ticket, granted)) => (ticket, granted),
            Ok(Acquired::Now(_)) => panic!("a worker was free"),
            Err(error) => panic!("{error:?}"),
        }
    }

    fn refusal(&self, session: Session) -> Option<AcquireError> {
        self.submit(Some(session)).err()
    }

    /// One call in the session; returns its worker and the generation.
    fn visit(&self, id: &str) -> (Name, u64) {
        let lease = self.lease(strict(id));
        (*lease.worker(), lease.generation())
    }

    fn events(&self) -> Vec<String> {
        self.events.try_iter().collect()
    }
}

fn text(event: Event<Name>) -> String {
    match event {
        Event::Created { id, worker } => format!("{id} created on {worker}"),
        Event::Moved { id, from, to, .. } => format!("{id} moved from {from} to {to}"),
        Event::Expired { id, worker, .. } => format!("{id} expired on {worker}"),
        Event::Evicted { id, worker, .. } => format!("{id} evicted from {worker}"),
        Event::Lost { ids, worker } => {
            let mut ids: Vec<_> = ids.iter().map(|id| &**id).collect();
            ids.sort_unstable();
            format!("{} lost with {worker}", ids.join(", "))
        }
        Event::Served { worker, calls } => format!("{worker} has served {calls}"),
        Event::Drained { worker } => format!("{worker} drained"),
    }
}

#[test]
fn calls_of_a_session_go_to_its_worker_though_others_have_fewer_calls() {
    let probe = Probe::new(&["a", "b"], 9, None);
    let first = probe.visit("s");
    for _ in 0..4 {
        assert_eq!(probe.visit("s"), first);
    }
    assert_eq!(probe.events(), ["s created on a"]);
}

#[test]
fn a_strict_call_waits_for_its_worker_and_does_not_delay_others() {
    let probe = Probe::new(&["a", "b"], 9, None);
    probe.visit("s");
    let busy = probe.lease(strict("s"));
    let (_pinned, mut pinned) = probe.queue(Some(strict("s")));
    assert!(pinned.try_recv().is_err());
    assert_eq!(probe.pool.snapshot().queued, 1);
    assert_eq!(*probe.lease_any(None).worker(), "b");
    assert!(pinned.try_recv().is_err());
    drop(busy);
    assert_eq!(*pinned.try_recv().unwrap().unwrap().worker(), "a");
}

#[test]
fn the_call_that_has_waited_longest_gets_the_slot_pinned_or_not() {
    let probe = Probe::new(&["a"], 9, None);
    let mut running = probe.lease(strict("s"));
    let waiting: Vec<_> = [None, Some(strict("s")), None, Some(strict("s"))]
        .into_iter()
        .map(|session| probe.queue(session))
        .collect();
    for (_ticket, mut granted) in waiting {
        assert!(granted.try_recv().is_err());
        drop(running);
        running = granted.try_recv().unwrap().unwrap();
    }
}

#[test]
fn a_session_that_begins_while_its_calls_wait_takes_them_all_to_one_worker() {
    let probe = Probe::new(&["a", "b"], 9, None);
    let (on_a, on_b) = (probe.lease(strict("x")), probe.lease(strict("y")));
    let (_one, mut one) = probe.queue(Some(strict("s")));
    let (_two, mut two) = probe.queue(Some(strict("s")));
    drop(on_b);
    let lease = one.try_recv().unwrap().unwrap();
    assert_eq!(*lease.worker(), "b");
    drop(on_a);
    assert!(two.try_recv().is_err());
    drop(lease);
    assert_eq!(*two.try_recv().unwrap().unwrap().worker(), "b");
}

#[test]
fn a_call_that_only_prefers_its_worker_takes_another_and_the_session_begins_anew_there() {
    let probe = Probe::new(&["a", "b"], 9, None);
    let (_, generation) = probe.visit("s");
    let busy = probe.lease(prefer("s"));
    assert_eq!((*busy.worker(), busy.generation()), ("a", generation));
    let moved = probe.lease(prefer("s"));
    assert_eq!(*moved.worker(), "b");
    assert!(moved.generation() > generation);
    drop((busy, moved));
    assert_eq!(probe.visit("s").0, "b");
    assert_eq!(probe.events(), ["s created on a", "s moved from a to b"]);
}

#[test]
fn a_session_is_lost_with_its_worker_and_that_is_reported_once() {
    let probe = Probe::new(&["a", "b"], 9, None);
    let (_, generation) = probe.visit("s");
    let busy = probe.lease(strict("s"));
    probe.visit("t");
    drop(busy);
    assert!(probe.pool.remove(probe.keys[0]));
    assert_eq!(probe.visit("t").0, "b");
    assert_eq!(probe.refusal(strict("s")), Some(AcquireError::SessionLost));
    let (worker, anew) = probe.visit("s");
    assert_eq!(worker, "b");
    assert!(anew > generation);
    assert_eq!(
        probe.events(),
        [
            "s created on a",
            "t created on b",
            "s lost with a",
            "s created on b"
        ]
    );
}

#[test]
fn a_call_that_waits_for_a_removed_worker_is_refused_because_its_session_is_lost() {
    let probe = Probe::new(&["a", "b"], 9, None);
    let running = probe.lease(strict("s"));
    let (_one, one) = probe.queue(Some(strict("s")));
    let (_two, two) = probe.queue(Some(strict("s")));
    running.retire();
    for mut granted in [one, two] {
        assert_eq!(
            granted.try_recv().unwrap().err(),
            Some(AcquireError::SessionLost)
        );
    }
    assert_eq!(probe.pool.snapshot().queued, 0);
    assert_eq!(probe.visit("s").0, "b");
}

#[test]
fn an_ended_session_begins_anew_and_waiting_calls_are_served() {
    let probe = Probe::new(&["a"], 9, None);
    let running = probe.lease(strict("s"));
    let generation = running.generation();
    let (_ticket, mut granted) = probe.queue(Some(strict("s")));
    assert_eq!(probe.pool.end_session("s"), Some(("a", generation)));
    assert_eq!(probe.pool.end_session("s"), None);
    drop(running);
    let anew = granted.try_recv().unwrap().unwrap().generation();
    assert!(anew > generation);
    assert_eq!(probe.pool.snapshot().sessions, 1);
}

#[test]
fn beyond_the_limit_the_least_recently_used_session_is_evicted() {
    let probe = Probe::new(&["a"], 2, None);
    let one = probe.visit("one");
    probe.visit("two");
    assert_eq!(probe.visit("one"), one);
    probe.visit("three");
    assert_eq!(probe.visit("one"), one);
    assert_eq!(probe.pool.snapshot().sessions, 2);
    assert!(probe.events().contains(&"two evicted from a".into()));
}

#[test]
fn an_unused_session_expires_with_the_next_call_or_without_one() {
    let probe = Probe::new(&["a"], 9, Some(Duration::ZERO));
    let (_, generation) = probe.visit("s");
    assert!(probe.visit("s").1 > generation);
    probe.pool.expire_sessions();
    assert_eq!(probe.pool.snapshot().sessions, 0);
    assert_eq!(
        probe.events(),
        [
            "s created on a",
            "s expired on a",
            "s created on a",
            "s expired on a"
        ]
    );
}

#[test]
fn a_call_that_gives_up_leaves_no_trace_of_its_session() {
    let probe = Probe::new(&["a"], 9, None);
    let running = probe.lease(strict("s"));
    let (pinned, mut granted) = probe.queue(Some(strict("s")));
    let (unplaced, _granted) = probe.queue(Some(strict("t")));
    drop((pinned, unplaced));
    assert_eq!(probe.pool.snapshot().queued, 0);
    assert_eq!(probe.pool.snapshot().sessions, 1);
    drop(running);
    let granted = granted.try_recv().unwrap();
    assert_eq!(granted.err(), Some(AcquireError::GivenUp));
    assert_eq!(probe.visit("s").0, "a");
}

#[test]
fn calls_that_wait_for_one_worker_count_in_the_queue_and_are_refused_when_the_pool_closes() {
    let probe = Probe::new(&["a"], 9, None);
    let _running = probe.lease(strict("s"));
    let waiting: Vec<_> = (0..8).map(|_| probe.queue(Some(strict("s")))).collect();
    let refusal = AcquireError::Saturated { max_queue: 8 };
    assert_eq!(probe.refusal(strict("s")), Some(refusal));
    probe.pool.close(AcquireError::Closed);
    for (_ticket, mut granted) in waiting {
        assert_eq!(
            granted.try_recv().unwrap().err(),
            Some(AcquireError::Closed)
        );
    }
    assert_eq!(probe.refusal(strict("s")), Some(AcquireError::Closed));
}

/// Callers with a session each, some of which give up, while workers are added and removed: a generation is never on
/// two workers, a loss is reported only to its session, and every call gets an answer.
#[test]
fn sessions_keep_to_their_worker_in_a_race() {
    const CALLERS: usize = 8;
    const ROUNDS: usize = 2_000;
    let limits = Limits {
        max_queue: CALLERS,
        max_sessions: CALLERS,
        size: 1,
        ..Limits::default()
    };
    let reported = Arc::new(AtomicUsize::new(0));
    let lost = Arc::new(AtomicUsize::new(0));
    let counted = lost.clone();
    let pool: Arc<Dispatcher<usize>> = Dispatcher::new(limits, move |event| {
        if let Event::Lost { ids, .. } = event {
            counted.fetch_add(ids.len(), Ordering::SeqCst);
        }
    });
    let stays = pool.add(0, 2);
    thread::scope(|scope| {
        for caller in 0..CALLERS {
            let (pool, reported) = (&pool, &reported);
            scope.spawn(move || {
                let mut home = None;
                for round in 0..ROUNDS {
                    let options = AcquireOptions {
                        session: Some(strict(&format!("s{caller}"))),
                        ..AcquireOptions::default()
                    };
                    let gives_up = (round + caller) % 5 == 0;
                    let granted = match acquire(pool, options) {
                        Ok(Acquired::Now(lease)) => Some(Ok(lease)),
                        Ok(Acquired::Queued(ticket, granted)) => {
                            let ticket = Some(ticket).filter(|_| !gives_up);
                            let granted = wait_for(granted);
                            drop(ticket);
                            granted
                        }
                        Err(error) => Some(Err(error)),
                    };
                    let Some(grant) = granted else {
                        continue;
                    };
                    match grant {
                        Ok(lease) => {
                            let here = (lease.generation(), *lease.worker());
                            if home.is_some_and(|(generation, _)| generation == here.0) {
                                assert_eq!(home, Some(here));
                            }
                            home = Some(here);
                        }
                        Err(AcquireError::GivenUp) => assert!(gives_up),
                        Err(refusal) => {
                            assert_eq!(refusal, AcquireError::SessionLost);
                            reported.fetch_add(1, Ordering::SeqCst);
                        }
                    }
                }
            });
        }
        scope.spawn(|| {
            for worker in 1..ROUNDS {
                let key = pool.add(worker, 1);
                thread::yield_now();
                pool.remove(key);
            }
        });
    });
    assert!(reported.load(Ordering::SeqCst) <= lost.load(Ordering::SeqCst));
    let end = pool.snapshot();
    assert_eq!((end.queued, end.workers), (0, vec![(stays, 0, false)]));
}

#[test]
fn a_draining_worker_is_reported_once_when_its_last_call_has_ended() {
    let probe = Probe::new(&["a"], 9, None);
    let running = probe.lease_any(None);
    probe.pool.drain(probe.keys[0]);
    assert!(probe.events().is_empty());
    drop(running);
    assert_eq!(probe.events(), ["a drained"]);
}

#[test]
fn a_draining_worker_without_calls_is_reported_at_once_though_the_pool_is_closed() {
    let probe = Probe::new(&["a"], 9, None);
    probe.pool.close(AcquireError::Closed);
    probe.pool.drain(probe.keys[0]);
    assert_eq!(probe.events(), ["a drained"]);
}

#[test]
fn the_sessions_of_a_draining_worker_are_lost_at_once_and_begin_anew_elsewhere() {
    let probe = Probe::new(&["a", "b"], 9, None);
    let running = probe.lease(strict("s"));
    let (_pinned, mut pinned) = probe.queue(Some(strict("s")));
    assert!(pinned.try_recv().is_err());
    probe.pool.drain(probe.keys[0]);
    assert_eq!(
        pinned.try_recv().unwrap().err(),
        Some(AcquireError::SessionLost)
    );
    assert_eq!(probe.visit("s").0, "b");
    drop(running);
    assert_eq!(
        probe.events(),
        [
            "s created on a",
            "s lost with a",
            "s created on b",
            "a drained"
        ]
    );
}

#[test]
fn a_session_stays_on_a_worker_that_gets_another_connection() {
    let probe = Probe::new(&["a", "b"], 9, None);
    let first = probe.visit("s");
    probe.pool.pause(probe.keys[0]);
    let (_waiting, mut waiting) = probe.queue(Some(strict("s")));
    assert!(waiting.try_recv().is_err());
    assert!(probe.pool.resume(probe.keys[0], "a again"));
    let lease = waiting.try_recv().unwrap().unwrap();
    assert_eq!((*lease.worker(), lease.generation()), ("a again", first.1));
}

#[test]
fn workers_are_removed_by_a_predicate() {
    let probe = Probe::new(&["a", "b"], 9, None);
    assert!(probe.pool.remove_where(|_, worker| *worker == "a"));
    assert!(!probe.pool.remove_where(|_, worker| *worker == "a"));
    assert_eq!(probe.visit("s").0, "b");
}

#[test]
fn a_worker_that_drains_its_sessions_gets_their_calls_alone_until_they_end() {
    let probe = Probe::new(&["a", "b"], 9, None);
    probe.visit("s");
    probe.events();
    probe.pool.drain_sessions(probe.keys[0]);
    assert_eq!(*probe.lease_any(None).worker(), "b");
    assert_eq!(probe.visit("t").0, "b");
    assert_eq!(probe.visit("s").0, "a");
    assert!(
        probe
            .pool
            .snapshot()
            .workers
            .contains(&(probe.keys[0], 0, true))
    );
    assert_eq!(probe.pool.end_session("s").map(|ended| ended.0), Some("a"));
    assert_eq!(probe.events(), ["t created on b", "a drained"]);
    assert_eq!(probe.visit("s").0, "b");
}

#[test]
fn a_call_that_only_prefers_a_worker_which_drains_its_sessions_moves_them_away() {
    let probe = Probe::new(&["a", "b"], 9, None);
    probe.visit("s");
    probe.events();
    probe.pool.drain_sessions(probe.keys[0]);
    assert_eq!(*probe.lease(prefer("s")).worker(), "b");
    assert_eq!(probe.events(), ["a drained", "s moved from a to b"]);
}

#[test]
fn a_worker_that_drains_its_sessions_serves_their_calls_while_all_others_are_busy() {
    let probe = Probe::new(&["a", "b"], 9, None);
    probe.visit("s");
    probe.pool.drain_sessions(probe.keys[0]);
    let busy = probe.lease(strict("s"));
    let other = probe.lease_any(None);
    let (_any, mut any) = probe.queue(None);
    let (_pinned, mut pinned) = probe.queue(Some(strict("s")));
    drop(busy);
    assert_eq!(*pinned.try_recv().unwrap().unwrap().worker(), "a");
    assert!(any.try_recv().is_err());
    drop(other);
    assert_eq!(*any.try_recv().unwrap().unwrap().worker(), "b");
}

#[test]
fn calls_that_wait_for_a_session_which_ends_begin_it_anew_on_any_worker() {
    let probe = Probe::new(&["a", "b"], 9, None);
    probe.visit("s");
    probe.pool.drain_sessions(probe.keys[0]);
    let busy = probe.lease(strict("s"));
    let (_waiting, mut waiting) = probe.queue(Some(strict("s")));
    assert!(probe.pool.end_session("s").is_some());
    assert_eq!(*waiting.try_recv().unwrap().unwrap().worker(), "b");
    drop(busy);
    let events = probe.events();
    for event in ["s created on b", "a drained"] {
        assert!(events.contains(&event.to_owned()), "{event}");
    }
}

#[test]
fn sessions_of_a_worker_that_drains_them_are_lost_if_it_has_to_end() {
    let probe = Probe::new(&["a", "b"], 9, None);
    probe.visit("s");
    probe.events();
    probe.pool.drain_sessions(probe.keys[0]);
    probe.pool.drain(probe.keys[0]);
    assert_eq!(probe.events(), ["s lost with a", "a drained"]);
    assert_eq!(probe.refusal(strict("s")), Some(AcquireError::SessionLost));
}

#[test]
fn the_number_of_ended_calls_is_reported_once() {
    let probe = Probe::new(&["a"], 9, None);
    probe.pool.report_at(probe.keys[0], 2);
    drop(probe.lease_any(None));
    probe.lease_any(None).give_back_unused();
    assert!(probe.events().is_empty());
    drop(probe.lease_any(None));
    drop(probe.lease_any(None));
    assert_eq!(probe.events(), ["a has served 2"]);
    probe.pool.report_at(probe.keys[0], 1);
    assert_eq!(probe.events(), ["a has served 3"]);
}

#[test]
fn calls_in_the_queue_get_the_worker_that_drains_their_session() {
    let probe = Probe::new(&["a", "b"], 9, None);
    let [first, _other] = [(); 2].map(|()| probe.lease_any(None));
    let (_place, mut begins) = probe.queue(Some(strict("s")));
    let (_place, mut waits) = probe.queue(Some(strict("s")));
    assert_eq!(*first.worker(), "a");
    drop(first);
    let lease = begins.try_recv().unwrap().unwrap();
    probe.pool.drain_sessions(probe.keys[0]);
    drop(lease);
    assert_eq!(*waits.try_recv().unwrap().unwrap().worker(), "a");
}

#[test]
fn a_call_that_waits_for_a_paused_worker_gets_another_when_its_session_ends() {
    let probe = Probe::new(&["a", "b"], 9, None);
    probe.visit("s");
    probe.pool.drain_sessions(probe.keys[0]);
    assert!(probe.pool.pause(probe.keys[0]));
    let (_place, mut waits) = probe.queue(Some(strict("s")));
    assert!(probe.pool.end_session("s").is_some());
    assert_eq!(*waits.try_recv().unwrap().unwrap().worker(), "b");
}
