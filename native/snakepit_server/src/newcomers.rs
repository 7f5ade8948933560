//! Limits the connections on which no RPC has had a secret yet: their time and their number.

use parking_lot::Mutex;
use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::time::{Instant, sleep_until};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// How long such a connection may exist, unless a health check is open on it.
const UNTRUSTED_FOR: Duration = Duration::from_secs(10);
/// How many of them may exist. For a further one the oldest is closed.
const MAX_UNTRUSTED: usize = 256;

/// All such connections, the oldest first.
#[derive(Default)]
pub(crate) struct Newcomers {
    count: AtomicU64,
    open: Mutex<BTreeMap<u64, CancellationToken>>,
}

impl Newcomers {
    pub(crate) fn join(self: &Arc<Self>) -> Newcomer {
        let id = self.count.fetch_add(1, Ordering::Relaxed);
        let refused = CancellationToken::new();
        let mut open = self.open.lock();
        open.insert(id, refused.clone());
        if open.len() > MAX_UNTRUSTED
            && let Some((_, oldest)) = open.pop_first()
        {
            oldest.cancel();
        }
        Newcomer {
            all: self.clone(),
            id,
            refused,
            until: Instant::now() + UNTRUSTED_FOR,
        }
    }
}

/// One such connection. It is dropped once an RPC has had the secret.
pub(crate) struct Newcomer {
    all: Arc<Newcomers>,
    id: u64,
    refused: CancellationToken,
    until: Instant,
}

impl Newcomer {
    /// Returns once the connection must be closed; never for a trusted one. `checks`, which is closed, has the health
    /// checks that are open.
    pub(crate) async fn refused(one: Option<&Self>, checks: &TaskTracker) {
        match one {
            None => std::future::pending().await,
            Some(one) => tokio::select! {
                () = one.refused.cancelled() => {}
                () = one.has_expired(checks) => {}
            },
        }
    }

    async fn has_expired(&self, checks: &TaskTracker) {
        sleep_until(self.until).await;
        checks.wait().await;
    }
}

impl Drop for Newcomer {
    fn drop(&mut self) {
        self.all.open.lock().remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_oldest_connection_is_closed_for_one_too_many() {
        let all = Arc::new(Newcomers::default());
        let mut newcomers: Vec<_> = (0..MAX_UNTRUSTED).map(|_| all.join()).collect();
        assert!(!newcomers.iter().any(|one| one.refused.is_cancelled()));
        newcomers.push(all.join());
        assert!(newcomers[0].refused.is_cancelled());
        Newcomer::refused(newcomers.first(), &TaskTracker::new()).await;
        assert!(!newcomers[1..].iter().any(|one| one.refused.is_cancelled()));
        newcomers.clear();
        assert!(all.open.lock().is_empty());
    }

    #[tokio::test]
    async fn a_connection_stays_while_a_health_check_is_open_on_it() {
        let all = Arc::new(Newcomers::default());
        let mut newcomer = all.join();
        newcomer.until = Instant::now();
        let checks = TaskTracker::new();
        checks.close();
        let check = checks.token();
        let refused = Newcomer::refused(Some(&newcomer), &checks);
        tokio::pin!(refused);
        assert!(
            tokio::time::timeout(Duration::from_millis(20), &mut refused)
                .await
                .is_err()
        );
        drop(check);
        refused.await;
    }

    #[tokio::test]
    async fn a_trusted_connection_makes_room() {
        let all = Arc::new(Newcomers::default());
        let mut newcomers: Vec<_> = (0..MAX_UNTRUSTED).map(|_| all.join()).collect();
        newcomers.pop();
        newcomers.push(all.join());
        assert!(!newcomers.iter().any(|one| one.refused.is_cancelled()));
    }
}
