//! How a call is answered, by the RPC that it came by.

use crate::{chunks::Chunks, lane::Lane};
use snakepit_proto::{
    ErrorDetail, ExecuteResponse, Fields, HandlerExit, ReplyFrame, StreamResponse,
};
use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use tokio::sync::oneshot;

/// Why a call failed, in the terms of the wire.
#[derive(Debug, Default)]
pub struct Failure {
    /// For a peer without our additions.
    pub text: String,
    pub detail: Box<ErrorDetail>,
}

impl Failure {
    pub fn new(reason: &str, message: impl Into<String>) -> Self {
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

    pub fn cancelled() -> Self {
        Self::new("cancelled", "the call was cancelled")
    }

    pub fn too_large(size: usize, limit: usize) -> Self {
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
pub struct Outcome {
    pub result: Result<Fields, Failure>,
    pub took: Duration,
    /// For a call that was cancelled.
    pub exit: HandlerExit,
}

pub enum Answer<J> {
    /// One frame among others.
    Frame(Arc<Lane<J>>),
    Unary(Mutex<Option<oneshot::Sender<Outcome>>>),
    Stream(Arc<Chunks>),
}

impl<J> Answer<J> {
    pub fn unary() -> (Self, oneshot::Receiver<Outcome>) {
        let (sender, receiver) = oneshot::channel();
        (Self::Unary(Mutex::new(Some(sender))), receiver)
    }

    pub fn is_stream(&self) -> bool {
        matches!(self, Self::Stream(_))
    }
}

pub fn tell(sender: &Mutex<Option<oneshot::Sender<Outcome>>>, outcome: Outcome) {
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

pub fn reply_frame(call_id: u64, outcome: Outcome) -> ReplyFrame {
    let mut frame = ReplyFrame {
        call_id,
        handler_ns: u64::try_from(outcome.took.as_nanos()).unwrap_or(u64::MAX),
        ..ReplyFrame::default()
    };
    frame.set_exit(outcome.exit);
    match outcome.result {
        Ok(values) => ReplyFrame {
            success: true,
            result: values.values,
            result_kinds: values.kinds,
            ..frame
        },
        Err(failure) => ReplyFrame {
            error: failure.text,
            error_detail: Some(failure.detail),
            ..frame
        },
    }
}

pub fn response(request_id: String, result: Result<Fields, Failure>) -> ExecuteResponse {
    let response = ExecuteResponse {
        request_id,
        timestamp: timestamp(),
        ..ExecuteResponse::default()
    };
    match result {
        Ok(values) => ExecuteResponse {
            success: true,
            result: values.values,
            result_kinds: values.kinds,
            ..response
        },
        Err(failure) => ExecuteResponse {
            error: failure.text,
            error_detail: Some(failure.detail),
            ..response
        },
    }
}

pub fn chunk(request_id: &str, index: i32, is_final: bool, values: Fields) -> StreamResponse {
    // A client with our additions knows which request its stream is.
    let request_id = if values.kinds.is_some() && index > 0 {
        ""
    } else {
        request_id
    };
    StreamResponse {
        is_final,
        chunk: values.values,
        chunk_kinds: values.kinds,
        timestamp: timestamp(),
        request_id: request_id.into(),
        chunk_index: index,
        ..StreamResponse::default()
    }
}

pub fn failed_chunk(request_id: &str, index: i32, failure: Failure) -> StreamResponse {
    StreamResponse {
        is_final: true,
        error: failure.text,
        error_detail: Some(failure.detail),
        timestamp: timestamp(),
        request_id: request_id.into(),
        chunk_index: index,
        ..StreamResponse::default()
    }
}
