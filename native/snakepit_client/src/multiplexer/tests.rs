//! A multiplexer against a server that reads and writes frames as the tests say.
#![allow(clippy::unwrap_used)]

use super::{
    Cancelled, Exit, Fed, Lost, Multiplexer, PendingCall, Report, ReturnReason,
    feeding::{LITTLE_READS, MANY, MUCH},
};
use crate::{
    calls_rpc::{CallsRpc, ClientConnection},
    keepalive::Keepalive,
    target::{ExitCause, Target},
};
use bytes::{Bytes, BytesMut};
use h2::{Reason, RecvStream, SendStream, server};
use http::{HeaderMap, Response};
use snakepit_proto::{
    CallEvent, CallFrame, CallHeader, Field, Fields, HandlerExit, ReplyFrame, call_frame::Act,
    reply_frame,
};
use snakepit_wire::{Address, Deframer, StartJournal, append};
use std::{
    cell::Cell,
    collections::VecDeque,
    io::Read,
    os::{fd::OwnedFd, unix::net::UnixStream},
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
const MAX_FRAME: usize = 1 << 20;

#[derive(Debug, PartialEq)]
enum Event {
    Replied(&'static str, u64),
    RepliedHere(&'static str, u64),
    Reported(&'static str),
    Cancelled(&'static str, Cancelled),
    Exited(&'static str, Exit),
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
    fn new(name: &'static str, events: &UnboundedSender<Event>) -> Self {
        Self {
            name,
            header: CallHeader::new(name.into(), Fields::default()),
            events: events.clone(),
        }
    }

    fn tell(&self, event: Event) {
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
    fn report(&self, _event: CallEvent) -> Option<Report> {
        let (name, events) = (self.name, self.events.clone());
        Some(Box::new(move || {
            events.send(Event::Reported(name)).unwrap()
        }))
    }
    fn replied(self, reply: ReplyFrame) {
        self.tell(Event::Replied(self.name, reply.handler_ns));
    }
    fn cancelled(&mut self, why: Cancelled) -> Report {
        let (name, events) = (self.name, self.events.clone());
        Box::new(move || events.send(Event::Cancelled(name, why)).unwrap())
    }
    fn exited(self, exit: Exit, _after: Duration) {
        self.tell(Event::Exited(self.name, exit));
    }
    fn lost(self, what: Lost, _cause: &str) {
        self.tell(Event::Lost(self.name, what));
    }
    fn not_started(self, reason: ReturnReason) {
        self.tell(Event::NotStarted(self.name, reason));
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
        self.multiplexer
            .start(Call::new(name, &self.sender), Instant::now(), |given| {
                id = given;
            });
        id
    }

    async fn event(&mut self) -> Event {
        timeout(PATIENCE, self.events.recv())
            .await
            .unwrap()
            .unwrap()
    }
}

/// Reads the socket of a client's calls, as a port of the BEAM does, which leaves it in blocking mode.
struct Feeder {
    calls: Arc<Multiplexer<ClientConnection, Call>>,
    socket: UnixStream,
}

impl Client {
    /// Those that are asked to feed.
    fn feeders(&self) -> UnboundedReceiver<Feeder> {
        let (sender, feeders) = unbounded_channel();
        self.multiplexer
            .set_feeder(Arc::new(move |calls, socket: &OwnedFd| {
                let socket = socket.try_clone().unwrap().into();
                sender.send(Feeder { calls, socket }).unwrap();
            }));
        feeders
    }
}

async fn next(feeders: &mut UnboundedReceiver<Feeder>) -> Feeder {
    timeout(PATIENCE, feeders.recv()).await.unwrap().unwrap()
}

impl Feeder {
    /// Waits until so many bytes have come, or the end.
    fn read(&self, at_least: usize) -> Vec<u8> {
        let mut socket = &self.socket;
        socket.set_nonblocking(false).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        let (mut buffer, mut size) = (vec![0; MUCH], 0);
        while size < at_least {
            match socket.read(&mut buffer[size..]).unwrap() {
                0 => break,
                count => size += count,
            }
        }
        buffer.truncate(size);
        buffer
    }

    /// As `read`, on another thread: what follows on this one, on which the task runs, never finds that at work.
    async fn receive(self, at_least: usize) -> (Vec<u8>, Self) {
        let read = tokio::task::spawn_blocking(move || (self.read(at_least), self));
        read.await.unwrap()
    }

    fn feed(&self, bytes: Vec<u8>, replied: impl Fn(&Call)) -> Fed {
        self.calls.feed(bytes.into(), |call, reply| {
            call.tell(Event::RepliedHere(call.name, reply.handler_ns));
            replied(&call);
        })
    }

    /// Feeds until much arrives at once, or the end.
    fn run(mut self) {
        tokio::spawn(async move {
            loop {
                let (bytes, feeder) = self.receive(1).await;
                if bytes.is_empty() {
                    return feeder.calls.stop_feeding();
                }
                match feeder.feed(bytes, |_| {}) {
                    Fed::Read => {}
                    Fed::Flush => feeder.calls.flush(),
                    Fed::Stop => return feeder.calls.stop_feeding(),
                }
                self = feeder;
            }
        });
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
    connected_with(None, None, capacity, grace).await
}

async fn connected_with(
    keepalive: Option<Arc<Keepalive>>,
    journal: Option<Arc<StartJournal>>,
    capacity: usize,
    grace: Duration,
) -> (Client, Server) {
    let (listener, target) = listen();
    let target = Target {
        keepalive,
        journal,
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
                    () = async { while let Some(Ok(_)) = connection.accept().await {} } => {}
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
    let multiplexer = Multiplexer::new(
        rpc.connection,
        rpc.sender,
        target.journal.clone(),
        keepalive,
        closed.clone(),
    );
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
        Event::Exited("a", Exit::Reported(HandlerExit::Closed))
    );
}

#[tokio::test]
async fn a_cancelled_call_whose_handler_runs_past_the_grace_ends_without_an_exit() {
    let (mut client, mut server) = connected(1, Duration::ZERO).await;
    let id = client.start("a");
    server.frame().await;
    client.multiplexer.cancel(id);
    client.event().await;
    assert_eq!(client.event().await, Event::Exited("a", Exit::PastGrace));
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
    let (mut client, mut server) = connected_with(Some(keepalive), None, 1, PATIENCE).await;
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
    let (mut client, mut server) = connected_with(Some(keepalive), None, 2, PATIENCE).await;
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

/// A reply with a value of `size` bytes.
fn reply(call_id: u64, size: usize) -> ReplyFrame {
    let value = vec![7; size];
    ReplyFrame {
        call_id,
        success: true,
        handler_ns: size as u64,
        result: vec![Field {
            key: "value".into(),
            value: value.into(),
        }],
        ..ReplyFrame::default()
    }
}

#[tokio::test]
async fn a_feeder_hands_out_results_and_leaves_other_replies_to_the_task() {
    let (mut client, mut server) = connected(9, PATIENCE).await;
    next(&mut client.feeders()).await.run();
    let small = client.start("small");
    server.reply(&reply(small, 5));
    assert_eq!(client.event().await, Event::RepliedHere("small", 5));
    let failed = client.start("failed");
    server.reply(&ReplyFrame {
        success: false,
        ..reply(failed, 2)
    });
    assert_eq!(client.event().await, Event::Replied("failed", 2));
    let cancelled = client.start("cancelled");
    client.multiplexer.cancel(cancelled);
    client.event().await;
    let mut exit = reply(cancelled, 0);
    exit.set_exit(HandlerExit::Closed);
    server.reply(&exit);
    let exited = Event::Exited("cancelled", Exit::Reported(HandlerExit::Closed));
    assert_eq!(client.event().await, exited);
    let last = client.start("last");
    server.reply(&reply(last, 5));
    assert_eq!(client.event().await, Event::RepliedHere("last", 5));
}

#[tokio::test]
async fn what_a_call_has_reported_comes_before_its_reply_though_a_feeder_could_hand_that_out() {
    let (mut client, mut server) = connected(1, PATIENCE).await;
    let feeder = next(&mut client.feeders()).await;
    let id = client.start("a");
    let mut event = ReplyFrame {
        call_id: id,
        event: Some(Box::new(CallEvent::progress(0.5, "half".into()))),
        ..ReplyFrame::default()
    };
    event.set_act(reply_frame::Act::Event);
    server.reply(&event);
    server.reply(&reply(id, 5));
    feeder.run();
    assert_eq!(client.event().await, Event::Reported("a"));
    client.event().await;
}

#[tokio::test]
async fn the_task_reads_while_much_arrives_and_a_feeder_again_after_some_small_replies() {
    let (mut client, mut server) = connected(1, PATIENCE).await;
    let mut feeders = client.feeders();
    let feeder = next(&mut feeders).await;
    let large = client.start("large");
    server.reply(&reply(large, 500_000));
    feeder.run();
    assert_eq!(client.event().await, Event::Replied("large", 500_000));
    for _ in 0..LITTLE_READS {
        assert!(feeders.is_empty());
        let small = client.start("small");
        server.reply(&reply(small, 5));
        assert_eq!(client.event().await, Event::Replied("small", 5));
    }
    next(&mut feeders).await.run();
    let last = client.start("last");
    server.reply(&reply(last, 5));
    assert_eq!(client.event().await, Event::RepliedHere("last", 5));
}

#[tokio::test]
async fn a_feeder_hands_out_many_small_replies_that_arrive_at_once() {
    const NAMES: [&str; 40] = ["small"; 40];
    let (mut client, mut server) = connected(NAMES.len(), PATIENCE).await;
    let mut feeders = client.feeders();
    let feeder = next(&mut feeders).await;
    for name in NAMES {
        let id = client.start(name);
        server.reply(&reply(id, 1000));
    }
    let (bytes, feeder) = feeder.receive(MUCH).await;
    assert_eq!(feeder.feed(bytes, |_| {}), Fed::Flush);
    feeder.calls.flush();
    feeder.run();
    for name in NAMES {
        assert_eq!(client.event().await, Event::RepliedHere(name, 1000));
    }
    assert!(feeders.is_empty());
}

#[tokio::test]
async fn so_many_replies_that_they_would_keep_a_feeder_are_left_to_the_task() {
    let (mut client, mut server) = connected(2 * MANY, PATIENCE).await;
    let feeder = next(&mut client.feeders()).await;
    for _ in 0..2 * MANY {
        let id = client.start("small");
        server.reply(&reply(id, 100));
    }
    let (bytes, feeder) = feeder.receive(MUCH).await;
    assert_eq!(feeder.feed(bytes, |_| {}), Fed::Read);
    assert_eq!(client.event().await, Event::Replied("small", 100));
}

#[tokio::test]
async fn the_end_of_a_connection_that_is_fed_is_found_once_its_feeder_stops() {
    let (mut client, mut server) = connected(1, PATIENCE).await;
    next(&mut client.feeders()).await.run();
    client.start("a");
    server.frame().await;
    drop(server);
    assert_eq!(client.event().await, Event::Lost("a", Lost::Connection));
}

#[tokio::test]
async fn a_server_that_drains_is_told_of_the_end_of_its_calls_though_the_connection_is_fed() {
    for calls in [0, 1] {
        let (mut client, mut server) = connected(1, PATIENCE).await;
        next(&mut client.feeders()).await.run();
        let ids: Vec<_> = (0..calls).map(|_| client.start("a")).collect();
        let mut draining = ReplyFrame::default();
        draining.set_act(reply_frame::Act::Draining);
        server.reply(&draining);
        timeout(PATIENCE, client.closed.cancelled()).await.unwrap();
        for id in ids {
            server.frame().await;
            server.reply(&reply(id, 5));
            assert_eq!(client.event().await, Event::RepliedHere("a", 5));
        }
        let end = timeout(PATIENCE, server.body.data()).await.unwrap();
        assert!(end.is_none_or(|data| data.unwrap().is_empty()));
    }
}

#[tokio::test]
async fn the_calls_of_a_connection_whose_feeder_is_gone_are_lost() {
    let (mut client, mut server) = connected(1, PATIENCE).await;
    let feeder = next(&mut client.feeders()).await;
    // The server runs on, and may start the second one.
    for name in ["a", "b"] {
        client.start(name);
        server.frame().await;
    }
    feeder.calls.feeder_gone();
    for name in ["a", "b"] {
        assert_eq!(client.event().await, Event::Lost(name, Lost::Connection));
    }
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_journal_that_a_server_has_for_an_earlier_connection_says_nothing() {
    use std::os::unix::fs::FileExt;
    let journal = Arc::new(StartJournal::create().unwrap());
    let file = std::fs::File::options().write(true).open(journal.path());
    file.unwrap().write_all_at(&[100], 0).unwrap();
    assert_eq!(journal.last_started(), 100);
    let (mut client, mut server) = connected_with(None, Some(journal), 1, PATIENCE).await;
    for name in ["a", "b"] {
        client.start(name);
    }
    server.frame().await;
    drop(server);
    assert_eq!(client.event().await, Event::Lost("a", Lost::Connection));
    let b = Event::NotStarted("b", ReturnReason::Lost(Lost::Connection));
    assert_eq!(client.event().await, b);
}

#[tokio::test]
async fn the_calls_of_a_connection_whose_feeder_is_gone_when_it_is_asked_are_lost() {
    let (mut client, _server) = connected(1, PATIENCE).await;
    client
        .multiplexer
        .set_feeder(Arc::new(|calls, _socket| calls.feeder_gone()));
    client.start("a");
    assert_eq!(client.event().await, Event::Lost("a", Lost::Connection));
}

#[tokio::test]
async fn replies_that_a_feeder_has_left_are_handed_out_at_the_end() {
    for _ in 0..20 {
        let (mut client, mut server) = connected(1, PATIENCE).await;
        let feeder = next(&mut client.feeders()).await;
        let id = client.start("failed");
        server.reply(&ReplyFrame {
            success: false,
            ..reply(id, 10_000)
        });
        let (bytes, feeder) = feeder.receive(10_000).await;
        // The task, which runs on this thread, finds both.
        assert_eq!(feeder.feed(bytes, |_| {}), Fed::Read);
        drop(client._end);
        let event = timeout(PATIENCE, client.events.recv()).await.unwrap();
        assert_eq!(event, Some(Event::Replied("failed", 10_000)));
    }
}

#[tokio::test]
async fn calls_that_start_while_a_feeder_hands_out_replies_are_sent_and_recalled() {
    let (mut client, mut server) = connected(1, PATIENCE).await;
    let feeder = next(&mut client.feeders()).await;
    let first = client.start("a");
    server.frame().await;
    server.reply(&reply(first, 5));
    let events = client.sender.clone();
    let (bytes, feeder) = feeder.receive(1).await;
    feeder.feed(bytes, |_| {
        for name in ["b", "c"] {
            let call = Call::new(name, &events);
            feeder.calls.start(call, Instant::now(), |_| {});
        }
    });
    assert_eq!(client.event().await, Event::RepliedHere("a", 5));
    let (b, c) = (first + 1, first + 2);
    assert_eq!(server.frame().await, (b, Act::Call, "b".into()));
    assert_eq!(server.frame().await, (c, Act::Call, "c".into()));
    assert_eq!(server.frame().await, (c, Act::Recall, String::new()));
}

/// Feeds the replies to these calls.
async fn fed(server: &mut Server, ids: &[u64], mut feeder: Feeder) -> Feeder {
    ids.iter().for_each(|id| server.reply(&reply(*id, 5)));
    let count = ids.len();
    let handed_out = Cell::new(0);
    let mut fed = Fed::Read;
    while handed_out.get() < count {
        let bytes;
        (bytes, feeder) = feeder.receive(1).await;
        fed = feeder.feed(bytes, |_| handed_out.set(handed_out.get() + 1));
    }
    assert_eq!(fed, Fed::Flush);
    feeder
}

#[tokio::test]
async fn callers_that_come_back_have_their_calls_sent_together() {
    let (client, mut server) = connected(9, PATIENCE).await;
    let feeder = next(&mut client.feeders()).await;
    let ids = ["a", "b", "c"].map(|name| client.start(name));
    let feeder = fed(&mut server, &ids, feeder).await;
    let ids = ["d", "e", "f"].map(|name| {
        assert_eq!(client.multiplexer.sender.is_empty(), name == "d");
        client.start(name)
    });
    // The last of them has sent all.
    assert!(client.multiplexer.sender.is_empty());
    let feeder = fed(&mut server, &ids, feeder).await;
    client.start("g");
    assert!(!client.multiplexer.sender.is_empty());
    feeder.calls.flush();
    assert!(client.multiplexer.sender.is_empty());
    let mut arrived = Vec::new();
    while arrived.len() < 7 {
        arrived.push(server.frame().await.2);
    }
    assert_eq!(arrived, ["a", "b", "c", "d", "e", "f", "g"]);
}

#[tokio::test]
async fn a_call_behind_another_is_recalled_though_the_task_has_not_sent_it() {
    let (client, mut server) = connected(1, PATIENCE).await;
    let _feeder = next(&mut client.feeders()).await;
    let first = client.start("a");
    assert_eq!(server.frame().await, (first, Act::Call, "a".into()));
    let second = client.start("b");
    assert_eq!(server.frame().await, (second, Act::Call, "b".into()));
    let recall = (second, Act::Recall, String::new());
    assert_eq!(server.frame().await, recall);
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
