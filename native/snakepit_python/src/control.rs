//! The thread that tells Python what the network's threads have to say, which must not wait for
//! Python's lock.

use crate::{
    call::Call,
    worker::{Refused, Worker},
};
use pyo3::Python;
use snakepit_proto::{HandlerExit, SessionKey};
use snakepit_server::{Answer, Failure, Outcome, failed_chunk, reply_frame, tell};
use snakepit_wire::append;
use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{self, Receiver, Sender},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};
use tokio::sync::oneshot;

enum Job {
    Cancel(Arc<Call>),
    Refuse(Refused),
    EndSession(SessionKey, oneshot::Sender<bool>),
    CountSessions(oneshot::Sender<i64>),
    /// Only to see how long it takes.
    Probe,
}

pub(crate) struct Control {
    jobs: Mutex<Option<Sender<Job>>>,
    receiver: Mutex<Option<Receiver<Job>>>,
    thread: Mutex<Option<JoinHandle<()>>>,
    /// Since when a job waits for Python's lock.
    waiting_since: Arc<Mutex<Option<Instant>>>,
}

impl Control {
    pub(crate) fn start() -> Self {
        let (jobs, receiver) = mpsc::channel();
        Self {
            jobs: Mutex::new(Some(jobs)),
            receiver: Mutex::new(Some(receiver)),
            thread: Mutex::new(None),
            waiting_since: Arc::default(),
        }
    }

    pub(crate) fn run(&self, worker: Arc<Worker>) {
        let Some(receiver) = lock(&self.receiver).take() else {
            return;
        };
        let waiting_since = self.waiting_since.clone();
        let run = move || {
            for job in receiver {
                *lock(&waiting_since) = Some(Instant::now());
                // A panic is printed, and must not keep the jobs after it from being done.
                let _ = catch_unwind(AssertUnwindSafe(|| {
                    Python::attach(|py| {
                        *lock(&waiting_since) = None;
                        job.run(py, &worker);
                    });
                }));
            }
        };
        let thread = std::thread::Builder::new()
            .name("snakepit-control".into())
            .spawn(run);
        *lock(&self.thread) = thread.ok();
    }

    pub(crate) fn cancel(&self, call: Arc<Call>) {
        self.send(Job::Cancel(call));
    }

    pub(crate) fn refuse(&self, refused: Refused) {
        self.send(Job::Refuse(refused));
    }

    pub(crate) async fn end_session(&self, session: SessionKey) -> bool {
        let (sender, ended) = oneshot::channel();
        self.send(Job::EndSession(session, sender));
        ended.await.unwrap_or(false)
    }

    pub(crate) async fn count_sessions(&self) -> Option<i64> {
        let (sender, count) = oneshot::channel();
        self.send(Job::CountSessions(sender));
        count.await.ok()
    }

    /// How long Python has not let another thread run: nothing while it does.
    pub(crate) fn unresponsive(&self) -> Duration {
        let since = *lock(&self.waiting_since);
        if since.is_none() {
            self.send(Job::Probe);
        }
        since.map(|since| since.elapsed()).unwrap_or_default()
    }

    /// Ends the thread, which must be over before the interpreter is. Without Python's lock.
    pub(crate) fn stop(&self) {
        lock(&self.jobs).take();
        if let Some(thread) = lock(&self.thread).take() {
            let _ = thread.join();
        }
    }

    fn send(&self, job: Job) {
        if let Some(jobs) = &*lock(&self.jobs) {
            let _ = jobs.send(job);
        }
    }
}

impl Job {
    fn run(self, py: Python<'_>, worker: &Worker) {
        match self {
            Self::Cancel(call) => {
                let (context, interrupt) = {
                    let side = call.python();
                    let copy =
                        |of: &Option<_>| of.as_ref().map(|it: &pyo3::Py<_>| it.clone_ref(py));
                    (copy(&side.context), copy(&side.interrupt))
                };
                // What a callback raises is logged by the context itself.
                let _ = context.map(|context| context.call_method0(py, "_cancel"));
                let _ = interrupt.map(|interrupt| interrupt.call0(py));
            }
            Self::Refuse(Refused { header, answer }) => {
                let stream = answer.is_stream();
                let failure = worker.commands.refusal(py, header.command(), stream);
                match answer {
                    Answer::Stream(chunks) => {
                        chunks.push(&failed_chunk(header.request_id(), 0, failure));
                        chunks.end();
                    }
                    Answer::Frame(lane) => {
                        let outcome = refused(failure);
                        lane.outlet
                            .queue(|out| append(out, &reply_frame(header.call_id(), outcome)));
                        lane.outlet.wake();
                    }
                    Answer::Unary(sender) => tell(&sender, refused(failure)),
                }
            }
            Self::EndSession(session, sender) => {
                let ended = worker.commands.hooks().call_method1(
                    py,
                    "end_session",
                    (session.id, session.generation),
                );
                let ended = ended.and_then(|ended| ended.is_truthy(py)).unwrap_or(false);
                // Who does not wait any more needs no answer.
                let _ = sender.send(ended);
            }
            Self::CountSessions(sender) => {
                let count = worker.commands.hooks().call_method0(py, "count_sessions");
                let _ = sender.send(
                    count
                        .and_then(|count| count.extract(py))
                        .unwrap_or_default(),
                );
            }
            Self::Probe => {}
        }
    }
}

fn refused(failure: Failure) -> Outcome {
    Outcome {
        result: Err(failure),
        took: Duration::ZERO,
        exit: HandlerExit::Unknown,
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
