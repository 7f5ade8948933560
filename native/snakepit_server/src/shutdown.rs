//! How a server ends: it drains, it stops, and it ends.

use std::time::Duration;
use tokio::time::timeout;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// How long a client without RPCs may take to leave.
const LEAVES_WITHIN: Duration = Duration::from_secs(1);

#[derive(Clone, Default)]
pub(crate) struct Shutdown {
    /// Clients are asked to leave. Further ones are still accepted.
    pub(crate) draining: CancellationToken,
    /// No further clients are accepted.
    pub(crate) stop: CancellationToken,
    /// Connections are closed.
    pub(crate) end: CancellationToken,
    pub(crate) connections: TaskTracker,
    /// Those that end when a client leaves.
    pub(crate) rpcs: TaskTracker,
}

impl Shutdown {
    /// Returns once no client has an RPC, nor can begin one.
    pub(crate) async fn drained(&self) {
        self.connections.close();
        self.rpcs.close();
        // A client may have sent an RPC before it learned that it must leave; its connection ends after that.
        if timeout(LEAVES_WITHIN, self.connections.wait())
            .await
            .is_err()
        {
            self.rpcs.wait().await;
        }
    }
}
