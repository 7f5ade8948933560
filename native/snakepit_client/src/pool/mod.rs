//! Which worker takes a call, and who waits for one: plain data behind a mutex that is held for
//! well under a microsecond. Waiters and the listener are always told outside of it.

use sessions::Stay;
use state::{Choice, Place, Queued, State, Visit};
use std::{
    collections::HashSet,
    panic::RefUnwindSafe,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::{Duration, Instant},
};
use tokio_util::sync::CancellationToken;

/// Why a call got no worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The queue is full.
    Saturated { max_queue: usize },
    /// The waiter's time was up before a worker was free.
    Expired,
    /// The session's worker is gone. Told once; the session then begins anew.
    SessionLost,
    /// No worker can be had, and waiting would not help.
    Unavailable(Arc<Unavailable>),
    /// The pool has stopped.
    Closed,
}

/// Why a pool has no worker.
#[derive(Debug, PartialEq, Eq)]
pub struct Unavailable {
    pub why: String,
    /// Whether the reason is that there is no gRPC to be had.
    pub no_grpc: bool,
}

/// What stands behind a place: cheap to clone.
pub trait Worker: Clone + Send + 'static {}
impl<W: Clone + Send + 'static> Worker for W {}

pub type Grant<W> = Result<Lease<W>, Refusal>;
type Waiter<W> = Box<dyn FnOnce(Grant<W>) + Send>;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct WorkerKey(pub u64);

/// The session that a call belongs to.
#[derive(Clone, Debug)]
pub struct Session {
    pub id: Arc<str>,
    /// Whether its calls wait for its worker; else a call takes another one when that is busy, and
    /// the session moves there and begins anew.
    pub strict: bool,
}

/// What becomes of sessions and workers, beside what calls hear.
pub enum Event<W> {
    Created {
        id: Arc<str>,
        worker: W,
    },
    /// `generation` is that of the life whose state `from` may drop.
    Moved {
        id: Arc<str>,
        generation: u64,
        from: W,
        to: W,
    },
    /// Unused for longer than its time to live, by which the worker drops its state as well.
    Expired {
        id: Arc<str>,
        worker: W,
    },
    /// The least recently used, when there were too many; `worker` may drop its state.
    Evicted {
        id: Arc<str>,
        generation: u64,
        worker: W,
    },
    /// Gone with their worker.
    Lost {
        ids: HashSet<Arc<str>>,
        worker: W,
    },
    /// A worker that drains has no calls any more.
    Drained {
        worker: W,
    },
}

type Listener<W> = Box<dyn Fn(Event<W>) + Send + Sync + RefUnwindSafe>;

#[derive(Clone, Copy)]
pub struct Limits {
    pub max_queue: usize,
    pub max_sessions: usize,
    pub session_ttl: Option<Duration>,
    /// How much work a worker may be sent ahead of what it does.
    pub pipeline_budget: Duration,
    /// How many workers the pool keeps, and how long each may take to be ready.
    pub size: usize,
    pub startup_timeout: Duration,
}

/// How far a pool is that has had no ready worker yet.
#[derive(Debug)]
pub struct Startup {
    pub starting: usize,
    pub size: usize,
    pub elapsed: Duration,
    pub startup_timeout: Duration,
    /// Why the last one that failed did, if one has.
    pub failed: Option<Arc<Unavailable>>,
}

/// What a call asks of a place.
#[derive(Clone, Debug, Default)]
pub struct Wish {
    pub deadline: Option<Instant>,
    pub session: Option<Session>,
    /// Whether it may be sent to a worker before that is free.
    pub pipelines: bool,
    /// Whether it goes in front of the queue: it has waited before.
    pub early: bool,
}

#[derive(Debug, PartialEq, Eq)]
pub struct Snapshot {
    pub queued: usize,
    pub sessions: usize,
    /// Per worker: key, calls in flight, draining.
    pub workers: Vec<(WorkerKey, usize, bool)>,
}

pub struct Dispatcher<W: Worker> {
    state: Mutex<State<W>>,
    listener: Listener<W>,
    /// Cancelled once the pool has had a ready worker.
    started: CancellationToken,
}

/// What is to be told to whom, once the lock is released.
struct Notices<W: Worker> {
    grants: Vec<(Waiter<W>, Grant<W>)>,
    events: Vec<Event<W>>,
}

impl<W: Worker> Notices<W> {
    fn new() -> Self {
        Self {
            grants: Vec::new(),
            events: Vec::new(),
        }
    }
}

impl<W: Worker> Dispatcher<W> {
    /// The listener must not block: it is called by whoever caused the event.
    pub fn new(
        limits: Limits,
        listener: impl Fn(Event<W>) + Send + Sync + RefUnwindSafe + 'static,
    ) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::new(State::new(limits)),
            listener: Box::new(listener),
            started: CancellationToken::new(),
        })
    }

    /// Leases the least-loaded worker, or the session's, to `waiter` at once, or queues it in order
    /// of arrival. A waiter is called at most once.
    pub fn submit(
        self: &Arc<Self>,
        wish: Wish,
        waiter: impl FnOnce(Grant<W>) + Send + 'static,
    ) -> Result<Ticket<W>, Refusal> {
        let Wish {
            deadline,
            session,
            pipelines,
            early,
        } = wish;
        let mut events = Vec::new();
        let mut state = self.lock();
        if let Some(session) = &session {
            state.expire(Some(&session.id), &mut events);
        }
        let wanted = session
            .as_ref()
            .map(|session| (&session.id, session.strict));
        let ahead = pipelines && (early || state.nobody_waits());
        let submitted = match state.choose(wanted, ahead) {
            Choice::Take(index) => {
                let stay = session.map(|session| state.enter(&session.id, &mut events));
                let place = state.take(index, stay, pipelines, &mut events);
                drop(state);
                waiter(Ok(self.lease(place)));
                Ok(Ticket {
                    dispatcher: Weak::new(),
                    number: 0,
                    starting: None,
                })
            }
            Choice::Wait(pinned) => match state.admit(early) {
                Ok(()) => {
                    let visit = session.map(|session| Visit {
                        stay: state.enter(&session.id, &mut events),
                        strict: session.strict,
                    });
                    let started = state.has_started();
                    let queued = Queued {
                        deadline: deadline.filter(|_| started),
                        waiter: Box::new(waiter),
                        visit,
                        pipelines,
                    };
                    let number = if early {
                        state.tick_early()
                    } else {
                        state.tick()
                    };
                    state.enqueue(number, pinned, queued);
                    drop(state);
                    Ok(Ticket {
                        dispatcher: Arc::downgrade(self),
                        number,
                        starting: (!started).then(|| self.started.clone()),
                    })
                }
                Err(refusal) => {
                    drop(state);
                    Err(refusal)
                }
            },
            Choice::Lost => {
                if let Some(session) = session {
                    state.end_session(&session.id);
                }
                drop(state);
                Err(Refusal::SessionLost)
            }
        };
        events.into_iter().for_each(&self.listener);
        submitted
    }

    pub fn add(self: &Arc<Self>, worker: W, capacity: usize) -> WorkerKey {
        let (key, notices) = {
            let mut state = self.lock();
            let key = state.add(worker, capacity);
            (key, self.serve(&mut state, Notices::new()))
        };
        self.tell(notices);
        self.started.cancel();
        key
    }

    /// No new leases, and no more calls in its sessions; those that run go on. Once there is none the
    /// listener hears `Drained`.
    pub fn drain(self: &Arc<Self>, key: WorkerKey) {
        let mut notices = Notices::new();
        let notices = {
            let mut state = self.lock();
            state.drain(key, &mut notices);
            self.serve(&mut state, notices)
        };
        self.tell(notices);
    }

    /// No new leases until `resume`: the worker's connection takes no more calls. False if it is not
    /// there.
    pub fn pause(&self, key: WorkerKey) -> bool {
        self.lock().pause(key, None)
    }

    /// A paused worker has a new connection. False if it is not paused.
    pub fn resume(self: &Arc<Self>, key: WorkerKey, worker: W) -> bool {
        let (resumed, notices) = {
            let mut state = self.lock();
            let resumed = state.resume(key, worker);
            (resumed, self.serve(&mut state, Notices::new()))
        };
        self.tell(notices);
        resumed
    }

    /// Forgets a worker, and with it its sessions. Its leases stay with their calls, and come back
    /// to nobody.
    pub fn remove(self: &Arc<Self>, key: WorkerKey) -> bool {
        self.remove_where(|one, _worker| one == key)
    }

    /// As `remove`, for the workers that `which` picks.
    pub fn remove_where(self: &Arc<Self>, which: impl Fn(WorkerKey, &W) -> bool) -> bool {
        let mut notices = Notices::new();
        let removed = {
            let mut state = self.lock();
            let removed = state.remove(which, &mut notices);
            notices = self.serve(&mut state, notices);
            removed
        };
        self.tell(notices);
        removed
    }

    /// Forgets a session. Returns the worker that it lived on, and the life's generation.
    pub fn end_session(&self, id: &str) -> Option<(W, u64)> {
        self.lock().end_session(id)
    }

    /// Ends sessions that are past their time though no call comes that would.
    pub fn expire_sessions(&self) {
        let mut more = true;
        while more {
            let mut events = Vec::new();
            more = self.lock().expire(None, &mut events);
            events.into_iter().for_each(&self.listener);
        }
    }

    /// So many workers have failed to start and are to be tried again, the last for this reason. Once
    /// these are all of the pool's, every call is refused with it; the next ready worker ends that.
    pub fn set_failed(&self, failed: usize, unavailable: Unavailable) {
        let notices = self.lock().set_failed(failed, unavailable.into());
        self.tell(notices);
    }

    /// Whether a worker that has left had come through a call. Known until it is asked for.
    pub fn had_answered(&self, key: WorkerKey) -> bool {
        self.lock().had_answered(key)
    }

    /// Ends the pool: whoever waits is refused, and so is every later call. Its workers stay until they
    /// are removed: calls that run on them go on.
    pub fn close(&self, refusal: Refusal) {
        let notices = self.lock().close(refusal);
        self.tell(notices);
    }

    pub fn snapshot(&self) -> Snapshot {
        self.lock().snapshot()
    }

    fn release(self: &Arc<Self>, lease: &Lease<W>) {
        let notices = {
            let mut state = self.lock();
            let mut notices = Notices::new();
            let drained = state.leave(lease);
            notices.events.extend(drained);
            self.serve(&mut state, notices)
        };
        self.tell(notices);
    }

    /// Gives free places to those who have waited longest; whoever waited too long is told so.
    fn serve(self: &Arc<Self>, state: &mut State<W>, mut notices: Notices<W>) -> Notices<W> {
        while let Some((queued, index)) = state.next(&mut notices) {
            let stay = queued.visit.map(|visit| visit.stay);
            let place = state.take(index, stay, queued.pipelines, &mut notices.events);
            notices.grants.push((queued.waiter, Ok(self.lease(place))));
        }
        notices
    }

    fn lease(self: &Arc<Self>, place: Place<W>) -> Lease<W> {
        Lease {
            dispatcher: self.clone(),
            exclusive: place.exclusive,
            took: None,
            unused: false,
            key: place.key,
            connection: place.connection,
            worker: place.worker,
            stay: place.stay,
        }
    }

    fn tell(&self, notices: Notices<W>) {
        for (waiter, grant) in notices.grants {
            waiter(grant);
        }
        notices.events.into_iter().for_each(&self.listener);
    }

    fn lock(&self) -> MutexGuard<'_, State<W>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A place on a worker. Dropping it gives the place to whoever has waited longest.
pub struct Lease<W: Worker> {
    dispatcher: Arc<Dispatcher<W>>,
    exclusive: bool,
    took: Option<Duration>,
    unused: bool,
    key: WorkerKey,
    /// Which of the worker's connections `worker` has.
    connection: u64,
    pub worker: W,
    stay: Option<Stay>,
}

impl<W: Worker> Lease<W> {
    /// Names the life of the call's session, of which the worker keeps only the last; 0 without one.
    pub fn session_generation(&self) -> u64 {
        self.stay.as_ref().map_or(0, |stay| stay.generation)
    }

    /// Gives the place back, and tells how long the command took.
    pub fn done(mut self, took: Duration) {
        self.took = Some(took);
    }

    /// Gives the place back without the worker having begun the call.
    pub fn give_back_unused(mut self) {
        self.unused = true;
    }

    pub fn dispatcher(&self) -> Arc<Dispatcher<W>> {
        self.dispatcher.clone()
    }

    /// What the worker does takes unexpectedly long: nothing more is sent ahead until it has ended.
    pub fn stall(&self) {
        self.dispatcher.lock().stall(self.key);
    }

    /// Whether the worker drains, or has left.
    pub fn is_leaving(&self) -> bool {
        self.dispatcher.lock().is_leaving(self.key)
    }

    /// The worker with the connection that it has now; the lease's own once it is out of the pool.
    pub fn present_worker(&self) -> W {
        let present = self.dispatcher.lock().worker(self.key);
        present.unwrap_or_else(|| self.worker.clone())
    }

    /// The connection takes no more calls: the worker gets none before it has another one.
    pub fn pause(&self) {
        self.dispatcher
            .lock()
            .pause(self.key, Some(self.connection));
    }

    /// Takes the worker out of the pool: it is not fit for another call.
    pub fn condemn(self) -> W {
        self.dispatcher.remove(self.key);
        self.worker.clone()
    }
}

impl<W: Worker> Drop for Lease<W> {
    fn drop(&mut self) {
        self.dispatcher.release(self);
    }
}

/// A place in the queue, given up when dropped.
pub struct Ticket<W: Worker> {
    dispatcher: Weak<Dispatcher<W>>,
    number: u64,
    /// Of a call that came before the pool's first worker was ready: cancelled when one is.
    starting: Option<CancellationToken>,
}

impl<W: Worker> Ticket<W> {
    pub fn starting(&self) -> Option<CancellationToken> {
        self.starting.clone()
    }

    pub fn startup(&self) -> Option<Startup> {
        Some(self.dispatcher.upgrade()?.lock().startup())
    }

    /// Whether the pool has a worker that the call could wait for.
    pub fn has_workers(&self) -> bool {
        let dispatcher = self.dispatcher.upgrade();
        dispatcher.is_none_or(|dispatcher| dispatcher.lock().has_workers())
    }
}

impl<W: Worker> Drop for Ticket<W> {
    fn drop(&mut self) {
        let Some(dispatcher) = self.dispatcher.upgrade() else {
            return;
        };
        let gone = {
            let mut state = dispatcher.lock();
            let queued = state.dequeue(self.number);
            queued.map(|queued| state.refuse(queued, Refusal::Expired))
        };
        drop(gone);
    }
}

mod sessions;
mod state;

#[cfg(test)]
mod tests;

#[cfg(test)]
mod session_tests;
