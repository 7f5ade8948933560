//! A bounded buffer for the chunks of a stream, between the command that produces them and the network.
//! Chunks that are in the buffer together are sent together. The network's task is woken by the first
//! one or, while chunks arrive quickly, once half the buffer is full.

use crate::demand::Demand;
use bytes::{Bytes, BytesMut};
use futures_util::task::AtomicWaker;
use parking_lot::{Condvar, Mutex, MutexGuard};
use prost::Message;
use snakepit_wire::append;
use std::{
    collections::VecDeque,
    task::{Context, Poll},
    time::{Duration, Instant},
};

/// The largest number of chunks in the buffer, and of bytes. One chunk may be larger.
const MAX_CHUNKS: usize = 256;
const MAX_BYTES: usize = 64 * 1024;
/// Chunks that are in the buffer together share messages of up to this size, if their client takes that.
const SHARED_UP_TO: usize = 32 * 1024;
/// The size of a message's prefix, which ends with its length.
const PREFIX: usize = 5;
/// Chunks arrive quickly at intervals up to this.
const QUICK: Duration = Duration::from_micros(10);
/// The longest time for which quick chunks gather. The runtime's clock counts milliseconds.
pub(crate) const GATHERED_FOR: Duration = Duration::from_millis(1);

/// Called once there is room. The event loop must not block.
type OnRoom = Box<dyn FnOnce() + Send>;

#[derive(Default)]
pub(crate) struct ChunkBuffer {
    state: Mutex<State>,
    room: Condvar,
    network: AtomicWaker,
}

#[derive(Default)]
struct State {
    buffer: BytesMut,
    count: usize,
    taken_at: Option<Instant>,
    quick: bool,
    ended: bool,
    cancelled: bool,
    /// Further chunks are dropped.
    sealed: bool,
    on_room: Option<OnRoom>,
    /// How much the client takes, if it says so. Then chunks share messages.
    demand: Option<Demand>,
    /// Where the last message begins, if further chunks may join it.
    last: Option<usize>,
    /// Those for which there was no demand, with their sizes, and those that came after them.
    held: VecDeque<(Bytes, Option<usize>)>,
}

impl State {
    fn is_full(&self) -> bool {
        let has_room =
            self.count < MAX_CHUNKS && self.buffer.len() < MAX_BYTES && self.held.is_empty();
        !self.cancelled && !has_room
    }

    /// Adds a chunk; if it has a size, it needs demand.
    fn add(&mut self, chunk: &impl Message, size: Option<usize>) {
        if let Some(demand) = &mut self.demand {
            if !self.held.is_empty() || size.is_some() && !demand.is_open() {
                self.held.push_back((chunk.encode_to_vec().into(), size));
                return;
            }
            size.inspect(|size| demand.spend(*size));
            self.join(chunk.encoded_len(), |buffer| {
                // This cannot fail: the buffer grows.
                let _ = chunk.encode(buffer);
            });
        } else {
            append(&mut self.buffer, chunk);
            self.count += 1;
        }
    }

    /// Adds a chunk to the last message, of which it is one more field, or as a message of its own.
    fn join(&mut self, size: usize, encode: impl FnOnce(&mut BytesMut)) {
        let start = match self.last {
            Some(start) if self.buffer.len() - start + size <= SHARED_UP_TO => start,
            _ => {
                let start = self.buffer.len();
                self.buffer.extend_from_slice(&[0; PREFIX]);
                start
            }
        };
        self.last = Some(start);
        encode(&mut self.buffer);
        let length = u32::try_from(self.buffer.len() - start - PREFIX).unwrap_or(u32::MAX);
        self.buffer[start + 1..start + PREFIX].copy_from_slice(&length.to_be_bytes());
        self.count += 1;
    }

    /// Adds what was held, as far as there is demand for it.
    fn release(&mut self) {
        while let (Some(demand), Some((_, size))) = (&mut self.demand, self.held.front())
            && (size.is_none() || demand.is_open())
        {
            size.inspect(|size| demand.spend(*size));
            if let Some((chunk, _)) = self.held.pop_front() {
                self.join(chunk.len(), |buffer| buffer.extend_from_slice(&chunk));
            }
        }
    }

    /// Whether the network should take the chunks now.
    fn are_due(&self) -> bool {
        let enough = if self.quick { MAX_CHUNKS / 2 } else { 1 };
        self.ended && self.held.is_empty()
            || self.count >= enough
            || self.buffer.len() >= MAX_BYTES / 2
    }

    fn take(&mut self) -> Bytes {
        let now = Instant::now();
        let interval = self.taken_at.map(|before| now.duration_since(before));
        self.quick = interval.is_some_and(|interval| interval <= QUICK * self.count as u32);
        self.taken_at = Some(now);
        self.count = 0;
        self.last = None;
        self.buffer.split().freeze()
    }
}

impl ChunkBuffer {
    /// For a client that says how much it takes, from nothing on.
    pub(crate) fn on_demand() -> Self {
        let buffer = Self::default();
        buffer.state.lock().demand = Some(Demand::default());
        buffer
    }

    /// The client takes more.
    pub(crate) fn add_demand(&self, more: &snakepit_proto::Demand) {
        let mut state = self.state.lock();
        if let Some(demand) = &mut state.demand {
            demand.add(more);
        }
        state.release();
        let wake = state.are_due();
        if state.is_full() {
            drop(state);
        } else {
            self.tell_room(state);
        }
        if wake {
            self.network.wake();
        }
    }

    /// Adds a chunk; if it has a size, it needs demand. True if the buffer is full afterwards.
    pub(crate) fn push(&self, chunk: &impl Message, size: Option<usize>) -> bool {
        let mut state = self.state.lock();
        if state.sealed {
            return false;
        }
        let were_due = state.are_due();
        state.add(chunk, size);
        let full = state.is_full();
        let wake = !were_due && state.are_due();
        drop(state);
        if wake {
            self.network.wake();
        }
        full
    }

    /// Adds an event, for which no command waits; false if there is no room for it.
    pub(crate) fn push_event(&self, event: &impl Message) -> bool {
        let has_room = {
            let state = self.state.lock();
            !(state.is_full() || state.cancelled)
        };
        if has_room {
            self.push(event, None);
        }
        has_room
    }

    /// Waits until there is room, or until the stream is cancelled.
    pub(crate) fn wait_room(&self) {
        let mut state = self.state.lock();
        while state.is_full() {
            self.room.wait(&mut state);
        }
    }

    /// Calls `done` once there is room, or when the stream is cancelled.
    pub(crate) fn on_room(&self, done: OnRoom) {
        let mut state = self.state.lock();
        if state.is_full() {
            state.on_room = Some(done);
        } else {
            drop(state);
            done();
        }
    }

    /// There are no further chunks.
    pub(crate) fn end(&self) {
        self.state.lock().ended = true;
        self.network.wake();
    }

    /// Replaces the chunks in the buffer with a last one.
    pub(crate) fn end_with(&self, chunk: &impl Message) {
        let mut state = self.state.lock();
        state.buffer.clear();
        state.held.clear();
        state.last = None;
        append(&mut state.buffer, chunk);
        state.count = 1;
        state.ended = true;
        state.sealed = true;
        drop(state);
        self.network.wake();
    }

    /// The client is gone: the command never waits for room again.
    pub(crate) fn cancel(&self) {
        let mut state = self.state.lock();
        state.cancelled = true;
        self.tell_room(state);
    }

    /// Takes all chunks, for the network; None at the end of the stream. Quick chunks gather until
    /// `gathered` is ready.
    pub(crate) fn poll_take(
        &self,
        cx: &mut Context<'_>,
        gathered: impl FnOnce(&mut Context<'_>) -> Poll<()>,
    ) -> Poll<Option<Bytes>> {
        self.network.register(cx.waker());
        let mut state = self.state.lock();
        if state.quick && !state.are_due() && gathered(cx).is_ready() {
            state.quick = false;
        }
        if !state.are_due() {
            return Poll::Pending;
        }
        if state.count == 0 {
            return Poll::Ready(None);
        }
        let bytes = state.take();
        self.tell_room(state);
        Poll::Ready(Some(bytes))
    }

    fn tell_room(&self, mut state: MutexGuard<'_, State>) {
        let on_room = state.on_room.take();
        drop(state);
        self.room.notify_one();
        if let Some(done) = on_room {
            done();
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;
    use snakepit_proto::{ConverseDown, StreamResponse};
    use snakepit_wire::Deframer;
    use std::{
        sync::{
            Arc,
            atomic::{AtomicBool, Ordering},
        },
        task::Waker,
    };

    fn take(chunks: &ChunkBuffer) -> Poll<Option<Bytes>> {
        chunks.poll_take(&mut Context::from_waker(Waker::noop()), |_| Poll::Pending)
    }

    fn fill(chunks: &ChunkBuffer) -> usize {
        let mut count = 1;
        while !chunks.push(&StreamResponse::default(), None) {
            count += 1;
        }
        count
    }

    #[test]
    fn chunks_in_the_buffer_are_taken_together() {
        let chunks = ChunkBuffer::default();
        assert!(take(&chunks).is_pending());
        chunks.push(&StreamResponse::default(), None);
        chunks.push(&StreamResponse::default(), None);
        assert!(matches!(take(&chunks), Poll::Ready(Some(bytes)) if bytes.len() == 10));
        assert!(take(&chunks).is_pending());
        chunks.end();
        assert_eq!(take(&chunks), Poll::Ready(None));
    }

    #[test]
    fn quick_chunks_gather_until_half_the_buffer_is_full_or_the_time_is_up() {
        let chunks = ChunkBuffer::default();
        let push = || chunks.push(&StreamResponse::default(), None);
        let second = Duration::from_secs(1);
        for taken_at in [None, Instant::now().checked_sub(second)] {
            chunks.state.lock().taken_at = taken_at;
            push();
            assert!(take(&chunks).is_ready());
        }
        let last_taken_now = || chunks.state.lock().taken_at = Some(Instant::now() + second);
        last_taken_now();
        push();
        assert!(take(&chunks).is_ready());
        for _ in 1..MAX_CHUNKS / 2 {
            push();
            assert!(take(&chunks).is_pending());
        }
        push();
        last_taken_now();
        assert!(take(&chunks).is_ready());
        push();
        assert!(take(&chunks).is_pending());
        let mut cx = Context::from_waker(Waker::noop());
        assert!(chunks.poll_take(&mut cx, |_| Poll::Ready(())).is_ready());
        chunks.end();
        assert_eq!(take(&chunks), Poll::Ready(None));
    }

    #[test]
    fn a_stream_can_be_ended_with_a_last_chunk() {
        let chunks = ChunkBuffer::default();
        chunks.push(&StreamResponse::default(), None);
        chunks.end_with(&StreamResponse {
            is_final: true,
            ..StreamResponse::default()
        });
        chunks.push(&StreamResponse::default(), None);
        assert!(matches!(take(&chunks), Poll::Ready(Some(bytes)) if bytes.len() == 7));
        assert_eq!(take(&chunks), Poll::Ready(None));
    }

    #[test]
    fn the_number_of_chunks_and_their_bytes_are_bounded() {
        assert_eq!(fill(&ChunkBuffer::default()), MAX_CHUNKS);
        let large = StreamResponse {
            request_id: "x".repeat(MAX_BYTES),
            ..StreamResponse::default()
        };
        assert!(ChunkBuffer::default().push(&large, None));
    }

    #[test]
    fn the_callback_is_called_when_there_is_room_or_the_stream_is_cancelled() {
        for make_room in [
            |chunks: &ChunkBuffer| drop(take(chunks)),
            ChunkBuffer::cancel,
        ] {
            let chunks = ChunkBuffer::default();
            fill(&chunks);
            let called = Arc::new(AtomicBool::new(false));
            let call = called.clone();
            chunks.on_room(Box::new(move || call.store(true, Ordering::SeqCst)));
            assert!(!called.load(Ordering::SeqCst));
            make_room(&chunks);
            assert!(called.load(Ordering::SeqCst));
            chunks.wait_room();
        }
    }

    #[test]
    fn chunks_wait_for_demand_and_the_command_with_them() {
        let chunks = ChunkBuffer::on_demand();
        let push = |size| chunks.push(&StreamResponse::default(), Some(size));
        let demand = |count, bytes| chunks.add_demand(&snakepit_proto::Demand { count, bytes });
        assert!(push(0));
        assert!(take(&chunks).is_pending());
        demand(2, 1);
        assert!(take(&chunks).is_ready());
        assert!(!push(1));
        assert!(take(&chunks).is_ready());
        assert!(push(1));
        chunks.end();
        demand(1, 0);
        assert!(take(&chunks).is_pending());
        demand(0, 1);
        assert!(matches!(take(&chunks), Poll::Ready(Some(_))));
        assert_eq!(take(&chunks), Poll::Ready(None));
    }

    #[test]
    fn a_last_chunk_needs_no_demand_unless_others_come_first() {
        let chunks = ChunkBuffer::on_demand();
        chunks.push(&StreamResponse::default(), None);
        assert!(matches!(take(&chunks), Poll::Ready(Some(_))));
        let chunks = ChunkBuffer::on_demand();
        chunks.push(&StreamResponse::default(), Some(1));
        chunks.push(&StreamResponse::default(), None);
        chunks.end();
        assert!(take(&chunks).is_pending());
        chunks.add_demand(&snakepit_proto::Demand { count: 1, bytes: 1 });
        assert!(take(&chunks).is_ready());
        assert_eq!(take(&chunks), Poll::Ready(None));
    }

    #[test]
    fn chunks_for_a_client_with_demand_share_messages_of_a_bounded_size() {
        let chunks = ChunkBuffer::on_demand();
        let demand = snakepit_proto::Demand {
            count: 100,
            bytes: 1 << 40,
        };
        let down = |size: usize| ConverseDown {
            chunks: vec![StreamResponse {
                request_id: "x".repeat(size),
                ..StreamResponse::default()
            }],
            ..ConverseDown::default()
        };
        // The first is held, and joins the others later.
        chunks.push(&down(1), Some(1));
        chunks.add_demand(&demand);
        for size in [2, 3, SHARED_UP_TO, 4] {
            chunks.push(&down(size), Some(size));
        }
        let Poll::Ready(Some(bytes)) = take(&chunks) else {
            panic!("no chunks");
        };
        let mut deframer = Deframer::new(usize::MAX);
        deframer.push(bytes);
        let messages: Vec<ConverseDown> = std::iter::from_fn(|| deframer.next().unwrap()).collect();
        let sizes: Vec<Vec<_>> = messages
            .iter()
            .map(|down| down.chunks.iter().map(|one| one.request_id.len()).collect())
            .collect();
        assert_eq!(sizes, [vec![1, 2, 3], vec![SHARED_UP_TO], vec![4]]);
        chunks.push(&down(5), Some(5));
        chunks.end();
        assert!(matches!(take(&chunks), Poll::Ready(Some(_))));
        assert_eq!(take(&chunks), Poll::Ready(None));
    }
}
