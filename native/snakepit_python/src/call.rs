//! A call that a worker serves, by whichever RPC it came.

use crate::{command::Command, journal::Journal};
use parking_lot::{Mutex, MutexGuard};
use pyo3::{Py, PyAny, Python, intern};
use snakepit_proto::{CallHeader, CallProgress, HandlerExit, Progress, TAKES_PROGRESS};
use snakepit_server::{BatchLimits, Schedulable};
use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

pub(crate) type Responder = snakepit_server::Responder<Journal>;

pub(crate) struct Call {
    pub(crate) command: Arc<Command>,
    pub(crate) header: CallHeader,
    pub(crate) responder: Responder,
    cancelled: AtomicBool,
    closed: AtomicBool,
    /// Whether it has begun or was withdrawn, whichever came first.
    settled: AtomicBool,
    python: Mutex<PythonSide>,
}

/// The Python objects that learn of a cancellation.
#[derive(Default)]
pub(crate) struct PythonSide {
    pub(crate) context: Option<Py<PyAny>>,
    /// Stops an async command, once it has started.
    pub(crate) interrupt: Option<Py<PyAny>>,
}

impl Schedulable for Call {
    fn is_async(&self) -> bool {
        self.command.is_async
    }

    fn withdraw(&self) -> bool {
        !self.settled.swap(true, Ordering::AcqRel)
    }

    fn batch_limits(&self) -> Option<BatchLimits> {
        let batching = self.command.batching.as_ref();
        batching.map(|batching| batching.limits)
    }

    fn bytes(&self) -> usize {
        self.header.args().size()
    }
}

impl Call {
    pub(crate) fn new(
        command: Arc<Command>,
        header: CallHeader,
        responder: Responder,
    ) -> Arc<Self> {
        Arc::new(Self {
            command,
            header,
            responder,
            cancelled: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            settled: AtomicBool::new(false),
            python: Mutex::new(PythonSide::default()),
        })
    }

    /// Must be called, with Python's lock, before anything of the call is decoded. False if it was withdrawn: then it has
    /// its answer.
    pub(crate) fn begin(&self) -> bool {
        !self.settled.swap(true, Ordering::AcqRel)
    }

    pub(crate) fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Acquire)
    }

    /// Returns true the first time.
    pub(crate) fn cancel(&self) -> bool {
        let first = !self.cancelled.swap(true, Ordering::AcqRel);
        self.responder.cancel();
        first
    }

    /// Tells the command, once, that the call was cancelled.
    pub(crate) fn interrupt(&self, py: Python<'_>) {
        self.cancel_context(py);
        // A task that is cancelled twice cannot clean up.
        let interrupt = self.python().interrupt.take();
        let _ = interrupt.map(|interrupt| interrupt.call0(py));
    }

    /// As `interrupt`, for a call of a batch that runs on.
    pub(crate) fn cancel_context(&self, py: Python<'_>) {
        let context = {
            let side = self.python();
            side.context.as_ref().map(|context| context.clone_ref(py))
        };
        // The context itself logs an exception of a callback.
        let _ = context.map(|context| context.call_method0(py, intern!(py, "_cancel")));
    }

    /// The server has closed the generator, or cancelled the task.
    pub(crate) fn set_closed(&self) {
        self.closed.store(true, Ordering::Relaxed);
    }

    /// How the handler ended, if the call was cancelled.
    pub(crate) fn exit(&self) -> HandlerExit {
        if !self.is_cancelled() {
            HandlerExit::Unknown
        } else if self.closed.load(Ordering::Relaxed) {
            HandlerExit::Closed
        } else {
            HandlerExit::Stopped
        }
    }

    /// The command has ended: it no longer uses its session, and has no more progress to report.
    pub(crate) fn leave(&self, py: Python<'_>) {
        if self.header.session().is_none() && self.header.takes_events() & TAKES_PROGRESS == 0 {
            return;
        }
        let context = self.python().context.take();
        let _ = context.map(|context| context.call_method0(py, intern!(py, "_leave")));
    }

    /// The last progress that the command has reported.
    pub(crate) fn progress(&self, py: Python<'_>) -> Option<CallProgress> {
        let context = self.python().context.as_ref()?.clone_ref(py);
        let reported = context.getattr(py, intern!(py, "_progress")).ok()?;
        let (fraction, message) = reported.extract::<Option<(f64, String)>>(py).ok()??;
        Some(CallProgress {
            command: self.command.name.clone(),
            request_id: self.header.request_id().to_owned(),
            progress: Some(Progress { fraction, message }),
        })
    }

    pub(crate) fn python(&self) -> MutexGuard<'_, PythonSide> {
        self.python.lock()
    }
}
