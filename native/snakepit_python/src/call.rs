//! One call on its way through a worker, whatever RPC it came by.

use crate::{commands::Command, journal::Journal};
use pyo3::{Py, PyAny, Python};
use snakepit_proto::Fields;
use snakepit_server::Job;
use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

pub(crate) type Answer = snakepit_server::Answer<Journal>;

/// What a call came with.
#[derive(Default)]
pub(crate) struct Request {
    pub(crate) call_id: u64,
    pub(crate) command: String,
    pub(crate) args: Fields,
    pub(crate) session_id: Option<String>,
    pub(crate) session_generation: u64,
    pub(crate) request_id: String,
    pub(crate) deadline: Option<Instant>,
    pub(crate) metadata: Vec<(String, String)>,
}

pub(crate) struct Call {
    pub(crate) command: Arc<Command>,
    pub(crate) request: Request,
    pub(crate) answer: Answer,
    cancelled: AtomicBool,
    closed: AtomicBool,
    python: Mutex<PythonSide>,
}

/// What to tell of a cancellation.
#[derive(Default)]
pub(crate) struct PythonSide {
    pub(crate) context: Option<Py<PyAny>>,
    /// Stops an async command, once it has started.
    pub(crate) interrupt: Option<Py<PyAny>>,
}

impl Job for Call {
    fn is_async(&self) -> bool {
        self.command.is_async
    }
}

impl Call {
    pub(crate) fn new(command: Arc<Command>, request: Request, answer: Answer) -> Arc<Self> {
        Arc::new(Self {
            command,
            request,
            answer,
            cancelled: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            python: Mutex::new(PythonSide::default()),
        })
    }

    pub(crate) fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Acquire)
    }

    /// True the first time.
    pub(crate) fn cancel(&self) -> bool {
        let first = !self.cancelled.swap(true, Ordering::AcqRel);
        if let Answer::Stream(chunks) = &self.answer {
            chunks.cancel();
        }
        first
    }

    /// It was ended from outside: its generator closed, its task cancelled.
    pub(crate) fn set_closed(&self) {
        self.closed.store(true, Ordering::Relaxed);
    }

    /// How a cancelled call ended.
    pub(crate) fn how_ended(&self) -> &'static str {
        if self.closed.load(Ordering::Relaxed) {
            "closed"
        } else {
            "stopped"
        }
    }

    /// No call of its session that runs here is this one any more.
    pub(crate) fn leave_session(&self, py: Python<'_>) {
        if self.request.session_id.is_none() {
            return;
        }
        let context = self.python().context.take();
        let _ = context.map(|context| context.call_method0(py, "_leave"));
    }

    pub(crate) fn python(&self) -> MutexGuard<'_, PythonSide> {
        self.python.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
