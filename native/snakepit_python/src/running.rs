//! What the calling thread runs.

use crate::call::Call;
use pyo3::pyfunction;
use snakepit_server::Work;
use std::cell::RefCell;

thread_local! {
    static RUNNING: RefCell<Option<Work<Call>>> = const { RefCell::new(None) };
}

pub(crate) fn set(work: Option<Work<Call>>) {
    RUNNING.set(work);
}

pub(crate) fn with<T>(look: impl FnOnce(&Option<Work<Call>>) -> T) -> T {
    RUNNING.with_borrow(look)
}

/// The request id of the call that this thread runs; empty if it runs none, or several.
#[pyfunction]
pub(crate) fn request_id() -> String {
    with(|work| match work {
        Some(Work::Call(call)) => call.header.request_id().to_owned(),
        Some(Work::Batch(batch)) => match &batch.calls[..] {
            [(call, _)] => call.header.request_id().to_owned(),
            _ => String::new(),
        },
        None => String::new(),
    })
}

/// Whether this thread runs a command.
pub(crate) fn is_here() -> bool {
    RUNNING.with_borrow(Option::is_some)
}
