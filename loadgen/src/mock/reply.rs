//! The bytes of answers. The event of a token is the same for every token of a stream, so it is rendered once per
//! stream, framing included, and copied.

use std::io::Write as _;
use std::time::Duration;

use serde_json::{Value, json};

/// Which of the two protocols a request speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Protocol {
    Completion,
    Chat,
}

/// What the answers to one request have in common.
#[derive(Debug, Clone)]
pub(super) struct Voice {
    pub(super) protocol: Protocol,
    /// Number of the request.
    pub(super) number: u64,
    /// Seconds since 1970.
    pub(super) created: u64,
    /// Whether tokens are shown by their ids too.
    pub(super) ids: bool,
    /// Whether a stream comes in chunks of HTTP/1.1; else it ends with the connection.
    pub(super) chunked: bool,
}

impl Voice {
    fn id(&self) -> String {
        let kind = if self.protocol == Protocol::Chat { "chatcmpl" } else { "cmpl" };
        format!("{kind}-{:08x}", self.number)
    }

    /// The text of every token: of four bytes, as the mock counts, and seldom that of another answer.
    fn token(&self) -> String {
        let letter = |place: u64| char::from(b'a' + (self.number / place % 26) as u8);
        [' ', letter(26 * 26), letter(26), letter(1)].iter().collect()
    }

    /// The id of every token.
    fn token_id(&self) -> u64 {
        1_000 + self.number % 19_000
    }

    /// What it says in `output` tokens.
    pub(super) fn answer(&self, output: u32) -> Value {
        if self.ids {
            Value::from(vec![self.token_id(); output as usize])
        } else {
            Value::from(self.token().repeat(output as usize))
        }
    }

    /// One event of the stream, of a chunked one in an HTTP chunk of its own. The model's name is quoted JSON already.
    pub(super) fn event(&self, model: &str, finished: bool) -> Vec<u8> {
        let finish = if finished { "\"length\"" } else { "null" };
        let token = self.token();
        let mut choice = match self.protocol {
            Protocol::Completion => format!("\"text\":\"{token}\""),
            Protocol::Chat => format!("\"delta\":{{\"content\":\"{token}\"}}"),
        };
        if self.ids {
            choice += &format!(",\"token_ids\":[{}]", self.token_id());
        }
        self.chunk(
            model,
            &format!("[{{\"index\":0,{choice},\"logprobs\":null,\"finish_reason\":{finish}}}]"),
            "null",
        )
    }

    /// What opens a chat stream.
    pub(super) fn role(&self, model: &str) -> Vec<u8> {
        let delta = r#"{"role":"assistant","content":""}"#;
        let choice =
            format!(r#"[{{"index":0,"delta":{delta},"logprobs":null,"finish_reason":null}}]"#);
        self.chunk(model, &choice, "null")
    }

    /// What closes a stream: the usage if asked for, the mark of the end, the end of the body.
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
        let text = self.token().repeat(output as usize);
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
            choice["token_ids"] = self.answer(output);
        }
        let model: Value = serde_json::from_str(model).unwrap_or_default();
        let body = json!({"id": self.id(), "object": object, "created": self.created, "model": model, "choices": [choice], "usage": usage_json(prompt, output)});
        full(200, "application/json", body.to_string().as_bytes(), "")
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
