//! The part of gRPC over HTTP/2 that a server of `proto/snakepit.proto` needs. It is not tonic's server
//! because that gives no access to what is fast here: many messages in one HTTP/2 frame, written by the
//! thread that produced them.

use crate::{secret, shutdown::Shutdown};
use bytes::Bytes;
use h2::{RecvStream, SendStream, server::SendResponse};
use http::{HeaderMap, HeaderValue, Request, Response, request::Parts};
use prost::Message;
use snakepit_proto::CarriesValues;
use snakepit_wire::{Deframer, FrameError, Io, Outgoing, SharedConnection};
use std::{
    future::poll_fn,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant},
};
use tokio_util::sync::CancellationToken;
use tonic::Status;

pub type ServerConnection = h2::server::Connection<Io, Bytes>;

/// An accepted RPC.
pub struct Rpc {
    pub head: Parts,
    pub body: RecvStream,
    respond: SendResponse<Bytes>,
    pub connection: Arc<SharedConnection<ServerConnection>>,
    /// Cancelled when the client must leave this connection.
    pub draining: CancellationToken,
    /// Cancelled when the server ends.
    pub end: CancellationToken,
    /// Whether the server takes further clients.
    pub takes_clients: bool,
    /// The client's address.
    pub peer: Arc<str>,
}

/// The client has gone away and needs no answer.
pub struct Gone;

impl Rpc {
    pub(crate) fn new(
        request: Request<RecvStream>,
        respond: SendResponse<Bytes>,
        connection: Arc<SharedConnection<ServerConnection>>,
        draining: CancellationToken,
        shutdown: &Shutdown,
        peer: Arc<str>,
    ) -> Self {
        let (head, body) = request.into_parts();
        Self {
            head,
            body,
            respond,
            connection,
            draining,
            end: shutdown.end.clone(),
            takes_clients: !shutdown.draining.is_cancelled(),
            peer,
        }
    }

    /// Reads the single message of a request.
    pub async fn message<M: Message + Default>(&mut self, limit: usize) -> Result<M, Status> {
        let mut deframer = Deframer::new(limit);
        while let Some(data) = self.body.data().await {
            let data = data.map_err(|error| Status::internal(error.to_string()))?;
            let _ = self.body.flow_control().release_capacity(data.len());
            deframer.push(data);
            if let Some(message) = deframer.next().map_err(|error| unreadable(&error))? {
                return Ok(message);
            }
        }
        Err(Status::invalid_argument(
            "expected one message in the request, got none",
        ))
    }

    /// Answers with one message.
    pub fn answer(&mut self, message: &impl Message) {
        let mut out = Outgoing::default();
        out.append(message);
        self.answer_with(out);
    }

    /// As `answer`; large values are not copied.
    pub fn answer_in_parts(&mut self, message: &mut impl CarriesValues) {
        let mut out = Outgoing::default();
        out.append_in_parts(message.encoded_len(), |parts, rest| {
            message.encode_in_parts(parts, rest);
        });
        self.answer_with(out);
    }

    fn answer_with(&mut self, mut out: Outgoing) {
        if let Ok(mut stream) = self.begin() {
            out.take()
                .send(|frame| drop(stream.send_data(frame, false)));
            end(&mut stream, None);
        }
    }

    /// Begins to answer with a stream of messages.
    pub fn begin(&mut self) -> Result<SendStream<Bytes>, Gone> {
        self.respond
            .send_response(response(), false)
            .map_err(|_| Gone)
    }

    pub fn fail(&mut self, status: &Status) {
        let mut response = response();
        response.headers_mut().extend(trailers(status));
        // The client may be gone.
        let _ = self.respond.send_response(response, true);
    }

    /// Returns once the client has cancelled the RPC, which has no answer yet.
    pub async fn given_up(&mut self) {
        let _ = poll_fn(|cx: &mut Context<'_>| self.respond.poll_reset(cx)).await;
    }

    /// The deadline that the header `grpc-timeout` sets.
    pub fn deadline(&self) -> Option<Instant> {
        let text = self.head.headers.get("grpc-timeout")?.to_str().ok()?;
        Instant::now().checked_add(timeout(text)?)
    }

    /// The text metadata, without the headers of HTTP and gRPC and without the secret.
    pub(crate) fn metadata(&self) -> impl Iterator<Item = (String, String)> {
        let headers = self.head.headers.iter().filter(|(name, _)| {
            let text = name.as_str();
            **name != secret::HEADER
                && !matches!(text, "te" | "content-type")
                && !text.starts_with("grpc-")
                && !text.ends_with("-bin")
        });
        headers
            .filter_map(|(name, value)| Some((name.to_string(), value.to_str().ok()?.to_owned())))
    }
}

fn response() -> Response<()> {
    let mut response = Response::new(());
    response.headers_mut().insert(
        http::header::CONTENT_TYPE,
        HeaderValue::from_static("application/grpc"),
    );
    response
}

pub fn trailers(status: &Status) -> HeaderMap {
    let mut trailers = HeaderMap::new();
    // Only metadata can be invalid, and no status here has any.
    let _ = status.add_header(&mut trailers);
    trailers
}

/// Ends a stream of messages: with `status`, or successfully.
pub fn end(stream: &mut SendStream<Bytes>, status: Option<&Status>) {
    let trailers = status.map_or_else(
        || HeaderMap::from_iter([(Status::GRPC_STATUS, HeaderValue::from_static("0"))]),
        trailers,
    );
    let _ = stream.send_trailers(trailers);
}

/// Returns once the client has cancelled the RPC of an open stream.
pub(crate) async fn is_reset(stream: &mut SendStream<Bytes>) {
    let _ = poll_fn(|cx| stream.poll_reset(cx)).await;
}

/// Sends as fast as the client reads.
pub(crate) async fn send(stream: &mut SendStream<Bytes>, mut bytes: Bytes) -> Result<(), Gone> {
    while !bytes.is_empty() {
        stream.reserve_capacity(bytes.len());
        let room = poll_fn(|cx| match stream.poll_reset(cx) {
            Poll::Ready(_) => Poll::Ready(Err(Gone)),
            Poll::Pending => loop {
                match stream.poll_capacity(cx) {
                    // The capacity has changed and is still 0.
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

pub fn unreadable(error: &FrameError) -> Status {
    match error {
        FrameError::Compressed => Status::unimplemented(error.to_string()),
        FrameError::Undecodable(_) => Status::invalid_argument(error.to_string()),
        // grpcio's words.
        FrameError::TooLarge { size, limit } => Status::resource_exhausted(format!(
            "Received message larger than max ({size} vs. {limit}); raise max_message_size"
        )),
    }
}

fn timeout(text: &str) -> Option<Duration> {
    let (number, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let number: u64 = number.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(number.saturating_mul(3600)),
        "M" => Duration::from_secs(number.saturating_mul(60)),
        "S" => Duration::from_secs(number),
        "m" => Duration::from_millis(number),
        "u" => Duration::from_micros(number),
        "n" => Duration::from_nanos(number),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_timeout_is_a_number_and_a_unit() {
        for (text, expected) in [
            ("2H", Some(Duration::from_secs(7200))),
            ("3M", Some(Duration::from_secs(180))),
            ("4S", Some(Duration::from_secs(4))),
            ("5m", Some(Duration::from_millis(5))),
            ("6u", Some(Duration::from_micros(6))),
            ("7n", Some(Duration::from_nanos(7))),
            ("7", None),
            ("m", None),
            ("", None),
            ("-1S", None),
            ("1é", None),
            ("99999999999999999999S", None),
        ] {
            assert_eq!(timeout(text), expected, "{text}");
        }
    }

    #[test]
    fn a_status_is_sent_as_a_number_and_an_escaped_message() {
        let trailers = trailers(&Status::unimplemented("there is no method /é"));
        assert_eq!(trailers["grpc-status"], "12");
        assert_eq!(
            trailers["grpc-message"],
            "there%20is%20no%20method%20/%C3%A9"
        );
        let status = Status::from_header_map(&trailers).unwrap();
        assert_eq!(status.message(), "there is no method /é");
    }
}
