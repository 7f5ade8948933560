//! Sends unary calls as frames of one `Calls` RPC, which has a connection of its own. A call costs an entry
//! in a table, no stream, task or timer.
//!
//! The thread that starts a call writes it if the connection is idle. Otherwise calls gather, and the task
//! that drives the connection sends them together.

mod pending_call;
mod state;
#[cfg(test)]
mod tests;

pub use pending_call::{Cancelled, PendingCall, Report, ReturnReason};

use h2::RecvStream;
use parking_lot::Mutex;
use prost::Message;
use snakepit_proto::{CallFrame, CarriesValues, ReplyFrame, call_frame::Act, reply_frame};
use snakepit_wire::{
    BatchingSender, Connection, Deframer, SharedConnection, StartJournal, leaves_work,
    without_wakeups,
};
use state::{Entry, State};
use std::{
    future::poll_fn,
    pin::{Pin, pin},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    time::{Duration, Instant},
};
use tokio::time::Sleep;
use tokio_util::sync::CancellationToken;

/// When this many calls wait behind those that the worker runs, further ones gather until a reply arrives.
const GATHERED_BEHIND: usize = 4;

pub struct Multiplexer<C, P> {
    sender: BatchingSender<C>,
    connection: Arc<SharedConnection<C>>,
    state: Mutex<State<P>>,
    /// Whether the driving task is handing out replies. It sends the gathered calls right after that.
    answering: AtomicBool,
    /// Where the server notes which calls have started, if it was given a journal.
    journal: Option<Arc<StartJournal>>,
    /// Set once the server knows that the journal is read: the last call that was sent before.
    journal_read_after: OnceLock<u64>,
    closed: CancellationToken,
}

/// What a frame means to the caller of its call.
enum Answer<P> {
    Reply(Box<Entry<P>>, ReplyFrame),
    Report(Report),
}

impl<C: Connection + 'static, P: PendingCall> Multiplexer<C, P> {
    pub fn new(
        connection: Arc<SharedConnection<C>>,
        sender: BatchingSender<C>,
        journal: Option<Arc<StartJournal>>,
        closed: CancellationToken,
    ) -> Arc<Self> {
        Arc::new(Self {
            sender,
            connection,
            state: Mutex::new(State::new()),
            answering: AtomicBool::new(false),
            journal,
            journal_read_after: OnceLock::new(),
            closed,
        })
    }

    /// Sets the limits of the worker. Calls beyond `capacity` are recalled when the worker stalls; the
    /// handler of a cancelled call may run on for `grace`. `owned`: whether the worker was started with these limits,
    /// for this client alone. Otherwise each call that was sent may have started when the connection is lost.
    pub fn set_worker(&self, capacity: usize, grace: Duration, owned: bool) {
        self.state.lock().set_worker(capacity, grace, owned);
    }

    /// Sends a call. Passes the id that `cancel` takes to `keep` before that.
    pub fn start(&self, mut call: P, keep: impl FnOnce(u64)) {
        let mut state = self.state.lock();
        if state.is_lost() {
            drop(state);
            return call.not_started(ReturnReason::ConnectionLost);
        }
        let id = state.next_id();
        let header = call.header();
        let deadline = header.deadline();
        let frame = header.frame(id);
        self.sender.queue(|out| {
            out.append_in_parts(frame.encoded_len(), |parts, rest| {
                frame.encode_in_parts(parts, rest);
            });
        });
        keep(id);
        // The task is woken anyway: by the next reply, or by the timer that waits for it.
        let gathered = state.behind() >= GATHERED_BEHIND;
        let idle = state.is_empty();
        let early = state.is_early(deadline);
        state.insert(id, call, deadline);
        drop(state);
        if self.answering.load(Ordering::SeqCst) {
            return;
        }
        let written = idle && self.sender.write();
        if early || !(written || gathered) {
            self.sender.wake();
        }
    }

    /// Cancels a call whose caller no longer waits.
    pub fn cancel(&self, id: u64) {
        let mut state = self.state.lock();
        if state.cancel(id, Cancelled::ByCaller) {
            self.act(id, Act::Cancel);
        }
        drop(state);
        self.sender.wake();
    }

    fn act(&self, id: u64, act: Act) {
        let frame = CallFrame {
            call_id: id,
            act: act.into(),
            ..CallFrame::default()
        };
        self.sender.queue(|out| out.append(&frame));
    }

    /// Drives the connection until it closes or `end` is cancelled.
    pub async fn drive(
        self: Arc<Self>,
        mut body: RecvStream,
        max_frame: usize,
        end: CancellationToken,
    ) {
        let mut deframer = Deframer::new(max_frame);
        let mut sleep = pin!(tokio::time::sleep(Duration::ZERO));
        let driving = poll_fn(|cx| self.poll(cx, &mut body, &mut deframer, sleep.as_mut()));
        let cause = tokio::select! {
            cause = driving => cause,
            () = end.cancelled() => "it is no longer used".into(),
        };
        self.end(&cause);
    }

    fn poll(
        &self,
        cx: &mut Context<'_>,
        body: &mut RecvStream,
        deframer: &mut Deframer,
        mut sleep: Pin<&mut Sleep>,
    ) -> Poll<String> {
        loop {
            self.sender.drain_and_poll(cx.waker());
            let ended = self.connection.poll(cx.waker(), |connection, cx| {
                without_wakeups(|| connection.poll_io(cx))
            });
            let more = match self.poll_replies(body, deframer) {
                Ok(more) => more,
                Err(cause) => return Poll::Ready(cause),
            };
            if let Poll::Ready(ended) = ended {
                let cause = ended
                    .err()
                    .map_or("the connection was closed".into(), |e| e.to_string());
                return Poll::Ready(cause);
            }
            let fired = self.poll_timers(cx, sleep.as_mut());
            if !more && !fired && self.sender.is_empty() {
                return Poll::Pending;
            }
        }
    }

    /// Hands out the replies that have arrived. Returns whether the connection has to let the server send more: only then
    /// is it worth being polled again.
    fn poll_replies(&self, body: &mut RecvStream, deframer: &mut Deframer) -> Result<bool, String> {
        let mut more = false;
        let mut cx = Context::from_waker(self.connection.waker());
        loop {
            let data = match body.poll_data(&mut cx) {
                Poll::Pending => return Ok(more),
                Poll::Ready(Some(Ok(data))) => data,
                Poll::Ready(Some(Err(error))) => return Err(error.to_string()),
                Poll::Ready(None) => return Err("the server ended the calls".into()),
            };
            more |= leaves_work(|| {
                // If the connection is gone, the next poll says so.
                let _ = body.flow_control().release_capacity(data.len());
            });
            deframer.push(data);
            self.answering.store(true, Ordering::SeqCst);
            let answered = self.answer(deframer);
            self.answering.store(false, Ordering::SeqCst);
            answered?;
        }
    }

    fn answer(&self, deframer: &mut Deframer) -> Result<(), String> {
        let mut replies = Vec::new();
        while let Some(reply) = deframer
            .next::<ReplyFrame>()
            .map_err(|error| error.to_string())?
        {
            replies.push(reply);
        }
        let mut answered = Vec::with_capacity(replies.len());
        {
            let mut state = self.state.lock();
            if replies
                .iter()
                .any(|reply| reply.act() != reply_frame::Act::Event)
            {
                state.progressed();
            }
            for reply in replies {
                if reply.call_id == 0 {
                    self.read_journal(&reply, state.last_id());
                } else if reply.act() == reply_frame::Act::Event {
                    let event = reply.event.map(|event| *event).unwrap_or_default();
                    let report = state.report(reply.call_id, event);
                    answered.extend(report.map(Answer::Report));
                } else if let Some(entry) = state.take(reply.call_id) {
                    answered.push(Answer::Reply(entry, reply));
                }
            }
        }
        for answer in answered {
            let (entry, reply) = match answer {
                Answer::Reply(entry, reply) => (entry, reply),
                Answer::Report(report) => {
                    report();
                    continue;
                }
            };
            match entry.cancelled_at {
                Some(at) => entry.call.exited(Some(reply.exit()), at.elapsed()),
                None if reply.not_started => entry.call.not_started(ReturnReason::Recalled),
                None => entry.call.replied(reply),
            }
        }
        Ok(())
    }

    fn read_journal(&self, offer: &ReplyFrame, last_id: u64) {
        let offered = offer.has_start_journal && self.journal.is_some();
        if offered && self.journal_read_after.set(last_id).is_ok() {
            self.act(0, Act::StartJournal);
        }
    }

    /// Does what is due and arms the timer for the rest. Returns whether anything was due.
    fn poll_timers(&self, cx: &mut Context<'_>, mut sleep: Pin<&mut Sleep>) -> bool {
        let now = Instant::now();
        let mut state = self.state.lock();
        let due = state.take_due(now);
        for id in &due.timed_out {
            self.act(*id, Act::Cancel);
        }
        let recall = state.recall(now);
        for id in &recall.ids {
            self.act(*id, Act::Recall);
        }
        let armed = state.arm(now, recall.next);
        drop(state);
        let mut any = !due.timed_out.is_empty() || !due.past_grace.is_empty();
        for (call, cancelled_at) in due.past_grace {
            call.exited(None, cancelled_at.elapsed());
        }
        if let Some(armed) = armed {
            if sleep.deadline().into_std() != armed {
                sleep.as_mut().reset(armed.into());
            }
            any |= sleep.poll(cx).is_ready();
        }
        any
    }

    /// Ends all calls: the connection is gone, and the worker with it.
    fn end(&self, cause: &str) {
        let left = self.state.lock().lose();
        let journal = self.journal.as_ref();
        let noted = journal.map_or(0, |journal| journal.last_started());
        // Batches start in no order: without the journal each may have started.
        let unnoted = self.journal_read_after.get().copied().unwrap_or(u64::MAX);
        self.connection.set_ended();
        let mut ordinary = 0;
        for (id, entry) in left.calls {
            let may_have_started = if entry.call.is_batched() {
                id <= unnoted
            } else {
                ordinary += 1;
                ordinary <= left.capacity
            };
            match entry.cancelled_at {
                Some(at) => entry.call.exited(None, at.elapsed()),
                None if may_have_started || id <= noted => entry.call.lost(cause),
                None => entry.call.not_started(ReturnReason::ConnectionLost),
            }
        }
        self.closed.cancel();
    }
}
