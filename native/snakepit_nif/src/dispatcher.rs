//! Which worker takes a call, and who waits for one: plain data behind a mutex that is held for
//! well under a microsecond. Waiters are always told outside of it.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Instant,
};

/// Why a call got no worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// The queue is full.
    Saturated { max_queue: usize },
    /// The waiter's time was up before a worker was free.
    Expired,
    /// No worker can be had, and waiting would not help.
    Unavailable(Arc<str>),
    /// The pool has stopped.
    Closed,
}

/// What stands behind a place: cheap to clone.
pub(crate) trait Worker: Clone + Send + 'static {}
impl<W: Clone + Send + 'static> Worker for W {}

pub(crate) type Grant<W> = Result<Lease<W>, Refusal>;
type Waiter<W> = Box<dyn FnOnce(Grant<W>) + Send>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct WorkerKey(pub(crate) u64);

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Snapshot {
    pub(crate) queued: usize,
    /// Per worker: key, calls in flight, draining.
    pub(crate) workers: Vec<(WorkerKey, usize, bool)>,
}

pub(crate) struct Dispatcher<W: Worker> {
    state: Mutex<State<W>>,
}

struct State<W: Worker> {
    workers: Vec<Entry<W>>,
    queue: BTreeMap<u64, Queued<W>>,
    max_queue: usize,
    /// Names workers, tickets and leases in the order in which they came.
    clock: u64,
    unavailable: Option<Arc<str>>,
    closed: bool,
}

struct Entry<W> {
    key: WorkerKey,
    worker: W,
    capacity: usize,
    in_flight: usize,
    last_lease: u64,
    draining: bool,
}

struct Queued<W: Worker> {
    deadline: Option<Instant>,
    waiter: Waiter<W>,
}

/// What is to be told to whom, once the lock is released.
type Notices<W> = Vec<(Waiter<W>, Grant<W>)>;

impl<W: Worker> Dispatcher<W> {
    pub(crate) fn new(max_queue: usize) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::new(State {
                workers: Vec::new(),
                queue: BTreeMap::new(),
                max_queue,
                clock: 0,
                unavailable: None,
                closed: false,
            }),
        })
    }

    /// Leases the least-loaded worker to `waiter` at once, or queues it in order of arrival. A
    /// waiter is called at most once.
    pub(crate) fn submit(
        self: &Arc<Self>,
        deadline: Option<Instant>,
        waiter: impl FnOnce(Grant<W>) + Send + 'static,
    ) -> Result<Ticket<W>, Refusal> {
        let mut state = self.lock();
        if state.closed {
            return Err(Refusal::Closed);
        }
        if let Some((key, worker)) = state.pick() {
            drop(state);
            waiter(Ok(self.lease(key, worker)));
            return Ok(Ticket {
                dispatcher: Weak::new(),
                number: 0,
            });
        }
        if state.workers.is_empty()
            && let Some(why) = &state.unavailable
        {
            return Err(Refusal::Unavailable(why.clone()));
        }
        if state.queue.len() >= state.max_queue {
            return Err(Refusal::Saturated {
                max_queue: state.max_queue,
            });
        }
        let number = state.tick();
        let waiter = Box::new(waiter);
        state.queue.insert(number, Queued { deadline, waiter });
        Ok(Ticket {
            dispatcher: Arc::downgrade(self),
            number,
        })
    }

    pub(crate) fn add(self: &Arc<Self>, worker: W, capacity: usize) -> WorkerKey {
        let (key, notices) = {
            let mut state = self.lock();
            let key = WorkerKey(state.tick());
            state.unavailable = None;
            state.workers.push(Entry {
                key,
                worker,
                capacity,
                in_flight: 0,
                last_lease: 0,
                draining: false,
            });
            (key, self.serve(&mut state))
        };
        tell(notices);
        key
    }

    /// No new leases; those that run go on. Returns how many do.
    pub(crate) fn drain(&self, key: WorkerKey) -> usize {
        let mut state = self.lock();
        state.entry(key).map_or(0, |entry| {
            entry.draining = true;
            entry.in_flight
        })
    }

    /// Forgets a worker. Its leases stay with their calls, and come back to nobody.
    pub(crate) fn remove(&self, key: WorkerKey) -> bool {
        let mut state = self.lock();
        let before = state.workers.len();
        state.workers.retain(|entry| entry.key != key);
        state.workers.len() < before
    }

    /// While there is no worker at all, every call is refused with `why`; the next worker ends that.
    pub(crate) fn set_unavailable(&self, why: &str) {
        let notices = {
            let mut state = self.lock();
            if !state.workers.is_empty() {
                return;
            }
            let why: Arc<str> = why.into();
            state.unavailable = Some(why.clone());
            state.refuse_all(&Refusal::Unavailable(why))
        };
        tell(notices);
    }

    pub(crate) fn close(&self) {
        let notices = {
            let mut state = self.lock();
            state.closed = true;
            state.workers.clear();
            state.refuse_all(&Refusal::Closed)
        };
        tell(notices);
    }

    pub(crate) fn snapshot(&self) -> Snapshot {
        let state = self.lock();
        Snapshot {
            queued: state.queue.len(),
            workers: state
                .workers
                .iter()
                .map(|entry| (entry.key, entry.in_flight, entry.draining))
                .collect(),
        }
    }

    fn release(self: &Arc<Self>, key: WorkerKey) {
        let notices = {
            let mut state = self.lock();
            if let Some(entry) = state.entry(key) {
                entry.in_flight -= 1;
            }
            self.serve(&mut state)
        };
        tell(notices);
    }

    /// Gives free places to those who have waited longest; whoever waited too long is told so.
    fn serve(self: &Arc<Self>, state: &mut State<W>) -> Notices<W> {
        let mut notices = Vec::new();
        while let Some(first) = state.queue.first_entry() {
            if first.get().deadline.is_some_and(|d| d <= Instant::now()) {
                notices.push((first.remove().waiter, Err(Refusal::Expired)));
                continue;
            }
            let Some((key, worker)) = state.pick() else {
                break;
            };
            if let Some((_, queued)) = state.queue.pop_first() {
                notices.push((queued.waiter, Ok(self.lease(key, worker))));
            }
        }
        notices
    }

    fn lease(self: &Arc<Self>, key: WorkerKey, worker: W) -> Lease<W> {
        Lease {
            dispatcher: self.clone(),
            key,
            worker,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State<W>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<W: Worker> State<W> {
    /// Takes a place on the worker with the fewest calls; of equals, on the one idle longest.
    fn pick(&mut self) -> Option<(WorkerKey, W)> {
        let clock = self.tick();
        let entry = self
            .workers
            .iter_mut()
            .filter(|entry| !entry.draining && entry.in_flight < entry.capacity)
            .min_by_key(|entry| (entry.in_flight, entry.last_lease))?;
        entry.in_flight += 1;
        entry.last_lease = clock;
        Some((entry.key, entry.worker.clone()))
    }

    fn entry(&mut self, key: WorkerKey) -> Option<&mut Entry<W>> {
        self.workers.iter_mut().find(|entry| entry.key == key)
    }

    fn refuse_all(&mut self, refusal: &Refusal) -> Notices<W> {
        std::mem::take(&mut self.queue)
            .into_values()
            .map(|queued| (queued.waiter, Err(refusal.clone())))
            .collect()
    }

    fn tick(&mut self) -> u64 {
        self.clock += 1;
        self.clock
    }
}

fn tell<W: Worker>(notices: Notices<W>) {
    for (waiter, grant) in notices {
        waiter(grant);
    }
}

/// A place on a worker. Dropping it gives the place to whoever has waited longest.
pub(crate) struct Lease<W: Worker> {
    dispatcher: Arc<Dispatcher<W>>,
    key: WorkerKey,
    pub(crate) worker: W,
}

impl<W: Worker> Lease<W> {
    /// Takes the worker out of the pool: it is not fit for another call.
    pub(crate) fn condemn(self) -> W {
        self.dispatcher.remove(self.key);
        self.worker.clone()
    }
}

impl<W: Worker> Drop for Lease<W> {
    fn drop(&mut self) {
        self.dispatcher.release(self.key);
    }
}

/// A place in the queue, given up when dropped.
pub(crate) struct Ticket<W: Worker> {
    dispatcher: Weak<Dispatcher<W>>,
    number: u64,
}

impl<W: Worker> Drop for Ticket<W> {
    fn drop(&mut self) {
        if let Some(dispatcher) = self.dispatcher.upgrade() {
            let queued = dispatcher.lock().queue.remove(&self.number);
            drop(queued);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::{
        sync::{
            atomic::{AtomicUsize, Ordering},
            mpsc,
        },
        thread,
        time::Duration,
    };

    type Name = &'static str;
    type Told = mpsc::Receiver<Grant<Name>>;

    /// Submits and hands what the waiter is told to a channel.
    fn submit(
        dispatcher: &Arc<Dispatcher<Name>>,
        deadline: Option<Instant>,
    ) -> (Result<Ticket<Name>, Refusal>, Told) {
        let (tx, rx) = mpsc::channel();
        let submitted = dispatcher.submit(deadline, move |grant| {
            let _ = tx.send(grant);
        });
        (submitted, rx)
    }

    fn lease(dispatcher: &Arc<Dispatcher<Name>>) -> Lease<Name> {
        submit(dispatcher, None).1.try_recv().unwrap().unwrap()
    }

    #[test]
    fn the_least_loaded_worker_is_leased_and_of_equals_the_one_idle_longest() {
        let pool = Dispatcher::new(0);
        pool.add("a", 2);
        pool.add("b", 2);
        let first = lease(&pool);
        let second = lease(&pool);
        assert_eq!((first.worker, second.worker), ("a", "b"));
        drop(second);
        assert_eq!(lease(&pool).worker, "b");
        drop(first);
        assert_eq!(lease(&pool).worker, "a");
    }

    #[test]
    fn a_full_queue_refuses_and_names_its_bound() {
        let pool = Dispatcher::new(1);
        pool.add("a", 1);
        let _running = lease(&pool);
        let (waiting, _rx) = submit(&pool, None);
        assert!(waiting.is_ok());
        assert_eq!(
            submit(&pool, None).0.err(),
            Some(Refusal::Saturated { max_queue: 1 })
        );
    }

    #[test]
    fn a_released_place_goes_to_whoever_has_waited_longest() {
        let pool = Dispatcher::new(8);
        pool.add("a", 1);
        let running = lease(&pool);
        let (_first, first_rx) = submit(&pool, None);
        let (_second, second_rx) = submit(&pool, None);
        drop(running);
        let granted = first_rx.try_recv().unwrap().unwrap();
        assert!(second_rx.try_recv().is_err());
        drop(granted);
        assert!(second_rx.try_recv().unwrap().is_ok());
    }

    #[test]
    fn a_dropped_ticket_leaves_the_queue_and_its_waiter_is_never_called() {
        let pool = Dispatcher::new(1);
        pool.add("a", 1);
        let running = lease(&pool);
        let (ticket, rx) = submit(&pool, None);
        drop(ticket);
        assert_eq!(pool.snapshot().queued, 0);
        drop(running);
        assert!(rx.try_recv().is_err());
        assert_eq!(pool.snapshot().workers[0].1, 0);
    }

    #[test]
    fn an_expired_waiter_is_passed_over() {
        let pool = Dispatcher::new(8);
        pool.add("a", 1);
        let running = lease(&pool);
        let (_late, late_rx) = submit(&pool, Some(Instant::now()));
        let (_patient, patient_rx) = submit(&pool, None);
        drop(running);
        assert_eq!(late_rx.try_recv().unwrap().err(), Some(Refusal::Expired));
        assert!(patient_rx.try_recv().unwrap().is_ok());
    }

    #[test]
    fn a_grant_nobody_takes_gives_the_place_back() {
        let pool = Dispatcher::new(8);
        pool.add("a", 1);
        let running = lease(&pool);
        let (_ticket, rx) = submit(&pool, None);
        drop(rx);
        drop(running);
        assert_eq!(lease(&pool).worker, "a");
    }

    #[test]
    fn a_draining_worker_takes_no_new_calls_and_a_removed_one_is_forgotten() {
        let pool = Dispatcher::new(8);
        let a = pool.add("a", 2);
        let running = lease(&pool);
        assert_eq!(pool.drain(a), 1);
        let (_ticket, rx) = submit(&pool, None);
        assert!(rx.try_recv().is_err());
        assert!(pool.remove(a));
        assert!(!pool.remove(a));
        drop(running);
        pool.add("b", 1);
        assert_eq!(rx.try_recv().unwrap().unwrap().worker, "b");
    }

    #[test]
    fn a_condemned_worker_is_out_of_the_pool_at_once() {
        let pool = Dispatcher::new(8);
        pool.add("a", 2);
        assert_eq!(lease(&pool).condemn(), "a");
        assert!(pool.snapshot().workers.is_empty());
    }

    #[test]
    fn without_any_worker_the_reason_is_told_until_one_comes() {
        let pool = Dispatcher::new(8);
        let (_ticket, rx) = submit(&pool, None);
        pool.set_unavailable("no python");
        let refusal = Refusal::Unavailable("no python".into());
        assert_eq!(rx.try_recv().unwrap().err(), Some(refusal.clone()));
        assert_eq!(submit(&pool, None).0.err(), Some(refusal));
        let a = pool.add("a", 1);
        pool.set_unavailable("ignored while a worker is there");
        pool.remove(a);
        assert!(submit(&pool, None).0.is_ok());
    }

    #[test]
    fn closing_tells_everyone() {
        let pool = Dispatcher::new(8);
        let (_ticket, rx) = submit(&pool, None);
        pool.close();
        assert_eq!(rx.try_recv().unwrap().err(), Some(Refusal::Closed));
        assert_eq!(submit(&pool, None).0.err(), Some(Refusal::Closed));
    }

    /// Callers that take, give back and give up, while workers come and go: no place is ever
    /// leased twice, none is lost, and every waiter that keeps its ticket is answered.
    #[test]
    fn places_are_neither_lost_nor_doubled_in_a_race() {
        const CALLERS: usize = 8;
        const ROUNDS: usize = 2_000;
        let pool = Dispatcher::new(CALLERS);
        let places = [Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0))];
        for place in &places {
            pool.add(place.clone(), 2);
        }
        thread::scope(|scope| {
            for caller in 0..CALLERS {
                let pool = &pool;
                scope.spawn(move || {
                    for round in 0..ROUNDS {
                        let (tx, rx) = mpsc::channel::<Grant<Arc<AtomicUsize>>>();
                        let ticket = pool
                            .submit(None, move |grant| drop(tx.send(grant)))
                            .unwrap();
                        if (round + caller) % 5 == 0 {
                            drop(ticket);
                            continue;
                        }
                        let lease = rx.recv_timeout(Duration::from_secs(10)).unwrap().unwrap();
                        assert!(lease.worker.fetch_add(1, Ordering::SeqCst) < 2);
                        lease.worker.fetch_sub(1, Ordering::SeqCst);
                    }
                });
            }
            scope.spawn(|| {
                for _ in 0..ROUNDS {
                    let extra = pool.add(Arc::new(AtomicUsize::new(0)), 1);
                    pool.drain(extra);
                    thread::yield_now();
                    pool.remove(extra);
                }
            });
        });
        let end = pool.snapshot();
        assert_eq!(end.queued, 0);
        assert!(end.workers.iter().all(|(_, in_flight, _)| *in_flight == 0));
    }
}
