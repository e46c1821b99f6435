//! Admission: the queue's limit, the key, and the answer to a client that is refused.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::Json;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::json;

/// Seconds after which a client that was turned away may try again: about the time in which a place becomes free when a
/// prompt takes part of a second.
const RETRY_AFTER: &str = "1";

/// Requests accepted and not yet started, at most `limit` of them. The engine keeps the same limit itself, replica by
/// replica; here it spares the reading of a request that would be refused.
#[derive(Debug)]
pub(super) struct Queue {
    limit: usize,
    waiting: AtomicUsize,
}

/// A place in the queue; it is free again when this is dropped.
#[derive(Debug)]
pub(super) struct Place(Arc<Queue>);

impl Queue {
    pub(super) fn new(limit: usize) -> Self {
        Self { limit, waiting: AtomicUsize::new(0) }
    }

    pub(super) fn limit(&self) -> usize {
        self.limit
    }

    /// A place, if there is one.
    pub(super) fn enter(queue: &Arc<Self>) -> Option<Place> {
        let next = |waiting: usize| (waiting < queue.limit).then_some(waiting + 1);
        let entered = queue.waiting.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next);
        entered.is_ok().then(|| Place(Arc::clone(queue)))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

/// True if `headers` carry `key`. Takes as long for a wrong one as for a right one.
pub(super) fn knows(headers: &HeaderMap, key: &str) -> bool {
    let given = headers.get(header::AUTHORIZATION).map_or(&b""[..], HeaderValue::as_bytes);
    let wanted = format!("Bearer {key}");
    let differ = given.iter().zip(wanted.as_bytes()).fold(0, |all, (a, b)| all | (a ^ b));
    given.len() == wanted.len() && differ == 0
}

/// A refusal in OpenAI's form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) status: StatusCode,
    pub(super) message: String,
    /// The field that is to blame.
    pub(super) param: Option<&'static str>,
}

impl Refusal {
    pub(super) fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self { status, message: message.into(), param: None }
    }

    /// Something is wrong with the request itself.
    pub(super) fn bad(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, message)
    }

    /// Something is wrong with this field of it.
    pub(super) fn field(param: &'static str, message: impl Into<String>) -> Self {
        Self { param: Some(param), ..Self::bad(message) }
    }

    /// There is no such model here.
    pub(super) fn no_model(name: &str, served: &str) -> Self {
        let message = format!("the model `{name}` does not exist; this is `{served}`");
        Self { status: StatusCode::NOT_FOUND, ..Self::field("model", message) }
    }

    /// The queue is full.
    pub(super) fn busy(limit: usize) -> Self {
        let message = format!("{limit} requests are waiting already; try again later");
        Self::new(StatusCode::TOO_MANY_REQUESTS, message)
    }

    /// Too many long bodies are being read.
    pub(super) fn crowded() -> Self {
        let message = "too many long requests are being read; try again later";
        Self::new(StatusCode::TOO_MANY_REQUESTS, message)
    }

    /// The request is not as HTTP has it, or needs something of it that is not done here.
    pub(super) fn framing(status: StatusCode) -> Self {
        let message = match status {
            StatusCode::REQUEST_TIMEOUT => "the request's headers did not come",
            StatusCode::URI_TOO_LONG => "the address is too long",
            StatusCode::HTTP_VERSION_NOT_SUPPORTED => "this server speaks HTTP/1.1",
            StatusCode::NOT_IMPLEMENTED => "of transfer codings only chunked is understood",
            StatusCode::EXPECTATION_FAILED => "of expectations only 100-continue is met",
            StatusCode::UNSUPPORTED_MEDIA_TYPE => "a body is taken as it is, without a coding",
            _ => "a request names its host once, and is chunked once at most",
        };
        Self::new(status, message)
    }

    /// The engine is dead.
    pub(super) fn stopped() -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "the engine has stopped")
    }
}

impl Refusal {
    /// OpenAI's form.
    pub(super) fn json(&self) -> serde_json::Value {
        let kind = match self.status {
            StatusCode::UNAUTHORIZED => "authentication_error",
            StatusCode::TOO_MANY_REQUESTS => "rate_limit_error",
            s if s.is_server_error() => "server_error",
            _ => "invalid_request_error",
        };
        let error = json!({"message": self.message, "type": kind, "param": self.param,
            "code": self.status.as_u16()});
        json!({ "error": error })
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let mut response = (self.status, Json(self.json())).into_response();
        if self.status == StatusCode::TOO_MANY_REQUESTS {
            let after = HeaderValue::from_static(RETRY_AFTER);
            response.headers_mut().insert(header::RETRY_AFTER, after);
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_queue_has_so_many_places() {
        let queue = Arc::new(Queue::new(2));
        let (first, second) = (Queue::enter(&queue), Queue::enter(&queue));
        assert!(first.is_some() && second.is_some() && Queue::enter(&queue).is_none());
        drop(first);
        assert!(Queue::enter(&queue).is_some());
    }

    #[test]
    fn only_the_key_itself_opens() {
        let with = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::AUTHORIZATION, value.parse().unwrap());
            knows(&headers, "secret")
        };
        assert!(with("Bearer secret"));
        for wrong in ["Bearer secre", "Bearer secrets", "Bearer Secret", "secret", ""] {
            assert!(!with(wrong), "{wrong}");
        }
        assert!(!knows(&HeaderMap::new(), "secret"));
    }
}
