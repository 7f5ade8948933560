//! The `Calls` RPC, which carries unary calls as frames. It has an HTTP/2 connection of its own, to which
//! any thread may write.

use crate::{channel::CONNECTION_WINDOW, error::Failure, target::Target};
use bytes::Bytes;
use h2::{PingPong, client::ResponseFuture};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, Uri};
use snakepit_wire::{
    BatchingSender, Connection as _, Io, MAX_FRAME_SIZE, MAX_HEADER_LIST, SharedConnection,
    TAKES_DRAINING_HEADER,
};
use std::{future::poll_fn, io, sync::Arc};
use tonic::{Code, Status};

const CALLS: &str = "http://localhost/snakepit.SnakepitBridge/Calls";

pub type ClientConnection = h2::client::Connection<Io, Bytes>;

/// An open RPC.
pub struct CallsRpc {
    pub connection: Arc<SharedConnection<ClientConnection>>,
    pub sender: BatchingSender<ClientConnection>,
    pub body: h2::RecvStream,
    /// Unless nothing asks a silent server.
    pub ping_pong: Option<PingPong>,
}

/// An RPC that waits for the server's headers.
struct Opening {
    connection: Arc<SharedConnection<ClientConnection>>,
    sender: BatchingSender<ClientConnection>,
    response: ResponseFuture,
    ping_pong: Option<PingPong>,
}

impl CallsRpc {
    /// Opens the RPC. Returns `None` if the server does not implement it. There is no limit for the server's headers:
    /// grpcio's servers send them with the first message.
    pub async fn open(target: &Target) -> Result<Option<Self>, Failure> {
        let metadata = target.metadata()?;
        let opening = target.in_time(Opening::begin(target, metadata)).await?;
        let opened = opening.opened().await;
        opened.map_err(|error| target.unreachable(error.to_string()))
    }
}

impl Opening {
    async fn begin(target: &Target, metadata: HeaderMap) -> io::Result<Self> {
        let (socket, io) = target.open().await?;
        let (sender, mut connection) = h2::client::Builder::new()
            // Replies are read as they arrive, and the calls bound how many there are.
            .initial_window_size(CONNECTION_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_frame_size(MAX_FRAME_SIZE)
            .max_header_list_size(MAX_HEADER_LIST)
            .handshake(socket)
            .await
            .map_err(io::Error::other)?;
        let ping_pong = target.keepalive.as_ref().and(connection.ping_pong());
        let connection = SharedConnection::new(connection, io, None);
        let mut request = Request::new(());
        *request.method_mut() = http::Method::POST;
        *request.uri_mut() = Uri::from_static(CALLS);
        let headers = request.headers_mut();
        *headers = metadata;
        headers.insert("te", HeaderValue::from_static("trailers"));
        headers.insert(
            http::header::CONTENT_TYPE,
            HeaderValue::from_static("application/grpc"),
        );
        if target.takes_draining {
            headers.insert(TAKES_DRAINING_HEADER, HeaderValue::from_static("1"));
        }
        let mut sender = sender.ready().await.map_err(io::Error::other)?;
        let (response, stream) = sender
            .send_request(request, false)
            .map_err(io::Error::other)?;
        Ok(Self {
            sender: BatchingSender::new(connection.clone(), stream),
            connection,
            response,
            ping_pong,
        })
    }

    async fn opened(self) -> io::Result<Option<CallsRpc>> {
        let Self {
            connection,
            sender,
            response,
            ping_pong,
        } = self;
        let ended =
            poll_fn(|cx| connection.poll(cx.waker(), |connection, cx| connection.poll_io(cx)));
        let response = tokio::select! {
            biased;
            _ = ended => return Err(io::Error::other("the connection was closed")),
            response = response => response.map_err(io::Error::other)?,
        };
        let opened = is_open(&response)?;
        Ok(opened.then(|| CallsRpc {
            connection,
            sender,
            body: response.into_body(),
            ping_pong,
        }))
    }
}

/// Whether the server has opened the RPC. An error if it may do so later, as a balancer without a server.
fn is_open<T>(response: &Response<T>) -> io::Result<bool> {
    let later = |what: String| Err(io::Error::other(format!("the server answered with {what}")));
    match response.status() {
        StatusCode::OK => {}
        // As gRPC reads it.
        StatusCode::NOT_FOUND => return Ok(false),
        status => return later(format!("the HTTP status {status}")),
    }
    // A status without a body is a refusal.
    match response.headers().get(Status::GRPC_STATUS) {
        None => Ok(true),
        Some(status) => match Code::from_bytes(status.as_bytes()) {
            code @ (Code::Unavailable | Code::ResourceExhausted) => later(format!("{code:?}")),
            _ => Ok(false),
        },
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn response(status: u16, grpc_status: Option<&str>) -> Response<()> {
        let response = Response::builder().status(status);
        let response = match grpc_status {
            Some(code) => response.header("grpc-status", code),
            None => response,
        };
        response.body(()).unwrap()
    }

    #[test]
    fn only_headers_without_a_status_open_the_rpc() {
        assert!(is_open(&response(200, None)).unwrap());
        for refused in ["12", "16", "7", "0", "no number"] {
            assert!(
                !is_open(&response(200, Some(refused))).unwrap(),
                "{refused}"
            );
        }
        assert!(!is_open(&response(404, None)).unwrap());
    }

    #[test]
    fn a_server_that_is_not_available_now_is_asked_again() {
        for (status, grpc_status) in [
            (503, None),
            (502, None),
            (200, Some("14")),
            (200, Some("8")),
        ] {
            assert!(is_open(&response(status, grpc_status)).is_err(), "{status}");
        }
    }
}
