//! A call of an `async` command, as Python's event loop uses it.

use crate::{call::Call, callbacks::metadata, invocation::Invocation, worker::Worker};
use parking_lot::Mutex;
use pyo3::{exceptions::PyRuntimeError, prelude::*, types::PyDict};
use snakepit_proto::Fields;
use snakepit_server::{Failure, Work};
use std::{
    sync::{Arc, OnceLock},
    time::Instant,
};

/// After so many chunks a stream lets other tasks run: a generator that awaits nothing would block the
/// event loop for as long as the network keeps up with it.
const TURN: i32 = 128;

#[pyclass(frozen, module = "snakepit_bridge._native")]
pub(crate) struct AsyncCall {
    worker: Arc<Worker>,
    call: Arc<Call>,
    started: Instant,
    begun: OnceLock<bool>,
    /// Why a chunk could not be sent. An exception ends the command, and this is the answer.
    failure: Mutex<Option<Failure>>,
}

impl AsyncCall {
    pub(crate) fn new(worker: Arc<Worker>, call: Arc<Call>) -> Self {
        Self {
            worker,
            call,
            started: Instant::now(),
            begun: OnceLock::new(),
            failure: Mutex::default(),
        }
    }

    fn invocation<'a, 'py>(&'a self, py: Python<'py>) -> Invocation<'a, 'py> {
        Invocation {
            py,
            worker: &self.worker,
            call: &self.call,
        }
    }

    fn send(&self, value: &Bound<'_, PyAny>, is_final: bool) -> PyResult<bool> {
        let Some(stream) = self.call.responder.as_stream() else {
            return Err(PyRuntimeError::new_err(
                "the client of this call takes no chunks",
            ));
        };
        if self.call.is_cancelled() {
            // A generator that awaits nothing would not notice.
            self.call.set_closed();
            return Err(self.give_up(Failure::cancelled()));
        }
        match self.invocation(value.py()).send(stream, value, is_final) {
            Ok(must_wait) => Ok(must_wait || stream.sent() % TURN == 0),
            Err(failure) => Err(self.give_up(failure)),
        }
    }

    fn give_up(&self, failure: Failure) -> PyErr {
        let message = failure.text.clone();
        *self.failure.lock() = Some(failure);
        PyRuntimeError::new_err(message)
    }

    fn answer(&self, py: Python<'_>, result: Result<Fields, Failure>) {
        self.invocation(py).finish(result, self.started);
        if self.call.responder.needs_flush() {
            py.detach(|| self.call.responder.flush());
        }
        self.worker.leave_loop(&Work::Call(self.call.clone()));
    }
}

#[pymethods]
impl AsyncCall {
    /// Whether the command is a generator.
    #[getter]
    fn streams(&self) -> bool {
        self.call.command.streams
    }

    /// Whether the client expects chunks.
    #[getter]
    fn is_stream(&self) -> bool {
        self.call.responder.as_stream().is_some()
    }

    #[getter]
    fn name(&self) -> &str {
        &self.call.command.name
    }

    #[getter]
    fn function(&self, py: Python<'_>) -> Py<PyAny> {
        self.call.command.function.clone_ref(py)
    }

    #[getter]
    fn request_id(&self) -> &str {
        self.call.header.request_id()
    }

    #[getter]
    fn session(&self) -> Option<(&str, u64)> {
        let session = self.call.header.session();
        session.map(|session| (session.id, session.client_id))
    }

    /// Must be called before anything of the call is decoded. False if it was cancelled before: then it has its answer.
    fn begin(&self) -> bool {
        *self.begun.get_or_init(|| self.call.begin())
    }

    /// The metadata of the call.
    fn metadata<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        metadata(py, &self.call.header)
    }

    /// The keyword arguments of the function; raises an error if they are invalid.
    fn keywords<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let keywords = self.invocation(py).keywords()?;
        if self.call.is_cancelled() {
            return Err(self.give_up(Failure::cancelled()));
        }
        Ok(keywords)
    }

    /// Calls `stop` when the call is cancelled.
    fn on_cancel(&self, py: Python<'_>, stop: Py<PyAny>) {
        self.call.python().interrupt = Some(stop);
        if self.call.is_cancelled() {
            self.call.interrupt(py);
        }
    }

    /// Sends a chunk. True if the next one must wait, for room or for other tasks.
    fn chunk(&self, value: &Bound<'_, PyAny>) -> PyResult<bool> {
        self.send(value, false)
    }

    /// Calls `resume` on the event loop once there is room, and earlier tasks have run.
    fn on_room(&self, resume: Py<PyAny>) {
        if let Some(stream) = self.call.responder.as_stream() {
            let worker = self.worker.clone();
            stream.on_room(Box::new(move || worker.resume(resume)));
        }
    }

    /// The command has returned `value`. If it has `streamed`, None is not a chunk.
    #[pyo3(signature = (value, streamed = false))]
    fn finish(&self, py: Python<'_>, value: &Bound<'_, PyAny>, streamed: bool) -> PyResult<()> {
        let result = if !self.is_stream() {
            self.invocation(py).result(value)
        } else if streamed && value.is_none() {
            Ok(Fields::default())
        } else {
            self.send(value, true)?;
            Ok(Fields::default())
        };
        self.answer(py, result);
        Ok(())
    }

    /// The command has raised `error`, or it cannot run for that reason.
    fn fail(&self, py: Python<'_>, error: Bound<'_, PyAny>) {
        if !self.begin() {
            return;
        }
        let run = self.invocation(py);
        let known = self.failure.lock().take();
        let describe = || Err(run.failure(PyErr::from_value(error)));
        let failure = known.map_or_else(|| run.caught(describe), Err);
        self.answer(py, failure);
    }
}
