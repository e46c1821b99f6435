//! One connection and the request it carries.

use std::net::SocketAddr;

use mio::{Interest, Registry, Token};

use super::answer::{Answer, Trouble};
use super::failure::Kind;
use super::transport::{Place, Transport};

/// A connection.
pub(super) struct Conn {
    /// The number of the connection within the run.
    pub(super) serial: u64,
    pub(super) io: Transport,
    /// True where bytes can be sent.
    pub(super) established: bool,
    /// True where it has carried a request before: the server may close such a connection at any
    /// time.
    pub(super) reused: bool,
    pub(super) flight: Option<Flight>,
    /// The request's bytes, sent up to `written`.
    pub(super) out: Vec<u8>,
    pub(super) written: usize,
    pub(super) answer: Answer,
}

/// A request under way. Instants in ns of the clock.
#[derive(Default)]
pub(super) struct Flight {
    pub(super) request: u32,
    pub(super) due: u64,
    /// When its first byte was handed to the socket; 0 before.
    pub(super) sent: u64,
    /// When it is given up.
    deadline: u64,
    /// Until when it may stay open, once the server said that the answer is complete.
    pub(super) open_until: Option<u64>,
    /// True where anything of the answer has arrived.
    pub(super) answered: bool,
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
        (address, place): (SocketAddr, &Place),
        registry: &Registry,
        (key, serial): (usize, u64),
    ) -> std::io::Result<Self> {
        let mut io = Transport::connect(address, place)?;
        registry.register(io.socket(), Token(key), Interest::READABLE | Interest::WRITABLE)?;
        Ok(Self {
            serial,
            io,
            established: false,
            reused: false,
            flight: None,
            out: Vec::new(),
            written: 0,
            answer: Answer::default(),
        })
    }

    /// Takes a request on.
    pub(super) fn board(&mut self, flight: Flight, bytes: Vec<u8>) {
        self.answer.reset();
        (self.flight, self.out, self.written) = (Some(flight), bytes, 0);
    }

    /// Takes in what a read brought; the tokens in it.
    pub(super) fn absorb(&mut self, bytes: &[u8]) -> Result<u32, Trouble> {
        let Some(flight) = &mut self.flight else {
            return Err((Kind::Malformed, "bytes that answer no request".to_owned()));
        };
        flight.answered = true;
        self.answer.absorb(bytes)
    }
}

impl Flight {
    /// `request`, due at `due`, to be given up at `deadline`.
    pub(super) fn new(request: u32, due: u64, deadline: u64) -> Self {
        Self { request, due, deadline, ..Self::default() }
    }

    /// The instant at which the rest of it is no longer waited for.
    pub(super) fn given_up_at(&self) -> u64 {
        self.deadline.min(self.open_until.unwrap_or(u64::MAX))
    }
}
