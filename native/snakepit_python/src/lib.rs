//! The worker's server as a Python extension. Connections, HTTP/2, deadlines, flow control and
//! cancellation live in Rust threads that never wait for Python's lock; Python is entered to run
//! commands, and for nothing else.

mod asyncs;
mod call;
mod commands;
mod control;
mod failure;
mod handler;
mod journal;
mod service;
mod values;
mod worker;

use pyo3::{exceptions::PyOSError, prelude::*, types::PyDict};
#[cfg(target_os = "linux")]
use rustix::process::{PidfdFlags, getppid, pidfd_open};
use rustix::{
    event::{PollFd, PollFlags, poll},
    io::{Errno, fcntl_dupfd_cloexec},
    process::{Pid, Signal, getpid, kill_process_group},
    stdio::stdin,
};
use snakepit_server::{Listener, Secret, Server};
use std::{
    io,
    os::fd::{AsRawFd, OwnedFd},
    sync::{Arc, Mutex, PoisonError, atomic::Ordering},
    time::Duration,
};

/// A worker's server. Made, `listen`, threads that `serve`, then `stop`, `wait_idle`, `end_threads` and
/// `close`.
#[pyclass(frozen, name = "Server", module = "snakepit_bridge._native")]
struct PyServer {
    worker: Arc<worker::Worker>,
    server: Mutex<Option<Server>>,
}

#[pymethods]
impl PyServer {
    #[new]
    fn new(
        registry: &Bound<'_, PyAny>,
        hooks: Py<PyAny>,
        max_concurrency: usize,
        settings: &Bound<'_, PyDict>,
    ) -> PyResult<Self> {
        let commands = commands::Commands::new(registry, hooks)?;
        let worker = worker::Worker::new(settings.extract()?, commands, max_concurrency)?;
        worker.control.run(worker.clone());
        Ok(Self {
            worker,
            server: Mutex::new(None),
        })
    }

    /// Starts to serve; returns the address, with the port that was found for port 0.
    fn listen(&self, address: &str) -> PyResult<String> {
        let (listener, address) = Listener::bind(address).map_err(PyOSError::new_err)?;
        let worker = &self.worker;
        let secret = Secret::new(worker.settings.secret.clone());
        let server = Server::start(listener, secret, worker.seat.clone(), worker.clone())?;
        *lock(&self.server) = Some(server);
        Ok(address)
    }

    /// Runs commands in the calling thread until the server is closed.
    fn serve(&self, py: Python<'_>) {
        handler::serve(py, &self.worker);
    }

    /// Has the thread that serves, if it is the only one, run the handlers of signals that wait for it.
    fn wake(&self) {
        self.worker.scheduler.wake();
    }

    /// Has the thread that serves, if it is the only one, call `function` between two commands.
    fn post(&self, function: Py<PyAny>) {
        self.worker.post(function);
    }

    /// Whether any command is `async`.
    #[getter]
    fn has_async(&self) -> bool {
        self.worker.commands.has_async()
    }

    /// What becomes readable when the event loop has something to do.
    fn loop_fd(&self) -> i32 {
        self.worker.poke.reader().as_raw_fd()
    }

    /// For the event loop: the calls that it is to start, and what is to be called.
    fn take_for_loop(&self, py: Python<'_>) -> (Vec<asyncs::AsyncCall>, Vec<Py<PyAny>>) {
        self.worker.poke.clear();
        let calls = self.worker.scheduler.take_for_loop();
        py.detach(|| self.worker.flush_before(&calls));
        let calls = calls
            .into_iter()
            .map(|call| asyncs::AsyncCall::new(self.worker.clone(), call));
        (calls.collect(), self.worker.take_resumes())
    }

    /// Takes no more connections.
    fn stop(&self) {
        if let Some(server) = &*lock(&self.server) {
            server.stop();
        }
    }

    fn cancel_all(&self) {
        self.worker.cancel(|_| true);
    }

    /// Waits for at most so many seconds until no call is left; tells whether none is.
    fn wait_idle(&self, py: Python<'_>, seconds: f64) -> bool {
        let after = Duration::try_from_secs_f64(seconds).unwrap_or_default();
        py.detach(|| self.worker.scheduler.wait_empty(after))
    }

    /// Lets the threads go that serve, once they have sent what they have answered.
    fn end_threads(&self) {
        self.worker.scheduler.close();
    }

    /// Ends the server. The threads that serve are to be over.
    fn close(&self, py: Python<'_>) {
        let server = lock(&self.server).take();
        py.detach(|| {
            if let Some(server) = server {
                server.end();
            }
            self.worker.control.stop();
        });
    }

    /// To be called in a child that was forked.
    fn forked(&self) {
        self.worker.forked.store(true, Ordering::Relaxed);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Kills this process's group once its parent is gone: nobody can write to its stdin any more, or the
/// parent itself has ended. No command, whatever it does with Python's lock, holds that up, and nothing
/// is read: stdin may carry requests.
#[pyfunction]
fn watch_parent() -> PyResult<()> {
    // What a command starts is not to have it, and so it is not one of the first three either.
    let lifeline = fcntl_dupfd_cloexec(stdin(), 3).map_err(io::Error::from)?;
    let parent = parent();
    let group = getpid();
    std::thread::Builder::new()
        .name("snakepit-lifeline".into())
        .spawn(move || {
            wait_gone(&lifeline, parent.as_ref());
            kill(group);
        })?;
    Ok(())
}

/// Readable once the parent has ended; None where the kernel has no such thing.
#[cfg(target_os = "linux")]
fn parent() -> Option<OwnedFd> {
    pidfd_open(getppid()?, PidfdFlags::empty()).ok()
}

#[cfg(not(target_os = "linux"))]
fn parent() -> Option<OwnedFd> {
    None
}

fn wait_gone(lifeline: &OwnedFd, parent: Option<&OwnedFd>) {
    let mut fds = vec![PollFd::new(lifeline, PollFlags::empty())];
    fds.extend(parent.map(|parent| PollFd::new(parent, PollFlags::IN)));
    while let Err(Errno::INTR) = poll(&mut fds, None) {}
}

fn kill(group: Pid) {
    let _ = kill_process_group(group, Signal::KILL);
}

/// The request id of the call that this thread runs; "" for none.
#[pyfunction]
fn request_id() -> String {
    handler::request_id()
}

#[pymodule(gil_used = false)]
mod _native {
    #[pymodule_export]
    use super::PyServer;
    #[pymodule_export]
    use super::asyncs::AsyncCall;
    #[pymodule_export]
    use super::request_id;
    #[pymodule_export]
    use super::watch_parent;
}
