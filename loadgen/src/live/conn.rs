//! One connection and the request it carries.

use std::net::SocketAddr;

use mio::{Interest, Registry, Token};

use super::failure::Kind;
use super::http::Response;
use super::like::Like;
use super::sse::Lines;
use super::talk::Hearing;
use super::transport::{Security, Transport};
use crate::openai::{Chunk, Usage};

/// Bytes kept of a body that is no stream, for the message.
const KEPT: usize = 2_000;

/// A connection.
pub(super) struct Conn {
    /// Which of the run's connections it is.
    pub(super) serial: u64,
    pub(super) io: Transport,
    /// Whether bytes can be sent.
    pub(super) established: bool,
    /// Whether it has carried a request before: the server may close such a one at any time.
    pub(super) reused: bool,
    pub(super) flight: Option<Flight>,
    /// The request's bytes, sent up to `written`.
    pub(super) out: Vec<u8>,
    pub(super) written: usize,
    pub(super) response: Response,
    lines: Lines,
}

/// A request under way. Instants in ns of the clock.
#[derive(Default)]
pub(super) struct Flight {
    pub(super) request: u32,
    pub(super) due: u64,
    /// When its first byte was handed to the socket; 0 before.
    pub(super) sent: u64,
    /// When it is given up.
    pub(super) deadline: u64,
    /// Whether anything of the answer has arrived.
    pub(super) answered: bool,
    /// Events that stood for tokens.
    pub(super) chunks: u32,
    /// Of these, those that came in one read with the event before.
    pub(super) coalesced: u32,
    pub(super) usage: Usage,
    /// What its events have in common.
    like: Like,
    /// Its answer, where a later turn repeats it.
    pub(super) hearing: Option<Box<Hearing>>,
    /// The server said that the response is complete.
    ended: bool,
    trouble: Option<(Kind, String)>,
    /// The beginning of a body that is no stream.
    pub(super) body: Vec<u8>,
    /// When the latest token came.
    pub(super) latest: u64,
    /// Gaps between its tokens, where they are kept, ns.
    pub(super) gaps: Vec<u64>,
    /// Its first token came later than any target allows.
    pub(super) late: bool,
    /// When the next token should be there at the latest, for the fluidity index.
    pub(super) expected: u64,
}

impl Conn {
    pub(super) fn open(
        address: SocketAddr,
        security: Option<&Security>,
        registry: &Registry,
        (key, serial): (usize, u64),
    ) -> std::io::Result<Self> {
        let mut io = Transport::connect(address, security)?;
        registry.register(io.socket(), Token(key), Interest::READABLE | Interest::WRITABLE)?;
        Ok(Self {
            serial,
            io,
            established: false,
            reused: false,
            flight: None,
            out: Vec::new(),
            written: 0,
            response: Response::default(),
            lines: Lines::default(),
        })
    }

    /// Takes a request on.
    pub(super) fn board(&mut self, flight: Flight, bytes: Vec<u8>) {
        self.response.reset();
        self.lines.reset();
        (self.flight, self.out, self.written) = (Some(flight), bytes, 0);
    }

    /// Takes in what a read brought; the tokens in it.
    pub(super) fn absorb(&mut self, bytes: &[u8]) -> Result<u32, (Kind, String)> {
        let Self { response, lines, flight, .. } = self;
        let Some(flight) = flight else {
            return Err((Kind::Malformed, "bytes that nobody asked for".to_owned()));
        };
        flight.answered = true;
        let before = flight.chunks;
        let fed = response.feed(bytes, &mut |head, piece| {
            if head.status == 200 && head.events {
                lines.feed(piece, &mut |message| flight.message(message));
            } else {
                let room = KEPT - flight.body.len();
                flight.body.extend_from_slice(&piece[..piece.len().min(room)]);
            }
        });
        fed.map_err(|why| (Kind::Malformed, why))?;
        let tokens = flight.chunks - before;
        flight.coalesced += tokens.saturating_sub(1);
        Ok(tokens)
    }

    /// What a response that has ended comes to.
    pub(super) fn verdict(&mut self) -> Result<(), (Kind, String)> {
        let Self { response, lines, flight, .. } = self;
        let Some(flight) = flight else { return Ok(()) };
        lines.end(&mut |message| flight.message(message));
        if let Some(trouble) = flight.trouble.take() {
            return Err(trouble);
        }
        let said = || String::from_utf8_lossy(&flight.body).into_owned();
        match response.status {
            200 if !response.events => Err((Kind::NotSse, said())),
            200 if flight.ended && flight.chunks == 0 => {
                Err((Kind::Empty, "the stream ended without a token".to_owned()))
            }
            200 if flight.ended => Ok(()),
            200 => Err((Kind::Cut, "the stream ended before its last token".to_owned())),
            status => Err((Kind::Status(status), said())),
        }
    }
}

impl Flight {
    /// `request`, due at `due`, to be given up at `deadline`.
    pub(super) fn new(request: u32, due: u64, deadline: u64) -> Self {
        Self { request, due, deadline, ..Self::default() }
    }

    fn message(&mut self, data: &[u8]) {
        if data == b"[DONE]" {
            self.ended = true;
            return;
        }
        if data.is_empty() || self.trouble.is_some() {
            return;
        }
        if self.like.is_token(data) {
            self.token(data);
            return;
        }
        let chunk: Chunk = match serde_json::from_slice(data) {
            Ok(chunk) => chunk,
            Err(e) => {
                let event = String::from_utf8_lossy(&data[..data.len().min(100)]);
                let why = format!("an event that is not a chunk: {e}: {event}");
                self.trouble = Some((Kind::Malformed, why));
                return;
            }
        };
        if let Some(error) = chunk.error() {
            self.trouble = Some((Kind::ServerError, error.to_owned()));
            return;
        }
        self.ended |= chunk.finished();
        if chunk.has_token() {
            self.token(data);
            if !chunk.finished() && chunk.usage.is_none() {
                self.like.learn(data);
            }
        }
        if let Some(usage) = chunk.usage {
            self.usage = usage;
        }
    }

    fn token(&mut self, data: &[u8]) {
        self.chunks += 1;
        if let Some(hearing) = &mut self.hearing {
            hearing.take_in(data);
        }
    }
}
