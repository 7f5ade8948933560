//! How to reach a server.

use crate::{error::Failure, keepalive::Keepalive};
use http::{HeaderMap, HeaderName, HeaderValue};
use snakepit_wire::{
    Address, InvalidAddress, Io, IoState, SECRET_HEADER, StartJournal, tls::client::ClientTls,
};
use std::{io, sync::Arc, time::Duration};
use tokio::time::timeout;

static SECRET: HeaderName = HeaderName::from_static(SECRET_HEADER);

impl From<InvalidAddress> for Failure {
    fn from(error: InvalidAddress) -> Self {
        Self::InvalidArgs(error.to_string())
    }
}

#[derive(Clone)]
pub struct Target {
    pub address: Address,
    pub secret: Option<String>,
    /// Metadata of every RPC that does not have it itself.
    pub headers: HeaderMap,
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
