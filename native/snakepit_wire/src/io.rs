//! What a connection reads from and writes to: a socket, or TLS over one. It can be written to while it is not to be
//! read.

use crate::socket::Socket;
use bytes::Bytes;
use parking_lot::Mutex;
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fd::OwnedFd,
    io::{Errno, ioctl_fionbio},
    net::{Shutdown, shutdown},
};
use std::{
    collections::VecDeque,
    io::{self, ErrorKind},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Instant,
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::TlsStream;

/// How the connection is polled. Only its poller changes it, which has the connection to itself.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Mode {
    /// By its task: for reading and writing.
    Task,
    /// For writing alone. If the socket is full, the task is woken when there is room.
    Write,
    /// As `Write`, by a thread that waits for room itself.
    WriteAll,
}

/// What the threads that use a connection know of its socket.
pub struct IoState {
    socket: Arc<OwnedFd>,
    ends_by: Shutdown,
    /// A `Mode`.
    mode: AtomicU8,
    /// Whether the last write found the socket full.
    blocked: AtomicBool,
    /// Whether the task waited for room that another thread has used.
    unblocked: AtomicBool,
    /// How often something was read.
    reads: AtomicU64,
    /// Whether to look into `fed`.
    feeding: AtomicBool,
    fed: Mutex<Fed>,
}

/// What another than the connection's task has read from its socket.
#[derive(Default)]
struct Fed {
    chunks: VecDeque<Bytes>,
    goes_on: bool,
}

impl IoState {
    #[inline]
    pub(crate) fn set_mode(&self, mode: Mode) {
        self.mode.store(mode as u8, Ordering::Relaxed);
    }

    #[inline]
    fn has_mode(&self, mode: Mode) -> bool {
        self.mode.load(Ordering::Relaxed) == mode as u8
    }

    #[inline]
    pub(crate) fn is_blocked(&self) -> bool {
        self.blocked.load(Ordering::Acquire)
    }

    #[inline]
    pub(crate) fn take_unblocked(&self) -> bool {
        self.unblocked.load(Ordering::Relaxed) && self.unblocked.swap(false, Ordering::Relaxed)
    }

    /// How often something was read.
    #[inline]
    pub fn reads(&self) -> u64 {
        self.reads.load(Ordering::Relaxed)
    }

    /// From now on the connection reads what `feed` gets, which the caller reads from this socket.
    pub fn start_feeding(&self) -> &OwnedFd {
        self.fed.lock().goes_on = true;
        self.feeding.store(true, Ordering::Release);
        &self.socket
    }

    pub fn is_fed(&self) -> bool {
        self.feeding.load(Ordering::Acquire) && self.fed.lock().goes_on
    }

    pub fn feed(&self, bytes: Bytes) {
        self.fed.lock().chunks.push_back(bytes);
    }

    /// After what was fed the connection reads its socket itself again.
    pub fn stop_feeding(&self) {
        // Who has read it may have left it in blocking mode. If that fails it is not open any more.
        let _ = ioctl_fionbio(&self.socket, true);
        self.fed.lock().goes_on = false;
    }

    /// `None` if the connection is to read its socket.
    fn read_fed(&self, buf: &mut ReadBuf<'_>) -> Option<Poll<io::Result<()>>> {
        if !self.feeding.load(Ordering::Acquire) {
            return None;
        }
        let mut fed = self.fed.lock();
        let Some(chunk) = fed.chunks.front_mut() else {
            self.feeding.store(fed.goes_on, Ordering::Release);
            return fed.goes_on.then_some(Poll::Pending);
        };
        buf.put_slice(&chunk.split_to(chunk.len().min(buf.remaining())));
        if chunk.is_empty() {
            fed.chunks.pop_front();
        }
        Some(Poll::Ready(Ok(())))
    }

    /// Writing to a peer that has closed its end is no error: data that it sent before is still to be read, and
    /// only the end of that data ends the connection.
    fn wrote(&self, written: Poll<io::Result<usize>>, size: usize) -> Poll<io::Result<usize>> {
        self.blocked.store(written.is_pending(), Ordering::Release);
        match written {
            Poll::Ready(Err(error))
                if matches!(
                    error.kind(),
                    ErrorKind::BrokenPipe | ErrorKind::ConnectionReset
                ) =>
            {
                Poll::Ready(Ok(size))
            }
            written => written,
        }
    }

    /// Waits on this thread until the socket takes more, or is closed at either end; false if that is not so in time. It
    /// needs no other thread: in a worker that runs one command at a time, nobody drives the runtime while a reply is
    /// written.
    pub(crate) fn wait_for_room(&self, until: Option<Instant>) -> bool {
        let mut socket = [PollFd::new(&self.socket, PollFlags::OUT)];
        loop {
            let left = until.map(|until| until.saturating_duration_since(Instant::now()));
            let left = left.and_then(|left| Timespec::try_from(left).ok());
            match poll(&mut socket, left.as_ref()) {
                Err(Errno::INTR) => {}
                found => return found != Ok(0),
            }
        }
    }

    /// The connection has ended: nothing more is written, and those who wait for room continue.
    pub fn set_ended(&self) {
        self.blocked.store(false, Ordering::Release);
        // The peer may have closed it.
        let _ = shutdown(&self.socket, self.ends_by);
    }
}

/// A socket that is written to as its `IoState` says, and reports to that.
pub struct Port {
    socket: Socket,
    state: Arc<IoState>,
}

impl Port {
    fn new(socket: Socket) -> (Self, Arc<IoState>) {
        let state = Arc::new(IoState {
            socket: socket.fd().clone(),
            ends_by: socket.ends_by(),
            mode: AtomicU8::new(Mode::Task as u8),
            blocked: AtomicBool::new(false),
            unblocked: AtomicBool::new(false),
            reads: AtomicU64::new(0),
            feeding: AtomicBool::new(false),
            fed: Mutex::default(),
        });
        let port = Self {
            socket,
            state: state.clone(),
        };
        (port, state)
    }
}

impl AsyncRead for Port {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = match self.state.read_fed(buf) {
            Some(fed) => {
                self.socket.stop_reading();
                fed
            }
            None => Pin::new(&mut self.socket).poll_read(cx, buf),
        };
        if buf.filled().len() > before {
            self.state.reads.fetch_add(1, Ordering::Relaxed);
        }
        read
    }
}

impl AsyncWrite for Port {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[io::IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let waited = self.socket.waits_for_room();
        let written = if self.state.has_mode(Mode::WriteAll) {
            self.socket.write_now(slices)
        } else {
            Pin::new(&mut self.socket).poll_write_vectored(cx, slices)
        };
        if waited && !self.socket.waits_for_room() && !self.state.has_mode(Mode::Task) {
            self.state.unblocked.store(true, Ordering::Relaxed);
        }
        let size = slices.iter().map(|slice| slice.len()).sum();
        self.state.wrote(written, size)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}

/// A port, or TLS over one.
pub struct Io {
    stream: Stream,
    state: Arc<IoState>,
}

enum Stream {
    Plain(Port),
    Tls(Box<TlsStream<Port>>),
}

impl Io {
    pub fn new(socket: Socket) -> (Self, Arc<IoState>) {
        let (port, state) = Port::new(socket);
        let io = Self {
            stream: Stream::Plain(port),
            state: state.clone(),
        };
        (io, state)
    }

    /// As `new`, with the TLS that `handshake` has negotiated.
    pub async fn secured<F>(
        socket: Socket,
        handshake: impl FnOnce(Port) -> F,
    ) -> io::Result<(Self, Arc<IoState>)>
    where
        F: Future<Output = io::Result<TlsStream<Port>>>,
    {
        let (port, state) = Port::new(socket);
        let io = Self {
            stream: Stream::Tls(Box::new(handshake(port).await?)),
            state: state.clone(),
        };
        Ok((io, state))
    }
}

impl AsyncRead for Io {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.state.has_mode(Mode::Task) {
            // The connection's task has already asked to be woken for data.
            return Poll::Pending;
        }
        match &mut self.stream {
            Stream::Plain(port) => Pin::new(port).poll_read(cx, buf),
            Stream::Tls(tls) => Pin::new(tls).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Io {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match &mut self.stream {
            Stream::Plain(port) => Pin::new(port).poll_write(cx, bytes),
            Stream::Tls(tls) => Pin::new(tls).poll_write(cx, bytes),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.stream {
            Stream::Plain(port) => Pin::new(port).poll_write_vectored(cx, slices),
            Stream::Tls(tls) => Pin::new(tls).poll_write_vectored(cx, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match &self.stream {
            Stream::Plain(port) => port.is_write_vectored(),
            Stream::Tls(tls) => tls.is_write_vectored(),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Stream::Plain(port) => Pin::new(port).poll_flush(cx),
            Stream::Tls(tls) => Pin::new(tls).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Stream::Plain(port) => Pin::new(port).poll_shutdown(cx),
            Stream::Tls(tls) => Pin::new(tls).poll_shutdown(cx),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::task::Waker;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::UnixStream,
    };

    #[tokio::test]
    async fn data_that_a_peer_sent_before_it_closed_is_read_after_a_failed_write() {
        let (near, mut far) = UnixStream::pair().unwrap();
        far.write_all(b"last words").await.unwrap();
        drop(far);
        let (mut near, _state) = Io::new(Socket::unix(near).unwrap());
        near.write_all(b"lost").await.unwrap();
        let mut read = String::new();
        near.read_to_string(&mut read).await.unwrap();
        assert_eq!(read, "last words");
    }

    #[tokio::test]
    async fn a_socket_is_not_read_while_it_is_only_written_to() {
        let (near, mut far) = UnixStream::pair().unwrap();
        far.write_all(b"x").await.unwrap();
        let (mut near, state) = Io::new(Socket::unix(near).unwrap());
        state.set_mode(Mode::Write);
        let mut buffer = [0; 1];
        let mut buffer = ReadBuf::new(&mut buffer);
        let mut cx = Context::from_waker(Waker::noop());
        assert!(
            Pin::new(&mut near)
                .poll_read(&mut cx, &mut buffer)
                .is_pending()
        );
        state.set_mode(Mode::Task);
        assert_eq!(near.read_u8().await.unwrap(), b'x');
    }
}
