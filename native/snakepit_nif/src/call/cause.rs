//! The cause of a call's failure when its worker has exited.

use super::destination::Destination;
use snakepit_client::{error::Failure, target::ExitCause};
use std::{sync::Arc, time::Duration};

/// How long a failed call waits for the cause. The worker's owner gets the exit status and the last output
/// a moment after the connection is gone; for the status it waits for 5 s, and then kills the process.
const CAUSE_WITHIN: Duration = Duration::from_secs(10);

/// Why a worker exited, if that is known within the given time.
pub(super) struct PendingCause {
    exit_cause: ExitCause,
    within: Duration,
    endpoint: Option<Arc<str>>,
}

impl Destination {
    /// Counts a failure that has ended a call, and names the endpoint in it. Returns it with the cause to wait for.
    pub(super) fn failed(&self, failure: Failure) -> (Failure, Option<PendingCause>) {
        let cause = self.pending_cause(&failure);
        let failure = failure.at(self.channel().endpoint.as_ref());
        self.count(Err(&failure));
        (failure, cause)
    }

    /// The cause to wait for if the call failed because its worker exited. A worker that reaches its
    /// `shutdown_timeout` cancels its calls; grpcio's server then returns UNAVAILABLE.
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
        // An endpoint has no exit status: its owner knows more only if it has ended the connection itself.
        let endpoint = connection.channel.endpoint.clone();
        let patience = match &endpoint {
            Some(_) => Duration::ZERO,
            None => CAUSE_WITHIN,
        };
        let within = match failure {
            Failure::WorkerCrashed(_) => patience,
            Failure::CallEnded(_) if !lease.is_leaving() => return None,
            Failure::CallEnded(_) => patience,
            _ if !unavailable && !failure.is_servers_cancel() => return None,
            _ if lease.is_leaving() => patience,
            _ if unavailable => Duration::ZERO,
            _ => return None,
        };
        Some(PendingCause {
            exit_cause: connection.exit_cause.clone(),
            within,
            endpoint,
        })
    }
}

impl PendingCause {
    /// Adds the cause to the failure. The failure says that the call may have run, which the status of
    /// another server would not.
    pub(super) async fn explain(self, failure: Failure) -> Failure {
        let seen = match failure {
            Failure::WorkerCrashed(seen)
            | Failure::CallEnded(seen)
            | Failure::ConnectionLost { cause: seen, .. }
            | Failure::EndedByEndpoint { cause: seen, .. } => seen,
            Failure::Status {
                code: tonic::Code::Unavailable,
                message,
                ..
            } => {
                format!("it stopped serving while the call was running ({message})")
            }
            failure => format!("it stopped while the call was running ({failure})"),
        };
        let cause = self.exit_cause.wait(seen, self.within).await;
        Failure::WorkerCrashed(cause).at(self.endpoint.as_ref())
    }
}
