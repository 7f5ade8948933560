//! Accepts connections, drives each of them, and drains them when the server ends.

use crate::{
    grpc::{Rpc, ServerConnection},
    health::Health,
    newcomers::{Newcomer, Newcomers},
    reflection,
    secret::Secrets,
    shutdown::Shutdown,
    tasks::Tasks,
};
use http::request::Parts;
use snakepit_wire::{
    Io, Listener, MAX_FRAME_SIZE, MAX_HEADER_LIST, SharedConnection, Socket, tls::server::ServerTls,
};
use std::{
    future::{pending, poll_fn},
    hash::{BuildHasher, Hasher, RandomState},
    ops::RangeInclusive,
    sync::Arc,
    task::Poll,
    time::Duration,
};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::task::TaskTracker;

/// How much a client may send before the server reads it. Requests are held in memory whole anyway.
const STREAM_WINDOW: u32 = 16 * 1024 * 1024;
const CONNECTION_WINDOW: u32 = 1 << 30;
/// The largest DATA frame where other users can connect: memory for it is taken before a secret is checked.
const PUBLIC_FRAME_SIZE: u32 = 1024 * 1024;
/// How many bytes of a stream may be in the connection's queue.
const SEND_BUFFER: usize = 64 * 1024;
/// How many RPCs may be open on a connection. Commands queue in the scheduler.
const MAX_RPCS: u32 = 10_000;
/// The shortest and the longest pause after a connection could not be accepted, for instance because the
/// process has too many open files.
const ACCEPT_AGAIN_AFTER: RangeInclusive<Duration> =
    Duration::from_millis(10)..=Duration::from_secs(1);
/// How long the server waits until a client has closed a connection that the server has ended, and at its own end for
/// clients that do not read. A busy machine's clients and proxies take a second and more.
const CLOSES_WITHIN: Duration = Duration::from_secs(5);

/// How long a client whose secret was withdrawn may take to leave.
const LEAVES_WITHIN: Duration = Duration::from_secs(30);

/// Serves the RPCs of all connections.
pub trait Service: Send + Sync + 'static {
    /// Serves one RPC, which has the secret.
    fn serve(self: Arc<Self>, rpc: Rpc) -> impl Future<Output = ()> + Send;

    /// Whether the RPC ends when its client is asked to leave.
    fn ends_when_asked(_head: &Parts) -> bool {
        true
    }
}

/// What the listeners of a server share.
pub(crate) struct Network {
    pub(crate) secrets: Secrets,
    pub(crate) health: Health,
    pub(crate) shutdown: Shutdown,
    max_age: Option<Duration>,
    patience: Option<Duration>,
    tasks: Arc<Tasks>,
}

impl Network {
    pub(crate) fn new(
        secrets: Secrets,
        max_age: Option<Duration>,
        patience: Option<Duration>,
        tasks: Arc<Tasks>,
    ) -> Self {
        Self {
            secrets,
            health: Health::default(),
            shutdown: Shutdown::default(),
            max_age,
            patience,
            tasks,
        }
    }
}

/// The connections of one listener.
pub(crate) struct Connections<S> {
    service: Arc<S>,
    network: Arc<Network>,
    tls: Option<ServerTls>,
}

impl<S> Clone for Connections<S> {
    fn clone(&self) -> Self {
        Self {
            service: self.service.clone(),
            network: self.network.clone(),
            tls: self.tls.clone(),
        }
    }
}

impl<S: Service> Connections<S> {
    pub(crate) fn new(service: Arc<S>, network: Arc<Network>, tls: Option<ServerTls>) -> Self {
        Self {
            service,
            network,
            tls,
        }
    }

    pub(crate) async fn serve(self, listener: Listener) {
        let shutdown = &self.network.shutdown;
        tokio::select! {
            () = self.accept(listener) => {}
            () = shutdown.stop.cancelled() => {}
        }
        shutdown.end.cancelled().await;
        shutdown.connections.close();
        let _ = timeout(CLOSES_WITHIN, shutdown.connections.wait()).await;
    }

    async fn accept(&self, listener: Listener) {
        // Where other users can connect, a connection is not trusted until an RPC has had the secret.
        let newcomers = (!listener.is_private()).then(Arc::<Newcomers>::default);
        let (first, longest) = ACCEPT_AGAIN_AFTER.into_inner();
        let mut again_after = first;
        loop {
            match listener.accept().await {
                Ok(socket) => {
                    again_after = first;
                    let newcomer = newcomers.as_ref().map(Newcomers::join);
                    let driving = self.clone().drive(socket, newcomer);
                    let connections = &self.network.shutdown.connections;
                    self.network
                        .tasks
                        .spawn(connections.track_future(async move {
                            // The calls on a connection learn of its end by themselves.
                            let _ = driving.await;
                        }));
                }
                Err(error) => {
                    if again_after == first {
                        eprintln!(
                            "snakepit_bridge: cannot accept a connection ({error}); trying again"
                        );
                    }
                    sleep(again_after).await;
                    again_after = longest.min(again_after * 2);
                }
            }
        }
    }

    /// Serves a connection up to its end; `None` if it ends before the server.
    async fn drive(self, mut socket: Socket, mut newcomer: Option<Newcomer>) -> Option<()> {
        let shutdown = &self.network.shutdown;
        let peer: Arc<str> = socket.peer().into();
        let closing = socket.closing();
        let checks = TaskTracker::new();
        checks.close();
        let connection = tokio::select! {
            connection = self.handshake(socket, newcomer.is_some()) => connection?,
            () = Newcomer::refused(newcomer.as_ref(), &checks) => return None,
            () = shutdown.end.cancelled() => return None,
        };
        let rpcs = TaskTracker::new();
        let accept = || {
            poll_fn(|cx| connection.poll(cx.waker(), |connection, cx| connection.poll_accept(cx)))
        };
        let draining = shutdown.draining.child_token();
        // A client that comes while the server drains may stay until it stops.
        let must_leave = if draining.is_cancelled() {
            &shutdown.stop
        } else {
            &draining
        };
        let mut visitor = self.network.secrets.visitor();
        let mut leaving = false;
        let mut old_at = self.network.max_age.map(|age| Instant::now() + varied(age));
        let mut close_at = None;
        loop {
            let accepted = tokio::select! {
                biased;
                () = shutdown.end.cancelled() => break,
                () = must_leave.cancelled(), if !leaving => {
                    leaving = true;
                    ask_to_leave(&connection).await;
                    continue;
                }
                () = visitor.is_withdrawn() => {
                    draining.cancel();
                    close_at.get_or_insert_with(|| Instant::now() + LEAVES_WITHIN);
                    continue;
                }
                () = passed(old_at) => {
                    old_at = None;
                    draining.cancel();
                    continue;
                }
                accepted = accept() => accepted,
                () = Newcomer::refused(newcomer.as_ref(), &checks) => {
                    closing.close();
                    None
                }
                () = passed(close_at) => {
                    closing.close();
                    None
                }
            };
            let Some(Ok((request, respond))) = accepted else {
                connection.set_ended();
                // Its RPCs learn of the end.
                while let Some(Ok(_)) = accept().await {}
                if leaving {
                    closing.linger(CLOSES_WITHIN).await;
                }
                return None;
            };
            let mut rpc = Rpc::new(
                request,
                respond,
                connection.clone(),
                draining.clone(),
                shutdown,
                peer.clone(),
            );
            let trusted = visitor.is_trusted(&mut rpc.head.headers);
            if trusted {
                newcomer = None;
            }
            if Health::serves(&rpc) {
                if newcomer.is_some()
                    && let Err(status) = Health::admits(checks.len())
                {
                    rpc.fail(&status);
                    continue;
                }
                let network = self.network.clone();
                let checking = async move { network.health.serve(rpc).await };
                self.spawn(rpcs.track_future(checks.track_future(checking)), true);
            } else if trusted && reflection::serves(&rpc) {
                self.spawn(rpcs.track_future(reflection::serve(rpc)), true);
            } else if trusted {
                let ends = S::ends_when_asked(&rpc.head);
                self.spawn(rpcs.track_future(self.service.clone().serve(rpc)), ends);
            } else {
                rpc.fail(&Secrets::missing());
            }
        }
        // Finished answers are still sent.
        rpcs.close();
        tokio::select! {
            () = rpcs.wait() => {}
            _ = async { while let Some(Ok(_)) = accept().await {} } => {}
        }
        connection.write_here(|| {});
        connection.set_ended();
        // No stranger delays the server's end.
        if newcomer.is_none() {
            closing.linger(CLOSES_WITHIN).await;
        }
        Some(())
    }

    /// Serves an RPC. If it `ends` when its client is asked to leave, draining waits for it.
    fn spawn(&self, serving: impl Future<Output = ()> + Send + 'static, ends: bool) {
        let Network {
            tasks, shutdown, ..
        } = &*self.network;
        if ends {
            tasks.spawn(shutdown.rpcs.track_future(serving));
        } else {
            tasks.spawn(serving);
        }
    }

    async fn handshake(
        &self,
        socket: Socket,
        is_public: bool,
    ) -> Option<Arc<SharedConnection<ServerConnection>>> {
        let (io, state) = match &self.tls {
            None => Io::new(socket),
            Some(tls) => tls.accept(socket).await.ok()?,
        };
        let connection = builder(is_public).handshake(io).await.ok()?;
        Some(SharedConnection::new(
            connection,
            state,
            self.network.patience,
        ))
    }
}

/// Sends GOAWAY, after the frames by which `Calls` say so to their clients.
async fn ask_to_leave(connection: &SharedConnection<ServerConnection>) {
    let mut polled = false;
    poll_fn(|cx| {
        if std::mem::replace(&mut polled, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
    connection.write_here(|| {});
    connection.with(h2::server::Connection::graceful_shutdown);
}

/// Up to a tenth more: connections that were opened together do not end together.
fn varied(time: Duration) -> Duration {
    let random = RandomState::new().build_hasher().finish();
    time + time.mul_f64((random % 100) as f64 / 1000.0)
}

async fn passed(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => pending().await,
    }
}

fn builder(is_public: bool) -> h2::server::Builder {
    let mut builder = h2::server::Builder::new();
    builder
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(if is_public {
            PUBLIC_FRAME_SIZE
        } else {
            MAX_FRAME_SIZE
        })
        .max_header_list_size(MAX_HEADER_LIST)
        .max_send_buffer_size(SEND_BUFFER)
        .max_concurrent_streams(MAX_RPCS)
        // A client may cancel any number of streams at any rate.
        .max_pending_accept_reset_streams(MAX_RPCS as usize)
        .max_local_error_reset_streams(None);
    builder
}
