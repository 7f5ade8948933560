//! What is to be sent on one stream of a connection: messages gather while the connection is busy,
//! and travel together.

use crate::driven::{Connection, Driven, muted};
use bytes::{Bytes, BytesMut};
use futures_util::task::AtomicWaker;
use h2::SendStream;
use http::HeaderMap;
use parking_lot::Mutex;
use std::{sync::Arc, task::Waker};

/// Room for messages, before there are any.
const ROOM: usize = 16 * 1024;

pub struct Outlet<C> {
    driven: Arc<Driven<C>>,
    stream: Mutex<SendStream<Bytes>>,
    out: Mutex<BytesMut>,
    task: AtomicWaker,
}

impl<C: Connection> Outlet<C> {
    pub fn new(driven: Arc<Driven<C>>, stream: SendStream<Bytes>) -> Self {
        Self {
            driven,
            stream: Mutex::new(stream),
            out: Mutex::new(BytesMut::new()),
            task: AtomicWaker::new(),
        }
    }

    /// Queues what `append` appends. It is sent by `write`, or by the next `drain`.
    pub fn queue(&self, append: impl FnOnce(&mut BytesMut)) {
        let mut out = self.out.lock();
        if out.capacity() == 0 {
            out.reserve(ROOM);
        }
        append(&mut out);
    }

    /// Writes what is queued from this thread, or wakes the task that drains if another is at the
    /// connection. Tells whether the socket has taken all of it.
    pub fn write(&self) -> bool {
        if self.driven.write_here(|| self.hand_over()) {
            return !self.driven.is_blocked();
        }
        self.wake();
        false
    }

    /// As `write`, but waits for its turn at the connection, and for the socket to take all of it.
    pub fn write_all(&self) {
        self.driven.write_here_in_turn(|| self.hand_over());
    }

    /// Wakes the task that drains.
    pub fn wake(&self) {
        self.task.wake();
    }

    pub fn is_empty(&self) -> bool {
        self.out.lock().is_empty()
    }

    /// For the task that drains: hands what is queued to the connection, and is woken for more.
    pub fn drain(&self, task: &Waker) {
        self.task.register(task);
        self.hand_over();
    }

    /// As `drain`, for the task that polls the connection right after it.
    pub fn drain_and_poll(&self, task: &Waker) {
        self.task.register(task);
        muted(|| self.hand_over());
    }

    /// Ends the stream after what is queued.
    pub fn end(&self, trailers: &HeaderMap) {
        self.hand_over();
        // A stream that is gone is told by its other half.
        let _ = self.stream.lock().send_trailers(trailers.clone());
    }

    fn hand_over(&self) {
        // The stream's lock is held from before the data is taken, so that its order stays.
        let mut stream = self.stream.lock();
        let bytes = self.out.lock().split().freeze();
        if !bytes.is_empty() {
            // A stream that is gone is told by its other half.
            let _ = stream.send_data(bytes, false);
        }
    }
}
