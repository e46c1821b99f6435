//! The bytes of answers. The events of a stream's tokens differ in the token alone, so an event is rendered once per
//! stream, framing included, and copied.

use std::io::Write as _;
use std::time::Duration;

use memchr::memchr;
use serde_json::{Value, json};

use super::words::{DIGITS, TEXT, Words};

/// The two protocols that requests speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Protocol {
    Completion,
    Chat,
}

/// The parts that all events of one answer have in common.
#[derive(Debug, Clone)]
pub(super) struct Voice {
    pub(super) protocol: Protocol,
    /// Number of the request.
    pub(super) number: u64,
    pub(super) words: Words,
    /// Seconds since 1970.
    pub(super) created: u64,
    /// Show the ids of tokens too.
    pub(super) ids: bool,
    /// Send a stream in chunks of HTTP/1.1; else it ends with the connection.
    pub(super) chunked: bool,
}

impl Voice {
    fn id(&self) -> String {
        let kind = if self.protocol == Protocol::Chat { "chatcmpl" } else { "cmpl" };
        format!("{kind}-{:08x}", self.number)
    }

    /// Its first `output` tokens, as ids or as text.
    pub(super) fn answer(&self, output: u32) -> Value {
        if self.ids {
            Value::from(self.words.ids(output))
        } else {
            Value::from(self.words.texts(output))
        }
    }

    /// The event of a token, of a chunked stream in an HTTP chunk of its own. The model's name is quoted JSON already.
    pub(super) fn event(&self, model: &str, finished: bool) -> Event {
        let finish = if finished { "\"length\"" } else { "null" };
        let mut choice = match self.protocol {
            Protocol::Completion => format!("\"text\":\"{TEXT_HERE}\""),
            Protocol::Chat => format!("\"delta\":{{\"content\":\"{TEXT_HERE}\"}}"),
        };
        if self.ids {
            choice += &format!(",\"token_ids\":[{ID_HERE}]");
        }
        let choices =
            format!("[{{\"index\":0,{choice},\"logprobs\":null,\"finish_reason\":{finish}}}]");
        Event::new(self.chunk(model, &choices, "null"), self.words)
    }

    /// The event that opens a chat stream.
    pub(super) fn role(&self, model: &str) -> Vec<u8> {
        let delta = r#"{"role":"assistant","content":""}"#;
        let choice =
            format!(r#"[{{"index":0,"delta":{delta},"logprobs":null,"finish_reason":null}}]"#);
        self.chunk(model, &choice, "null")
    }

    /// The end of a stream: the usage if asked for, the mark of the end, the end of the body.
    pub(super) fn end(&self, model: &str, usage: Option<(u32, u32)>) -> Vec<u8> {
        let mut bytes = usage
            .map_or_else(Vec::new, |(p, o)| self.chunk(model, "[]", &usage_json(p, o).to_string()));
        let done: &[u8] = b"data: [DONE]\n\n";
        let framed: &[u8] = b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n";
        bytes.extend_from_slice(if self.chunked { framed } else { done });
        bytes
    }

    /// The head of a stream.
    pub(super) fn head(&self) -> &'static [u8] {
        if self.chunked { STREAM } else { PLAIN }
    }

    fn chunk(&self, model: &str, choices: &str, usage: &str) -> Vec<u8> {
        let object = match self.protocol {
            Protocol::Completion => "text_completion",
            Protocol::Chat => "chat.completion.chunk",
        };
        let (id, created) = (self.id(), self.created);
        let event = format!(
            "data: {{\"id\":\"{id}\",\"object\":\"{object}\",\"created\":{created},\"model\":{model},\"choices\":{choices},\"usage\":{usage}}}\n\n"
        );
        if self.chunked {
            return format!("{:x}\r\n{event}\r\n", event.len()).into_bytes();
        }
        event.into_bytes()
    }

    /// The whole response of a request that does not stream.
    pub(super) fn whole(&self, model: &str, prompt: u32, output: u32) -> Vec<u8> {
        let text = self.words.texts(output);
        let (object, mut choice) = match self.protocol {
            Protocol::Completion => (
                "text_completion",
                json!({"index": 0, "text": text, "logprobs": null, "finish_reason": "length"}),
            ),
            Protocol::Chat => (
                "chat.completion",
                json!({"index": 0, "message": {"role": "assistant", "content": text, "refusal": null}, "logprobs": null, "finish_reason": "length"}),
            ),
        };
        if self.ids {
            choice["token_ids"] = Value::from(self.words.ids(output));
        }
        let model: Value = serde_json::from_str(model).unwrap_or_default();
        let body = json!({"id": self.id(), "object": object, "created": self.created, "model": model, "choices": [choice], "usage": usage_json(prompt, output)});
        full(200, "application/json", body.to_string().as_bytes(), "")
    }
}

/// Marks of the places of a token's text and id: control characters, which no JSON has in it.
const TEXT_HERE: &str = "\0\0\0\0";
const ID_HERE: &str = "\u{1}\u{1}\u{1}\u{1}\u{1}";

/// The event of any token of a stream.
pub(super) struct Event {
    bytes: Vec<u8>,
    words: Words,
    /// The place of the text.
    text: Option<usize>,
    /// The place of the id.
    id: Option<usize>,
}

impl Event {
    fn new(bytes: Vec<u8>, words: Words) -> Self {
        let place = |mark: &str| memchr(mark.as_bytes()[0], &bytes);
        Self { text: place(TEXT_HERE), id: place(ID_HERE), bytes, words }
    }

    /// Adds that of the token at `place` to `to`.
    pub(super) fn append(&self, place: u32, to: &mut Vec<u8>) {
        let start = to.len();
        to.extend_from_slice(&self.bytes);
        if let Some(at) = self.text {
            to[start + at..][..TEXT].copy_from_slice(&self.words.text(place));
        }
        if let Some(at) = self.id {
            let mut digits = &mut to[start + at..][..DIGITS];
            // It is of so many digits.
            let _ = write!(digits, "{}", self.words.id(place));
        }
    }
}

fn usage_json(prompt: u32, output: u32) -> Value {
    let total = prompt.saturating_add(output);
    json!({"prompt_tokens": prompt, "completion_tokens": output, "total_tokens": total})
}

/// The head of a chunked stream.
const STREAM: &[u8] =
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ncache-control: no-cache\r\ntransfer-encoding: chunked\r\n\r\n";

/// The head of a stream that ends with the connection, for clients of HTTP/1.0 (RFC 9112, 6.1).
const PLAIN: &[u8] =
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ncache-control: no-cache\r\nconnection: close\r\n\r\n";

/// A complete answer; `headers` are further lines, each with its end.
pub(super) fn full(status: u16, content_type: &str, body: &[u8], headers: &str) -> Vec<u8> {
    let reason = match status {
        200 => "OK",
        400 => "Bad Request",
        401 => "Unauthorized",
        404 => "Not Found",
        405 => "Method Not Allowed",
        501 => "Not Implemented",
        413 => "Content Too Large",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        503 => "Service Unavailable",
        _ => "Status",
    };
    let mut bytes = Vec::with_capacity(body.len() + 160);
    let length = body.len();
    // Writing to a vector cannot fail.
    let _ = write!(
        bytes,
        "HTTP/1.1 {status} {reason}\r\ncontent-type: {content_type}\r\ncontent-length: {length}\r\n{headers}\r\n"
    );
    bytes.extend_from_slice(body);
    bytes
}

/// An error as OpenAI words it.
pub(super) fn refusal(status: u16, message: &str, retry_after: Option<Duration>) -> Vec<u8> {
    let kind = match status {
        401 => "authentication_error",
        404 => "NotFoundError",
        429 => "rate_limit_error",
        400..=499 => "invalid_request_error",
        _ => "server_error",
    };
    let body = json!({"error": {"message": message, "type": kind, "param": null, "code": status}});
    let wait = retry_after.map_or_else(String::new, |t| {
        format!("retry-after: {}\r\n", t.as_secs_f64().ceil() as u64)
    });
    full(status, "application/json", body.to_string().as_bytes(), &wait)
}
