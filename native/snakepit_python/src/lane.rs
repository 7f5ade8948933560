//! One `Calls` RPC: the way back of its replies.

use crate::ServerConnection;
use pyo3::{prelude::*, sync::PyOnceLock, types::PyMemoryView};
use snakepit_proto::ReplyFrame;
use snakepit_wire::{JOURNAL_BYTES, Outlet, StartJournal, append};
use std::sync::{
    OnceLock,
    atomic::{AtomicUsize, Ordering},
};

/// How many replies are sent together at most, where commands are short.
const BATCH: usize = 16;

pub(crate) struct Lane {
    pub(crate) outlet: Outlet<ServerConnection>,
    unsent: AtomicUsize,
    /// Which calls have started, for a client that outlives this process and reads it: it must know
    /// which ones another worker may run.
    journal: OnceLock<Journal>,
}

struct Journal {
    file: StartJournal,
    /// The same as memory, by Python: 64-bit numbers.
    notes: PyOnceLock<Option<Py<PyAny>>>,
}

impl Lane {
    pub(crate) fn new(outlet: Outlet<ServerConnection>) -> Self {
        Self {
            outlet,
            unsent: AtomicUsize::new(0),
            journal: OnceLock::new(),
        }
    }

    /// Tells the client that it may have starts noted.
    pub(crate) fn offer_journal(&self) {
        let frame = ReplyFrame {
            has_start_journal: true,
            ..ReplyFrame::default()
        };
        self.outlet.queue(|out| append(out, &frame));
    }

    /// The client reads it.
    pub(crate) fn use_journal(&self, file: StartJournal) {
        let notes = PyOnceLock::new();
        let _ = self.journal.set(Journal { file, notes });
    }

    /// Queues a reply; `flush` sends it.
    pub(crate) fn reply(&self, frame: &ReplyFrame) {
        self.outlet.queue(|out| append(out, frame));
        self.unsent.fetch_add(1, Ordering::AcqRel);
    }

    /// To be asked before a call starts: whether the replies before it may go on waiting. `writer`
    /// numbers the threads that ask.
    pub(crate) fn may_start(&self, py: Python<'_>, call_id: u64, writer: usize) -> bool {
        match self.unsent.load(Ordering::Acquire) {
            0 => true,
            1..BATCH => match self.journal.get() {
                Some(journal) => journal.note(py, call_id, writer),
                None => false,
            },
            _ => false,
        }
    }

    /// Hands all replies to the kernel, on this thread.
    pub(crate) fn flush(&self) {
        self.unsent.store(0, Ordering::Release);
        self.outlet.write_all();
    }

    pub(crate) fn has_unsent(&self) -> bool {
        self.unsent.load(Ordering::Acquire) > 0
    }
}

impl Journal {
    /// The memory of a file outlives this process.
    fn note(&self, py: Python<'_>, call_id: u64, writer: usize) -> bool {
        let notes = self.notes.get_or_init(py, || self.map(py).ok());
        notes
            .as_ref()
            .is_some_and(|notes| notes.bind(py).set_item(writer, call_id.to_le()).is_ok())
    }

    fn map(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        let memory = py
            .import("mmap")?
            .call_method1("mmap", (self.file.fd(), JOURNAL_BYTES))?;
        let bytes = PyMemoryView::from(&memory)?;
        Ok(bytes.call_method1("cast", ("Q",))?.unbind())
    }
}
