//! A connected socket whose thread is woken for what it waits for alone.
//!
//! tokio's own have the kernel tell of room to write as well, always: whenever one end reads, the
//! other's thread is woken to learn that it may write what it has not got.

use rustix::{
    fd::{AsFd, OwnedFd},
    io::{read, retry_on_intr, write, writev},
    net::{Shutdown, shutdown},
};
use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, Interest, ReadBuf, unix::AsyncFd},
    net::{TcpStream, UnixStream},
    runtime::Handle,
};

/// How much is read at a time: what it is read into is filled with zeros before.
const READ_UP_TO: usize = 64 * 1024;

pub struct Socket {
    /// Is told of what may be read.
    stream: AsyncFd<OwnedFd>,
    /// Is told of room, while there is none.
    full: Option<AsyncFd<OwnedFd>>,
    /// Also a thread that is not the runtime's may find that there is none.
    runtime: Handle,
}

impl Socket {
    /// To be called on the runtime that the socket is to be driven by.
    pub fn unix(stream: UnixStream) -> io::Result<Self> {
        Self::new(stream.into_std()?.into())
    }

    /// As `unix`.
    pub fn tcp(stream: TcpStream) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        Self::new(stream.into_std()?.into())
    }

    fn new(stream: OwnedFd) -> io::Result<Self> {
        Ok(Self {
            stream: watch(stream, Interest::READABLE)?,
            full: None,
            runtime: Handle::current(),
        })
    }

    fn poll_write_by(
        &mut self,
        cx: &mut Context<'_>,
        write: impl Fn(&OwnedFd) -> rustix::io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        loop {
            let room = match &self.full {
                Some(full) => Some(ready!(full.poll_write_ready(cx))?),
                None => None,
            };
            match retry_on_intr(|| write(self.stream.get_ref())) {
                Err(rustix::io::Errno::AGAIN) => {}
                written => {
                    self.full = None;
                    return Poll::Ready(written.map_err(Into::into));
                }
            }
            if let Some(mut room) = room {
                room.clear_ready();
                continue;
            }
            let _runtime = self.runtime.enter();
            let twin = self.stream.get_ref().as_fd().try_clone_to_owned()?;
            self.full = Some(watch(twin, Interest::WRITABLE)?);
        }
    }
}

/// The way to do it is unsafe now, for what may be no open file; this one is.
#[allow(deprecated)]
fn watch(stream: OwnedFd, interest: Interest) -> io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::with_interest(stream, interest)
}

impl AsyncRead for Socket {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            let mut ready = ready!(self.stream.poll_read_ready(cx))?;
            let room = buf.initialize_unfilled_to(buf.remaining().min(READ_UP_TO));
            match retry_on_intr(|| read(self.stream.get_ref(), &mut *room)) {
                Ok(count) => {
                    // What comes after that wakes again.
                    if (1..room.len()).contains(&count) {
                        ready.clear_ready();
                    }
                    buf.advance(count);
                    return Poll::Ready(Ok(()));
                }
                Err(rustix::io::Errno::AGAIN) => ready.clear_ready(),
                Err(error) => return Poll::Ready(Err(error.into())),
            }
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.get_mut().poll_write_by(cx, |fd| write(fd, bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.get_mut().poll_write_by(cx, |fd| writev(fd, slices))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(shutdown(self.stream.get_ref(), Shutdown::Write).map_err(Into::into))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::{io::Read, task::Waker};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    fn pair() -> (Socket, UnixStream) {
        let (near, far) = UnixStream::pair().unwrap();
        (Socket::unix(near).unwrap(), far)
    }

    #[tokio::test]
    async fn more_than_the_socket_takes_at_once_goes_both_ways_and_then_the_end() {
        let (near, far) = pair();
        let sent: Vec<u8> = (0..3_000_000u32).map(|n| (n % 251) as u8).collect();
        let mut echo = tokio::spawn(async move {
            let (mut reader, mut writer) = far.into_split();
            tokio::io::copy(&mut reader, &mut writer).await.unwrap()
        });
        let (mut reader, mut writer) = tokio::io::split(near);
        let bytes = sent.clone();
        tokio::spawn(async move {
            writer.write_all(&bytes).await.unwrap();
            writer.shutdown().await.unwrap();
        });
        let mut got = Vec::new();
        reader.read_to_end(&mut got).await.unwrap();
        assert!(got == sent);
        assert_eq!((&mut echo).await.unwrap(), sent.len() as u64);
    }

    #[tokio::test]
    async fn what_was_sent_before_the_end_is_read_and_then_the_end() {
        let (mut near, mut far) = pair();
        far.write_all(b"last").await.unwrap();
        drop(far);
        let mut got = String::new();
        near.read_to_string(&mut got).await.unwrap();
        assert_eq!(got, "last");
    }

    #[tokio::test]
    async fn a_full_socket_can_be_found_by_any_thread() {
        let (mut near, mut far) = pair();
        let chunk = vec![7; 1_000_000];
        let full = std::thread::spawn(move || {
            let mut cx = Context::from_waker(Waker::noop());
            let mut sent = 0;
            while let Poll::Ready(count) = Pin::new(&mut near).poll_write(&mut cx, &chunk) {
                sent += count.unwrap();
            }
            (near, sent)
        });
        let (mut near, sent) = full.join().unwrap();
        far.read_exact(&mut vec![0; sent]).await.unwrap();
        near.write_all(b"more").await.unwrap();
        let mut more = [0; 4];
        far.read_exact(&mut more).await.unwrap();
        assert_eq!(&more, b"more");
    }

    #[tokio::test]
    async fn the_thread_is_not_woken_because_the_other_end_has_read() {
        let (mut near, far) = pair();
        for _ in 0..10 {
            near.write_all(b"x").await.unwrap();
        }
        let mut far = far.into_std().unwrap();
        far.set_nonblocking(false).unwrap();
        let (done, told) = tokio::sync::oneshot::channel();
        let runtime = Handle::current();
        let parks = move || runtime.metrics().worker_park_count(0);
        let (before, count) = (parks(), parks.clone());
        let reading = std::thread::spawn(move || {
            while count() == before {
                std::thread::yield_now();
            }
            for _ in 0..10 {
                far.read_exact(&mut [0]).unwrap();
                // Time to be woken, which must not happen.
                std::thread::sleep(std::time::Duration::from_millis(1));
            }
            done.send(far).unwrap();
        });
        let _far = told.await.unwrap();
        assert_eq!(parks(), before + 1);
        reading.join().unwrap();
    }
}
