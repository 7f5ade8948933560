//! One `Calls` RPC: the way back of its replies.

use crate::ServerConnection;
use pyo3::{prelude::*, sync::PyOnceLock, types::PyMemoryView};
use snakepit_proto::ReplyFrame;
use snakepit_wire::{Outlet, append};
use std::{
    fs::File,
    os::fd::AsRawFd,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
};

/// How many replies are sent together at most, where commands are short.
const BATCH: usize = 16;
/// A page: as many numbers as there may be threads that run commands, or the last ones note nothing.
const LEDGER_BYTES: u64 = 4096;

pub(crate) struct Lane {
    pub(crate) outlet: Outlet<ServerConnection>,
    unsent: AtomicUsize,
    /// Which calls have started, for a client that outlives this process: it must know which ones
    /// another worker may run.
    ledger: Option<File>,
    /// The same as memory, by Python: 64-bit numbers.
    notes: PyOnceLock<Option<Py<PyAny>>>,
    is_read: AtomicBool,
}

impl Lane {
    pub(crate) fn new(outlet: Outlet<ServerConnection>) -> Self {
        Self {
            outlet,
            unsent: AtomicUsize::new(0),
            ledger: ledger(),
            notes: PyOnceLock::new(),
            is_read: AtomicBool::new(false),
        }
    }

    /// Tells the client where the ledger is.
    pub(crate) fn offer_ledger(&self) {
        if let Some(ledger) = &self.ledger {
            let frame = ReplyFrame {
                ledger: format!("/proc/{}/fd/{}", std::process::id(), ledger.as_raw_fd()),
                ..ReplyFrame::default()
            };
            self.outlet.queue(|out| append(out, &frame));
        }
    }

    pub(crate) fn ledger_is_read(&self) {
        self.is_read.store(true, Ordering::Release);
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
            1..BATCH if self.is_read.load(Ordering::Acquire) => self.note(py, call_id, writer),
            _ => false,
        }
    }

    /// The memory of a file outlives this process.
    fn note(&self, py: Python<'_>, call_id: u64, writer: usize) -> bool {
        let notes = self.notes.get_or_init(py, || self.map(py).ok());
        notes
            .as_ref()
            .is_some_and(|notes| notes.bind(py).set_item(writer, call_id.to_le()).is_ok())
    }

    fn map(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        let fd = self.ledger.as_ref().map_or(-1, AsRawFd::as_raw_fd);
        let memory = py
            .import("mmap")?
            .call_method1("mmap", (fd, LEDGER_BYTES))?;
        let bytes = PyMemoryView::from(&memory)?;
        Ok(bytes.call_method1("cast", ("Q",))?.unbind())
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

#[cfg(target_os = "linux")]
fn ledger() -> Option<File> {
    use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
    let ledger = memfd_create("snakepit-ledger", MemfdFlags::CLOEXEC).ok()?;
    ftruncate(&ledger, LEDGER_BYTES).ok()?;
    Some(ledger.into())
}

/// Elsewhere there is no path to a file without a name.
#[cfg(not(target_os = "linux"))]
fn ledger() -> Option<File> {
    None
}
