//! Work that would hold up the runtime's threads, on others.

use parking_lot::Mutex;
use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::Duration,
};

/// From here on a result is decoded on a thread that no connection waits for.
pub const DECODED_ASIDE_FROM: usize = 256 * 1024;
/// How long the work for such a thread waits for one.
const THREAD_WITHIN: Duration = Duration::from_secs(1);

/// Decodes and sends here if that is quick, else on a thread for blocking work; here as well where no such
/// thread can be had. A panic there gives nothing; it has dropped the reply, which tells the caller.
pub async fn decode_aside<T: Send + 'static>(
    size: usize,
    work: impl FnOnce() -> T + Send + 'static,
) -> Option<T> {
    if size < DECODED_ASIDE_FROM {
        return Some(work());
    }
    let work = Arc::new(Mutex::new(Some(work)));
    let take = |work: &Mutex<Option<_>>| work.lock().take();
    let there = work.clone();
    let aside = move || take(&there).map(|work| work());
    // It panics where the system makes no thread, and waits for one where that may pass.
    let spawned = catch_unwind(AssertUnwindSafe(|| tokio::task::spawn_blocking(aside)));
    let Ok(mut spawned) = spawned else {
        return take(&work).map(|work| work());
    };
    match tokio::time::timeout(THREAD_WITHIN, &mut spawned).await {
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
    fn a_large_result_is_decoded_where_no_thread_can_be_had_for_it() {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .max_blocking_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let (release, held) = channel::<()>();
        runtime.spawn_blocking(move || held.recv());
        let decoded = runtime.block_on(decode_aside(DECODED_ASIDE_FROM, || 7));
        assert_eq!(decoded, Some(7));
        drop(release);
    }
}
