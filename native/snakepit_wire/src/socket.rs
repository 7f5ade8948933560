//! A connected socket that wakes its thread only for what the thread waits for.
//!
//! tokio's own sockets are always registered for writing as well: whenever one end reads, the thread at the other
//! end is woken because there is room to write again. With 32 callers nearly half of the time is the kernel's, for
//! waking threads, switching between them and copying (`guides/performance.md`). A test below counts the wake-ups.
//!
//! What is read goes straight into memory that was not filled with zeros first. Only tokio can do that; its type for
//! the reading end of a pipe is registered for reading alone and does nothing but `read`, so that it reads a socket.

use rustix::{
    fd::{AsRawFd, OwnedFd},
    io::retry_on_intr,
    net::{
        SendAncillaryBuffer, SendFlags, Shutdown, getpeername, send, sendmsg, shutdown, sockopt,
    },
};
use std::{
    io,
    mem::replace,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, Interest, ReadBuf, unix::AsyncFd},
    net::{TcpStream, UnixStream, unix::pipe},
    runtime::Handle,
    time::timeout,
};

/// How much a Unix socket may hold in one direction; the system may allow less. Of the usual 208 KiB a writer is
/// woken when a quarter is left: an echo of 10 MiB took 110 switches of threads at each end, and takes 20 to 25.
const SEND_BUFFER: usize = 1024 * 1024;
/// After so long without data the kernel asks whether the other end of a TCP connection is there: a machine that is gone,
/// or a firewall in between, ends no connection.
const ASKED_AFTER: Duration = Duration::from_secs(60);
const ASKED_EVERY: Duration = Duration::from_secs(10);
const QUESTIONS: u32 = 6;
/// How long data may be on its way over TCP.
#[cfg(target_os = "linux")]
const LOST_AFTER: Duration = Duration::from_secs(120);

pub struct Socket {
    reader: Reader,
    /// Threads that wait without the runtime share it.
    writer: Arc<OwnedFd>,
    /// Registered for writing, while the socket is full.
    full: Option<AsyncFd<Arc<OwnedFd>>>,
    /// A thread outside the runtime may find the socket full as well.
    runtime: Handle,
    is_tcp: bool,
    /// Whether it is read after its connection has ended.
    lingers: bool,
}

/// A file of its own: when all files are in use, the socket must still be read.
enum Reader {
    /// Registered with the runtime, which waits for data.
    Waiting(pipe::Receiver),
    Idle(OwnedFd),
    /// It could not be registered again.
    Lost,
}

impl Socket {
    /// To be called on the runtime that is to drive the socket.
    pub fn unix(stream: UnixStream) -> io::Result<Self> {
        // Without it the socket is only slower.
        let _ = sockopt::set_socket_send_buffer_size(&stream, SEND_BUFFER);
        Self::new(stream.into_std()?.into(), false)
    }

    /// As `unix`. The kernel adapts the buffers of TCP by itself.
    pub fn tcp(stream: TcpStream) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        // Without it the loss of the other end is only noticed later.
        let _ = notice_loss(&stream);
        Self::new(stream.into_std()?.into(), true)
    }

    fn new(stream: OwnedFd, is_tcp: bool) -> io::Result<Self> {
        Ok(Self {
            reader: Reader::Idle(stream.try_clone()?),
            writer: Arc::new(stream),
            full: None,
            runtime: Handle::current(),
            is_tcp,
            lingers: false,
        })
    }

    /// The address of the other end; `unix` for a Unix socket, which has none.
    pub fn peer(&self) -> String {
        let peer = getpeername(&self.writer).ok().flatten();
        let peer = peer.and_then(|peer| SocketAddr::try_from(peer).ok());
        peer.map_or_else(|| "unix".to_owned(), |peer| peer.to_string())
    }

    /// What will be left of the socket when its connection has ended.
    pub fn closing(&mut self) -> Closing {
        self.lingers = self.is_tcp;
        Closing(self.is_tcp.then(|| self.writer.clone()))
    }

    /// How the socket is shut down when its connection has ended, so that a thread that waits for room continues. TCP
    /// answers by a reset what comes after the end of reading: see `Closing`.
    pub(crate) fn ends_by(&self) -> Shutdown {
        if self.lingers {
            Shutdown::Write
        } else {
            Shutdown::Both
        }
    }

    pub(crate) fn fd(&self) -> &Arc<OwnedFd> {
        &self.writer
    }

    /// Whether the task that has written last is woken when there is room.
    #[inline]
    pub(crate) fn waits_for_room(&self) -> bool {
        self.full.is_some()
    }

    /// The runtime does not wait for data any more, until it reads again.
    pub(crate) fn stop_reading(&mut self) {
        if let Reader::Waiting(_) = self.reader
            && let Reader::Waiting(reader) = replace(&mut self.reader, Reader::Lost)
            && let Ok(file) = reader.into_nonblocking_fd()
        {
            self.reader = Reader::Idle(file);
        }
    }

    /// Writes what the socket takes now; pending if it is full. The caller waits for room by itself.
    pub(crate) fn write_now(&mut self, slices: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        // A port of the BEAM that has read it leaves it in blocking mode.
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        let written = match slices {
            [only] => retry_on_intr(|| send(&self.writer, only, flags)),
            _ => {
                let mut nothing = SendAncillaryBuffer::default();
                retry_on_intr(|| sendmsg(&self.writer, slices, &mut nothing, flags))
            }
        };
        match written {
            Err(rustix::io::Errno::AGAIN) => Poll::Pending,
            written => {
                let size = slices.iter().map(|slice| slice.len()).sum();
                // After a part it is full again.
                if written.is_ok_and(|count| count == size) {
                    self.full = None;
                }
                Poll::Ready(written.map_err(Into::into))
            }
        }
    }

    /// As `write_now`; if the socket is full, the task of `cx` is woken when there is room.
    fn poll_writev(
        &mut self,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        loop {
            // The runtime may not know yet of room that another thread has waited for.
            if let written @ Poll::Ready(_) = self.write_now(slices) {
                return written;
            }
            let full = match &mut self.full {
                Some(full) => full,
                full => {
                    let _runtime = self.runtime.enter();
                    full.insert(watch(self.writer.clone())?)
                }
            };
            ready!(full.poll_write_ready(cx))?.clear_ready();
        }
    }
}

fn notice_loss(stream: &TcpStream) -> rustix::io::Result<()> {
    #[cfg(target_os = "linux")]
    sockopt::set_tcp_user_timeout(stream, LOST_AFTER.as_millis() as u32)?;
    sockopt::set_tcp_keepidle(stream, ASKED_AFTER)?;
    sockopt::set_tcp_keepintvl(stream, ASKED_EVERY)?;
    sockopt::set_tcp_keepcnt(stream, QUESTIONS)?;
    sockopt::set_socket_keepalive(stream, true)
}

/// What is left of a socket whose connection has ended.
pub struct Closing(Option<Arc<OwnedFd>>);

impl Closing {
    /// Ends both sides at once.
    pub fn close(&self) {
        if let Some(socket) = &self.0 {
            // The peer may have closed it.
            let _ = shutdown(socket, Shutdown::Both);
        }
    }

    /// After this side was shut down: waits at most so long until the peer has closed the other. If a socket over TCP is
    /// closed while something is unread, be it that the peer updates a window, then the connection is reset: the peer may lose
    /// what it has not read yet, and what is not sent yet never is.
    pub async fn linger(self, at_most: Duration) {
        if let Some(socket) = self.0 {
            let _ = timeout(at_most, read_to_end(&socket)).await;
        }
    }
}

async fn read_to_end(socket: &OwnedFd) -> io::Result<()> {
    let mut reader = pipe::Receiver::from_owned_fd_unchecked(socket.try_clone()?)?;
    let mut ignored = vec![0; 4096];
    while reader.read(&mut ignored).await? > 0 {}
    Ok(())
}

/// Registers a file for writing, without another descriptor. Must be called within the runtime.
/// The function that replaces the deprecated one is unsafe, because it cannot know that the file is open.
#[allow(deprecated)]
pub fn watch<T: AsRawFd>(writer: Arc<T>) -> io::Result<AsyncFd<Arc<T>>> {
    AsyncFd::with_interest(writer, Interest::WRITABLE)
}

impl AsyncRead for Socket {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let Self {
            reader, runtime, ..
        } = self.get_mut();
        if let Reader::Idle(_) = reader
            && let Reader::Idle(file) = replace(reader, Reader::Lost)
        {
            let _runtime = runtime.enter();
            *reader = Reader::Waiting(pipe::Receiver::from_owned_fd_unchecked(file)?);
        }
        match reader {
            Reader::Waiting(reader) => Pin::new(reader).poll_read(cx, buf),
            Reader::Idle(_) | Reader::Lost => Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[io::IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.get_mut().poll_writev(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(shutdown(&self.writer, Shutdown::Write).map_err(Into::into))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::Io;
    use std::{io::Read, task::Waker};
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    const PATIENCE: Duration = Duration::from_secs(60);

    fn pair() -> (Socket, UnixStream) {
        let (near, far) = UnixStream::pair().unwrap();
        (Socket::unix(near).unwrap(), far)
    }

    #[tokio::test]
    async fn more_data_than_the_socket_holds_goes_both_ways_and_then_the_end() {
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
    async fn data_sent_before_the_end_is_read_and_then_the_end() {
        let (mut near, mut far) = pair();
        far.write_all(b"last").await.unwrap();
        drop(far);
        let mut got = String::new();
        near.read_to_string(&mut got).await.unwrap();
        assert_eq!(got, "last");
    }

    #[tokio::test]
    async fn the_kernel_asks_whether_the_other_end_of_a_tcp_connection_is_there() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let far = TcpStream::connect(listener.local_addr().unwrap());
        let socket = Socket::tcp(far.await.unwrap()).unwrap();
        assert!(sockopt::socket_keepalive(&socket.writer).unwrap());
        assert_eq!(sockopt::tcp_keepidle(&socket.writer).unwrap(), ASKED_AFTER);
        #[cfg(target_os = "linux")]
        assert_eq!(
            u128::from(sockopt::tcp_user_timeout(&socket.writer).unwrap()),
            LOST_AFTER.as_millis()
        );
    }

    #[tokio::test]
    async fn a_peer_that_still_sends_when_a_connection_ends_can_read_everything() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (far, accepted) = tokio::join!(TcpStream::connect(address), listener.accept());
        let (mut far, mut near) = (far.unwrap(), Socket::tcp(accepted.unwrap().0).unwrap());
        let closing = near.closing();
        // More than the peer's side holds is on its way.
        let mut cx = Context::from_waker(Waker::noop());
        let mut sent = 0;
        while let Poll::Ready(count) = Pin::new(&mut near).poll_write(&mut cx, &[7; 100_000]) {
            sent += count.unwrap();
        }
        far.write_all(b"unread").await.unwrap();
        let (near, state) = Io::new(near);
        state.set_ended();
        drop(near);
        let lingering = tokio::spawn(closing.linger(PATIENCE));
        far.write_all(b"more").await.unwrap();
        let mut got = Vec::new();
        far.read_to_end(&mut got).await.unwrap();
        assert_eq!(got.len(), sent);
        drop(far);
        lingering.await.unwrap();
    }

    #[tokio::test]
    async fn any_thread_may_find_the_socket_full() {
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
    async fn reading_that_was_stopped_goes_on() {
        let (mut near, mut far) = pair();
        for _ in 0..3 {
            near.stop_reading();
            far.write_all(b"x").await.unwrap();
            assert_eq!(near.read_u8().await.unwrap(), b'x');
        }
    }

    #[tokio::test]
    async fn a_full_socket_that_was_left_in_blocking_mode_blocks_no_thread() {
        let (mut near, _far) = pair();
        rustix::io::ioctl_fionbio(near.fd(), false).unwrap();
        let chunk = vec![7; 1_000_000];
        let chunk = [io::IoSlice::new(&chunk)];
        while near.write_now(&chunk).is_ready() {}
    }

    #[tokio::test]
    async fn the_thread_is_not_woken_when_the_other_end_reads() {
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
                // Time in which the thread could be woken.
                std::thread::sleep(std::time::Duration::from_millis(1));
            }
            done.send(far).unwrap();
        });
        let _far = told.await.unwrap();
        assert_eq!(parks(), before + 1);
        reading.join().unwrap();
    }
}
