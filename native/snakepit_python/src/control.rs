//! Runs tasks in Python for the network's threads, which must not wait for Python's lock.

use parking_lot::Mutex;
use pyo3::Python;
use std::{
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        mpsc::{self, Sender},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};
use tokio::sync::oneshot;

/// Runs and is dropped with Python's lock.
type ControlTask = Box<dyn FnOnce(Python<'_>) + Send>;

pub(crate) struct Control {
    tasks: Mutex<Option<Sender<ControlTask>>>,
    thread: Mutex<Option<JoinHandle<()>>>,
    /// The time since which a task waits for Python's lock.
    waiting_since: Arc<Mutex<Option<Instant>>>,
}

impl Control {
    pub(crate) fn start() -> io::Result<Self> {
        let (sender, tasks) = mpsc::channel::<ControlTask>();
        let waiting_since: Arc<Mutex<Option<Instant>>> = Arc::default();
        let waiting = waiting_since.clone();
        let run = move || {
            for task in tasks {
                *waiting.lock() = Some(Instant::now());
                // A panic is printed. Later tasks run nevertheless.
                let _ = catch_unwind(AssertUnwindSafe(|| {
                    Python::attach(|py| {
                        *waiting.lock() = None;
                        task(py);
                    });
                }));
            }
        };
        let thread = std::thread::Builder::new()
            .name("snakepit-control".into())
            .spawn(run)?;
        Ok(Self {
            tasks: Mutex::new(Some(sender)),
            thread: Mutex::new(Some(thread)),
            waiting_since,
        })
    }

    pub(crate) fn run(&self, task: impl FnOnce(Python<'_>) + Send + 'static) {
        if let Some(tasks) = &*self.tasks.lock() {
            let _ = tasks.send(Box::new(task));
        }
    }

    /// Runs a task and returns its result. None once the thread has ended.
    pub(crate) async fn ask<T: Send + 'static>(
        &self,
        task: impl FnOnce(Python<'_>) -> T + Send + 'static,
    ) -> Option<T> {
        let (sender, result) = oneshot::channel();
        self.run(move |py| {
            // The receiver may be gone.
            let _ = sender.send(task(py));
        });
        result.await.ok()
    }

    /// How long Python's lock has not been available; 0 if it is.
    pub(crate) fn unresponsive(&self) -> Duration {
        let since = *self.waiting_since.lock();
        if since.is_none() {
            // The next caller sees how long it waits.
            self.run(|_| {});
        }
        since.map(|since| since.elapsed()).unwrap_or_default()
    }

    /// Ends the thread, which must end before the interpreter. Must be called without Python's lock.
    pub(crate) fn stop(&self) {
        self.tasks.lock().take();
        let thread = self.thread.lock().take();
        if let Some(thread) = thread {
            let _ = thread.join();
        }
    }
}
