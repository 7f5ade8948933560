//! One `Calls` RPC: the way back of its replies.

use crate::rpc::ServerConnection;
use snakepit_proto::ReplyFrame;
use snakepit_wire::{Outlet, append};
use std::sync::{
    OnceLock,
    atomic::{AtomicUsize, Ordering},
};

/// How many replies are sent together at most, where commands are short.
const BATCH: usize = 16;

/// `J` notes in a start journal.
pub struct Lane<J> {
    pub outlet: Outlet<ServerConnection>,
    unsent: AtomicUsize,
    /// Which calls have started, for a client that outlives this process and reads it: it must know
    /// which ones another worker may run.
    journal: OnceLock<J>,
}

impl<J> Lane<J> {
    pub fn new(outlet: Outlet<ServerConnection>) -> Self {
        Self {
            outlet,
            unsent: AtomicUsize::new(0),
            journal: OnceLock::new(),
        }
    }

    /// Tells the client that it may have starts noted.
    pub fn offer_journal(&self) {
        let frame = ReplyFrame {
            has_start_journal: true,
            ..ReplyFrame::default()
        };
        self.outlet.queue(|out| append(out, &frame));
    }

    /// The client reads it.
    pub fn use_journal(&self, journal: J) {
        let _ = self.journal.set(journal);
    }

    /// Queues a reply; `flush` sends it.
    pub fn reply(&self, frame: &ReplyFrame) {
        self.outlet.queue(|out| append(out, frame));
        self.unsent.fetch_add(1, Ordering::AcqRel);
    }

    /// To be asked before a call starts: whether the replies before it may go on waiting, once `note` has
    /// noted the call in the journal.
    pub fn may_start(&self, note: impl FnOnce(&J) -> bool) -> bool {
        match self.unsent.load(Ordering::Acquire) {
            0 => true,
            1..BATCH => self.journal.get().is_some_and(note),
            _ => false,
        }
    }

    /// Hands all replies to the kernel, on this thread.
    pub fn flush(&self) {
        self.unsent.store(0, Ordering::Release);
        self.outlet.write_all();
    }

    pub fn has_unsent(&self) -> bool {
        self.unsent.load(Ordering::Acquire) > 0
    }
}
