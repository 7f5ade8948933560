//! Whether a server that is silent while calls are in flight still exists. A host that has vanished sends nothing,
//! not even the end of its connections: only a question shows that.

use crate::error::causes;
use std::{
    error::Error,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

/// The longest interval to which refused pings lead, in ms.
const LONGEST_INTERVAL: u64 = 60 * 60 * 1000;

/// After which silence the connections to one server are pinged, and how long the answer may take. The next
/// connections to the server share it.
#[derive(Debug)]
pub struct Keepalive {
    /// In ms.
    interval: AtomicU64,
    timeout: Duration,
}

impl Keepalive {
    pub fn new(interval: Duration, timeout: Duration) -> Arc<Self> {
        Arc::new(Self {
            interval: AtomicU64::new(u64::try_from(interval.as_millis()).unwrap_or(u64::MAX)),
            timeout,
        })
    }

    pub fn interval(&self) -> Duration {
        Duration::from_millis(self.interval.load(Ordering::Relaxed))
    }

    pub fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Why the connection is lost: its server has not answered a ping.
    pub(crate) fn silent(&self) -> String {
        format!(
            "the server has not answered a ping within {} ms (:keepalive); its host or the network may be down",
            self.timeout.as_millis()
        )
    }

    /// Why the connection is lost, if pings have to do with it. If the server takes fewer of them, the next
    /// connections send half as many.
    pub(crate) fn cause(&self, error: &(dyn Error + 'static)) -> Option<String> {
        let timed_out = |cause: &(dyn Error + 'static)| {
            let hyper = cause.downcast_ref::<hyper::Error>();
            hyper.is_some_and(hyper::Error::is_timeout)
        };
        let too_many = |cause: &(dyn Error + 'static)| {
            let h2 = cause.downcast_ref::<h2::Error>();
            h2.is_some_and(|h2| {
                h2.is_remote() && h2.reason() == Some(h2::Reason::ENHANCE_YOUR_CALM)
            })
        };
        if causes(error).any(timed_out) {
            return Some(self.silent());
        }
        causes(error).any(too_many).then(|| self.double())
    }

    fn double(&self) -> String {
        let doubled = |before: u64| before.saturating_mul(2).min(LONGEST_INTERVAL).max(before);
        let (set, fetch) = (Ordering::Relaxed, Ordering::Relaxed);
        let updated = self
            .interval
            .fetch_update(set, fetch, |before| Some(doubled(before)));
        let (Ok(before) | Err(before)) = updated;
        format!(
            "the server does not take a ping every {before} ms (:keepalive); the next connections wait {} ms",
            doubled(before)
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use h2::Reason;

    #[test]
    fn a_server_that_wants_fewer_pings_gets_half_as_many_up_to_the_longest_interval() {
        let keepalive = Keepalive::new(Duration::from_secs(20), Duration::from_secs(10));
        assert!(keepalive.double().contains("40000 ms"));
        assert_eq!(keepalive.interval(), Duration::from_secs(40));
        for _ in 0..20 {
            keepalive.double();
        }
        let longest = Duration::from_millis(LONGEST_INTERVAL);
        assert_eq!(keepalive.interval(), longest);
        let longer = Keepalive::new(2 * longest, Duration::from_secs(10));
        longer.double();
        assert_eq!(longer.interval(), 2 * longest);
    }

    #[test]
    fn other_errors_have_nothing_to_do_with_pings() {
        let keepalive = Keepalive::new(Duration::from_secs(20), Duration::from_secs(10));
        let own = h2::Error::from(Reason::ENHANCE_YOUR_CALM);
        assert_eq!(keepalive.cause(&own), None);
        assert_eq!(keepalive.cause(&std::io::Error::other("broken")), None);
        assert_eq!(keepalive.interval(), Duration::from_secs(20));
    }
}
