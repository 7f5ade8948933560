//! Answers a call with a stream of chunks.

use crate::{chunk_buffer::ChunkBuffer, failure::Failure, outcome::timestamp};
use prost::Message;
use snakepit_proto::{CallEvent, ConverseDown, Demand, Fields, StreamResponse};
use std::sync::atomic::{AtomicI32, Ordering};

pub struct StreamResponder {
    request_id: String,
    max_message_size: usize,
    buffer: ChunkBuffer,
    /// Whether the chunks travel in messages of `Converse`.
    converses: bool,
    /// The number of chunks so far, which is the index of the next one. Only the command's thread writes
    /// it.
    sent: AtomicI32,
}

impl StreamResponder {
    pub fn new(request_id: &str, max_message_size: usize) -> Self {
        Self {
            request_id: request_id.into(),
            max_message_size,
            buffer: ChunkBuffer::default(),
            converses: false,
            sent: AtomicI32::new(0),
        }
    }

    /// For a call that came by `Converse`, whose client says how much it takes.
    pub fn of_conversation(request_id: &str, max_message_size: usize) -> Self {
        Self {
            buffer: ChunkBuffer::on_demand(),
            converses: true,
            ..Self::new(request_id, max_message_size)
        }
    }

    /// Sends a chunk. True if the next one must wait for room.
    pub fn send(&self, fields: Fields, is_final: bool) -> Result<bool, Failure> {
        let index = self.sent();
        let counted = self.converses.then(|| values_size(&fields));
        let chunk = self.chunk(index, is_final, fields);
        let (size, limit) = (chunk.encoded_len(), self.max_message_size);
        if size > limit {
            return Err(Failure::too_large(size, limit));
        }
        self.sent.store(index.wrapping_add(1), Ordering::Relaxed);
        Ok(if self.converses {
            self.buffer.push(&wrapped(chunk), counted)
        } else {
            self.buffer.push(&chunk, counted)
        })
    }

    /// Sends what the command reports. False if the client does not read, and the event was dropped.
    pub(crate) fn report(&self, event: CallEvent) -> bool {
        self.buffer.push_event(&StreamResponse {
            event: Some(Box::new(event)),
            ..StreamResponse::default()
        })
    }

    #[inline]
    pub fn sent(&self) -> i32 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Waits until there is room, or until the stream is cancelled.
    pub fn wait_room(&self) {
        self.buffer.wait_room();
    }

    /// Calls `done` once there is room, or when the stream is cancelled.
    pub fn on_room(&self, done: Box<dyn FnOnce() + Send>) {
        self.buffer.on_room(done);
    }

    /// Replaces the chunks that have not been sent with a failure, and ends the stream.
    pub fn fail_now(&self, failure: Failure) {
        let last = self.failed(0, failure);
        if self.converses {
            self.buffer.end_with(&wrapped(last));
        } else {
            self.buffer.end_with(&last);
        }
    }

    pub(crate) fn finish(&self, failure: Option<Failure>) {
        if let Some(failure) = failure {
            let last = self.failed(self.sent(), failure);
            if self.converses {
                self.buffer.push(&wrapped(last), None);
            } else {
                self.buffer.push(&last, None);
            }
        }
        self.buffer.end();
    }

    /// The client takes further chunks.
    pub(crate) fn add_demand(&self, more: &Demand) {
        self.buffer.add_demand(more);
    }

    /// The client takes no further chunks.
    pub(crate) fn cancel(&self) {
        self.buffer.cancel();
    }

    pub(crate) fn buffer(&self) -> &ChunkBuffer {
        &self.buffer
    }

    fn chunk(&self, index: i32, is_final: bool, fields: Fields) -> StreamResponse {
        // A client that sends kinds needs no request id after the first chunk.
        let request_id = if fields.kinds.is_some() && index > 0 {
            ""
        } else {
            &self.request_id
        };
        StreamResponse {
            is_final,
            chunk: fields.values,
            chunk_kinds: fields.kinds,
            timestamp: timestamp(),
            request_id: request_id.into(),
            chunk_index: index,
            ..StreamResponse::default()
        }
    }

    fn failed(&self, index: i32, failure: Failure) -> StreamResponse {
        StreamResponse {
            is_final: true,
            error: failure.text,
            error_detail: Some(failure.detail),
            timestamp: timestamp(),
            request_id: self.request_id.clone(),
            chunk_index: index,
            ..StreamResponse::default()
        }
    }
}

/// How much of the client's demand a chunk takes.
fn values_size(fields: &Fields) -> usize {
    fields.values.iter().map(|field| field.value.len()).sum()
}

fn wrapped(chunk: StreamResponse) -> ConverseDown {
    ConverseDown {
        chunks: vec![chunk],
        ..ConverseDown::default()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;
    use snakepit_wire::Deframer;
    use std::task::{Context, Poll, Waker};

    fn taken(stream: &StreamResponder) -> Vec<StreamResponse> {
        let mut cx = Context::from_waker(Waker::noop());
        let Poll::Ready(Some(bytes)) = stream.buffer.poll_take(&mut cx, |_| Poll::Ready(())) else {
            panic!("no chunks");
        };
        let mut deframer = Deframer::new(usize::MAX);
        deframer.push(bytes);
        std::iter::from_fn(|| deframer.next().unwrap()).collect()
    }

    #[test]
    fn chunks_are_numbered_and_the_failure_comes_after_them() {
        let stream = StreamResponder::new("r", 1000);
        for _ in 0..2 {
            assert_eq!(stream.send(Fields::default(), false).ok(), Some(false));
        }
        stream.finish(Some(Failure::cancelled()));
        let chunks = taken(&stream);
        let indices: Vec<_> = chunks.iter().map(|chunk| chunk.chunk_index).collect();
        assert_eq!(indices, [0, 1, 2]);
        assert!(chunks[2].is_final && !chunks[1].is_final);
        let detail = chunks[2].error_detail.as_ref().unwrap();
        assert_eq!(
            (detail.reason.as_str(), chunks[2].request_id.as_str()),
            ("cancelled", "r")
        );
    }

    #[test]
    fn a_chunk_over_the_limit_is_refused_and_takes_no_number() {
        let stream = StreamResponder::new("a request id of some length", 5);
        let failure = stream.send(Fields::default(), false).unwrap_err();
        assert_eq!(
            (failure.detail.reason.as_str(), stream.sent()),
            ("message_too_large", 0)
        );
    }

    #[test]
    fn a_client_that_sends_kinds_gets_the_request_id_once() {
        let stream = StreamResponder::new("r", 1000);
        for _ in 0..2 {
            stream.send(Fields::sent(Vec::new(), true), false).ok();
        }
        let ids: Vec<_> = taken(&stream)
            .into_iter()
            .map(|chunk| chunk.request_id)
            .collect();
        assert_eq!(ids, ["r", ""]);
    }
}
