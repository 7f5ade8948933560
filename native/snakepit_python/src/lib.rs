//! The worker's server as a Python extension: Python's lock, the commands and their values. Connections,
//! HTTP/2, deadlines, flow control and cancellation live in `snakepit_server`, in threads that never wait
//! for Python's lock; Python is entered to run commands, and for nothing else.

mod async_call;
mod call;
mod call_error;
mod command;
mod command_thread;
mod control;
mod generator;
mod hooks;
mod invocation;
mod journal;
mod lifeline;
mod server;
mod service;
mod unwrapping;
mod values;
mod worker;

#[pyo3::pymodule(gil_used = false)]
mod _native {
    #[pymodule_export]
    use super::async_call::AsyncCall;
    #[pymodule_export]
    use super::command_thread::request_id;
    #[pymodule_export]
    use super::lifeline::watch_parent;
    #[pymodule_export]
    use super::server::PyServer;
}
