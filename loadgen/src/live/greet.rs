//! The questions to a server that need no request for tokens: is it there, is it ready, and which
//! models does it serve.

use std::time::Duration;

use super::call::{failed, fetch};
use super::chunk;
use super::endpoint::Endpoint;
use super::failure::{Kind, is_busy, one_line};
use crate::error::Error;
use crate::json::Json;

/// The time limit of `/health`. Some servers look after everything behind them before they answer.
const GLIMPSE: Duration = Duration::from_secs(2);

/// True if a server answers there already: by `/health`, or by the list of models where there is no
/// such path.
pub(super) fn answers(endpoint: &mut Endpoint, timeout: Duration) -> bool {
    let status = |path: &str| fetch(endpoint, path, timeout).map_or(0, |(status, _)| status);
    match status(&endpoint.beside("/health")) {
        200..=299 => true,
        404 | 405 => (200..300).contains(&status(&endpoint.below("/models"))),
        _ => false,
    }
}

/// Fails if the server has a `/health` and it says that requests are not taken yet.
///
/// # Errors
/// The server's words.
pub(super) fn health(endpoint: &mut Endpoint, timeout: Duration) -> Result<(), Error> {
    choose_address(endpoint, timeout)?;
    let path = endpoint.beside("/health");
    // A server without such a path, or with no answer there, may be ready.
    let (status, said) = match fetch(endpoint, &path, timeout.min(GLIMPSE)) {
        Err(error @ Error::Nobody(_)) => return Err(error),
        Err(_) => return Ok(()),
        Ok(health) => health,
    };
    if matches!(status, 425 | 429 | 500 | 502..=504 | 506..=599) {
        return Err(Error::NotReady(format!("{path} says {status}: {}", words(&said))));
    }
    Ok(())
}

/// Puts the first of the host's addresses that answers in front.
pub(super) fn choose_address(endpoint: &mut Endpoint, timeout: Duration) -> Result<(), Error> {
    let connect = |a: &_| std::net::TcpStream::connect_timeout(a, timeout);
    if endpoint.addresses.len() > 1
        && let Some(first) = endpoint.addresses.iter().position(|a| connect(a).is_ok())
    {
        endpoint.addresses.swap(0, first);
        return Ok(());
    }
    match connect(&endpoint.addresses[0]) {
        Ok(_) => Ok(()),
        Err(e) => {
            let kind =
                if Kind::of(&e) == Kind::Refused { Kind::Refused } else { Kind::Unreachable };
            Err(failed(endpoint, "connecting to the server", &(kind, e.to_string())))
        }
    }
}

/// The first model that the server lists.
pub(super) fn first_model(endpoint: &mut Endpoint, timeout: Duration) -> Result<String, Error> {
    let (mut path, say) = (endpoint.below("/models"), "say which model with --model");
    let (mut status, mut said) = fetch(endpoint, &path, timeout)?;
    if matches!(status, 404 | 405) && endpoint.next_root() {
        let elsewhere = endpoint.below("/models");
        match fetch(endpoint, &elsewhere, timeout)? {
            (200..=299, list) => (path, status, said) = (elsewhere, 200, list),
            _ => _ = endpoint.next_root(),
        }
    }
    match status {
        200..=299 => {
            let json = Json::of(said.as_bytes()).map_err(|e| {
                Error::Endpoint(format!(
                    "GET {path} did not answer with a list of models ({e}): {say}"
                ))
            })?;
            match listed(&json) {
                Some(Some(name)) => Ok(name),
                Some(None) => {
                    Err(Error::NotReady(format!("GET {path}: the server lists no model")))
                }
                None => Err(Error::Endpoint(format!(
                    "GET {path} did not answer with a list of models: {say}: {}",
                    one_line(&said)
                ))),
            }
        }
        401 | 403 | 407 => Err(unauthorised(endpoint, status, &said)),
        status if is_busy(status) => {
            Err(Error::NotReady(format!("GET {path} says {status}: {}", words(&said))))
        }
        _ => Err(Error::Endpoint(format!(
            "GET {path} says {status}, so the server lists no models: {say}: {}",
            words(&said)
        ))),
    }
}

/// The first name in a list of models; none inside where it is empty, none at all where it is no such list.
fn listed(json: &Json<'_>) -> Option<Option<String>> {
    let list = match json {
        Json::List(list) => list,
        _ => ["data", "models"].into_iter().find_map(|name| match json.get(name) {
            Json::List(list) => Some(list),
            _ => None,
        })?,
    };
    let name = |model: &Json<'_>| {
        let named = |key: &&str| model.get(key).text().map(str::to_owned);
        model.text().map(str::to_owned).or_else(|| ["id", "name", "model"].iter().find_map(named))
    };
    if list.is_empty() { Some(None) } else { list.iter().find_map(name).map(Some) }
}

/// The error of a server that wants another API key.
pub(super) fn unauthorised(endpoint: &Endpoint, status: u16, said: &str) -> Error {
    let server = endpoint.shown().0;
    Error::Endpoint(format!(
        "the server at {server} wants another API key (status {status}): {}",
        words(said)
    ))
}

/// The message in a body, on one line.
fn words(said: &str) -> String {
    let json = Json::of(said.as_bytes()).ok();
    one_line(&json.as_ref().and_then(chunk::bad_news).unwrap_or_else(|| said.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn models_are_found_in_every_list() {
        let of = |text: &str| listed(&Json::of(text.as_bytes()).unwrap());
        let m = Some(Some("m".to_owned()));
        for list in [
            r#"{"object":"list","data":[{"id":"m","object":"model"},{"id":"n"}]}"#,
            r#"[{"id":"m"}]"#,
            r#"["m"]"#,
            r#"{"models":[{"name":"m","model":"m"}]}"#,
            r#"{"data":[{"object":"model"},{"id":"m"}]}"#,
        ] {
            assert_eq!(of(list), m, "{list}");
        }
        assert_eq!((of(r#"{"data":[]}"#), of("[]")), (Some(None), Some(None)));
        assert_eq!((of("{}"), of(r#"{"data":[{}]}"#), of("7")), (None, None, None));
    }
}
