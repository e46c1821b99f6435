//! A server as a user names it.

use std::path::PathBuf;

use super::api::Api;
use super::proxy::Proxies;
use super::vocabulary::Tokens;

/// A server, as it is named on a command line.
#[derive(Debug, Clone, Default)]
pub struct Server {
    /// `http://HOST:PORT` or `https://...`, with or without a version such as `/v1`, or an endpoint's whole path; with a
    /// query and a name and password if need be.
    pub url: String,
    /// The endpoint driven, unless the URL's path is one.
    pub api: Api,
    /// The model asked for; none: the first that the server lists.
    pub model: Option<String>,
    /// Sent as a bearer token.
    pub api_key: Option<String>,
    /// The proxy in between.
    pub proxies: Proxies,
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
