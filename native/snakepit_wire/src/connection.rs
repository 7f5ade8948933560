//! An HTTP/2 connection that one task drives and any thread may write to.
//!
//! hyper's and tonic's connections are written by their own task alone. Waking a task costs a system call and a
//! switch of threads, for a call as for its reply, which is where most of a call's time goes: `guides/performance.md`
//! shows 58 µs for a call that wakes three threads, and 48 µs for a raw echo through a port, which wakes two. Here
//! a thread that has something to send polls the connection itself, for writing alone, unless another thread is
//! using it. Reading stays with the task.

use crate::io::{IoState, Mode};
use futures_util::task::AtomicWaker;
use parking_lot::{Mutex, MutexGuard};
use std::{
    cell::Cell,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Wake, Waker},
    time::{Duration, Instant},
};
use tokio::io::{AsyncRead, AsyncWrite};

/// Either end of an HTTP/2 connection.
pub trait Connection: Send {
    /// Reads and writes as much as possible without waiting; ready once the connection has ended.
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

thread_local! {
    static WITHOUT_WAKEUPS: Cell<bool> = const { Cell::new(false) };
    /// Whether a wake-up has been withheld.
    static WITHHELD: Cell<bool> = const { Cell::new(false) };
}

/// Runs `work`, which is part of polling the connection or followed by it, without waking the connection's task.
pub fn without_wakeups<T>(work: impl FnOnce() -> T) -> T {
    let before = WITHOUT_WAKEUPS.replace(true);
    let done = work();
    WITHOUT_WAKEUPS.set(before);
    done
}

/// As `without_wakeups`. Returns whether `work` has left the connection something to do.
pub fn leaves_work(work: impl FnOnce()) -> bool {
    let before = WITHHELD.replace(false);
    without_wakeups(work);
    WITHHELD.replace(before)
}

#[derive(Default)]
struct TaskWaker(AtomicWaker);

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if WITHOUT_WAKEUPS.get() {
            WITHHELD.set(true);
        } else {
            self.0.wake();
        }
    }
}

pub struct SharedConnection<C> {
    connection: Mutex<C>,
    task: Arc<TaskWaker>,
    /// Wakes `task`.
    waker: Waker,
    io: Arc<IoState>,
    /// How long a thread waits for a peer that does not read, unless as long as it takes.
    patience: Option<Duration>,
}

impl<C: Connection> SharedConnection<C> {
    pub fn new(connection: C, io: Arc<IoState>, patience: Option<Duration>) -> Arc<Self> {
        let task = Arc::new(TaskWaker::default());
        Arc::new(Self {
            connection: Mutex::new(connection),
            waker: task.clone().into(),
            task,
            io,
            patience,
        })
    }

    /// Polls the connection by `poll`. To be called by the task that drives it, whose waker `task` is.
    pub fn poll<T>(&self, task: &Waker, poll: impl FnOnce(&mut C, &mut Context<'_>) -> T) -> T {
        self.register(task);
        self.poll_here(poll)
    }

    /// Sets the waker of the task that drives the connection.
    pub fn register(&self, task: &Waker) {
        self.task.0.register(task);
    }

    /// As `poll`, on any thread. What is to be waited for then, the task waits for.
    pub fn poll_here<T>(&self, poll: impl FnOnce(&mut C, &mut Context<'_>) -> T) -> T {
        poll(&mut self.lock(), &mut Context::from_waker(&self.waker))
    }

    pub fn io(&self) -> &IoState {
        &self.io
    }

    pub fn with<T>(&self, work: impl FnOnce(&mut C) -> T) -> T {
        work(&mut self.lock())
    }

    /// The connection has ended: threads that wait for its socket continue.
    pub fn set_ended(&self) {
        self.io.set_ended();
    }

    /// Wakes the task that drives the connection.
    pub fn waker(&self) -> &Waker {
        &self.waker
    }

    /// Calls `queue`, which gives the connection data, and writes the data from this thread. False if another
    /// thread is using the connection: then nothing was done.
    pub fn write_here(&self, queue: impl FnOnce()) -> bool {
        let connection = self.connection.try_lock();
        connection
            .map(|connection| self.write_locked(connection, Mode::Write, queue))
            .is_some()
    }

    /// As `write_here`, but waits for the other thread, and until the socket has taken everything or is closed.
    /// No other thread has to do anything meanwhile. After `patience`, and at once if the peer did not read before,
    /// the connection's task writes the rest, and the result is false.
    pub fn write_all_here(&self, queue: impl FnOnce()) -> bool {
        let connection = self.lock();
        let was_blocked = self.io.is_blocked();
        self.write_locked(connection, Mode::WriteAll, queue);
        if !self.io.is_blocked() {
            return true;
        }
        let until = self.patience.map(|patience| {
            let patience = if was_blocked {
                Duration::ZERO
            } else {
                patience
            };
            Instant::now() + patience
        });
        while self.io.is_blocked() {
            if !self.io.wait_for_room(until) {
                self.waker.wake_by_ref();
                return false;
            }
            self.write_locked(self.lock(), Mode::WriteAll, || {});
        }
        true
    }

    fn write_locked(&self, mut connection: MutexGuard<'_, C>, mode: Mode, queue: impl FnOnce()) {
        let ended = without_wakeups(|| {
            queue();
            self.io.set_mode(mode);
            let ended = connection.poll_io(&mut Context::from_waker(&self.waker));
            self.io.set_mode(Mode::Task);
            ended.is_ready()
        });
        let unblocked = self.io.take_unblocked();
        drop(connection);
        if ended {
            self.io.set_ended();
        }
        // A task that waited for room alone has something else to do now.
        if ended || unblocked {
            self.waker.wake_by_ref();
        }
    }

    fn lock(&self) -> MutexGuard<'_, C> {
        self.connection.lock()
    }

    /// How often something was read from the socket.
    pub fn reads(&self) -> u64 {
        self.io.reads()
    }

    /// Whether the socket takes no more at the moment.
    pub fn is_blocked(&self) -> bool {
        self.io.is_blocked()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::{Io, Socket};
    use bytes::{Buf, Bytes};
    use std::{
        io::Read,
        os::unix::net::UnixStream,
        sync::{
            atomic::{AtomicUsize, Ordering},
            mpsc::{self, Receiver},
        },
        thread,
        time::Duration,
    };
    use tokio::runtime::{Builder, Runtime};

    const PATIENCE: Duration = Duration::from_secs(60);
    /// Several times what a socket holds.
    const SIZE: usize = 4 << 20;

    /// A connection that writes bytes and reads nothing.
    struct Writing {
        io: Io,
        bytes: Bytes,
    }

    impl Connection for Writing {
        fn poll_io(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), h2::Error>> {
            while !self.bytes.is_empty() {
                match Pin::new(&mut self.io).poll_write(cx, &self.bytes) {
                    Poll::Ready(written) => self.bytes.advance(written.unwrap()),
                    Poll::Pending => break,
                }
            }
            Poll::Pending
        }
    }

    /// A connection with `SIZE` bytes to write. Nobody drives the runtime.
    fn writing() -> (Runtime, Arc<SharedConnection<Writing>>, UnixStream) {
        writing_with(None)
    }

    fn writing_with(
        patience: Option<Duration>,
    ) -> (Runtime, Arc<SharedConnection<Writing>>, UnixStream) {
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        let (near, far) = UnixStream::pair().unwrap();
        near.set_nonblocking(true).unwrap();
        let entered = runtime.enter();
        let socket = Socket::unix(tokio::net::UnixStream::from_std(near).unwrap()).unwrap();
        drop(entered);
        let (io, state) = Io::new(socket);
        let bytes = Bytes::from(vec![7; SIZE]);
        let connection = SharedConnection::new(Writing { io, bytes }, state, patience);
        (runtime, connection, far)
    }

    fn write_all(connection: &Arc<SharedConnection<Writing>>) -> Receiver<bool> {
        let connection = connection.clone();
        let (done, is_done) = mpsc::channel();
        thread::spawn(move || {
            done.send(connection.write_all_here(|| {})).unwrap();
        });
        is_done
    }

    #[test]
    fn more_than_the_socket_holds_is_written_while_nobody_drives_the_runtime() {
        let (_runtime, connection, mut far) = writing();
        let written = write_all(&connection);
        far.set_read_timeout(Some(PATIENCE)).unwrap();
        far.read_exact(&mut vec![0; SIZE]).unwrap();
        assert!(written.recv_timeout(PATIENCE).unwrap());
    }

    #[test]
    fn a_thread_that_waits_for_a_full_socket_continues_when_the_connection_ends() {
        for end in [
            |connection: &SharedConnection<Writing>, _: UnixStream| connection.set_ended(),
            |_: &SharedConnection<Writing>, far: UnixStream| drop(far),
        ] {
            let (_runtime, connection, mut far) = writing();
            let written = write_all(&connection);
            far.read_exact(&mut [0]).unwrap();
            end(&connection, far);
            written.recv_timeout(PATIENCE).unwrap();
        }
    }

    /// The connection's task; how often it was polled.
    fn task(
        connection: &Arc<SharedConnection<Writing>>,
    ) -> (Arc<AtomicUsize>, impl Future<Output = ()> + use<>) {
        let polls = Arc::new(AtomicUsize::new(0));
        let (connection, counted) = (connection.clone(), polls.clone());
        let task = std::future::poll_fn(move |cx| {
            counted.fetch_add(1, Ordering::Relaxed);
            connection.poll(cx.waker(), |writing, cx| writing.poll_io(cx).map(drop))
        });
        (polls, task)
    }

    #[test]
    fn what_a_thread_could_not_write_is_written_by_the_task() {
        let (runtime, connection, far) = writing();
        assert!(connection.write_here(|| {}));
        written_by_the_task(&runtime, &connection, far);
    }

    #[test]
    fn a_thread_leaves_the_rest_to_the_task_if_the_peer_does_not_read() {
        let (runtime, connection, far) = writing_with(Some(Duration::from_millis(1)));
        for _ in 0..2 {
            assert!(!write_all(&connection).recv_timeout(PATIENCE).unwrap());
        }
        written_by_the_task(&runtime, &connection, far);
    }

    #[test]
    fn a_task_that_waits_for_room_continues_when_a_thread_has_used_it() {
        let (runtime, connection, mut far) = writing();
        let (polls, task) = task(&connection);
        runtime.spawn(task);
        runtime.block_on(tokio::task::yield_now());
        assert_eq!(polls.load(Ordering::Relaxed), 1);
        let written = write_all(&connection);
        far.read_exact(&mut vec![0; SIZE]).unwrap();
        written.recv_timeout(PATIENCE).unwrap();
        runtime.block_on(tokio::task::yield_now());
        assert_eq!(polls.load(Ordering::Relaxed), 2);
    }

    fn written_by_the_task(
        runtime: &Runtime,
        connection: &Arc<SharedConnection<Writing>>,
        mut far: UnixStream,
    ) {
        assert!(connection.is_blocked());
        runtime.spawn(task(connection).1);
        let reading = thread::spawn(move || far.read_exact(&mut vec![0; SIZE]).unwrap());
        runtime.block_on(async {
            while connection.with(|writing| !writing.bytes.is_empty()) {
                tokio::task::yield_now().await;
            }
        });
        reading.join().unwrap();
    }
}
