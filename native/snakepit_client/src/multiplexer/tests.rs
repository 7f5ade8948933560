//! A multiplexer against a server that reads and writes frames as the tests say.
#![allow(clippy::unwrap_used)]

use super::{Cancelled, Lost, Multiplexer, PendingCall, ReturnReason};
use crate::{
    calls_rpc::{CallsRpc, ClientConnection},
    keepalive::Keepalive,
    target::{ExitCause, Target},
};
use bytes::{Bytes, BytesMut};
use h2::{Reason, RecvStream, SendStream, server};
use http::{HeaderMap, Response};
use snakepit_proto::{
    CallFrame, CallHeader, Fields, HandlerExit, ReplyFrame, call_frame::Act, reply_frame,
};
use snakepit_wire::{Address, Deframer, append};
use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::{
    net::UnixListener,
    sync::{
        mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
        oneshot,
    },
    task::JoinHandle,
    time::timeout,
};
use tokio_util::sync::{CancellationToken, DropGuard};

const PATIENCE: Duration = Duration::from_secs(60);
const MAX_FRAME: usize = 1024;

#[derive(Debug, PartialEq)]
enum Event {
    Replied(&'static str, u64),
    Cancelled(&'static str, Cancelled),
    Exited(&'static str, Option<HandlerExit>),
    Lost(&'static str, Lost),
    NotStarted(&'static str, ReturnReason),
}

/// Reports how it is called.
struct Call {
    name: &'static str,
    header: CallHeader,
    events: UnboundedSender<Event>,
}

impl Call {
    fn report(&self, event: Event) {
        self.events.send(event).unwrap();
    }
}

impl PendingCall for Call {
    fn header(&mut self) -> &mut CallHeader {
        &mut self.header
    }
    fn is_batched(&self) -> bool {
        self.name.starts_with("batched")
    }
    fn replied(self, reply: ReplyFrame) {
        self.report(Event::Replied(self.name, reply.handler_ns));
    }
    fn cancelled(&mut self, why: Cancelled) {
        self.report(Event::Cancelled(self.name, why));
    }
    fn exited(self, exit: Option<HandlerExit>, _after: Duration) {
        self.report(Event::Exited(self.name, exit));
    }
    fn lost(self, what: Lost, _cause: &str) {
        self.report(Event::Lost(self.name, what));
    }
    fn not_started(self, reason: ReturnReason) {
        self.report(Event::NotStarted(self.name, reason));
    }
    fn stalled(&self) {}
}

struct Client {
    multiplexer: Arc<Multiplexer<ClientConnection, Call>>,
    events: UnboundedReceiver<Event>,
    sender: UnboundedSender<Event>,
    closed: CancellationToken,
    _end: DropGuard,
}

impl Client {
    fn start(&self, name: &'static str) -> u64 {
        let mut id = 0;
        let call = Call {
            name,
            header: CallHeader::new(name.into(), Fields::default()),
            events: self.sender.clone(),
        };
        self.multiplexer
            .start(call, Instant::now(), |given| id = given);
        id
    }

    async fn event(&mut self) -> Event {
        timeout(PATIENCE, self.events.recv())
            .await
            .unwrap()
            .unwrap()
    }
}

/// The server's end of the RPC.
struct Server {
    /// Drives the connection. Aborting it closes the connection.
    driver: JoinHandle<()>,
    /// Has the driver stand still.
    stop: Option<oneshot::Sender<()>>,
    body: RecvStream,
    stream: SendStream<Bytes>,
    deframer: Deframer,
    frames: VecDeque<CallFrame>,
}

impl Server {
    /// The next frame, as its act and its command.
    async fn frame(&mut self) -> (u64, Act, String) {
        loop {
            if let Some(frame) = self.frames.pop_front() {
                return (frame.call_id, frame.act(), frame.command);
            }
            let data = timeout(PATIENCE, self.body.data()).await.unwrap();
            self.deframer.push(data.unwrap().unwrap());
            while let Some(frame) = self.deframer.next().unwrap() {
                self.frames.push_back(frame);
            }
        }
    }

    /// Reads and answers nothing any more; its socket stays open.
    fn stop(&mut self) {
        self.stop.take().unwrap().send(()).unwrap();
    }

    fn reply(&mut self, reply: &ReplyFrame) {
        let mut out = BytesMut::new();
        append(&mut out, reply);
        self.stream.send_data(out.freeze(), false).unwrap();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

fn listen() -> (UnixListener, Target) {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    let name = format!("snakepit-frames-{}-{number}", std::process::id());
    let path = std::env::temp_dir().join(name);
    let listener = UnixListener::bind(&path).unwrap();
    let target = Target {
        address: Address::Unix(path),
        secret: None,
        headers: http::HeaderMap::new(),
        call_metadata: [].into(),
        tls: None,
        max_message_size: MAX_FRAME,
        journal: None,
        exit_cause: ExitCause::default(),
        timeout: PATIENCE,
        calls: true,
        takes_draining: true,
        keepalive: None,
    };
    (listener, target)
}

/// A client and a server with an open RPC. The worker runs `capacity` calls at once.
async fn connected(capacity: usize, grace: Duration) -> (Client, Server) {
    connected_with(None, capacity, grace).await
}

async fn connected_with(
    keepalive: Option<Arc<Keepalive>>,
    capacity: usize,
    grace: Duration,
) -> (Client, Server) {
    let (listener, target) = listen();
    let target = Target {
        keepalive,
        ..target
    };
    let accepting = async {
        let (socket, _) = listener.accept().await.unwrap();
        let mut connection = server::handshake(socket).await.unwrap();
        let (request, mut respond) = connection.accept().await.unwrap().unwrap();
        let stream = respond.send_response(Response::new(()), false).unwrap();
        let (stop, stopped) = oneshot::channel();
        Server {
            driver: tokio::spawn(async move {
                tokio::select! {
                    biased;
                    Ok(()) = stopped => std::future::pending().await,
                    () = async { while connection.accept().await.is_some() {} } => {}
                }
            }),
            stop: Some(stop),
            body: request.into_body(),
            stream,
            deframer: Deframer::new(MAX_FRAME),
            frames: VecDeque::new(),
        }
    };
    let (rpc, server) = tokio::join!(CallsRpc::open(&target), accepting);
    if let Address::Unix(path) = &target.address {
        std::fs::remove_file(path).unwrap();
    }
    let rpc = rpc.unwrap().unwrap();
    let (end, closed) = (CancellationToken::new(), CancellationToken::new());
    let keepalive = target.keepalive.clone();
    let multiplexer = Multiplexer::new(rpc.connection, rpc.sender, None, keepalive, closed.clone());
    multiplexer.set_worker(capacity, grace, true);
    let (driven, ends) = (multiplexer.clone(), end.clone());
    tokio::spawn(async move {
        let ended = driven
            .drive(rpc.body, rpc.ping_pong, MAX_FRAME, &ends)
            .await;
        driven.end(&ended);
    });
    let (sender, events) = unbounded_channel();
    let client = Client {
        multiplexer,
        events,
        sender,
        closed,
        _end: end.drop_guard(),
    };
    (client, server)
}

#[tokio::test]
async fn calls_get_the_replies_with_their_ids_in_any_order() {
    let (mut client, mut server) = connected(2, PATIENCE).await;
    let (first, second) = (client.start("a"), client.start("b"));
    assert_eq!(server.frame().await, (first, Act::Call, "a".into()));
    assert_eq!(server.frame().await, (second, Act::Call, "b".into()));
    for (call_id, handler_ns) in [(second, 2), (99, 3), (first, 1)] {
        server.reply(&ReplyFrame {
            call_id,
            success: true,
            handler_ns,
            ..ReplyFrame::default()
        });
    }
    assert_eq!(client.event().await, Event::Replied("b", 2));
    assert_eq!(client.event().await, Event::Replied("a", 1));
}

#[tokio::test]
async fn a_cancelled_call_ends_with_the_exit_that_the_server_reports() {
    let (mut client, mut server) = connected(1, PATIENCE).await;
    let id = client.start("a");
    server.frame().await;
    client.multiplexer.cancel(id);
    assert_eq!(
        client.event().await,
        Event::Cancelled("a", Cancelled::ByCaller)
    );
    assert_eq!(server.frame().await, (id, Act::Cancel, String::new()));
    let mut reply = ReplyFrame {
        call_id: id,
        ..ReplyFrame::default()
    };
    reply.set_exit(HandlerExit::Closed);
    server.reply(&reply);
    assert_eq!(
        client.event().await,
        Event::Exited("a", Some(HandlerExit::Closed))
    );
}

#[tokio::test]
async fn a_cancelled_call_whose_handler_runs_past_the_grace_ends_without_an_exit() {
    let (mut client, mut server) = connected(1, Duration::ZERO).await;
    let id = client.start("a");
    server.frame().await;
    client.multiplexer.cancel(id);
    client.event().await;
    assert_eq!(client.event().await, Event::Exited("a", None));
}

#[tokio::test]
async fn a_call_behind_a_stalled_worker_is_recalled_and_comes_back() {
    let (mut client, mut server) = connected(1, PATIENCE).await;
    client.start("a");
    let second = client.start("b");
    server.frame().await;
    server.frame().await;
    assert_eq!(server.frame().await, (second, Act::Recall, String::new()));
    server.reply(&ReplyFrame {
        call_id: second,
        not_started: true,
        ..ReplyFrame::default()
    });
    let recalled = Event::NotStarted("b", ReturnReason::Recalled);
    assert_eq!(client.event().await, recalled);
}

#[tokio::test]
async fn of_a_lost_connection_only_calls_beyond_the_capacity_have_not_started() {
    let (mut client, mut server) = connected(1, PATIENCE).await;
    client.start("a");
    client.start("b");
    server.frame().await;
    drop(server);
    assert_eq!(client.event().await, Event::Lost("a", Lost::Connection));
    let lost = |name| Event::NotStarted(name, ReturnReason::Lost(Lost::Connection));
    assert_eq!(client.event().await, lost("b"));
    timeout(PATIENCE, client.closed.cancelled()).await.unwrap();
    client.start("c");
    assert_eq!(client.event().await, lost("c"));
}

#[tokio::test]
async fn when_the_rpc_alone_ends_so_do_its_calls_and_not_the_connection() {
    let ends: [fn(&mut SendStream<Bytes>); 2] = [
        |stream| stream.send_reset(Reason::CANCEL),
        |stream| stream.send_trailers(HeaderMap::new()).unwrap(),
    ];
    for end in ends {
        let (mut client, mut server) = connected(1, PATIENCE).await;
        client.start("a");
        client.start("b");
        server.frame().await;
        end(&mut server.stream);
        assert_eq!(client.event().await, Event::Lost("a", Lost::Rpc));
        let lost = |name| Event::NotStarted(name, ReturnReason::Lost(Lost::Rpc));
        assert_eq!(client.event().await, lost("b"));
        client.start("c");
        assert_eq!(client.event().await, lost("c"));
        assert!(!client.closed.is_cancelled());
    }
}

#[tokio::test]
async fn a_server_that_drains_finishes_its_calls_and_gets_no_more() {
    let (mut client, mut server) = connected(2, PATIENCE).await;
    let id = client.start("a");
    server.frame().await;
    let mut draining = ReplyFrame::default();
    draining.set_act(reply_frame::Act::Draining);
    server.reply(&draining);
    timeout(PATIENCE, client.closed.cancelled()).await.unwrap();
    client.start("b");
    let lost = Event::NotStarted("b", ReturnReason::Lost(Lost::Connection));
    assert_eq!(client.event().await, lost);
    server.reply(&ReplyFrame {
        call_id: id,
        handler_ns: 1,
        ..ReplyFrame::default()
    });
    assert_eq!(client.event().await, Event::Replied("a", 1));
    // The client ends its side, and nothing else arrives.
    let end = timeout(PATIENCE, server.body.data()).await.unwrap();
    assert!(end.is_none_or(|data| data.unwrap().is_empty()));
    assert!(server.body.is_end_stream());
}

#[tokio::test]
async fn a_server_that_answers_pings_keeps_its_calls() {
    let keepalive = Keepalive::new(Duration::from_millis(5), PATIENCE);
    let (mut client, mut server) = connected_with(Some(keepalive), 1, PATIENCE).await;
    let id = client.start("a");
    server.frame().await;
    // Time for some pings.
    tokio::time::sleep(Duration::from_millis(100)).await;
    server.reply(&ReplyFrame {
        call_id: id,
        handler_ns: 1,
        ..ReplyFrame::default()
    });
    assert_eq!(client.event().await, Event::Replied("a", 1));
}

#[tokio::test]
async fn calls_of_a_server_that_is_silent_and_answers_no_ping_are_lost() {
    let keepalive = Keepalive::new(Duration::from_millis(5), Duration::from_millis(5));
    let (mut client, mut server) = connected_with(Some(keepalive), 2, PATIENCE).await;
    server.stop();
    client.start("a");
    assert_eq!(client.event().await, Event::Lost("a", Lost::Connection));
    timeout(PATIENCE, client.closed.cancelled()).await.unwrap();
}

#[tokio::test]
async fn of_calls_in_batches_each_may_have_started_where_no_journal_says_so() {
    let (mut client, mut server) = connected(1, PATIENCE).await;
    for name in ["batched 1", "a", "batched 2", "b"] {
        client.start(name);
    }
    server.frame().await;
    drop(server);
    for name in ["batched 1", "a", "batched 2"] {
        assert_eq!(client.event().await, Event::Lost(name, Lost::Connection));
    }
    let b = Event::NotStarted("b", ReturnReason::Lost(Lost::Connection));
    assert_eq!(client.event().await, b);
}

#[tokio::test]
async fn a_server_that_does_not_implement_the_rpc_has_no_multiplexer() {
    let (listener, target) = listen();
    tokio::spawn(async move {
        let (socket, _) = listener.accept().await.unwrap();
        let mut connection = server::handshake(socket).await.unwrap();
        while let Some(Ok((_request, mut respond))) = connection.accept().await {
            let response = Response::builder().header("grpc-status", "12");
            let response = response.body(()).unwrap();
            respond.send_response(response, true).unwrap();
        }
    });
    assert!(CallsRpc::open(&target).await.unwrap().is_none());
    if let Address::Unix(path) = &target.address {
        std::fs::remove_file(path).unwrap();
    }
}
