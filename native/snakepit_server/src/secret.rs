//! What a client must know where others could reach the server, too.

use crate::rpc::{Status, UNAUTHENTICATED};
use http::{HeaderMap, HeaderName};

pub static SECRET: HeaderName = HeaderName::from_static("x-snakepit-secret");

/// Empty: everyone may call.
pub struct Secret(String);

impl Secret {
    pub fn new(secret: String) -> Self {
        Self(secret)
    }

    pub fn is_in(&self, headers: &HeaderMap) -> bool {
        let secret = self.0.as_bytes();
        let given = headers
            .get(&SECRET)
            .map_or(&[][..], |given| given.as_bytes());
        secret.is_empty() || same(secret, given)
    }

    pub fn missing() -> Status {
        let message =
            format!("the metadata {SECRET:?} must be the secret that the worker was started with");
        Status::new(UNAUTHENTICATED, message)
    }
}

/// Compares in a time that does not tell where they differ.
fn same(one: &[u8], other: &[u8]) -> bool {
    one.len() == other.len()
        && one
            .iter()
            .zip(other)
            .fold(0, |found, (a, b)| found | (a ^ b))
            == 0
}
