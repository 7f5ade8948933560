//! The ways in which a call can fail, and the reason that each has in Elixir.

use crate::pool::Startup;
use snakepit_proto::ErrorDetail;
use std::{error::Error as StdError, sync::Arc, time::Duration};
use tonic::{Code, Status};

/// How the message of a status begins that an answer of HTTP alone is read as; the HTTP status follows.
pub(crate) const HTTP_STATUS: &str = "the server answered with the HTTP status";

/// The reasons of failures from here. `Snakepit.Error` documents each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    Cancelled,
    CommandError,
    GrpcUnavailable,
    InternalError,
    InvalidArgs,
    InvalidResult,
    MessageTooLarge,
    NotReady,
    PoolSaturated,
    PoolStopped,
    PythonError,
    QueueTimeout,
    ReentrantCall,
    RpcError,
    SessionLost,
    StreamingNotSupported,
    Timeout,
    Unauthenticated,
    UnknownCommand,
    WorkerCrashed,
    WorkerStartFailed,
}

/// What the failure of a call says about its server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It has answered.
    None,
    /// It has lost the call, or answered that it is not available.
    Failed,
    /// The connection is lost, and with it all of its calls.
    ConnectionLost,
    /// It has answered that it does not accept the token of this side, or not any more.
    Refused,
    /// Nothing: the call has ended for other reasons, or has not begun.
    Unknown,
}

#[derive(Clone, Debug, thiserror::Error)]
pub enum Failure {
    #[error("{}", saturated_text(*.max_queue, *.remote))]
    Saturated {
        max_queue: usize,
        /// Whether the workers of the pool are endpoints.
        remote: bool,
    },
    #[error("{}", queue_timeout_text(*.after, *.has_workers, *.remote))]
    QueueTimeout {
        after: Duration,
        has_workers: bool,
        remote: bool,
    },
    #[error(
        "each worker that could run the call waits for a call that waits for one itself: a tool, or the enumerable of an input, calls the pool whose command waits for it; raise :size or :max_concurrency, or have it call another pool"
    )]
    Reentrant,
    #[error("{}", startup_text(.0))]
    NotReady(Startup),
    #[error("the deadline of {} ms passed while the call {}; raise :timeout if it may take longer", after.as_millis(), if *.queued { "waited for a worker" } else { "was running" })]
    Timeout { after: Duration, queued: bool },
    #[error("no chunk came within {} ms (:{option})", after.as_millis())]
    NoChunk {
        after: Duration,
        option: &'static str,
    },
    /// A failure that the runtime would have reported in time if its thread were not stuck.
    #[error(
        "{0} while the native library's thread was blocked: the machine is overloaded, or this is a bug to report"
    )]
    Overdue(String),
    #[error("the call was cancelled")]
    Cancelled,
    #[error("the pool has stopped")]
    PoolStopped,
    #[error("{0}")]
    NoWorker(String),
    #[error("{0}")]
    NoGrpc(String),
    #[error("the worker died while it was running the call, and is replaced: {0}")]
    WorkerCrashed(String),
    /// The connection lives, and so may the worker.
    #[error("the call was running, and its worker ended it without a reply: {0}")]
    CallEnded(String),
    /// As `WorkerCrashed`, for a server that others run.
    #[error("the connection to the endpoint {endpoint} was lost: {cause}{}", if *.in_call { "; the call may have run" } else { "" })]
    ConnectionLost {
        endpoint: Arc<str>,
        cause: String,
        /// Whether a call was running, rather than a question to the server.
        in_call: bool,
    },
    /// As `CallEnded`, for a server that others run.
    #[error(
        "the endpoint {endpoint} ended the call without a reply: {cause}; the call may have run"
    )]
    EndedByEndpoint { endpoint: Arc<str>, cause: String },
    #[error("{}", session_lost_text(*.remote))]
    SessionLost { remote: bool },
    /// Nothing of the call has run.
    #[error("the server accepted no more calls on this connection ({cause}); the call has not run")]
    NotStarted { cause: String, refused: bool },
    #[error("no connection to {address}: {cause}")]
    Unreachable { address: String, cause: String },
    #[error("{0}")]
    InvalidArgs(String),
    #[error("{0}")]
    InvalidResult(String),
    #[error(
        "the {what} has {size} bytes, and the limit is {limit}; raise :max_message_size to send it"
    )]
    TooLarge {
        what: &'static str,
        size: usize,
        limit: usize,
    },
    #[error(
        "the {what} is larger than the limit of {limit} bytes; raise :max_message_size ({said})"
    )]
    RefusedAsTooLarge {
        what: &'static str,
        limit: usize,
        said: String,
    },
    #[error("{}", remote_text(.0))]
    Remote(Box<ErrorDetail>),
    #[error("{}", if .message.is_empty() { .code.description() } else { .message })]
    Status {
        code: Code,
        message: String,
        stream: bool,
    },
    #[error("{0}")]
    BrokenStream(String),
    /// Nothing of the call has run.
    #[error(
        "the server takes no tools and no input streams (it has no RPC Converse); the call has not run: use workers of this version of Snakepit, and no proxy that passes only replies on, as that of Ray Serve"
    )]
    NoConverse,
    #[error("the call was dropped inside Snakepit; please report this as a bug")]
    Dropped,
}

impl Failure {
    pub fn reason(&self) -> Reason {
        match self {
            Self::Saturated { .. } => Reason::PoolSaturated,
            Self::QueueTimeout { .. } => Reason::QueueTimeout,
            Self::Reentrant => Reason::ReentrantCall,
            Self::NotReady(_) => Reason::NotReady,
            Self::Timeout { .. } | Self::NoChunk { .. } | Self::Overdue(_) => Reason::Timeout,
            Self::Cancelled => Reason::Cancelled,
            Self::PoolStopped => Reason::PoolStopped,
            Self::NoWorker(_) => Reason::WorkerStartFailed,
            Self::WorkerCrashed(_)
            | Self::CallEnded(_)
            | Self::ConnectionLost { .. }
            | Self::EndedByEndpoint { .. } => Reason::WorkerCrashed,
            Self::SessionLost { .. } => Reason::SessionLost,
            Self::NoGrpc(_) | Self::Unreachable { .. } | Self::NotStarted { .. } => {
                Reason::GrpcUnavailable
            }
            Self::InvalidArgs(_) => Reason::InvalidArgs,
            Self::InvalidResult(_) => Reason::InvalidResult,
            Self::TooLarge { .. } | Self::RefusedAsTooLarge { .. } => Reason::MessageTooLarge,
            Self::Remote(detail) => remote_reason(&detail.reason),
            Self::Status { code, stream, .. } => status_reason(*code, *stream),
            Self::BrokenStream(_) => Reason::RpcError,
            Self::NoConverse => Reason::StreamingNotSupported,
            Self::Dropped => Reason::InternalError,
        }
    }

    /// The same failure in words for a caller whose server others run; `None` for a server of this side.
    #[must_use]
    pub fn at(self, endpoint: Option<&Arc<str>>) -> Self {
        match (endpoint, self) {
            (Some(endpoint), Self::WorkerCrashed(cause)) => Self::ConnectionLost {
                endpoint: endpoint.clone(),
                cause,
                in_call: true,
            },
            (Some(endpoint), Self::CallEnded(cause)) => Self::EndedByEndpoint {
                endpoint: endpoint.clone(),
                cause,
            },
            (_, failure) => failure,
        }
    }

    /// As `at`, for a question that is not a call.
    #[must_use]
    pub fn in_question_to(self, endpoint: Option<&Arc<str>>) -> Self {
        match self.at(endpoint) {
            Self::ConnectionLost {
                endpoint, cause, ..
            } => Self::ConnectionLost {
                endpoint,
                cause,
                in_call: false,
            },
            failure => failure,
        }
    }

    /// What it says about the server of the call.
    pub fn fault(&self) -> Fault {
        match self {
            Self::WorkerCrashed(_) | Self::ConnectionLost { .. } => Fault::ConnectionLost,
            Self::CallEnded(_)
            | Self::EndedByEndpoint { .. }
            | Self::Status {
                code: Code::Unavailable,
                ..
            } => Fault::Failed,
            Self::Status {
                code: Code::DeadlineExceeded | Code::Cancelled,
                ..
            } => Fault::Unknown,
            Self::Status {
                code: Code::Unauthenticated,
                ..
            } => Fault::Refused,
            Self::Remote(_) | Self::Status { .. } | Self::RefusedAsTooLarge { .. } => Fault::None,
            _ => Fault::Unknown,
        }
    }

    /// Whether the server has cancelled the call, rather than this end.
    pub fn is_servers_cancel(&self) -> bool {
        self.reason() == Reason::Cancelled && !matches!(self, Self::Cancelled)
    }

    /// Whether the connection took no more calls.
    pub(crate) fn is_not_taken(&self) -> bool {
        matches!(self, Self::NotStarted { refused: false, .. })
    }

    /// Whether the connection of the call is lost.
    pub(crate) fn is_lost_connection(&self) -> bool {
        match self {
            Self::WorkerCrashed(_) => true,
            // What grpcio's servers send for each call before they close a connection that was pinged too often.
            Self::Status { code, message, .. } => {
                *code == Code::Unavailable && message.eq_ignore_ascii_case("too many pings")
            }
            _ => false,
        }
    }

    pub fn overdue(after: Duration) -> Self {
        Self::Overdue(format!("the deadline of {} ms passed", after.as_millis()))
    }

    /// The failure of a reply or of a chunk. A peer without Snakepit's additions sends only the text.
    pub fn from_reply(error: String, detail: Option<Box<ErrorDetail>>) -> Self {
        Self::Remote(detail.unwrap_or_else(|| {
            Box::new(ErrorDetail {
                message: error,
                ..ErrorDetail::default()
            })
        }))
    }

    /// As `from_status`, for an RPC that got no answer at all.
    pub fn from_unanswered(status: &Status, limit: usize, stream: bool) -> Self {
        status
            .source()
            .and_then(not_started)
            .unwrap_or_else(|| Self::from_status(status, limit, stream))
    }

    /// The failure of an RPC that something between may have refused. HAProxy resets an RPC whose server has died before it
    /// answered with REFUSED_STREAM, which elsewhere says that nothing of it has run.
    pub fn from_refusal(status: &Status) -> Option<Self> {
        let refused = status
            .source()
            .filter(|source| has_h2_error(*source, is_refusal));
        refused.map(root_cause).map(Self::CallEnded)
    }

    /// The failure of an RPC that a balancer has ended: its server is lost. HAProxy resets it, that of Ray answers with
    /// the HTTP status 500.
    pub fn from_balancer(status: &Status) -> Option<Self> {
        let reset = status.source().filter(|source| is_stream_reset(*source));
        let http = status.message();
        let failed = status.code() == Code::Unknown && http.starts_with(HTTP_STATUS);
        let cause = reset
            .map(root_cause)
            .or_else(|| failed.then(|| http.into()));
        cause.map(Self::CallEnded)
    }

    /// The failure of an RPC. A status from the peer has no source; a status that this end made because the connection
    /// broke has one.
    pub fn from_status(status: &Status, limit: usize, stream: bool) -> Self {
        let message = status.message();
        match status.code() {
            Code::OutOfRange if message.contains("message length too large") => {
                Self::RefusedAsTooLarge {
                    what: "result",
                    limit,
                    said: message.into(),
                }
            }
            Code::ResourceExhausted if message.contains("larger than max") => {
                Self::RefusedAsTooLarge {
                    what: "request",
                    limit,
                    said: message.into(),
                }
            }
            code => match status.source() {
                Some(source) if !is_stream_reset(source) => Self::WorkerCrashed(root_cause(source)),
                _ if code == Code::Internal && is_death_behind_proxy(message) => {
                    Self::CallEnded(message.lines().next().unwrap_or_default().into())
                }
                _ => Self::Status {
                    code,
                    message: message.into(),
                    stream,
                },
            },
        }
    }
}

/// Whether Ray Serve's own proxy says that it has lost the replica that ran the RPC, in the text of Ray's exception.
fn is_death_behind_proxy(message: &str) -> bool {
    message.starts_with("The actor died ")
        || (message.starts_with("The actor ") && message.contains(" is unavailable: "))
}

/// Whether an RPC that failed without an answer certainly has not started on the server.
fn not_started(error: &(dyn StdError + 'static)) -> Option<Failure> {
    causes(error).find_map(|cause| {
        let h2 = cause
            .downcast_ref::<h2::Error>()
            .filter(|h2| h2.is_remote());
        let refused = h2.is_some_and(is_refusal);
        let gone = h2.is_some_and(h2::Error::is_go_away)
            || cause
                .downcast_ref::<hyper::Error>()
                .is_some_and(hyper::Error::is_canceled);
        (refused || gone).then(|| Failure::NotStarted {
            cause: root_cause(error),
            refused,
        })
    })
}

fn is_refusal(error: &h2::Error) -> bool {
    error.is_remote() && error.is_reset() && error.reason() == Some(h2::Reason::REFUSED_STREAM)
}

fn saturated_text(max_queue: usize, remote: bool) -> String {
    if remote {
        format!(
            "every endpoint is busy and the queue is full ({max_queue} calls wait); call less often, name more :endpoints, or raise :max_concurrency or :max_queue"
        )
    } else {
        format!(
            "every worker is busy and the queue is full ({max_queue} calls wait); call less often, or raise :size, :max_concurrency or :max_queue"
        )
    }
}

fn queue_timeout_text(after: Duration, has_workers: bool, remote: bool) -> String {
    let after = after.as_millis();
    match (has_workers, remote) {
        (true, false) => format!(
            "no worker was free within the queue timeout of {after} ms; call less often, or raise :size, :max_concurrency or :queue_timeout"
        ),
        (true, true) => format!(
            "no endpoint was free within the queue timeout of {after} ms; call less often, name more :endpoints, or raise :max_concurrency or :queue_timeout"
        ),
        (false, false) => format!(
            "no worker was ready within the queue timeout of {after} ms: the pool's workers are gone, and are being started again; raise :queue_timeout if calls may wait for them"
        ),
        (false, true) => format!(
            "no endpoint was ready within the queue timeout of {after} ms: their connections are lost, or they are ejected, and Snakepit.list_workers/1 says why; raise :queue_timeout if calls may wait for them"
        ),
    }
}

fn session_lost_text(remote: bool) -> &'static str {
    if remote {
        "the pool has lost the endpoint of the session, and the session's state with it; the session begins anew with the next call"
    } else {
        "the session's worker is gone, and its state with it; the session begins anew with the next call"
    }
}

fn startup_text(startup: &Startup) -> String {
    let Startup {
        starting,
        size,
        remote,
        ..
    } = startup;
    let (workers, start, option) = if *remote {
        ("endpoints", "connecting", "connect_timeout")
    } else {
        ("workers", "starting", "startup_timeout")
    };
    let are = if *starting == 1 { "is" } else { "are" };
    let elapsed = startup.elapsed.as_secs();
    let limit = (startup.startup_timeout.as_secs_f64() * 10.0).round() / 10.0;
    let failed = startup.failed.as_ref().map_or_else(String::new, |failed| {
        format!("; the last one that failed: {}", failed.why)
    });
    format!(
        "{starting} of {size} {workers} {are} still {start} ({elapsed} s; :{option} is {limit} s); raise :timeout, or start the pool with `await_ready: true`{failed}"
    )
}

fn remote_text(detail: &ErrorDetail) -> String {
    // A command's own error has a code, which is more specific than its class.
    let name = match remote_reason(&detail.reason) {
        Reason::CommandError if !detail.code.is_empty() => &detail.code,
        _ => &detail.r#type,
    };
    if name.is_empty() || *name == detail.message {
        detail.message.clone()
    } else if detail.message.is_empty() {
        name.clone()
    } else {
        format!("{name}: {}", detail.message)
    }
}

fn remote_reason(reason: &str) -> Reason {
    match reason {
        "cancelled" => Reason::Cancelled,
        "command_error" => Reason::CommandError,
        "internal_error" => Reason::InternalError,
        "invalid_args" => Reason::InvalidArgs,
        "invalid_result" => Reason::InvalidResult,
        "message_too_large" => Reason::MessageTooLarge,
        "pool_saturated" => Reason::PoolSaturated,
        "session_lost" => Reason::SessionLost,
        "streaming_not_supported" => Reason::StreamingNotSupported,
        "timeout" => Reason::Timeout,
        "unknown_command" => Reason::UnknownCommand,
        _ => Reason::PythonError,
    }
}

fn status_reason(code: Code, stream: bool) -> Reason {
    match code {
        Code::Cancelled => Reason::Cancelled,
        Code::InvalidArgument => Reason::InvalidArgs,
        Code::DeadlineExceeded => Reason::Timeout,
        Code::NotFound => Reason::UnknownCommand,
        Code::PermissionDenied | Code::Unauthenticated => Reason::Unauthenticated,
        Code::ResourceExhausted => Reason::PoolSaturated,
        Code::Unavailable => Reason::GrpcUnavailable,
        Code::Unimplemented if stream => Reason::StreamingNotSupported,
        Code::Ok
        | Code::Unknown
        | Code::AlreadyExists
        | Code::FailedPrecondition
        | Code::Aborted
        | Code::OutOfRange
        | Code::Unimplemented
        | Code::Internal
        | Code::DataLoss => Reason::RpcError,
    }
}

/// A reset of one stream does not mean that the connection is lost.
fn is_stream_reset(error: &(dyn StdError + 'static)) -> bool {
    has_h2_error(error, |h2| h2.is_reset() && h2.is_remote())
}

fn has_h2_error(error: &(dyn StdError + 'static), matches: impl Fn(&h2::Error) -> bool) -> bool {
    causes(error).any(|cause| cause.downcast_ref::<h2::Error>().is_some_and(&matches))
}

fn root_cause(error: &(dyn StdError + 'static)) -> String {
    causes(error)
        .last()
        .map_or_else(String::new, ToString::to_string)
}

pub(crate) fn causes<'a>(
    error: &'a (dyn StdError + 'static),
) -> impl Iterator<Item = &'a (dyn StdError + 'static)> {
    std::iter::successors(Some(error), |error| (*error).source())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reason(code: Code, stream: bool) -> Reason {
        Failure::from_status(&Status::new(code, "said"), 10, stream).reason()
    }

    #[test]
    fn each_of_the_17_status_codes_has_its_reason() {
        let table = [
            (0, Reason::RpcError),
            (1, Reason::Cancelled),
            (2, Reason::RpcError),
            (3, Reason::InvalidArgs),
            (4, Reason::Timeout),
            (5, Reason::UnknownCommand),
            (6, Reason::RpcError),
            (7, Reason::Unauthenticated),
            (8, Reason::PoolSaturated),
            (9, Reason::RpcError),
            (10, Reason::RpcError),
            (11, Reason::RpcError),
            (12, Reason::RpcError),
            (13, Reason::RpcError),
            (14, Reason::GrpcUnavailable),
            (15, Reason::RpcError),
            (16, Reason::Unauthenticated),
        ];
        for (code, expected) in table {
            assert_eq!(reason(Code::from_i32(code), false), expected, "code {code}");
        }
        assert_eq!(
            reason(Code::Unimplemented, true),
            Reason::StreamingNotSupported
        );
    }

    #[test]
    fn a_message_over_the_limit_is_distinguished_from_other_exhaustion() {
        let server = Status::resource_exhausted("Received message larger than max (20 vs. 10)");
        let client = Status::out_of_range(
            "Error, decoded message length too large: found 20 bytes, the limit is: 10 bytes",
        );
        for status in [server, client] {
            let failure = Failure::from_status(&status, 10, false);
            assert_eq!(failure.reason(), Reason::MessageTooLarge);
            assert!(failure.to_string().contains(":max_message_size"));
            assert!(failure.to_string().contains("10 bytes"));
        }
    }

    #[test]
    fn a_broken_connection_is_a_crashed_worker() {
        let broken = std::io::Error::new(std::io::ErrorKind::BrokenPipe, "broken pipe");
        let failure = Failure::from_status(&Status::from_error(Box::new(broken)), 10, false);
        assert_eq!(failure.reason(), Reason::WorkerCrashed);
        assert!(failure.to_string().contains("broken pipe"));
    }

    #[test]
    fn a_replica_that_died_behind_a_proxy_is_a_crashed_worker() {
        let messages = [
            "The actor died unexpectedly before finishing this task.\n\tclass_name: ServeReplica:a:B",
            "The actor d621f9b5478286dcbcf82c8301000000 is unavailable: Actor is unavailable.. The task may or \
             may not have been executed on the actor.",
        ];
        for message in messages {
            let failure = Failure::from_status(&Status::internal(message), 10, false);
            assert_eq!(failure.reason(), Reason::WorkerCrashed, "{message}");
            assert!(!failure.to_string().contains('\n'), "{failure}");
        }
        let own = Status::internal("an error of the server's own");
        assert_eq!(
            Failure::from_status(&own, 10, false).reason(),
            Reason::RpcError
        );
        let other = Status::unknown(messages[0]);
        assert_eq!(
            Failure::from_status(&other, 10, false).reason(),
            Reason::RpcError
        );
    }

    #[test]
    fn a_pool_that_is_not_ready_says_how_far_it_is_and_what_to_do() {
        let unavailable = crate::pool::Unavailable {
            why: "no port".into(),
            no_grpc: false,
        };
        let startup = |starting, failed| Startup {
            remote: false,
            starting,
            size: 2,
            elapsed: Duration::from_millis(7_900),
            startup_timeout: Duration::from_millis(30_000),
            failed,
        };
        let text = Failure::NotReady(startup(2, None)).to_string();
        assert!(text.starts_with(
            "2 of 2 workers are still starting (7 s; :startup_timeout is 30 s); raise :timeout"
        ));
        let text = Failure::NotReady(startup(1, Some(unavailable.into()))).to_string();
        assert!(text.starts_with("1 of 2 workers is still starting (7 s;"));
        assert!(text.ends_with("; the last one that failed: no port"));
        let remote = Startup {
            remote: true,
            ..startup(2, None)
        };
        let text = Failure::NotReady(remote).to_string();
        assert!(
            text.starts_with(
                "2 of 2 endpoints are still connecting (7 s; :connect_timeout is 30 s);"
            )
        );
    }

    #[test]
    fn a_failure_says_whether_its_server_is_at_fault() {
        let lost = || Failure::WorkerCrashed("reset".into());
        let ended = || Failure::CallEnded("reset".into());
        let endpoint: Arc<str> = "tcp:far:1".into();
        let status = |code| Failure::from_status(&Status::new(code, "said"), 10, false);
        for (failure, fault) in [
            (lost(), Fault::ConnectionLost),
            (lost().at(Some(&endpoint)), Fault::ConnectionLost),
            (ended(), Fault::Failed),
            (ended().at(Some(&endpoint)), Fault::Failed),
            (status(Code::Unavailable), Fault::Failed),
            (status(Code::ResourceExhausted), Fault::None),
            (status(Code::Unauthenticated), Fault::Refused),
            (status(Code::DeadlineExceeded), Fault::Unknown),
            (Failure::from_reply("boom".into(), None), Fault::None),
            (Failure::Cancelled, Fault::Unknown),
        ] {
            assert_eq!(failure.fault(), fault, "{failure}");
        }
    }

    #[test]
    fn a_lost_endpoint_is_named() {
        let endpoint: Arc<str> = "tcp:far:1".into();
        let lost = Failure::WorkerCrashed("reset".into());
        assert!(lost.to_string().contains("is replaced"));
        let lost = lost.at(Some(&endpoint));
        assert_eq!(lost.reason(), Reason::WorkerCrashed);
        let text = lost.to_string();
        assert!(
            text.starts_with("the connection to the endpoint tcp:far:1 was lost"),
            "{text}"
        );
        let text = Failure::CallEnded("reset".into())
            .at(Some(&endpoint))
            .to_string();
        assert!(
            text.starts_with("the endpoint tcp:far:1 ended the call"),
            "{text}"
        );
    }

    #[test]
    fn a_server_may_say_that_it_has_lost_a_session() {
        let detail = ErrorDetail {
            reason: "session_lost".into(),
            message: "it has moved".into(),
            ..ErrorDetail::default()
        };
        let failure = Failure::from_reply(String::new(), Some(Box::new(detail)));
        assert_eq!(failure.reason(), Reason::SessionLost);
    }

    #[test]
    fn a_reply_with_text_alone_is_a_python_error() {
        let failure = Failure::from_reply("boom".into(), None);
        assert_eq!(failure.reason(), Reason::PythonError);
        assert_eq!(failure.to_string(), "boom");
    }

    #[test]
    fn a_commands_own_error_is_shown_by_its_code() {
        let text = |message: &str| {
            let detail = ErrorDetail {
                reason: "command_error".into(),
                r#type: "snakepit_bridge.CommandError".into(),
                code: "not_trained".into(),
                message: message.into(),
                ..ErrorDetail::default()
            };
            Failure::Remote(Box::new(detail)).to_string()
        };
        assert_eq!(text("call fit first"), "not_trained: call fit first");
        assert_eq!(text("not_trained"), "not_trained");
        assert_eq!(text(""), "not_trained");
    }

    #[test]
    fn an_unknown_remote_reason_is_a_python_error() {
        let detail = ErrorDetail {
            reason: "made_up".into(),
            ..ErrorDetail::default()
        };
        assert_eq!(
            Failure::from_reply(String::new(), Some(Box::new(detail))).reason(),
            Reason::PythonError
        );
    }
}
