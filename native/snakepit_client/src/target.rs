//! How to reach a server.

use crate::error::Failure;
use http::{HeaderName, HeaderValue};
use snakepit_wire::{Address, InvalidAddress, SECRET_HEADER, StartJournal};
use std::{io, sync::Arc, time::Instant};
use tokio::time::timeout_at;

pub(crate) static SECRET: HeaderName = HeaderName::from_static(SECRET_HEADER);

impl From<InvalidAddress> for Failure {
    fn from(error: InvalidAddress) -> Self {
        Self::InvalidArgs(error.to_string())
    }
}

#[derive(Clone)]
pub struct Target {
    pub address: Address,
    pub secret: Option<String>,
    pub max_message_size: usize,
    pub deadline: Instant,
    /// The start journal that a server was given when this side started it.
    pub journal: Option<Arc<StartJournal>>,
}

impl Target {
    fn unreachable(&self, cause: impl Into<String>) -> Failure {
        Failure::Unreachable {
            address: self.address.to_string(),
            cause: cause.into(),
        }
    }

    pub(crate) fn secret(&self) -> Result<Option<HeaderValue>, Failure> {
        let secret = self.secret.as_deref().map(HeaderValue::from_str);
        secret
            .transpose()
            .map_err(|_| Failure::InvalidArgs("the secret must be visible ASCII".into()))
    }

    pub(crate) async fn in_time<T>(
        &self,
        work: impl Future<Output = io::Result<T>>,
    ) -> Result<T, Failure> {
        timeout_at(self.deadline.into(), work)
            .await
            .map_err(|_| self.unreachable("it did not answer in time"))?
            .map_err(|error| self.unreachable(error.to_string()))
    }
}
