//! An HTTP/2 connection that is driven by one task and may be written to by any thread.
//!
//! To wake the task that drives a connection costs a system call and a switch of threads, for a
//! call as for its reply. A thread that has something to send and finds nobody at the connection
//! polls it itself, for writing alone: what comes in stays with the task.

use futures_util::task::AtomicWaker;
use parking_lot::{Condvar, Mutex, MutexGuard};
use std::{
    cell::Cell,
    io::{self, ErrorKind},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Either end of an HTTP/2 connection.
pub trait Connection: Send {
    /// Reads and writes as much as there is; ready once the connection has ended.
    fn poll_io(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), h2::Error>>;
}

impl<T> Connection for h2::client::Connection<T, bytes::Bytes>
where
    T: AsyncRead + AsyncWrite + Unpin + Send,
{
    fn poll_io(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), h2::Error>> {
        Future::poll(Pin::new(self), cx)
    }
}

impl<T> Connection for h2::server::Connection<T, bytes::Bytes>
where
    T: AsyncRead + AsyncWrite + Unpin + Send,
{
    fn poll_io(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), h2::Error>> {
        self.poll_closed(cx)
    }
}

/// How a connection's socket is used at the moment.
#[derive(Default)]
pub struct IoState {
    writing_only: AtomicBool,
    blocked: AtomicBool,
    waiting: Mutex<()>,
    unblocked: Condvar,
}

impl IoState {
    fn set_blocked(&self, blocked: bool) {
        if self.blocked.swap(blocked, Ordering::AcqRel) && !blocked {
            drop(self.waiting.lock());
            self.unblocked.notify_all();
        }
    }

    /// What is written to a peer that is gone is lost, but what it has sent before is still to be
    /// read: only the end of that is the connection's.
    fn wrote(&self, written: Poll<io::Result<usize>>, size: usize) -> Poll<io::Result<usize>> {
        self.set_blocked(written.is_pending());
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

    /// Waits until the socket takes more; tells whether it had to.
    fn wait_unblocked(&self) -> bool {
        let mut waited = false;
        let mut waiting = self.waiting.lock();
        while self.blocked.load(Ordering::Acquire) {
            waited = true;
            self.unblocked.wait(&mut waiting);
        }
        waited
    }
}

/// A socket that can be kept from being read.
pub struct Io<S> {
    stream: S,
    state: Arc<IoState>,
}

impl<S> Io<S> {
    pub fn new(stream: S) -> (Self, Arc<IoState>) {
        let state = Arc::new(IoState::default());
        (
            Self {
                stream,
                state: state.clone(),
            },
            state,
        )
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Io<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.state.writing_only.load(Ordering::Relaxed) {
            // The task that drives the connection has asked to be woken for this already.
            return Poll::Pending;
        }
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Io<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.state.wrote(written, bytes.len())
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        let size = slices.iter().map(|slice| slice.len()).sum();
        self.state.wrote(written, size)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

thread_local! {
    static MUTED: Cell<bool> = const { Cell::new(false) };
}

/// Runs `work`, which polls the connection itself: waking its task for it would be for nothing.
pub fn muted<T>(work: impl FnOnce() -> T) -> T {
    let before = MUTED.replace(true);
    let done = work();
    MUTED.set(before);
    done
}

#[derive(Default)]
struct DriverWaker(AtomicWaker);

impl Wake for DriverWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !MUTED.get() {
            self.0.wake();
        }
    }
}

pub struct Driven<C> {
    connection: Mutex<C>,
    driver: Arc<DriverWaker>,
    waker: Waker,
    io: Arc<IoState>,
}

impl<C: Connection> Driven<C> {
    pub fn new(connection: C, io: Arc<IoState>) -> Arc<Self> {
        let driver = Arc::new(DriverWaker::default());
        Arc::new(Self {
            connection: Mutex::new(connection),
            waker: driver.clone().into(),
            driver,
            io,
        })
    }

    /// For the task that drives the connection: polls it, by `poll` where that does more than I/O.
    pub fn poll<T>(&self, task: &Waker, poll: impl FnOnce(&mut C, &mut Context<'_>) -> T) -> T {
        self.driver.0.register(task);
        let mut connection = self.lock();
        poll(&mut connection, &mut Context::from_waker(&self.waker))
    }

    pub fn with<T>(&self, work: impl FnOnce(&mut C) -> T) -> T {
        work(&mut self.lock())
    }

    /// The connection has ended: nobody is to wait for its socket.
    pub fn closed(&self) {
        self.io.set_blocked(false);
    }

    /// What wakes the task that drives the connection.
    pub fn waker(&self) -> &Waker {
        &self.waker
    }

    /// Has `queue` hand its data to the connection and writes that from this thread. False if another
    /// one is at the connection: nothing was done.
    pub fn write_here(&self, queue: impl FnOnce()) -> bool {
        let connection = self.connection.try_lock();
        connection
            .map(|connection| self.write_locked(connection, queue))
            .is_some()
    }

    /// As `write_here`, but waits for its turn, and until the socket has taken everything or is gone.
    pub fn write_here_in_turn(&self, queue: impl FnOnce()) {
        self.write_locked(self.lock(), queue);
        while self.io.wait_unblocked() {
            self.write_locked(self.lock(), || {});
        }
    }

    fn write_locked(&self, mut connection: MutexGuard<'_, C>, queue: impl FnOnce()) {
        let ended = muted(|| {
            queue();
            self.io.writing_only.store(true, Ordering::Relaxed);
            let ended = connection.poll_io(&mut Context::from_waker(&self.waker));
            self.io.writing_only.store(false, Ordering::Relaxed);
            ended.is_ready()
        });
        drop(connection);
        if ended {
            self.io.set_blocked(false);
            self.waker.wake_by_ref();
        }
    }

    fn lock(&self) -> MutexGuard<'_, C> {
        self.connection.lock()
    }

    /// Whether the socket takes no more for the moment.
    pub fn is_blocked(&self) -> bool {
        self.io.blocked.load(Ordering::Acquire)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::UnixStream,
    };

    #[tokio::test]
    async fn what_a_peer_has_sent_before_it_went_is_read_whatever_is_written_meanwhile() {
        let (near, mut far) = UnixStream::pair().unwrap();
        far.write_all(b"last words").await.unwrap();
        drop(far);
        let (mut near, _state) = Io::new(near);
        near.write_all(b"lost").await.unwrap();
        let mut read = String::new();
        near.read_to_string(&mut read).await.unwrap();
        assert_eq!(read, "last words");
    }

    #[tokio::test]
    async fn a_socket_is_not_read_while_it_is_only_written_to() {
        let (near, mut far) = UnixStream::pair().unwrap();
        far.write_all(b"x").await.unwrap();
        let (mut near, state) = Io::new(near);
        state.writing_only.store(true, Ordering::Relaxed);
        let mut buffer = [0; 1];
        let mut buffer = ReadBuf::new(&mut buffer);
        let mut cx = Context::from_waker(Waker::noop());
        assert!(
            Pin::new(&mut near)
                .poll_read(&mut cx, &mut buffer)
                .is_pending()
        );
        state.writing_only.store(false, Ordering::Relaxed);
        assert_eq!(near.read_u8().await.unwrap(), b'x');
    }
}
