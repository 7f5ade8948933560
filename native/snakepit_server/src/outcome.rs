//! The outcome of a call, and the messages that carry it.

use crate::failure::Failure;
use snakepit_proto::{CallEvent, ExecuteResponse, Fields, HandlerExit, ReplyFrame};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

pub struct Outcome {
    /// For a stream its fields are not used.
    pub result: Result<Fields, Failure>,
    /// How long the handler ran.
    pub took: Duration,
    /// For a cancelled call.
    pub exit: HandlerExit,
}

impl Outcome {
    /// For a call whose handler has not run.
    pub fn not_run(failure: Failure, exit: HandlerExit) -> Self {
        Self {
            result: Err(failure),
            took: Duration::ZERO,
            exit,
        }
    }

    pub(crate) fn into_reply(self, call_id: u64) -> ReplyFrame {
        let mut frame = ReplyFrame {
            call_id,
            handler_ns: u64::try_from(self.took.as_nanos()).unwrap_or(u64::MAX),
            ..ReplyFrame::default()
        };
        frame.set_exit(self.exit);
        match self.result {
            Ok(fields) => ReplyFrame {
                success: true,
                result: fields.values,
                result_kinds: fields.kinds,
                ..frame
            },
            Err(failure) => ReplyFrame {
                error: failure.text,
                error_detail: Some(failure.detail),
                ..frame
            },
        }
    }

    /// `events`: what the command has reported.
    pub fn into_response(self, request_id: String, events: Vec<CallEvent>) -> ExecuteResponse {
        let response = ExecuteResponse {
            request_id,
            events,
            timestamp: timestamp(),
            ..ExecuteResponse::default()
        };
        match self.result {
            Ok(fields) => ExecuteResponse {
                success: true,
                result: fields.values,
                result_kinds: fields.kinds,
                ..response
            },
            Err(failure) => ExecuteResponse {
                error: failure.text,
                error_detail: Some(failure.detail),
                ..response
            },
        }
    }
}

/// Nanoseconds since the epoch.
pub(crate) fn timestamp() -> i64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}
