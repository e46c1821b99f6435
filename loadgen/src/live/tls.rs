//! The certificates that TLS trusts: the system's authorities, the authorities that the user names,
//! and the very certificates in their file.
//!
//! `openssl req -x509` makes a certificate that says of itself that it is an authority, and names
//! no host unless asked to. The rules for authorities refuse it as a server's own certificate. A
//! user who names it in a file trusts that very certificate, so it is accepted, and its key is
//! still proved.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
};

use super::server::Server;
use super::transport::Security;
use crate::error::Error;

/// Bytes of a PEM file: the certificates of a whole system are some hundred kB.
const LONGEST: u64 = 16 << 20;

/// The security of connections to `host`.
///
/// # Errors
/// Certificates or keys that are not valid.
pub(super) fn security(host: &str, server: &Server) -> Result<Security, Error> {
    let tls = |what: &str, why: &dyn std::fmt::Display| Error::Endpoint(format!("{what}: {why}"));
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    let named = server.ca.as_deref().map(certificates).transpose()?.unwrap_or_default();
    for certificate in &named {
        let path = server.ca.as_deref().unwrap_or(Path::new("")).display().to_string();
        roots.add(certificate.clone()).map_err(|e| tls(&path, &e))?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|e| tls("TLS", &e))?;
    let config = if named.is_empty() {
        config.with_root_certificates(roots)
    } else {
        let usual = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider);
        let usual = usual.build().map_err(|e| tls("TLS", &e))?;
        config.dangerous().with_custom_certificate_verifier(Arc::new(Named { named, usual }))
    };
    let config = match &server.identity {
        None => config.with_no_client_auth(),
        Some((chain, key)) => {
            let private = PrivateKeyDer::from_pem_slice(&pem(key)?)
                .map_err(|e| tls(&key.display().to_string(), &e))?;
            config
                .with_client_auth_cert(certificates(chain)?, private)
                .map_err(|e| tls(&chain.display().to_string(), &e))?
        }
    };
    let name = ServerName::try_from(host.to_owned()).map_err(|e| tls(host, &e))?;
    Ok(Security { config: Arc::new(config), name })
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, Error> {
    let bad = |why: String| Error::Endpoint(format!("{}: {why}", path.display()));
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem(path)?).collect();
    let all = all.map_err(|e| bad(format!("not PEM: {e}")))?;
    if all.is_empty() { Err(bad("holds no certificate (PEM)".to_owned())) } else { Ok(all) }
}

fn pem(path: &Path) -> Result<Vec<u8>, Error> {
    let bad = |why: String| Error::Endpoint(format!("{}: {why}", path.display()));
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|file| file.take(LONGEST + 1).read_to_end(&mut bytes));
    match read.map_err(|e| bad(e.to_string()))? {
        n if n as u64 > LONGEST => Err(bad("over 16 MiB, which no PEM file is".to_owned())),
        _ => Ok(bytes),
    }
}

/// The usual rules, except for certificates that were named.
#[derive(Debug)]
struct Named {
    named: Vec<CertificateDer<'static>>,
    usual: Arc<WebPkiServerVerifier>,
}

impl ServerCertVerifier for Named {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let usual = self.usual.verify_server_cert(certificate, chain, name, ocsp, now);
        let excused = |error: &rustls::Error| match error {
            // The named certificate: used as a server's although it calls itself an authority, or
            // for a host although it names none.
            rustls::Error::InvalidCertificate(CertificateError::Other(_)) => true,
            rustls::Error::InvalidCertificate(CertificateError::NotValidForNameContext {
                presented,
                ..
            }) => presented.is_empty(),
            _ => false,
        };
        match usual {
            Err(error) if excused(&error) && self.named.iter().any(|n| n == certificate) => {
                names(certificate, name).map(|()| ServerCertVerified::assertion())
            }
            other => other,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.usual.verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.usual.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.usual.supported_verify_schemes()
    }
}

/// That a certificate which names hosts names this one.
fn names(certificate: &CertificateDer<'_>, name: &ServerName<'_>) -> Result<(), rustls::Error> {
    use rustls::client::verify_server_name;
    use rustls::server::ParsedCertificate;
    let parsed = ParsedCertificate::try_from(certificate)?;
    match verify_server_name(&parsed, name) {
        Err(rustls::Error::InvalidCertificate(CertificateError::NotValidForNameContext {
            presented,
            ..
        })) if presented.is_empty() => Ok(()),
        other => other,
    }
}
