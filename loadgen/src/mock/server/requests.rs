//! From bytes to requests: what a client asks for, and what it is refused at once.

use std::io::ErrorKind;

use serde_json::Value;

use super::super::fault::{self, Fault};
use super::super::log::Truth;
use super::super::reply::{self, Protocol, Voice};
use super::super::words::Words;
use super::chunked::{self, Chunked};
use super::{Fate, Server, Work};
use crate::net::clock;
use crate::openai::Ask;
use crate::time::nanos;

/// Most bytes of one request.
const LARGEST: usize = 64 << 20;
/// Headers understood in one request.
const HEADERS: usize = 96;

/// The prompt or the messages of a request.
fn asked(body: &[u8]) -> Option<Value> {
    let mut body: Value = serde_json::from_slice(body).ok()?;
    let members = body.as_object_mut()?;
    members.remove("prompt").or_else(|| members.remove("messages"))
}

impl Server {
    pub(super) fn receive(&mut self, key: usize, closed: bool) -> Fate {
        loop {
            let conn = &mut self.conns[key];
            let (read, arrived) = match self.receiver.receive(&conn.stream, &mut self.buffer) {
                Ok((0, _)) => return Fate::Closed,
                Ok(read) => read,
                Err(e) if e.kind() == ErrorKind::WouldBlock => return Fate::Open,
                Err(e) if e.kind() == ErrorKind::Interrupted => continue,
                Err(_) => return Fate::Closed,
            };
            let at = arrived.unwrap_or_else(clock::now);
            conn.inbox.extend_from_slice(&self.buffer[..read]);
            if conn.inbox.len() > LARGEST {
                return self.refuse(key, 413, "this request is larger than the mock accepts");
            }
            if self.answer_next(key, at) == Fate::Closed {
                return Fate::Closed;
            }
            // A short read has emptied the socket, unless its end is still to be read.
            if read < self.buffer.len() && !closed {
                return Fate::Open;
            }
        }
    }

    /// Answers the requests in the inbox until one takes its time.
    pub(super) fn answer_next(&mut self, key: usize, at: u64) -> Fate {
        while self.conns[key].work.is_none() && !self.conns[key].inbox.is_empty() {
            let inbox = std::mem::take(&mut self.conns[key].inbox);
            let (used, fate) = self.answer(key, &inbox, at);
            if fate == Fate::Closed {
                return fate;
            }
            let conn = &mut self.conns[key];
            conn.inbox = inbox;
            if used == conn.inbox.len() {
                conn.inbox.clear();
            } else {
                conn.inbox.drain(..used);
            }
            if used == 0 {
                break;
            }
        }
        Fate::Open
    }

    /// Answers the first request of `inbox` and says how much of it that was; nothing while it is not complete.
    fn answer(&mut self, key: usize, inbox: &[u8], at: u64) -> (usize, Fate) {
        let mut headers = [httparse::EMPTY_HEADER; HEADERS];
        let mut request = httparse::Request::new(&mut headers);
        let head = match request.parse(inbox) {
            Ok(httparse::Status::Complete(head)) => head,
            Ok(httparse::Status::Partial) => return (0, Fate::Open),
            Err(e) => return (0, self.refuse(key, 400, &format!("not HTTP: {e}"))),
        };
        let header = |name: &str| {
            let found = request.headers.iter().find(|h| h.name.eq_ignore_ascii_case(name))?;
            std::str::from_utf8(found.value).ok()
        };
        let chunked = header("transfer-encoding").map(|t| t.trim().eq_ignore_ascii_case("chunked"));
        let given = header("content-length").map_or(Ok(0), |l| l.trim().parse::<usize>());
        let waits = |part: &[u8]| {
            let asks = header("expect").is_some_and(|e| e.eq_ignore_ascii_case("100-continue"));
            asks && part.is_empty()
        };
        let unpacked;
        let (body, used): (&[u8], usize) = match (chunked, given) {
            (Some(false), _) => {
                return (
                    0,
                    self.refuse(key, 501, "the mock knows no other transfer-encoding than chunked"),
                );
            }
            (Some(true), _) => match chunked::read(&inbox[head..], LARGEST) {
                Chunked::Whole(body, used) => {
                    unpacked = body;
                    (&unpacked, head + used)
                }
                Chunked::Partial => {
                    let waits = waits(&inbox[head..]);
                    return (0, self.wait_for_more(key, waits));
                }
                Chunked::Broken(why) => return (0, self.refuse(key, 400, why)),
            },
            (None, Ok(length)) if length <= LARGEST => match inbox.get(head..head + length) {
                Some(body) => (body, head + length),
                None => {
                    let waits = waits(&inbox[head..]);
                    return (0, self.wait_for_more(key, waits));
                }
            },
            (None, _) => {
                return (0, self.refuse(key, 413, "this content-length is not acceptable"));
            }
        };
        self.conns[key].continued = false;
        let close = header("connection").is_some_and(|c| c.eq_ignore_ascii_case("close"))
            || (request.version == Some(0)
                && !header("connection").is_some_and(|c| c.eq_ignore_ascii_case("keep-alive")));
        self.conns[key].closing |= close;
        self.conns[key].old = request.version == Some(0);
        let (method, path) = (request.method.unwrap_or(""), request.path.unwrap_or(""));
        let path = path.split('?').next().unwrap_or("");
        let key_given = header("authorization").and_then(|a| a.strip_prefix("Bearer "));
        let allowed = self.options.api_key.as_deref().is_none_or(|key| key_given == Some(key));
        let fate = match (method, path) {
            _ if clock::now() < self.started + nanos(self.options.ready_after) => {
                self.reject(key, 503, "the mock is still starting")
            }
            ("GET", "/health") => self.send(key, &reply::full(200, "text/plain", b"", "")),
            _ if !allowed => self.reject(key, 401, "the mock was started with another API key"),
            ("GET", "/v1/models") => {
                let model = &self.model;
                let list = format!(
                    r#"{{"object":"list","data":[{{"id":{model},"object":"model","created":{},"owned_by":"knee"}}]}}"#,
                    self.created
                );
                self.send(key, &reply::full(200, "application/json", list.as_bytes(), ""))
            }
            ("POST", "/v1/completions") => {
                self.start(key, Protocol::Completion, body, at, header("x-request-id"))
            }
            ("POST", "/v1/chat/completions") => {
                self.start(key, Protocol::Chat, body, at, header("x-request-id"))
            }
            (_, "/v1/completions" | "/v1/chat/completions" | "/v1/models" | "/health") => {
                self.reject(key, 405, "this path does not take this method")
            }
            _ => self.reject(key, 404, "no such path"),
        };
        (used, fate)
    }

    /// The rest of a body is to come; a client that `waits` to be told so sends it then.
    fn wait_for_more(&mut self, key: usize, waits: bool) -> Fate {
        if waits && !std::mem::replace(&mut self.conns[key].continued, true) {
            return self.send(key, b"HTTP/1.1 100 Continue\r\n\r\n");
        }
        Fate::Open
    }

    /// Takes a completion on: answers at once what fails, queues or starts the rest.
    fn start(
        &mut self,
        key: usize,
        protocol: Protocol,
        body: &[u8],
        at: u64,
        id: Option<&str>,
    ) -> Fate {
        let ask: Ask<'_> = match serde_json::from_slice(body) {
            Ok(ask) => ask,
            Err(e) => return self.reject(key, 400, &format!("the body is not a request: {e}")),
        };
        if ask.model.as_ref().is_some_and(|m| *m != self.options.model) {
            let model = ask.model.as_deref().unwrap_or_default();
            return self.reject(key, 404, &format!("The model `{model}` does not exist."));
        }
        let Some(prompt_tokens) = ask.prompt_tokens() else {
            return self.reject(key, 400, "a prompt (or messages) is needed");
        };
        if ask.n.is_some_and(|n| n != 1) {
            return self.reject(key, 400, "the mock answers with one choice only");
        }
        let number = self.served.requests;
        self.served.requests += 1;
        let fault = fault::draw(&self.options.faults, self.options.seed, number);
        let (stream, chunked) = (ask.streams(), !self.conns[key].old);
        let (created, ids) = (self.created, ask.wants_ids());
        let voice = Voice { protocol, number, words: Words::of(body), created, ids, chunked };
        // A stream that is not chunked ends with the connection.
        self.conns[key].closing |= stream && !chunked;
        let output = ask.output_tokens().unwrap_or(self.options.output);
        let kept = self.log.is_kept();
        let shown = kept && self.options.log_prompts;
        self.generations += 1;
        let conn = &mut self.conns[key];
        conn.generation = self.generations;
        conn.dripping = fault == Some(Fault::Drip);
        conn.work = Some(Work {
            truth: Truth {
                request: number,
                id: id.filter(|_| kept).map(str::to_owned),
                arrived_ns: at,
                started_ns: None,
                first_ns: None,
                writes: Vec::new(),
                end_ns: 0,
                prompt_tokens,
                outcome: String::new(),
                prompt: if shown { asked(body) } else { None },
                answer: shown.then(|| voice.answer(output.max(1))),
            },
            event: voice.event(&self.model, false),
            voice,
            stream,
            usage: ask.wants_usage() && fault != Some(Fault::NoUsage),
            fault,
            output: output.max(1),
            emitted: 0,
            first_due: 0,
            holds_slot: false,
        });
        match fault {
            Some(Fault::Status(status)) => {
                self.reject(key, status, "this failure was asked for");
                self.finish(key, &status.to_string())
            }
            Some(Fault::NotSse) => {
                let page = b"<!doctype html><title>mock</title><p>This is not a stream of events.";
                self.send(key, &reply::full(200, "text/html", page, ""));
                self.finish(key, "not-sse")
            }
            Some(Fault::Hang) => Fate::Open,
            _ if self.options.slots.is_some_and(|slots| self.running >= slots) => {
                self.queue.push_back((key, self.generations));
                Fate::Open
            }
            _ => self.seat(key, at),
        }
    }

    /// Answers a request that will not be served.
    fn reject(&mut self, key: usize, status: u16, message: &str) -> Fate {
        let wait = matches!(status, 429 | 503).then_some(self.options.retry_after);
        self.send(key, &reply::refusal(status, message, wait))
    }

    /// Answers bytes that are no request; there is no telling where the next one begins.
    fn refuse(&mut self, key: usize, status: u16, message: &str) -> Fate {
        self.conns[key].closing = true;
        self.reject(key, status, message)
    }
}
