//! Requests' bodies: the longest that is read, the bytes of all that are held at once, and the faults of one that does
//! not come whole.

use std::sync::Arc;

use axum::body::{Body, HttpBody as _};
use axum::http::{HeaderMap, StatusCode, header};
use futures_util::StreamExt as _;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout, timeout_at};

use super::admit::Refusal;
use super::limits::Times;

/// Longest body, bytes: a prompt of a million tokens as numbers. No model asks for less than the second.
const MOST: usize = 8 << 20;
const LEAST: usize = 1 << 20;
/// Bytes of a body that are read without asking whether there is room for the rest.
const SMALL: usize = 64 << 10;
/// Room for the rest of all bodies, bytes.
const ROOM: usize = 32 << 20;
/// Bytes that JSON may take for a byte of text (`\u0000`), and for a token's number on a line of its own.
const ESCAPED: usize = 6;
const NUMBER: usize = 32;

/// Bodies that are being read or looked into.
pub(super) struct Bodies {
    most: usize,
    room: Arc<Semaphore>,
}

/// A body, and its part of the room.
pub(super) struct Held {
    pub(super) bytes: Vec<u8>,
    room: Option<OwnedSemaphorePermit>,
}

impl Bodies {
    /// Bodies of prompts of at most so many tokens, and bytes of text.
    pub(super) fn new(tokens: u32, text: usize) -> Self {
        let numbers = NUMBER.saturating_mul(tokens as usize);
        let most = ESCAPED.saturating_mul(text).max(numbers).clamp(LEAST, MOST);
        Self { most, room: Arc::new(Semaphore::new(ROOM)) }
    }

    /// The whole of `body`.
    pub(super) async fn read(
        &self,
        headers: &HeaderMap,
        body: Body,
        times: Times,
    ) -> Result<Held, Refusal> {
        let declared = body.size_hint().exact().map(|n| usize::try_from(n).unwrap_or(usize::MAX));
        let chunked = headers.contains_key(header::TRANSFER_ENCODING);
        if !chunked && !headers.contains_key(header::CONTENT_LENGTH) {
            let message = "a request needs a body, with its Content-Length or chunked";
            return Err(Refusal::new(StatusCode::LENGTH_REQUIRED, message));
        }
        if declared.is_some_and(|n| n > self.most) {
            return Err(self.too_long());
        }
        let late = || Refusal::new(StatusCode::REQUEST_TIMEOUT, "the request's body did not come");
        let (mut pieces, until) = (body.into_data_stream(), Instant::now() + times.body);
        let mut held = Held { bytes: Vec::new(), room: None };
        loop {
            let next = timeout(times.pause, pieces.next());
            let next = timeout_at(until, next).await.map_err(|_| late())?.map_err(|_| late())?;
            let Some(piece) = next else { return Ok(held) };
            let piece = piece.map_err(|e| {
                Refusal::bad(format!("the request's body is broken or cut short: {e}"))
            })?;
            let length = held.bytes.len() + piece.len();
            if length > self.most {
                return Err(self.too_long());
            }
            if length > SMALL && held.room.is_none() {
                let whole = declared.unwrap_or(self.most);
                let room = Arc::clone(&self.room).acquire_many_owned(whole as u32);
                let room = timeout_at(until, room).await.map_err(|_| Refusal::crowded())?;
                held.room = room.ok();
                held.bytes.reserve_exact(declared.unwrap_or(0).saturating_sub(held.bytes.len()));
            }
            held.bytes.extend_from_slice(&piece);
        }
    }

    fn too_long(&self) -> Refusal {
        let message = format!("the body is longer than {} bytes, which no prompt needs", self.most);
        Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, message)
    }
}

/// The fault in a request's headers before its body is read, by RFC 9110 and 9112, where the parser lets it through.
pub(super) fn framing(request: &axum::extract::Request) -> Option<StatusCode> {
    let headers = request.headers();
    let words = |name: header::HeaderName| {
        let lines = headers.get_all(name).into_iter().map(|line| line.as_bytes());
        let words = lines.flat_map(|line| line.split(|b| *b == b',')).map(<[u8]>::trim_ascii);
        words.map(<[u8]>::to_ascii_lowercase).collect::<Vec<_>>()
    };
    let hosts = headers.get_all(header::HOST).iter().count();
    let needed = request.version() == axum::http::Version::HTTP_11;
    if hosts > 1 || (needed && hosts == 0) {
        return Some(StatusCode::BAD_REQUEST);
    }
    let codings = words(header::TRANSFER_ENCODING);
    if codings.iter().any(|coding| coding != b"chunked") {
        return Some(StatusCode::NOT_IMPLEMENTED);
    }
    if codings.len() > 1 {
        return Some(StatusCode::BAD_REQUEST);
    }
    if words(header::EXPECT).iter().any(|expected| expected != b"100-continue") {
        return Some(StatusCode::EXPECTATION_FAILED);
    }
    let coded = |coding: &Vec<u8>| !coding.is_empty() && coding != b"identity";
    if words(header::CONTENT_ENCODING).iter().any(coded) {
        return Some(StatusCode::UNSUPPORTED_MEDIA_TYPE);
    }
    None
}
