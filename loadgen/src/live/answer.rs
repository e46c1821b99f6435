//! An answer in the course of arriving: what its bytes come to, token by token, and what it was when it has ended.
//!
//! The run and the questions before it read answers with the same eyes: a form that a server seems to take is one that
//! the run can measure.

use super::body::Body;
use super::chunk::{self, Chunk, Finish, Usage};
use super::conversation::Hearing;
use super::failure::Kind;
use super::fast_path::Like;
use super::http::Response;
use super::sse::{Field, LONGEST};
use crate::json::Json;

/// A kind of failure, and the words for it.
pub(crate) type Trouble = (Kind, String);

#[derive(Default)]
pub(crate) struct Answer {
    pub(crate) response: Response,
    body: Body,
    pub(crate) stream: Stream,
}

/// The state of a stream of events, as far as it has come.
#[derive(Default)]
pub(crate) struct Stream {
    /// Events that stood for tokens.
    pub(crate) chunks: u32,
    /// Of these, those that came in one read with the event before.
    pub(crate) coalesced: u32,
    /// Of these, those that hold several words.
    pub(crate) several: u32,
    pub(crate) usage: Usage,
    pub(crate) finish: Finish,
    /// The answer itself, if a turn repeats it or its tokens are counted.
    pub(crate) hearing: Option<Box<Hearing>>,
    /// The pattern that its events have in common.
    like: Like,
    /// The mark of the end has come.
    pub(crate) marked: bool,
    /// The server said that the response is complete.
    ended: bool,
    trouble: Option<Trouble>,
    /// Data of an event that goes on in another line.
    pending: Vec<u8>,
    name: Name,
    /// Last unrecognised event; becomes the error text if `event: error` follows its data.
    latest: Vec<u8>,
}

/// The names of events that mean something.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Name {
    #[default]
    None,
    Error,
    Idle,
}

impl Answer {
    /// One of whose body, where it is no stream, so many bytes are kept.
    pub(crate) fn keeping(room: usize) -> Self {
        Self { body: Body::keeping(room), ..Self::default() }
    }

    /// Ready for another one on the same connection.
    pub(crate) fn reset(&mut self) {
        self.response.reset();
        self.body.reset();
        // The next stream of this connection may follow the same pattern.
        let like = std::mem::take(&mut self.stream.like);
        self.stream = Stream { like, ..Stream::default() };
    }

    /// Takes in what a read brought; the tokens in it.
    ///
    /// # Errors
    /// Bytes that are not HTTP, in words.
    pub(crate) fn absorb(&mut self, bytes: &[u8]) -> Result<u32, Trouble> {
        let Self { response, body, stream } = self;
        let before = stream.chunks;
        let mut packed = Ok(());
        let fed = response.feed(bytes, &mut |head, piece| {
            if packed.is_ok() {
                packed = body.feed(head, piece, &mut |field| stream.take(field));
            }
        });
        fed.and(packed).map_err(|why| (Kind::Malformed, why))?;
        let tokens = stream.chunks - before;
        stream.coalesced += tokens.saturating_sub(1);
        Ok(tokens)
    }

    /// The beginning of a body that is no stream, or of what in a stream is no event.
    pub(crate) fn said(&self) -> String {
        String::from_utf8_lossy(&self.body.kept).into_owned()
    }

    /// The verdict on it, now that no more of it will come.
    ///
    /// # Errors
    /// The reason for which it is no whole answer.
    pub(crate) fn verdict(&mut self) -> Result<(), Trouble> {
        let Self { response, body, stream } = self;
        if body.is_stream() {
            body.end(&mut |field| stream.take(field));
        }
        if let Some(trouble) = stream.trouble.take() {
            return Err(trouble);
        }
        let (status, said) = (response.status, self.said());
        if let (300..=399, Some(to)) = (status, &self.response.location) {
            return Err((Kind::Status(status), format!("it redirects to {to}")));
        }
        if !self.response.succeeded() {
            let json = Json::of(said.as_bytes()).ok();
            let words = json.as_ref().and_then(chunk::bad_news).unwrap_or(said);
            return Err((Kind::Status(status), words));
        }
        let told = Some(&said).filter(|said| !said.is_empty());
        let told = told.and_then(|said| Chunk::of(&Json::of(said.as_bytes()).ok()?).error);
        let stream = &self.stream;
        match told {
            Some(words) => Err((Kind::ServerError, words)),
            None if !self.body.is_stream() => Err((Kind::NotSse, said)),
            None if stream.ended && stream.chunks == 0 => {
                Err((Kind::Empty, "the stream ended without a token".to_owned()))
            }
            None if stream.ended => Ok(()),
            None => {
                let more = if said.trim().is_empty() { String::new() } else { format!(": {said}") };
                Err((Kind::Cut, format!("the stream ended before its last token{more}")))
            }
        }
    }

    /// True once the server said that its answer is complete.
    pub(crate) fn is_told(&self) -> bool {
        self.stream.ended
    }

    /// The verdict on it when the connection breaks here: all of it may have come, and the server may have said why it
    /// breaks off; else it is `trouble`.
    ///
    /// # Errors
    /// The reason for which it is no whole answer.
    pub(crate) fn broken(&mut self, trouble: Trouble) -> Result<(), Trouble> {
        match self.verdict() {
            Ok(()) => Ok(()),
            Err(told) if matches!(told.0, Kind::ServerError | Kind::Status(1..)) => Err(told),
            Err(_) => {
                let (kind, why) = trouble;
                let said = self.said();
                let more = if said.trim().is_empty() { String::new() } else { format!(": {said}") };
                Err((kind, why + &more))
            }
        }
    }
}

impl Stream {
    /// Takes in a line of the stream. Nearly all lines are tokens like those before them, and the ends of their events.
    #[inline]
    fn take(&mut self, field: Field<'_>) {
        let plain = self.name == Name::None && self.trouble.is_none() && self.pending.is_empty();
        match field {
            Field::Data(data) if plain && let Some((text, aloud)) = self.like.token(data) => {
                self.several += u32::from(chunk::several(text));
                self.count();
                if let Some(hearing) = &mut self.hearing {
                    let text = &[std::str::from_utf8(text).unwrap_or_default()];
                    let (said, aside): (&[&str], &[&str]) =
                        if aloud { (text, &[]) } else { (&[], text) };
                    hearing.take_in(said, aside, &[]);
                }
            }
            Field::End if plain && self.latest.is_empty() => {}
            field => self.take_odd(field),
        }
    }

    /// The same of any line.
    #[inline(never)]
    fn take_odd(&mut self, field: Field<'_>) {
        match field {
            Field::Data(data) if self.pending.is_empty() => {
                if !self.message(data, false) {
                    self.pending.extend_from_slice(data);
                }
            }
            Field::Data(data) if self.pending.len() + data.len() < LONGEST => {
                self.pending.push(b'\n');
                self.pending.extend_from_slice(data);
            }
            Field::Data(_) => {
                let why = format!("an event of more than {} MiB", LONGEST >> 20);
                self.trouble.get_or_insert((Kind::Malformed, why));
                self.pending.clear();
            }
            Field::Name(name) => {
                let is =
                    |words: &[&str]| words.iter().any(|w| name.eq_ignore_ascii_case(w.as_bytes()));
                self.name = if is(&["error", "exception"]) {
                    Name::Error
                } else if is(&["ping", "heartbeat", "keepalive", "keep-alive"]) {
                    Name::Idle
                } else {
                    Name::None
                };
                if self.name == Name::Error && !self.latest.is_empty() {
                    let data = std::mem::take(&mut self.latest);
                    self.fail(&data);
                }
            }
            Field::Error(data) => self.fail(data),
            Field::End => {
                if !self.pending.is_empty() {
                    let data = std::mem::take(&mut self.pending);
                    self.message(&data, true);
                }
                if self.name == Name::Error && self.trouble.is_none() {
                    self.fail(b"");
                }
                self.name = Name::None;
                self.latest.clear();
            }
            Field::Stray(line) => {
                let json = Json::of(line).ok();
                if let Some(words) = json.and_then(|json| Chunk::of(&json).error) {
                    self.trouble.get_or_insert((Kind::ServerError, words));
                }
            }
        }
    }

    /// Takes in an event's data; false where more of it is to come, unless it is `whole`.
    fn message(&mut self, data: &[u8], whole: bool) -> bool {
        let bare = data.trim_ascii();
        if bare.starts_with(b"[DONE]") {
            (self.ended, self.marked) = (true, true);
            return true;
        }
        if bare.is_empty() || self.trouble.is_some() || self.name == Name::Idle {
            return true;
        }
        if self.name == Name::Error {
            if !whole && Json::of(data).is_err_and(|e| e.is_eof()) {
                return false;
            }
            self.fail(data);
            return true;
        }
        match Json::of(data) {
            Ok(event) => self.event(&Chunk::of(&event), data),
            Err(e) if e.is_eof() && !whole => return false,
            Err(e) => {
                let event = String::from_utf8_lossy(&data[..data.len().min(100)]);
                let why = format!("an event that is not JSON: {e}: {event}");
                self.trouble = Some((Kind::Malformed, why));
            }
        }
        true
    }

    fn event(&mut self, chunk: &Chunk<'_>, data: &[u8]) {
        if let Some(error) = &chunk.error {
            self.trouble = Some((Kind::ServerError, error.clone()));
            return;
        }
        if chunk.is_token() {
            self.several += u32::from(chunk.is_several());
            self.count();
            if let Some(hearing) = &mut self.hearing {
                hearing.take_in(&chunk.said, &chunk.aside, chunk.ids);
            }
            if let Some((text, aloud)) = chunk.plain_text() {
                self.like.learn(data, text, aloud);
            }
        } else if chunk.usage.is_none() && chunk.finish == Finish::None {
            self.latest = data.to_vec();
        }
        if chunk.finish != Finish::None {
            (self.ended, self.finish) = (true, chunk.finish);
        }
        // Counts without a choice come last.
        self.ended |= chunk.alone;
        if let Some(usage) = chunk.usage {
            self.usage.prompt_tokens = usage.prompt_tokens.or(self.usage.prompt_tokens);
            self.usage.completion_tokens = usage.completion_tokens.or(self.usage.completion_tokens);
        }
    }

    /// Counts an event that stands for a token.
    fn count(&mut self) {
        self.chunks += 1;
        // An earlier sign of the end was none.
        if !self.marked {
            (self.ended, self.finish) = (false, Finish::None);
        }
    }

    /// The server says in `data` that it failed.
    fn fail(&mut self, data: &[u8]) {
        let json = Json::of(data).ok();
        let words = match json {
            Some(json) => Chunk::of(&json).error.unwrap_or_else(|| chunk::words(&json)),
            None if data.trim_ascii().is_empty() => "an error event without a message".to_owned(),
            None => String::from_utf8_lossy(data).into_owned(),
        };
        self.trouble.get_or_insert((Kind::ServerError, words));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n";

    fn token(text: &str) -> String {
        format!(
            "data: {{\"choices\":[{{\"index\":0,\"text\":\"{text}\",\"finish_reason\":null}}]}}\n\n"
        )
    }

    /// Two tokens and what `more` says, by a server that closes afterwards.
    fn ends(more: &str) -> (u32, Result<(), Trouble>) {
        let mut answer = Answer::default();
        let whole = format!("{HEAD}{}{}{more}", token(" a"), token(" b"));
        answer.absorb(whole.as_bytes()).unwrap();
        let chunks = |answer: &Answer| answer.stream.chunks;
        let verdict = answer.verdict();
        (chunks(&answer), verdict)
    }

    #[test]
    fn every_way_to_end_well() {
        for end in [
            "data: [DONE]\n\n",
            "data:[DONE]\n\n",
            "data:  [DONE] \r\n\r\n",
            "data: [DONE]",
            "data: {\"choices\":[{\"text\":\"\",\"finish_reason\":\"stop\"}]}\n\n",
            "data: {\"choices\":[],\"usage\":{\"completion_tokens\":2}}\n\n",
            "event: ping\ndata: still here\n\ndata: [DONE]\n\n",
            ": comment\n\nid: 1\nretry: 5\n\ndata: null\n\ndata: [DONE]\n\n",
        ] {
            assert_eq!(ends(end), (2, Ok(())), "{end:?}");
        }
    }

    #[test]
    fn a_token_after_an_apparent_end_counts() {
        let counts = "data: {\"choices\":[],\"usage\":{\"completion_tokens\":2}}\n\n";
        let reason = |reason: &str| {
            format!(
                "data: {{\"choices\":[{{\"text\":\" c\",\"finish_reason\":\"{reason}\"}}]}}\n\n"
            )
        };
        let more = token(" d");
        for early in [counts, &reason("stop"), &reason("null"), &reason("None"), &reason("")] {
            let tokens = if early == counts { 3 } else { 4 };
            let (all, cut) = ends(&format!("{early}{more}"));
            assert!(all == tokens && cut.is_err_and(|(kind, _)| kind == Kind::Cut), "{early}");
            let done = format!("{early}{more}data: [DONE]\n\n");
            assert_eq!(ends(&done), (tokens, Ok(())), "{early}");
        }
        assert_eq!(ends(&reason("length")), (3, Ok(())), "the last token and the end in one");
    }

    #[test]
    fn every_way_to_break_off_keeps_its_words() {
        for bad in [
            "data: {\"error\":{\"message\":\"no memory\"}}\n\ndata: [DONE]\n\n",
            "error: {\"code\":500,\"message\":\"no memory\"}\n\n",
            "error: no memory\n\ndata: [DONE]\n\n",
            "event: error\ndata: {\"code\":500,\"message\":\"no memory\"}\n\ndata: [DONE]\n\n",
            "event: error\ndata: no memory\n\n",
            "event: error\ndata: {\ndata: \"message\": \"no memory\"}\n\n",
            "data: {\"text\": 1, \"message\":\"no memory\"}\nevent: error\n\ndata: [DONE]\n\n",
            "{\"error\":{\"message\":\"no memory\"}}\n",
            "{\n \"error\": {\n  \"message\": \"no memory\"\n }\n}",
            "data: {\"choices\":[{\"text\":\"\",\"finish_reason\":\"abort\",\"error\":\"no memory\"}]}\n\n",
        ] {
            assert_eq!(ends(bad), (2, Err((Kind::ServerError, "no memory".to_owned()))), "{bad:?}");
        }
        let (_, cut) = ends("Internal Server Error: no memory\n");
        assert!(
            cut.clone().is_err_and(|(kind, why)| kind == Kind::Cut && why.contains("no memory")),
            "{cut:?}"
        );
        assert!(ends("").1.is_err_and(|(kind, _)| kind == Kind::Cut));
        assert!(
            ends("data: {\"choices\":[{\n\n").1.is_err_and(|(kind, _)| kind == Kind::Malformed)
        );
    }

    #[test]
    fn data_over_several_lines_is_one_event() {
        let spread = "data: {\"choices\":\ndata: [{\"text\":\ndata:  \" c\"}]}\n\ndata: [DONE]\n\n";
        assert_eq!(ends(spread), (3, Ok(())));
        let close = "data: {\"choices\":[{\"text\":\"c\"}]}\ndata: {\"choices\":[{\"text\":\"d\"}]}\ndata: [DONE]\n";
        assert_eq!(ends(close), (4, Ok(())), "events without blank lines between them");
    }

    #[test]
    fn a_line_or_an_event_without_end_is_a_failure_of_that_name() {
        let piece = [b'x'; 1 << 16];
        let mut answer = Answer::default();
        answer.absorb(format!("{HEAD}{}data: {{\"a\":\"", token(" a")).as_bytes()).unwrap();
        let whole = (0..300).try_for_each(|_| answer.absorb(&piece).map(|_| ()));
        let (kind, why) = whole.unwrap_err();
        assert!(kind == Kind::Malformed && why.contains("a line of more than 16 MiB"), "{why}");
        let mut answer = Answer::default();
        answer.absorb(format!("{HEAD}data: [\n").as_bytes()).unwrap();
        let line = [b"data: \"", &piece[..], b"\",\n"].concat();
        (0..300).for_each(|_| assert_eq!(answer.absorb(&line), Ok(0)));
        let (kind, why) = answer.verdict().unwrap_err();
        assert!(kind == Kind::Malformed && why.contains("an event of more than 16 MiB"), "{why}");
        let long = "w".repeat(15 << 20);
        assert_eq!(ends(&format!("{}data: [DONE]\n\n", token(&long))), (3, Ok(())));
    }

    #[test]
    fn text_is_kept_on_the_fast_path_too() {
        use crate::live::vocabulary::Tokens;
        let of = |name: &str, text: &str| {
            format!("data: {{\"choices\":[{{\"delta\":{{\"{name}\":\"{text}\"}}}}]}}\n\n")
        };
        let mut answer = Answer::default();
        answer.stream.hearing = Some(Box::new(Hearing::new(false)));
        let thought = ["Hm", " so", "\\n", " now"].map(|text| of("reasoning_content", text));
        let said = ["An", " \\\"an", "swer", " é"].map(|text| of("content", text));
        let all = [HEAD.to_owned(), thought.concat(), said.concat()].concat();
        assert_eq!(answer.absorb(all.as_bytes()), Ok(8));
        let bytes = Tokens::new(|text| Some(text.len()));
        let heard = answer.stream.hearing.unwrap();
        assert_eq!(
            heard.tokens(&bytes),
            Some("Hm so\n now".len() as u32 + "An \"answer é".len() as u32)
        );
    }

    /// The tokens of a whole answer, and the verdict on it.
    fn whole(head: &str, body: &[u8]) -> (Result<u32, Trouble>, Result<(), Trouble>) {
        let mut answer = Answer::default();
        let head = format!("HTTP/1.1 {head}\r\ncontent-length: {}\r\n\r\n", body.len());
        let mut fed = answer.absorb(head.as_bytes());
        for byte in body.chunks(7) {
            fed = fed.and_then(|before| Ok(before + answer.absorb(byte)?));
        }
        (fed, answer.verdict())
    }

    #[test]
    fn a_stream_is_known_under_any_type_and_packing() {
        use flate2::Compression;
        use flate2::write::{GzEncoder, ZlibEncoder};
        use std::io::Write as _;
        let body = format!("{}{}data: [DONE]\n\n", token(" a"), token(" b"));
        for head in [
            "200 OK\r\ncontent-type: text/plain",
            "201 Created\r\ncontent-type: application/json",
            "200 OK",
            "203 Sure\r\ncontent-type: TEXT/EVENT-STREAM",
        ] {
            assert_eq!(whole(head, body.as_bytes()), (Ok(2), Ok(())), "{head}");
        }
        let mut gzip = GzEncoder::new(Vec::new(), Compression::default());
        gzip.write_all(body.as_bytes()).unwrap();
        let gzip = gzip.finish().unwrap();
        assert_eq!(whole("200 OK\r\ncontent-encoding: gzip", &gzip), (Ok(2), Ok(())));
        let mut zlib = ZlibEncoder::new(Vec::new(), Compression::default());
        zlib.write_all(body.as_bytes()).unwrap();
        let zlib = zlib.finish().unwrap();
        assert_eq!(whole("200 OK\r\ncontent-encoding: deflate", &zlib), (Ok(2), Ok(())));
        assert!(
            whole("200 OK\r\ncontent-encoding: br", &gzip)
                .0
                .unwrap_err()
                .1
                .contains("content-encoding")
        );
    }

    #[test]
    fn an_answer_that_is_no_stream_is_named() {
        let of = |head: &str, body: &str| whole(head, body.as_bytes()).1.unwrap_err();
        assert_eq!(of("200 OK", "<!doctype html>").0, Kind::NotSse);
        let lost = r#"{"error":{"message":"no memory"}}"#;
        assert_eq!(of("200 OK", lost), (Kind::ServerError, "no memory".to_owned()));
        let stream = "200 OK\r\ncontent-type: text/event-stream";
        assert_eq!(of(stream, lost), (Kind::ServerError, "no memory".to_owned()));
        assert_eq!(of("429 No", lost), (Kind::Status(429), "no memory".to_owned()));
        assert_eq!(of("500 No", "so\nso"), (Kind::Status(500), "so\nso".to_owned()));
        let (kind, why) = of("307 There\r\nlocation: https://b/c", "");
        assert!(kind == Kind::Status(307) && why.contains("https://b/c"), "{why}");
        assert_eq!(of("200 OK", "data: [DONE]\n\n").0, Kind::Empty);
    }
}
