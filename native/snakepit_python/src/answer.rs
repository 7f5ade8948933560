//! How a call is answered, by the RPC that it came by.

use crate::{call::Values, chunks::Chunks, lane::Lane};
use bytes::{Bytes, BytesMut};
use prost::{
    Message,
    encoding::{self, WireType},
};
use snakepit_proto::{ErrorDetail, ExecuteResponse, ReplyFrame, StreamResponse};
use snakepit_wire::{append, append_encoded};
use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use tokio::sync::oneshot;

/// The maps of values of a `StreamResponse` and a `ReplyFrame`.
const CHUNK: u32 = 2;
const RESULT: u32 = 3;

/// Why a call failed, in the terms of the wire.
#[derive(Debug, Default)]
pub(crate) struct Failure {
    /// For a peer without our additions.
    pub(crate) text: String,
    pub(crate) detail: Box<ErrorDetail>,
}

impl Failure {
    pub(crate) fn new(reason: &str, message: impl Into<String>) -> Self {
        let message = message.into();
        Self {
            text: message.clone(),
            detail: Box::new(ErrorDetail {
                reason: reason.into(),
                message,
                ..ErrorDetail::default()
            }),
        }
    }

    pub(crate) fn cancelled() -> Self {
        Self::new("cancelled", "the call was cancelled")
    }

    pub(crate) fn too_large(size: usize, limit: usize) -> Self {
        Self::new(
            "message_too_large",
            format!(
                "the result has {size} bytes, over the limit of {limit}: send less at a time, or raise \
                 max_message_size"
            ),
        )
    }
}

/// What a unary call came to.
pub(crate) struct Outcome {
    pub(crate) result: Result<Values, Failure>,
    pub(crate) took: Duration,
    /// For a call that was cancelled.
    pub(crate) ended: &'static str,
}

pub(crate) enum Answer {
    /// One frame among others.
    Frame(Arc<Lane>),
    Unary(Mutex<Option<oneshot::Sender<Outcome>>>),
    Stream(Arc<Chunks>),
}

impl Answer {
    pub(crate) fn unary() -> (Self, oneshot::Receiver<Outcome>) {
        let (sender, receiver) = oneshot::channel();
        (Self::Unary(Mutex::new(Some(sender))), receiver)
    }

    pub(crate) fn is_stream(&self) -> bool {
        matches!(self, Self::Stream(_))
    }
}

pub(crate) fn tell(sender: &Mutex<Option<oneshot::Sender<Outcome>>>, outcome: Outcome) {
    let sender = sender.lock().unwrap_or_else(PoisonError::into_inner).take();
    if let Some(sender) = sender {
        // Who does not wait any more needs no answer.
        let _ = sender.send(outcome);
    }
}

/// Nanoseconds since the epoch.
fn timestamp() -> i64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}

fn entry_len((name, value): &(String, Bytes)) -> usize {
    encoding::string::encoded_len(1, name) + encoding::bytes::encoded_len(2, value)
}

fn values_len(message: &impl Message, tag: u32, fields: &[(String, Bytes)]) -> usize {
    let entries = fields.iter().map(|field| {
        let size = entry_len(field);
        encoding::key_len(tag) + encoding::encoded_len_varint(size as u64) + size
    });
    message.encoded_len() + entries.sum::<usize>()
}

/// Appends a message of which the map of values, field `tag`, is empty, and then that map: a map of
/// the message's own would be made only to be written.
fn append_values(out: &mut BytesMut, message: &impl Message, tag: u32, fields: &[(String, Bytes)]) {
    append_encoded(out, values_len(message, tag, fields), |out| {
        // Room for all of it was reserved: nothing can fail.
        let _ = message.encode(out);
        for field in fields {
            encoding::encode_key(tag, WireType::LengthDelimited, out);
            encoding::encode_varint(entry_len(field) as u64, out);
            encoding::string::encode(1, &field.0, out);
            encoding::bytes::encode(2, &field.1, out);
        }
    });
}

pub(crate) fn append_reply(out: &mut BytesMut, call_id: u64, outcome: Outcome) {
    let frame = ReplyFrame {
        call_id,
        handler_ns: u64::try_from(outcome.took.as_nanos()).unwrap_or(u64::MAX),
        ended: outcome.ended.into(),
        ..ReplyFrame::default()
    };
    match outcome.result {
        Ok(values) => {
            let frame = ReplyFrame {
                success: true,
                result_kinds: values.kinds,
                ..frame
            };
            append_values(out, &frame, RESULT, &values.fields);
        }
        Err(failure) => {
            let frame = ReplyFrame {
                error: failure.text,
                error_detail: Some(*failure.detail),
                ..frame
            };
            append(out, &frame);
        }
    }
}

pub(crate) fn response(request_id: String, result: Result<Values, Failure>) -> ExecuteResponse {
    let response = ExecuteResponse {
        request_id,
        timestamp: timestamp(),
        ..ExecuteResponse::default()
    };
    match result {
        Ok(values) => ExecuteResponse {
            success: true,
            result: values.fields.into_iter().collect(),
            result_kinds: values.kinds,
            ..response
        },
        Err(failure) => ExecuteResponse {
            error: failure.text,
            error_detail: Some(*failure.detail),
            ..response
        },
    }
}

/// A chunk before it is sent.
pub(crate) struct Chunk {
    head: StreamResponse,
    fields: Vec<(String, Bytes)>,
}

impl Chunk {
    pub(crate) fn new(request_id: &str, index: i32, is_final: bool, values: Values) -> Self {
        // A client with our additions knows which request its stream is.
        let request_id = if values.kinds.is_some() && index > 0 {
            ""
        } else {
            request_id
        };
        Self {
            head: StreamResponse {
                is_final,
                chunk_kinds: values.kinds,
                timestamp: timestamp(),
                request_id: request_id.into(),
                chunk_index: index,
                ..StreamResponse::default()
            },
            fields: values.fields,
        }
    }

    pub(crate) fn size(&self) -> usize {
        values_len(&self.head, CHUNK, &self.fields)
    }

    pub(crate) fn append(&self, out: &mut BytesMut) {
        append_values(out, &self.head, CHUNK, &self.fields);
    }
}

pub(crate) fn failed_chunk(request_id: &str, index: i32, failure: Failure) -> StreamResponse {
    StreamResponse {
        is_final: true,
        error: failure.text,
        error_detail: Some(*failure.detail),
        timestamp: timestamp(),
        request_id: request_id.into(),
        chunk_index: index,
        ..StreamResponse::default()
    }
}
