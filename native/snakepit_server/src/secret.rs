//! The secret that a client must send to a TCP port, where other users can connect.

use http::{HeaderMap, HeaderName};
use snakepit_wire::SECRET_HEADER;
use subtle::ConstantTimeEq;
use tonic::Status;

pub(crate) static HEADER: HeaderName = HeaderName::from_static(SECRET_HEADER);

/// If it is empty, everyone may call.
pub struct Secret(String);

impl Secret {
    pub fn new(secret: String) -> Self {
        Self(secret)
    }

    /// Compares in constant time.
    pub(crate) fn is_in(&self, headers: &HeaderMap) -> bool {
        let secret = self.0.as_bytes();
        let given = headers
            .get(&HEADER)
            .map_or(&[][..], |given| given.as_bytes());
        secret.is_empty() || secret.ct_eq(given).into()
    }

    pub(crate) fn missing() -> Status {
        Status::unauthenticated(format!(
            "the metadata {HEADER:?} must be the secret that the worker was started with"
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    fn headers(secret: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(HEADER.clone(), HeaderValue::from_static(secret))])
    }

    #[test]
    fn only_the_whole_secret_is_one() {
        let secret = Secret::new("secret".into());
        assert!(secret.is_in(&headers("secret")));
        for other in ["", "secre", "secrets", "Secret"] {
            assert!(!secret.is_in(&headers(other)), "{other}");
        }
        assert!(!secret.is_in(&HeaderMap::new()));
    }

    #[test]
    fn without_a_secret_everyone_may_call() {
        let secret = Secret::new(String::new());
        assert!(secret.is_in(&HeaderMap::new()) && secret.is_in(&headers("any")));
    }
}
