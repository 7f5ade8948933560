//! The `Calls` RPC, which carries unary calls as frames. It has an HTTP/2 connection of its own, to which
//! any thread may write.

use crate::{channel::CONNECTION_WINDOW, error::Failure, target::Target};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Uri};
use snakepit_wire::{
    BatchingSender, Connection as _, Io, MAX_FRAME_SIZE, MAX_HEADER_LIST, SharedConnection,
};
use std::{future::poll_fn, io, sync::Arc};

const CALLS: &str = "http://localhost/snakepit.SnakepitBridge/Calls";

pub type ClientConnection = h2::client::Connection<Io, Bytes>;

/// An open RPC.
pub struct CallsRpc {
    pub connection: Arc<SharedConnection<ClientConnection>>,
    pub sender: BatchingSender<ClientConnection>,
    pub body: h2::RecvStream,
}

impl CallsRpc {
    /// Opens the RPC. Returns `None` if the server does not implement it.
    pub async fn open(target: &Target) -> Result<Option<Self>, Failure> {
        let metadata = target.metadata()?;
        target.in_time(Self::begin(target, metadata)).await
    }

    async fn begin(target: &Target, metadata: HeaderMap) -> io::Result<Option<Self>> {
        let (socket, io) = target.open().await?;
        let (sender, connection) = h2::client::Builder::new()
            // Replies are read as they arrive, and the calls bound how many there are.
            .initial_window_size(CONNECTION_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_frame_size(MAX_FRAME_SIZE)
            .max_header_list_size(MAX_HEADER_LIST)
            .handshake(socket)
            .await
            .map_err(io::Error::other)?;
        let connection = SharedConnection::new(connection, io);
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
        let mut sender = sender.ready().await.map_err(io::Error::other)?;
        let (response, stream) = sender
            .send_request(request, false)
            .map_err(io::Error::other)?;
        let ended =
            poll_fn(|cx| connection.poll(cx.waker(), |connection, cx| connection.poll_io(cx)));
        let response = tokio::select! {
            biased;
            _ = ended => return Err(io::Error::other("the connection was closed")),
            response = response => response.map_err(io::Error::other)?,
        };
        // A status without a body is a refusal.
        if response.headers().contains_key("grpc-status") {
            return Ok(None);
        }
        Ok(Some(Self {
            sender: BatchingSender::new(connection.clone(), stream),
            connection,
            body: response.into_body(),
        }))
    }
}
