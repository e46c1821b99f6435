//! The server to measure and the way to it: address, paths, proxy, keys, certificates.

use std::net::{SocketAddr, ToSocketAddrs};

use super::api::Api;
use super::server::Server;
use super::shown::ShownUrl;
use super::tls::security;
use super::transport::Place;
use super::url::Url;
use crate::error::Error;

/// A server found: where it is, and what every request to it begins with.
pub(crate) struct Endpoint {
    url: Url,
    /// The addresses to connect to: the server's, or those of a proxy in between.
    pub(crate) addresses: Vec<SocketAddr>,
    pub(crate) place: Place,
    pub(crate) api: Api,
    /// True where the URL's path says which API that is.
    pub(crate) whole: bool,
    /// Paths before the endpoints' names, the likeliest first.
    roots: Vec<String>,
    /// The index of the root in use.
    root: usize,
    /// Path and query of the endpoint driven where a redirect said so.
    moved: Option<String>,
    /// The proxy, as it may be shown.
    proxy: Option<String>,
    /// Stands before the path where a proxy is asked for it.
    prefix: String,
    /// Header lines of every request.
    headers: String,
}

impl Endpoint {
    /// Understands the URL, looks its host up and reads the certificates.
    ///
    /// # Errors
    /// [`Error::Nobody`] for a host that has no address, now; a URL, proxy, header or certificate
    /// that is not valid.
    pub(crate) fn find(server: &Server) -> Result<Self, Error> {
        let url = Url::parse(&server.url)?;
        let proxy = server.proxies.of(&url)?;
        let (host, port) = proxy.as_ref().map_or((&url.host, url.port), |p| (&p.host, p.port));
        let addresses: Vec<SocketAddr> = (host.as_str(), port)
            .to_socket_addrs()
            .map_err(|e| Error::Nobody(format!("cannot find the host {host:?} (dns): {e}")))?
            .collect();
        if addresses.is_empty() {
            return Err(Error::Nobody(format!("the host {host:?} has no address (dns)")));
        }
        let security = if url.secure { Some(security(&url.host, server)?) } else { None };
        let (api, base) = url.endpoint();
        let (whole, base) = (api.is_some(), base.to_owned());
        let roots =
            if whole || has_version(&base) { vec![base] } else { vec![format!("{base}/v1"), base] };
        let asked = proxy.as_ref().and_then(|p| p.basic.as_deref());
        let asked = asked.map(|basic| format!("proxy-authorization: {basic}\r\n"));
        let (prefix, own, tunnel) = match (&proxy, &security) {
            (None, _) => (String::new(), String::new(), None),
            (Some(_), None) => (url.origin(), asked.unwrap_or_default(), None),
            (Some(_), Some(_)) => {
                let to = if url.host.contains(':') {
                    format!("[{}]", url.host)
                } else {
                    url.host.clone()
                };
                let (to, asked) = (format!("{to}:{}", url.port), asked.unwrap_or_default());
                let ask = format!("CONNECT {to} HTTP/1.1\r\nhost: {to}\r\n{asked}\r\n");
                (String::new(), String::new(), Some(ask.into_bytes()))
            }
        };
        Ok(Self {
            headers: headers(&url, server)? + &own,
            addresses,
            place: Place { tunnel, security },
            api: api.unwrap_or(server.api),
            whole,
            roots,
            root: 0,
            moved: None,
            proxy: proxy.map(|p| p.to_string()),
            prefix,
            url,
        })
    }

    /// The head of a request, up to its length. `path` has its query.
    pub(crate) fn head(&self, method: &str, path: &str) -> String {
        format!("{method} {}{path} HTTP/1.1\r\n{}", self.prefix, self.headers)
    }

    /// Path and query of the endpoint driven.
    pub(crate) fn target(&self) -> String {
        self.moved.clone().unwrap_or_else(|| self.below(self.api.path()))
    }

    /// Path and query of what is called `name` beside it.
    pub(crate) fn below(&self, name: &str) -> String {
        format!("{}{name}{}", self.roots[self.root], self.url.query)
    }

    /// Path and query of what is called `name` and has no version.
    pub(crate) fn beside(&self, name: &str) -> String {
        let root = &self.roots[self.root];
        let version = root.rfind('/').filter(|at| is_version(&root[at + 1..]));
        format!("{}{name}{}", version.map_or(root.as_str(), |at| &root[..at]), self.url.query)
    }

    /// Goes on to the next likeliest place of the endpoints; false where there is none, and back at the first.
    pub(crate) fn next_root(&mut self) -> bool {
        self.moved = None;
        self.root += 1;
        if self.root == self.roots.len() {
            self.root = 0;
            return false;
        }
        true
    }

    /// The path on this server to which a redirect from `path` to `location` leads.
    ///
    /// # Errors
    /// If it leads to another server.
    pub(crate) fn redirected(&self, path: &str, location: &str) -> Result<String, Error> {
        let (url, target) = self.url.follow(path, location)?;
        if self.url.same_server(&url) {
            return Ok(target);
        }
        let to = if location.starts_with('/') { url.to_string() } else { location.to_owned() };
        Err(Error::Endpoint(format!(
            "{} redirects to {}: give that as --url if it is the server you mean",
            self.url.origin(),
            ShownUrl::of(&to).text
        )))
    }

    /// Requests go to `target` (path and query) from now on.
    pub(crate) fn moves(&mut self, target: String) {
        self.moved = Some(target);
    }

    /// The server as it may be shown, and the proxy in between.
    pub(crate) fn shown(&self) -> (String, Option<&str>) {
        (self.url.to_string(), self.proxy.as_deref())
    }
}

/// True where a path ends in a version, such as `/v1` or `/api/v3`.
fn has_version(path: &str) -> bool {
    path.rsplit('/').next().is_some_and(is_version)
}

fn is_version(name: &str) -> bool {
    let digits = name.strip_prefix('v').unwrap_or_default();
    digits.starts_with(|c: char| c.is_ascii_digit()) && digits.len() < 12
}

/// The header lines of every request. Of several credentials, the most explicit counts.
fn headers(url: &Url, server: &Server) -> Result<String, Error> {
    let given = |name: &str| server.headers.iter().any(|(n, _)| n.eq_ignore_ascii_case(name));
    let key = server.api_key.as_ref().map(|key| format!("Bearer {key}"));
    let mut lines = String::new();
    for (name, value) in [
        ("host", Some(url.authority.clone())),
        ("user-agent", Some("knee".to_owned())),
        ("accept-encoding", Some("identity".to_owned())),
        ("authorization", url.basic.clone().or(key)),
    ] {
        if let Some(value) = value.filter(|_| !given(name)) {
            lines += &line(name, &value)?;
        }
    }
    for (name, value) in &server.headers {
        lines += &line(name, value)?;
    }
    Ok(lines)
}

fn line(name: &str, value: &str) -> Result<String, Error> {
    let bad = |_| Error::Endpoint(format!("{name:?} and its value are not an HTTP header"));
    let checked = http::HeaderName::from_bytes(name.as_bytes()).map_err(|e| bad(e.to_string()))?;
    http::HeaderValue::from_str(value).map_err(|e| bad(e.to_string()))?;
    Ok(format!("{checked}: {value}\r\n"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::live::proxy::Proxies;

    fn find(url: &str) -> Result<Endpoint, Error> {
        Endpoint::find(&Server { url: url.to_owned(), ..Server::default() })
    }

    #[test]
    fn paths() {
        for (url, models, target, health) in [
            ("http://127.0.0.1:8000", "/v1/models", "/v1/completions", "/health"),
            ("http://127.0.0.1/v1/", "/v1/models", "/v1/completions", "/health"),
            ("http://[::1]:9/llm/v1", "/llm/v1/models", "/llm/v1/completions", "/llm/health"),
            ("http://127.0.0.1/api/v3", "/api/v3/models", "/api/v3/completions", "/api/health"),
            ("http://127.0.0.1/v1beta", "/v1beta/models", "/v1beta/completions", "/health"),
            (
                "http://127.0.0.1/x/chat/completions",
                "/x/models",
                "/x/chat/completions",
                "/x/health",
            ),
            ("http://127.0.0.1/v1?a=b", "/v1/models?a=b", "/v1/completions?a=b", "/health?a=b"),
        ] {
            let found = find(url).unwrap();
            assert_eq!(found.below("/models"), models, "{url}");
            assert_eq!(found.target(), target, "{url}");
            assert_eq!(found.beside("/health"), health, "{url}");
        }
        let mut found = find("http://127.0.0.1/openai").unwrap();
        assert!(found.next_root() && found.target() == "/openai/completions" && !found.next_root());
        let head = find("http://127.0.0.1:8000").unwrap().head("GET", "/v1/models");
        assert!(head.starts_with("GET /v1/models HTTP/1.1\r\nhost: 127.0.0.1:8000\r\n"), "{head}");
        assert_eq!(find("http://127.0.0.1").unwrap().addresses[0].port(), 80);
        for bad in ["", "localhost:8000", "http://no-such-host.invalid", "http://127.0.0.1:99999"] {
            assert!(find(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_host_without_an_address_may_get_one() {
        let found = find("http://no-such-host.invalid").err();
        assert!(matches!(found, Some(Error::Nobody(_))), "{found:?}");
    }

    #[test]
    fn a_proxy_is_asked_for_the_whole_address_or_for_a_way_through() {
        let proxies = Proxies {
            http: Some("http://a:b@127.0.0.1:9".to_owned()),
            https: Some("127.0.0.1:9".to_owned()),
            no: String::new(),
        };
        let find = |url: &str| {
            let server =
                Server { url: url.to_owned(), proxies: proxies.clone(), ..Server::default() };
            Endpoint::find(&server).unwrap()
        };
        let plain = find("http://inference.invalid/v1");
        let head = plain.head("GET", "/v1/models");
        assert!(head.starts_with("GET http://inference.invalid/v1/models HTTP/1.1\r\n"), "{head}");
        assert!(
            head.contains("proxy-authorization: Basic YTpi\r\n") && plain.place.tunnel.is_none()
        );
        let secure = find("https://inference.invalid");
        assert!(secure.head("GET", "/v1/models").starts_with("GET /v1/models "));
        let tunnel = String::from_utf8(secure.place.tunnel.clone().unwrap()).unwrap();
        assert!(tunnel.starts_with("CONNECT inference.invalid:443 HTTP/1.1\r\n"), "{tunnel}");
        assert_eq!(secure.addresses[0].port(), 9);
    }

    #[test]
    fn credentials_are_sent_once() {
        let head = |key: Option<&str>, header: Option<&str>| {
            let server = Server {
                url: "http://user:word@127.0.0.1".to_owned(),
                api_key: key.map(str::to_owned),
                headers: header
                    .map(|h| ("Authorization".to_owned(), h.to_owned()))
                    .into_iter()
                    .collect(),
                ..Server::default()
            };
            Endpoint::find(&server).unwrap().head("GET", "/")
        };
        for (key, header, value) in [
            (None, None, "Basic dXNlcjp3b3Jk"),
            (Some("k"), None, "Basic dXNlcjp3b3Jk"),
            (Some("k"), Some("own"), "own"),
        ] {
            let head = head(key, header).to_ascii_lowercase();
            let line = format!("authorization: {}\r\n", value.to_ascii_lowercase());
            assert!(head.contains(&line) && head.matches("authorization").count() == 1, "{head}");
        }
    }

    #[test]
    fn a_redirect_leads_on_or_is_explained() {
        let found = find("http://127.0.0.1:8000").unwrap();
        assert_eq!(found.redirected("/v1/models", "/v1/models/").unwrap(), "/v1/models/");
        let elsewhere =
            found.redirected("/v1/models", "https://a:secret@b/v1?x").err().unwrap().to_string();
        assert!(elsewhere.contains("https://b/v1") && !elsewhere.contains("secret"), "{elsewhere}");
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
