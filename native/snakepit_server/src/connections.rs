//! Accepts connections, drives each of them, and drains them when the server ends.

use crate::{
    grpc::{Rpc, ServerConnection},
    newcomers::{Newcomer, Newcomers},
    secret::Secret,
    tasks::Tasks,
};
use snakepit_wire::{Io, Listener, MAX_FRAME_SIZE, MAX_HEADER_LIST, SharedConnection, Socket};
use std::{future::poll_fn, ops::RangeInclusive, sync::Arc, time::Duration};
use tokio::time::{sleep, timeout};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

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
/// How long the server waits at its end for clients that do not read.
const ENDS_WITHIN: Duration = Duration::from_secs(1);

/// Serves the RPCs of all connections.
pub trait Service: Send + Sync + 'static {
    /// Serves one RPC, which has the secret.
    fn serve(self: Arc<Self>, rpc: Rpc) -> impl Future<Output = ()> + Send;
}

pub(crate) struct Connections<S> {
    service: Arc<S>,
    secret: Arc<Secret>,
    tasks: Arc<Tasks>,
    stop: CancellationToken,
    end: CancellationToken,
}

impl<S> Clone for Connections<S> {
    fn clone(&self) -> Self {
        Self {
            service: self.service.clone(),
            secret: self.secret.clone(),
            tasks: self.tasks.clone(),
            stop: self.stop.clone(),
            end: self.end.clone(),
        }
    }
}

impl<S: Service> Connections<S> {
    /// At `stop` clients are asked to leave, at `end` connections are closed.
    pub(crate) fn new(
        service: Arc<S>,
        secret: Secret,
        tasks: Arc<Tasks>,
        stop: CancellationToken,
        end: CancellationToken,
    ) -> Self {
        Self {
            service,
            secret: Arc::new(secret),
            tasks,
            stop,
            end,
        }
    }

    pub(crate) async fn serve(self, listener: Listener) {
        let open = TaskTracker::new();
        tokio::select! {
            () = self.accept(listener, &open) => {}
            () = self.stop.cancelled() => {}
        }
        self.end.cancelled().await;
        open.close();
        let _ = timeout(ENDS_WITHIN, open.wait()).await;
    }

    async fn accept(&self, listener: Listener, open: &TaskTracker) {
        // Where other users can connect, a connection is not trusted until an RPC has had the secret.
        let newcomers = (!listener.is_private()).then(Arc::<Newcomers>::default);
        let (first, longest) = ACCEPT_AGAIN_AFTER.into_inner();
        let mut again_after = first;
        loop {
            match listener.accept().await {
                Ok(socket) => {
                    again_after = first;
                    let newcomer = newcomers.as_ref().map(Newcomers::join);
                    let connections = self.clone();
                    self.tasks.spawn(open.track_future(async move {
                        // The calls on a connection learn of its end by themselves.
                        let _ = connections.drive(socket, newcomer).await;
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

    async fn drive(self, socket: Socket, mut newcomer: Option<Newcomer>) -> Result<(), h2::Error> {
        let (socket, io) = Io::new(socket);
        let builder = builder(newcomer.is_some());
        let connection: ServerConnection = tokio::select! {
            connection = builder.handshake(socket) => connection?,
            () = Newcomer::refused(newcomer.as_ref()) => return Ok(()),
        };
        let connection = SharedConnection::new(connection, io);
        let rpcs = TaskTracker::new();
        let accept = || {
            poll_fn(|cx| connection.poll(cx.waker(), |connection, cx| connection.poll_accept(cx)))
        };
        let mut stopping = false;
        loop {
            let accepted = tokio::select! {
                biased;
                () = self.end.cancelled() => break,
                () = self.stop.cancelled(), if !stopping => {
                    stopping = true;
                    connection.with(h2::server::Connection::graceful_shutdown);
                    continue;
                }
                accepted = accept() => accepted,
                () = Newcomer::refused(newcomer.as_ref()) => None,
            };
            let Some(Ok((request, respond))) = accepted else {
                connection.set_ended();
                return Ok(());
            };
            let mut rpc = Rpc::new(request, respond, connection.clone(), self.end.clone());
            if self.secret.is_in(&rpc.head.headers) {
                newcomer = None;
                let serving = self.service.clone().serve(rpc);
                self.tasks.spawn(rpcs.track_future(serving));
            } else {
                rpc.fail(&Secret::missing());
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
        Ok(())
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
