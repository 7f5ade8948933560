//! Unary calls over one `Calls` RPC, which has a connection of its own: a call costs no stream, no
//! task and no timer, only an entry here.
//!
//! A call that finds the connection idle is written by the thread that makes it. The others gather,
//! and the task that drives the connection sends them together.

use h2::RecvStream;
use parking_lot::Mutex;
use prost::Message;
use snakepit_proto::{CallFrame, CallHeader, HandlerExit, ReplyFrame, call_frame::Act};
use snakepit_wire::{Connection, Deframer, Driven, Outlet, StartJournal, append, muted};
use std::{
    collections::{BTreeMap, BTreeSet},
    future::poll_fn,
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    time::{Duration, Instant},
};
use tokio::time::Sleep;
use tokio_util::sync::CancellationToken;

/// How long a worker's commands may stand still before the calls behind them are taken back.
const STALLED_AFTER: Duration = Duration::from_millis(1);

/// With so many calls behind those that a worker runs, further ones gather until a reply comes.
const GATHERED_BEHIND: usize = 4;

/// How long the handler of a cancelled call may go on, unless the worker has a time of its own.
const DEFAULT_GRACE: Duration = Duration::from_secs(5);

/// Why a call's caller waits no longer, while its handler may still run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cancelled {
    TimedOut,
    /// The caller is gone, or has cancelled the call: it expects no reply.
    ByCaller,
}

/// Why a call comes back that has not started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReturnReason {
    /// The worker has given it back, and goes on.
    Recalled,
    /// Nothing starts on this connection any more.
    ConnectionLost,
}

/// A call that was sent, and whoever waits for its reply.
pub trait PendingCall: Send + 'static {
    /// What is sent of it.
    fn header(&mut self) -> &mut CallHeader;
    fn replied(self, reply: ReplyFrame);
    /// Its caller waits no longer. `exited` follows.
    fn cancelled(&mut self, why: Cancelled);
    /// The handler of a cancelled call has exited; `None`: it went on past the grace, or the worker is
    /// lost.
    fn exited(self, exit: Option<HandlerExit>, after: Duration);
    /// The worker died while it may have run the call.
    fn lost(self, cause: &str);
    /// Another worker may take the call.
    fn not_started(self, reason: ReturnReason);
    /// The worker that has the call stands still.
    fn stalled(&self);
}

pub struct Multiplexer<C, P> {
    outlet: Outlet<C>,
    driven: Arc<Driven<C>>,
    state: Mutex<State<P>>,
    /// Whether the driving task hands out replies: it sends what has gathered right after.
    answering: AtomicBool,
    /// Where the server notes which calls have started, if it was given one.
    journal: Option<Arc<StartJournal>>,
    closed: CancellationToken,
}

struct State<P> {
    /// In the order in which they were sent.
    calls: BTreeMap<u64, Entry<P>>,
    /// How many commands the worker runs at once.
    capacity: usize,
    /// How long the handler of a cancelled call may go on.
    grace: Duration,
    last_id: u64,
    timers: BTreeSet<(Instant, u64)>,
    /// When the driving task looks at the timers next.
    armed: Option<Instant>,
    /// When the worker was last known not to stand still.
    progress: Instant,
    recalled_to: u64,
    /// Whether the server was told that the journal is read.
    journal_is_read: bool,
    lost: bool,
}

struct Entry<P> {
    call: P,
    timer: Option<Instant>,
    cancelled_at: Option<Instant>,
}

impl<P> State<P> {
    fn take(&mut self, id: u64) -> Option<Entry<P>> {
        let entry = self.calls.remove(&id)?;
        if let Some(timer) = entry.timer {
            self.timers.remove(&(timer, id));
        }
        Some(entry)
    }

    fn set_timer(&mut self, id: u64, at: Option<Instant>) {
        if let Some(entry) = self.calls.get_mut(&id) {
            let before = std::mem::replace(&mut entry.timer, at);
            if let Some(before) = before {
                self.timers.remove(&(before, id));
            }
            if let Some(at) = at {
                self.timers.insert((at, id));
            }
        }
    }

    /// Whether the driving task would look at this too late.
    fn is_early(&self, at: Option<Instant>) -> bool {
        at.is_some_and(|at| self.armed.is_none_or(|armed| at < armed))
    }
}

impl<C: Connection + 'static, P: PendingCall> Multiplexer<C, P> {
    pub fn new(
        driven: Arc<Driven<C>>,
        outlet: Outlet<C>,
        journal: Option<Arc<StartJournal>>,
        closed: CancellationToken,
    ) -> Arc<Self> {
        Arc::new(Self {
            outlet,
            driven,
            state: Mutex::new(State {
                calls: BTreeMap::new(),
                capacity: usize::MAX,
                grace: DEFAULT_GRACE,
                last_id: 0,
                timers: BTreeSet::new(),
                armed: None,
                progress: Instant::now(),
                recalled_to: 0,
                journal_is_read: false,
                lost: false,
            }),
            answering: AtomicBool::new(false),
            journal,
            closed,
        })
    }

    /// What is known of the worker behind the connection. Calls beyond `capacity` are taken back when the
    /// ones before them stand still; the handler of a cancelled call may go on for `grace`.
    pub fn set_worker(&self, capacity: usize, grace: Duration) {
        let mut state = self.state.lock();
        state.capacity = capacity;
        state.grace = grace;
    }

    /// Sends a call. `keep` gets the call's id, by which it can be cancelled, before it is sent.
    pub fn start(&self, mut call: P, keep: impl FnOnce(u64)) {
        let mut state = self.state.lock();
        if state.lost {
            drop(state);
            return call.not_started(ReturnReason::ConnectionLost);
        }
        state.last_id += 1;
        let id = state.last_id;
        let header = call.header();
        let deadline = header.deadline();
        let frame = header.frame(id);
        self.outlet.queue(|out| append(out, frame));
        keep(id);
        let before = state.calls.len();
        // A reply is due at any moment, or the timer that looks for one: either wakes the task.
        let gathered = before >= state.capacity.saturating_add(GATHERED_BEHIND);
        let idle = before == 0;
        if idle {
            state.progress = Instant::now();
        }
        let early = state.is_early(deadline);
        let entry = Entry {
            call,
            timer: None,
            cancelled_at: None,
        };
        state.calls.insert(id, entry);
        state.set_timer(id, deadline);
        drop(state);
        if self.answering.load(Ordering::SeqCst) {
            return;
        }
        let written = idle && self.outlet.write();
        if early || !(written || gathered) {
            self.outlet.wake();
        }
    }

    /// The caller waits for the call no longer.
    pub fn cancel(&self, id: u64) {
        let mut state = self.state.lock();
        self.cancel_locked(&mut state, id, Cancelled::ByCaller);
        drop(state);
        self.outlet.wake();
    }

    fn cancel_locked(&self, state: &mut State<P>, id: u64, why: Cancelled) {
        let now = Instant::now();
        let until = now + state.grace;
        let Some(entry) = state.calls.get_mut(&id) else {
            return;
        };
        if entry.cancelled_at.is_some() {
            return;
        }
        entry.cancelled_at = Some(now);
        entry.call.cancelled(why);
        state.set_timer(id, Some(until));
        self.act(id, Act::Cancel);
    }

    fn act(&self, id: u64, act: Act) {
        let frame = CallFrame {
            call_id: id,
            act: act.into(),
            ..CallFrame::default()
        };
        self.outlet.queue(|out| append(out, &frame));
    }

    /// Drives the connection until it ends, or until `end`.
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
            () = end.cancelled() => "nobody uses it any more".into(),
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
            self.outlet.drain_and_poll(cx.waker());
            let ended = self.driven.poll(cx.waker(), |connection, cx| {
                muted(|| connection.poll_io(cx))
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
            if !more && !fired && self.outlet.is_empty() {
                return Poll::Pending;
            }
        }
    }

    /// Answers the calls whose replies are there. Whether there were any.
    fn poll_replies(&self, body: &mut RecvStream, deframer: &mut Deframer) -> Result<bool, String> {
        let mut any = false;
        let mut cx = Context::from_waker(self.driven.waker());
        loop {
            let data = match body.poll_data(&mut cx) {
                Poll::Pending => return Ok(any),
                Poll::Ready(Some(Ok(data))) => data,
                Poll::Ready(Some(Err(error))) => return Err(error.to_string()),
                Poll::Ready(None) => return Err("the server ended the calls".into()),
            };
            any = true;
            // A connection that is gone is told by the next poll.
            let _ = muted(|| body.flow_control().release_capacity(data.len()));
            deframer.push(data);
            self.answering.store(true, Ordering::SeqCst);
            let answered = self.answer(deframer);
            self.answering.store(false, Ordering::SeqCst);
            answered?;
        }
    }

    fn answer(&self, deframer: &mut Deframer) -> Result<(), String> {
        let mut replies = Vec::new();
        while let Some(message) = deframer.next().map_err(|error| error.to_string())? {
            replies.push(ReplyFrame::decode(message).map_err(|error| error.to_string())?);
        }
        let mut answered = Vec::with_capacity(replies.len());
        {
            let mut state = self.state.lock();
            state.progress = Instant::now();
            for reply in replies {
                if reply.call_id == 0 {
                    self.read_journal(&mut state, &reply);
                } else if let Some(entry) = state.take(reply.call_id) {
                    answered.push((entry, reply));
                }
            }
        }
        for (entry, reply) in answered {
            match entry.cancelled_at {
                Some(at) => entry.call.exited(Some(reply.exit()), at.elapsed()),
                None if reply.not_started => entry.call.not_started(ReturnReason::Recalled),
                None => entry.call.replied(reply),
            }
        }
        Ok(())
    }

    fn read_journal(&self, state: &mut State<P>, said: &ReplyFrame) {
        let offered = said.has_start_journal && self.journal.is_some();
        if offered && !std::mem::replace(&mut state.journal_is_read, true) {
            self.act(0, Act::StartJournal);
        }
    }

    /// Does what is due and arms the timer for the rest. Whether anything was due.
    fn poll_timers(&self, cx: &mut Context<'_>, mut sleep: Pin<&mut Sleep>) -> bool {
        let now = Instant::now();
        let mut state = self.state.lock();
        let mut past_grace = Vec::new();
        let mut any = false;
        while let Some((at, id)) = state.timers.first().copied()
            && at <= now
        {
            any = true;
            match state.calls.get(&id).and_then(|entry| entry.cancelled_at) {
                None => self.cancel_locked(&mut state, id, Cancelled::TimedOut),
                Some(at) => past_grace.extend(state.take(id).map(|entry| (entry, at))),
            }
        }
        let stalls = self.recall(&mut state, now);
        let next = state
            .timers
            .first()
            .map(|(at, _)| *at)
            .into_iter()
            .chain(stalls)
            .min();
        if state.armed.is_some_and(|armed| armed <= now) {
            state.armed = None;
        }
        if state.is_early(next) {
            state.armed = next;
        }
        let armed = state.armed;
        drop(state);
        for (entry, at) in past_grace {
            entry.call.exited(None, at.elapsed());
        }
        if let Some(armed) = armed {
            if sleep.deadline().into_std() != armed {
                sleep.as_mut().reset(armed.into());
            }
            any |= sleep.poll(cx).is_ready();
        }
        any
    }

    /// Takes back what was sent ahead if the worker stands still. When it is to be asked again.
    fn recall(&self, state: &mut State<P>, now: Instant) -> Option<Instant> {
        if state.calls.len() <= state.capacity {
            return None;
        }
        let (&last, _) = state.calls.last_key_value()?;
        if last <= state.recalled_to {
            return None;
        }
        let due = state.progress + STALLED_AFTER;
        if now < due {
            return Some(due);
        }
        let first = state.recalled_to + 1;
        let ahead: Vec<u64> = state
            .calls
            .keys()
            .skip(state.capacity)
            .copied()
            .filter(|id| *id >= first)
            .collect();
        for id in ahead {
            self.act(id, Act::Recall);
        }
        state.recalled_to = last;
        if let Some(entry) = state.calls.values().next() {
            entry.call.stalled();
        }
        None
    }

    /// The connection is gone, and with it the worker.
    fn end(&self, cause: &str) {
        let (calls, capacity) = {
            let mut state = self.state.lock();
            state.lost = true;
            state.timers.clear();
            (std::mem::take(&mut state.calls), state.capacity)
        };
        let journal = self.journal.as_ref();
        let noted = journal.map_or(0, |journal| journal.last_started());
        self.driven.closed();
        for (index, (id, entry)) in calls.into_iter().enumerate() {
            match entry.cancelled_at {
                Some(at) => entry.call.exited(None, at.elapsed()),
                None if index < capacity || id <= noted => entry.call.lost(cause),
                None => entry.call.not_started(ReturnReason::ConnectionLost),
            }
        }
        self.closed.cancel();
    }
}
