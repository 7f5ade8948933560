//! The commands of an adapter, and what Python does for the server.

use crate::{call::Call, failure};
use pyo3::{FromPyObject, panic::PanicException, prelude::*, sync::PyOnceLock, types::PyDict};
use snakepit_proto::{CallHeader, CommandInfo, ParameterInfo};
use snakepit_server::Failure;
use std::{
    collections::HashMap,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

pub(crate) struct Command {
    pub(crate) name: String,
    pub(crate) function: Py<PyAny>,
    /// Checks the arguments and gives the keywords for `function`.
    pub(crate) bind: Py<PyAny>,
    pub(crate) streams: bool,
    pub(crate) is_async: bool,
    takes_context: bool,
    pub(crate) help: String,
    pub(crate) info: CommandInfo,
}

/// What `Command.describe` gives.
#[derive(FromPyObject)]
#[pyo3(from_item_all)]
struct Described {
    name: String,
    signature: String,
    doc: String,
    streams: bool,
    is_async: bool,
    parameters: Vec<DescribedParameter>,
}

#[derive(FromPyObject)]
#[pyo3(from_item_all)]
struct DescribedParameter {
    name: String,
    #[pyo3(item("type"))]
    kind: Option<String>,
    default: Option<String>,
    required: bool,
}

impl From<Described> for CommandInfo {
    fn from(command: Described) -> Self {
        let parameters = command.parameters.into_iter();
        Self {
            name: command.name,
            signature: command.signature,
            doc: command.doc,
            streams: command.streams,
            is_async: command.is_async,
            parameters: parameters
                .map(|parameter| ParameterInfo {
                    name: parameter.name,
                    r#type: parameter.kind,
                    default: parameter.default,
                    required: parameter.required,
                })
                .collect(),
        }
    }
}

impl Command {
    fn new(command: &Bound<'_, PyAny>) -> PyResult<Self> {
        Ok(Self {
            name: command.getattr("name")?.extract()?,
            function: command.getattr("function")?.unbind(),
            bind: command.getattr("bind")?.unbind(),
            streams: command.getattr("streams")?.extract()?,
            is_async: command.getattr("is_async")?.extract()?,
            takes_context: command.getattr("takes_context")?.extract()?,
            help: command.getattr("help")?.extract()?,
            info: command
                .call_method0("describe")?
                .extract::<Described>()?
                .into(),
        })
    }
}

pub(crate) struct Commands {
    /// In the order of the registry.
    pub(crate) names: Vec<String>,
    by_name: HashMap<String, Arc<Command>>,
    hooks: Py<PyAny>,
    /// Makes the context of a call's variables.
    call_context: PyOnceLock<Py<PyAny>>,
}

impl Commands {
    pub(crate) fn new(registry: &Bound<'_, PyAny>, hooks: Py<PyAny>) -> PyResult<Self> {
        let mut names = Vec::new();
        let mut by_name = HashMap::new();
        for command in registry.call_method0("values")?.try_iter()? {
            let command = Command::new(&command?)?;
            names.push(command.name.clone());
            by_name.insert(command.name.clone(), Arc::new(command));
        }
        Ok(Self {
            names,
            by_name,
            hooks,
            call_context: PyOnceLock::new(),
        })
    }

    pub(crate) fn get(&self, name: &str) -> Option<&Arc<Command>> {
        self.by_name.get(name)
    }

    pub(crate) fn has_async(&self) -> bool {
        self.by_name.values().any(|command| command.is_async)
    }

    /// Why a call cannot be served by a command of that name.
    pub(crate) fn refusal(&self, py: Python<'_>, name: &str, stream: bool) -> Failure {
        match self.hooks.call_method1(py, "refusal", (name, stream)) {
            Ok(error) => failure::read(error.bind(py)),
            Err(error) => Failure::new("unknown_command", error.to_string()),
        }
    }

    /// The keywords to call the command's function with.
    pub(crate) fn keywords<'py>(
        &self,
        py: Python<'py>,
        call: &Call,
        args: Bound<'py, PyDict>,
    ) -> PyResult<Bound<'py, PyDict>> {
        // A session is in use for as long as a call's context lives.
        let context = if call.command.takes_context || call.header.session().is_some() {
            let context = self.context(py, &call.header, !call.command.is_async)?;
            call.python().context = Some(context.clone_ref(py));
            // Whoever cancelled the call before found no context to tell.
            if call.is_cancelled() {
                context.call_method0(py, "_cancel")?;
            }
            call.command.takes_context.then_some(context)
        } else {
            None
        };
        // Types that were guessed are not checked.
        let checked = call.header.args().kinds.is_some();
        let keywords = call.command.bind.bind(py).call1((args, context, checked))?;
        Ok(keywords.cast_into::<PyDict>()?)
    }

    /// The variables that a call begins with, a copy of its own. The adapter must have started.
    pub(crate) fn call_context<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let make = || self.hooks.call_method0(py, "call_context");
        self.call_context
            .get_or_try_init(py, make)?
            .bind(py)
            .call0()
    }

    fn context(&self, py: Python<'_>, header: &CallHeader, may_wait: bool) -> PyResult<Py<PyAny>> {
        let left = header.remaining().map(|left| left.as_secs_f64());
        let metadata = PyDict::new(py);
        for (name, value) in header.metadata() {
            metadata.set_item(name, value)?;
        }
        let session = header
            .session()
            .map_or((None, 0), |session| (Some(session.id), session.generation));
        self.hooks.call_method1(
            py,
            "context",
            (header.request_id(), session, left, metadata, may_wait),
        )
    }

    /// The failure that an exception of a command is.
    pub(crate) fn failure(&self, py: Python<'_>, call: &Call, error: PyErr) -> Failure {
        let name = &call.command.name;
        let error = error.into_value(py).into_bound(py).into_any();
        if error.is_instance_of::<PanicException>() {
            let text = error.str().map(|text| text.to_string());
            return self.panicked(py, name, &text.unwrap_or_default());
        }
        match self
            .hooks
            .call_method1(py, "failure", (&error, call.is_cancelled(), name))
        {
            Ok(described) => {
                let described = described.bind(py);
                if described
                    .getattr("closed")
                    .is_ok_and(|closed| closed.is_truthy().unwrap_or(false))
                {
                    call.set_closed();
                }
                failure::read(described)
            }
            Err(broken) => {
                let kind = error.get_type().name();
                let kind = kind.map_or_else(|_| "an exception".into(), |kind| kind.to_string());
                let message = format!("{kind} was raised, and describing it failed: {broken}");
                Failure::new("python_error", message)
            }
        }
    }

    /// What a call is answered with that the server itself failed to serve. The panic is reported.
    pub(crate) fn panicked(&self, py: Python<'_>, name: &str, panic: &str) -> Failure {
        // What the user's handlers of logging do is of no matter here.
        let _ = catch_unwind(AssertUnwindSafe(|| {
            self.hooks.call_method1(py, "panicked", (name, panic))
        }));
        Failure::new(
            "internal_error",
            format!(
                "Snakepit failed to serve the call (its native server panicked: {panic}): this is a \
                 bug in it; the worker's log has the panic's text"
            ),
        )
    }

    pub(crate) fn hooks(&self) -> &Py<PyAny> {
        &self.hooks
    }
}
