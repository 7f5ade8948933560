//! The state of a worker: its commands, its calls and its figures. The network's threads use it without
//! Python's lock.

use crate::{
    access_log::AccessLog,
    call::{Call, Responder},
    callbacks::{Callbacks, Figures},
    command::Commands,
    control::Control,
    journal::Journal,
    refusal::Refusals,
};
use parking_lot::Mutex;
use pyo3::{FromPyObject, Py, PyAny, PyResult, Python};
use snakepit_proto::{CallHeader, CallProgress, Fields, HandlerExit, SessionKey};
use snakepit_server::{
    BatchPart, Counters, ExitLog, Failure, Inbox, IoDriver, LoopWaker, Outcome, Scheduler, Work,
    cpu_time,
};
use snakepit_wire::StartJournal;
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};
use tokio::{sync::Notify, time::timeout};

/// The event loop's place in the start journal.
pub(crate) const LOOP_WRITER: usize = 0;
/// How long Python may take to return its figures.
const FIGURES_TIMEOUT: Duration = Duration::from_millis(100);
/// Of how many calls the progress is reported.
const MAX_PROGRESS: usize = 100;

#[derive(FromPyObject)]
#[pyo3(from_item_all)]
pub(crate) struct Settings {
    pub(crate) worker_id: String,
    pub(crate) max_message_size: usize,
    /// One of these must be sent; if there are none, everyone may call.
    pub(crate) secrets: Vec<String>,
    /// How many calls may wait beyond those that run.
    pub(crate) max_queue: usize,
    /// Whether clients that have not started this process call it: none may keep it from serving the others.
    pub(crate) is_shared: bool,
    /// In seconds.
    pub(crate) max_connection_age: Option<f64>,
    pub(crate) access_log: bool,
    pub(crate) version: String,
    pub(crate) system_info: Vec<(String, String)>,
    /// The path of the start journal, which the process that started this one reads. May be empty.
    pub(crate) start_journal: String,
    /// Distinguishes this process from others.
    pub(crate) instance_id: u64,
}

pub(crate) struct Worker {
    pub(crate) settings: Settings,
    pub(crate) commands: Commands,
    pub(crate) callbacks: Arc<Callbacks>,
    pub(crate) scheduler: Scheduler<Call>,
    pub(crate) control: Arc<Control>,
    /// If calls are to be logged.
    access_log: Option<Arc<AccessLog>>,
    pub(crate) driver: Arc<IoDriver>,
    pub(crate) counters: Counters,
    pub(crate) exits: ExitLog,
    pub(crate) refusals: Refusals,
    /// How many times calls are being withdrawn that have not begun.
    withdrawing: AtomicUsize,
    pub(crate) started: Instant,
    /// What the start of the interpreter took, which is not counted.
    pub(crate) cpu_before: Duration,
    /// The last known ones.
    figures: Mutex<Figures>,
    writers: AtomicUsize,
    /// Wakes those that wait for a call's end.
    ended: Notify,
    pub(crate) loop_waker: Arc<LoopWaker>,
    /// The functions that the event loop must call.
    pub(crate) resumes: Inbox<Py<PyAny>>,
    forked: AtomicBool,
    /// The functions that the main thread must call between two commands.
    pub(crate) posts: Inbox<Py<PyAny>>,
    /// For the first connection that asks: the call ids of two connections cannot be told apart.
    journal: Mutex<Option<Journal>>,
}

impl Worker {
    pub(crate) fn new(
        py: Python<'_>,
        settings: Settings,
        commands: Commands,
        callbacks: Callbacks,
        slots: usize,
    ) -> PyResult<Arc<Self>> {
        let figures = callbacks.figures(py)?;
        let (control, callbacks) = (Arc::new(Control::start()?), Arc::new(callbacks));
        let access_log = settings
            .access_log
            .then(|| AccessLog::new(control.clone(), callbacks.clone()));
        let loop_waker = Arc::new(LoopWaker::new()?);
        let wake = loop_waker.clone();
        // Without a journal each reply is sent at once.
        let journal = StartJournal::open(&settings.start_journal).ok();
        let scheduler = Scheduler::new(slots, settings.max_queue, move || wake.wake());
        Ok(Arc::new(Self {
            settings,
            commands,
            callbacks,
            scheduler,
            control,
            access_log,
            driver: Arc::new(IoDriver::new(slots == 1)?),
            counters: Counters::default(),
            exits: ExitLog::default(),
            refusals: Refusals::default(),
            withdrawing: AtomicUsize::new(0),
            started: Instant::now(),
            cpu_before: cpu_time(),
            figures: Mutex::new(figures),
            writers: AtomicUsize::new(LOOP_WRITER + 1),
            ended: Notify::new(),
            loop_waker,
            resumes: Inbox::default(),
            forked: AtomicBool::new(false),
            posts: Inbox::default(),
            journal: Mutex::new(journal.map(Journal::new)),
        }))
    }

    /// Makes the call that a client asks for, or refuses it. `peer` is the client's address.
    pub(crate) fn call(
        &self,
        header: CallHeader,
        responder: Responder,
        peer: &Arc<str>,
    ) -> Option<Arc<Call>> {
        let log = self.access_log.as_ref();
        let responder = responder.on_end(log.map(|log| log.hook(&header, peer)));
        let stream = responder.as_stream().is_some();
        let found = self.commands.get(header.command());
        if let Some(command) = found
            && (stream || !command.streams)
        {
            return Some(Call::new(command.clone(), header, responder));
        }
        self.counters.count(true);
        let failure = || match found {
            Some(_) => Failure::new("invalid_args", "the command yields a stream of results"),
            None => Failure::new("unknown_command", "the adapter has no such command"),
        };
        if let Some(refusal) = self.refusals.add(header.call_id(), responder, failure) {
            let callbacks = self.callbacks.clone();
            self.control.run(move |py| {
                refusal.answer(|| callbacks.refusal(py, header.command(), stream));
            });
        }
        None
    }

    /// Queues calls. Those for which there is no room are answered; returns whether there was room for all.
    pub(crate) fn submit(&self, calls: impl IntoIterator<Item = Arc<Call>>) -> bool {
        let refused = self.scheduler.submit(calls);
        for call in &refused {
            self.counters.count(true);
            let failure = Failure::new("pool_saturated", self.full());
            call.responder.refuse(failure, HandlerExit::Unknown);
        }
        refused.is_empty()
    }

    /// Why a call found no room.
    pub(crate) fn full(&self) -> String {
        format!(
            "the worker is busy and its queue is full: {} calls wait (--max-queue); try again later",
            self.settings.max_queue
        )
    }

    /// Cancels the calls selected by `which`. Those that have not begun, and never do, and those whose batch runs on for
    /// others are answered at once.
    pub(crate) fn cancel(&self, which: impl Fn(&Call) -> bool) {
        let (taken, running) = self.withdraw(|| {
            let (taken, running) = self.scheduler.take_cancelled(which);
            for call in &taken {
                call.cancel();
                let exit = self.note_end(call, true);
                call.responder.refuse(Failure::cancelled(), exit);
            }
            (taken, running)
        });
        self.has_ended();
        // Some had started in a batch, which runs on for others.
        for call in taken {
            if call.python().context.is_some() {
                self.control.run(move |py| call.cancel_context(py));
            }
        }
        for call in running {
            if call.cancel() {
                self.control.run(move |py| call.interrupt(py));
            }
        }
    }

    pub(crate) fn cancel_one(&self, call: Option<&Arc<Call>>) {
        if let Some(call) = call {
            self.cancel(|one| std::ptr::eq(one, Arc::as_ptr(call)));
        }
    }

    /// Answers a call, or ends its stream.
    pub(crate) fn finish(&self, call: &Call, result: Result<Fields, Failure>, took: Duration) {
        self.finish_in_batch(call, result, took, BatchPart::default());
    }

    pub(crate) fn finish_in_batch(
        &self,
        call: &Call,
        result: Result<Fields, Failure>,
        took: Duration,
        batch: BatchPart,
    ) {
        let exit = self.note_end(call, result.is_err());
        call.responder.finish(Outcome {
            result,
            took,
            exit,
            batch,
        });
    }

    fn note_end(&self, call: &Call, failed: bool) -> HandlerExit {
        // What its caller has cancelled has not failed.
        self.counters.count(failed && !call.is_cancelled());
        let (id, exit) = (call.header.call_id(), call.exit());
        if id != 0 && exit != HandlerExit::Unknown {
            self.exits.add(id, exit);
        }
        exit
    }

    /// Returns to the client those calls selected by `which` that have not begun.
    pub(crate) fn give_back(&self, which: impl Fn(&Call) -> bool) {
        self.withdraw(|| {
            for call in self.scheduler.take_back(which) {
                call.responder.give_back();
            }
        });
    }

    /// Calls `withdraw`, which takes calls from the scheduler and queues what their client gets.
    fn withdraw<T>(&self, withdraw: impl FnOnce() -> T) -> T {
        self.withdrawing.fetch_add(1, Ordering::AcqRel);
        let withdrawn = withdraw();
        self.withdrawing.fetch_sub(1, Ordering::AcqRel);
        withdrawn
    }

    /// Whether their client may not learn yet of calls that have left the scheduler.
    #[inline]
    pub(crate) fn is_withdrawing(&self) -> bool {
        self.withdrawing.load(Ordering::Acquire) > 0
    }

    /// Sends unsent replies before calls start. Waits until the answers to calls that are being withdrawn are queued, which
    /// takes a moment and needs no lock of Python.
    pub(crate) fn flush_before(&self, work: &[Work<Call>]) {
        while self.is_withdrawing() {
            thread::yield_now();
        }
        for each in work {
            each.each(|call| {
                if call.responder.needs_flush() {
                    call.responder.flush();
                }
            });
        }
    }

    pub(crate) fn has_journal(&self) -> bool {
        self.journal.lock().is_some()
    }

    pub(crate) fn take_journal(&self) -> Option<Journal> {
        self.journal.lock().take()
    }

    /// Calls `resume` on the event loop.
    pub(crate) fn resume(&self, resume: Py<PyAny>) {
        if self.resumes.push(resume) {
            self.loop_waker.wake();
        }
    }

    /// Wakes the thread that runs commands, if there is only one: it may have handlers of signals to run.
    pub(crate) fn wake(&self) {
        self.scheduler.wake();
        for call in self.scheduler.running(|call| Some(call.clone())) {
            if let Some(conversation) = call.responder.conversation() {
                conversation.interrupt();
            }
        }
    }

    /// Calls `function` in the thread that runs commands, if there is only one.
    pub(crate) fn post(&self, function: Py<PyAny>) {
        self.posts.push(function);
        self.scheduler.wake();
    }

    /// Must be called after a call has left the scheduler.
    pub(crate) fn has_ended(&self) {
        self.ended.notify_waiters();
    }

    /// Work on the event loop has ended.
    pub(crate) fn leave_loop(&self, work: &Work<Call>) {
        self.scheduler.leave(work);
        self.has_ended();
    }

    /// Waits until no call with this id is queued or runs.
    pub(crate) async fn wait_ended(&self, call_id: u64) {
        loop {
            let ended = self.ended.notified();
            if !self.scheduler.has(|call| call.header.call_id() == call_id) {
                return;
            }
            ended.await;
        }
    }

    /// Returns whether the session existed.
    pub(crate) async fn end_session(&self, session: SessionKey) -> bool {
        let callbacks = self.callbacks.clone();
        let end = move |py: Python<'_>| callbacks.end_session(py, &session);
        self.control.ask(end).await.unwrap_or(false)
    }

    /// The last known figures while Python's lock is not available.
    pub(crate) async fn figures(&self) -> Figures {
        let callbacks = self.callbacks.clone();
        let figures = self.control.ask(move |py| callbacks.figures(py));
        if let Ok(Some(Ok(figures))) = timeout(FIGURES_TIMEOUT, figures).await {
            *self.figures.lock() = figures;
        }
        *self.figures.lock()
    }

    /// The progress of the running calls that have reported one; none while Python's lock is not available.
    pub(crate) async fn progress(&self) -> Vec<CallProgress> {
        let calls = self.scheduler.running(|call| Some(call.clone()));
        if calls.is_empty() {
            return Vec::new();
        }
        let found = self.control.ask(move |py| {
            let found = calls.iter().filter_map(|call| call.progress(py));
            found.take(MAX_PROGRESS).collect()
        });
        let found = timeout(FIGURES_TIMEOUT, found).await;
        found.ok().flatten().unwrap_or_default()
    }

    pub(crate) fn uptime_ms(&self) -> i64 {
        millis(self.started.elapsed())
    }

    /// How long Python's lock has not been available.
    pub(crate) fn python_stuck_ms(&self) -> i64 {
        millis(self.control.unresponsive())
    }

    /// A number for a thread that runs commands.
    pub(crate) fn next_writer(&self) -> usize {
        self.writers.fetch_add(1, Ordering::Relaxed)
    }

    pub(crate) fn set_forked(&self) {
        self.forked.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_forked(&self) -> bool {
        self.forked.load(Ordering::Relaxed)
    }
}

fn millis(time: Duration) -> i64 {
    i64::try_from(time.as_millis()).unwrap_or(i64::MAX)
}
