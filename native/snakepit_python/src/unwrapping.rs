//! What a plain decorator hides, that a method is `async` or a generator, is seen by what it returns.

use crate::{async_call::AsyncCall, invocation::Invocation};
use pyo3::{
    prelude::*,
    types::{PyBool, PyBytes, PyDict, PyFloat, PyInt, PyList, PyString, PyTuple},
};
use snakepit_server::Failure;

/// A result, or the generator of a stream's chunks.
pub(crate) fn unwrapped<'py>(
    run: Invocation<'_, 'py>,
    value: Bound<'py, PyAny>,
) -> Result<(Bound<'py, PyAny>, Option<Bound<'py, PyAny>>), Failure> {
    if is_result(&value) {
        return Ok((value, None));
    }
    let call = run.call;
    let stream = call.responder.as_stream().is_some();
    Bound::new(run.py, AsyncCall::new(run.worker.clone(), call.clone()))
        .and_then(|object| {
            let hooks = &run.worker.hooks;
            hooks.unwrap(value, object.into_any(), &call.command.name, stream)
        })
        .map_err(|error| run.failure(error))
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
