//! Why a call failed that ended with its worker.

use super::destination::{Connection, Destination};
use snakepit_client::failure::Failure;
use std::{sync::Arc, time::Duration};

/// How long the calls of a worker that died wait for the cause: its owner gets its status, and the end of
/// its output, a moment after its connection is gone.
const CAUSE_WITHIN: Duration = Duration::from_secs(2);

/// The cause of a worker's end, which its connection knows or will know within that time.
pub(super) struct PendingCause {
    connection: Arc<Connection>,
    within: Duration,
}

impl Destination {
    /// The cause to wait for, of a call that failed because its worker ended. A worker whose time is up
    /// cancels what still runs; grpcio's server says that it is unavailable.
    pub(super) fn pending_cause(&self, failure: &Failure) -> Option<PendingCause> {
        let Self::Worker(lease, connection) = self else {
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
        let connection = connection.clone();
        Some(PendingCause { connection, within })
    }
}

impl PendingCause {
    /// The failure with its cause. The call may have run, unlike what a caller of another server would
    /// conclude.
    pub(super) async fn explain(self, failure: Failure) -> Failure {
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
        Failure::WorkerCrashed(self.connection.exit_cause(seen, self.within).await)
    }
}
