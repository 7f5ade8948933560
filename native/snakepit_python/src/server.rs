//! The server as a Python class.

use crate::{
    async_call::AsyncCall,
    batch_run::BatchRun,
    callbacks::Callbacks,
    command::Commands,
    command_thread,
    worker::{LOOP_WRITER, Worker},
};
use parking_lot::Mutex;
use pyo3::{
    exceptions::{PyOSError, PyRuntimeError, PyValueError},
    prelude::*,
    types::PyDict,
};
use snakepit_server::{Listen, Secrets, Server, Work};
use snakepit_wire::{Address, InvalidAddress, tls::server::ServerTls};
use std::{os::fd::AsRawFd, sync::Arc, time::Duration};

/// How long a command's thread waits for a client that does not read, while others call this server as well. What the
/// socket does not take meanwhile is sent while commands run.
const PATIENCE: Duration = Duration::from_millis(100);

type Objects = Vec<Py<PyAny>>;

#[derive(FromPyObject)]
struct Pem(Vec<u8>, Vec<u8>, Option<Vec<u8>>);

impl Pem {
    fn load(self) -> PyResult<ServerTls> {
        let Self(certificate, key, client_ca) = self;
        ServerTls::new(&certificate, &key, client_ca.as_deref())
            .map_err(|error| PyValueError::new_err(error.to_string()))
    }
}

fn parsed(address: &str) -> PyResult<Address> {
    address
        .parse()
        .map_err(|error: InvalidAddress| PyOSError::new_err(error.to_string()))
}

/// The server of a worker. Call `listen`, then `serve` in each thread that runs commands; at the end
/// `stop`, `wait_idle`, `end_threads` and `close`.
#[pyclass(frozen, name = "Server", module = "snakepit_bridge._native")]
pub(crate) struct PyServer {
    worker: Arc<Worker>,
    server: Mutex<Option<Arc<Server>>>,
}

#[pymethods]
impl PyServer {
    #[new]
    fn new(
        py: Python<'_>,
        registry: &Bound<'_, PyAny>,
        callbacks: Py<PyAny>,
        max_concurrency: usize,
        settings: &Bound<'_, PyDict>,
    ) -> PyResult<Self> {
        let commands = Commands::new(registry)?;
        let callbacks = Callbacks::new(callbacks);
        let settings = settings.extract()?;
        let worker = Worker::new(py, settings, commands, callbacks, max_concurrency)?;
        Ok(Self {
            worker,
            server: Mutex::new(None),
        })
    }

    /// Starts to serve; returns the address with the port that was chosen. `tls` is a certificate, its key, and those
    /// who sign the certificates of clients, if clients need any: texts in PEM form.
    #[pyo3(signature = (address, tls=None))]
    fn listen(&self, address: &str, tls: Option<Pem>) -> PyResult<String> {
        let worker = &self.worker;
        let settings = &worker.settings;
        let age = settings.max_connection_age;
        let listen = Listen {
            address: parsed(address)?,
            tls: tls.map(Pem::load).transpose()?,
            secrets: Secrets::new(settings.secrets.clone()),
            max_connection_age: age.and_then(|age| Duration::try_from_secs_f64(age).ok()),
            patience: settings.is_shared.then_some(PATIENCE),
        };
        let server = Server::start(listen, worker.driver.clone(), worker.clone())?;
        if worker.commands.batch_sizes().next().is_some() {
            let worker = worker.clone();
            let keep_time = async move { worker.scheduler.keep_time().await };
            self.worker.driver.spawn(keep_time);
        }
        let address = server.address().to_string();
        *self.server.lock() = Some(Arc::new(server));
        Ok(address)
    }

    /// Answers health checks at a further address; returns it with the port that was chosen.
    fn listen_for_health(&self, address: &str) -> PyResult<String> {
        let address = parsed(address)?;
        let server = self
            .server()
            .ok_or_else(|| PyRuntimeError::new_err("the server does not listen"))?;
        Ok(server.listen_for_health(&address)?.to_string())
    }

    /// From now on these secrets are accepted and no others.
    fn set_secrets(&self, secrets: Vec<String>) {
        if let Some(server) = self.server() {
            server.secrets().replace(secrets);
        }
    }

    /// Runs commands in the calling thread until the server is closed.
    fn serve(&self, py: Python<'_>) {
        command_thread::serve(py, &self.worker);
    }

    /// Has the thread that serves, if it is the only one, run pending handlers of signals.
    fn wake(&self) {
        self.worker.wake();
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

    /// The file descriptor that is readable when the event loop has something to do.
    fn loop_fd(&self) -> i32 {
        self.worker.loop_waker.reader().as_raw_fd()
    }

    /// Takes the calls and batches that the event loop must start, and the functions that it must call.
    fn take_for_loop(&self, py: Python<'_>) -> PyResult<(Objects, Objects)> {
        self.worker.loop_waker.clear();
        let work = self.worker.scheduler.take_for_loop();
        py.detach(|| self.worker.flush_before(&work));
        let mut started = Vec::with_capacity(work.len());
        for each in work {
            match each {
                Work::Call(call) => {
                    let call = AsyncCall::new(self.worker.clone(), call);
                    started.push(Py::new(py, call)?.into_any());
                }
                Work::Batch(batch) => {
                    let run = BatchRun::new(self.worker.clone(), batch);
                    if run.note_start(py, LOOP_WRITER) {
                        started.push(Py::new(py, run)?.into_any());
                    }
                }
            }
        }
        Ok((started, self.worker.resumes.take()))
    }

    /// Asks clients to leave. Further ones are accepted, and learn that the server is going to end.
    fn drain(&self) {
        if let Some(server) = self.server() {
            server.drain();
        }
    }

    /// Waits, after `stop`, up to `seconds` until no client has an RPC that it can end.
    fn wait_drained(&self, py: Python<'_>, seconds: f64) {
        let timeout = Duration::try_from_secs_f64(seconds).unwrap_or_default();
        let server = self.server();
        py.detach(|| {
            if let Some(server) = server {
                server.wait_drained(timeout);
            }
        });
    }

    /// Accepts no further connections.
    fn stop(&self) {
        if let Some(server) = self.server() {
            server.stop();
        }
    }

    fn cancel_all(&self) {
        self.worker.cancel(|_| true);
    }

    /// Waits up to `seconds` until no call is queued or runs; returns whether that is so.
    fn wait_idle(&self, py: Python<'_>, seconds: f64) -> bool {
        let timeout = Duration::try_from_secs_f64(seconds).unwrap_or_default();
        py.detach(|| self.worker.scheduler.wait_idle(timeout))
    }

    /// Ends the threads that serve, once they have sent their replies.
    fn end_threads(&self) {
        self.worker.scheduler.close();
    }

    /// Ends the server. The threads that serve must have ended.
    fn close(&self, py: Python<'_>) {
        let server = self.server.lock().take();
        py.detach(|| {
            if let Some(server) = server {
                server.end();
            }
            self.worker.control.stop();
        });
    }

    /// Must be called in a forked child.
    fn forked(&self) {
        self.worker.set_forked();
    }
}

impl PyServer {
    fn server(&self) -> Option<Arc<Server>> {
        self.server.lock().clone()
    }
}
