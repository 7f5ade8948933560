//! A server's RPCs on one HTTP/2 connection, which hyper drives. Nothing here reconnects, buffers or
//! balances.

use crate::{error::Failure, target::Target};
use http::{HeaderMap, Request, Response, Uri};
use hyper::{body::Incoming, client::conn::http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use snakepit_proto::snakepit_bridge_client::SnakepitBridgeClient;
use snakepit_wire::{Io, MAX_HEADER_LIST};
use std::{
    task::{Context, Poll},
    time::Duration,
};
use tokio_util::sync::CancellationToken;
use tonic::body::Body;
use tower_service::Service;

/// How many bytes a server may send on a stream before the consumer reads them.
const STREAM_WINDOW: u32 = 256 * 1024;
/// So large that paused streams never block the others. Nothing is allocated for it.
pub(crate) const CONNECTION_WINDOW: u32 = 1 << 30;
const MAX_FRAME_SIZE: u32 = 256 * 1024;

#[derive(Clone)]
pub struct Channel {
    pub client: SnakepitBridgeClient<HttpConnection>,
    pub max_message_size: usize,
    /// Cancelled once the connection accepts no further calls. Calls that already run on it may finish.
    pub closed: CancellationToken,
    /// Ends the connection at once when it is cancelled.
    pub(crate) end: CancellationToken,
}

impl Channel {
    pub async fn connect(target: &Target) -> Result<Self, Failure> {
        let metadata = target.metadata()?;
        let connecting = async { handshake(target.open().await?.0, metadata).await };
        let (connection, closed, end) = target.in_time(connecting).await?;
        let max_message_size = target.max_message_size;
        Ok(Self {
            client: SnakepitBridgeClient::with_origin(
                connection,
                Uri::from_static("http://localhost"),
            )
            .max_decoding_message_size(max_message_size)
            .max_encoding_message_size(max_message_size),
            max_message_size,
            closed,
            end,
        })
    }

    /// Makes a request whose `timeout`, sent as `grpc-timeout`, the server enforces as well.
    pub fn request<T>(message: T, timeout: Option<Duration>) -> tonic::Request<T> {
        let mut request = tonic::Request::new(message);
        if let Some(timeout) = timeout {
            request.set_timeout(timeout);
        }
        request
    }
}

async fn handshake(
    stream: Io,
    metadata: HeaderMap,
) -> std::io::Result<(HttpConnection, CancellationToken, CancellationToken)> {
    let (sender, driver) = http2::Builder::new(TokioExecutor::new())
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(MAX_FRAME_SIZE)
        .max_header_list_size(MAX_HEADER_LIST)
        // Frames that are under way when a stream is cancelled arrive for a closed stream. By default h2
        // takes a thousand of them for an attack and closes the connection.
        .max_local_error_reset_streams(None)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(std::io::Error::other)?;
    let closed = CancellationToken::new();
    let guard = closed.clone().drop_guard();
    let end = CancellationToken::new();
    let ended = end.clone();
    tokio::spawn(async move {
        let _guard = guard;
        // Each call gets the error of the connection on its own.
        tokio::select! {
            _ = driver => {}
            () = ended.cancelled() => {}
        }
    });
    Ok((HttpConnection { sender, metadata }, closed, end))
}

#[derive(Clone)]
pub struct HttpConnection {
    sender: http2::SendRequest<Body>,
    metadata: HeaderMap,
}

impl Service<Request<Body>> for HttpConnection {
    type Response = Response<Incoming>;
    type Error = hyper::Error;
    type Future =
        std::pin::Pin<Box<dyn Future<Output = Result<Response<Incoming>, hyper::Error>> + Send>>;

    /// Always ready: tonic drops an error that is returned here, so `call` returns it.
    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let headers = request.headers_mut();
        for (name, value) in &self.metadata {
            headers.entry(name).or_insert_with(|| value.clone());
        }
        Box::pin(self.sender.send_request(request))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use bytes::Bytes;
    use h2::{Reason, server};
    use snakepit_proto::ExecuteRequest;
    use snakepit_wire::Address;
    use std::{
        sync::atomic::{AtomicU32, Ordering},
        time::Instant,
    };
    use tokio::net::{UnixListener, UnixStream};

    type ServerConnection = server::Connection<UnixStream, Bytes>;

    /// The failure of a call on a connection that `serve` serves.
    async fn failure<S: Future<Output = ()> + Send + 'static>(
        serve: impl FnOnce(ServerConnection) -> S + Send + 'static,
    ) -> Failure {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("snakepit-channel-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        let listener = UnixListener::bind(&path).unwrap();
        tokio::spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            serve(server::handshake(stream).await.unwrap()).await;
        });
        let target = Target {
            address: Address::Unix(path.clone()),
            secret: None,
            headers: HeaderMap::new(),
            tls: None,
            max_message_size: 1024,
            journal: None,
            deadline: Instant::now() + Duration::from_secs(60),
        };
        let channel = Channel::connect(&target).await.unwrap();
        std::fs::remove_file(&path).unwrap();
        let mut client = channel.client.clone();
        let status = client.execute(ExecuteRequest::default()).await.unwrap_err();
        Failure::from_unanswered(&status, 1024, false)
    }

    #[tokio::test]
    async fn a_refused_call_has_not_started() {
        let failure = failure(|mut connection| async move {
            let (_request, mut respond) = connection.accept().await.unwrap().unwrap();
            respond.send_reset(Reason::REFUSED_STREAM);
            while connection.accept().await.is_some() {}
        });
        assert!(matches!(
            failure.await,
            Failure::NotStarted { refused: true, .. }
        ));
    }

    #[tokio::test]
    async fn a_call_that_a_connection_no_longer_accepts_has_not_started() {
        let failure = failure(|mut connection| async move {
            connection.abrupt_shutdown(Reason::NO_ERROR);
            while connection.accept().await.is_some() {}
        });
        assert!(matches!(
            failure.await,
            Failure::NotStarted { refused: false, .. }
        ));
    }

    #[tokio::test]
    async fn a_call_that_a_server_took_and_did_not_answer_may_have_run() {
        let failure = failure(|mut connection| async move {
            let (mut request, _respond) = connection.accept().await.unwrap().unwrap();
            while let Some(Ok(_)) = request.body_mut().data().await {}
        });
        assert!(matches!(failure.await, Failure::WorkerCrashed(_)));
    }

    #[tokio::test]
    async fn a_call_that_a_server_resets_otherwise_may_have_run() {
        let failure = failure(|mut connection| async move {
            let (_request, mut respond) = connection.accept().await.unwrap().unwrap();
            respond.send_reset(Reason::CANCEL);
            while connection.accept().await.is_some() {}
        });
        assert!(matches!(failure.await, Failure::Status { .. }));
    }
}
