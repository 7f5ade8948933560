//! Finds a generator or a coroutine in a returned value: a plain decorator hides that a method is one.

use crate::{async_call::AsyncCall, invocation::Invocation};
use pyo3::{
    prelude::*,
    types::{PyBool, PyBytes, PyDict, PyFloat, PyInt, PyList, PyString, PyTuple},
};
use snakepit_server::Failure;

/// Returns a result, or the generator of a stream's chunks.
pub(crate) fn unwrapped<'py>(
    run: Invocation<'_, 'py>,
    value: Bound<'py, PyAny>,
) -> Result<(Bound<'py, PyAny>, Option<Bound<'py, PyAny>>), Failure> {
    if is_result(&value) {
        return Ok((value, None));
    }
    let callbacks = &run.worker.callbacks;
    let unwrap = |value| {
        if callbacks.is_result(&value)? {
            return Ok((value, None));
        }
        let call = run.call;
        let stream = call.responder.as_stream().is_some();
        let object = Bound::new(run.py, AsyncCall::new(run.worker.clone(), call.clone()))?;
        callbacks.unwrap(value, object.into_any(), &call.command.name, stream)
    };
    unwrap(value).map_err(|error| run.failure(error))
}

/// Whether the value has one of the types of most results, which hide nothing.
pub(crate) fn is_result(value: &Bound<'_, PyAny>) -> bool {
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
