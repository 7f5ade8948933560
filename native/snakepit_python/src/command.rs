//! The commands of an adapter.

use crate::parameters::Parameters;
use pyo3::{FromPyObject, prelude::*, types::PyString};
use snakepit_proto::{CommandInfo, ParameterInfo};
use snakepit_server::CommandTime;
use std::{collections::BTreeMap, sync::Arc};

pub(crate) struct Command {
    pub(crate) name: String,
    pub(crate) function: Py<PyAny>,
    /// Checks the arguments and returns the keyword arguments of `function`.
    pub(crate) bind: Py<PyAny>,
    /// Knows the arguments for which `bind` has nothing to do.
    pub(crate) plain: Option<Parameters>,
    pub(crate) streams: bool,
    pub(crate) is_async: bool,
    /// The name of the parameter that receives the context.
    pub(crate) context: Option<Py<PyString>>,
    pub(crate) help: String,
    pub(crate) info: CommandInfo,
    /// Of its unary calls.
    pub(crate) time: CommandTime,
}

/// The result of `Command.describe`.
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
            plain: command.getattr("plain")?.extract()?,
            context: command.getattr("context")?.extract()?,
            help: command.getattr("help")?.extract()?,
            info: command
                .call_method0("describe")?
                .extract::<Described>()?
                .into(),
            time: CommandTime::default(),
        })
    }
}

pub(crate) struct Commands {
    /// In the registry's order.
    all: Vec<Arc<Command>>,
    by_name: BTreeMap<String, Arc<Command>>,
}

impl Commands {
    pub(crate) fn new(registry: &Bound<'_, PyAny>) -> PyResult<Self> {
        let mut all = Vec::new();
        for command in registry.call_method0("values")?.try_iter()? {
            all.push(Arc::new(Command::new(&command?)?));
        }
        let named = all.iter().map(|one| (one.name.clone(), one.clone()));
        Ok(Self {
            by_name: named.collect(),
            all,
        })
    }

    pub(crate) fn get(&self, name: &str) -> Option<&Arc<Command>> {
        self.by_name.get(name)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Command> {
        self.all.iter().map(|command| &**command)
    }

    pub(crate) fn has_async(&self) -> bool {
        self.iter().any(|command| command.is_async)
    }
}
