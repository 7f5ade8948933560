//! The TLS of a listener.

use super::{HTTP_2, TlsError, authorities, certificates, private_key};
use crate::{
    io::{Io, IoState},
    socket::Socket,
};
use std::{io, sync::Arc};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{ServerConfig, crypto::ring, server::WebPkiClientVerifier},
};

#[derive(Clone)]
pub struct ServerTls(TlsAcceptor);

impl ServerTls {
    /// Takes PEM texts. With `client_ca` a client needs a certificate that one of these authorities has signed.
    pub fn new(certificate: &[u8], key: &[u8], client_ca: Option<&[u8]>) -> Result<Self, TlsError> {
        let provider = Arc::new(ring::default_provider());
        let builder = ServerConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()?;
        let builder = match client_ca {
            None => builder.with_no_client_auth(),
            Some(pem) => {
                let roots = Arc::new(authorities(pem)?);
                let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider);
                builder.with_client_cert_verifier(verifier.build()?)
            }
        };
        let mut config = builder.with_single_cert(certificates(certificate)?, private_key(key)?)?;
        config.alpn_protocols = vec![HTTP_2.to_vec()];
        Ok(Self(Arc::new(config).into()))
    }

    /// Negotiates TLS with a client.
    pub async fn accept(&self, socket: Socket) -> io::Result<(Io, Arc<IoState>)> {
        let handshake = async |port| Ok(self.0.accept(port).await?.into());
        Io::secured(socket, handshake).await
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::{io::Mode, tls::authority::Authority};
    use std::{
        pin::Pin,
        task::{Context, Waker},
    };
    use tokio::{
        io::{AsyncRead, AsyncReadExt, AsyncWriteExt, ReadBuf},
        net::UnixStream,
    };
    use tokio_rustls::{
        TlsConnector,
        client::TlsStream,
        rustls::{ClientConfig, pki_types::ServerName},
    };

    fn server(authority: &Authority, client_ca: Option<&str>) -> ServerTls {
        let (certificate, key) = authority.sign("models");
        let client_ca = client_ca.map(str::as_bytes);
        ServerTls::new(certificate.as_bytes(), key.as_bytes(), client_ca).unwrap()
    }

    async fn connect(
        socket: UnixStream,
        authority: &Authority,
        own: Option<&(String, String)>,
    ) -> io::Result<TlsStream<UnixStream>> {
        let provider = Arc::new(ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(authorities(authority.pem().as_bytes()).unwrap());
        let config = match own {
            None => builder.with_no_client_auth(),
            Some((certificate, key)) => builder
                .with_client_auth_cert(
                    certificates(certificate.as_bytes()).unwrap(),
                    private_key(key.as_bytes()).unwrap(),
                )
                .unwrap(),
        };
        let name = ServerName::try_from("models").unwrap();
        TlsConnector::from(Arc::new(config))
            .connect(name, socket)
            .await
    }

    /// The two ends of a connection.
    async fn connected() -> (Io, Arc<IoState>, TlsStream<UnixStream>) {
        let (near, far) = UnixStream::pair().unwrap();
        let authority = Authority::new();
        let tls = server(&authority, None);
        let (accepted, connected) = tokio::join!(
            tls.accept(Socket::unix(near).unwrap()),
            connect(far, &authority, None)
        );
        let (io, state) = accepted.unwrap();
        (io, state, connected.unwrap())
    }

    #[tokio::test]
    async fn more_data_than_the_socket_holds_goes_both_ways_and_then_the_end() {
        let (near, _state, far) = connected().await;
        let sent: Vec<u8> = (0..3_000_000u32).map(|n| (n % 251) as u8).collect();
        tokio::spawn(async move {
            let (mut reader, mut writer) = tokio::io::split(far);
            tokio::io::copy(&mut reader, &mut writer).await.unwrap();
            writer.shutdown().await.unwrap();
        });
        let (mut reader, mut writer) = tokio::io::split(near);
        let bytes = sent.clone();
        tokio::spawn(async move {
            writer.write_all(&bytes).await.unwrap();
            writer.shutdown().await.unwrap();
        });
        let mut got = Vec::new();
        reader.read_to_end(&mut got).await.unwrap();
        assert!(got == sent);
    }

    #[tokio::test]
    async fn data_that_was_decrypted_already_is_not_read_while_a_thread_only_writes() {
        let (mut near, state, mut far) = connected().await;
        far.write_all(b"two").await.unwrap();
        far.flush().await.unwrap();
        assert_eq!(near.read_u8().await.unwrap(), b't');
        state.set_mode(Mode::Write);
        let mut buffer = [0; 2];
        let mut buffer = ReadBuf::new(&mut buffer);
        let mut cx = Context::from_waker(Waker::noop());
        let read = Pin::new(&mut near).poll_read(&mut cx, &mut buffer);
        assert!(read.is_pending());
        near.write_all(b"x").await.unwrap();
        near.flush().await.unwrap();
        assert_eq!(far.read_u8().await.unwrap(), b'x');
        state.set_mode(Mode::Task);
        let mut rest = [0; 2];
        near.read_exact(&mut rest).await.unwrap();
        assert_eq!(&rest, b"wo");
    }

    #[tokio::test]
    async fn a_client_needs_a_certificate_of_the_authority_if_one_is_given() {
        let (authority, other) = (Authority::new(), Authority::new());
        let tls = server(&authority, Some(&authority.pem()));
        let (own, foreign) = (authority.sign("client"), other.sign("client"));
        for (certificate, accepted) in [(Some(&own), true), (Some(&foreign), false), (None, false)]
        {
            let (near, far) = UnixStream::pair().unwrap();
            let (near, _far) = tokio::join!(
                tls.accept(Socket::unix(near).unwrap()),
                connect(far, &authority, certificate)
            );
            assert_eq!(near.is_ok(), accepted);
        }
    }

    #[test]
    fn what_is_no_certificate_or_no_key_is_named() {
        let (certificate, key) = Authority::new().sign("models");
        let (certificate, key) = (certificate.as_bytes(), key.as_bytes());
        let error = |certificate, key, client_ca| {
            ServerTls::new(certificate, key, client_ca)
                .err()
                .unwrap()
                .to_string()
        };
        assert!(error(key, key, None).contains("expected a certificate"));
        assert!(error(certificate, certificate, None).contains("expected a private key"));
        assert!(error(certificate, key, Some(b"")).contains("expected a certificate"));
        let (_, other) = Authority::new().sign("models");
        assert!(!error(certificate, other.as_bytes(), None).is_empty());
    }
}
