//! The threads that run commands. Python is entered to run one, and left to wait for the next.

use crate::{asyncs::AsyncCall, call::Call, journal::Lane, values, worker::Worker};
use prost::Message;
use pyo3::{
    exceptions::PyStopIteration,
    intern,
    prelude::*,
    types::{PyBool, PyBytes, PyCFunction, PyDict, PyFloat, PyInt, PyList, PyString, PyTuple},
};
use snakepit_proto::{Fields, StreamResponse};
use snakepit_server::{Answer, Chunks, Failure, chunk, failed_chunk};
use std::{
    any::Any,
    cell::RefCell,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

/// A command that takes no longer has run no event loop, which may have left signals changed.
const NO_EVENT_LOOP: Duration = Duration::from_micros(100);

thread_local! {
    static WORKER: RefCell<Option<Arc<Worker>>> = const { RefCell::new(None) };
    static RUNNING: RefCell<Option<Arc<Call>>> = const { RefCell::new(None) };
}

/// That of the call which this thread runs.
pub(crate) fn request_id() -> String {
    RUNNING.with_borrow(|call| {
        call.as_ref()
            .map(|call| call.header.request_id().to_owned())
            .unwrap_or_default()
    })
}

/// Runs commands in this thread until the worker stops.
pub(crate) fn serve(py: Python<'_>, worker: &Arc<Worker>) {
    // However this thread ends: health tells how many there are.
    let _thread = worker.scheduler.thread();
    let writer = worker.next_writer();
    let Ok(run_current) = wrap_pyfunction!(run_current, py) else {
        return;
    };
    WORKER.set(Some(worker.clone()));
    let mut done: Option<Arc<Call>> = None;
    let mut unsent: Vec<Arc<Lane>> = Vec::new();
    // Whether a command may have changed which signals end the worker: only the main thread can.
    let mut long = false;
    loop {
        let mut next = worker.scheduler.next(done.as_ref());
        if done.take().is_some() {
            worker.has_left();
        }
        if !next
            .as_ref()
            .is_some_and(|call| may_start(py, worker, call, &unsent, writer))
        {
            if std::mem::take(&mut long) {
                py.detach(|| unsent.drain(..).for_each(|lane| lane.flush()));
                let _ = worker.commands.hooks().call_method0(py, "restore_signals");
            }
            py.detach(|| {
                unsent.drain(..).for_each(|lane| lane.flush());
                if next.is_none() {
                    next = worker.seat.wait_next(&worker.scheduler);
                }
            });
        }
        if worker.has_posts() {
            py.detach(|| unsent.drain(..).for_each(|lane| lane.flush()));
            run_posts(py, worker);
        }
        let Some(call) = next else {
            if worker.scheduler.is_closed() {
                break;
            }
            run_signal_handlers(py, worker);
            continue;
        };
        if worker.scheduler.wants_thread() {
            // Without it calls run one after another, which is no reason to fail this one.
            let _ = worker.commands.hooks().call_method0(py, "start_thread");
        }
        if call.answer.is_stream() {
            worker.seat.leave();
        }
        RUNNING.set(Some(call.clone()));
        let started = Instant::now();
        run_in_context(py, worker, &call, &run_current);
        long |= worker.seat.is_shared() && started.elapsed() > NO_EVENT_LOOP;
        RUNNING.set(None);
        if let Answer::Frame(lane) = &call.answer
            && !unsent.iter().any(|one| Arc::ptr_eq(one, lane))
        {
            unsent.push(lane.clone());
        }
        done = Some(call);
    }
    WORKER.set(None);
}

/// None of them raises but by a signal's handler.
fn run_posts(py: Python<'_>, worker: &Worker) {
    for function in worker.take_posts() {
        if let Err(error) = function.call0(py) {
            let hooks = worker.commands.hooks();
            let _ = hooks.call_method1(py, "signal_failed", (error.into_value(py),));
        }
    }
}

fn run_signal_handlers(py: Python<'_>, worker: &Worker) {
    if let Err(error) = py.check_signals() {
        let hooks = worker.commands.hooks();
        let _ = hooks.call_method1(py, "signal_failed", (error.into_value(py),));
    }
}

/// Runs a call with variables of its own (`contextvars`).
fn run_in_context(
    py: Python<'_>,
    worker: &Worker,
    call: &Call,
    run_current: &Bound<'_, PyCFunction>,
) {
    let ran = worker
        .commands
        .call_context(py)
        .and_then(|context| context.call_method1(intern!(py, "run"), (run_current,)));
    if let Err(error) = ran {
        let failure = worker.commands.failure(py, call, error);
        worker.finish(call, Err(failure), Duration::ZERO);
    }
}

/// Runs the call that this thread is at.
#[pyfunction]
fn run_current(py: Python<'_>) {
    RUNNING.with_borrow(|call| {
        WORKER.with_borrow(|worker| {
            if let (Some(call), Some(worker)) = (call, worker) {
                run(py, worker, call);
            }
        });
    });
}

/// Whether the replies of the calls before it may go on waiting while a call runs.
fn may_start(
    py: Python<'_>,
    worker: &Worker,
    call: &Call,
    unsent: &[Arc<Lane>],
    writer: usize,
) -> bool {
    match (&call.answer, unsent) {
        (_, []) => true,
        (Answer::Frame(lane), [before]) if Arc::ptr_eq(lane, before) => {
            worker.commands_are_short()
                && lane.may_start(|journal| journal.note(py, call.header.call_id(), writer))
        }
        _ => false,
    }
}

fn run(py: Python<'_>, worker: &Worker, call: &Call) {
    let started = Instant::now();
    if let Answer::Stream(chunks) = &call.answer {
        let mut steps = Steps::new(worker, call, chunks);
        let ended = caught(py, worker, call, || steps.run(py));
        if let Err(failure) = ended {
            let (id, index) = (call.header.request_id(), steps.index);
            chunks.push(&failed_chunk(id, index, failure));
            worker.count(true);
        } else {
            worker.count(false);
        }
        call.leave_session(py);
        worker.remember_end(call);
        chunks.end();
        return;
    }
    let result = caught(py, worker, call, || unary(py, worker, call));
    call.leave_session(py);
    let took = started.elapsed();
    worker.took(took);
    worker.finish(call, result, took);
}

/// What `run` gives. A panic in it is reported, and is the failure of the call.
pub(crate) fn caught<T>(
    py: Python<'_>,
    worker: &Worker,
    call: &Call,
    run: impl FnOnce() -> Result<T, Failure>,
) -> Result<T, Failure> {
    catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|panic| {
        let name = &call.command.name;
        Err(worker.commands.panicked(py, name, panic_text(&*panic)))
    })
}

pub(crate) fn panic_text(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("it has no text")
}

fn unary(py: Python<'_>, worker: &Worker, call: &Call) -> Result<Fields, Failure> {
    let (value, _) = unwrapped(py, worker, call, value(py, worker, call)?)?;
    unary_result(py, worker, call, &value)
}

/// What a unary call is answered with.
pub(crate) fn unary_result(
    py: Python<'_>,
    worker: &Worker,
    call: &Call,
    value: &Bound<'_, PyAny>,
) -> Result<Fields, Failure> {
    let values = result(py, worker, call, value, "result")?;
    let (size, limit) = (values.size(), worker.settings.max_message_size);
    if size > limit {
        return Err(Failure::too_large(size, limit));
    }
    Ok(values)
}

fn value<'py>(py: Python<'py>, worker: &Worker, call: &Call) -> Result<Bound<'py, PyAny>, Failure> {
    keywords(py, worker, call)
        .and_then(|keywords| call.command.function.bind(py).call((), Some(&keywords)))
        .inspect(|_| leave_fork(py, worker))
        .map_err(|error| worker.commands.failure(py, call, error))
}

/// A result, or the generator of a stream's chunks. What a plain decorator hides, that a method is `async`
/// or a generator, is seen by what it returns.
fn unwrapped<'py>(
    py: Python<'py>,
    worker: &Worker,
    call: &Call,
    value: Bound<'py, PyAny>,
) -> Result<(Bound<'py, PyAny>, Option<Bound<'py, PyAny>>), Failure> {
    if is_result(&value) {
        return Ok((value, None));
    }
    let async_call = RUNNING.with_borrow(|call| {
        WORKER.with_borrow(|worker| Some(AsyncCall::new(worker.clone()?, call.clone()?)))
    });
    let Some(async_call) = async_call else {
        return Ok((value, None));
    };
    let args = (
        value,
        async_call,
        &call.command.name,
        call.answer.is_stream(),
    );
    let hooks = worker.commands.hooks().bind(py);
    hooks
        .call_method1("unwrap", args)
        .and_then(|unwrapped| unwrapped.extract())
        .map_err(|error| worker.commands.failure(py, call, error))
}

/// Of the types of most results none is to be unwrapped.
fn is_result(value: &Bound<'_, PyAny>) -> bool {
    value.is_none()
        || value.is_exact_instance_of::<PyDict>()
        || value.is_exact_instance_of::<PyString>()
        || value.is_exact_instance_of::<PyList>()
        || value.is_exact_instance_of::<PyInt>()
        || value.is_exact_instance_of::<PyFloat>()
        || value.is_exact_instance_of::<PyBool>()
        || value.is_exact_instance_of::<PyBytes>()
        || value.is_exact_instance_of::<PyTuple>()
}

/// Ends a child that a command has forked: it must not go on with its parent's connections.
fn leave_fork(py: Python<'_>, worker: &Worker) {
    if worker.forked.load(Ordering::Relaxed) {
        let _ = worker.commands.hooks().call_method0(py, "leave_fork");
    }
}

pub(crate) fn keywords<'py>(
    py: Python<'py>,
    worker: &Worker,
    call: &Call,
) -> PyResult<Bound<'py, pyo3::types::PyDict>> {
    let args = values::decode_fields(py, call.header.args(), worker.commands.hooks())?;
    worker.commands.keywords(py, call, args)
}

pub(crate) fn result(
    py: Python<'_>,
    worker: &Worker,
    call: &Call,
    value: &Bound<'_, PyAny>,
    root: &str,
) -> Result<Fields, Failure> {
    let kinds = call.header.args().kinds.is_some();
    values::encode_fields(value, root, kinds, worker.commands.hooks())
        .map_err(|error| worker.commands.failure(py, call, error))
}

/// A streaming command in its thread.
struct Steps<'a> {
    worker: &'a Worker,
    call: &'a Call,
    chunks: &'a Chunks,
    index: i32,
}

impl<'a> Steps<'a> {
    fn new(worker: &'a Worker, call: &'a Call, chunks: &'a Chunks) -> Self {
        Self {
            worker,
            call,
            chunks,
            index: 0,
        }
    }

    fn run(&mut self, py: Python<'_>) -> Result<(), Failure> {
        let first = value(py, self.worker, self.call)?;
        let (value, generator) = if self.call.command.streams {
            (py.None().into_bound(py), Some(first))
        } else {
            unwrapped(py, self.worker, self.call, first)?
        };
        let Some(generator) = generator else {
            return self.push(py, &value, true).map(drop);
        };
        let ended = self.drive(py, &generator);
        if ended.is_err() {
            self.close(&generator);
        }
        ended
    }

    fn drive(&mut self, py: Python<'_>, generator: &Bound<'_, PyAny>) -> Result<(), Failure> {
        let next = generator
            .getattr("__next__")
            .map_err(|error| self.failure(py, error))?;
        loop {
            if self.call.is_cancelled() {
                self.call.set_closed();
                return Err(Failure::cancelled());
            }
            match next.call0() {
                Ok(value) => {
                    leave_fork(py, self.worker);
                    if self.push(py, &value, false)? {
                        py.detach(|| self.chunks.wait_room());
                    }
                }
                Err(stop) if stop.is_instance_of::<PyStopIteration>(py) => {
                    leave_fork(py, self.worker);
                    let returned = stop.value(py).getattr("value");
                    return match returned {
                        Ok(value) if !value.is_none() => self.push(py, &value, true).map(drop),
                        _ => Ok(()),
                    };
                }
                Err(error) => return Err(self.failure(py, error)),
            }
        }
    }

    /// Ends the generator where it stands.
    fn close(&self, generator: &Bound<'_, PyAny>) {
        if let Err(error) = generator.call_method0("close") {
            let name = &self.call.command.name;
            let hooks = self.worker.commands.hooks().bind(generator.py());
            let _ = hooks.call_method1("close_failed", (name, error.value(generator.py())));
        }
    }

    fn push(
        &mut self,
        py: Python<'_>,
        value: &Bound<'_, PyAny>,
        is_final: bool,
    ) -> Result<bool, Failure> {
        let message = message(py, self.worker, self.call, value, self.index, is_final)?;
        self.index = self.index.wrapping_add(1);
        Ok(self.chunks.push(&message))
    }

    fn failure(&self, py: Python<'_>, error: PyErr) -> Failure {
        self.worker.commands.failure(py, self.call, error)
    }
}

/// A chunk that may be sent.
pub(crate) fn message(
    py: Python<'_>,
    worker: &Worker,
    call: &Call,
    value: &Bound<'_, PyAny>,
    index: i32,
    is_final: bool,
) -> Result<StreamResponse, Failure> {
    let root = if is_final { "result" } else { "chunk" };
    let values = result(py, worker, call, value, root)?;
    let chunk = chunk(call.header.request_id(), index, is_final, values);
    let (size, limit) = (chunk.encoded_len(), worker.settings.max_message_size);
    if size > limit {
        return Err(Failure::too_large(size, limit));
    }
    Ok(chunk)
}
