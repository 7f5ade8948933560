//! The outcome of a call, and the messages that carry it.

use crate::failure::Failure;
use snakepit_proto::{CallEvent, ExecuteResponse, Fields, HandlerExit, ReplyFrame};
use snakepit_wire::nanos;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

pub struct Outcome {
    /// For a stream its fields are not used.
    pub result: Result<Fields, Failure>,
    /// How long the handler ran.
    pub took: Duration,
    /// For a cancelled call.
    pub exit: HandlerExit,
    pub batch: BatchPart,
}

/// The part that a call had in a batch, if it was in one.
#[derive(Clone, Copy, Debug, Default)]
pub struct BatchPart {
    /// The number of calls in the batch.
    pub size: u32,
    /// How long the call waited for the batch to start.
    pub wait: Duration,
}

impl BatchPart {
    fn wait_us(self) -> u64 {
        u64::try_from(self.wait.as_micros()).unwrap_or(u64::MAX)
    }
}

impl Outcome {
    /// For a call whose handler has not run.
    pub fn not_run(failure: Failure, exit: HandlerExit) -> Self {
        Self {
            result: Err(failure),
            took: Duration::ZERO,
            exit,
            batch: BatchPart::default(),
        }
    }

    pub(crate) fn into_reply(self, call_id: u64) -> ReplyFrame {
        let mut frame = ReplyFrame {
            call_id,
            handler_ns: nanos(self.took),
            batch_size: self.batch.size,
            batch_wait_us: self.batch.wait_us(),
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
            batch_size: self.batch.size,
            batch_wait_us: self.batch.wait_us(),
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
