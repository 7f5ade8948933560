//! The values that a pool's dispatcher takes and returns.

use std::{
    collections::HashSet,
    sync::Arc,
    time::{Duration, Instant},
};

/// What stands for a worker in its pool. Each lease gets a clone.
pub trait Worker: Clone + Send + 'static {}
impl<W: Clone + Send + 'static> Worker for W {}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct WorkerKey(pub u64);

/// Which calls in the queue go first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Priority {
    High,
    #[default]
    Normal,
    Low,
}

impl Priority {
    /// A call is served as if it had come so much later.
    pub(super) fn delay(self) -> Duration {
        match self {
            Self::High => Duration::ZERO,
            Self::Normal => Duration::from_secs(1),
            Self::Low => Duration::from_secs(2),
        }
    }
}

/// How a call wants a worker.
#[derive(Clone, Debug)]
pub struct AcquireOptions {
    /// When the call was made.
    pub since: Instant,
    pub priority: Priority,
    pub deadline: Option<Instant>,
    /// How long it may wait for a worker once the pool has had one.
    pub queue_timeout: Option<Duration>,
    pub session: Option<Session>,
    /// See `Dispatcher::command`.
    pub command: CommandId,
    /// Whether the call may be sent to a worker that is still busy with earlier ones.
    pub pipelines: bool,
    /// Whether it had a worker before and has not started there. Such a call may exceed the queue's limit.
    pub requeued: bool,
    /// The places of the calls that wait for this one.
    pub held: Vec<HeldPlace>,
}

/// A worker's place, and which call has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct HeldPlace {
    pub worker: WorkerKey,
    pub call_id: u64,
}

impl Default for AcquireOptions {
    fn default() -> Self {
        Self {
            since: Instant::now(),
            priority: Priority::default(),
            deadline: None,
            queue_timeout: None,
            session: None,
            command: CommandId::OTHERS,
            pipelines: false,
            requeued: false,
            held: Vec::new(),
        }
    }
}

/// A command of a pool, by its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CommandId(pub(super) usize);

impl CommandId {
    /// Those beyond the number of commands that a pool distinguishes.
    pub(super) const OTHERS: Self = Self(0);
}

/// A command of a worker whose calls gather, and how many calls a batch has at most.
#[derive(Clone, Debug)]
pub struct BatchCommand {
    pub name: String,
    pub size: usize,
}

/// The session that a call belongs to.
#[derive(Clone, Debug)]
pub struct Session {
    pub id: Arc<str>,
    /// Whether its calls wait for its worker. Otherwise a call takes another worker while that one is busy,
    /// and the session moves there and begins anew.
    pub strict: bool,
}

/// Why a call got no worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AcquireError {
    /// The queue is full.
    Saturated { max_queue: usize },
    /// No worker was free before the call's deadline.
    TimedOut,
    /// No worker was free within the queue timeout. Whether the pool had one at all.
    QueueTimedOut { has_workers: bool },
    /// The pool had no ready worker before the call's deadline.
    NotReady(Startup),
    /// The call has given up its place.
    GivenUp,
    /// Each place that it could get is held by a call that waits for a place itself.
    Reentrant,
    /// The session's worker is gone. Reported once; the next call begins the session anew.
    SessionLost,
    /// The pool has no worker, and waiting would not help.
    Unavailable(Arc<Unavailable>),
    /// The pool has stopped.
    Closed,
}

/// Why a pool has no worker.
#[derive(Debug, PartialEq, Eq)]
pub struct Unavailable {
    pub why: String,
    /// Whether the reason is that gRPC is not available.
    pub no_grpc: bool,
}

/// The progress of a pool none of whose workers has been ready yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Startup {
    /// Whether the workers are endpoints, to which connections are made.
    pub remote: bool,
    pub starting: usize,
    pub size: usize,
    pub elapsed: Duration,
    pub startup_timeout: Duration,
    /// Why the last worker that failed to start did, if one has.
    pub failed: Option<Arc<Unavailable>>,
}

/// A change of a session or a worker, reported to the pool's listener.
pub enum Event<W> {
    Created {
        id: Arc<str>,
        worker: W,
    },
    /// `from` may drop the state of this generation.
    Moved {
        id: Arc<str>,
        generation: u64,
        from: W,
        to: W,
    },
    /// Unused for longer than its time to live. `worker` may drop its state.
    Expired {
        id: Arc<str>,
        generation: u64,
        worker: W,
    },
    /// The least recently used of too many. `worker` may drop its state.
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
    /// So many calls of a worker have ended, after that was to be reported.
    Served {
        worker: W,
        calls: u64,
    },
    /// A draining worker has no calls any more.
    Drained {
        worker: W,
    },
}

#[derive(Debug, PartialEq, Eq)]
pub struct Snapshot {
    pub queued: usize,
    pub sessions: usize,
    /// Per worker: key, calls in flight, whether it takes no calls.
    pub workers: Vec<(WorkerKey, usize, bool)>,
}
