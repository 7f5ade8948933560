//! One call on its way through a worker, whatever RPC it came by.

use crate::{commands::Command, journal::Journal};
use pyo3::{Py, PyAny, Python};
use snakepit_proto::{CallHeader, HandlerExit};
use snakepit_server::Job;
use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicBool, Ordering},
};

pub(crate) type Answer = snakepit_server::Answer<Journal>;

pub(crate) struct Call {
    pub(crate) command: Arc<Command>,
    pub(crate) header: CallHeader,
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
    pub(crate) fn new(command: Arc<Command>, header: CallHeader, answer: Answer) -> Arc<Self> {
        Arc::new(Self {
            command,
            header,
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

    /// How the handler of a cancelled call ended.
    pub(crate) fn exit(&self) -> HandlerExit {
        if self.closed.load(Ordering::Relaxed) {
            HandlerExit::Closed
        } else {
            HandlerExit::Stopped
        }
    }

    /// No call of its session that runs here is this one any more.
    pub(crate) fn leave_session(&self, py: Python<'_>) {
        if self.header.session().is_none() {
            return;
        }
        let context = self.python().context.take();
        let _ = context.map(|context| context.call_method0(py, "_leave"));
    }

    pub(crate) fn python(&self) -> MutexGuard<'_, PythonSide> {
        self.python.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
