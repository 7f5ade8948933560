//! gRPC's framing: a flag for compression, which is never used here, and the length in front of each message.
//!
//! tonic frames the messages of its own calls and has no function for that alone; the frames of `Calls` are written
//! to an h2 stream by whichever thread has one.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use prost::Message;

const PREFIX: usize = 5;
/// How many bytes a frame of `Calls` may have besides its values, whose size has its own limit: for names, metadata,
/// the text of an error.
pub const FRAME_OVERHEAD: usize = 1024 * 1024;

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    #[error("a compressed message, which is not supported")]
    Compressed,
    #[error("a message of {size} bytes, over the limit of {limit}")]
    TooLarge { size: usize, limit: usize },
}

/// Appends a message with its prefix.
pub fn append(out: &mut BytesMut, message: &impl Message) {
    let size = message.encoded_len();
    append_encoded(out, size, |out| {
        // This cannot fail: enough room was reserved.
        let _ = message.encode(out);
    });
}

/// Appends the prefix of a message of `size` bytes, then what `encode` writes.
pub fn append_encoded(out: &mut BytesMut, size: usize, encode: impl FnOnce(&mut BytesMut)) {
    out.reserve(PREFIX + size);
    out.put_u8(0);
    out.put_u32(u32::try_from(size).unwrap_or(u32::MAX));
    encode(out);
}

/// Cuts received bytes into messages. Those that arrive whole are not copied.
pub struct Deframer {
    chunk: Bytes,
    partial: BytesMut,
    limit: usize,
}

impl Deframer {
    pub fn new(limit: usize) -> Self {
        Self {
            chunk: Bytes::new(),
            partial: BytesMut::new(),
            limit,
        }
    }

    /// To be called when `next` returns nothing.
    pub fn push(&mut self, chunk: Bytes) {
        self.chunk = chunk;
    }

    /// Whether part of a message has arrived.
    pub fn is_cut_off(&self) -> bool {
        !self.partial.is_empty()
    }

    #[allow(clippy::should_implement_trait)]
    pub fn next(&mut self) -> Result<Option<Bytes>, FrameError> {
        if self.partial.is_empty() && self.chunk.len() >= PREFIX {
            let whole = PREFIX + self.size(&self.chunk)?;
            if self.chunk.len() >= whole {
                let mut message = self.chunk.split_to(whole);
                message.advance(PREFIX);
                return Ok(Some(message));
            }
            self.partial.reserve(whole);
        }
        self.gather()
    }

    fn gather(&mut self) -> Result<Option<Bytes>, FrameError> {
        if !self.take_up_to(PREFIX) {
            return Ok(None);
        }
        let whole = PREFIX + self.size(&self.partial)?;
        if !self.take_up_to(whole) {
            return Ok(None);
        }
        let mut message = self.partial.split().freeze();
        message.advance(PREFIX);
        Ok(Some(message))
    }

    /// Completes the partial message up to `wanted` bytes; returns whether it has them.
    fn take_up_to(&mut self, wanted: usize) -> bool {
        let missing = wanted.saturating_sub(self.partial.len());
        if missing > 0 && !self.chunk.is_empty() {
            self.partial.reserve(missing);
            let part = self.chunk.split_to(missing.min(self.chunk.len()));
            self.partial.extend_from_slice(&part);
        }
        self.partial.len() >= wanted
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

#[cfg(test)]
mod tests {
    use super::*;

    fn framed(messages: &[&[u8]]) -> Bytes {
        let mut out = BytesMut::new();
        for message in messages {
            append_encoded(&mut out, message.len(), |out| {
                out.extend_from_slice(message)
            });
        }
        out.freeze()
    }

    #[test]
    fn messages_are_read_as_they_were_written_however_the_bytes_are_cut() {
        let messages: &[&[u8]] = &[b"one", b"", b"a longer message", b"x"];
        let bytes = framed(messages);
        for size in 1..=bytes.len() {
            let mut deframer = Deframer::new(100);
            let mut got: Vec<Bytes> = Vec::new();
            for chunk in bytes.chunks(size) {
                deframer.push(Bytes::copy_from_slice(chunk));
                while let Ok(Some(message)) = deframer.next() {
                    got.push(message);
                }
            }
            assert_eq!(got, messages, "in chunks of {size}");
            assert!(!deframer.is_cut_off());
        }
    }

    #[test]
    fn a_message_over_the_limit_is_refused_before_all_of_it_arrives() {
        let mut deframer = Deframer::new(2);
        deframer.push(framed(&[b"abc"]).slice(..6));
        assert_eq!(
            deframer.next(),
            Err(FrameError::TooLarge { size: 3, limit: 2 })
        );
    }

    #[test]
    fn a_compressed_message_is_refused() {
        let mut deframer = Deframer::new(2);
        deframer.push(Bytes::from_static(&[1, 0, 0, 0, 0]));
        assert_eq!(deframer.next(), Err(FrameError::Compressed));
    }

    #[test]
    fn an_incomplete_message_is_reported() {
        let mut deframer = Deframer::new(10);
        deframer.push(framed(&[b"abc"]).slice(..6));
        assert_eq!(deframer.next(), Ok(None));
        assert!(deframer.is_cut_off());
    }
}
