//! A server's RPCs on one HTTP/2 connection, which hyper drives. Nothing here reconnects, buffers or
//! balances.

use crate::{error::Failure, keepalive::Keepalive, target::Target};
use http::{HeaderMap, Request, Response, Uri};
use hyper::{body::Incoming, client::conn::http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use snakepit_proto::snakepit_bridge_client::SnakepitBridgeClient;
use snakepit_wire::{Io, IoState, MAX_HEADER_LIST};
use std::{
    sync::{Arc, OnceLock, Weak},
    task::{Context, Poll},
    time::Duration,
};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tonic::body::Body;
use tower_service::Service;

/// How many bytes a server may send on a stream before the consumer reads them.
const STREAM_WINDOW: u32 = 256 * 1024;
/// So large that paused streams never block the others. Nothing is allocated for it.
pub(crate) const CONNECTION_WINDOW: u32 = 1 << 30;
const MAX_FRAME_SIZE: u32 = 256 * 1024;
/// How long after its last streams a lost connection may end, which then says why it was lost.
const ENDS_WITHIN: Duration = Duration::from_secs(1);

#[derive(Clone)]
pub struct Channel {
    pub client: SnakepitBridgeClient<HttpConnection>,
    pub max_message_size: usize,
    /// Cancelled once the connection accepts no further calls. Calls that already run on it may finish.
    pub closed: CancellationToken,
    /// Does not keep it open.
    io: Weak<IoState>,
    /// `None` if no pings are sent.
    cause: Option<Arc<Cause>>,
}

/// Why a connection was lost, if pings have to do with it.
#[derive(Default)]
struct Cause {
    text: OnceLock<String>,
    /// Cancelled once it is known, or will not be.
    decided: CancellationToken,
}

impl Channel {
    pub async fn connect(target: &Target) -> Result<Self, Failure> {
        let metadata = target.metadata()?;
        let keepalive = target.keepalive.clone();
        let cause = keepalive.is_some().then(Arc::<Cause>::default);
        let pings = keepalive.zip(cause.clone());
        let connecting = async {
            let (stream, io) = target.open().await?;
            let (connection, closed) = handshake(stream, metadata, pings).await?;
            Ok((connection, closed, Arc::downgrade(&io)))
        };
        let (connection, closed, io) = target.in_time(connecting).await?;
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
            io,
            cause,
        })
    }

    /// Ends the connection, and what runs on it.
    pub fn close(&self) {
        if let Some(io) = self.io.upgrade() {
            io.set_ended();
        }
    }

    /// Names in a failure that the loss of the connection has caused why it was lost, if that is known.
    pub async fn explain(&self, failure: Failure) -> Failure {
        let Some(cause) = self.cause.as_ref().filter(|_| failure.is_lost_connection()) else {
            return failure;
        };
        // Ignored: then the cause stays unknown.
        let _ = timeout(ENDS_WITHIN, cause.decided.cancelled()).await;
        let text = cause.text.get().cloned();
        text.map_or(failure, Failure::WorkerCrashed)
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
    pings: Option<(Arc<Keepalive>, Arc<Cause>)>,
) -> std::io::Result<(HttpConnection, CancellationToken)> {
    let mut builder = http2::Builder::new(TokioExecutor::new());
    if let Some((keepalive, _)) = &pings {
        builder
            .timer(TokioTimer::new())
            .keep_alive_interval(keepalive.interval())
            .keep_alive_timeout(keepalive.timeout());
    }
    let (sender, driver) = builder
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
    tokio::spawn(async move {
        let _guard = guard;
        // Each call gets the error of the connection on its own.
        let ended = driver.await;
        if let Some((keepalive, cause)) = pings {
            if let Some(text) = ended.err().and_then(|error| keepalive.cause(&error)) {
                let _ = cause.text.set(text);
            }
            cause.decided.cancel();
        }
    });
    Ok((HttpConnection { sender, metadata }, closed))
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
    use std::sync::atomic::{AtomicU32, Ordering};
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
            timeout: Duration::from_secs(60),
            calls: true,
            takes_draining: true,
            keepalive: None,
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
