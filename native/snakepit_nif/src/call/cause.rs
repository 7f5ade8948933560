//! Why a call failed that ended with its worker.

use super::{Link, destination::Place};
use snakepit_client::failure::Failure;
use std::{sync::Arc, time::Duration};

/// How long the calls of a worker that died wait for the cause: its owner gets its status, and the end of
/// its output, a moment after its connection is gone.
const CAUSE_WITHIN: Duration = Duration::from_secs(2);

/// Knows why a worker ended, or will within that time.
pub(super) struct Witness {
    link: Arc<Link>,
    within: Duration,
}

impl Place {
    /// Who knows why the worker ended, for a call that failed with that, and for how long to wait for it. A
    /// worker whose time is up cancels what still runs; grpcio's server says that it is unavailable.
    pub(super) fn witness(&self, failure: &Failure) -> Option<Witness> {
        let Self::Worker(lease, link) = self else {
            return None;
        };
        let unavailable = matches!(
            failure,
            Failure::Status {
                code: tonic::Code::Unavailable,
                ..
            }
        );
        let within = match failure {
            Failure::WorkerCrashed(_) => CAUSE_WITHIN,
            _ if !unavailable && !failure.is_servers_cancel() => return None,
            _ if lease.is_leaving() => CAUSE_WITHIN,
            _ if unavailable => Duration::ZERO,
            _ => return None,
        };
        let link = link.clone();
        Some(Witness { link, within })
    }
}

/// The failure of a call that ended with its worker, whose owner tells the cause: it may have run, unlike
/// what a caller of another server would conclude.
pub(super) async fn explained(failure: Failure, witness: Option<Witness>) -> Failure {
    let Some(Witness { link, within }) = witness else {
        return failure;
    };
    let seen = match failure {
        Failure::WorkerCrashed(seen) => seen,
        Failure::Status {
            code: tonic::Code::Unavailable,
            message,
            ..
        } => {
            format!("it stopped serving while the call ran ({message})")
        }
        failure => format!("it stopped while the call ran ({failure})"),
    };
    Failure::WorkerCrashed(link.cause(seen, within).await)
}
