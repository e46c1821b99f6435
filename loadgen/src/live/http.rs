//! An HTTP/1.1 response taken apart as it arrives: head by `httparse`, body framing here, nothing copied unless a
//! head is split over reads.

use std::time::Duration;

/// Headers understood in one response.
const HEADERS: usize = 96;
/// Most bytes of a head.
const LONGEST_HEAD: usize = 64 << 10;

/// One response in the course of arriving.
#[derive(Debug)]
pub(crate) struct Response {
    state: State,
    /// The beginning of a head whose end has not arrived.
    pending: Vec<u8>,
    /// 0 until the head is complete.
    pub(crate) status: u16,
    /// True where it calls its body a stream of events.
    pub(crate) events: bool,
    /// The compression of its body.
    pub(crate) packing: Packing,
    /// The time that `Retry-After` asks to wait.
    pub(crate) retry_after: Option<Duration>,
    /// The target of a redirect.
    pub(crate) location: Option<String>,
    /// True where the connection can carry another request afterwards.
    pub(crate) keep_alive: bool,
}

/// The compression of a body.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Packing {
    /// Not at all.
    #[default]
    None,
    /// `gzip`.
    Gzip,
    /// `deflate`, which is zlib's.
    Zlib,
    /// A packing that is not supported.
    Other,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Head,
    /// So many bytes of body to come.
    Length(u64),
    /// The digits of a chunk's size, read so far.
    Size(u64),
    /// The rest of the line after the size.
    SizeRest(u64),
    Chunk(u64),
    /// The line end after a chunk.
    ChunkEnd,
    /// Trailers: bytes of the current line.
    Trailer(u32),
    UntilClose,
    /// The response is complete.
    Done,
}

impl Default for Response {
    fn default() -> Self {
        Self {
            state: State::Head,
            pending: Vec::new(),
            status: 0,
            events: false,
            packing: Packing::None,
            retry_after: None,
            location: None,
            keep_alive: true,
        }
    }
}

impl Response {
    /// Ready for the next response on the same connection.
    pub(crate) fn reset(&mut self) {
        let mut pending = std::mem::take(&mut self.pending);
        pending.clear();
        *self = Self { pending, ..Self::default() };
    }

    /// True where it is of any of the statuses of success.
    pub(crate) fn succeeded(&self) -> bool {
        (200..300).contains(&self.status)
    }

    /// True where all of it has arrived.
    pub(crate) fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// True where the end of the connection now is the end of the body.
    pub(crate) fn ends_with_connection(&self) -> bool {
        self.state == State::UntilClose
    }

    /// Takes in what a read brought and passes on every piece of the body.
    ///
    /// # Errors
    /// The reason why the bytes are not HTTP, in words.
    pub(crate) fn feed(
        &mut self,
        mut input: &[u8],
        body: &mut impl FnMut(&Self, &[u8]),
    ) -> Result<(), String> {
        while !input.is_empty() {
            input = match self.state {
                State::Head if self.pending.is_empty() => self.head(input)?,
                State::Head => {
                    let mut whole = std::mem::take(&mut self.pending);
                    whole.extend_from_slice(input);
                    let rest = self.head(&whole)?.len();
                    if self.state == State::Head && rest == 0 {
                        return Ok(());
                    }
                    &input[input.len() - rest..]
                }
                State::Length(left) => {
                    let (piece, rest) = split(input, left);
                    body(self, piece);
                    let left = left - piece.len() as u64;
                    self.state = if left == 0 { State::Done } else { State::Length(left) };
                    rest
                }
                State::Chunk(left) => {
                    let (piece, rest) = split(input, left);
                    body(self, piece);
                    let left = left - piece.len() as u64;
                    self.state = if left == 0 { State::ChunkEnd } else { State::Chunk(left) };
                    rest
                }
                State::UntilClose => {
                    body(self, input);
                    &[]
                }
                State::Done => {
                    // All of it had arrived. Empty lines between messages are allowed (RFC 9112,
                    // 2.2); after anything else the beginning of the next one is not known.
                    self.keep_alive &= input.iter().all(|b| matches!(b, b'\r' | b'\n'));
                    return Ok(());
                }
                _ => {
                    let (state, used) = framing(self.state, input)?;
                    self.state = state;
                    &input[used..]
                }
            };
        }
        Ok(())
    }

    /// Reads a head at the beginning of `input` and returns what follows it; keeps `input` if it is not complete.
    fn head<'a>(&mut self, input: &'a [u8]) -> Result<&'a [u8], String> {
        let mut headers = [httparse::EMPTY_HEADER; HEADERS];
        let mut response = httparse::Response::new(&mut headers);
        let parsed = lenient().parse_response(&mut response, input);
        let end = match parsed.map_err(|e| format!("not HTTP: {e}"))? {
            httparse::Status::Complete(end) => end,
            httparse::Status::Partial if input.len() > LONGEST_HEAD => {
                return Err("a head of more than 64 KiB".to_owned());
            }
            httparse::Status::Partial => {
                self.pending = input.to_vec();
                return Ok(&[]);
            }
        };
        let rest = &input[end..];
        let status = response.code.unwrap_or(0);
        if (100..200).contains(&status) {
            return Ok(rest);
        }
        self.status = status;
        self.keep_alive = response.version == Some(1);
        let (mut length, mut chunked) = (None, false);
        for header in response.headers.iter() {
            let Ok(value) = std::str::from_utf8(header.value) else { continue };
            let has = |word: &str| value.to_ascii_lowercase().contains(word);
            match header.name {
                n if n.eq_ignore_ascii_case("content-length") => {
                    let number = value.trim().parse::<u64>();
                    length = Some(number.map_err(|_| "a content-length that is no number")?);
                }
                n if n.eq_ignore_ascii_case("transfer-encoding") => {
                    chunked |= has("chunked");
                    self.packing = self.packing.or(value);
                }
                n if n.eq_ignore_ascii_case("content-encoding") => {
                    self.packing = self.packing.or(value);
                }
                n if n.eq_ignore_ascii_case("location") => {
                    self.location = Some(value.trim().to_owned());
                }
                n if n.eq_ignore_ascii_case("content-type") => {
                    self.events = has("text/event-stream");
                }
                n if n.eq_ignore_ascii_case("connection") => {
                    self.keep_alive = !has("close") && (self.keep_alive || has("keep-alive"));
                }
                n if n.eq_ignore_ascii_case("retry-after") => {
                    self.retry_after = self.retry_after.or(wait(value, 1.0));
                }
                n if n.eq_ignore_ascii_case("retry-after-ms") => {
                    self.retry_after = wait(value, 1e-3);
                }
                _ => {}
            }
        }
        self.state = match (chunked, length) {
            _ if matches!(status, 204 | 205 | 304) => State::Done,
            (true, _) => State::Size(0),
            (false, Some(0)) => State::Done,
            (false, Some(length)) => State::Length(length),
            (false, None) => State::UntilClose,
        };
        self.keep_alive &= self.state != State::UntilClose;
        Ok(rest)
    }
}

impl Packing {
    /// The same, or what a header says of it.
    fn or(self, value: &str) -> Self {
        let value = value.to_ascii_lowercase();
        let is = |word: &str| value.split(',').any(|v| v.trim() == word);
        match self {
            Self::None if is("gzip") || is("x-gzip") => Self::Gzip,
            Self::None if is("deflate") => Self::Zlib,
            Self::None if ["br", "zstd", "compress"].into_iter().any(is) => Self::Other,
            known => known,
        }
    }
}

/// Takes the deviations that real servers send and every other client takes.
fn lenient() -> httparse::ParserConfig {
    let mut config = httparse::ParserConfig::default();
    config
        .allow_spaces_after_header_name_in_responses(true)
        .allow_obsolete_multiline_headers_in_responses(true)
        .allow_multiple_spaces_in_response_status_delimiters(true)
        .ignore_invalid_headers_in_responses(true);
    config
}

/// The time that `value` asks to wait: a number of `unit` seconds, or a date.
fn wait(value: &str, unit: f64) -> Option<Duration> {
    let value = value.trim();
    if let Ok(number) = value.parse::<f64>() {
        return Duration::try_from_secs_f64(number * unit).ok();
    }
    let rfc = &time::format_description::well_known::Rfc2822;
    let at = time::OffsetDateTime::parse(value, rfc).ok()?;
    Some((at - time::OffsetDateTime::now_utc()).try_into().unwrap_or_default())
}

fn split(input: &[u8], left: u64) -> (&[u8], &[u8]) {
    input.split_at(usize::try_from(left).unwrap_or(usize::MAX).min(input.len()))
}

/// The chunked framing at the beginning of `input`: the state after it, and its bytes.
fn framing(mut state: State, input: &[u8]) -> Result<(State, usize), String> {
    for (&byte, used) in input.iter().zip(1..) {
        let bad = || format!("byte {byte:#04x} where a chunk's size or end belongs");
        state = frame(state, byte).ok_or_else(bad)?;
        if matches!(state, State::Chunk(_) | State::Done) {
            return Ok((state, used));
        }
    }
    Ok((state, input.len()))
}

/// One byte of chunked framing; none where it does not belong there.
#[inline]
fn frame(state: State, byte: u8) -> Option<State> {
    Some(match (state, byte) {
        (State::Size(n), b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F') => {
            let digit = (byte as char).to_digit(16).unwrap_or(0);
            State::Size(n.checked_mul(16)? + u64::from(digit))
        }
        (State::Size(0) | State::SizeRest(0), b'\n') => State::Trailer(0),
        (State::Size(n) | State::SizeRest(n), b'\n') => State::Chunk(n),
        (State::Size(n), b'\r' | b' ' | b'\t' | b';') | (State::SizeRest(n), _) => {
            State::SizeRest(n)
        }
        (State::ChunkEnd, b'\r') => State::ChunkEnd,
        (State::ChunkEnd, b'\n') => State::Size(0),
        (State::Trailer(0), b'\n') => State::Done,
        (State::Trailer(_), b'\n') => State::Trailer(0),
        (State::Trailer(n), b'\r') => State::Trailer(n),
        (State::Trailer(n), _) => State::Trailer(n.saturating_add(1)),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The response, its body, and the error if there was one, of `bytes` cut at `cuts`.
    fn read(bytes: &[u8], cuts: &[usize]) -> (Response, Vec<u8>, Result<(), String>) {
        let (mut response, mut body) = (Response::default(), Vec::new());
        let mut cuts: Vec<usize> = cuts.iter().map(|c| c % (bytes.len() + 1)).collect();
        cuts.extend([0, bytes.len()]);
        cuts.sort_unstable();
        let mut outcome = Ok(());
        for pair in cuts.windows(2) {
            let piece = &bytes[pair[0]..pair[1]];
            outcome = outcome.and(response.feed(piece, &mut |_, b| body.extend_from_slice(b)));
        }
        (response, body, outcome)
    }

    const CHUNKED: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nA;x=y\r\n, world!!!\r\n0\r\nTrailer: 1\r\n\r\n";

    proptest! {
        #[test]
        fn cuts_do_not_matter(cuts in prop::collection::vec(0..1000usize, 0..12)) {
            let (response, body, outcome) = read(CHUNKED, &cuts);
            prop_assert_eq!(outcome, Ok(()));
            prop_assert!(response.is_done() && response.events && response.keep_alive);
            prop_assert_eq!((response.status, &body[..]), (200, &b"hello, world!!!"[..]));
        }

        #[test]
        fn any_bytes_are_an_error_or_a_response(
            bytes in prop::collection::vec(any::<u8>(), 0..200),
            tail in any::<bool>(),
            cuts in prop::collection::vec(0..1000usize, 0..4),
        ) {
            let head: &[u8] = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
            let bytes = if tail { [head, &bytes].concat() } else { bytes };
            let _ = read(&bytes, &cuts);
        }
    }

    #[test]
    fn framings() {
        let of = |text: &str| read(text.as_bytes(), &[]);
        let (r, body, _) = of("HTTP/1.1 429 No\r\nretry-after: 2\r\ncontent-length: 3\r\n\r\nabc");
        assert!(r.is_done() && r.keep_alive && !r.events);
        assert_eq!((r.retry_after, &body[..]), (Some(Duration::from_secs(2)), &b"abc"[..]));
        let (r, body, _) = of("HTTP/1.1 200 OK\r\n\r\nabc");
        assert!(!r.is_done() && r.ends_with_connection() && !r.keep_alive && body == b"abc");
        let (r, ..) = of("HTTP/1.0 200 OK\r\ncontent-length: 0\r\n\r\n");
        assert!(r.is_done() && !r.keep_alive);
        let (r, ..) = of("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 0\r\n\r\n");
        assert!(!r.keep_alive);
        assert!(of("HTTP/1.1 204 No Content\r\n\r\n").0.is_done());
        assert!(of("SSH-2.0-OpenSSH\r\n").2.is_err());
        assert!(of("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nxyz").2.is_err());
    }

    #[test]
    fn bytes_after_the_end_cost_the_connection_at_most() {
        let whole = "HTTP/1.1 201 Created\r\ncontent-length: 1\r\n\r\na";
        for (more, keep) in [("", true), ("\r\n", true), ("\n\r\n", true), ("b", false)] {
            let (r, body, outcome) = read(format!("{whole}{more}").as_bytes(), &[]);
            assert!(outcome.is_ok() && r.is_done() && r.succeeded() && body == b"a");
            assert_eq!(r.keep_alive, keep, "{more:?}");
        }
    }

    #[test]
    fn headers_that_matter() {
        let of = |lines: &str| read(format!("HTTP/1.1 200\r\n{lines}\r\n\r\n").as_bytes(), &[]).0;
        let s = |s: f64| Some(Duration::from_secs_f64(s));
        assert_eq!(of("Retry-After: 2").retry_after, s(2.0));
        assert_eq!(of("retry-after : 0.5").retry_after, s(0.5));
        assert_eq!(of("retry-after-ms: 1500\r\nretry-after: 2").retry_after, s(1.5));
        assert_eq!(of("retry-after: Wed, 21 Oct 2015 07:28:00 GMT").retry_after, s(0.0));
        let later = of("retry-after: Wed, 21 Oct 2099 07:28:00 GMT").retry_after;
        assert!(later.is_some_and(|t| t.as_secs() > 1_000_000));
        assert_eq!(of("retry-after: soon").retry_after, None);
        assert_eq!(of("content-encoding: gzip").packing, Packing::Gzip);
        assert_eq!(of("transfer-encoding: gzip, chunked").packing, Packing::Gzip);
        assert_eq!(of("content-encoding: identity").packing, Packing::None);
        assert_eq!(of("content-encoding: br").packing, Packing::Other);
        assert_eq!(of("location: /v1/x/").location.as_deref(), Some("/v1/x/"));
        assert!(of("content-type: text/event-stream\r\nbad header: x").events);
    }
}
