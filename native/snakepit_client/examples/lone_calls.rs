//! Makes one call at a time over the connection and the pool that the NIF uses, each an echo of 1 KiB of text,
//! for bench/instructions.exs, which counts its instructions.
//!
//! `lone_calls SOCKET CALLS`

use snakepit_client::{
    calls_rpc::ClientConnection,
    connection::Connection,
    multiplexer::{Cancelled, Exit, Lost, Multiplexer, PendingCall, Report, ReturnReason},
    pool::{AcquireOptions, Dispatcher, Lease, Limits, Submitted},
    target::{ExitCause, Target},
};
use snakepit_proto::{CallHeader, Field, Fields, ReplyFrame};
use std::{
    error::Error,
    sync::{
        Arc,
        mpsc::{SyncSender, sync_channel},
    },
    time::{Duration, Instant},
};
use tokio::sync::oneshot;

/// UTF-8 text, in `arg_kinds`.
const TEXT: u8 = 1;

type Failure = Box<dyn Error + Send + Sync>;
type Worker = Arc<Connection<EchoCall>>;

/// How a call ended, in words if it got no reply.
type Ended = Result<ReplyFrame, String>;

struct EchoCall {
    header: CallHeader,
    lease: Lease<Worker>,
    caller: SyncSender<Ended>,
}

impl EchoCall {
    fn fail(&self, cause: String) {
        // The caller is gone if the program ends.
        let _ = self.caller.send(Err(cause));
    }
}

impl PendingCall for EchoCall {
    fn header(&mut self) -> &mut CallHeader {
        &mut self.header
    }
    fn replied(self, reply: ReplyFrame) {
        self.lease.done(Duration::from_nanos(reply.handler_ns));
        let _ = self.caller.send(Ok(reply));
    }
    fn cancelled(&mut self, why: Cancelled) -> Report {
        let caller = self.caller.clone();
        Box::new(move || drop(caller.send(Err(format!("{why:?}")))))
    }
    fn exited(self, _exit: Exit, _after: Duration) {}
    fn lost(self, _what: Lost, cause: &str) {
        self.fail(cause.into());
    }
    fn not_started(self, reason: ReturnReason) {
        self.fail(format!("{reason:?}"));
    }
    fn stalled(&self) {}
}

fn main() -> Result<(), Failure> {
    let [socket, calls] = <[String; 2]>::try_from(std::env::args().skip(1).collect::<Vec<_>>())
        .map_err(|_| "usage: lone_calls SOCKET CALLS")?;
    let calls: usize = calls.parse()?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()?;
    let target = Target {
        address: format!("unix:{socket}").parse()?,
        secret: None,
        headers: http::HeaderMap::new(),
        call_metadata: [].into(),
        tls: None,
        max_message_size: 64 * 1024 * 1024,
        timeout: Duration::from_secs(60),
        calls: true,
        takes_draining: true,
        keepalive: None,
        journal: None,
        exit_cause: ExitCause::default(),
    };
    let connection = runtime
        .block_on(Connection::new(&target))
        .map_err(|failure| format!("{failure:?}"))?;
    connection.set_worker(1, Duration::from_secs(5), true);
    let multiplexer = connection.multiplexer();
    let multiplexer = multiplexer.ok_or("the server has not opened Calls")?;
    let limits = Limits {
        max_queue: 1,
        max_sessions: 1,
        pipeline_budget: Duration::from_micros(500),
        size: 1,
        ..Limits::default()
    };
    let pool = Dispatcher::new(limits, |_event| {});
    pool.add(connection, 1);
    for _ in 0..calls {
        echo(&pool, &multiplexer)?;
    }
    Ok(())
}

fn echo(
    pool: &Arc<Dispatcher<Worker>>,
    multiplexer: &Arc<Multiplexer<ClientConnection, EchoCall>>,
) -> Result<(), Failure> {
    let deadline = Some(Instant::now() + Duration::from_secs(60));
    let options = AcquireOptions {
        deadline,
        pipelines: true,
        ..AcquireOptions::default()
    };
    let (would_wait, _granted) = oneshot::channel();
    let lease = match pool.submit(options, would_wait) {
        Submitted::Now(lease, _) => lease,
        Submitted::Queued(_) => return Err("the worker was not free".into()),
        Submitted::Refused(error, _) => return Err(format!("{error:?}").into()),
    };
    let field = (Field::new("data", vec![b'x'; 1024].into()), TEXT);
    let mut header = CallHeader::new("echo".into(), Fields::sent(vec![field], true));
    header.set_deadline(deadline);
    let (caller, ended) = sync_channel(1);
    let call = EchoCall {
        header,
        lease,
        caller,
    };
    multiplexer.start(call, Instant::now(), |_id| {});
    let reply = ended.recv()??;
    if !reply.success {
        return Err(reply.error.into());
    }
    Ok(())
}
