//! The commands of an adapter.

use crate::parameters::Parameters;
use pyo3::{FromPyObject, prelude::*, types::PyString};
use snakepit_proto::{BatchInfo, CommandInfo, ParameterInfo};
use snakepit_server::{BatchLimits, CommandTime};
use std::{collections::BTreeMap, sync::Arc, time::Duration};

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
    pub(crate) batching: Option<Batching>,
}

/// How its calls gather in batches.
pub(crate) struct Batching {
    pub(crate) limits: BatchLimits,
    /// Makes the keyword arguments of the function from what `bind` has returned for each call.
    pub(crate) gather: Py<PyAny>,
    /// Finds a result for each call in what the function has returned.
    pub(crate) results: Py<PyAny>,
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
    batch: Option<DescribedBatch>,
}

#[derive(Clone, Copy, FromPyObject)]
#[pyo3(from_item_all)]
struct DescribedBatch {
    size: u32,
    wait_ms: f64,
    max_bytes: u64,
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
            batch: command.batch.map(BatchInfo::from),
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

impl From<DescribedBatch> for BatchInfo {
    fn from(batch: DescribedBatch) -> Self {
        Self {
            size: batch.size,
            wait_ms: batch.wait_ms,
            max_bytes: batch.max_bytes,
        }
    }
}

impl Batching {
    /// `index` numbers the commands.
    fn new(command: &Bound<'_, PyAny>, batch: DescribedBatch, index: usize) -> PyResult<Self> {
        let wait = Duration::try_from_secs_f64(batch.wait_ms / 1000.0);
        let max_bytes = usize::try_from(batch.max_bytes);
        Ok(Self {
            limits: BatchLimits {
                index,
                size: batch.size as usize,
                wait: wait.unwrap_or_default(),
                max_bytes: max_bytes.unwrap_or(usize::MAX),
            },
            gather: command.getattr("gather")?.unbind(),
            results: command.getattr("results")?.unbind(),
        })
    }
}

impl Command {
    fn new(command: &Bound<'_, PyAny>, index: usize) -> PyResult<Self> {
        let described: Described = command.call_method0("describe")?.extract()?;
        let batching = described
            .batch
            .map(|batch| Batching::new(command, batch, index));
        Ok(Self {
            name: command.getattr("name")?.extract()?,
            function: command.getattr("function")?.unbind(),
            bind: command.getattr("bind")?.unbind(),
            streams: command.getattr("streams")?.extract()?,
            is_async: command.getattr("is_async")?.extract()?,
            plain: command.getattr("plain")?.extract()?,
            context: command.getattr("context")?.extract()?,
            help: command.getattr("help")?.extract()?,
            info: described.into(),
            time: CommandTime::default(),
            batching: batching.transpose()?,
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
        for (index, command) in registry.call_method0("values")?.try_iter()?.enumerate() {
            all.push(Arc::new(Command::new(&command?, index)?));
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

    /// The commands whose calls gather, and the sizes of their batches.
    pub(crate) fn batch_sizes(&self) -> impl Iterator<Item = (String, u32)> {
        self.iter().filter_map(|command| {
            let batch = command.info.batch.as_ref();
            batch.map(|batch| (command.name.clone(), batch.size))
        })
    }

    pub(crate) fn has_async(&self) -> bool {
        self.iter().any(|command| command.is_async)
    }
}
