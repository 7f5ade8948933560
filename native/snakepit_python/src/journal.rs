//! Records which calls have started. The process that started this one reads it.

use parking_lot::Mutex;
use pyo3::{prelude::*, sync::PyOnceLock, types::PyMemoryView};
use snakepit_wire::{JOURNAL_BYTES, StartJournal};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

pub(crate) type CallsStream = snakepit_server::CallsStream<Journal>;

/// The last place, which the threads share that have none of their own.
const SHARED: usize = JOURNAL_BYTES / size_of::<u64>() - 1;

pub(crate) struct Journal {
    file: StartJournal,
    /// The file as memory, mapped by Python: 64-bit numbers.
    notes: PyOnceLock<Py<PyAny>>,
    /// Whether it could not be mapped: single calls wait for the replies before them instead.
    unmapped: AtomicBool,
    /// What is noted in the last place.
    shared: Mutex<u64>,
    /// The largest id of a call that has started in a batch. Only batches start in another order than that of the ids,
    /// and no smaller number may replace theirs.
    batched: AtomicU64,
}

impl Journal {
    pub(crate) fn new(file: StartJournal) -> Self {
        Self {
            file,
            notes: PyOnceLock::new(),
            unmapped: AtomicBool::new(false),
            shared: Mutex::default(),
            batched: AtomicU64::new(0),
        }
    }

    /// As `note`, for a batch of calls of which this id is the largest.
    pub(crate) fn note_batch(&self, py: Python<'_>, call_id: u64, writer: usize) -> bool {
        self.batched.fetch_max(call_id, Ordering::Relaxed);
        self.write(py, call_id, writer)
    }

    /// Records a call in the place of the thread `writer`. Memory of a file survives this process.
    pub(crate) fn note(&self, py: Python<'_>, call_id: u64, writer: usize) -> bool {
        !self.unmapped.load(Ordering::Relaxed) && self.write(py, call_id, writer)
    }

    fn write(&self, py: Python<'_>, call_id: u64, writer: usize) -> bool {
        let call_id = call_id.max(self.batched.load(Ordering::Relaxed));
        let Ok(notes) = self.notes.get_or_try_init(py, || self.map(py)) else {
            self.unmapped.store(true, Ordering::Relaxed);
            return false;
        };
        let set = |place, id: u64| notes.bind(py).set_item(place, id.to_le()).is_ok();
        if writer < SHARED {
            return set(writer, call_id);
        }
        let mut shared = self.shared.lock();
        *shared = call_id.max(*shared);
        set(SHARED, *shared)
    }

    fn map(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        let memory = py
            .import("mmap")?
            .call_method1("mmap", (self.file.fd(), JOURNAL_BYTES))?;
        let bytes = PyMemoryView::from(&memory)?;
        Ok(bytes.call_method1("cast", ("Q",))?.unbind())
    }
}
