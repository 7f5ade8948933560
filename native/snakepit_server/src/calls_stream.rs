//! Sends the replies of one `Calls` RPC to its client.

use crate::grpc::ServerConnection;
use prost::Message;
use snakepit_proto::{CallEvent, CarriesValues, ReplyFrame, reply_frame::Act};
use snakepit_wire::BatchingSender;
use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
    task::Waker,
};
use tonic::Status;

/// The largest number of replies that are sent together, while commands are short.
const BATCH: usize = 16;

/// `J` records in a start journal which calls have started.
pub struct CallsStream<J> {
    sender: BatchingSender<ServerConnection>,
    unsent: Unsent,
    /// If this process dies, the client reads in it which calls have not started: another worker may
    /// run those.
    journal: OnceLock<J>,
}

impl<J> CallsStream<J> {
    pub fn new(sender: BatchingSender<ServerConnection>) -> Self {
        Self {
            sender,
            unsent: Unsent::default(),
            journal: OnceLock::new(),
        }
    }

    /// Tells the client that this server can keep a start journal.
    pub fn offer_journal(&self) {
        let frame = ReplyFrame {
            has_start_journal: true,
            ..ReplyFrame::default()
        };
        self.sender.queue(|out| out.append(&frame));
    }

    /// Tells the client to send no further calls.
    pub fn tell_draining(&self) {
        let frame = ReplyFrame {
            act: Act::Draining.into(),
            ..ReplyFrame::default()
        };
        self.sender.queue(|out| out.append(&frame));
    }

    /// The client reads the journal: from now on replies may be sent together.
    pub fn use_journal(&self, journal: J) {
        let _ = self.journal.set(journal);
    }

    /// Queues a reply; `flush` sends it.
    pub(crate) fn reply(&self, mut frame: ReplyFrame) {
        self.sender.queue(|out| {
            out.append_in_parts(frame.encoded_len(), |parts, rest| {
                frame.encode_in_parts(parts, rest);
            });
        });
        self.unsent.add();
    }

    /// Sends what the command of a call reports, on this thread and without waiting for the socket. False if the
    /// client does not read, and the event was dropped.
    pub(crate) fn report(&self, call_id: u64, event: CallEvent) -> bool {
        if event.is_telemetry() && self.sender.is_blocked() {
            return false;
        }
        let frame = ReplyFrame {
            call_id,
            act: Act::Event.into(),
            event: Some(Box::new(event)),
            ..ReplyFrame::default()
        };
        self.sender.queue(|out| out.append(&frame));
        self.sender.write();
        true
    }

    /// Tells the client that the call has not started, by way of the network's thread.
    pub(crate) fn give_back(&self, call_id: u64) {
        let frame = ReplyFrame {
            call_id,
            not_started: true,
            ..ReplyFrame::default()
        };
        self.sender.queue(|out| out.append(&frame));
        self.unsent.add();
        self.wake();
    }

    /// Whether a call may start while replies are unsent. If so, `note` has recorded it in the journal.
    #[inline]
    fn may_start(&self, withdrawing: bool, note: impl FnOnce(&J) -> bool) -> bool {
        match self.unsent.count() {
            0 if !withdrawing => true,
            0..BATCH => self.journal.get().is_some_and(note),
            _ => false,
        }
    }

    /// Has `note` record in the journal that calls start. False if it should have and could not.
    pub fn note_start(&self, note: impl FnOnce(&J) -> bool) -> bool {
        self.journal.get().is_none_or(note)
    }

    /// Writes all replies to the socket, on this thread.
    pub fn flush(&self) {
        self.unsent.write(|| self.sender.write_all());
    }

    #[inline]
    pub(crate) fn has_unsent(&self) -> bool {
        self.unsent.count() > 0
    }

    /// Wakes the network's thread, which sends the queue.
    pub(crate) fn wake(&self) {
        self.sender.wake();
    }

    /// Sends the queue, and registers the waker of the network's thread for more.
    pub fn drain(&self, task: &Waker) {
        self.sender.drain(task);
    }

    /// Sends the queue and ends the stream.
    pub fn end(&self, status: &Status) {
        self.sender.end(&crate::grpc::trailers(status));
    }
}

/// Counts the replies that the kernel may not have yet.
#[derive(Default)]
struct Unsent {
    queued: AtomicUsize,
    /// How many of these have been written.
    written: AtomicUsize,
}

impl Unsent {
    /// A reply was queued.
    fn add(&self) {
        self.queued.fetch_add(1, Ordering::AcqRel);
    }

    #[inline]
    fn count(&self) -> usize {
        // The smaller one first: the other one may grow meanwhile.
        let written = self.written.load(Ordering::Acquire);
        self.queued.load(Ordering::Acquire) - written
    }

    /// `write` writes what is queued, and returns whether the socket has taken all of it. Until then it is unsent, for
    /// other threads as well.
    fn write(&self, write: impl FnOnce() -> bool) {
        let queued = self.queued.load(Ordering::Acquire);
        if write() {
            self.written.fetch_max(queued, Ordering::AcqRel);
        }
    }
}

/// The streams on which one thread has queued replies and not sent them.
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

    /// Whether a call on the stream `calls` may start before they are sent. If so, `note` has recorded
    /// it in the journal, if there are unsent replies, be it those of other threads, or calls are being withdrawn: to the
    /// client those may have started before this one.
    #[inline]
    pub fn may_start(
        &self,
        calls: Option<&Arc<CallsStream<J>>>,
        withdrawing: bool,
        note: impl FnOnce(&J) -> bool,
    ) -> bool {
        match (calls, &self.0[..]) {
            (None, []) => true,
            (Some(calls), []) => calls.may_start(withdrawing, note),
            (Some(calls), [only]) if Arc::ptr_eq(calls, only) => calls.may_start(withdrawing, note),
            _ => false,
        }
    }

    pub fn flush(&mut self) {
        self.0.drain(..).for_each(|calls| calls.flush());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_are_unsent_until_the_socket_has_taken_them() {
        let unsent = Unsent::default();
        unsent.add();
        unsent.add();
        unsent.write(|| {
            // Another thread answers a call, and looks at it.
            assert_eq!(unsent.count(), 2);
            unsent.add();
            true
        });
        assert_eq!(unsent.count(), 1);
        unsent.write(|| false);
        assert_eq!(unsent.count(), 1);
        unsent.write(|| true);
        assert_eq!(unsent.count(), 0);
    }
}
