//! Runs a batch: calls the command's function once, and answers each call of the batch.

use crate::{
    call::Call, callbacks::metadata, command::Batching, invocation::Invocation,
    unwrapping::is_result, worker::Worker,
};
use parking_lot::Mutex;
use pyo3::{
    exceptions::{PyBaseException, PyRuntimeError},
    prelude::*,
    types::{PyDict, PyList},
};
use snakepit_proto::Fields;
use snakepit_server::{Batch, BatchPart, Failure, Work};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};

/// A batch that runs, as Python uses it.
#[pyclass(frozen, module = "snakepit_bridge._native")]
pub(crate) struct BatchRun {
    worker: Arc<Worker>,
    batch: Arc<Batch<Call>>,
    started: Instant,
    /// The calls whose arguments the function has got.
    served: Mutex<Vec<Arc<Call>>>,
}

impl BatchRun {
    pub(crate) fn new(worker: Arc<Worker>, batch: Arc<Batch<Call>>) -> Self {
        Self {
            worker,
            batch,
            started: Instant::now(),
            served: Mutex::default(),
        }
    }

    /// Runs the batch in this thread; returns how long that took.
    pub(crate) fn run(self, py: Python<'_>) -> Duration {
        let started = self.started;
        let Some(first) = self.first() else {
            return started.elapsed();
        };
        let (worker, batch) = (self.worker.clone(), self.batch.clone());
        // A Python object of its own, for a coroutine that a decorator has hidden.
        match Bound::new(py, self) {
            Ok(run) => {
                let this = run.get();
                let value = this.invocation(py, &first).caught(|| {
                    this.value(&run)
                        .map_err(|error| this.invocation(py, &first).failure(error))
                });
                match value {
                    Ok(Some(value)) => this.finish(py, &value),
                    Ok(None) => this.end(py),
                    Err(failure) => this.fail_all(py, &failure),
                }
            }
            Err(error) => {
                let failure = Failure::new("internal_error", error.to_string());
                Self::new(worker, batch).fail_all(py, &failure);
            }
        }
        started.elapsed()
    }

    /// What the function returns. None if it has no call to serve.
    fn value<'py>(&self, run: &Bound<'py, Self>) -> PyResult<Option<Bound<'py, PyAny>>> {
        let py = run.py();
        let Some(keywords) = self.keywords(py)? else {
            return Ok(None);
        };
        let value = self.function(py).bind(py).call((), Some(&keywords))?;
        if self.worker.is_forked() {
            self.worker.callbacks.leave_fork(py);
        }
        if is_result(&value) {
            return Ok(Some(value));
        }
        let callbacks = &self.worker.callbacks;
        callbacks.wait_for(value, run.clone().into_any()).map(Some)
    }

    /// Records in the start journal that the calls start. If that fails they are answered: another worker could run
    /// them once more.
    pub(crate) fn note_start(&self, py: Python<'_>, writer: usize) -> bool {
        let noted = self.batch.present().iter().all(|call| {
            call.responder.calls().is_none_or(|calls| {
                let id = call.header.call_id();
                calls.note_start(|journal| journal.note_batch(py, id, writer))
            })
        });
        if !noted {
            let message = "the worker cannot note in its journal that the batch starts";
            self.fail_all(py, &Failure::new("internal_error", message));
        }
        noted
    }

    fn invocation<'a, 'py>(&'a self, py: Python<'py>, call: &'a Arc<Call>) -> Invocation<'a, 'py> {
        Invocation {
            py,
            worker: &self.worker,
            call,
        }
    }

    fn first(&self) -> Option<Arc<Call>> {
        self.batch.calls.first().map(|(call, _)| call.clone())
    }

    fn batching(&self) -> Option<&Batching> {
        let (call, _) = self.batch.calls.first()?;
        call.command.batching.as_ref()
    }

    /// Answers a call, unless it was cancelled and has left the batch.
    fn answer(&self, py: Python<'_>, call: &Arc<Call>, result: Result<Fields, Failure>) {
        call.leave(py);
        if !self.batch.take(call) {
            return;
        }
        let mut calls = self.batch.calls.iter();
        let wait = calls.find(|(one, _)| Arc::ptr_eq(one, call));
        let part = BatchPart {
            size: u32::try_from(self.batch.calls.len()).unwrap_or(u32::MAX),
            wait: wait.map(|(_, wait)| *wait).unwrap_or_default(),
        };
        let took = self.started.elapsed();
        self.worker.finish_in_batch(call, result, took, part);
    }

    /// Answers a call with an item of what the function has returned.
    fn answer_with(&self, call: &Arc<Call>, value: &Bound<'_, PyAny>) {
        let py = value.py();
        let run = self.invocation(py, call);
        let result = run.caught(|| {
            if value.is_instance_of::<PyBaseException>() {
                return Err(run.failure(PyErr::from_value(value.clone())));
            }
            match call.responder.as_stream() {
                Some(stream) => run.send(stream, value, true).map(|_| Fields::default()),
                None => run.result(value),
            }
        });
        self.answer(py, call, result);
    }

    fn fail_all(&self, py: Python<'_>, failure: &Failure) {
        for call in self.batch.present() {
            self.answer(py, &call, Err(failure.clone()));
        }
        self.end(py);
    }

    /// All calls are answered.
    fn end(&self, py: Python<'_>) {
        let Some(first) = self.first() else {
            return;
        };
        for (call, _) in &self.batch.calls {
            call.leave(py);
        }
        first.command.time.add(self.started.elapsed());
        if first.command.is_async {
            let work = Work::Batch(self.batch.clone());
            py.detach(|| {
                for (call, _) in &self.batch.calls {
                    if call.responder.needs_flush() {
                        call.responder.flush();
                    }
                }
            });
            self.worker.leave_loop(&work);
        }
    }
}

#[pymethods]
impl BatchRun {
    #[getter]
    fn name(&self) -> &str {
        let first = self.batch.calls.first();
        first.map_or("", |(call, _)| &call.command.name)
    }

    #[getter]
    fn function(&self, py: Python<'_>) -> Py<PyAny> {
        let first = self.batch.calls.first();
        first.map_or_else(
            || py.None(),
            |(call, _)| call.command.function.clone_ref(py),
        )
    }

    /// Empty if there are several calls.
    #[getter]
    fn request_id(&self) -> &str {
        let only = self.batch.only();
        only.map_or("", |call| call.header.request_id())
    }

    /// The metadata of the call; empty if there are several.
    fn metadata<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let only = self.batch.only();
        only.map_or_else(|| Ok(PyDict::new(py)), |call| metadata(py, &call.header))
    }

    #[getter]
    fn sessions(&self) -> Vec<(String, u64)> {
        let sessions = self.batch.calls.iter();
        let sessions = sessions.filter_map(|(call, _)| call.header.session());
        sessions
            .map(|session| (session.id.to_owned(), session.client_id))
            .collect()
    }

    /// The keyword arguments of the function. Calls with invalid arguments are answered; None if no other is left.
    fn keywords<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyDict>>> {
        let Some(batching) = self.batching() else {
            return Ok(None);
        };
        let items = PyList::empty(py);
        for call in self.batch.present() {
            // Another thread may have had Python's lock for long.
            if !call.begin() {
                continue;
            }
            let run = self.invocation(py, &call);
            let keywords = run.caught(|| run.keywords().map_err(|error| run.failure(error)));
            match keywords {
                Ok(keywords) => {
                    items.append(keywords)?;
                    self.served.lock().push(call);
                }
                Err(failure) => {
                    self.answer(py, &call, Err(failure));
                    call.responder.wake();
                }
            }
        }
        if items.is_empty() {
            return Ok(None);
        }
        let keywords = batching.gather.bind(py).call1((items,))?;
        Ok(Some(keywords.cast_into::<PyDict>()?))
    }

    /// Calls `stop` when all calls are cancelled.
    fn on_cancel(&self, py: Python<'_>, stop: Py<PyAny>) -> PyResult<()> {
        for (call, _) in &self.batch.calls {
            call.python().interrupt = Some(stop.clone_ref(py));
        }
        if self.batch.present().iter().all(|call| call.is_cancelled()) {
            stop.call0(py)?;
        }
        Ok(())
    }

    /// The function has returned `value`.
    fn finish(&self, py: Python<'_>, value: &Bound<'_, PyAny>) {
        let served = std::mem::take(&mut *self.served.lock());
        let results = self.batching().map_or_else(
            || Err(PyRuntimeError::new_err("the command takes no batches")),
            |batching| {
                let results = batching.results.bind(py).call1((value, served.len()))?;
                Ok(results.cast_into::<PyList>()?)
            },
        );
        match results {
            Ok(results) => {
                for (call, value) in served.iter().zip(results.iter()) {
                    self.answer_with(call, &value);
                }
                self.end(py);
            }
            Err(error) => self.fail(py, error.into_value(py).into_bound(py).into_any()),
        }
    }

    /// The function has not been called: no call is left.
    fn skip(&self, py: Python<'_>) {
        self.end(py);
    }

    /// The function has raised `error`.
    pub(crate) fn fail(&self, py: Python<'_>, error: Bound<'_, PyAny>) {
        let left = self.batch.present();
        if let Some(first) = left.first() {
            let run = self.invocation(py, first);
            let described: Result<Fields, _> =
                run.caught(|| Err(run.failure(PyErr::from_value(error))));
            if let Err(failure) = described {
                return self.fail_all(py, &failure);
            }
        }
        self.end(py);
    }
}
