//! A connection's socket, which can be written to while it is not to be read.

use parking_lot::{Condvar, Mutex};
use std::{
    io::{self, ErrorKind},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// What the threads that use a connection know of its socket.
#[derive(Default)]
pub struct IoState {
    writing_only: AtomicBool,
    /// Whether the last write found the socket full.
    blocked: AtomicBool,
    waiting: Mutex<()>,
    unblocked: Condvar,
}

impl IoState {
    /// While set, reading finds nothing.
    #[inline]
    pub(crate) fn set_writing_only(&self, writing_only: bool) {
        self.writing_only.store(writing_only, Ordering::Relaxed);
    }

    #[inline]
    pub(crate) fn is_blocked(&self) -> bool {
        self.blocked.load(Ordering::Acquire)
    }

    #[inline]
    pub(crate) fn set_blocked(&self, blocked: bool) {
        if self.blocked.swap(blocked, Ordering::AcqRel) && !blocked {
            drop(self.waiting.lock());
            self.unblocked.notify_all();
        }
    }

    /// Writing to a peer that has closed its end is no error: data that it sent before is still to be read, and
    /// only the end of that data ends the connection.
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

    /// Waits until the socket takes more. Returns whether it had to wait.
    pub(crate) fn wait_unblocked(&self) -> bool {
        let mut waited = false;
        let mut waiting = self.waiting.lock();
        while self.is_blocked() {
            waited = true;
            self.unblocked.wait(&mut waiting);
        }
        waited
    }
}

/// A socket that reports to an `IoState`.
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
            // The connection's task has already asked to be woken for data.
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
        state.set_writing_only(true);
        let mut buffer = [0; 1];
        let mut buffer = ReadBuf::new(&mut buffer);
        let mut cx = Context::from_waker(Waker::noop());
        assert!(
            Pin::new(&mut near)
                .poll_read(&mut cx, &mut buffer)
                .is_pending()
        );
        state.set_writing_only(false);
        assert_eq!(near.read_u8().await.unwrap(), b'x');
    }
}
