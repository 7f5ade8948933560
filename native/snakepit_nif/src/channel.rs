//! One HTTP/2 connection to one server, driven by hyper: a worker's channel lives exactly as long
//! as the worker, so nothing reconnects, buffers or balances.

use crate::failure::Failure;
use http::{HeaderName, HeaderValue, Request, Response, Uri};
use hyper::{body::Incoming, client::conn::http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use snakepit_proto::snakepit_bridge_client::SnakepitBridgeClient;
use std::{
    task::{Context, Poll},
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, UnixStream},
    time::timeout_at,
};
use tokio_util::sync::CancellationToken;
use tonic::body::Body;
use tower_service::Service;

/// What a server may send ahead of a consumer that does not read, per stream.
const STREAM_WINDOW: u32 = 256 * 1024;
/// Wide enough that paused streams never hold up the others: a promise, not a buffer.
const CONNECTION_WINDOW: u32 = 1 << 30;
const MAX_FRAME_SIZE: u32 = 256 * 1024;
static SECRET: HeaderName = HeaderName::from_static("x-snakepit-secret");

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Address {
    Unix(String),
    Tcp(String),
}

impl Address {
    /// `unix:/path` or `tcp:host:port`.
    pub(crate) fn parse(text: &str) -> Result<Self, Failure> {
        match text.split_once(':') {
            Some(("unix", path)) if !path.is_empty() => Ok(Self::Unix(path.into())),
            Some(("tcp", host)) if host.contains(':') => Ok(Self::Tcp(host.into())),
            _ => Err(Failure::InvalidArgs(format!(
                "{text:?} is no address; write \"unix:/path/to/socket\" or \"tcp:host:port\""
            ))),
        }
    }
}

#[derive(Clone)]
pub(crate) struct Channel {
    pub(crate) client: SnakepitBridgeClient<Connection>,
    pub(crate) max_message_size: usize,
    pub(crate) closed: CancellationToken,
}

impl Channel {
    pub(crate) async fn connect(
        address: &Address,
        secret: Option<&str>,
        max_message_size: usize,
        deadline: Instant,
    ) -> Result<Self, Failure> {
        let unreachable = |cause: String| Failure::Unreachable {
            address: match address {
                Address::Unix(path) => format!("unix:{path}"),
                Address::Tcp(host) => format!("tcp:{host}"),
            },
            cause,
        };
        let secret = secret
            .map(HeaderValue::from_str)
            .transpose()
            .map_err(|_| Failure::InvalidArgs("the secret must be visible ASCII".into()))?;
        let connecting = async {
            match address {
                Address::Unix(path) => handshake(UnixStream::connect(path).await?, secret).await,
                Address::Tcp(host) => {
                    let stream = TcpStream::connect(host).await?;
                    stream.set_nodelay(true)?;
                    handshake(stream, secret).await
                }
            }
        };
        let (connection, closed) = timeout_at(deadline.into(), connecting)
            .await
            .map_err(|_| unreachable("it did not answer in time".into()))?
            .map_err(|error| unreachable(error.to_string()))?;
        Ok(Self {
            client: SnakepitBridgeClient::with_origin(
                connection,
                Uri::from_static("http://localhost"),
            )
            .max_decoding_message_size(max_message_size)
            .max_encoding_message_size(max_message_size),
            max_message_size,
            closed,
        })
    }

    /// A request that the server gives up on its own after `timeout`, sent as `grpc-timeout`.
    pub(crate) fn request<T>(message: T, timeout: Option<Duration>) -> tonic::Request<T> {
        let mut request = tonic::Request::new(message);
        if let Some(timeout) = timeout {
            request.set_timeout(timeout);
        }
        request
    }
}

async fn handshake<S>(
    stream: S,
    secret: Option<HeaderValue>,
) -> std::io::Result<(Connection, CancellationToken)>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (sender, driver) = http2::Builder::new(TokioExecutor::new())
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(MAX_FRAME_SIZE)
        // What is on its way when a stream is cancelled comes in for a stream that is closed. h2 would
        // take the thousandth such frame for an attack, and give up the connection.
        .max_local_error_reset_streams(None)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(std::io::Error::other)?;
    let closed = CancellationToken::new();
    let guard = closed.clone().drop_guard();
    tokio::spawn(async move {
        let _guard = guard;
        // How the connection ended reaches each of its calls on its own.
        let _ = driver.await;
    });
    Ok((Connection { sender, secret }, closed))
}

#[derive(Clone)]
pub(crate) struct Connection {
    sender: http2::SendRequest<Body>,
    secret: Option<HeaderValue>,
}

impl Service<Request<Body>> for Connection {
    type Response = Response<Incoming>;
    type Error = hyper::Error;
    type Future =
        std::pin::Pin<Box<dyn Future<Output = Result<Response<Incoming>, hyper::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.sender.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        if let Some(secret) = &self.secret {
            request.headers_mut().insert(SECRET.clone(), secret.clone());
        }
        Box::pin(self.sender.send_request(request))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_and_others_refused_with_the_form_that_is_wanted() {
        assert_eq!(
            Address::parse("unix:/tmp/a:b").ok(),
            Some(Address::Unix("/tmp/a:b".into()))
        );
        assert_eq!(
            Address::parse("tcp:127.0.0.1:50051").ok(),
            Some(Address::Tcp("127.0.0.1:50051".into()))
        );
        for text in ["", "unix:", "tcp:localhost", "http://localhost:1"] {
            let failure = Address::parse(text).err().map(|f| f.to_string());
            assert!(failure.is_some_and(|message| message.contains("unix:/path")));
        }
    }
}
