//! An `async` command, as the event loop sees its call.

use crate::{call::Call, handler, worker::Worker};
use pyo3::{exceptions::PyRuntimeError, prelude::*, types::PyDict};
use snakepit_proto::Fields;
use snakepit_server::{Answer, Failure, failed_chunk};
use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

/// So many chunks of a stream, and others have their turn: a generator that awaits nothing would have
/// the event loop to itself for as long as the network takes what it yields.
const TURN: i32 = 128;

#[pyclass(frozen, module = "snakepit_bridge._native")]
pub(crate) struct AsyncCall {
    worker: Arc<Worker>,
    call: Arc<Call>,
    started: Instant,
    progress: Mutex<Progress>,
}

#[derive(Default)]
struct Progress {
    index: i32,
    /// What could not be sent. The command is ended by an exception, and this is the answer.
    failure: Option<Failure>,
}

impl AsyncCall {
    pub(crate) fn new(worker: Arc<Worker>, call: Arc<Call>) -> Self {
        Self {
            worker,
            call,
            started: Instant::now(),
            progress: Mutex::default(),
        }
    }

    fn progress(&self) -> std::sync::MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, value: &Bound<'_, PyAny>, is_final: bool) -> PyResult<bool> {
        let Answer::Stream(chunks) = &self.call.answer else {
            return Err(PyRuntimeError::new_err("no stream"));
        };
        if self.call.is_cancelled() {
            // A generator that awaits nothing would never hear of it.
            self.call.set_closed();
            return Err(self.give_up(Failure::cancelled()));
        }
        let index = self.progress().index;
        match handler::message(value.py(), &self.worker, &self.call, value, index, is_final) {
            Ok(message) => {
                let next = index.wrapping_add(1);
                self.progress().index = next;
                Ok(chunks.push(&message) || next % TURN == 0)
            }
            Err(failure) => Err(self.give_up(failure)),
        }
    }

    fn give_up(&self, failure: Failure) -> PyErr {
        let message = failure.text.clone();
        self.progress().failure = Some(failure);
        PyRuntimeError::new_err(message)
    }

    fn answer(&self, py: Python<'_>, result: Result<Fields, Failure>) {
        let took = self.started.elapsed();
        self.call.leave_session(py);
        match &self.call.answer {
            Answer::Stream(chunks) => {
                self.worker.count(result.is_err());
                if let Err(failure) = result {
                    let index = self.progress().index;
                    let id = self.call.header.request_id();
                    chunks.push(&failed_chunk(id, index, failure));
                }
                self.worker.remember_end(&self.call);
                chunks.end();
            }
            Answer::Frame(lane) => {
                self.worker.took(took);
                self.worker.finish(&self.call, result, took);
                py.detach(|| lane.flush());
            }
            Answer::Unary(_) => self.worker.finish(&self.call, result, took),
        }
        self.worker.leave_loop(&self.call);
    }
}

#[pymethods]
impl AsyncCall {
    /// Whether the command is a generator.
    #[getter]
    fn streams(&self) -> bool {
        self.call.command.streams
    }

    /// Whether the call takes chunks.
    #[getter]
    fn is_stream(&self) -> bool {
        self.call.answer.is_stream()
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
    fn session_id(&self) -> Option<&str> {
        self.call.header.session().map(|session| session.id)
    }

    /// The keywords to call the function with; raises what is wrong with them.
    fn keywords<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        handler::keywords(py, &self.worker, &self.call)
    }

    /// `stop` is called when the call is cancelled.
    fn on_cancel(&self, py: Python<'_>, stop: Py<PyAny>) -> PyResult<()> {
        self.call.python().interrupt = Some(stop.clone_ref(py));
        if self.call.is_cancelled() {
            stop.call0(py)?;
        }
        Ok(())
    }

    /// Sends a chunk. True if the next one has to wait, for room or for its turn.
    fn chunk(&self, value: &Bound<'_, PyAny>) -> PyResult<bool> {
        self.push(value, false)
    }

    /// Has the event loop call `resume` once there is room, and the calls before it had their turn.
    fn on_room(&self, resume: Py<PyAny>) {
        if let Answer::Stream(chunks) = &self.call.answer {
            let worker = self.worker.clone();
            chunks.on_room(Box::new(move || worker.resume(resume)));
        }
    }

    /// The command has ended with this value, which is no chunk if what has `streamed` returned nothing.
    #[pyo3(signature = (value, streamed = false))]
    fn finish(&self, py: Python<'_>, value: &Bound<'_, PyAny>, streamed: bool) -> PyResult<()> {
        match &self.call.answer {
            Answer::Stream(_) if streamed && value.is_none() => {}
            Answer::Stream(_) => {
                self.push(value, true)?;
            }
            _ => {
                let result = handler::unary_result(py, &self.worker, &self.call, value);
                self.answer(py, result);
                return Ok(());
            }
        }
        self.answer(py, Ok(Fields::default()));
        Ok(())
    }

    /// The command has ended with this exception.
    fn fail(&self, py: Python<'_>, error: Bound<'_, PyAny>) {
        let known = self.progress().failure.take();
        let describe = || {
            self.worker
                .commands
                .failure(py, &self.call, PyErr::from_value(error))
        };
        let failure = known.map_or_else(
            || handler::caught(py, &self.worker, &self.call, || Err(describe())),
            Err,
        );
        self.answer(py, failure);
    }
}
