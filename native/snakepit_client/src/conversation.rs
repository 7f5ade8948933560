//! A two-way call, on the side of its caller: what goes to the server on `Converse`, and how much of it the server takes.
//!
//! Answers, items and demand are gathered until the RPC takes them, so that what is ready together travels together.
//! Nothing is gathered without a limit: the server asks only so often at once, and items are taken only as it has
//! demanded.

use crate::{credit::BYTES_AHEAD, error::Failure};
use bytes::Bytes;
use parking_lot::{Mutex, MutexGuard};
use snakepit_proto::{
    ConverseCall, ConverseUp, Demand, ErrorDetail, InputEnd, InputItems, StreamResponse, ToolAnswer,
};
use std::{
    collections::{HashSet, VecDeque},
    future::poll_fn,
    mem::take,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Instant,
};
use tonic::codegen::tokio_stream::Stream;

/// About how many bytes of values a message has at most, unless it has a single value.
const MESSAGE_BYTES: usize = 64 * 1024;
/// For a consumer that bounds only the number of chunks.
const UNBOUNDED: i64 = 1 << 62;

/// `W` stands for somebody who waits until an input takes items.
pub struct Conversation<W>(Mutex<State<W>>);

/// What a server has sent that the contract forbids.
#[derive(Debug, thiserror::Error)]
#[error("the server {0}")]
pub struct Broken(&'static str);

impl From<Broken> for Failure {
    fn from(broken: Broken) -> Self {
        Self::BrokenStream(broken.to_string())
    }
}

/// What became of an item.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pushed {
    /// It is sent, and the input takes another one.
    More,
    /// It is sent, and the input takes no other one now.
    Full,
    /// It is not sent: the input takes none now.
    Busy,
    /// It is not sent: nobody takes items of this input any more.
    Stopped,
}

/// Whether an input takes items.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taking {
    More,
    Later,
    /// Nobody takes items of this input any more.
    Stopped,
}

struct State<W> {
    /// Counts how often the call was begun: on another connection if it has not started on the first.
    attempt: u32,
    call: Option<Box<ConverseCall>>,
    max_asks: usize,
    /// The asks that have no answer.
    asks: HashSet<u64>,
    /// How many were withdrawn of which the caller has not yet ended the tools.
    withdrawn: usize,
    /// Who waits for that.
    ending: Option<Waker>,
    answers: VecDeque<ToolAnswer>,
    inputs: Vec<Input<W>>,
    chunks: ChunkDemand,
    ended: bool,
    sender: Option<Waker>,
}

/// An input. Its id is its position, counted from 1.
struct Input<W> {
    /// The most that may be demanded, together with what was and is not sent.
    ahead: Left,
    demand: Left,
    /// What is not sent, and its size.
    items: VecDeque<(Bytes, u8)>,
    bytes: usize,
    /// Set once, and sent after the items.
    end: Option<InputEnd>,
    /// Whether it takes no items any more.
    closed: bool,
    waiting: Vec<W>,
}

/// What is left of a demand. Either number falls below zero after a large value.
#[derive(Clone, Copy, Default)]
struct Left {
    count: i64,
    bytes: i64,
}

impl Left {
    fn is_open(self) -> bool {
        self.count > 0 && self.bytes > 0
    }

    fn add(&mut self, other: Self) {
        self.count = self.count.saturating_add(other.count);
        self.bytes = self.bytes.saturating_add(other.bytes);
    }

    fn take(&mut self, count: usize, bytes: usize) {
        self.count = self.count.saturating_sub(signed(count));
        self.bytes = self.bytes.saturating_sub(signed(bytes));
    }
}

impl From<Demand> for Left {
    fn from(demand: Demand) -> Self {
        Self {
            count: demand.count.into(),
            bytes: demand.bytes.try_into().unwrap_or(i64::MAX),
        }
    }
}

/// The demand for chunks.
struct ChunkDemand {
    /// Whether the consumer asks for one more chunk after each one, so that bytes are bounded as well.
    bounded: bool,
    /// What the server may still send.
    told: Left,
    /// What it has to be told.
    untold: Left,
    /// The sizes of the chunks that the consumer has not asked to replace, the oldest first.
    sent: VecDeque<usize>,
    /// Since when the consumer has been waiting for a chunk.
    wanted: Option<Instant>,
}

impl ChunkDemand {
    fn ask(&mut self, chunks: usize) {
        self.untold.count = self.untold.count.saturating_add(signed(chunks));
        if self.bounded {
            let replaced = chunks.min(self.sent.len());
            let bytes: usize = self.sent.drain(..replaced).sum();
            self.untold.bytes += signed(bytes);
        }
        self.wanted.get_or_insert_with(Instant::now);
    }

    /// A few chunks less than are in demand cost nothing, and a message for each chunk would.
    fn is_due(&self) -> bool {
        (self.untold.count > 0 && self.told.count <= self.untold.count)
            || (self.untold.bytes > 0 && self.told.bytes <= self.untold.bytes)
    }

    fn take_due(&mut self) -> Option<Demand> {
        if !self.is_due() {
            return None;
        }
        let count = u32::try_from(self.untold.count.max(0)).unwrap_or(u32::MAX);
        let bytes = take(&mut self.untold.bytes).max(0);
        self.untold.count -= i64::from(count);
        self.told.add(Left {
            count: count.into(),
            bytes,
        });
        Some(Demand {
            count,
            bytes: bytes.unsigned_abs(),
        })
    }

    fn received(&mut self, bytes: usize) {
        if self.bounded {
            self.sent.push_back(bytes);
        }
        self.told.take(1, bytes);
        let more = self.told.count.saturating_add(self.untold.count) > 0;
        self.wanted = more.then(Instant::now);
    }

    /// The server has nothing of what it was told.
    fn restart(&mut self) {
        self.untold.add(take(&mut self.told));
    }
}

impl<W> Conversation<W> {
    /// A call with inputs, of each of which at most so much is ahead of the command, and at most so many asks at once.
    pub fn new(inputs: impl IntoIterator<Item = Demand>, max_asks: usize) -> Arc<Self> {
        let input = |ahead: Demand| Input {
            ahead: ahead.into(),
            demand: Left::default(),
            items: VecDeque::new(),
            bytes: 0,
            end: None,
            closed: false,
            waiting: Vec::new(),
        };
        let chunks = ChunkDemand {
            bounded: false,
            told: Left::default(),
            untold: Left::default(),
            sent: VecDeque::new(),
            wanted: None,
        };
        Arc::new(Self(Mutex::new(State {
            attempt: 0,
            call: None,
            max_asks,
            asks: HashSet::new(),
            withdrawn: 0,
            ending: None,
            answers: VecDeque::new(),
            inputs: inputs.into_iter().map(input).collect(),
            chunks,
            ended: false,
            sender: None,
        })))
    }

    /// For a call that streams: see `ask_chunks`. `bounded`: whether the consumer asks for one more chunk after each one.
    pub fn stream(&self, demand: usize, bounded: bool) {
        let mut state = self.lock();
        state.chunks.bounded = bounded;
        state.chunks.untold.bytes = if bounded {
            signed(BYTES_AHEAD)
        } else {
            UNBOUNDED
        };
        state.chunks.ask(demand);
    }

    /// The messages to send. If the call was begun before, nothing of it has started there.
    pub fn begin(self: &Arc<Self>, call: ConverseCall) -> Messages<W> {
        let mut state = self.lock();
        state.attempt += 1;
        state.call = Some(Box::new(call));
        state.chunks.restart();
        Messages {
            conversation: self.clone(),
            attempt: state.attempt,
        }
    }

    /// The call has ended: nothing more is sent. Returns who waits, by the ids of inputs.
    pub fn end(&self) -> Vec<(u32, Vec<W>)> {
        let mut state = self.lock();
        state.ended = true;
        state.asks.clear();
        state.answers.clear();
        let mut waiting = Vec::new();
        for (input_id, input) in (1..).zip(&mut state.inputs) {
            input.close();
            waiting.push((input_id, take(&mut input.waiting)));
        }
        state.wake();
        waiting
    }

    /// Asks for `chunks` more chunks.
    pub fn ask_chunks(&self, chunks: usize) {
        let mut state = self.lock();
        state.chunks.ask(chunks);
        if state.chunks.is_due() {
            state.wake();
        }
    }

    /// The server has sent chunks.
    pub fn received_chunks(&self, chunks: &[StreamResponse]) -> Result<(), Broken> {
        let mut state = self.lock();
        for size in chunks.iter().map(size) {
            if !state.chunks.told.is_open() {
                return Err(Broken("sent more chunks than were asked for"));
            }
            state.chunks.received(size);
        }
        Ok(())
    }

    /// Since when the consumer has been waiting for a chunk; `None` if it wants none.
    pub fn wanted_since(&self) -> Option<Instant> {
        self.lock().chunks.wanted
    }

    /// The server has asked.
    pub fn asked(&self, ask_id: u64) -> Result<(), Broken> {
        let mut state = self.lock();
        if state.asks.len() >= state.max_asks {
            return Err(Broken("asked more often at once than the call allows"));
        }
        if !state.asks.insert(ask_id) {
            return Err(Broken("used the id of an ask twice"));
        }
        Ok(())
    }

    /// Whether the ask had no answer: then the caller has to end its tool, and to call `withdrawals_handled`.
    pub fn withdrawn(&self, ask_id: u64) -> bool {
        let mut state = self.lock();
        let had_none = state.asks.remove(&ask_id);
        state.withdrawn += usize::from(had_none);
        had_none
    }

    /// The caller has ended the tools of so many asks that were withdrawn.
    pub fn withdrawals_handled(&self, count: usize) {
        let mut state = self.lock();
        state.withdrawn = state.withdrawn.saturating_sub(count);
        if let Some(waker) = state.ending.take() {
            waker.wake();
        }
    }

    /// Waits while as many asks are being ended as may be open: a server that asks and withdraws all the time cannot run
    /// ahead of the caller.
    pub async fn room_for_withdrawals(&self) {
        poll_fn(|cx| {
            let mut state = self.lock();
            if state.ended || state.withdrawn < state.max_asks.max(1) {
                return Poll::Ready(());
            }
            state.ending = Some(cx.waker().clone());
            Poll::Pending
        })
        .await;
    }

    /// Does nothing if nobody waits for the answer.
    pub fn answer(&self, answer: ToolAnswer) {
        let mut state = self.lock();
        if state.asks.remove(&answer.ask_id) {
            state.answers.push_back(answer);
            state.wake();
        }
    }

    /// Sends an item if the input takes one.
    pub fn push(&self, input_id: u32, value: Bytes, kind: u8) -> Pushed {
        let mut state = self.lock();
        let Some(input) = state.input(input_id).filter(|input| !input.closed) else {
            return Pushed::Stopped;
        };
        if !input.demand.is_open() {
            return Pushed::Busy;
        }
        input.demand.take(1, value.len());
        input.bytes += value.len();
        input.items.push_back((value, kind));
        let pushed = if input.demand.is_open() {
            Pushed::More
        } else {
            Pushed::Full
        };
        state.wake();
        pushed
    }

    /// Whether the input takes an item. If it does not now, `waiting` is returned by its next change.
    pub fn wait(&self, input_id: u32, waiting: impl FnOnce() -> W) -> Taking {
        match self.lock().input(input_id) {
            Some(input) if input.closed => Taking::Stopped,
            Some(input) if input.demand.is_open() => Taking::More,
            Some(input) => {
                input.waiting.push(waiting());
                Taking::Later
            }
            None => Taking::Stopped,
        }
    }

    /// Removes those who wait.
    pub fn stop_waiting(&self, who: impl Fn(&W) -> bool) {
        for input in &mut self.lock().inputs {
            input.waiting.retain(|waiting| !who(waiting));
        }
    }

    /// No items follow. False if the input had ended before.
    pub fn end_input(&self, input_id: u32, error: Option<ErrorDetail>) -> bool {
        let mut state = self.lock();
        let Some(input) = state.input(input_id).filter(|input| !input.closed) else {
            return false;
        };
        input.closed = true;
        input.end = Some(InputEnd {
            input_id,
            error: error.map(Box::new),
        });
        state.wake();
        true
    }

    /// The server takes more items. Returns who waits for that.
    pub fn demanded(&self, input_id: u32, demand: Demand) -> Result<Vec<W>, Broken> {
        let mut state = self.lock();
        let input = state.input(input_id).ok_or(NO_INPUT)?;
        input.demand.add(demand.into());
        let count = input.demand.count.saturating_add(signed(input.items.len()));
        let bytes = input.demand.bytes.saturating_add(signed(input.bytes));
        if count > input.ahead.count || bytes > input.ahead.bytes {
            return Err(Broken("asked for more items than an input allows"));
        }
        if input.demand.is_open() {
            Ok(take(&mut input.waiting))
        } else {
            Ok(Vec::new())
        }
    }

    /// The server takes no items of the input any more. Returns who waits.
    pub fn stopped(&self, input_id: u32) -> Result<Vec<W>, Broken> {
        let mut state = self.lock();
        let input = state.input(input_id).ok_or(NO_INPUT)?;
        input.close();
        Ok(take(&mut input.waiting))
    }

    fn lock(&self) -> MutexGuard<'_, State<W>> {
        self.0.lock()
    }
}

const NO_INPUT: Broken = Broken("named an input that the call does not have");

impl<W> State<W> {
    fn input(&mut self, input_id: u32) -> Option<&mut Input<W>> {
        let index = usize::try_from(input_id).ok()?.checked_sub(1)?;
        self.inputs.get_mut(index)
    }

    fn wake(&mut self) {
        if let Some(sender) = self.sender.take() {
            sender.wake();
        }
    }

    /// What is ready, in one message.
    fn message(&mut self) -> Option<ConverseUp> {
        let mut bytes = 0;
        let mut message = ConverseUp {
            call: self.call.take(),
            demand: self.chunks.take_due(),
            ..ConverseUp::default()
        };
        while bytes < MESSAGE_BYTES
            && let Some(answer) = self.answers.pop_front()
        {
            bytes += answer.value.len();
            message.answers.push(answer);
        }
        for (input_id, input) in (1..).zip(&mut self.inputs) {
            if bytes >= MESSAGE_BYTES {
                break;
            }
            if !input.items.is_empty() {
                message.items.push(input.take_items(input_id, &mut bytes));
            }
            if input.items.is_empty() {
                message.input_ends.extend(input.end.take());
            }
        }
        let is_empty = message.call.is_none()
            && message.demand.is_none()
            && message.answers.is_empty()
            && message.items.is_empty()
            && message.input_ends.is_empty();
        (!is_empty).then_some(message)
    }
}

impl<W> Input<W> {
    fn take_items(&mut self, input_id: u32, bytes: &mut usize) -> InputItems {
        let (mut values, mut kinds) = (Vec::new(), Vec::new());
        while (values.is_empty() || *bytes < MESSAGE_BYTES)
            && let Some((value, kind)) = self.items.pop_front()
        {
            *bytes += value.len();
            self.bytes -= value.len();
            values.push(value);
            kinds.push(kind);
        }
        InputItems {
            input_id,
            values,
            kinds: kinds.into(),
        }
    }

    /// Nobody takes its items or its end.
    fn close(&mut self) {
        self.closed = true;
        self.items.clear();
        self.bytes = 0;
        self.end = None;
    }
}

/// The messages of one attempt to make the call.
pub struct Messages<W> {
    conversation: Arc<Conversation<W>>,
    attempt: u32,
}

impl<W> Stream for Messages<W> {
    type Item = ConverseUp;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<ConverseUp>> {
        let mut state = self.conversation.lock();
        if state.ended || state.attempt != self.attempt {
            return Poll::Ready(None);
        }
        match state.message() {
            Some(message) => Poll::Ready(Some(message)),
            None => {
                state.sender = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}

/// How a chunk counts towards a demand.
fn size(chunk: &StreamResponse) -> usize {
    chunk.chunk.iter().map(|field| field.value.len()).sum()
}

fn signed(number: usize) -> i64 {
    number.try_into().unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use snakepit_proto::Field;
    use std::pin::pin;

    type Talk = Arc<Conversation<&'static str>>;

    fn begun(inputs: usize, max_asks: usize) -> (Talk, Messages<&'static str>) {
        let ahead = std::iter::repeat_n(demand(9, 100_000), inputs);
        let conversation = Conversation::new(ahead, max_asks);
        let messages = conversation.begin(ConverseCall::default());
        (conversation, messages)
    }

    /// A call that streams, has sent its first message, and whose consumer bounds the bytes.
    fn streaming(demand: usize) -> (Talk, Messages<&'static str>) {
        let conversation = Conversation::new([], 0);
        conversation.stream(demand, true);
        let mut messages = conversation.begin(ConverseCall::default());
        next(&mut messages).unwrap();
        (conversation, messages)
    }

    /// The next message, `None` if there is none yet or no further one.
    fn next(messages: &mut Messages<&'static str>) -> Option<ConverseUp> {
        let mut cx = Context::from_waker(Waker::noop());
        match Pin::new(messages).poll_next(&mut cx) {
            Poll::Ready(message) => message,
            Poll::Pending => None,
        }
    }

    fn demand(count: u32, bytes: u64) -> Demand {
        Demand { count, bytes }
    }

    fn item(size: usize) -> Bytes {
        vec![7; size].into()
    }

    fn chunk(size: usize) -> StreamResponse {
        StreamResponse {
            chunk: vec![Field::new("name", item(size))],
            ..StreamResponse::default()
        }
    }

    fn answer(ask_id: u64) -> ToolAnswer {
        ToolAnswer {
            ask_id,
            ..ToolAnswer::default()
        }
    }

    #[test]
    fn the_call_comes_first_with_the_demand_for_chunks() {
        let conversation: Talk = Conversation::new([], 1);
        conversation.stream(256, true);
        let mut messages = conversation.begin(ConverseCall::default());
        let first = next(&mut messages).unwrap();
        assert!(first.call.is_some());
        assert_eq!(first.demand, Some(demand(256, BYTES_AHEAD as u64)));
        assert!(next(&mut messages).is_none());
    }

    #[test]
    fn what_is_ready_together_travels_together() {
        let (conversation, mut messages) = begun(2, 2);
        next(&mut messages).unwrap();
        for ask_id in [1, 2] {
            conversation.asked(ask_id).unwrap();
            conversation.answer(answer(ask_id));
        }
        for input_id in [1, 2] {
            conversation.demanded(input_id, demand(9, 100)).unwrap();
            for _ in 0..3 {
                let pushed = conversation.push(input_id, item(1), 2);
                assert_eq!(pushed, Pushed::More);
            }
        }
        assert!(conversation.end_input(2, None));
        let message = next(&mut messages).unwrap();
        assert_eq!((message.answers.len(), message.items.len()), (2, 2));
        assert_eq!(message.items[0].values.len(), 3);
        assert_eq!(&message.items[0].kinds[..], [2; 3]);
        assert_eq!(message.input_ends.len(), 1);
        assert_eq!(message.input_ends[0].input_id, 2);
        assert!(next(&mut messages).is_none());
    }

    #[test]
    fn an_input_takes_what_is_demanded_and_ends_after_all_items() {
        let (conversation, mut messages) = begun(1, 0);
        next(&mut messages).unwrap();
        assert_eq!(conversation.push(1, item(1), 2), Pushed::Busy);
        assert_eq!(conversation.wait(1, || "waits"), Taking::Later);
        assert_eq!(conversation.demanded(1, demand(2, 0)).unwrap(), [""; 0]);
        assert_eq!(
            conversation.demanded(1, demand(0, 100_000)).unwrap(),
            ["waits"]
        );
        assert_eq!(conversation.wait(1, || "waits"), Taking::More);
        // The last one may be of any size, and a message has a single large one.
        assert_eq!(conversation.push(1, item(70_000), 2), Pushed::More);
        assert_eq!(conversation.push(1, item(70_000), 2), Pushed::Full);
        assert_eq!(conversation.push(1, item(1), 2), Pushed::Busy);
        assert!(conversation.end_input(1, None));
        assert!(!conversation.end_input(1, None));
        assert_eq!(conversation.push(1, item(1), 2), Pushed::Stopped);
        let message = next(&mut messages).unwrap();
        assert_eq!(message.items[0].values.len(), 1);
        assert!(message.input_ends.is_empty());
        let message = next(&mut messages).unwrap();
        assert_eq!(message.items[0].values.len(), 1);
        assert_eq!(message.input_ends.len(), 1);
    }

    #[test]
    fn an_input_that_is_stopped_and_a_call_that_has_ended_wake_who_waits() {
        let (conversation, mut messages) = begun(2, 0);
        next(&mut messages).unwrap();
        conversation.demanded(1, demand(5, 5)).unwrap();
        assert_eq!(conversation.push(1, item(1), 2), Pushed::More);
        assert_eq!(conversation.wait(2, || "one"), Taking::Later);
        assert_eq!(conversation.wait(2, || "two"), Taking::Later);
        conversation.stop_waiting(|waiting| *waiting == "one");
        assert_eq!(conversation.stopped(1).unwrap(), [""; 0]);
        // Its item is sent no more, and neither is its end.
        assert!(!conversation.end_input(1, None));
        assert!(next(&mut messages).is_none());
        assert_eq!(conversation.end(), [(1, vec![]), (2, vec!["two"])]);
        assert_eq!(conversation.wait(2, || "late"), Taking::Stopped);
        assert!(conversation.stopped(3).is_err());
        assert!(conversation.demanded(0, demand(1, 1)).is_err());
    }

    #[test]
    fn a_server_asks_for_no_more_items_than_an_input_allows() {
        for (count, bytes) in [(10, 0), (0, 100_001), (u32::MAX, u64::MAX)] {
            let (conversation, _messages) = begun(1, 0);
            assert!(conversation.demanded(1, demand(count, bytes)).is_err());
        }
        let (conversation, mut messages) = begun(1, 0);
        next(&mut messages).unwrap();
        conversation.demanded(1, demand(9, 100_000)).unwrap();
        assert_eq!(conversation.push(1, item(5), 2), Pushed::More);
        // The item has not even been sent.
        assert!(conversation.demanded(1, demand(1, 5)).is_err());
        next(&mut messages).unwrap();
        assert!(conversation.demanded(1, demand(0, 0)).is_ok());
    }

    #[test]
    fn asks_are_answered_once_and_never_more_are_open_than_allowed() {
        let (conversation, mut messages) = begun(0, 2);
        next(&mut messages).unwrap();
        conversation.asked(1).unwrap();
        conversation.asked(2).unwrap();
        assert!(conversation.asked(3).is_err());
        assert!(conversation.withdrawn(1));
        assert!(!conversation.withdrawn(1));
        conversation.answer(answer(1));
        conversation.answer(answer(2));
        conversation.answer(answer(2));
        assert_eq!(next(&mut messages).unwrap().answers, [answer(2)]);
        conversation.asked(3).unwrap();
        assert!(conversation.asked(3).is_err());
    }

    #[test]
    fn a_server_that_withdraws_waits_until_the_tools_have_ended() {
        let (conversation, _messages) = begun(0, 2);
        let mut cx = Context::from_waker(Waker::noop());
        let mut has_room = || {
            let room = pin!(conversation.room_for_withdrawals());
            room.poll(&mut cx).is_ready()
        };
        for ask_id in [1, 2] {
            assert!(has_room());
            conversation.asked(ask_id).unwrap();
            assert!(conversation.withdrawn(ask_id));
        }
        assert!(!has_room());
        conversation.withdrawals_handled(1);
        assert!(has_room());
    }

    #[test]
    fn a_server_sends_no_chunk_while_its_bytes_are_used_up() {
        let (conversation, _messages) = streaming(100);
        conversation.received_chunks(&[chunk(BYTES_AHEAD)]).unwrap();
        assert!(conversation.received_chunks(&[chunk(1)]).is_err());
    }

    #[test]
    fn demand_is_told_in_halves() {
        let (conversation, mut messages) = streaming(4);
        let told = |messages: &mut _| next(messages).and_then(|message| message.demand);
        conversation.received_chunks(&[chunk(10)]).unwrap();
        conversation.ask_chunks(1);
        assert_eq!(told(&mut messages), None);
        conversation.received_chunks(&[chunk(10)]).unwrap();
        conversation.ask_chunks(1);
        assert_eq!(told(&mut messages), Some(demand(2, 20)));
        let chunks: Vec<StreamResponse> = (0..5).map(|_| chunk(1)).collect();
        assert!(conversation.received_chunks(&chunks).is_err());
    }

    #[test]
    fn a_chunk_that_uses_up_the_bytes_has_to_be_replaced() {
        let (conversation, mut messages) = streaming(100);
        conversation
            .received_chunks(&[chunk(2 * BYTES_AHEAD)])
            .unwrap();
        assert!(conversation.wanted_since().is_some());
        conversation.ask_chunks(1);
        let told = next(&mut messages).unwrap().demand.unwrap();
        assert_eq!(told.bytes, 2 * BYTES_AHEAD as u64);
    }

    #[test]
    fn a_call_that_is_made_again_tells_everything_again() {
        let conversation: Talk = Conversation::new([], 0);
        conversation.stream(8, false);
        let mut first = conversation.begin(ConverseCall::default());
        next(&mut first).unwrap();
        conversation.ask_chunks(1);
        let mut second = conversation.begin(ConverseCall::default());
        assert!(next(&mut first).is_none());
        let message = next(&mut second).unwrap();
        assert!(message.call.is_some());
        assert_eq!(message.demand, Some(demand(9, 1 << 62)));
    }
}
