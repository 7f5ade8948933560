//! The server as a client meets it, with a service that needs no Python.
#![allow(clippy::unwrap_used)]

use bytes::Bytes;
use h2::client::{self, SendRequest};
use http::{HeaderMap, Request};
use snakepit_proto::{HandlerExit, HealthRequest, HealthResponse};
use snakepit_server::{
    CallsStream, Failure, IoDriver, Listen, Outcome, Responder, Rpc, Secrets, Server, Service,
    UnsentReplies,
};
use snakepit_wire::{BatchingSender, Deframer, append};
use std::{
    future::poll_fn,
    io::ErrorKind,
    path::PathBuf,
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, UnixStream},
    sync::mpsc::{UnboundedSender, unbounded_channel},
    task::JoinHandle,
    time::timeout,
};

const PATIENCE: Duration = Duration::from_secs(60);
const LIMIT: usize = 100;

/// Answers with the worker id of the request.
struct Echo;

impl Service for Echo {
    async fn serve(self: Arc<Self>, mut rpc: Rpc) {
        match rpc.message::<HealthRequest>(LIMIT).await {
            Ok(HealthRequest { worker_id, .. }) => rpc.answer(&HealthResponse {
                worker_id,
                ..HealthResponse::default()
            }),
            Err(status) => rpc.fail(&status),
        }
    }
}

type Notes = Mutex<Vec<u64>>;

/// Gives the test the stream of each `Calls` RPC.
struct Calls(UnboundedSender<Arc<CallsStream<Notes>>>);

impl Service for Calls {
    async fn serve(self: Arc<Self>, mut rpc: Rpc) {
        let Ok(stream) = rpc.begin() else {
            return;
        };
        let sender = BatchingSender::new(rpc.connection.clone(), stream);
        self.0.send(Arc::new(CallsStream::new(sender))).unwrap();
        poll_fn(|cx| rpc.body.poll_data(cx)).await;
    }
}

fn serve(address: &str, secret: &str) -> (Server, String) {
    serve_with(address, secret, Arc::new(Echo))
}

fn serve_with(address: &str, secret: &str, service: Arc<impl Service>) -> (Server, String) {
    let driver = Arc::new(IoDriver::new(false).unwrap());
    let secrets = if secret.is_empty() {
        Vec::new()
    } else {
        vec![secret.to_owned()]
    };
    let listen = Listen {
        address: address.parse().unwrap(),
        tls: None,
        secrets: Secrets::new(secrets),
        max_connection_age: None,
        patience: None,
    };
    let server = Server::start(listen, driver, service).unwrap();
    let address = server.address().to_string();
    (server, address)
}

struct Client {
    requests: SendRequest<Bytes>,
    connection: JoinHandle<Result<(), h2::Error>>,
}

impl Client {
    async fn new(socket: impl AsyncRead + AsyncWrite + Send + Unpin + 'static) -> Self {
        let (requests, connection) = client::handshake(socket).await.unwrap();
        Self {
            requests,
            connection: tokio::spawn(connection),
        }
    }

    /// The reply's worker id, if there is a reply, and the headers with the status.
    async fn call(&self, worker_id: &str, secret: Option<&str>) -> (Option<String>, HeaderMap) {
        let mut request = Request::post("http://worker/snakepit.SnakepitBridge/Health");
        if let Some(secret) = secret {
            request = request.header("x-snakepit-secret", secret);
        }
        let mut requests = self.requests.clone().ready().await.unwrap();
        let (response, mut body) = requests
            .send_request(request.body(()).unwrap(), false)
            .unwrap();
        let mut message = bytes::BytesMut::new();
        let worker_id = worker_id.into();
        append(
            &mut message,
            &HealthRequest {
                worker_id,
                ..HealthRequest::default()
            },
        );
        body.send_data(message.freeze(), true).unwrap();
        let (head, mut body) = response.await.unwrap().into_parts();
        let mut deframer = Deframer::new(LIMIT);
        let mut reply = None;
        while let Some(data) = body.data().await {
            deframer.push(data.unwrap());
            if let Some(message) = deframer.next::<HealthResponse>().unwrap() {
                reply = Some(message.worker_id);
            }
        }
        let trailers = body.trailers().await.unwrap();
        (reply, trailers.unwrap_or(head.headers))
    }
}

async fn end(server: Server) {
    let ending = tokio::task::spawn_blocking(move || server.end());
    timeout(PATIENCE, ending).await.unwrap().unwrap();
}

fn socket_path(name: &str) -> PathBuf {
    let file = format!("snakepit-server-{}-{name}", std::process::id());
    std::env::temp_dir().join(file)
}

#[tokio::test]
async fn a_call_at_a_unix_socket_is_answered_and_the_socket_ends_with_the_server() {
    let path = socket_path("answers");
    let (server, _) = serve(&format!("unix:{}", path.display()), "");
    let client = Client::new(UnixStream::connect(&path).await.unwrap()).await;
    for id in ["one", "two"] {
        let (reply, status) = client.call(id, None).await;
        assert_eq!(reply.as_deref(), Some(id));
        assert_eq!(status["grpc-status"], "0");
    }
    end(server).await;
    assert!(!path.exists());
}

#[tokio::test]
async fn a_request_over_the_limit_is_refused_with_a_status() {
    let path = socket_path("limit");
    let (server, _) = serve(&format!("unix:{}", path.display()), "");
    let client = Client::new(UnixStream::connect(&path).await.unwrap()).await;
    let (reply, status) = client.call(&"x".repeat(LIMIT), None).await;
    assert_eq!(
        (reply, &status["grpc-status"]),
        (None, &"8".parse().unwrap())
    );
    assert_eq!(client.call("small", None).await.0.as_deref(), Some("small"));
    end(server).await;
}

#[tokio::test]
async fn at_a_port_only_calls_with_the_secret_are_served() {
    let (server, address) = serve("tcp:127.0.0.1:0", "secret");
    let address = address.strip_prefix("tcp:").unwrap();
    let client = Client::new(TcpStream::connect(address).await.unwrap()).await;
    for wrong in [None, Some("guess")] {
        let (reply, status) = client.call("x", wrong).await;
        assert_eq!(
            (reply, &status["grpc-status"]),
            (None, &"16".parse().unwrap())
        );
    }
    assert_eq!(
        client.call("x", Some("secret")).await.0.as_deref(),
        Some("x")
    );
    end(server).await;
}

#[tokio::test]
async fn clients_leave_a_server_that_stops() {
    let path = socket_path("stops");
    let (server, _) = serve(&format!("unix:{}", path.display()), "");
    let client = Client::new(UnixStream::connect(&path).await.unwrap()).await;
    client.call("x", None).await;
    server.stop();
    let left = timeout(PATIENCE, client.connection).await.unwrap();
    // The server may be gone before the client has sent its own farewell.
    if let Err(error) = left.unwrap() {
        assert_eq!(error.get_io().unwrap().kind(), ErrorKind::BrokenPipe);
    }
    end(server).await;
}

#[tokio::test]
async fn a_call_that_starts_while_another_thread_has_unsent_replies_is_noted() {
    let path = socket_path("unsent");
    let (streams, mut stream) = unbounded_channel();
    let address = format!("unix:{}", path.display());
    let (server, _) = serve_with(&address, "", Arc::new(Calls(streams)));
    let client = Client::new(UnixStream::connect(&path).await.unwrap()).await;
    let request = Request::post("http://worker/snakepit.SnakepitBridge/Calls");
    let mut requests = client.requests.clone().ready().await.unwrap();
    let open = requests.send_request(request.body(()).unwrap(), false);
    let calls = stream.recv().await.unwrap();
    // On a thread that has sent its replies. `fails`: it cannot note anything.
    let starts_while = |withdrawing: bool, call_id: u64, fails: bool| {
        UnsentReplies::default().may_start(Some(&calls), withdrawing, |notes: &Notes| {
            notes.lock().unwrap().push(call_id);
            !fails
        })
    };
    let starts = |call_id: u64, fails: bool| starts_while(false, call_id, fails);
    let answer = |call_id: u64| {
        let failure = Failure::new("python_error", "boom");
        let outcome = Outcome::not_run(failure, HandlerExit::Unknown);
        Responder::frame(calls.clone(), call_id).finish(outcome);
    };
    answer(1);
    // Without a journal they have to be sent first.
    assert!(!starts(2, false));
    calls.use_journal(Notes::default());
    assert!(starts(3, false));
    assert!(!starts(4, true));
    calls.flush();
    assert!(starts(5, false));
    // A call that has left the scheduler, and one whose client is about to learn of that.
    assert!(starts_while(true, 6, false));
    Responder::frame(calls.clone(), 7).give_back();
    assert!(starts(8, false));
    let mut noted = Vec::new();
    let look = |notes: &Notes| {
        noted.clone_from(&notes.lock().unwrap());
        true
    };
    assert!(UnsentReplies::default().may_start(Some(&calls), false, look));
    assert_eq!(noted, [3, 4, 6, 8]);
    drop(open);
    end(server).await;
}
