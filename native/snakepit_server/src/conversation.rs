//! The two-way part of a call that came by `Converse`: asks with their answers, and input streams.
//!
//! The command's threads queue messages and write them to the socket themselves; the network's thread brings what
//! the client sends. One mutex guards what both need. Whoever changes it wakes others after it has unlocked: threads
//! through `changed`, the thread that waits while it drives the network through its waker, and the event loop
//! through a function for each ask and each input.

use crate::{
    chunk_buffer::GATHERED_FOR,
    failure::Failure,
    grpc::{ServerConnection, trailers},
    inputs::{Ended, Input, Read, Wake},
    io_driver::IoDriver,
    outcome::Outcome,
    stream_responder::StreamResponder,
    tasks::Tasks,
};
use bytes::Bytes;
use h2::SendStream;
use parking_lot::{Condvar, Mutex};
use prost::{
    Message,
    encoding::{WireType, encode_key, encode_varint, encoded_len_varint, key_len},
};
use snakepit_proto::{
    CallEvent, CarriesValues, ConverseCall, ConverseDown, ConverseUp, Fields, InputDemand,
    ReplyFrame, ToolAnswer, ToolAsk,
};
use snakepit_wire::{BatchingSender, SharedConnection};
use std::{
    collections::{HashMap, VecDeque},
    future::poll_fn,
    mem::take,
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};
use tokio::time::{Sleep, timeout_at};
use tonic::Status;

/// The number of the reply in a `ConverseDown`.
const REPLY: u32 = 2;

/// How a wait has ended.
#[derive(Debug)]
pub enum Waited<T> {
    Done(T),
    /// There was nothing in time.
    Late,
    /// The thread that runs commands may have handlers of signals to run.
    Interrupted,
}

pub struct Conversation {
    sender: BatchingSender<ServerConnection>,
    chunks: Option<Arc<StreamResponder>>,
    call_id: u64,
    tools: Vec<String>,
    max_asks: usize,
    state: Mutex<State>,
    changed: Condvar,
    /// Whether the call has its answer.
    finished: AtomicBool,
    /// Whether its reply was chosen: the first one counts.
    answered: AtomicBool,
    /// Whether that is queued.
    replied: AtomicBool,
    /// Whether the RPC has ended.
    closed: AtomicBool,
}

#[derive(Default)]
struct State {
    last_ask: u64,
    asks: HashMap<u64, Asked>,
    /// How many asks the client has that it has not answered.
    in_flight: usize,
    /// Asks beyond `max_asks`.
    held: VecDeque<ToolAsk>,
    inputs: Vec<Input>,
    ended: Option<Ended>,
    /// Whether the thread that runs commands must not go on waiting.
    interrupted: bool,
    /// Wakes the thread that waits while it drives the network.
    waiting: Option<Waker>,
}

enum Asked {
    Waiting(Option<Wake>),
    Answered(ToolAnswer),
}

impl State {
    fn answer(&mut self, answer: ToolAnswer, wakes: &mut Vec<Wake>) {
        if self.held.iter().any(|ask| ask.ask_id == answer.ask_id) {
            // It has not been asked.
            return;
        }
        let Some(asked) = self.asks.get_mut(&answer.ask_id) else {
            // It was withdrawn.
            return;
        };
        if let Asked::Waiting(wake) = asked {
            wakes.extend(wake.take());
            *asked = Asked::Answered(answer);
            self.in_flight -= 1;
        }
    }

    fn input(&mut self, id: u32) -> Result<&mut Input, Status> {
        let input = self.inputs.iter_mut().find(|input| input.id == id);
        input.ok_or_else(|| Status::invalid_argument(format!("the call has no input {id}")))
    }

    fn end(&mut self, why: Ended) -> Vec<Wake> {
        if matches!(self.ended, None | Some(Ended::ByClient)) {
            self.ended = Some(why);
        }
        let asks = self.asks.values_mut().filter_map(|asked| match asked {
            Asked::Waiting(wake) => wake.take(),
            Asked::Answered(_) => None,
        });
        let inputs = self.inputs.iter_mut().filter_map(|one| one.on_ready.take());
        asks.chain(inputs).collect()
    }
}

impl Conversation {
    /// `call` without its frame. `chunks` if the client takes some.
    pub fn new(
        connection: Arc<SharedConnection<ServerConnection>>,
        call: ConverseCall,
        call_id: u64,
        chunks: Option<Arc<StreamResponder>>,
    ) -> Self {
        let max_asks = match call.max_asks {
            0 => usize::MAX,
            most => most as usize,
        };
        Self {
            sender: BatchingSender::unopened(connection),
            chunks,
            call_id,
            tools: call.tools,
            max_asks,
            state: Mutex::new(State {
                inputs: call.inputs.into_iter().map(Input::new).collect(),
                ..State::default()
            }),
            changed: Condvar::new(),
            finished: AtomicBool::new(false),
            answered: AtomicBool::new(false),
            replied: AtomicBool::new(false),
            closed: AtomicBool::new(false),
        }
    }

    /// Messages are sent from now on.
    pub fn open(&self, stream: SendStream<Bytes>) {
        self.sender.open(stream);
    }

    pub fn tools(&self) -> &[String] {
        &self.tools
    }

    /// The ids and the names of the arguments that are input streams.
    pub fn inputs(&self) -> Vec<(u32, String)> {
        let state = self.state.lock();
        let inputs = state.inputs.iter();
        inputs.map(|one| (one.id, one.name.clone())).collect()
    }

    /// The command can read its inputs: the client may send the first items.
    pub fn start_inputs(&self) {
        let mut down = ConverseDown::default();
        for input in &mut self.state.lock().inputs {
            down.input_demands.extend(input.start());
        }
        if !down.input_demands.is_empty() {
            self.queue(&down);
            self.sender.write();
        }
    }

    /// Asks a tool; `write` sends it. Returns the id of the ask. `done` is called once `answer` returns something.
    pub fn ask(
        &self,
        tool: String,
        args: Fields,
        timeout: Option<Duration>,
        done: Option<Wake>,
    ) -> u64 {
        let micros = timeout.map(|timeout| u64::try_from(timeout.as_micros()).unwrap_or(u64::MAX));
        let mut state = self.state.lock();
        state.last_ask += 1;
        let ask = ToolAsk {
            ask_id: state.last_ask,
            tool,
            args: args.values,
            arg_kinds: args.kinds,
            timeout_us: micros.unwrap_or_default(),
        };
        let id = ask.ask_id;
        if state.ended.is_some() {
            state.asks.insert(id, Asked::Waiting(None));
            drop(state);
            done.into_iter().for_each(|done| done());
            return id;
        }
        state.asks.insert(id, Asked::Waiting(done));
        if state.in_flight < self.max_asks {
            state.in_flight += 1;
            self.queue_asks(vec![ask]);
        } else {
            state.held.push_back(ask);
        }
        id
    }

    /// Whether an ask has a result, which `answer` returns.
    pub fn is_answered(&self, ask_id: u64) -> bool {
        let state = self.state.lock();
        state.ended.is_some() || matches!(state.asks.get(&ask_id), Some(Asked::Answered(_)))
    }

    /// The answer to an ask, once; None if there is none yet.
    pub fn answer(&self, ask_id: u64) -> Option<Result<ToolAnswer, Ended>> {
        answered(&mut self.state.lock(), ask_id)
    }

    /// Waits for the answer to an ask. `driver`: if this is the thread that runs commands.
    pub fn wait_answer(
        &self,
        ask_id: u64,
        until: Option<Instant>,
        driver: Option<&IoDriver>,
    ) -> Waited<Result<ToolAnswer, Ended>> {
        self.wait(driver, until, |state| answered(state, ask_id))
    }

    /// Nobody waits for the answer to an ask.
    pub fn withdraw(&self, ask_id: u64) {
        let mut state = self.state.lock();
        let Some(Asked::Waiting(_)) = state.asks.remove(&ask_id) else {
            return;
        };
        let held = state.held.len();
        state.held.retain(|ask| ask.ask_id != ask_id);
        if state.held.len() < held || state.ended.is_some() {
            return;
        }
        state.in_flight -= 1;
        self.queue(&ConverseDown {
            withdrawn_asks: vec![ask_id],
            ..ConverseDown::default()
        });
        self.send_held(&mut state);
        drop(state);
        self.sender.write();
    }

    /// The items of an input that have arrived, if there are any, or its end. What was returned before counts as
    /// read.
    pub fn read(&self, input_id: u32) -> Option<Read> {
        let (read, granted) = self.read_and_grant(input_id);
        if granted {
            self.sender.write();
        }
        read
    }

    /// As `read`, and waits.
    pub fn wait_read(&self, input_id: u32, driver: Option<&IoDriver>) -> Waited<Read> {
        if let Some(read) = self.read(input_id) {
            return Waited::Done(read);
        }
        self.wait(driver, None, |state| {
            let ended = state.ended;
            let input = state.input(input_id).ok()?;
            input.read(ended)
        })
    }

    /// Ends the wait of the thread that runs commands, or its next one.
    pub fn interrupt(&self) {
        self.state.lock().interrupted = true;
        self.tell(Vec::new());
    }

    /// Calls `wake` once `read` returns something.
    pub fn on_readable(&self, input_id: u32, wake: Wake) {
        let mut state = self.state.lock();
        let ended = state.ended;
        match state.input(input_id) {
            Ok(input) if !input.is_readable(ended) => input.on_ready = Some(wake),
            _ => {
                drop(state);
                wake();
            }
        }
    }

    /// The command reads no further items of an input.
    pub fn stop_input(&self, input_id: u32) {
        let mut state = self.state.lock();
        let over = state.ended.is_some();
        let Ok(input) = state.input(input_id) else {
            return;
        };
        if !input.stop() || over {
            return;
        }
        self.queue(&ConverseDown {
            stopped_inputs: vec![input_id],
            ..ConverseDown::default()
        });
        drop(state);
        self.sender.write();
    }

    /// Writes what is queued from this thread, without waiting.
    pub fn write(&self) {
        self.sender.write();
    }

    /// Takes what the client has sent.
    pub fn receive(&self, up: ConverseUp) -> Result<(), Status> {
        let mut wakes = Vec::new();
        {
            let mut state = self.state.lock();
            for answer in up.answers {
                state.answer(answer, &mut wakes);
            }
            self.send_held(&mut state);
            for items in up.items {
                let input = state.input(items.input_id)?;
                input.add(items)?;
                wakes.extend(input.on_ready.take());
            }
            for end in up.input_ends {
                let input = state.input(end.input_id)?;
                input.end(end.error);
                wakes.extend(input.on_ready.take());
            }
        }
        if let (Some(chunks), Some(more)) = (&self.chunks, up.demand) {
            chunks.add_demand(&more);
        }
        self.tell(wakes);
        Ok(())
    }

    /// Nothing more comes from the client.
    pub fn client_ended(&self) {
        self.end_waits(Ended::ByClient);
    }

    /// Sends what is queued as it comes, until the RPC has ended or the client has cancelled it.
    pub async fn send(&self) {
        let mut gathered = pin!(tokio::time::sleep(GATHERED_FOR));
        poll_fn(|cx| self.poll_send(cx, gathered.as_mut())).await;
    }

    fn poll_send(&self, cx: &mut Context<'_>, mut gathered: Pin<&mut Sleep>) -> Poll<()> {
        let mut over = self.chunks.is_none() && self.replied.load(Ordering::Acquire);
        if let Some(chunks) = &self.chunks {
            while let Poll::Ready(taken) = chunks
                .buffer()
                .poll_take(cx, |cx| gathered.as_mut().poll(cx))
            {
                let Some(bytes) = taken else {
                    over = true;
                    break;
                };
                self.sender.queue(|out| out.append_framed(bytes));
                let until = Instant::now() + GATHERED_FOR;
                gathered.as_mut().reset(until.into());
            }
        }
        self.sender.drain(cx.waker());
        if over {
            self.close(&Status::ok(""));
        }
        if self.closed.load(Ordering::Acquire) {
            return Poll::Ready(());
        }
        self.sender.poll_reset(cx)
    }

    /// Whether the call has its answer.
    pub fn is_over(&self) -> bool {
        self.finished.load(Ordering::Acquire)
    }

    /// Ends the RPC, unless it has ended.
    pub fn close(&self, status: &Status) {
        if !self.closed.swap(true, Ordering::AcqRel) {
            self.sender.end(&trailers(status));
        }
    }

    /// Answers the call although its command runs on.
    pub fn fail_now(&self, failure: Failure) {
        self.finished.store(true, Ordering::Release);
        match &self.chunks {
            Some(chunks) => chunks.fail_now(failure),
            None => self.reply(Outcome::not_run(failure, Default::default())),
        }
    }

    /// The command has ended. Threads that it has left behind wait for nothing.
    pub(crate) fn finish(&self, outcome: Outcome) {
        self.finished.store(true, Ordering::Release);
        self.end_waits(Ended::Finished);
        match &self.chunks {
            Some(chunks) => chunks.finish(outcome.result.err()),
            None => self.reply(outcome),
        }
    }

    /// Whether `flush` has something to do.
    pub(crate) fn needs_flush(&self) -> bool {
        self.replied.load(Ordering::Acquire) && !self.closed.load(Ordering::Acquire)
    }

    /// Sends the reply from this thread, and ends the RPC.
    pub(crate) fn flush(&self) {
        // Otherwise the network's thread does it when it opens the stream.
        if self.needs_flush() && self.sender.is_open() && !self.closed.swap(true, Ordering::AcqRel)
        {
            self.sender.end_here(&trailers(&Status::ok("")));
            self.sender.wake();
        }
    }

    /// Wakes the network's thread, which sends what is queued.
    pub(crate) fn wake(&self) {
        self.sender.wake();
    }

    /// Sends what the command reports. False if the client does not read, and the event was dropped.
    pub(crate) fn report(&self, event: CallEvent) -> bool {
        if event.is_telemetry() && self.sender.is_blocked() {
            return false;
        }
        self.queue(&ConverseDown {
            events: vec![event],
            ..ConverseDown::default()
        });
        self.sender.write();
        true
    }

    /// The call was cancelled: nobody waits any longer.
    pub(crate) fn cancel(&self) {
        self.end_waits(Ended::Cancelled);
        if let Some(chunks) = &self.chunks {
            chunks.cancel();
        }
    }

    #[inline]
    pub(crate) fn chunks(&self) -> Option<&StreamResponder> {
        self.chunks.as_deref()
    }

    fn reply(&self, outcome: Outcome) {
        // The deadline may pass while the command ends.
        if self.answered.swap(true, Ordering::AcqRel) {
            return;
        }
        let mut reply: ReplyFrame = outcome.into_reply(self.call_id);
        let size = reply.encoded_len();
        let whole = key_len(REPLY) + encoded_len_varint(size as u64) + size;
        self.sender.queue(|out| {
            // Large values are not copied.
            out.append_in_parts(whole, |parts, rest| {
                encode_key(REPLY, WireType::LengthDelimited, rest);
                encode_varint(size as u64, rest);
                reply.encode_in_parts(parts, rest);
            });
        });
        self.replied.store(true, Ordering::Release);
    }

    fn read_and_grant(&self, input_id: u32) -> (Option<Read>, bool) {
        let mut state = self.state.lock();
        let ended = state.ended;
        let Ok(input) = state.input(input_id) else {
            return (Some(Read::End), false);
        };
        let granted = input.grant();
        let read = input.read(ended);
        let grants = granted.is_some() && ended.is_none();
        if grants {
            self.queue(&ConverseDown {
                input_demands: granted.into_iter().collect::<Vec<InputDemand>>(),
                ..ConverseDown::default()
            });
        }
        (read, grants)
    }

    fn send_held(&self, state: &mut State) {
        let room = self.max_asks.saturating_sub(state.in_flight);
        let asks: Vec<_> = state.held.drain(..room.min(state.held.len())).collect();
        if !asks.is_empty() {
            state.in_flight += asks.len();
            self.queue_asks(asks);
        }
    }

    fn queue_asks(&self, asks: Vec<ToolAsk>) {
        self.queue(&ConverseDown {
            asks,
            ..ConverseDown::default()
        });
    }

    fn queue(&self, message: &ConverseDown) {
        self.sender.queue(|out| out.append(message));
    }

    fn end_waits(&self, why: Ended) {
        let wakes = self.state.lock().end(why);
        self.tell(wakes);
    }

    fn tell(&self, wakes: Vec<Wake>) {
        let waiting = self.state.lock().waiting.take();
        self.changed.notify_all();
        // A thread that polls the tasks looks itself, after that.
        if let Some(waiting) = waiting
            && !Tasks::is_polling()
        {
            waiting.wake();
        }
        wakes.into_iter().for_each(|wake| wake());
    }

    /// Waits until `check` returns something, at most until then.
    fn wait<T>(
        &self,
        driver: Option<&IoDriver>,
        until: Option<Instant>,
        check: impl Fn(&mut State) -> Option<T>,
    ) -> Waited<T> {
        let look = |state: &mut State| match check(state) {
            Some(done) => Some(Waited::Done(done)),
            None if driver.is_some() && take(&mut state.interrupted) => Some(Waited::Interrupted),
            None => None,
        };
        // While a stream runs, the network's thread sends its chunks.
        if self.chunks.is_none()
            && let Some(driver) = driver
            && let Some(waited) = driver.wait_here(self.looked(until, &look))
        {
            return waited;
        }
        let mut state = self.state.lock();
        loop {
            if let Some(waited) = look(&mut state) {
                return waited;
            }
            match until {
                Some(until) if until <= Instant::now() => return Waited::Late,
                Some(until) => drop(self.changed.wait_until(&mut state, until)),
                None => self.changed.wait(&mut state),
            }
        }
    }

    async fn looked<T>(
        &self,
        until: Option<Instant>,
        look: impl Fn(&mut State) -> Option<Waited<T>>,
    ) -> Waited<T> {
        let looked = poll_fn(|cx| {
            let mut state = self.state.lock();
            match look(&mut state) {
                Some(waited) => Poll::Ready(waited),
                None => {
                    state.waiting = Some(cx.waker().clone());
                    Poll::Pending
                }
            }
        });
        match until {
            Some(until) => timeout_at(until.into(), looked)
                .await
                .unwrap_or(Waited::Late),
            None => looked.await,
        }
    }
}

fn answered(state: &mut State, ask_id: u64) -> Option<Result<ToolAnswer, Ended>> {
    match (state.asks.remove(&ask_id), state.ended) {
        // A command that was cancelled goes no further.
        (_, Some(Ended::Cancelled)) => Some(Err(Ended::Cancelled)),
        (Some(Asked::Answered(answer)), _) => Some(Ok(answer)),
        (_, Some(ended)) => Some(Err(ended)),
        (Some(waiting), None) => {
            state.asks.insert(ask_id, waiting);
            None
        }
        (None, None) => Some(Err(Ended::Cancelled)),
    }
}
