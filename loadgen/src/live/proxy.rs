//! The proxy between us and a server, by the variables that every other client heeds.
//!
//! `HTTP_PROXY`, `HTTPS_PROXY`, `ALL_PROXY` and `NO_PROXY`, in small letters first. A server on
//! this machine is never asked through one, since no user means that.

use std::net::IpAddr;

use super::shown::ShownUrl;
use super::url::Url;
use crate::error::Error;

/// Proxies by the scheme of what they are for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Proxies {
    /// For `http://`.
    pub http: Option<String>,
    /// For `https://`.
    pub https: Option<String>,
    /// Hosts that are reached without one, separated by commas.
    pub no: String,
}

impl Proxies {
    /// As the environment says.
    #[must_use]
    pub fn of_environment() -> Self {
        let variable = |name: &str| {
            let set = |name: String| std::env::var(name).ok().filter(|v| !v.trim().is_empty());
            set(name.to_owned()).or_else(|| set(name.to_ascii_uppercase()))
        };
        let all = variable("all_proxy");
        Self {
            http: variable("http_proxy").or_else(|| all.clone()),
            https: variable("https_proxy").or(all),
            no: variable("no_proxy").unwrap_or_default(),
        }
    }

    /// The proxy for `server`, if one stands in between.
    ///
    /// # Errors
    /// One that is named and cannot be used.
    pub(crate) fn of(&self, server: &Url) -> Result<Option<Url>, Error> {
        let named = if server.secure { &self.https } else { &self.http };
        let Some(named) = named.as_deref().filter(|_| !self.spares(server)) else {
            return Ok(None);
        };
        let full = if named.contains("://") { named.to_owned() } else { format!("http://{named}") };
        let shown = ShownUrl::of(&full).text;
        let out = "unset the proxy's variable or put the server's host into NO_PROXY";
        match Url::parse(&full) {
            Ok(proxy) if !proxy.secure => Ok(Some(proxy)),
            _ => Err(Error::Endpoint(format!(
                "the proxy {shown:?} that the environment names for {server} cannot be used (http:// only): {out}"
            ))),
        }
    }

    /// True where `server` is reached without a proxy.
    fn spares(&self, server: &Url) -> bool {
        let host = server.host.to_ascii_lowercase();
        let address: Option<IpAddr> = host.parse().ok();
        if host == "localhost"
            || host.ends_with(".localhost")
            || address.is_some_and(|a| a.is_loopback())
        {
            return true;
        }
        self.no.split([',', ' ']).map(str::trim).filter(|entry| !entry.is_empty()).any(|entry| {
            let entry = entry.to_ascii_lowercase();
            let (name, port) = match entry.rsplit_once(':') {
                Some((name, port)) if !name.contains(':') || name.ends_with(']') => {
                    (name.trim_matches(['[', ']']).to_owned(), port.parse().ok())
                }
                _ => (entry.trim_matches(['[', ']']).to_owned(), None),
            };
            if port.is_some_and(|port: u16| port != server.port) {
                return false;
            }
            if let (Some(address), Some((net, bits))) = (address, name.split_once('/')) {
                return within(address, net, bits);
            }
            let bare = name.trim_start_matches("*.").trim_start_matches('.');
            name == "*" || host == bare || host.ends_with(&format!(".{bare}"))
        })
    }
}

/// True where `address` is of the network `net/bits`.
fn within(address: IpAddr, net: &str, bits: &str) -> bool {
    let (Ok(net), Ok(bits)) = (net.parse::<IpAddr>(), bits.parse::<u32>()) else { return false };
    match (address, net) {
        (IpAddr::V4(a), IpAddr::V4(n)) => {
            let apart = u32::from(a) ^ u32::from(n);
            bits == 0 || (bits <= 32 && apart >> (32 - bits) == 0)
        }
        (IpAddr::V6(a), IpAddr::V6(n)) => {
            let apart = u128::from(a) ^ u128::from(n);
            bits == 0 || (bits <= 128 && apart >> (128 - bits) == 0)
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_that_are_asked_through_a_proxy() {
        let proxies = |no: &str| Proxies {
            http: Some("proxy:3128".to_owned()),
            https: Some("http://somebody:secret@secure:1".to_owned()),
            no: no.to_owned(),
        };
        let of = |server: &str, no: &str| {
            let proxy = proxies(no).of(&Url::parse(server).unwrap()).unwrap();
            proxy.map(|p| p.authority)
        };
        assert_eq!(of("http://inference.internal", "").as_deref(), Some("proxy:3128"));
        assert_eq!(of("https://inference.internal", "other").as_deref(), Some("secure:1"));
        for (server, no) in [
            ("http://localhost:8000", ""),
            ("http://127.0.0.7", ""),
            ("http://[::1]:8000", ""),
            ("http://a.internal", "*"),
            ("http://a.internal", "x, .internal"),
            ("http://a.internal", "internal"),
            ("http://a.internal", "*.internal"),
            ("http://A.internal", "a.INTERNAL"),
            ("http://a.internal:8000", "a.internal:8000"),
            ("http://10.1.2.3", "10.0.0.0/8"),
            ("http://[fd00::1]", "fd00::/8"),
        ] {
            assert_eq!(of(server, no), None, "{server} {no}");
        }
        for (server, no) in [
            ("http://a.internal:8000", "a.internal:9000"),
            ("http://ainternal", "internal"),
            ("http://11.1.2.3", "10.0.0.0/8"),
        ] {
            assert!(of(server, no).is_some(), "{server} {no}");
        }
        let odd = Proxies { http: Some("socks5://u:secret@p:1".to_owned()), ..Proxies::default() };
        let error = odd.of(&Url::parse("http://h").unwrap()).unwrap_err().to_string();
        assert!(error.contains("NO_PROXY") && !error.contains("secret"), "{error}");
    }
}
