//! Listening, connections, and the end of both.

use crate::{
    rpc::{self, Rpc, ServerConnection},
    seat::Seat,
    secret::Secret,
};
use snakepit_wire::{Driven, Io, MAX_HEADER_LIST, Socket};
use std::{
    collections::BTreeMap,
    future::poll_fn,
    io,
    net::TcpListener as StdTcpListener,
    ops::RangeInclusive,
    os::unix::net::UnixListener as StdUnixListener,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};
use tokio::{
    net::{TcpListener, UnixListener},
    time::{Instant, sleep, sleep_until},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// What a client may send before it is read: requests are held whole anyway.
const STREAM_WINDOW: u32 = 16 * 1024 * 1024;
const CONNECTION_WINDOW: u32 = 1 << 30;
const MAX_FRAME_SIZE: u32 = 1024 * 1024;
/// What a stream's chunks may take up in the connection's queue, beside the client's window.
const SEND_BUFFER: usize = 64 * 1024;
/// How many RPCs a connection may have open; commands wait for their turn in the scheduler.
const MAX_RPCS: u32 = 10_000;
/// For how long a connection is kept on which no RPC has brought the secret.
const UNTRUSTED_FOR: Duration = Duration::from_secs(10);
/// How many of them there may be: for a further one the oldest is closed.
const MAX_UNTRUSTED: usize = 256;
/// When a connection could not be accepted, for want of files for one, it is tried again.
const ACCEPT_AGAIN_AFTER: RangeInclusive<Duration> =
    Duration::from_millis(10)..=Duration::from_secs(1);

pub enum Listener {
    Unix(StdUnixListener),
    Tcp(StdTcpListener),
}

impl Listener {
    /// Listens at `unix:/path` or `tcp:host:port`; gives the address that it then has.
    pub fn bind(address: &str) -> io::Result<(Self, String)> {
        match address.split_once(':') {
            Some(("unix", path)) => {
                let listener = StdUnixListener::bind(path)?;
                listener.set_nonblocking(true)?;
                Ok((Self::Unix(listener), address.to_owned()))
            }
            Some(("tcp", host)) => {
                let listener = StdTcpListener::bind(host)?;
                listener.set_nonblocking(true)?;
                let address = format!("tcp:{}", listener.local_addr()?);
                Ok((Self::Tcp(listener), address))
            }
            _ => Err(io::Error::new(io::ErrorKind::InvalidInput, "no address")),
        }
    }
}

/// What serves the RPCs of all connections.
pub trait Service: Send + Sync + 'static {
    /// Serves one that has brought the secret.
    fn serve(self: Arc<Self>, rpc: Rpc) -> impl Future<Output = ()> + Send;
}

/// The network's thread.
pub struct Server {
    seat: Arc<Seat>,
    stop: CancellationToken,
    end: CancellationToken,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Server {
    pub fn start(
        listener: Listener,
        secret: Secret,
        seat: Arc<Seat>,
        service: Arc<impl Service>,
    ) -> io::Result<Self> {
        let (stop, end) = (CancellationToken::new(), CancellationToken::new());
        let serving = Serving {
            service,
            secret: Arc::new(secret),
            stop: stop.clone(),
            end: end.clone(),
        };
        let serving = seat.runtime.spawn(serving.run(listener));
        let standing_by = seat.clone();
        let thread = std::thread::Builder::new()
            .name("snakepit-io".into())
            .spawn(move || standing_by.stand_by(serving))?;
        Ok(Self {
            seat,
            stop,
            end,
            thread: Mutex::new(Some(thread)),
        })
    }

    /// Takes no more connections, and tells the clients of those there are.
    pub fn stop(&self) {
        self.stop.cancel();
    }

    /// Sends what there is to be sent and ends. Without Python's lock.
    pub fn end(&self) {
        self.stop.cancel();
        self.end.cancel();
        self.seat.end();
        let thread = self
            .thread
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(thread) = thread {
            let _ = thread.join();
        }
    }
}

/// Takes the file of a Unix socket away with the listener.
struct Unlink(Option<PathBuf>);

impl Drop for Unlink {
    fn drop(&mut self) {
        if let Some(path) = &self.0 {
            // Somebody else may have.
            let _ = std::fs::remove_file(path);
        }
    }
}

/// Where connections come in.
enum Incoming {
    Unix(UnixListener),
    Tcp(TcpListener, Arc<Newcomers>),
}

impl Incoming {
    async fn accept(&self) -> io::Result<(Socket, Option<Newcomer>)> {
        Ok(match self {
            // Only the worker's own user can reach it.
            Self::Unix(listener) => (Socket::unix(listener.accept().await?.0)?, None),
            Self::Tcp(listener, newcomers) => {
                let socket = Socket::tcp(listener.accept().await?.0)?;
                (socket, Some(newcomers.join()))
            }
        })
    }
}

/// The connections that have not brought the secret, the oldest first.
#[derive(Default)]
struct Newcomers {
    count: AtomicU64,
    open: Mutex<BTreeMap<u64, CancellationToken>>,
}

impl Newcomers {
    fn join(self: &Arc<Self>) -> Newcomer {
        let id = self.count.fetch_add(1, Ordering::Relaxed);
        let refused = CancellationToken::new();
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.insert(id, refused.clone());
        if open.len() > MAX_UNTRUSTED
            && let Some((_, oldest)) = open.pop_first()
        {
            oldest.cancel();
        }
        Newcomer {
            all: self.clone(),
            id,
            refused,
            until: Instant::now() + UNTRUSTED_FOR,
        }
    }
}

/// One of them, until it is dropped.
struct Newcomer {
    all: Arc<Newcomers>,
    id: u64,
    refused: CancellationToken,
    until: Instant,
}

impl Newcomer {
    /// Ready once the connection is to be closed; never for one that is trusted.
    async fn refused(one: Option<&Self>) {
        match one {
            None => std::future::pending().await,
            Some(one) => tokio::select! {
                () = one.refused.cancelled() => {}
                () = sleep_until(one.until) => {}
            },
        }
    }
}

impl Drop for Newcomer {
    fn drop(&mut self) {
        let open = &self.all.open;
        let mut open = open.lock().unwrap_or_else(PoisonError::into_inner);
        open.remove(&self.id);
    }
}

/// What every connection has.
struct Serving<S> {
    service: Arc<S>,
    secret: Arc<Secret>,
    stop: CancellationToken,
    end: CancellationToken,
}

impl<S> Clone for Serving<S> {
    fn clone(&self) -> Self {
        Self {
            service: self.service.clone(),
            secret: self.secret.clone(),
            stop: self.stop.clone(),
            end: self.end.clone(),
        }
    }
}

impl<S: Service> Serving<S> {
    async fn run(self, listener: Listener) {
        let connections = TaskTracker::new();
        let accepting = async {
            if let Err(error) = self.accept(listener, &connections).await {
                eprintln!("snakepit_bridge: no more connections: {error}");
            }
        };
        tokio::select! {
            () = accepting => self.end.cancelled().await,
            () = self.stop.cancelled() => self.end.cancelled().await,
        }
        connections.close();
        // What a client does not take is not waited for.
        let _ = tokio::time::timeout(Duration::from_secs(1), connections.wait()).await;
    }

    async fn accept(&self, listener: Listener, connections: &TaskTracker) -> io::Result<()> {
        let path = match &listener {
            Listener::Unix(listener) => listener.local_addr()?.as_pathname().map(Path::to_owned),
            Listener::Tcp(_) => None,
        };
        let _unlink = Unlink(path);
        let incoming = match listener {
            Listener::Unix(listener) => Incoming::Unix(UnixListener::from_std(listener)?),
            Listener::Tcp(listener) => {
                Incoming::Tcp(TcpListener::from_std(listener)?, Arc::default())
            }
        };
        let (first, longest) = ACCEPT_AGAIN_AFTER.into_inner();
        let mut again_after = first;
        loop {
            match incoming.accept().await {
                Ok((stream, newcomer)) => {
                    again_after = first;
                    let serving = self.clone();
                    connections.spawn(async move {
                        // How a connection ends concerns its calls alone, and they are told.
                        let _ = serving.connection(stream, newcomer).await;
                    });
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

    async fn connection(
        self,
        stream: Socket,
        mut newcomer: Option<Newcomer>,
    ) -> Result<(), h2::Error> {
        let (stream, io) = Io::new(stream);
        let mut builder = h2::server::Builder::new();
        builder
            .initial_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_frame_size(MAX_FRAME_SIZE)
            .max_header_list_size(MAX_HEADER_LIST)
            .max_send_buffer_size(SEND_BUFFER)
            .max_concurrent_streams(MAX_RPCS)
            // A client may cancel as many streams as it likes, however fast.
            .max_pending_accept_reset_streams(MAX_RPCS as usize)
            .max_local_error_reset_streams(None);
        let connection: ServerConnection = tokio::select! {
            connection = builder.handshake(stream) => connection?,
            () = Newcomer::refused(newcomer.as_ref()) => return Ok(()),
        };
        let driven = Driven::new(connection, io);
        let rpcs = TaskTracker::new();
        let accept =
            || poll_fn(|cx| driven.poll(cx.waker(), |connection, cx| connection.poll_accept(cx)));
        let mut stopping = false;
        loop {
            let accepted = tokio::select! {
                biased;
                () = self.end.cancelled() => break,
                () = self.stop.cancelled(), if !stopping => {
                    stopping = true;
                    driven.with(h2::server::Connection::graceful_shutdown);
                    continue;
                }
                accepted = accept() => accepted,
                () = Newcomer::refused(newcomer.as_ref()) => None,
            };
            let Some(Ok((request, mut respond))) = accepted else {
                driven.closed();
                return Ok(());
            };
            let (head, body) = request.into_parts();
            if !self.secret.is_in(&head.headers) {
                rpc::fail(&mut respond, &Secret::missing());
                continue;
            }
            newcomer = None;
            let rpc = Rpc {
                head,
                body,
                respond,
                driven: driven.clone(),
                end: self.end.clone(),
            };
            rpcs.spawn(self.service.clone().serve(rpc));
        }
        // Answers that were given are still sent.
        rpcs.close();
        tokio::select! {
            () = rpcs.wait() => {}
            _ = async { while let Some(Ok(_)) = accept().await {} } => {}
        }
        driven.write_here(|| {});
        driven.closed();
        Ok(())
    }
}
