//! A server's RPCs on one HTTP/2 connection, which hyper drives. Nothing here reconnects, buffers or
//! balances.

use crate::{
    cancellable_body::{CancellableBody, ResetOn},
    error::{Failure, HTTP_STATUS, causes},
    keepalive::Keepalive,
    target::Target,
};
use http::{HeaderMap, Request, Response, StatusCode, Uri};
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
use tonic::{Code, Status, body::Body};
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
    pub(crate) connection: HttpConnection,
    pub max_message_size: usize,
    /// Metadata of every call that does not have it itself.
    pub metadata: Arc<[(String, String)]>,
    /// Whether a balancer distributes the RPCs.
    balanced: bool,
    /// Its address. `None` if the server is a process of this side: nothing stands between.
    pub endpoint: Option<Arc<str>>,
    /// Cancelled once the connection accepts no further calls. Calls that already run on it may finish.
    pub closed: CancellationToken,
    /// Does not keep it open.
    io: Weak<IoState>,
    /// `None` if there are neither pings nor TLS.
    cause: Option<Arc<Cause>>,
}

/// Why a connection was lost, if pings or TLS have to do with it.
struct Cause {
    address: String,
    tls: bool,
    keepalive: Option<Arc<Keepalive>>,
    known: OnceLock<Known>,
    /// Cancelled once it is known, or will not be.
    decided: CancellationToken,
}

enum Known {
    Pings(String),
    /// The server does not want this client, which with TLS 1.3 it learns after the handshake.
    Refused(String),
}

/// Servers of grpcio send no alert.
const SILENT: &str = "the server closed the connection after the TLS handshake, without an answer: it may have \
     refused the certificate of this client, or that it has none (:certfile and :keyfile in :tls)";

impl Cause {
    fn new(target: &Target) -> Option<Arc<Self>> {
        let may_be_known = target.keepalive.is_some() || target.tls.is_some();
        may_be_known.then(|| {
            Arc::new(Self {
                address: target.address.to_string(),
                tls: target.tls.is_some(),
                keepalive: target.keepalive.clone(),
                known: OnceLock::new(),
                decided: CancellationToken::new(),
            })
        })
    }

    /// The connection has ended, with this error if it was not closed. `silent`: whether the server has sent nothing on it.
    fn decide(&self, error: Option<&hyper::Error>, silent: bool) {
        let known = error.and_then(|error| {
            let pings = self.keepalive.as_ref();
            let pings = pings.and_then(|keepalive| keepalive.cause(error));
            // h2 keeps only the text of the error.
            let alert = causes(error).map(ToString::to_string);
            let mut alert = alert.filter(|text| text.contains("fatal alert"));
            let refused = |alert| format!("the server refused the TLS connection: {alert}");
            let alert = || alert.next().map(refused).map(Known::Refused);
            pings.map(Known::Pings).or_else(alert)
        });
        let silent = self.tls && silent;
        if let Some(known) = known.or_else(|| silent.then(|| Known::Refused(SILENT.into()))) {
            let _ = self.known.set(known);
        }
        self.decided.cancel();
    }
}

impl Channel {
    pub async fn connect(target: &Target) -> Result<Self, Failure> {
        let metadata = target.metadata()?;
        let cause = Cause::new(target);
        let connecting = async {
            let (stream, io) = target.open().await?;
            let weak = Arc::downgrade(&io);
            let (connection, closed) = handshake(stream, io, metadata, cause.clone()).await?;
            Ok((connection, closed, weak))
        };
        let (connection, closed, io) = target.in_time(connecting).await?;
        let max_message_size = target.max_message_size;
        Ok(Self {
            client: SnakepitBridgeClient::with_origin(connection.clone(), Self::origin())
                .max_decoding_message_size(max_message_size)
                .max_encoding_message_size(max_message_size),
            connection,
            max_message_size,
            metadata: target.call_metadata.clone(),
            balanced: !target.calls,
            endpoint: target
                .takes_draining
                .then(|| target.address.to_string().into()),
            closed,
            io,
            cause,
        })
    }

    /// Of the URLs of RPCs.
    pub(crate) fn origin() -> Uri {
        Uri::from_static("http://localhost")
    }

    /// Ends the connection, and what runs on it.
    pub fn close(&self) {
        if let Some(io) = self.io.upgrade() {
            io.set_ended();
        }
    }

    /// Names in a failure that the loss of the connection has caused why it was lost, if that is known.
    pub async fn explain(&self, failure: Failure) -> Failure {
        let lost = failure.is_lost_connection();
        let Some(cause) = self
            .cause
            .as_ref()
            .filter(|_| lost || failure.is_not_taken())
        else {
            return failure;
        };
        // Ignored: then the cause stays unknown.
        let _ = timeout(ENDS_WITHIN, cause.decided.cancelled()).await;
        match cause.known.get() {
            Some(Known::Pings(text)) if lost => Failure::WorkerCrashed(text.clone()),
            Some(Known::Refused(why)) => Failure::Unreachable {
                address: cause.address.clone(),
                cause: why.clone(),
            },
            _ => failure,
        }
    }

    /// The failure of an RPC whose server a balancer has lost, if there may be one.
    pub fn lost_by_balancer(&self, status: &tonic::Status) -> Option<Failure> {
        if self.balanced {
            Failure::from_balancer(status)
        } else if self.endpoint.is_some() {
            Failure::from_refusal(status)
        } else {
            None
        }
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
    io: Arc<IoState>,
    metadata: HeaderMap,
    cause: Option<Arc<Cause>>,
) -> std::io::Result<(HttpConnection, CancellationToken)> {
    let before = io.reads();
    let mut builder = http2::Builder::new(TokioExecutor::new());
    if let Some(keepalive) = cause.as_ref().and_then(|cause| cause.keepalive.as_ref()) {
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
        if let Some(cause) = cause {
            cause.decide(ended.as_ref().err(), io.reads() == before);
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
        if let Some(reset_on) = request.extensions_mut().remove::<ResetOn>() {
            request = request.map(|body| CancellableBody::wrap(body, reset_on));
        }
        let sent = self.sender.send_request(request);
        Box::pin(async move { sent.await.map(with_grpc_status) })
    }
}

/// Gives an answer that does not come from a gRPC server the status that gRPC reads in it. A balancer has no server at the
/// moment, for instance, and says so in HTML.
fn with_grpc_status<T>(mut response: Response<T>) -> Response<T> {
    let status = response.status();
    if status == StatusCode::OK || response.headers().contains_key(Status::GRPC_STATUS) {
        return response;
    }
    let code = match status {
        StatusCode::BAD_REQUEST => Code::Internal,
        StatusCode::UNAUTHORIZED => Code::Unauthenticated,
        StatusCode::FORBIDDEN => Code::PermissionDenied,
        StatusCode::NOT_FOUND => Code::Unimplemented,
        StatusCode::TOO_MANY_REQUESTS
        | StatusCode::BAD_GATEWAY
        | StatusCode::SERVICE_UNAVAILABLE
        | StatusCode::GATEWAY_TIMEOUT => Code::Unavailable,
        _ => Code::Unknown,
    };
    let status = Status::new(code, format!("{HTTP_STATUS} {status}"));
    // Only metadata can be invalid, and there is none.
    let _ = status.add_header(response.headers_mut());
    response
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::target::ExitCause;
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
        failure_on(true, true, serve).await
    }

    async fn failure_on<S: Future<Output = ()> + Send + 'static>(
        calls: bool,
        own_server: bool,
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
            call_metadata: [].into(),
            tls: None,
            max_message_size: 1024,
            journal: None,
            exit_cause: ExitCause::default(),
            timeout: Duration::from_secs(60),
            calls,
            takes_draining: !own_server,
            keepalive: None,
        };
        let channel = Channel::connect(&target).await.unwrap();
        std::fs::remove_file(&path).unwrap();
        let mut client = channel.client.clone();
        let status = client.execute(ExecuteRequest::default()).await.unwrap_err();
        channel
            .lost_by_balancer(&status)
            .unwrap_or_else(|| Failure::from_unanswered(&status, 1024, false))
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
    async fn a_call_that_a_balancer_resets_may_have_run() {
        let resets = [
            (true, Reason::REFUSED_STREAM),
            (false, Reason::REFUSED_STREAM),
            (false, Reason::CANCEL),
        ];
        for (calls, reason) in resets {
            let failure = failure_on(calls, false, move |mut connection| async move {
                let (_request, mut respond) = connection.accept().await.unwrap().unwrap();
                respond.send_reset(reason);
                while connection.accept().await.is_some() {}
            });
            assert!(matches!(failure.await, Failure::CallEnded(_)));
        }
    }

    #[tokio::test]
    async fn a_call_that_a_balancer_answers_by_http_alone_may_have_run() {
        let failure = failure_on(false, false, |mut connection| async move {
            let (_request, mut respond) = connection.accept().await.unwrap().unwrap();
            let response = Response::builder().status(500).body(()).unwrap();
            respond.send_response(response, true).unwrap();
            while connection.accept().await.is_some() {}
        });
        assert!(matches!(failure.await, Failure::CallEnded(_)));
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

    #[tokio::test]
    async fn an_answer_that_is_not_grpc_has_the_status_that_grpc_reads_in_it() {
        for (http, code) in [
            (503, Code::Unavailable),
            (502, Code::Unavailable),
            (404, Code::Unimplemented),
            (403, Code::PermissionDenied),
            (500, Code::Unknown),
        ] {
            let failure = failure(move |mut connection| async move {
                let (_request, mut respond) = connection.accept().await.unwrap().unwrap();
                let response = Response::builder().status(http).body(()).unwrap();
                let mut body = respond.send_response(response, false).unwrap();
                let html = Bytes::from_static(b"<html>No server is available.</html>");
                body.send_data(html, true).unwrap();
                while connection.accept().await.is_some() {}
            });
            let failure = failure.await;
            let text = failure.to_string();
            assert!(text.contains(&format!("the HTTP status {http}")), "{text}");
            assert!(matches!(failure, Failure::Status { code: had, .. } if had == code));
        }
    }
}
