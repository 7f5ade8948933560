//! How to reach a server.

use crate::{error::Failure, keepalive::Keepalive};
use http::{HeaderMap, HeaderName, HeaderValue};
use snakepit_wire::{
    Address, InvalidAddress, Io, IoState, SECRET_HEADER, StartJournal, tls::client::ClientTls,
};
use std::{io, sync::Arc, time::Duration};
use tokio::{sync::watch, time::timeout};

static SECRET: HeaderName = HeaderName::from_static(SECRET_HEADER);

impl From<InvalidAddress> for Failure {
    fn from(error: InvalidAddress) -> Self {
        Self::InvalidArgs(error.to_string())
    }
}

/// Why a worker has exited, once its owner knows. The connections to one worker share it.
#[derive(Clone, Default)]
pub struct ExitCause(Arc<watch::Sender<Option<String>>>);

impl ExitCause {
    /// Sets it, or why the worker is about to cancel its calls. The first cause is kept.
    pub fn set(&self, cause: String) {
        self.0.send_if_modified(|known| {
            let first = known.is_none();
            if first {
                *known = Some(cause);
            }
            first
        });
    }

    /// Waits for it; `otherwise` if it is not known in time.
    pub async fn wait(&self, otherwise: String, within: Duration) -> String {
        let mut cause = self.0.subscribe();
        let known = timeout(within, cause.wait_for(Option::is_some)).await;
        match known {
            Ok(Ok(cause)) => cause.clone().unwrap_or(otherwise),
            _ => otherwise,
        }
    }
}

#[derive(Clone)]
pub struct Target {
    pub address: Address,
    pub secret: Option<String>,
    /// Metadata of every RPC that does not have it itself.
    pub headers: HeaderMap,
    /// Metadata of every call that does not have it itself.
    pub call_metadata: Arc<[(String, String)]>,
    pub tls: Option<ClientTls>,
    pub max_message_size: usize,
    /// How long connecting may take.
    pub timeout: Duration,
    /// Whether unary calls may be sent as frames of one RPC. Behind a balancer all of these have one server.
    pub calls: bool,
    /// Whether the server may say on `Calls` that it drains. The workers of a pool say so on their standard output.
    pub takes_draining: bool,
    /// Without it a server that has vanished is noticed at the deadlines of its calls.
    pub keepalive: Option<Arc<Keepalive>>,
    /// The start journal that a server was given when this side started it.
    pub journal: Option<Arc<StartJournal>>,
    pub exit_cause: ExitCause,
}

impl Target {
    pub(crate) fn unreachable(&self, cause: impl Into<String>) -> Failure {
        Failure::Unreachable {
            address: self.address.to_string(),
            cause: cause.into(),
        }
    }

    /// The metadata of every RPC, with the secret.
    pub(crate) fn metadata(&self) -> Result<HeaderMap, Failure> {
        let mut headers = self.headers.clone();
        if let Some(secret) = &self.secret {
            let secret = HeaderValue::from_str(secret)
                .map_err(|_| Failure::InvalidArgs("the secret must be visible ASCII".into()))?;
            headers.insert(SECRET.clone(), secret);
        }
        Ok(headers)
    }

    /// Opens a connection to the server, with TLS if it is to have it.
    pub(crate) async fn open(&self) -> io::Result<(Io, Arc<IoState>)> {
        let socket = self.address.connect().await?;
        match &self.tls {
            None => Ok(Io::new(socket)),
            Some(tls) => tls.connect(socket, self.address.host()).await,
        }
    }

    pub(crate) async fn in_time<T>(
        &self,
        work: impl Future<Output = io::Result<T>>,
    ) -> Result<T, Failure> {
        timeout(self.timeout, work)
            .await
            .map_err(|_| self.unreachable("it did not answer in time"))?
            .map_err(|error| self.unreachable(error.to_string()))
    }
}
