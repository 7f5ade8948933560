//! Decoding that takes long, on a thread for blocking work, so that connections do not wait for it.

use parking_lot::Mutex;
use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::Duration,
};

/// Results of this size or more are decoded on another thread.
pub const OFFLOAD_FROM: usize = 256 * 1024;
/// How long the work waits for a thread.
const THREAD_TIMEOUT: Duration = Duration::from_secs(1);

/// Runs `work` here if `size` is small or no other thread is available, otherwise on a thread for blocking work.
/// Returns nothing if it panics there; the panic drops the reply, which then reports that to the caller.
pub async fn offload<T: Send + 'static>(
    size: usize,
    work: impl FnOnce() -> T + Send + 'static,
) -> Option<T> {
    if size < OFFLOAD_FROM {
        return Some(work());
    }
    let work = Arc::new(Mutex::new(Some(work)));
    let take = |work: &Mutex<Option<_>>| work.lock().take();
    let there = work.clone();
    let run = move || take(&there).map(|work| work());
    // It panics if the system creates no thread, and waits if one may become free.
    let spawned = catch_unwind(AssertUnwindSafe(|| tokio::task::spawn_blocking(run)));
    let Ok(mut spawned) = spawned else {
        return take(&work).map(|work| work());
    };
    match tokio::time::timeout(THREAD_TIMEOUT, &mut spawned).await {
        Ok(done) => done.ok().flatten(),
        Err(_) => match take(&work) {
            Some(work) => Some(work()),
            None => spawned.await.ok().flatten(),
        },
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::sync::mpsc::channel;

    #[test]
    fn a_large_result_is_decoded_here_when_no_other_thread_is_available() {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .max_blocking_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let (release, held) = channel::<()>();
        runtime.spawn_blocking(move || held.recv());
        let decoded = runtime.block_on(offload(OFFLOAD_FROM, || 7));
        assert_eq!(decoded, Some(7));
        drop(release);
    }
}
