//! Calls from the server to Python: the methods of the class `_Callbacks` in `snakepit_bridge`.

use crate::call_error;
use pyo3::{
    intern,
    panic::PanicException,
    prelude::*,
    sync::PyOnceLock,
    types::{PyBytes, PyDict},
};
use snakepit_proto::{CallHeader, SessionKey};
use snakepit_server::Failure;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// The metadata that carries the context of a span.
const TRACEPARENT: &str = "traceparent";

pub(crate) struct Callbacks {
    object: Py<PyAny>,
    /// Makes the `contextvars` context of a call.
    call_context: PyOnceLock<Py<PyAny>>,
    loop_served: PyOnceLock<Py<PyAny>>,
}

/// What only Python knows of the worker.
#[derive(Clone, Copy, FromPyObject)]
pub(crate) struct Figures {
    #[pyo3(item(0))]
    pub(crate) sessions: i64,
    #[pyo3(item(1))]
    pub(crate) memory_bytes: i64,
}

/// An exception that a command has raised, as a failure.
pub(crate) struct Described {
    pub(crate) failure: Failure,
    /// The command was ended from outside.
    pub(crate) closed: bool,
}

impl Callbacks {
    pub(crate) fn new(object: Py<PyAny>) -> Self {
        Self {
            object,
            call_context: PyOnceLock::new(),
            loop_served: PyOnceLock::new(),
        }
    }

    fn bind<'py>(&self, py: Python<'py>) -> &Bound<'py, PyAny> {
        self.object.bind(py)
    }

    /// Starts another thread that runs commands. If that fails, calls run with those there are.
    pub(crate) fn start_thread(&self, py: Python<'_>) -> bool {
        self.bind(py).call_method0("start_thread").is_ok()
    }

    pub(crate) fn restore_signals(&self, py: Python<'_>) {
        let _ = self.bind(py).call_method0("restore_signals");
    }

    pub(crate) fn signal_failed(&self, py: Python<'_>, error: PyErr) {
        let error = error.into_value(py);
        let _ = self.bind(py).call_method1("signal_failed", (error,));
    }

    pub(crate) fn close_failed(&self, py: Python<'_>, command: &str, error: &PyErr) {
        let error = error.value(py);
        let _ = self.bind(py).call_method1("close_failed", (command, error));
    }

    /// Logs a call: its client, command, request id and outcome, and how long it took.
    pub(crate) fn access(
        &self,
        py: Python<'_>,
        (peer, command, request_id, outcome): (&str, &str, &str, &str),
        seconds: f64,
    ) {
        let call = (peer, command, request_id, outcome, seconds);
        let _ = self.bind(py).call_method1("access", call);
    }

    /// Ends this process, which a command has forked: it must not use its parent's connections.
    pub(crate) fn leave_fork(&self, py: Python<'_>) {
        let _ = self.bind(py).call_method0("leave_fork");
    }

    /// Why no command of that name can serve a call.
    pub(crate) fn refusal(&self, py: Python<'_>, name: &str, stream: bool) -> Failure {
        match self.bind(py).call_method1("refusal", (name, stream)) {
            Ok(error) => call_error::read(&error),
            Err(error) => Failure::new("unknown_command", error.to_string()),
        }
    }

    pub(crate) fn end_session(&self, py: Python<'_>, session: &SessionKey) -> bool {
        let session = (&session.id, session.client_id, session.generation);
        let ended = self.bind(py).call_method1("end_session", session);
        ended.is_ok_and(|ended| ended.is_truthy().unwrap_or(false))
    }

    pub(crate) fn figures(&self, py: Python<'_>) -> PyResult<Figures> {
        self.bind(py).call_method0("figures")?.extract()
    }

    /// A new `contextvars` context for a call. The adapter must have started.
    pub(crate) fn call_context<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let make = || self.object.call_method0(py, "call_context");
        self.call_context
            .get_or_try_init(py, make)?
            .bind(py)
            .call0()
    }

    /// Has the command of a call run in the trace context that its metadata have, if they have one.
    pub(crate) fn trace(&self, context: &Bound<'_, PyAny>, header: &CallHeader) {
        if header.metadata().contains_key(TRACEPARENT) {
            let py = context.py();
            // No call fails for its trace.
            let _ = metadata(py, header)
                .and_then(|metadata| self.bind(py).call_method1("trace", (context, metadata)));
        }
    }

    /// The `Context` of a call, which sends by `reports` what the command reports.
    pub(crate) fn context(
        &self,
        py: Python<'_>,
        header: &CallHeader,
        (reports, asks): (Option<Bound<'_, PyAny>>, Option<Bound<'_, PyAny>>),
        may_wait: bool,
    ) -> PyResult<Py<PyAny>> {
        let left = header.remaining().map(|left| left.as_secs_f64());
        let metadata = metadata(py, header)?;
        let session = header.session();
        let session = session.map_or((None, 0, 0), |session| {
            (Some(session.id), session.client_id, session.generation)
        });
        let client = (header.takes_events(), reports, asks);
        let args = (header.request_id(), session, left, metadata, client);
        let context = self.bind(py).call_method1(intern!(py, "context"), args)?;
        if may_wait {
            context.call_method0(intern!(py, "_settle"))?;
        }
        Ok(context.unbind())
    }

    /// The input stream that is the argument `name` of `command`; raises an error if that takes batches.
    pub(crate) fn input<'py>(
        &self,
        name: &str,
        source: Bound<'py, PyAny>,
        batching: bool,
    ) -> PyResult<Bound<'py, PyAny>> {
        let py = source.py();
        self.bind(py)
            .call_method1(intern!(py, "input"), (name, source, batching))
    }

    /// Has the event loop look for functions to call.
    pub(crate) fn serve_loop(&self, py: Python<'_>) -> PyResult<()> {
        let serve = || self.object.call_method0(py, "serve_loop");
        self.loop_served.get_or_try_init(py, serve).map(drop)
    }

    /// The error of a command that waits although its call was cancelled.
    pub(crate) fn cancelled(&self, py: Python<'_>) -> PyErr {
        raised(self.bind(py).call_method0("cancelled"))
    }

    /// The error of a tool: its name, code, message and data.
    pub(crate) fn tool_failed(&self, py: Python<'_>, error: (&str, &str, &str, &[u8])) -> PyErr {
        raised(self.bind(py).call_method1("tool_failed", error))
    }

    pub(crate) fn tool_timed_out(&self, py: Python<'_>, tool: &str, timeout: Option<f64>) -> PyErr {
        let error = (tool, timeout);
        raised(self.bind(py).call_method1("tool_timed_out", error))
    }

    pub(crate) fn input_failed(&self, py: Python<'_>, kind: &str, message: &str) -> PyErr {
        raised(self.bind(py).call_method1("input_failed", (kind, message)))
    }

    /// Whether Python knows how to send a value of this type, which then hides nothing.
    pub(crate) fn is_result(&self, value: &Bound<'_, PyAny>) -> PyResult<bool> {
        let py = value.py();
        let found = self
            .bind(py)
            .call_method1(intern!(py, "is_result"), (value,));
        found?.is_truthy()
    }

    /// Finds a generator or a coroutine that a decorator has hidden; returns a result, or a generator.
    pub(crate) fn unwrap<'py>(
        &self,
        value: Bound<'py, PyAny>,
        call: Bound<'py, PyAny>,
        command: &str,
        stream: bool,
    ) -> PyResult<(Bound<'py, PyAny>, Option<Bound<'py, PyAny>>)> {
        let py = value.py();
        let args = (value, call, command, stream);
        self.bind(py)
            .call_method1(intern!(py, "unwrap"), args)?
            .extract()
    }

    /// Waits for the coroutine that a decorator has hidden in a command of `call`; returns what it returns.
    pub(crate) fn wait_for<'py>(
        &self,
        value: Bound<'py, PyAny>,
        call: Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let py = value.py();
        self.bind(py)
            .call_method1(intern!(py, "wait_for"), (value, call))
    }

    /// Describes an exception that a command has raised.
    pub(crate) fn failure(
        &self,
        py: Python<'_>,
        error: PyErr,
        cancelled: bool,
        command: &str,
    ) -> Described {
        let error = error.into_value(py).into_bound(py).into_any();
        if error.is_instance_of::<PanicException>() {
            let text = error.str().map(|text| text.to_string());
            return self.panicked(py, command, &text.unwrap_or_default()).into();
        }
        let args = (&error, cancelled, command);
        match self.bind(py).call_method1(intern!(py, "failure"), args) {
            Ok(described) => Described {
                closed: described
                    .getattr(intern!(py, "closed"))
                    .is_ok_and(|closed| closed.is_truthy().unwrap_or(false)),
                failure: call_error::read(&described),
            },
            Err(broken) => {
                let kind = error.get_type().name();
                let kind = kind.map_or_else(|_| "an exception".into(), |kind| kind.to_string());
                let message = format!("{kind} was raised, and describing it failed: {broken}");
                Failure::new("python_error", message).into()
            }
        }
    }

    /// Reports a panic; returns the failure of its call.
    pub(crate) fn panicked(&self, py: Python<'_>, command: &str, panic: &str) -> Failure {
        // A logging handler of the user may panic or raise.
        let _ = catch_unwind(AssertUnwindSafe(|| {
            self.bind(py).call_method1("panicked", (command, panic))
        }));
        Failure::new(
            "internal_error",
            format!(
                "Snakepit failed to serve the call (its native server panicked: {panic}): this is a \
                 bug in it; the worker's log has the panic's text"
            ),
        )
    }

    /// Decodes a value, or raises why it is invalid.
    pub(crate) fn decode<'py>(
        &self,
        data: Bound<'py, PyBytes>,
        name: &str,
        kind: u8,
    ) -> PyResult<Bound<'py, PyAny>> {
        let py = data.py();
        self.bind(py)
            .call_method1(intern!(py, "decode"), (data, name, kind))
    }

    /// Raises why fields and their kinds do not match.
    pub(crate) fn decode_fields<'py>(
        &self,
        fields: Bound<'py, PyDict>,
        kinds: &[u8],
    ) -> PyResult<Bound<'py, PyAny>> {
        let py = fields.py();
        self.bind(py)
            .call_method1(intern!(py, "decode_fields"), (fields, kinds))
    }

    /// Encodes the item `key` of a result. Errors call the result `root`.
    pub(crate) fn encode<'py>(
        &self,
        value: &Bound<'py, PyAny>,
        root: &str,
        key: &Bound<'py, PyAny>,
        kinds: bool,
    ) -> PyResult<Bound<'py, PyAny>> {
        let py = value.py();
        self.bind(py)
            .call_method1(intern!(py, "encode"), (value, root, key, kinds))
    }

    pub(crate) fn encode_whole<'py>(
        &self,
        value: &Bound<'py, PyAny>,
        root: &str,
        kinds: bool,
    ) -> PyResult<Bound<'py, PyAny>> {
        let py = value.py();
        self.bind(py)
            .call_method1(intern!(py, "encode_whole"), (value, root, kinds))
    }

    pub(crate) fn encode_fields<'py>(
        &self,
        value: &Bound<'py, PyAny>,
        root: &str,
        kinds: bool,
    ) -> PyResult<Bound<'py, PyAny>> {
        let py = value.py();
        self.bind(py)
            .call_method1(intern!(py, "encode_fields"), (value, root, kinds))
    }
}

/// An exception that Python has made, or the one that it has raised instead.
fn raised(error: PyResult<Bound<'_, PyAny>>) -> PyErr {
    error.map_or_else(|broken| broken, PyErr::from_value)
}

/// The metadata of a call.
pub(crate) fn metadata<'py>(py: Python<'py>, header: &CallHeader) -> PyResult<Bound<'py, PyDict>> {
    let metadata = PyDict::new(py);
    for (name, value) in header.metadata() {
        metadata.set_item(name, value)?;
    }
    Ok(metadata)
}

impl From<Failure> for Described {
    fn from(failure: Failure) -> Self {
        Self {
            failure,
            closed: false,
        }
    }
}
