//! What a server may send on `Converse`, and what the caller does meanwhile, in any order: nothing panics, and whatever
//! the contract forbids is refused.

use bytes::Bytes;
use prost::Message as _;
use snakepit_client::conversation::{Conversation, Messages, Pushed, Taking};
use snakepit_proto::{
    ConverseCall, ConverseDown, ConverseUp, Demand, Field, StreamResponse, ToolAnswer,
};
use std::{
    collections::HashSet,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, Waker},
};
use tonic::codegen::tokio_stream::Stream;

/// So much of each input may be ahead.
const AHEAD: Demand = Demand {
    count: 5,
    bytes: 1000,
};
const NUMBERS: [u64; 8] = [0, 1, 2, 5, 1000, 1001, u32::MAX as u64, u64::MAX];

/// Reads acts from bytes.
pub(crate) fn check(bytes: &[u8]) {
    let mut bytes = bytes.iter().copied();
    let mut next = move || bytes.next();
    let (Some(inputs), Some(max_asks), Some(bounded)) = (next(), next(), next()) else {
        return;
    };
    let mut peer = Peer::new(inputs % 4, max_asks % 4, bounded.is_multiple_of(2));
    while let (Some(act), Some(one), Some(other)) = (next(), next(), next()) {
        if !peer.act(act, one, other) {
            break;
        }
    }
    peer.end();
}

struct Peer {
    conversation: Arc<Conversation<u32>>,
    messages: Messages<u32>,
    max_asks: usize,
    open: HashSet<u64>,
    withdrawn: usize,
    inputs: Vec<Input>,
    /// What the server was told that it may send.
    chunks: (i128, i128),
}

#[derive(Clone, Default)]
struct Input {
    /// What the server has asked for and was not pushed.
    demand: (i128, i128),
    /// What was pushed and not sent.
    items: Vec<usize>,
    closed: bool,
    ends: bool,
}

impl Input {
    fn is_open(&self) -> bool {
        self.demand.0 > 0 && self.demand.1 > 0
    }
}

fn demand(count: u8, bytes: u8) -> Demand {
    let number = |index: u8| NUMBERS[usize::from(index) % NUMBERS.len()];
    Demand {
        count: number(count).try_into().unwrap_or(u32::MAX),
        bytes: number(bytes),
    }
}

fn chunk(size: u8) -> StreamResponse {
    let value = vec![0; usize::from(size) * 10_000].into();
    let key = "x".into();
    StreamResponse {
        chunk: vec![Field { key, value }],
        ..StreamResponse::default()
    }
}

impl Peer {
    fn new(inputs: u8, max_asks: u8, bounded: bool) -> Self {
        let max_asks = usize::from(max_asks);
        let ahead = std::iter::repeat_n(AHEAD, usize::from(inputs));
        let conversation = Conversation::new(ahead, max_asks);
        conversation.stream(3, bounded);
        let messages = conversation.begin(ConverseCall::default());
        Self {
            conversation,
            messages,
            max_asks,
            open: HashSet::new(),
            withdrawn: 0,
            inputs: vec![Input::default(); usize::from(inputs)],
            chunks: (0, 0),
        }
    }

    /// Whether the call goes on.
    fn act(&mut self, act: u8, one: u8, other: u8) -> bool {
        let (id, input_id) = (u64::from(one), u32::from(one));
        match act % 14 {
            0 => self.ask(id),
            1 => {
                self.withdraw(id);
                true
            }
            2 => self.demand(input_id, demand(other, one >> 4)),
            3 => self.stop(input_id),
            4 | 5 => self.chunk(other),
            6 => {
                // As it is read, whatever is in it.
                let bytes = Bytes::copy_from_slice(&[act, one, other]);
                let down = ConverseDown::decode(bytes);
                down.is_ok_and(|down| self.receive(down))
            }
            7 => {
                self.answer(id);
                true
            }
            8 | 9 => {
                self.push(input_id, usize::from(other));
                true
            }
            10 => {
                let ended = self.conversation.end_input(input_id, None);
                if let Some(input) = self.input(input_id) {
                    assert_eq!(ended, !input.closed);
                    input.ends |= ended;
                    input.closed = true;
                }
                true
            }
            11 => {
                self.conversation.ask_chunks(usize::from(one));
                true
            }
            12 => {
                self.wait(input_id);
                true
            }
            _ => {
                while let Some(message) = self.poll() {
                    self.sent(message);
                }
                true
            }
        }
    }

    fn receive(&mut self, down: ConverseDown) -> bool {
        down.withdrawn_asks.iter().for_each(|id| self.withdraw(*id));
        down.asks.iter().all(|ask| self.ask(ask.ask_id))
            && down
                .input_demands
                .into_iter()
                .all(|one| self.demand(one.input_id, one.demand.unwrap_or_default()))
            && down.stopped_inputs.into_iter().all(|id| self.stop(id))
    }

    fn input(&mut self, input_id: u32) -> Option<&mut Input> {
        let index = usize::try_from(input_id).ok()?.checked_sub(1)?;
        self.inputs.get_mut(index)
    }

    fn ask(&mut self, id: u64) -> bool {
        let right = self.open.len() < self.max_asks && !self.open.contains(&id);
        assert_eq!(self.conversation.asked(id).is_ok(), right);
        right && self.open.insert(id)
    }

    fn withdraw(&mut self, id: u64) {
        let was_open = self.open.remove(&id);
        assert_eq!(self.conversation.withdrawn(id), was_open);
        self.withdrawn += usize::from(was_open);
        let has_room = self.has_room();
        assert_eq!(has_room, self.withdrawn < self.max_asks.max(1));
        if !has_room {
            self.conversation.withdrawals_handled(self.withdrawn);
            self.withdrawn = 0;
        }
    }

    fn has_room(&self) -> bool {
        let room = pin!(self.conversation.room_for_withdrawals());
        let mut cx = Context::from_waker(Waker::noop());
        room.poll(&mut cx).is_ready()
    }

    fn demand(&mut self, input_id: u32, more: Demand) -> bool {
        let demanded = self.conversation.demanded(input_id, more).is_ok();
        let Some(input) = self.input(input_id) else {
            assert!(!demanded);
            return false;
        };
        let unsent: usize = input.items.iter().sum();
        input.demand.0 += i128::from(more.count);
        input.demand.1 += i128::from(more.bytes);
        let ahead = (
            input.demand.0 + input.items.len() as i128,
            input.demand.1 + unsent as i128,
        );
        let right = ahead.0 <= i128::from(AHEAD.count) && ahead.1 <= i128::from(AHEAD.bytes);
        assert_eq!(demanded, right);
        demanded
    }

    fn stop(&mut self, input_id: u32) -> bool {
        let stopped = self.conversation.stopped(input_id).is_ok();
        let input = self.input(input_id);
        assert_eq!(stopped, input.is_some());
        if let Some(input) = input {
            input.closed = true;
            input.ends = false;
            input.items.clear();
        }
        stopped
    }

    fn chunk(&mut self, size: u8) -> bool {
        let chunk = chunk(size);
        let bytes: usize = chunk.chunk.iter().map(|field| field.value.len()).sum();
        let right = self.chunks.0 > 0 && self.chunks.1 > 0;
        assert_eq!(self.conversation.received_chunks(&[chunk]).is_ok(), right);
        self.chunks.0 -= 1;
        self.chunks.1 -= bytes as i128;
        right
    }

    fn answer(&mut self, id: u64) {
        self.open.remove(&id);
        self.conversation.answer(ToolAnswer {
            ask_id: id,
            ..ToolAnswer::default()
        });
    }

    fn push(&mut self, input_id: u32, size: usize) {
        let pushed = self.conversation.push(input_id, vec![0; size].into(), 2);
        let Some(input) = self.input(input_id).filter(|input| !input.closed) else {
            assert_eq!(pushed, Pushed::Stopped);
            return;
        };
        if !input.is_open() {
            assert_eq!(pushed, Pushed::Busy);
            return;
        }
        input.demand.0 -= 1;
        input.demand.1 -= size as i128;
        input.items.push(size);
        let expected = if input.is_open() {
            Pushed::More
        } else {
            Pushed::Full
        };
        assert_eq!(pushed, expected);
    }

    fn wait(&mut self, input_id: u32) {
        let taking = self.conversation.wait(input_id, || input_id);
        let expected = match self.input(input_id) {
            Some(input) if input.closed => Taking::Stopped,
            Some(input) if input.is_open() => Taking::More,
            Some(_) => Taking::Later,
            None => Taking::Stopped,
        };
        assert_eq!(taking, expected);
    }

    fn poll(&mut self) -> Option<ConverseUp> {
        let mut cx = Context::from_waker(Waker::noop());
        match Pin::new(&mut self.messages).poll_next(&mut cx) {
            Poll::Ready(message) => message,
            Poll::Pending => None,
        }
    }

    fn sent(&mut self, message: ConverseUp) {
        if let Some(told) = message.demand {
            self.chunks.0 += i128::from(told.count);
            self.chunks.1 += i128::from(told.bytes);
        }
        for items in message.items {
            assert_eq!(items.values.len(), items.kinds.len());
            let input = self.input(items.input_id);
            let sizes = items.values.iter().map(Bytes::len);
            let unsent = input.map(|input| input.items.drain(..items.values.len()));
            assert!(unsent.is_some_and(|unsent| unsent.eq(sizes)));
        }
        for end in message.input_ends {
            let input = self.input(end.input_id);
            assert!(input.is_some_and(|input| input.ends && input.items.is_empty()));
        }
    }

    fn end(mut self) {
        self.conversation.end();
        assert!(self.poll().is_none());
        for input_id in 0..=5 {
            assert_eq!(
                self.conversation.wait(input_id, || input_id),
                Taking::Stopped
            );
        }
        assert!(self.has_room());
    }
}
