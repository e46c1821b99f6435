//! Addresses of servers as people paste them, taken apart once: scheme, host, port, path, query, name and password.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::api::Api;
use super::shown::ShownUrl;
use crate::error::Error;

/// An address. Its `Display` shows no name, password or query.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Url {
    pub(crate) secure: bool,
    /// Without the brackets of an IPv6 address.
    pub(crate) host: String,
    pub(crate) port: u16,
    /// Host and port as a `Host` header has them: as typed.
    pub(crate) authority: String,
    /// Without a slash at its end; empty for none.
    pub(crate) path: String,
    /// With its question mark; empty for none.
    pub(crate) query: String,
    /// Name and password as an `Authorization` header has them.
    pub(crate) basic: Option<String>,
}

impl Url {
    /// Takes `text` apart.
    ///
    /// # Errors
    /// The part of it that is no address, and a URL that would do.
    pub(crate) fn parse(text: &str) -> Result<Self, Error> {
        let text = text.trim();
        let bad = |why: &str| {
            let shown = ShownUrl::of(text).text;
            Error::Endpoint(format!("{shown:?} {why}; write a URL such as http://localhost:8000"))
        };
        let (scheme, rest) = text.split_once("://").unwrap_or(("", text));
        let secure = match scheme.to_ascii_lowercase().as_str() {
            "http" => false,
            "https" => true,
            _ => return Err(bad("begins neither with http:// nor https://")),
        };
        let rest = rest.split('#').next().unwrap_or_default();
        let (place, query) = rest.find('?').map_or((rest, ""), |at| rest.split_at(at));
        let (place, path) = place.find('/').map_or((place, ""), |at| place.split_at(at));
        let (user, authority) =
            place.rsplit_once('@').map_or((None, place), |(user, place)| (Some(user), place));
        let (host, port) = host_and_port(authority).ok_or_else(|| bad("names no host"))?;
        let port = match port {
            None if secure => 443,
            None => 80,
            Some(port) => match port.parse::<u16>() {
                Ok(port) if port > 0 && !text.is_empty() => port,
                _ => {
                    return Err(bad(&format!(
                        "has the port {port:?}, which is not from 1 to 65535"
                    )));
                }
            },
        };
        let uri = format!("{authority}{path}{query}");
        if uri.bytes().any(|b| !b.is_ascii_graphic()) {
            return Err(bad("holds blanks or letters that a URL has to write as %20 and the like"));
        }
        if host.bytes().any(|b| b"<>\"\\^`{|}%".contains(&b)) {
            return Err(bad("names no host"));
        }
        Ok(Self {
            secure,
            host: host.to_owned(),
            port,
            authority: authority.to_owned(),
            path: path.trim_end_matches('/').to_owned(),
            query: if query == "?" { String::new() } else { query.to_owned() },
            basic: user.map(basic),
        })
    }

    /// True where `other` is the same server reached in the same way.
    pub(crate) fn same_server(&self, other: &Self) -> bool {
        (self.secure, self.host.to_ascii_lowercase(), self.port)
            == (other.secure, other.host.to_ascii_lowercase(), other.port)
    }

    /// Scheme, host and port.
    pub(crate) fn origin(&self) -> String {
        format!("{}://{}", if self.secure { "https" } else { "http" }, self.authority)
    }

    /// The address and path to which `location` points, seen from `path` (query and all) on this
    /// server.
    ///
    /// # Errors
    /// If `location` is no address.
    pub(crate) fn follow(&self, path: &str, location: &str) -> Result<(Self, String), Error> {
        let absolute = if location.contains("://") {
            location.to_owned()
        } else if location.starts_with("//") {
            format!("{}:{location}", if self.secure { "https" } else { "http" })
        } else {
            let path = path.split('?').next().unwrap_or_default();
            let folder = path.rfind('/').map_or("/", |end| &path[..=end]);
            match location.as_bytes().first() {
                Some(b'/') => format!("{}{location}", self.origin()),
                Some(b'?') => format!("{}{path}{location}", self.origin()),
                _ => format!("{}{folder}{location}", self.origin()),
            }
        };
        let url = Self::parse(&absolute)?;
        let rest = absolute.split_once("://").map_or("", |(_, rest)| rest);
        let target = rest.find('/').map_or("/", |at| &rest[at..]);
        let target = target.split('#').next().unwrap_or_default().to_owned();
        Ok((url, target))
    }

    /// The endpoint that its path is, where it is a whole one, and the path before that.
    pub(crate) fn endpoint(&self) -> (Option<Api>, &str) {
        if let Some(base) = self.path.strip_suffix("/chat/completions") {
            return (Some(Api::Chat), base);
        }
        if let Some(base) = self.path.strip_suffix("/completions") {
            return (Some(Api::Completions), base);
        }
        (None, self.path.strip_suffix("/models").unwrap_or(&self.path))
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.origin(), self.path)
    }
}

/// Host and port; none where there is no host.
fn host_and_port(authority: &str) -> Option<(&str, Option<&str>)> {
    if let Some(rest) = authority.strip_prefix('[') {
        let (host, rest) = rest.split_once(']')?;
        let port = if rest.is_empty() { None } else { Some(rest.strip_prefix(':')?) };
        return host.parse::<std::net::Ipv6Addr>().is_ok().then_some((host, port));
    }
    let (host, port) =
        authority.split_once(':').map_or((authority, None), |(host, port)| (host, Some(port)));
    (!host.is_empty()).then_some((host, port))
}

/// `user:password` as an `Authorization` header's value.
fn basic(user: &str) -> String {
    let (name, password) = user.split_once(':').unwrap_or((user, ""));
    let plain = [&unescaped(name)[..], b":", &unescaped(password)].concat();
    format!("Basic {}", STANDARD.encode(plain))
}

/// `text` with every `%xx` as the byte that it stands for.
fn unescaped(text: &str) -> Vec<u8> {
    let (bytes, mut plain, mut at) = (text.as_bytes(), Vec::with_capacity(text.len()), 0);
    while at < bytes.len() {
        let code = text.get(at + 1..at + 3).filter(|_| bytes[at] == b'%');
        let byte = code.and_then(|code| u8::from_str_radix(code, 16).ok());
        plain.push(byte.unwrap_or(bytes[at]));
        at += if byte.is_some() { 3 } else { 1 };
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_taken_apart() {
        for (text, host, port, path, query) in [
            ("http://127.0.0.1:8000", "127.0.0.1", 8000, "", ""),
            ("http://h", "h", 80, "", ""),
            ("HTTPS://h/", "h", 443, "", ""),
            ("http://h:8000/v1/", "h", 8000, "/v1", ""),
            ("http://[::1]:9/llm/v1", "::1", 9, "/llm/v1", ""),
            (
                "https://h/openai/v1?api-version=1&x=/y",
                "h",
                443,
                "/openai/v1",
                "?api-version=1&x=/y",
            ),
            ("http://h?a=b", "h", 80, "", "?a=b"),
            (" http://h:1/v1#top ", "h", 1, "/v1", ""),
        ] {
            let url = Url::parse(text).unwrap();
            assert_eq!((&*url.host, url.port), (host, port), "{text}");
            assert_eq!((&*url.path, &*url.query, url.basic), (path, query, None), "{text}");
        }
        for bad in [
            "",
            "localhost:8000",
            "ftp://x",
            "http://",
            "http:///v1",
            "http://h:99999",
            "http://h:0",
            "http://h:abc",
            "http://h:",
            "http://[::1",
            "http://[h]:1",
            "http://h:80:90",
            "http://a b",
            "http://h/ü",
            "http://h:-1",
            "http://h:+80x",
            "http://:8000",
        ] {
            let error = Url::parse(bad).unwrap_err().to_string();
            assert!(error.contains("http://localhost:8000"), "{bad}: {error}");
        }
    }

    #[test]
    fn a_password_goes_into_the_header_and_nowhere_else() {
        for (text, basic) in [
            ("http://somebody:secret@h:8000/v1", "Basic c29tZWJvZHk6c2VjcmV0"),
            ("http://somebody@h/v1", "Basic c29tZWJvZHk6"),
            ("http://a:p%40s%3As@h", "Basic YTpwQHM6cw=="),
            ("http://a:p@s:s@h", "Basic YTpwQHM6cw=="),
        ] {
            let url = Url::parse(text).unwrap();
            assert_eq!(url.basic.as_deref(), Some(basic), "{text}");
            assert!(!url.authority.contains('@') && !url.to_string().contains("secret"), "{url}");
        }
        let error = Url::parse("http://a:secret@h:99999?key=hush").unwrap_err().to_string();
        assert!(!error.contains("secret") && !error.contains("hush"), "{error}");
    }

    #[test]
    fn whole_endpoints_name_their_api() {
        let of = |text: &str| {
            let url = Url::parse(text).unwrap();
            let (api, base) = url.endpoint();
            (api, base.to_owned())
        };
        assert_eq!(of("http://h/v1/chat/completions"), (Some(Api::Chat), "/v1".to_owned()));
        assert_eq!(
            of("http://h/api/v3/completions/"),
            (Some(Api::Completions), "/api/v3".to_owned())
        );
        assert_eq!(of("http://h/chat/completions"), (Some(Api::Chat), String::new()));
        assert_eq!(of("http://h/v1/models"), (None, "/v1".to_owned()));
        assert_eq!(of("http://h/openai"), (None, "/openai".to_owned()));
    }

    #[test]
    fn redirects_are_resolved() {
        let from = Url::parse("http://h:8000/v1").unwrap();
        for (location, to) in [
            ("/v1/models/", "/v1/models/"),
            ("models/", "/v1/models/"),
            ("?b=c", "/v1/models?b=c"),
            ("http://h:8000/x?y#z", "/x?y"),
            ("//h:8000/x", "/x"),
            ("http://H:8000", "/"),
        ] {
            let (url, target) = from.follow("/v1/models?a=b", location).unwrap();
            assert!(from.same_server(&url), "{location}");
            assert_eq!(target, to, "{location}");
        }
        for elsewhere in ["https://h:8000/v1/models", "http://h/v1", "//other/v1"] {
            assert!(
                !from.same_server(&from.follow("/v1/models", elsewhere).unwrap().0),
                "{elsewhere}"
            );
        }
        assert!(from.follow("/v1/models", "ftp://x/").is_err());
    }
}
