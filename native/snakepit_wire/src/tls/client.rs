//! The TLS of a client: which servers it trusts, and what it says of itself.

use super::{HTTP_2, TlsError, authorities, certificates, private_key};
use crate::{
    io::{Io, IoState},
    socket::Socket,
};
use std::{io, sync::Arc};
use tokio_rustls::{
    TlsConnector,
    rustls::{
        self, CertificateError, ClientConfig, InvalidMessage, RootCertStore,
        crypto::ring,
        pki_types::{CertificateDer, ServerName},
    },
};

/// The authorities whose certificates are trusted.
pub enum Roots {
    /// PEM texts.
    Pem(Vec<u8>),
    /// Those of the system, which may have some that cannot be read.
    Der(Vec<Vec<u8>>),
}

impl Roots {
    fn store(self) -> Result<RootCertStore, TlsError> {
        match self {
            Self::Pem(pem) => authorities(&pem),
            Self::Der(certificates) => {
                let mut roots = RootCertStore::empty();
                let certificates = certificates.into_iter().map(CertificateDer::from);
                roots.add_parsable_certificates(certificates);
                if roots.is_empty() {
                    return Err(TlsError::NoCertificate);
                }
                Ok(roots)
            }
        }
    }
}

/// The certificate of a client and its key, as PEM texts.
pub struct Identity {
    pub certificate: Vec<u8>,
    pub key: Vec<u8>,
}

#[derive(Clone)]
pub struct ClientTls {
    connector: TlsConnector,
    server_name: Option<String>,
}

impl ClientTls {
    /// `server_name` is the name that a server's certificate must have, if that is not the host of its address.
    pub fn new(
        roots: Roots,
        identity: Option<Identity>,
        server_name: Option<String>,
    ) -> Result<Self, TlsError> {
        let provider = Arc::new(ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots.store()?);
        let mut config = match identity {
            None => builder.with_no_client_auth(),
            Some(Identity { certificate, key }) => {
                builder.with_client_auth_cert(certificates(&certificate)?, private_key(&key)?)?
            }
        };
        config.alpn_protocols = vec![HTTP_2.to_vec()];
        Ok(Self {
            connector: Arc::new(config).into(),
            server_name,
        })
    }

    /// Negotiates TLS with the server of that host.
    pub async fn connect(&self, socket: Socket, host: &str) -> io::Result<(Io, Arc<IoState>)> {
        let name = self.server_name.as_deref().unwrap_or(host);
        let server = ServerName::try_from(name.to_owned())
            .map_err(|_| io::Error::other(format!("{name:?} is not a name of a server")))?;
        let handshake = async |port| Ok(self.connector.connect(server, port).await?.into());
        let secured = Io::secured(socket, handshake).await;
        secured.map_err(|error| io::Error::other(explain(&error, name)))
    }
}

fn explain(error: &io::Error, name: &str) -> String {
    use CertificateError as Certificate;
    let tls = error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<rustls::Error>());
    match tls {
        Some(rustls::Error::InvalidCertificate(why)) => match why {
            // The name of the authority alone says little.
            Certificate::UnknownIssuer | Certificate::BadSignature => {
                "the certificate of the server is not signed by an authority that :tls names".into()
            }
            Certificate::NotValidForName | Certificate::NotValidForNameContext { .. } => format!(
                "the certificate of the server is not for the name {name}; :server_name in :tls sets another"
            ),
            Certificate::Expired | Certificate::ExpiredContext { .. } => {
                "the certificate of the server has expired".into()
            }
            why => format!("the certificate of the server is not valid: {why}"),
        },
        Some(rustls::Error::InvalidMessage(InvalidMessage::InvalidContentType)) => {
            "the server does not use TLS".into()
        }
        Some(rustls::Error::AlertReceived(alert)) => {
            format!("the server refused the TLS connection: {alert:?}")
        }
        _ if error.kind() == io::ErrorKind::UnexpectedEof => {
            "the server closed the connection while TLS was negotiated".into()
        }
        _ => format!("TLS failed: {error}"),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::tls::{authority::Authority, server::ServerTls};
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::UnixStream,
    };

    fn roots(authority: &Authority) -> Roots {
        Roots::Pem(authority.pem().into_bytes())
    }

    fn identity((certificate, key): (String, String)) -> Identity {
        Identity {
            certificate: certificate.into_bytes(),
            key: key.into_bytes(),
        }
    }

    /// What a client gets from a server with this certificate: an echo, or the text of an error.
    async fn answer(
        certificate: &(String, String),
        client_ca: Option<&Authority>,
        client: &ClientTls,
        host: &str,
    ) -> Result<u8, String> {
        let client_ca = client_ca.map(Authority::pem);
        let server = ServerTls::new(
            certificate.0.as_bytes(),
            certificate.1.as_bytes(),
            client_ca.as_deref().map(str::as_bytes),
        );
        let server = server.unwrap();
        let (near, far) = UnixStream::pair().unwrap();
        tokio::spawn(async move {
            if let Ok((mut io, _state)) = server.accept(Socket::unix(far).unwrap()).await {
                let byte = io.read_u8().await.unwrap();
                io.write_u8(byte).await.unwrap();
                io.flush().await.unwrap();
            }
        });
        let connected = client.connect(Socket::unix(near).unwrap(), host).await;
        let (mut io, _state) = connected.map_err(|error| error.to_string())?;
        let sent = async {
            io.write_u8(7).await?;
            io.flush().await?;
            io.read_u8().await
        };
        sent.await.map_err(|error| error.to_string())
    }

    #[tokio::test]
    async fn a_server_of_the_authority_with_the_right_name_is_trusted() {
        let authority = Authority::new();
        let certificate = authority.sign("models");
        let client = ClientTls::new(roots(&authority), None, None).unwrap();
        assert_eq!(answer(&certificate, None, &client, "models").await, Ok(7));
        let named = ClientTls::new(roots(&authority), None, Some("models".into())).unwrap();
        assert_eq!(answer(&certificate, None, &named, "10.0.0.7").await, Ok(7));
        let der = Roots::Der(vec![vec![1, 2, 3], authority.der()]);
        let client = ClientTls::new(der, None, None).unwrap();
        assert_eq!(answer(&certificate, None, &client, "models").await, Ok(7));
    }

    #[tokio::test]
    async fn a_server_of_another_authority_or_name_or_time_is_refused_with_the_reason() {
        let (authority, other) = (Authority::new(), Authority::new());
        let certificate = authority.sign("models");
        let client = ClientTls::new(roots(&other), None, None).unwrap();
        let error = answer(&certificate, None, &client, "models").await;
        assert!(error.unwrap_err().contains("not signed by an authority"));
        let client = ClientTls::new(roots(&authority), None, None).unwrap();
        let error = answer(&certificate, None, &client, "elsewhere").await;
        let error = error.unwrap_err();
        assert!(
            error.contains("elsewhere") && error.contains(":server_name"),
            "{error}"
        );
        let error = answer(&authority.sign_expired("models"), None, &client, "models").await;
        assert!(error.unwrap_err().contains("expired"));
        let error = answer(&certificate, None, &client, "not a name").await;
        assert!(error.unwrap_err().contains("not a name"));
    }

    #[tokio::test]
    async fn a_server_that_asks_for_a_certificate_gets_one() {
        let authority = Authority::new();
        let certificate = authority.sign("models");
        let own = identity(authority.sign("me"));
        let client = ClientTls::new(roots(&authority), Some(own), None).unwrap();
        let answered = answer(&certificate, Some(&authority), &client, "models").await;
        assert_eq!(answered, Ok(7));
        let nobody = ClientTls::new(roots(&authority), None, None).unwrap();
        let refused = answer(&certificate, Some(&authority), &nobody, "models").await;
        assert!(refused.is_err());
    }

    #[tokio::test]
    async fn a_server_without_tls_is_named() {
        let authority = Authority::new();
        let client = ClientTls::new(roots(&authority), None, None).unwrap();
        let (near, mut far) = UnixStream::pair().unwrap();
        far.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
            .await
            .unwrap();
        let error = client.connect(Socket::unix(near).unwrap(), "models").await;
        let error = error.err().unwrap().to_string();
        assert!(error.contains("does not use TLS"), "{error}");
    }

    #[test]
    fn what_is_no_certificate_or_no_key_is_named() {
        let authority = Authority::new();
        let (certificate, _key) = authority.sign("me");
        let own = identity((certificate.clone(), certificate));
        let error = ClientTls::new(roots(&authority), Some(own), None).err();
        assert!(
            error
                .unwrap()
                .to_string()
                .contains("expected a private key")
        );
        let error = ClientTls::new(Roots::Pem(Vec::new()), None, None).err();
        assert!(
            error
                .unwrap()
                .to_string()
                .contains("expected a certificate")
        );
        assert!(ClientTls::new(Roots::Der(vec![vec![1]]), None, None).is_err());
    }
}
