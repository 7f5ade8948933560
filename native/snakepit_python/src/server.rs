//! Listening, connections, and the end of both.

use crate::{ServerConnection, service::Rpc, worker::Worker};
use snakepit_wire::{Driven, Io, Socket};
use std::{
    future::poll_fn,
    io,
    net::TcpListener as StdTcpListener,
    os::unix::net::UnixListener as StdUnixListener,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    thread::JoinHandle,
    time::Duration,
};
use tokio::net::{TcpListener, UnixListener};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// What a client may send before it is read: requests are held whole anyway.
const STREAM_WINDOW: u32 = 16 * 1024 * 1024;
const CONNECTION_WINDOW: u32 = 1 << 30;
const MAX_FRAME_SIZE: u32 = 1024 * 1024;
/// What a stream's chunks may take up in the connection's queue, beside the client's window.
const SEND_BUFFER: usize = 64 * 1024;
/// How many RPCs a connection may have open; commands wait for their turn in the scheduler.
const MAX_RPCS: u32 = 10_000;

pub(crate) enum Listener {
    Unix(StdUnixListener),
    Tcp(StdTcpListener),
}

impl Listener {
    /// Listens at `unix:/path` or `tcp:host:port`; gives the address that it then has.
    pub(crate) fn bind(address: &str) -> io::Result<(Self, String)> {
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

/// The network's thread.
pub(crate) struct Server {
    worker: Arc<Worker>,
    stop: CancellationToken,
    end: CancellationToken,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Server {
    pub(crate) fn start(listener: Listener, worker: Arc<Worker>) -> io::Result<Self> {
        let (stop, end) = (CancellationToken::new(), CancellationToken::new());
        let serving = serve(listener, worker.clone(), stop.clone(), end.clone());
        let serving = worker.seat.runtime.spawn(serving);
        let standing_by = worker.clone();
        let thread = std::thread::Builder::new()
            .name("snakepit-io".into())
            .spawn(move || standing_by.seat.stand_by(serving))?;
        Ok(Self {
            worker,
            stop,
            end,
            thread: Mutex::new(Some(thread)),
        })
    }

    /// Takes no more connections, and tells the clients of those there are.
    pub(crate) fn stop(&self) {
        self.stop.cancel();
    }

    /// Sends what there is to be sent and ends. Without Python's lock.
    pub(crate) fn end(&self) {
        self.stop.cancel();
        self.end.cancel();
        self.worker.seat.end();
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

async fn serve(
    listener: Listener,
    worker: Arc<Worker>,
    stop: CancellationToken,
    end: CancellationToken,
) {
    let connections = TaskTracker::new();
    let accepting = async {
        if let Err(error) = accept(listener, &worker, &stop, &end, &connections).await {
            eprintln!("snakepit_bridge: no more connections: {error}");
        }
    };
    tokio::select! {
        () = accepting => end.cancelled().await,
        () = stop.cancelled() => end.cancelled().await,
    }
    connections.close();
    // What a client does not take is not waited for.
    let _ = tokio::time::timeout(Duration::from_secs(1), connections.wait()).await;
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

async fn accept(
    listener: Listener,
    worker: &Arc<Worker>,
    stop: &CancellationToken,
    end: &CancellationToken,
    connections: &TaskTracker,
) -> io::Result<()> {
    let spawn = |stream: Socket| {
        let serving = connection(stream, worker.clone(), stop.clone(), end.clone());
        connections.spawn(async move {
            // How a connection ends concerns its calls alone, and they are told.
            let _ = serving.await;
        });
    };
    let path = match &listener {
        Listener::Unix(listener) => listener.local_addr()?.as_pathname().map(Path::to_owned),
        Listener::Tcp(_) => None,
    };
    let _unlink = Unlink(path);
    match listener {
        Listener::Unix(listener) => {
            let listener = UnixListener::from_std(listener)?;
            loop {
                let (stream, _) = listener.accept().await?;
                spawn(Socket::unix(stream)?);
            }
        }
        Listener::Tcp(listener) => {
            let listener = TcpListener::from_std(listener)?;
            loop {
                let (stream, _) = listener.accept().await?;
                spawn(Socket::tcp(stream)?);
            }
        }
    }
}

async fn connection(
    stream: Socket,
    worker: Arc<Worker>,
    stop: CancellationToken,
    end: CancellationToken,
) -> Result<(), h2::Error> {
    let (stream, io) = Io::new(stream);
    let connection: ServerConnection = h2::server::Builder::new()
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(MAX_FRAME_SIZE)
        .max_send_buffer_size(SEND_BUFFER)
        .max_concurrent_streams(MAX_RPCS)
        // A client may cancel as many streams as it likes, however fast.
        .max_pending_accept_reset_streams(MAX_RPCS as usize)
        .max_local_error_reset_streams(None)
        .handshake(stream)
        .await?;
    let driven = Driven::new(connection, io);
    let rpcs = TaskTracker::new();
    let accept =
        || poll_fn(|cx| driven.poll(cx.waker(), |connection, cx| connection.poll_accept(cx)));
    let mut stopping = false;
    loop {
        let accepted = tokio::select! {
            biased;
            () = end.cancelled() => break,
            () = stop.cancelled(), if !stopping => {
                stopping = true;
                driven.with(h2::server::Connection::graceful_shutdown);
                continue;
            }
            accepted = accept() => accepted,
        };
        let Some(Ok((request, respond))) = accepted else {
            driven.closed();
            return Ok(());
        };
        let (head, body) = request.into_parts();
        let rpc = Rpc {
            head,
            body,
            respond,
            worker: worker.clone(),
            driven: driven.clone(),
            end: end.clone(),
        };
        rpcs.spawn(rpc.serve());
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
