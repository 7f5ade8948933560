//! The server of a worker as a Python extension.
//!
//! `snakepit_server` has connections, HTTP/2, flow control and the scheduler, in threads that never wait
//! for Python's lock. This crate has what needs Python: `service` makes a `Call` of each RPC, a
//! `command_thread` or the event loop (`async_call`) runs its command in an `Invocation`, with arguments
//! and results from `values`, a batch of calls in a `batch_run`, and `control` runs what the network's threads need from Python. `callbacks`
//! has all calls from here to the Python package.
//!
//! The tests of this crate are those of the Python package: a test here would have to be linked with
//! Python's library, which not every machine has. What needs no Python belongs to `snakepit_server`.

mod access_log;
mod async_call;
mod batch_run;
mod call;
mod call_error;
mod callbacks;
mod command;
mod command_thread;
mod control;
mod generator;
mod invocation;
mod journal;
mod parameters;
mod refusal;
mod reports;
mod running;
mod server;
mod service;
mod two_way;
mod unwrapping;
mod values;
mod worker;

#[pyo3::pymodule(gil_used = false)]
mod _native {
    #[pymodule_export]
    use super::async_call::AsyncCall;
    #[pymodule_export]
    use super::batch_run::BatchRun;
    #[pymodule_export]
    use super::running::request_id;
    #[pymodule_export]
    use super::server::PyServer;
    use pyo3::{PyResult, pyfunction};

    /// Kills this process's group once its parent has ended.
    #[pyfunction]
    fn watch_parent() -> PyResult<()> {
        Ok(snakepit_server::watch_parent()?)
    }
}
