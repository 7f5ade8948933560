//! A worker: its commands, the calls that run, and what it tells about itself. Everything that is
//! asked here is answered without Python's lock.

use crate::{
    call::{Answer, Call},
    commands::Commands,
    control::Control,
};
use pyo3::{FromPyObject, Py, PyAny};
use snakepit_proto::{CallHeader, Fields, HandlerExit, ReplyFrame};
use snakepit_server::{Failure, Outcome, Poke, Scheduler, Seat, failed_chunk, reply_frame, tell};
use snakepit_wire::{StartJournal, append};
use std::{
    collections::VecDeque,
    io,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicI64, AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::sync::Notify;

/// Of how many cancelled calls is remembered how they ended.
const ENDS_KEPT: usize = 1024;
/// How long Python may take to say how many sessions there are.
const COUNTED_WITHIN: Duration = Duration::from_millis(100);
/// Below this commands are short: sending their replies together pays.
const SHORT: Duration = Duration::from_micros(20);

#[derive(FromPyObject)]
#[pyo3(from_item_all)]
pub(crate) struct Settings {
    pub(crate) worker_id: String,
    pub(crate) max_message_size: usize,
    pub(crate) secret: String,
    pub(crate) version: String,
    pub(crate) system_info: Vec<(String, String)>,
    /// Where whoever has started this process reads which calls have started. Empty: nowhere.
    pub(crate) start_journal: String,
}

pub(crate) struct Worker {
    pub(crate) settings: Settings,
    pub(crate) commands: Commands,
    pub(crate) scheduler: Scheduler<Call>,
    pub(crate) control: Control,
    pub(crate) seat: Arc<Seat>,
    pub(crate) started: Instant,
    pub(crate) handled: AtomicI64,
    pub(crate) failed: AtomicI64,
    sessions: AtomicI64,
    /// The mean time of a command, moving, in nanoseconds.
    mean: AtomicU64,
    writers: AtomicUsize,
    /// Wakes whoever waits for a call to be gone.
    left: Notify,
    ends: Mutex<VecDeque<(u64, HandlerExit)>>,
    pub(crate) poke: Arc<Poke>,
    /// What the event loop is to call.
    resumes: Mutex<Vec<Py<PyAny>>>,
    pub(crate) forked: AtomicBool,
    /// What the main thread is to call between two commands.
    posts: Mutex<Vec<Py<PyAny>>>,
    has_posts: AtomicBool,
    /// For the first connection that wants it: the numbers of two would be mixed up.
    journal: Mutex<Option<StartJournal>>,
}

impl Worker {
    pub(crate) fn new(
        settings: Settings,
        commands: Commands,
        slots: usize,
    ) -> io::Result<Arc<Self>> {
        let poke = Arc::new(Poke::new()?);
        let wake = poke.clone();
        // Without it replies are sent sooner.
        let journal = StartJournal::open(&settings.start_journal).ok();
        Ok(Arc::new(Self {
            settings,
            commands,
            scheduler: Scheduler::new(slots, move || wake.wake()),
            control: Control::start(),
            seat: Arc::new(Seat::new(slots == 1)?),
            started: Instant::now(),
            handled: AtomicI64::new(0),
            failed: AtomicI64::new(0),
            sessions: AtomicI64::new(0),
            mean: AtomicU64::new(u64::from(u32::MAX)),
            writers: AtomicUsize::new(0),
            left: Notify::new(),
            ends: Mutex::new(VecDeque::new()),
            poke,
            resumes: Mutex::default(),
            forked: AtomicBool::new(false),
            posts: Mutex::default(),
            has_posts: AtomicBool::new(false),
            journal: Mutex::new(journal),
        }))
    }

    /// A call with this header, or an answer that there can be none.
    pub(crate) fn call(&self, header: CallHeader, answer: Answer) -> Option<Arc<Call>> {
        let stream = answer.is_stream();
        match self.commands.get(header.command()) {
            Some(command) if stream || !command.streams => {
                Some(Call::new(command.clone(), header, answer))
            }
            _ => {
                self.count(true);
                let call = Refused { header, answer };
                self.control.refuse(call);
                None
            }
        }
    }

    /// Cancels calls. Those that have not started are answered at once.
    pub(crate) fn cancel(&self, which: impl Fn(&Call) -> bool) {
        let (waiting, running) = self.scheduler.take_back(which);
        for call in waiting {
            call.cancel();
            self.finish(&call, Err(Failure::cancelled()), Duration::ZERO);
            self.flush(&call);
        }
        for call in running {
            if call.cancel() {
                self.control.cancel(call);
            }
        }
    }

    /// Answers a unary call, or ends a stream with its failure.
    pub(crate) fn finish(&self, call: &Call, result: Result<Fields, Failure>, took: Duration) {
        self.count(result.is_err());
        let exit = if call.is_cancelled() {
            call.exit()
        } else {
            HandlerExit::Unknown
        };
        let outcome = Outcome { result, took, exit };
        match &call.answer {
            Answer::Frame(lane) => lane.reply(&reply_frame(call.header.call_id(), outcome)),
            Answer::Unary(sender) => tell(sender, outcome),
            Answer::Stream(chunks) => {
                if let Err(failure) = outcome.result {
                    chunks.push(&failed_chunk(call.header.request_id(), 0, failure));
                }
                chunks.end();
            }
        }
        self.remember_end(call);
    }

    /// Sends a reply that nobody else is about to send.
    pub(crate) fn flush(&self, call: &Call) {
        if let Answer::Frame(lane) = &call.answer {
            lane.outlet.wake();
        }
    }

    pub(crate) fn count(&self, failed: bool) {
        self.handled.fetch_add(1, Ordering::Relaxed);
        self.failed.fetch_add(i64::from(failed), Ordering::Relaxed);
    }

    /// Gives calls back that have not started.
    pub(crate) fn give_back(&self, which: impl Fn(&Call) -> bool) {
        for call in self.scheduler.take_back(which).0 {
            if let Answer::Frame(lane) = &call.answer {
                lane.outlet.queue(|out| {
                    let frame = ReplyFrame {
                        call_id: call.header.call_id(),
                        not_started: true,
                        ..ReplyFrame::default()
                    };
                    append(out, &frame);
                });
                lane.outlet.wake();
            }
        }
    }

    /// Sends the replies that calls must not start before.
    pub(crate) fn flush_before(&self, calls: &[Arc<Call>]) {
        for call in calls {
            if let Answer::Frame(lane) = &call.answer
                && lane.has_unsent()
            {
                lane.flush();
            }
        }
    }

    pub(crate) fn has_journal(&self) -> bool {
        self.journal
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .is_some()
    }

    pub(crate) fn take_journal(&self) -> Option<StartJournal> {
        self.journal
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
    }

    /// Has the event loop call `resume`.
    pub(crate) fn resume(&self, resume: Py<PyAny>) {
        self.resumes
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(resume);
        self.poke.wake();
    }

    /// Has the thread that runs commands call `function`, where there is only one.
    pub(crate) fn post(&self, function: Py<PyAny>) {
        let mut posts = self.posts.lock().unwrap_or_else(PoisonError::into_inner);
        posts.push(function);
        self.has_posts.store(true, Ordering::Release);
        drop(posts);
        self.scheduler.wake();
    }

    pub(crate) fn has_posts(&self) -> bool {
        self.has_posts.load(Ordering::Acquire)
    }

    pub(crate) fn take_posts(&self) -> Vec<Py<PyAny>> {
        let mut posts = self.posts.lock().unwrap_or_else(PoisonError::into_inner);
        self.has_posts.store(false, Ordering::Release);
        std::mem::take(&mut *posts)
    }

    pub(crate) fn take_resumes(&self) -> Vec<Py<PyAny>> {
        std::mem::take(&mut *self.resumes.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// To be called once a call that had started is out of the scheduler.
    pub(crate) fn has_left(&self) {
        self.left.notify_waiters();
    }

    /// A call of the event loop has ended.
    pub(crate) fn leave_loop(&self, call: &Arc<Call>) {
        self.scheduler.leave(call);
        self.has_left();
    }

    /// Waits until none of the calls is queued or runs.
    pub(crate) async fn wait_gone(&self, which: impl Fn(&Call) -> bool) {
        loop {
            let left = self.left.notified();
            if !self.scheduler.has(&which) {
                return;
            }
            left.await;
        }
    }

    /// How many sessions there are; while Python does not let anyone ask, how many there were.
    pub(crate) async fn active_sessions(&self) -> i64 {
        let asked = tokio::time::timeout(COUNTED_WITHIN, self.control.count_sessions()).await;
        if let Ok(Some(count)) = asked {
            self.sessions.store(count, Ordering::Relaxed);
        }
        self.sessions.load(Ordering::Relaxed)
    }

    pub(crate) fn exit(&self, call_id: u64) -> HandlerExit {
        let ends = self.ends.lock().unwrap_or_else(PoisonError::into_inner);
        let found = ends.iter().rev().find(|(id, _)| *id == call_id);
        found.map_or(HandlerExit::Unknown, |(_, exit)| *exit)
    }

    pub(crate) fn remember_end(&self, call: &Call) {
        let id = call.header.call_id();
        if !call.is_cancelled() || id == 0 {
            return;
        }
        let mut ends = self.ends.lock().unwrap_or_else(PoisonError::into_inner);
        if ends.len() == ENDS_KEPT {
            ends.pop_front();
        }
        ends.push_back((id, call.exit()));
    }

    /// Numbers the threads that run commands.
    pub(crate) fn next_writer(&self) -> usize {
        self.writers.fetch_add(1, Ordering::Relaxed)
    }

    pub(crate) fn took(&self, time: Duration) {
        let new = i64::try_from(time.as_nanos()).unwrap_or(i64::MAX);
        let _ = self
            .mean
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |mean| {
                mean.checked_add_signed((new.saturating_sub_unsigned(mean)) / 8)
            });
    }

    pub(crate) fn commands_are_short(&self) -> bool {
        u128::from(self.mean.load(Ordering::Relaxed)) < SHORT.as_nanos()
    }
}

/// A call that no command can serve.
pub(crate) struct Refused {
    pub(crate) header: CallHeader,
    pub(crate) answer: Answer,
}
