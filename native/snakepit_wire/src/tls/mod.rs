//! TLS of either end, by rustls: here is what both share.

#[cfg(test)]
mod authority;
pub mod client;
pub mod server;

use tokio_rustls::rustls::{
    self, RootCertStore,
    pki_types::{
        CertificateDer, PrivateKeyDer,
        pem::{self, PemObject},
    },
};

/// The protocol of all connections, as TLS negotiates it.
const HTTP_2: &[u8] = b"h2";

/// Why certificates and keys cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("expected a certificate in PEM form, found none")]
    NoCertificate,
    #[error("expected a private key in PEM form: {0}")]
    NoKey(pem::Error),
    #[error("not valid PEM: {0}")]
    NotPem(pem::Error),
    #[error(transparent)]
    Refused(#[from] rustls::Error),
    #[error(transparent)]
    NoVerifier(#[from] rustls::server::VerifierBuilderError),
}

/// The certificates of a PEM text, at least one.
fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let found: Vec<_> = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<_, _>>()
        .map_err(TlsError::NotPem)?;
    if found.is_empty() {
        return Err(TlsError::NoCertificate);
    }
    Ok(found)
}

fn private_key(pem: &[u8]) -> Result<PrivateKeyDer<'static>, TlsError> {
    PrivateKeyDer::from_pem_slice(pem).map_err(TlsError::NoKey)
}

/// Those that sign the certificates of the other end.
fn authorities(pem: &[u8]) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(pem)? {
        roots.add(certificate)?;
    }
    Ok(roots)
}
