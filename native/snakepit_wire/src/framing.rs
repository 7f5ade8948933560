//! gRPC's framing: a flag for compression, which is never used here, and the length in front of each message.
//!
//! tonic frames the messages of its own calls and has no function for that alone; the frames of `Calls` are written
//! to an h2 stream by whichever thread has one.
//!
//! A large value is not copied at either end: it is a part of `Outgoing` and a DATA frame by itself, which h2 reads
//! into memory of its own.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use prost::{DecodeError, Message};
use std::{
    collections::VecDeque,
    mem::{replace, take},
};

const PREFIX: usize = 5;
/// How many bytes a frame of `Calls` may have besides its values, whose size has its own limit: for names, metadata,
/// the text of an error.
pub const FRAME_OVERHEAD: usize = 1024 * 1024;
/// The largest DATA frame that HTTP/2 allows, for connections between the BEAM and its own workers.
pub const MAX_FRAME_SIZE: u32 = (1 << 24) - 1;
/// The size of the DATA frames of what does not fit in one. They are copied on arrival, while in the processor's
/// cache.
const CUT: usize = 256 * 1024;
/// Received pieces of a message that are smaller are copied together.
const KEPT_FROM: usize = 32 * 1024;

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    #[error("a compressed message, which is not supported")]
    Compressed,
    #[error("a message of {size} bytes, over the limit of {limit}")]
    TooLarge { size: usize, limit: usize },
    #[error("cannot decode a message: {0}")]
    Undecodable(#[from] DecodeError),
}

/// Appends a message with its prefix.
pub fn append(out: &mut BytesMut, message: &impl Message) {
    let size = message.encoded_len();
    out.reserve(PREFIX + size);
    put_prefix(out, size);
    // This cannot fail: enough room was reserved.
    let _ = message.encode(out);
}

fn put_prefix(out: &mut BytesMut, size: usize) {
    out.put_u8(0);
    out.put_u32(u32::try_from(size).unwrap_or(u32::MAX));
}

/// Messages to send.
#[derive(Default)]
pub struct Outgoing {
    /// Come before `rest`.
    parts: Vec<Bytes>,
    rest: BytesMut,
}

impl Outgoing {
    /// As the function `append`.
    #[inline]
    pub fn append(&mut self, message: &impl Message) {
        append(&mut self.rest, message);
    }

    /// Appends messages that have their prefixes.
    pub fn append_framed(&mut self, messages: Bytes) {
        if !self.rest.is_empty() {
            self.parts.push(self.rest.split().freeze());
        }
        self.parts.push(messages);
    }

    /// Appends a message of `size` bytes. `encode` appends to the rest, and moves the rest and a large value to
    /// the parts, so that the value is not copied.
    pub fn append_in_parts(
        &mut self,
        size: usize,
        encode: impl FnOnce(&mut Vec<Bytes>, &mut BytesMut),
    ) {
        self.rest.reserve(PREFIX + size.min(KEPT_FROM));
        put_prefix(&mut self.rest, size);
        encode(&mut self.parts, &mut self.rest);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.parts.is_empty() && self.rest.is_empty()
    }

    pub(crate) fn reserve_first(&mut self, room: usize) {
        if self.rest.capacity() == 0 {
            self.rest.reserve(room);
        }
    }

    /// Takes everything.
    pub fn take(&mut self) -> Parts {
        Parts {
            parts: take(&mut self.parts),
            rest: self.rest.split().freeze(),
        }
    }
}

/// What was taken from `Outgoing`.
pub struct Parts {
    parts: Vec<Bytes>,
    rest: Bytes,
}

impl Parts {
    /// Calls `send` for each DATA frame, in order.
    pub fn send(self, mut send: impl FnMut(Bytes)) {
        for part in self.parts {
            if part.len() > MAX_FRAME_SIZE as usize {
                send_cut(part, &mut send);
            } else {
                send(part);
            }
        }
        // Received values share the memory of their frame: one of many small values must not keep much of it.
        send_cut(self.rest, &mut send);
    }
}

fn send_cut(mut bytes: Bytes, send: &mut impl FnMut(Bytes)) {
    while bytes.len() > CUT {
        send(bytes.split_to(CUT));
    }
    if !bytes.is_empty() {
        send(bytes);
    }
}

/// Cuts received bytes into messages. Values that arrive whole are not copied.
pub struct Deframer {
    chunk: Bytes,
    partial: Partial,
    limit: usize,
}

/// A message that has not arrived whole.
#[derive(Default)]
struct Partial {
    prefix: BytesMut,
    /// After the prefix.
    pieces: Pieces,
    /// The size of the message, once the prefix is complete.
    size: Option<usize>,
}

impl Deframer {
    pub fn new(limit: usize) -> Self {
        Self {
            chunk: Bytes::new(),
            partial: Partial::default(),
            limit,
        }
    }

    /// To be called when `next` returns nothing.
    pub fn push(&mut self, chunk: Bytes) {
        self.chunk = chunk;
    }

    /// Whether part of a message has arrived.
    pub fn is_cut_off(&self) -> bool {
        !self.partial.prefix.is_empty()
    }

    #[allow(clippy::should_implement_trait)]
    pub fn next<M: Message + Default>(&mut self) -> Result<Option<M>, FrameError> {
        if self.chunk.is_empty() {
            return Ok(None);
        }
        if self.partial.prefix.is_empty() && self.chunk.len() >= PREFIX {
            let whole = PREFIX + self.size(&self.chunk)?;
            if self.chunk.len() >= whole {
                let mut message = self.chunk.split_to(whole);
                message.advance(PREFIX);
                return Ok(Some(M::decode(message)?));
            }
        }
        match self.gather()? {
            Some(pieces) => Ok(Some(M::decode(pieces)?)),
            None => Ok(None),
        }
    }

    /// Adds the chunk to the message. Returns the message once it is complete.
    fn gather(&mut self) -> Result<Option<Pieces>, FrameError> {
        let size = match self.partial.size {
            Some(size) => size,
            None => {
                let prefix = &mut self.partial.prefix;
                let missing = PREFIX - prefix.len();
                prefix.put(self.chunk.split_to(missing.min(self.chunk.len())));
                if prefix.len() < PREFIX {
                    return Ok(None);
                }
                let size = self.size(&self.partial.prefix)?;
                self.partial.size = Some(size);
                if size > MAX_FRAME_SIZE as usize {
                    self.partial.pieces.gather(size);
                }
                size
            }
        };
        let pieces = &mut self.partial.pieces;
        let missing = size - pieces.size;
        pieces.push(self.chunk.split_to(missing.min(self.chunk.len())));
        if pieces.size < size {
            return Ok(None);
        }
        Ok(Some(take(&mut self.partial).pieces.finished()))
    }

    fn size(&self, bytes: &[u8]) -> Result<usize, FrameError> {
        let [flag, size @ ..] = bytes else {
            return Ok(0);
        };
        if *flag != 0 {
            return Err(FrameError::Compressed);
        }
        let size = size
            .first_chunk()
            .map_or(0, |size| u32::from_be_bytes(*size) as usize);
        if size > self.limit {
            return Err(FrameError::TooLarge {
                size,
                limit: self.limit,
            });
        }
        Ok(size)
    }
}

/// The bytes of a message, in pieces, none of which is empty.
#[derive(Default)]
struct Pieces {
    /// Come before `copied`, which is empty once the message is complete.
    kept: VecDeque<Bytes>,
    copied: BytesMut,
    size: usize,
    copies_all: bool,
}

impl Pieces {
    /// Copies all of a message of `size` bytes.
    fn gather(&mut self, size: usize) {
        self.copies_all = true;
        self.copied.reserve(size);
    }

    fn push(&mut self, piece: Bytes) {
        self.size += piece.len();
        if self.copies_all || piece.len() < KEPT_FROM {
            self.copied.extend_from_slice(&piece);
        } else {
            self.keep_copied();
            self.kept.push_back(piece);
        }
    }

    fn keep_copied(&mut self) {
        if !self.copied.is_empty() {
            let copied = replace(&mut self.copied, BytesMut::new());
            self.kept.push_back(copied.freeze());
        }
    }

    fn finished(mut self) -> Self {
        self.keep_copied();
        self
    }
}

impl Buf for Pieces {
    #[inline]
    fn remaining(&self) -> usize {
        self.size
    }

    #[inline]
    fn chunk(&self) -> &[u8] {
        self.kept.front().map_or(&[], |piece| piece)
    }

    fn advance(&mut self, mut count: usize) {
        self.size -= count;
        while count > 0
            && let Some(piece) = self.kept.front_mut()
        {
            let part = count.min(piece.len());
            piece.advance(part);
            count -= part;
            if piece.is_empty() {
                self.kept.pop_front();
            }
        }
    }

    /// Copies nothing if one piece has all of it.
    fn copy_to_bytes(&mut self, count: usize) -> Bytes {
        let part = match self.kept.front() {
            Some(piece) if piece.len() >= count => piece.slice(..count),
            _ => {
                let mut copied = BytesMut::with_capacity(count);
                copied.put(self.take(count));
                return copied.freeze();
            }
        };
        self.advance(count);
        part
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn framed(messages: &[Bytes]) -> Bytes {
        let mut out = BytesMut::new();
        for message in messages {
            append(&mut out, message);
        }
        out.freeze()
    }

    fn value(size: usize) -> Bytes {
        (0..size).map(|n| (n % 251) as u8).collect()
    }

    /// The messages in bytes that arrive in these chunks.
    fn received(chunks: impl IntoIterator<Item = Bytes>) -> Vec<Bytes> {
        let mut deframer = Deframer::new(usize::MAX);
        let mut got = Vec::new();
        for chunk in chunks {
            deframer.push(chunk);
            while let Some(message) = deframer.next().unwrap() {
                got.push(message);
            }
        }
        assert!(!deframer.is_cut_off());
        got
    }

    fn cut(bytes: &Bytes, size: usize) -> impl Iterator<Item = Bytes> {
        bytes.chunks(size).map(Bytes::copy_from_slice)
    }

    #[test]
    fn messages_are_read_as_they_were_written_however_the_bytes_are_cut() {
        let messages = [&b"one"[..], b"", b"a longer message", b"x"].map(Bytes::from);
        let bytes = framed(&messages);
        for size in 1..=bytes.len() {
            assert_eq!(received(cut(&bytes, size)), messages, "in chunks of {size}");
        }
    }

    #[test]
    fn large_messages_are_read_however_the_bytes_are_cut() {
        let whole = MAX_FRAME_SIZE as usize;
        for size in [KEPT_FROM, CUT, 1024 * 1024, whole] {
            for size in [size - 1, size, size + 1] {
                let messages = [value(7), value(size), value(size / 3), value(7)];
                let bytes = framed(&messages);
                for chunk in [10_000, KEPT_FROM - 1, KEPT_FROM + 1, CUT, bytes.len()] {
                    assert!(received(cut(&bytes, chunk)) == messages, "{size}, {chunk}");
                }
            }
        }
    }

    /// Sends a message with a value of `size` bytes as a part of its own.
    fn in_parts(size: usize) -> (Bytes, Vec<Bytes>) {
        let message = value(size);
        let encoded = message.encode_to_vec();
        let head = encoded.len() - size;
        let mut out = Outgoing::default();
        out.append(&value(9));
        out.append_in_parts(encoded.len(), |parts, rest| {
            rest.put(&encoded[..head]);
            parts.push(rest.split().freeze());
            parts.push(message.clone());
        });
        out.append(&value(9));
        let mut frames = Vec::new();
        out.take().send(|frame| frames.push(frame));
        assert!(out.is_empty());
        (message, frames)
    }

    #[test]
    fn a_value_is_copied_at_neither_end_if_a_frame_can_hold_its_message() {
        let most = MAX_FRAME_SIZE as usize - 100;
        for size in [KEPT_FROM, 1024 * 1024, most] {
            let (message, frames) = in_parts(size);
            let got = received(frames);
            assert_eq!(got.len(), 3);
            assert!(got[1] == message);
            assert_eq!(got[1].as_ptr(), message.as_ptr());
        }
    }

    #[test]
    fn a_larger_value_is_cut() {
        let (message, frames) = in_parts(MAX_FRAME_SIZE as usize + 1);
        assert!(frames.iter().all(|frame| frame.len() <= CUT));
        assert!(received(frames)[1] == message);
    }

    #[test]
    fn small_messages_that_are_sent_together_are_cut() {
        let mut out = Outgoing::default();
        let messages = vec![value(10_000); 100];
        messages.iter().for_each(|message| out.append(message));
        let mut frames = Vec::new();
        out.take().send(|frame| frames.push(frame));
        assert!(frames.iter().all(|frame| frame.len() <= CUT));
        assert_eq!(received(frames), messages);
    }

    #[test]
    fn a_message_over_the_limit_is_refused_before_all_of_it_arrives() {
        let mut deframer = Deframer::new(2);
        deframer.push(framed(&["abc".into()]).slice(..6));
        assert_eq!(
            deframer.next::<Bytes>(),
            Err(FrameError::TooLarge { size: 5, limit: 2 })
        );
        let mut deframer = Deframer::new(2);
        let bytes = framed(&["abc".into()]);
        deframer.push(bytes.slice(..3));
        assert_eq!(deframer.next::<Bytes>(), Ok(None));
        deframer.push(bytes.slice(3..5));
        assert_eq!(
            deframer.next::<Bytes>(),
            Err(FrameError::TooLarge { size: 5, limit: 2 })
        );
    }

    #[test]
    fn a_compressed_message_is_refused() {
        let mut deframer = Deframer::new(2);
        deframer.push(Bytes::from_static(&[1, 0, 0, 0, 0]));
        assert_eq!(deframer.next::<Bytes>(), Err(FrameError::Compressed));
    }

    #[test]
    fn a_message_that_cannot_be_decoded_is_an_error() {
        let mut deframer = Deframer::new(10);
        deframer.push(Bytes::from_static(&[0, 0, 0, 0, 1, 0xff]));
        assert!(matches!(
            deframer.next::<Bytes>(),
            Err(FrameError::Undecodable(_))
        ));
    }

    #[test]
    fn an_incomplete_message_is_reported() {
        let mut deframer = Deframer::new(10);
        deframer.push(framed(&["abc".into()]).slice(..6));
        assert_eq!(deframer.next::<Bytes>(), Ok(None));
        assert!(deframer.is_cut_off());
    }
}
