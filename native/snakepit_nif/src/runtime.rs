//! The tokio runtime, which the first call that needs it starts.

use once_cell::sync::OnceCell;
use snakepit_client::error::Failure;
use std::{
    io,
    panic::catch_unwind,
    sync::atomic::{AtomicUsize, Ordering},
};
use tokio::runtime::{Builder, Runtime};

static RUNTIME: OnceCell<Runtime> = OnceCell::new();
static THREADS: AtomicUsize = AtomicUsize::new(1);

/// Takes effect if the runtime has not started yet.
pub(crate) fn set_threads(threads: usize) {
    THREADS.store(threads.max(1), Ordering::Relaxed);
}

/// Tasks that have not ended.
pub(crate) fn tasks() -> usize {
    RUNTIME
        .get()
        .map_or(0, |runtime| runtime.metrics().num_alive_tasks())
}

pub(crate) fn get() -> io::Result<&'static Runtime> {
    // tokio panics if the system creates no thread.
    RUNTIME.get_or_try_init(|| {
        catch_unwind(|| {
            Builder::new_multi_thread()
                .worker_threads(THREADS.load(Ordering::Relaxed))
                .thread_name("snakepit-io")
                .enable_all()
                .build()
        })
        .unwrap_or_else(|_| Err(io::ErrorKind::OutOfMemory.into()))
    })
}

/// The runtime, or the reason why there is none.
pub(crate) fn started() -> Result<&'static Runtime, Failure> {
    get().map_err(|error| {
        Failure::NoGrpc(format!(
            "the system cannot create a thread for the native library ({error}): raise the limits of processes and memory (ulimit -u, pids.max)"
        ))
    })
}

pub(crate) fn spawn(work: impl Future<Output = ()> + Send + 'static) -> Result<(), Failure> {
    started()?.spawn(work);
    Ok(())
}
