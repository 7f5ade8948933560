//! Sends unary calls as frames of one `Calls` RPC, which has a connection of its own. A call costs an entry
//! in a table, no stream, task or timer.
//!
//! The task that drives the connection reads the replies, or another thread does and feeds them to the connection: see
//! `feeding`.
//!
//! The thread that starts a call writes it if the connection is idle. Otherwise calls gather: the task, which is awake for
//! replies anyway, sends them together. It is not while the connection is fed: then a thread writes its call as well,
//! unless others are expected, of callers that have just got replies; the last of these sends them together, or the feeder
//! after a while.

mod feeding;
mod pending_call;
mod receiver;
mod silence;
mod state;
#[cfg(test)]
mod tests;

pub use pending_call::{Cancelled, Exit, Lost, PendingCall, Report, ReturnReason};

use crate::keepalive::Keepalive;
use bytes::Bytes;
use feeding::{Arrived, Feeding, MANY, MUCH};
use h2::{Ping, PingPong, RecvStream};
use parking_lot::Mutex;
use prost::Message;
pub use receiver::Ended;
use receiver::{Answer, Receiver};
use silence::{Silence, Step};
use snakepit_proto::{CallFrame, CarriesValues, ReplyFrame, call_frame::Act, reply_frame};
use snakepit_wire::{
    BatchingSender, Connection, SharedConnection, StartJournal, leaves_work, without_wakeups,
};
use state::State;
use std::{
    future::poll_fn,
    mem::take,
    os::fd::OwnedFd,
    pin::{Pin, pin},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};
use tokio::time::Sleep;
use tokio_util::sync::CancellationToken;

pub struct Multiplexer<C, P> {
    sender: BatchingSender<C>,
    connection: Arc<SharedConnection<C>>,
    state: Mutex<State<P>>,
    /// `None` before and after the RPC is driven.
    receiver: Mutex<Option<Receiver<P>>>,
    feeding: Feeding<StartFeeding<C, P>>,
    /// Whether a thread is handing out replies. It sends the gathered calls right after that.
    answering: AtomicBool,
    /// How many callers that got replies from a feeder may come back with calls before those that gather are sent.
    awaited: AtomicUsize,
    /// Where the server notes which calls have started, if it was given a journal.
    journal: Option<Arc<StartJournal>>,
    /// Set once the server knows that the journal is read: the last call that was sent before.
    journal_read_after: OnceLock<u64>,
    keepalive: Option<Arc<Keepalive>>,
    closed: CancellationToken,
}

/// What has to follow what was fed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fed {
    /// More of that.
    Read,
    /// `flush`, once the callers that got replies have had time to come back with their next calls.
    Flush,
    /// `stop_feeding`, after what was read already.
    Stop,
}

/// Has something read the socket, call `feed` and, when it no longer reads, `stop_feeding`.
pub type StartFeeding<C, P> = Arc<dyn Fn(Arc<Multiplexer<C, P>>, &OwnedFd) + Send + Sync>;

impl<C: Connection + 'static, P: PendingCall> Multiplexer<C, P> {
    pub fn new(
        connection: Arc<SharedConnection<C>>,
        sender: BatchingSender<C>,
        journal: Option<Arc<StartJournal>>,
        keepalive: Option<Arc<Keepalive>>,
        closed: CancellationToken,
    ) -> Arc<Self> {
        let silence = keepalive.clone().map(Silence::new);
        Arc::new(Self {
            sender,
            connection,
            state: Mutex::new(State::new(silence)),
            receiver: Mutex::new(None),
            feeding: Feeding::default(),
            answering: AtomicBool::new(false),
            awaited: AtomicUsize::new(0),
            journal,
            journal_read_after: OnceLock::new(),
            keepalive,
            closed,
        })
    }

    /// Sets the limits of the worker. Calls beyond `capacity` are recalled when the worker stalls; the
    /// handler of a cancelled call may run on for `grace`. `owned`: whether the worker was started with these limits,
    /// for this client alone. Otherwise each call that was sent may have started when the connection is lost.
    pub fn set_worker(&self, capacity: usize, grace: Duration, owned: bool) {
        self.state.lock().set_worker(capacity, grace, owned);
    }

    /// Sends a call now. Passes the id that `cancel` takes to `keep` before that.
    pub fn start(&self, mut call: P, now: Instant, keep: impl FnOnce(u64)) {
        let mut state = self.state.lock();
        if let Some(what) = state.lost() {
            drop(state);
            return call.not_started(ReturnReason::Lost(what));
        }
        let id = state.next_id();
        let header = call.header();
        let deadline = header.deadline();
        let frame = header.frame(id, now);
        self.sender.queue(|out| {
            out.append_in_parts(frame.encoded_len(), |parts, rest| {
                frame.encode_in_parts(parts, rest);
            });
        });
        keep(id);
        // Sent with the next reply, or by the timer that waits for that.
        let gathered = state.gathers();
        let idle = state.is_empty();
        let next = deadline.into_iter().chain(state.silent_until(false)).min();
        state.insert(id, call, deadline, now);
        let early = state.is_early(next) || state.needs_task();
        drop(state);
        let awaited = self.came_back();
        let writes = || idle || !gathered && self.connection.io().is_fed();
        let written =
            self.answering.load(Ordering::SeqCst) || awaited > 1 || writes() && self.sender.write();
        if early || !(written || gathered) {
            self.sender.wake();
        }
    }

    /// Notes that a call has come. Returns how many were awaited before that.
    fn came_back(&self) -> usize {
        let less = |awaited: usize| awaited.checked_sub(1);
        let before = self
            .awaited
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, less);
        before.unwrap_or(0)
    }

    /// Cancels a call whose caller no longer waits.
    pub fn cancel(&self, id: u64) {
        let mut state = self.state.lock();
        let report = state.cancel(id, Cancelled::ByCaller);
        if report.is_some() {
            self.act(id, Act::Cancel);
        }
        drop(state);
        self.sender.wake();
        if let Some(report) = report {
            report();
        }
    }

    fn act(&self, id: u64, act: Act) {
        let frame = CallFrame {
            call_id: id,
            act: act.into(),
            ..CallFrame::default()
        };
        self.sender.queue(|out| out.append(&frame));
    }

    /// Drives the connection until it closes, the RPC ends or `end` is cancelled. `end` has to follow.
    pub async fn drive(
        self: &Arc<Self>,
        body: RecvStream,
        ping_pong: Option<PingPong>,
        max_frame: usize,
        end: &CancellationToken,
    ) -> Ended {
        *self.receiver.lock() = Some(Receiver::new(body, ping_pong, max_frame));
        let mut sleep = pin!(tokio::time::sleep(Duration::ZERO));
        let driving = poll_fn(|cx| match self.receiver.lock().as_mut() {
            Some(receiver) => self.poll(cx, receiver, sleep.as_mut()),
            None => Poll::Pending,
        });
        let ended = tokio::select! {
            ended = driving => ended,
            () = end.cancelled() => Ended::connection("it is no longer used"),
        };
        let receiver = self.receiver.lock().take();
        let left = receiver.map(|receiver| receiver.left).unwrap_or_default();
        left.into_iter().for_each(Answer::hand_out);
        ended
    }

    fn poll(
        self: &Arc<Self>,
        cx: &mut Context<'_>,
        receiver: &mut Receiver<P>,
        mut sleep: Pin<&mut Sleep>,
    ) -> Poll<Ended> {
        self.sender.register(cx.waker());
        self.connection.register(cx.waker());
        loop {
            // A reply that comes later is not too late, however long it takes to hand out those that have come.
            let now = Instant::now();
            self.answering.store(true, Ordering::SeqCst);
            receiver.left.drain(..).for_each(Answer::hand_out);
            if self.feeding.is_gone() {
                let cause = "the process that read it has ended";
                return Poll::Ready(Ended::by_this_side(cause));
            }
            if let Some(ended) = receiver.ended.take() {
                return Poll::Ready(ended);
            }
            let more = match self.receive(receiver, None) {
                Ok(more) => more,
                Err(ended) => return Poll::Ready(ended),
            };
            let fired = match self.poll_timers(cx, now, receiver.ping_pong.as_mut(), sleep.as_mut())
            {
                Ok(fired) => fired,
                Err(ended) => return Poll::Ready(ended),
            };
            if !more && !fired && self.sender.is_empty() {
                self.offer_feeding(receiver);
                return Poll::Pending;
            }
        }
    }

    /// Sends what is queued and hands out the replies that have arrived. Returns whether the connection has to be polled
    /// again.
    fn receive(
        &self,
        receiver: &mut Receiver<P>,
        mut replied: Option<&mut dyn FnMut(P, ReplyFrame)>,
    ) -> Result<bool, Ended> {
        self.answering.store(true, Ordering::SeqCst);
        self.sender.drain_here();
        let ended = self
            .connection
            .poll_here(|connection, cx| without_wakeups(|| connection.poll_io(cx)));
        let replies = self.poll_replies(receiver, &mut replied);
        self.answering.store(false, Ordering::SeqCst);
        match ended {
            Poll::Pending => replies,
            Poll::Ready(Ok(())) => Err(Ended::connection("the connection was closed")),
            Poll::Ready(Err(error)) => Err(Ended::connection(self.cause(&error))),
        }
    }

    /// Hands out the replies that have arrived. Returns whether the connection has to let the server send more: only then
    /// is it worth being polled again.
    fn poll_replies(
        &self,
        receiver: &mut Receiver<P>,
        replied: &mut Option<&mut dyn FnMut(P, ReplyFrame)>,
    ) -> Result<bool, Ended> {
        let mut more = false;
        let mut cx = Context::from_waker(self.connection.waker());
        loop {
            let body = &mut receiver.body;
            let data = match body.poll_data(&mut cx) {
                Poll::Pending => return Ok(more),
                Poll::Ready(Some(Ok(data))) => data,
                Poll::Ready(Some(Err(error))) if error.is_reset() => {
                    return Err(Ended::rpc(error.to_string()));
                }
                Poll::Ready(Some(Err(error))) => {
                    return Err(Ended::connection(self.cause(&error)));
                }
                Poll::Ready(None) => return Err(Ended::rpc("the server ended the calls")),
            };
            more |= leaves_work(|| {
                // If the connection is gone, the next poll says so.
                let _ = body.flow_control().release_capacity(data.len());
            });
            receiver.arrived.bytes += data.len();
            receiver.deframer.push(data);
            self.answer(receiver, replied)
                .map_err(Ended::by_this_side)?;
        }
    }

    /// From now on `start` has the connection fed whenever that is better.
    pub fn set_feeder(&self, start: StartFeeding<C, P>) {
        if self.feeding.set_start(start) {
            self.sender.wake();
        }
    }

    /// To be called by the task when it has done everything.
    fn offer_feeding(self: &Arc<Self>, receiver: &mut Receiver<P>) {
        let arrived = take(&mut receiver.arrived);
        let io = self.connection.io();
        if io.is_fed() {
            return;
        }
        let start = self.feeding.offer(arrived, receiver.deframer.is_cut_off());
        if let Some(start) = start {
            start(self.clone(), io.start_feeding());
        }
    }

    /// Takes what was read from the socket. Small replies are passed to `replied`. Returns what has to follow.
    pub fn feed(&self, bytes: Bytes, mut replied: impl FnMut(P, ReplyFrame)) -> Fed {
        let size = bytes.len();
        self.connection.io().feed(bytes);
        // A scheduler is not to be kept for longer than a millisecond.
        let takes_long = size >= MUCH && self.state.lock().len() > MANY;
        let receiver = (!takes_long).then(|| self.receiver.try_lock()).flatten();
        let Some(mut receiver) = receiver else {
            self.sender.wake();
            return Fed::Read;
        };
        let Some(receiver) = receiver.as_mut() else {
            return Fed::Stop;
        };
        receiver.arrived = Arrived::default();
        let mut hand_out = |call, reply| {
            self.awaited.fetch_add(1, Ordering::SeqCst);
            replied(call, reply);
        };
        while receiver.ended.is_none() {
            match self.receive(receiver, Some(&mut hand_out)) {
                Ok(more) if !more && self.sender.is_empty() => break,
                Ok(_) => {}
                Err(ended) => receiver.ended = Some(ended),
            }
        }
        let (needs_task, is_idle, gathered) = {
            let state = self.state.lock();
            (state.needs_task(), state.is_empty(), state.gathers())
        };
        if needs_task || receiver.ended.is_some() || !receiver.left.is_empty() {
            self.sender.wake();
        }
        let awaited = self.awaited.load(Ordering::SeqCst);
        if self.feeding.is_much(size, receiver.arrived) {
            Fed::Stop
        } else if (awaited > 1 || awaited == 1 && !is_idle) && !gathered {
            Fed::Flush
        } else {
            self.flush();
            Fed::Read
        }
    }

    /// Sends the calls that have gathered since replies were handed out.
    pub fn flush(&self) {
        self.awaited.store(0, Ordering::SeqCst);
        if !self.sender.is_empty() {
            self.sender.write();
        }
    }

    /// What fed the connection is gone, and what it had read with it. Locks nothing: it may be found to be gone while it is
    /// asked to feed.
    pub fn feeder_gone(&self) {
        if self.connection.io().is_fed() {
            self.feeding.set_gone();
            self.sender.wake();
        }
    }

    /// The task reads the socket again.
    pub fn stop_feeding(&self) {
        self.feeding.stop();
        self.awaited.store(0, Ordering::SeqCst);
        self.connection.io().stop_feeding();
        self.sender.wake();
    }

    /// Why the connection is lost.
    fn cause(&self, error: &h2::Error) -> String {
        let keepalive = self.keepalive.as_ref();
        let cause = keepalive.and_then(|keepalive| keepalive.cause(error));
        cause.unwrap_or_else(|| error.to_string())
    }

    fn answer(
        &self,
        receiver: &mut Receiver<P>,
        replied: &mut Option<&mut dyn FnMut(P, ReplyFrame)>,
    ) -> Result<(), String> {
        let mut replies = Vec::new();
        while let Some(reply) = receiver
            .deframer
            .next::<ReplyFrame>()
            .map_err(|error| error.to_string())?
        {
            replies.push(reply);
        }
        receiver.arrived.replies += replies.len();
        let mut answered = Vec::with_capacity(replies.len());
        let mut draining = false;
        {
            let mut state = self.state.lock();
            let progressed = replies
                .iter()
                .any(|reply| reply.act() != reply_frame::Act::Event);
            for reply in replies {
                if reply.act() == reply_frame::Act::Draining {
                    state.drain();
                    draining = true;
                } else if reply.call_id == 0 {
                    self.read_journal(&reply, state.last_id());
                } else if reply.act() == reply_frame::Act::Event {
                    let event = reply.event.map(|event| *event).unwrap_or_default();
                    let report = state.report(reply.call_id, event);
                    answered.extend(report.map(Answer::Report));
                } else if let Some(entry) = state.take(reply.call_id) {
                    answered.push(Answer::Reply(entry, reply));
                }
            }
            // Reads the clock, so only if calls are left.
            if progressed && !state.is_empty() {
                state.progressed();
            }
        }
        if draining {
            // The next calls need another connection.
            self.closed.cancel();
        }
        for answer in answered {
            match replied {
                None => answer.hand_out(),
                Some(replied) => receiver.hand_out(answer, replied),
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
    fn poll_timers(
        &self,
        cx: &mut Context<'_>,
        now: Instant,
        ping_pong: Option<&mut PingPong>,
        mut sleep: Pin<&mut Sleep>,
    ) -> Result<bool, Ended> {
        let mut state = self.state.lock();
        let silence = state.silence_due(self.connection.reads(), now);
        let due = state.take_due(now);
        for (id, _) in &due.timed_out {
            self.act(*id, Act::Cancel);
        }
        let recall = state.recall(now);
        for id in &recall.ids {
            self.act(*id, Act::Recall);
        }
        let drained = state.take_drained();
        let silent_until = state.silent_until(state.is_empty());
        let armed = state.arm(now, recall.next.into_iter().chain(silent_until).min());
        drop(state);
        let mut any = !due.timed_out.is_empty() || !due.past_grace.is_empty();
        for (_, report) in due.timed_out {
            report();
        }
        for (call, cancelled_at) in due.past_grace {
            call.exited(Exit::PastGrace, cancelled_at.elapsed());
        }
        any |= self.ask(silence, ping_pong)?;
        if drained {
            self.sender.finish();
            any = true;
        }
        if let Some(armed) = armed {
            if sleep.deadline().into_std() != armed {
                sleep.as_mut().reset(armed.into());
            }
            any |= sleep.poll(cx).is_ready();
        }
        Ok(any)
    }

    /// Asks a silent server whether it is there. Returns whether the connection has to be polled for that.
    fn ask(&self, due: Step, ping_pong: Option<&mut PingPong>) -> Result<bool, Ended> {
        match (due, ping_pong, &self.keepalive) {
            (Step::Lost, _, Some(keepalive)) => Err(Ended::by_this_side(keepalive.silent())),
            (Step::Ping, Some(ping_pong), _) => {
                // Takes the earlier answer, without which h2 sends no other ping.
                let _ = ping_pong.poll_pong(&mut Context::from_waker(Waker::noop()));
                // If the earlier ping has no answer yet, that one is awaited.
                Ok(ping_pong.send_ping(Ping::opaque()).is_ok())
            }
            _ => Ok(false),
        }
    }

    /// Ends all calls: they have nothing any more on which a reply could come.
    pub fn end(&self, ended: &Ended) {
        let Ended { what, cause, .. } = ended;
        let left = self.state.lock().lose(*what);
        let read_after = self.journal_read_after.get().copied();
        // The server notes in it only if it knows that it is read: otherwise those are the numbers of an earlier connection.
        let journal = self.journal.as_ref().filter(|_| read_after.is_some());
        let noted = match journal {
            // It may start others meanwhile.
            _ if ended.by_this_side => u64::MAX,
            Some(journal) => journal.last_started(),
            None => 0,
        };
        // Batches start in no order: without the journal each may have started.
        let unnoted = read_after.unwrap_or(u64::MAX);
        self.connection.set_ended();
        let mut ordinary = 0;
        for entry in left.calls {
            let id = entry.id;
            let may_have_started = if entry.call.is_batched() {
                id <= unnoted
            } else {
                ordinary += 1;
                ordinary <= left.capacity
            };
            match entry.cancelled_at {
                Some(at) => entry.call.exited(Exit::Lost(*what), at.elapsed()),
                None if may_have_started || id <= noted => entry.call.lost(*what, cause),
                None => entry.call.not_started(ReturnReason::Lost(*what)),
            }
        }
        if *what == Lost::Connection {
            self.closed.cancel();
        }
    }
}
