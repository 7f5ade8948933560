//! What a command uses of a two-way call: the tools that its caller offers, and its input streams.

use crate::{call::Call, running, values, worker::Worker};
use pyo3::{
    prelude::*,
    types::{PyList, PyTuple},
};
use snakepit_proto::{Fields, ToolAnswer};
use snakepit_server::{Conversation, Ended, IoDriver, Read, Waited, Wake};
use std::{
    sync::{Arc, Weak},
    time::{Duration, Instant},
};

/// Asks the tools of one call.
#[pyclass(frozen, module = "snakepit_bridge._native")]
pub(crate) struct Asks {
    worker: Arc<Worker>,
    conversation: Arc<Conversation>,
    call: Weak<Call>,
    /// Their names.
    tools: Py<PyTuple>,
    /// Whether the client reads the kinds of values.
    kinds: bool,
}

impl Asks {
    /// `None` if the call is not two-way.
    pub(crate) fn of<'py>(
        py: Python<'py>,
        worker: &Arc<Worker>,
        call: &Arc<Call>,
    ) -> PyResult<Option<Bound<'py, PyAny>>> {
        let Some(conversation) = call.responder.conversation() else {
            return Ok(None);
        };
        let asks = Self {
            tools: PyTuple::new(py, conversation.tools())?.unbind(),
            worker: worker.clone(),
            conversation: conversation.clone(),
            call: Arc::downgrade(call),
            kinds: call.header.args().kinds.is_some(),
        };
        Ok(Some(Bound::new(py, asks)?.into_any()))
    }

    fn encoded(&self, tool: &str, args: &Bound<'_, PyAny>) -> PyResult<Fields> {
        let callbacks = &self.worker.callbacks;
        let fields = values::encode_fields(args, "args", self.kinds, callbacks)?;
        let (size, limit) = (fields.size(), self.worker.settings.max_message_size);
        if size > limit {
            let message = format!(
                "the arguments have {size} bytes, over the limit of {limit}: send less at a time, or raise \
                 max_message_size"
            );
            let error = (tool, "message_too_large", &message[..], &b""[..]);
            return Err(callbacks.tool_failed(args.py(), error));
        }
        Ok(fields)
    }
}

/// The value in the answer of a tool; raises an error if there is none.
fn value<'py>(
    py: Python<'py>,
    worker: &Worker,
    call: &Weak<Call>,
    tool: &str,
    answer: Result<ToolAnswer, Ended>,
) -> PyResult<Bound<'py, PyAny>> {
    let callbacks = &worker.callbacks;
    let answer = match answer {
        Ok(answer) => answer,
        Err(Ended::Cancelled) => return Err(cancelled(py, worker, call)),
        Err(ended) => {
            return Err(callbacks.tool_failed(py, (tool, "closed", reason(ended), b"")));
        }
    };
    if let Some(error) = answer.error {
        let code = if error.code.is_empty() {
            &error.reason
        } else {
            &error.code
        };
        return Err(callbacks.tool_failed(py, (tool, code, &error.message, &error.data)));
    }
    let kind = u8::try_from(answer.kind).unwrap_or(u8::MAX);
    values::decode(py, kind, &answer.value, "the answer", callbacks)
}

/// The command learns by its context, and an `async` one by its task, as well that its call was cancelled, and not
/// later.
fn cancelled(py: Python<'_>, worker: &Worker, call: &Weak<Call>) -> PyErr {
    if let Some(call) = call.upgrade() {
        // A batch runs on for others.
        if call.command.batching.is_some() {
            call.cancel_context(py);
        } else {
            call.interrupt(py);
        }
    }
    worker.callbacks.cancelled(py)
}

/// Why nothing more comes from the client, as a command reads it.
fn reason(ended: Ended) -> &'static str {
    match ended {
        Ended::ByClient => "the caller has ended its side of the call",
        Ended::Cancelled | Ended::Finished => "the call has ended",
    }
}

fn duration(seconds: Option<f64>) -> Option<Duration> {
    seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
}

/// If this thread runs commands, it drives the network while it waits.
fn driver(worker: &Worker) -> Option<&IoDriver> {
    running::is_here().then_some(&*worker.driver)
}

#[pymethods]
impl Asks {
    #[getter]
    fn tools(&self, py: Python<'_>) -> Py<PyTuple> {
        self.tools.clone_ref(py)
    }

    /// Asks and waits.
    fn call<'py>(
        &self,
        py: Python<'py>,
        tool: &str,
        args: &Bound<'py, PyAny>,
        timeout: Option<f64>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let fields = self.encoded(tool, args)?;
        let left = duration(timeout);
        let until = left.and_then(|left| Instant::now().checked_add(left));
        let mut fields = Some(fields);
        let mut id = 0;
        loop {
            let waited = py.detach(|| {
                if let Some(fields) = fields.take() {
                    id = self.conversation.ask(tool.to_owned(), fields, left, None);
                    self.conversation.write();
                }
                self.conversation
                    .wait_answer(id, until, driver(&self.worker))
            });
            let error = match waited {
                Waited::Done(answer) => return value(py, &self.worker, &self.call, tool, answer),
                Waited::Late => self.worker.callbacks.tool_timed_out(py, tool, timeout),
                Waited::Interrupted => match py.check_signals() {
                    Ok(()) => continue,
                    Err(error) => error,
                },
            };
            py.detach(|| self.conversation.withdraw(id));
            return Err(error);
        }
    }

    /// Asks, and has the event loop call `done` once there is an answer.
    fn ask(
        &self,
        py: Python<'_>,
        tool: String,
        args: &Bound<'_, PyAny>,
        timeout: Option<f64>,
        done: Py<PyAny>,
    ) -> PyResult<Ask> {
        let fields = self.encoded(&tool, args)?;
        self.worker.callbacks.serve_loop(py)?;
        let wake = resume(&self.worker, done);
        let id = py.detach(|| {
            let name = tool.clone();
            let id = self
                .conversation
                .ask(name, fields, duration(timeout), Some(wake));
            self.conversation.write();
            id
        });
        Ok(Ask {
            worker: self.worker.clone(),
            conversation: self.conversation.clone(),
            call: self.call.clone(),
            tool,
            id,
        })
    }
}

fn resume(worker: &Arc<Worker>, done: Py<PyAny>) -> Wake {
    let worker = worker.clone();
    Box::new(move || worker.resume(done))
}

/// A tool that was asked.
#[pyclass(frozen, module = "snakepit_bridge._native")]
pub(crate) struct Ask {
    worker: Arc<Worker>,
    conversation: Arc<Conversation>,
    call: Weak<Call>,
    tool: String,
    id: u64,
}

#[pymethods]
impl Ask {
    fn is_answered(&self) -> bool {
        self.conversation.is_answered(self.id)
    }

    /// What the tool has returned, once.
    fn result<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let answer = self.conversation.answer(self.id);
        value(
            py,
            &self.worker,
            &self.call,
            &self.tool,
            answer.unwrap_or(Err(Ended::Cancelled)),
        )
    }

    fn withdraw(&self, py: Python<'_>) {
        py.detach(|| self.conversation.withdraw(self.id));
    }
}

/// An input stream of a call.
#[pyclass(frozen, module = "snakepit_bridge._native")]
pub(crate) struct Source {
    worker: Arc<Worker>,
    conversation: Arc<Conversation>,
    call: Weak<Call>,
    id: u32,
    name: String,
}

impl Source {
    pub(crate) fn new(
        worker: &Arc<Worker>,
        call: &Arc<Call>,
        conversation: &Arc<Conversation>,
        (id, name): (u32, &str),
    ) -> Self {
        Self {
            worker: worker.clone(),
            conversation: conversation.clone(),
            call: Arc::downgrade(call),
            id,
            name: name.to_owned(),
        }
    }

    fn items<'py>(&self, py: Python<'py>, read: Read) -> PyResult<Bound<'py, PyList>> {
        let callbacks = &self.worker.callbacks;
        let list = PyList::empty(py);
        match read {
            Read::Items(items) => {
                for (kind, bytes) in items {
                    list.append(values::decode(py, kind, &bytes, &self.name, callbacks)?)?;
                }
            }
            Read::End => {}
            Read::Failed(error) => {
                return Err(callbacks.input_failed(py, &error.r#type, &error.message));
            }
            Read::Ended(Ended::Cancelled) => {
                return Err(cancelled(py, &self.worker, &self.call));
            }
            Read::Ended(ended) => return Err(callbacks.input_failed(py, "", reason(ended))),
        }
        Ok(list)
    }
}

#[pymethods]
impl Source {
    /// Waits for items; none at the end.
    fn take<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        loop {
            let waited = py.detach(|| self.conversation.wait_read(self.id, driver(&self.worker)));
            match waited {
                Waited::Done(read) => return self.items(py, read),
                _ => py.check_signals()?,
            }
        }
    }

    /// As `take`, but None if it would wait.
    fn poll<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyList>>> {
        let read = py.detach(|| self.conversation.read(self.id));
        read.map(|read| self.items(py, read)).transpose()
    }

    /// Has the event loop call `done` once `poll` returns something.
    fn on_ready(&self, py: Python<'_>, done: Py<PyAny>) -> PyResult<()> {
        self.worker.callbacks.serve_loop(py)?;
        let wake = resume(&self.worker, done);
        py.detach(|| self.conversation.on_readable(self.id, wake));
        Ok(())
    }

    /// Raises an error if the call is cancelled.
    fn check(&self, py: Python<'_>) -> PyResult<()> {
        let call = self.call.upgrade();
        if call.is_some_and(|call| call.is_cancelled()) {
            return Err(cancelled(py, &self.worker, &self.call));
        }
        Ok(())
    }

    fn stop(&self, py: Python<'_>) {
        py.detach(|| self.conversation.stop_input(self.id));
    }
}
