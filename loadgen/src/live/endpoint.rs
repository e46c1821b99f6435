//! Whom to measure and how to get through to it: address, keys, certificates.

use std::fs;
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use http::Uri;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};

use super::transport::Security;
use super::vocabulary::Tokens;
use crate::error::Error;

/// Which of OpenAI's endpoints is driven.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Api {
    /// `/v1/completions`: prompts may be token ids, so that their length is exact.
    #[default]
    Completions,
    /// `/v1/chat/completions`: prompts are text, wrapped in the model's chat template.
    Chat,
}

impl Api {
    pub(crate) fn path(self) -> &'static str {
        match self {
            Self::Completions => "/v1/completions",
            Self::Chat => "/v1/chat/completions",
        }
    }
}

impl std::str::FromStr for Api {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        match text {
            "completions" => Ok(Self::Completions),
            "chat" => Ok(Self::Chat),
            _ => Err(Error::Endpoint(format!("unknown API {text:?}: write completions or chat"))),
        }
    }
}

/// A server, as it is named on a command line.
#[derive(Debug, Clone, Default)]
pub struct Server {
    /// `http://HOST:PORT` or `https://...`, with or without `/v1`.
    pub url: String,
    /// The endpoint driven.
    pub api: Api,
    /// The model asked for; none: the first that the server lists.
    pub model: Option<String>,
    /// Sent as a bearer token.
    pub api_key: Option<String>,
    /// Further headers, name and value.
    pub headers: Vec<(String, String)>,
    /// Certificates (PEM) to trust besides the system's.
    pub ca: Option<PathBuf>,
    /// The client's own certificate chain and key (PEM), where the server asks for one.
    pub identity: Option<(PathBuf, PathBuf)>,
    /// The tokenizer of its model, where that is at hand: prompts are then text of exact length, and what the server
    /// does not count is counted by it.
    pub tokenizer: Option<Tokens>,
}

/// A server found: where it is, and what every request to it begins with.
pub(crate) struct Endpoint {
    pub(crate) addresses: Vec<SocketAddr>,
    pub(crate) security: Option<Security>,
    pub(crate) api: Api,
    /// Path before `/v1`.
    base: String,
    /// Header lines of every request.
    headers: String,
}

impl Endpoint {
    /// Understands the URL, looks its host up and reads the certificates.
    ///
    /// # Errors
    /// A URL, host, header or certificate that is none.
    pub(crate) fn find(server: &Server) -> Result<Self, Error> {
        let url = &server.url;
        let bad = |why: &str| {
            Error::Endpoint(format!("{url:?} {why}; write a URL such as http://localhost:8000"))
        };
        let uri: Uri = url.parse().map_err(|_| bad("is not a URL"))?;
        let secure = match uri.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            _ => return Err(bad("begins neither with http:// nor https://")),
        };
        let authority = uri.authority().ok_or_else(|| bad("names no host"))?;
        let host = uri.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
        let port = uri.port_u16().unwrap_or(if secure { 443 } else { 80 });
        let path = uri.path().trim_end_matches('/');
        let base = path.strip_suffix("/v1").unwrap_or(path).to_owned();
        let addresses: Vec<SocketAddr> = (host.as_str(), port)
            .to_socket_addrs()
            .map_err(|e| Error::Endpoint(format!("cannot find the host {host:?} (dns): {e}")))?
            .collect();
        if addresses.is_empty() {
            return Err(Error::Endpoint(format!("the host {host:?} has no address (dns)")));
        }
        let security = if secure { Some(security(&host, server)?) } else { None };
        let mut headers = format!("host: {authority}\r\nuser-agent: knee\r\n");
        if let Some(key) = &server.api_key {
            headers += &line("authorization", &format!("Bearer {key}"))?;
        }
        for (name, value) in &server.headers {
            headers += &line(name, value)?;
        }
        Ok(Self { addresses, security, api: server.api, base, headers })
    }

    /// The head of a request, up to its length.
    pub(crate) fn head(&self, method: &str, path: &str) -> String {
        format!("{method} {}{path} HTTP/1.1\r\n{}", self.base, self.headers)
    }
}

fn line(name: &str, value: &str) -> Result<String, Error> {
    let bad = |_| Error::Endpoint(format!("{name:?} and its value are not an HTTP header"));
    let checked = http::HeaderName::from_bytes(name.as_bytes()).map_err(|e| bad(e.to_string()))?;
    http::HeaderValue::from_str(value).map_err(|e| bad(e.to_string()))?;
    Ok(format!("{checked}: {value}\r\n"))
}

fn security(host: &str, server: &Server) -> Result<Security, Error> {
    let tls = |what: &str, why: &dyn std::fmt::Display| Error::Endpoint(format!("{what}: {why}"));
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if let Some(path) = &server.ca {
        for certificate in certificates(path)? {
            roots.add(certificate).map_err(|e| tls(&path.display().to_string(), &e))?;
        }
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| tls("TLS", &e))?
        .with_root_certificates(roots);
    let config = match &server.identity {
        None => config.with_no_client_auth(),
        Some((chain, key)) => {
            let private = PrivateKeyDer::from_pem_file(key)
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
    let pem = fs::read(path).map_err(|e| bad(e.to_string()))?;
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    let all = all.map_err(|e| bad(format!("not PEM: {e}")))?;
    if all.is_empty() { Err(bad("holds no certificate (PEM)".to_owned())) } else { Ok(all) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(url: &str) -> Result<Endpoint, Error> {
        Endpoint::find(&Server { url: url.to_owned(), ..Server::default() })
    }

    #[test]
    fn urls() {
        for (url, head) in [
            ("http://127.0.0.1:8000", "GET /v1/models HTTP/1.1\r\nhost: 127.0.0.1:8000\r\n"),
            ("http://127.0.0.1/v1/", "GET /v1/models HTTP/1.1\r\nhost: 127.0.0.1\r\n"),
            ("http://[::1]:9/llm/v1", "GET /llm/v1/models HTTP/1.1\r\nhost: [::1]:9\r\n"),
        ] {
            let head_found = find(url).unwrap().head("GET", "/v1/models");
            assert!(head_found.starts_with(head), "{head_found}");
        }
        assert_eq!(find("http://127.0.0.1").unwrap().addresses[0].port(), 80);
        for bad in ["", "localhost:8000", "ftp://x", "http://", "http://no-such-host.invalid"] {
            assert!(find(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_header_cannot_smuggle_another() {
        let header = |value: &str| {
            let headers = vec![("x-a".to_owned(), value.to_owned())];
            Endpoint::find(&Server {
                url: "http://127.0.0.1".to_owned(),
                headers,
                ..Server::default()
            })
        };
        assert!(header("b").is_ok());
        assert!(header("b\r\nx-c: d").is_err());
    }
}
