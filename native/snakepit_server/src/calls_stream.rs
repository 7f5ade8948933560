//! The replies of one `Calls` RPC on their way to its client.

use crate::grpc::ServerConnection;
use snakepit_proto::ReplyFrame;
use snakepit_wire::{Outlet, append};
use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
    task::Waker,
};
use tonic::Status;

/// How many replies are sent together at most, where commands are short.
const BATCH: usize = 16;

/// `J` notes in a start journal which calls have started.
pub struct CallsStream<J> {
    sender: Outlet<ServerConnection>,
    /// How many replies no `flush` has sent.
    unsent: AtomicUsize,
    /// For a client that outlives this process and reads it: it must know which calls another worker
    /// may run.
    journal: OnceLock<J>,
}

impl<J> CallsStream<J> {
    pub fn new(sender: Outlet<ServerConnection>) -> Self {
        Self {
            sender,
            unsent: AtomicUsize::new(0),
            journal: OnceLock::new(),
        }
    }

    /// Tells the client that it may read which calls have started.
    pub fn offer_journal(&self) {
        let frame = ReplyFrame {
            has_start_journal: true,
            ..ReplyFrame::default()
        };
        self.sender.queue(|out| append(out, &frame));
    }

    /// The client reads it.
    pub fn use_journal(&self, journal: J) {
        let _ = self.journal.set(journal);
    }

    /// Queues a reply; `flush` sends it.
    pub(crate) fn reply(&self, frame: &ReplyFrame) {
        self.sender.queue(|out| append(out, frame));
        self.unsent.fetch_add(1, Ordering::AcqRel);
    }

    /// Has the network's thread tell the client that the call has not started.
    pub(crate) fn give_back(&self, call_id: u64) {
        let frame = ReplyFrame {
            call_id,
            not_started: true,
            ..ReplyFrame::default()
        };
        self.sender.queue(|out| append(out, &frame));
        self.wake();
    }

    /// To be asked before a call starts: whether the replies before it may go on waiting, after `note`
    /// has noted the call in the journal.
    #[inline]
    fn may_start(&self, note: impl FnOnce(&J) -> bool) -> bool {
        match self.unsent.load(Ordering::Acquire) {
            0 => true,
            1..BATCH => self.journal.get().is_some_and(note),
            _ => false,
        }
    }

    /// Hands all replies to the kernel, on this thread.
    pub fn flush(&self) {
        self.unsent.store(0, Ordering::Release);
        self.sender.write_all();
    }

    #[inline]
    pub(crate) fn has_unsent(&self) -> bool {
        self.unsent.load(Ordering::Acquire) > 0
    }

    /// Has the network's thread send what is queued.
    pub(crate) fn wake(&self) {
        self.sender.wake();
    }

    /// For the network's thread: hands over what is queued, and is woken for more.
    pub fn drain(&self, task: &Waker) {
        self.sender.drain(task);
    }

    /// Ends the stream after what is queued.
    pub fn end(&self, status: &Status) {
        self.sender.end(&crate::grpc::trailers(status));
    }
}

/// The replies that one thread has queued and not sent: where they are.
pub struct UnsentReplies<J>(Vec<Arc<CallsStream<J>>>);

impl<J> Default for UnsentReplies<J> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<J> UnsentReplies<J> {
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// A reply was queued on `calls`.
    #[inline]
    pub fn add(&mut self, calls: &Arc<CallsStream<J>>) {
        if !self.0.iter().any(|one| Arc::ptr_eq(one, calls)) {
            self.0.push(calls.clone());
        }
    }

    /// Whether they may go on waiting while a call that came by `calls` runs, after `note` has noted it
    /// in the journal.
    #[inline]
    pub fn may_wait(
        &self,
        calls: Option<&Arc<CallsStream<J>>>,
        note: impl FnOnce(&J) -> bool,
    ) -> bool {
        match (calls, &self.0[..]) {
            (_, []) => true,
            (Some(calls), [only]) if Arc::ptr_eq(calls, only) => calls.may_start(note),
            _ => false,
        }
    }

    pub fn flush(&mut self) {
        self.0.drain(..).for_each(|calls| calls.flush());
    }
}
