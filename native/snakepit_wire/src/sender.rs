//! The sending half of one stream of a connection. Messages that are queued while the connection is in use are
//! sent together.

use crate::{
    connection::{Connection, SharedConnection, without_wakeups},
    framing::Outgoing,
};
use bytes::Bytes;
use futures_util::task::AtomicWaker;
use h2::SendStream;
use http::HeaderMap;
use parking_lot::Mutex;
use std::{
    sync::Arc,
    task::{Context, Poll, Waker},
};

/// The first allocation for messages.
const ROOM: usize = 16 * 1024;

pub struct BatchingSender<C> {
    connection: Arc<SharedConnection<C>>,
    /// None until the stream is open.
    stream: Mutex<Option<SendStream<Bytes>>>,
    out: Mutex<Outgoing>,
    task: AtomicWaker,
}

impl<C: Connection> BatchingSender<C> {
    pub fn new(connection: Arc<SharedConnection<C>>, stream: SendStream<Bytes>) -> Self {
        let sender = Self::unopened(connection);
        sender.open(stream);
        sender
    }

    /// What is queued is sent once the stream is open.
    pub fn unopened(connection: Arc<SharedConnection<C>>) -> Self {
        Self {
            connection,
            stream: Mutex::new(None),
            out: Mutex::default(),
            task: AtomicWaker::new(),
        }
    }

    pub fn open(&self, stream: SendStream<Bytes>) {
        *self.stream.lock() = Some(stream);
    }

    pub fn is_open(&self) -> bool {
        self.stream.lock().is_some()
    }

    /// Queues what `append` appends, for `write` or the next `drain` to send.
    pub fn queue(&self, append: impl FnOnce(&mut Outgoing)) {
        let mut out = self.out.lock();
        out.reserve_first(ROOM);
        append(&mut out);
    }

    /// Writes what is queued from this thread; wakes the draining task instead if another thread is using the
    /// connection. Returns whether the socket has taken all of it.
    pub fn write(&self) -> bool {
        if self.connection.write_here(|| self.flush()) {
            return !self.connection.is_blocked();
        }
        self.wake();
        false
    }

    /// As `write`, but waits for the other thread, and for the socket to take all of it.
    pub fn write_all(&self) -> bool {
        self.connection.write_all_here(|| self.flush())
    }

    /// Whether the socket takes no more at the moment.
    pub fn is_blocked(&self) -> bool {
        self.connection.is_blocked()
    }

    /// Wakes the draining task.
    pub fn wake(&self) {
        self.task.wake();
    }

    pub fn is_empty(&self) -> bool {
        self.out.lock().is_empty()
    }

    /// Gives the connection what is queued. To be called by the draining task, which is woken for more.
    pub fn drain(&self, task: &Waker) {
        self.task.register(task);
        if !self.is_empty() {
            self.flush();
        }
    }

    /// Sets the waker of the draining task.
    pub fn register(&self, task: &Waker) {
        self.task.register(task);
    }

    /// Gives the connection what is queued, on a thread that polls it right after that.
    pub fn drain_here(&self) {
        without_wakeups(|| self.flush());
    }

    /// Ends the sending side of a client after what is queued.
    pub fn finish(&self) {
        self.flush();
        if let Some(stream) = &mut *self.stream.lock() {
            // The stream's other half reports that it is closed.
            let _ = stream.send_data(Bytes::new(), true);
        }
    }

    /// Ends the stream of a server after what is queued.
    pub fn end(&self, trailers: &HeaderMap) {
        self.flush();
        if let Some(stream) = &mut *self.stream.lock() {
            // The stream's other half reports that it is closed.
            let _ = stream.send_trailers(trailers.clone());
        }
    }

    /// As `end`, and writes from this thread, if no other thread is using the connection.
    pub fn end_here(&self, trailers: &HeaderMap) {
        if !self.connection.write_here(|| self.end(trailers)) {
            self.end(trailers);
        }
    }

    /// Ready once the other end has reset the stream.
    pub fn poll_reset(&self, cx: &mut Context<'_>) -> Poll<()> {
        match &mut *self.stream.lock() {
            Some(stream) => stream.poll_reset(cx).map(drop),
            None => Poll::Pending,
        }
    }

    fn flush(&self) {
        // The stream is locked before data is taken from the queue, so that the order stays.
        let mut stream = self.stream.lock();
        let Some(stream) = &mut *stream else {
            return;
        };
        let mut out = self.out.lock();
        if out.is_empty() {
            return;
        }
        let parts = out.take();
        drop(out);
        // The stream's other half reports that it is closed.
        parts.send(|frame| drop(stream.send_data(frame, false)));
    }
}
