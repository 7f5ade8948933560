//! What clients must send where other users can connect: the secret of the process that started this server, or one
//! of the tokens that its user has named.

use http::{HeaderMap, HeaderName, HeaderValue, header::AUTHORIZATION};
use snakepit_wire::SECRET_HEADER;
use std::{future::pending, sync::Arc};
use subtle::{Choice, ConstantTimeEq};
use tokio::sync::watch;
use tonic::Status;

pub(crate) static HEADER: HeaderName = HeaderName::from_static(SECRET_HEADER);

type Accepted = Arc<[String]>;

/// If there are none, everyone may call.
pub struct Secrets(watch::Sender<Accepted>);

impl Secrets {
    pub fn new(secrets: Vec<String>) -> Self {
        Self(watch::Sender::new(secrets.into()))
    }

    /// From now on these are accepted and no others. Clients that have sent another are asked to leave, and may use it on
    /// their connections until then.
    pub fn replace(&self, secrets: Vec<String>) {
        self.0.send_replace(secrets.into());
    }

    pub(crate) fn visitor(&self) -> Visitor {
        Visitor {
            accepted: self.0.subscribe(),
            given: None,
        }
    }

    pub(crate) fn missing() -> Status {
        Status::unauthenticated(format!(
            "expected the metadata \"authorization: Bearer TOKEN\" with a token of the server's --token-file, or \
             {HEADER:?} with the secret that the worker was started with"
        ))
    }
}

/// The client of a connection.
pub(crate) struct Visitor {
    accepted: watch::Receiver<Accepted>,
    /// The secret that it has sent, which was accepted at that time.
    given: Option<HeaderValue>,
}

impl Visitor {
    /// Whether the headers have a secret; it is removed, so that no command sees it.
    pub(crate) fn is_trusted(&mut self, headers: &mut HeaderMap) -> bool {
        let accepted = self.accepted.borrow().clone();
        if accepted.is_empty() {
            return true;
        }
        for name in [&HEADER, &AUTHORIZATION] {
            // RPCs that the client has sent before it was asked to leave are not to fail.
            if headers.get(name).is_some_and(|given| {
                is_accepted(&accepted, given) || self.given.as_ref() == Some(given)
            }) {
                self.given = headers.remove(name);
                return true;
            }
        }
        false
    }

    /// Returns once the secret that the client has sent is no longer accepted.
    pub(crate) async fn is_withdrawn(&mut self) {
        while self.accepted.changed().await.is_ok() {
            let accepted = self.accepted.borrow_and_update().clone();
            if let Some(given) = &self.given
                && !is_accepted(&accepted, given)
            {
                return;
            }
        }
        pending().await
    }
}

/// Compares in constant time.
fn is_accepted(accepted: &[String], given: &HeaderValue) -> bool {
    let given = given.as_bytes();
    let given = match given.split_at_checked(7) {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case(b"Bearer ") => token,
        _ => given,
    };
    let found = accepted.iter().fold(Choice::from(0), |found, secret| {
        found | secret.as_bytes().ct_eq(given)
    });
    found.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(name: &HeaderName, secret: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(name.clone(), HeaderValue::from_static(secret))])
    }

    fn is_trusted(secrets: &Secrets, mut headers: HeaderMap) -> bool {
        secrets.visitor().is_trusted(&mut headers)
    }

    #[test]
    fn only_the_whole_secret_is_one() {
        let secrets = Secrets::new(vec!["secret".into(), "other".into()]);
        for good in ["secret", "other"] {
            assert!(is_trusted(&secrets, headers(&HEADER, good)), "{good}");
        }
        for bad in ["", "secre", "secrets", "Secret", "Bearer", "Bearer "] {
            assert!(!is_trusted(&secrets, headers(&HEADER, bad)), "{bad}");
        }
        assert!(!is_trusted(&secrets, HeaderMap::new()));
    }

    #[test]
    fn a_bearer_token_is_a_secret_and_is_taken_out_of_the_headers() {
        let secrets = Secrets::new(vec!["secret".into()]);
        let mut given = headers(&AUTHORIZATION, "bearer secret");
        assert!(secrets.visitor().is_trusted(&mut given));
        assert!(given.is_empty());
        let mut given = headers(&AUTHORIZATION, "Bearer of bad news");
        assert!(!secrets.visitor().is_trusted(&mut given));
        assert_eq!(given.len(), 1);
    }

    #[test]
    fn without_a_secret_everyone_may_call() {
        let secrets = Secrets::new(Vec::new());
        assert!(is_trusted(&secrets, HeaderMap::new()));
        assert!(is_trusted(&secrets, headers(&HEADER, "any")));
    }

    #[tokio::test]
    async fn a_visitor_learns_when_its_own_secret_is_withdrawn() {
        let secrets = Secrets::new(vec!["old".into()]);
        let mut visitor = secrets.visitor();
        assert!(visitor.is_trusted(&mut headers(&HEADER, "old")));
        let withdrawing = async {
            secrets.replace(vec!["old".into(), "new".into()]);
            tokio::task::yield_now().await;
            secrets.replace(vec!["new".into()]);
        };
        tokio::join!(visitor.is_withdrawn(), withdrawing);
        assert!(!is_trusted(&secrets, headers(&HEADER, "old")));
        assert!(is_trusted(&secrets, headers(&HEADER, "new")));
    }

    #[tokio::test]
    async fn a_visitor_may_use_a_withdrawn_secret_until_it_has_left() {
        let secrets = Secrets::new(vec!["old".into(), "older".into()]);
        let mut visitor = secrets.visitor();
        assert!(visitor.is_trusted(&mut headers(&HEADER, "old")));
        secrets.replace(vec!["new".into()]);
        visitor.is_withdrawn().await;
        assert!(visitor.is_trusted(&mut headers(&HEADER, "old")));
        // Only that one.
        assert!(!visitor.is_trusted(&mut headers(&HEADER, "older")));
    }
}
