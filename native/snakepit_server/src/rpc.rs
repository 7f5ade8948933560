//! gRPC on one HTTP/2 stream, as little of it as a server of `proto/snakepit.proto` needs. What is hot
//! here (many messages in one frame, written by the thread that has them) is below what tonic's
//! server lets one reach; the rest is little.

use bytes::{Bytes, BytesMut};
use h2::{RecvStream, SendStream, server::SendResponse};
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, request::Parts};
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
use prost::Message;
use snakepit_wire::{Deframer, Driven, FrameError, Io, Socket, append};
use std::{
    future::poll_fn,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant},
};
use tokio_util::sync::CancellationToken;

/// What `grpc-message` escapes.
const ESCAPED: &AsciiSet = &CONTROLS.add(b'%').add(b' ');

pub const INVALID_ARGUMENT: u8 = 3;
pub const DEADLINE_EXCEEDED: u8 = 4;
pub const RESOURCE_EXHAUSTED: u8 = 8;
pub const UNIMPLEMENTED: u8 = 12;
pub const INTERNAL: u8 = 13;
pub const UNAUTHENTICATED: u8 = 16;

pub type ServerConnection = h2::server::Connection<Io<Socket>, Bytes>;

/// One RPC, as it was accepted.
pub struct Rpc {
    pub head: Parts,
    pub body: RecvStream,
    pub respond: SendResponse<Bytes>,
    pub driven: Arc<Driven<ServerConnection>>,
    /// The server ends.
    pub end: CancellationToken,
}

#[derive(Debug)]
pub struct Status {
    code: u8,
    message: String,
}

impl Status {
    pub fn new(code: u8, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
        }
    }

    pub fn trailers(&self) -> HeaderMap {
        let mut trailers = HeaderMap::new();
        self.write(&mut trailers);
        trailers
    }

    fn write(&self, headers: &mut HeaderMap) {
        headers.insert("grpc-status", HeaderValue::from(u16::from(self.code)));
        let message = utf8_percent_encode(&self.message, ESCAPED).to_string();
        if !message.is_empty()
            && let Ok(message) = HeaderValue::from_str(&message)
        {
            headers.insert("grpc-message", message);
        }
    }
}

/// Why an RPC is not answered: its client is gone.
pub struct Gone;

fn head() -> Response<()> {
    let mut head = Response::new(());
    *head.status_mut() = StatusCode::OK;
    head.headers_mut().insert(
        http::header::CONTENT_TYPE,
        HeaderValue::from_static("application/grpc"),
    );
    head
}

pub fn fail(respond: &mut SendResponse<Bytes>, status: &Status) {
    let mut head = head();
    status.write(head.headers_mut());
    // A client that is gone needs no status.
    let _ = respond.send_response(head, true);
}

pub fn answer(respond: &mut SendResponse<Bytes>, message: &impl Message) {
    let mut out = BytesMut::new();
    append(&mut out, message);
    if let Ok(mut stream) = respond.send_response(head(), false) {
        let _ = stream.send_data(out.freeze(), false);
        end(&mut stream, None);
    }
}

pub fn begin(respond: &mut SendResponse<Bytes>) -> Result<SendStream<Bytes>, Gone> {
    respond.send_response(head(), false).map_err(|_| Gone)
}

pub fn end(stream: &mut SendStream<Bytes>, status: Option<&Status>) {
    let trailers = status.unwrap_or(&Status::new(0, "")).trailers();
    let _ = stream.send_trailers(trailers);
}

/// Sends at the pace at which the client takes it.
pub async fn send(stream: &mut SendStream<Bytes>, mut bytes: Bytes) -> Result<(), Gone> {
    while !bytes.is_empty() {
        stream.reserve_capacity(bytes.len());
        let room = poll_fn(|cx| match stream.poll_reset(cx) {
            Poll::Ready(_) => Poll::Ready(Err(Gone)),
            Poll::Pending => loop {
                match stream.poll_capacity(cx) {
                    // It has changed, and there is still none.
                    Poll::Ready(Some(Ok(0))) => {}
                    Poll::Ready(Some(Ok(room))) => break Poll::Ready(Ok(room)),
                    Poll::Ready(_) => break Poll::Ready(Err(Gone)),
                    Poll::Pending => break Poll::Pending,
                }
            },
        })
        .await?;
        let part = bytes.split_to(room.min(bytes.len()));
        stream.send_data(part, false).map_err(|_| Gone)?;
    }
    Ok(())
}

/// Ready once the client has given the RPC up.
pub async fn reset(respond: &mut SendResponse<Bytes>) {
    let _ = poll_fn(|cx: &mut Context<'_>| respond.poll_reset(cx)).await;
}

/// The one message of a request.
pub async fn message<M: Message + Default>(
    body: &mut RecvStream,
    limit: usize,
) -> Result<M, Status> {
    let mut deframer = Deframer::new(limit);
    while let Some(data) = body.data().await {
        let data = data.map_err(|error| Status::new(INTERNAL, error.to_string()))?;
        let _ = body.flow_control().release_capacity(data.len());
        deframer.push(data);
        if let Some(message) = deframer.next().map_err(|error| unreadable(&error))? {
            return M::decode(message)
                .map_err(|error| Status::new(INVALID_ARGUMENT, format!("no request: {error}")));
        }
    }
    Err(Status::new(INVALID_ARGUMENT, "the request has no message"))
}

pub fn unreadable(error: &FrameError) -> Status {
    match error {
        FrameError::Compressed => Status::new(UNIMPLEMENTED, error.to_string()),
        // As grpcio says it.
        FrameError::TooLarge { size, limit } => Status::new(
            RESOURCE_EXHAUSTED,
            format!(
                "Received message larger than max ({size} vs. {limit}); raise max_message_size"
            ),
        ),
    }
}

/// What is left of the deadline that `grpc-timeout` gives.
pub fn deadline(head: &Parts) -> Option<Instant> {
    let text = head.headers.get("grpc-timeout")?.to_str().ok()?;
    let (number, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let number: u64 = number.parse().ok()?;
    let left = match unit {
        "H" => Duration::from_secs(number.saturating_mul(3600)),
        "M" => Duration::from_secs(number.saturating_mul(60)),
        "S" => Duration::from_secs(number),
        "m" => Duration::from_millis(number),
        "u" => Duration::from_micros(number),
        "n" => Duration::from_nanos(number),
        _ => return None,
    };
    Instant::now().checked_add(left)
}

/// The text metadata of a request, without what belongs to HTTP and gRPC, and without `secret`.
pub fn metadata(head: &Parts, secret: &HeaderName) -> Vec<(String, String)> {
    head.headers
        .iter()
        .filter(|(name, _)| {
            let text = name.as_str();
            *name != secret
                && !matches!(text, "te" | "content-type")
                && !text.starts_with("grpc-")
                && !text.ends_with("-bin")
        })
        .filter_map(|(name, value)| Some((name.to_string(), value.to_str().ok()?.to_owned())))
        .collect()
}
