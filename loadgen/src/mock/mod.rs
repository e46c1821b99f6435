//! A server that knows exactly how slow it is: OpenAI's completions and chat over a fixed clockwork.
//!
//! Its purpose is to be the truth that a load generator is held against, and a stand-in for a GPU in tests. The
//! first token comes `ttft` after a slot is free, each further one `itl` later, the finished stream frees its slot
//! for the first in the queue; so its capacity is `slots / (ttft + (tokens − 1) · itl)` and known. It keeps its own
//! log ([`Truth`]) on the clock that clients on the same machine read. One thread, one poll, no task per stream, and
//! all that is due at an instant leaves in one write: at zero delays it must leave the processor to the client.

mod fault;
mod log;
mod reply;
mod server;
mod words;

use std::io::Write;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::atomic::AtomicBool;
use std::time::Duration;

pub use fault::{Fault, FaultShare};
pub use log::Truth;

use crate::error::Error;
use server::Server;

/// The behaviour that the mock pretends.
#[derive(Debug, Clone, PartialEq)]
pub struct MockOptions {
    /// The model it serves; a request for another one is a 404.
    pub model: String,
    /// From getting a slot to the first token.
    pub ttft: Duration,
    /// From token to token.
    pub itl: Duration,
    /// Requests served at once; further ones queue, first come, first served. None: no limit.
    pub slots: Option<u32>,
    /// Tokens of a response when the request does not say.
    pub output: u32,
    /// Times after the start at which everything stands still, and for how long. Sorted, not overlapping.
    pub stalls: Vec<(Duration, Duration)>,
    /// Until so long after the start it answers 503 to everything.
    pub ready_after: Duration,
    /// The faults to make, each with its share.
    pub faults: Vec<FaultShare>,
    /// The wait that 429 and 503 ask for.
    pub retry_after: Duration,
    /// The key clients must send, where one is needed.
    pub api_key: Option<String>,
    /// Seed of who is befallen by faults.
    pub seed: u64,
    /// Write prompts and answers into the log.
    pub log_prompts: bool,
}

impl Default for MockOptions {
    fn default() -> Self {
        Self {
            model: "mock".to_owned(),
            ttft: Duration::ZERO,
            itl: Duration::ZERO,
            slots: None,
            output: 16,
            stalls: Vec::new(),
            ready_after: Duration::ZERO,
            faults: Vec::new(),
            retry_after: Duration::from_secs(1),
            api_key: None,
            seed: 1,
            log_prompts: false,
        }
    }
}

impl MockOptions {
    fn check(&self) -> Result<(), Error> {
        let shares: f64 = self.faults.iter().map(|f| f.share).sum();
        if shares > 1.0 + 1e-9 {
            return Err(Error::Mock("the shares of all faults together exceed 100%".to_owned()));
        }
        let ends = self.stalls.iter().map(|s| s.0 + s.1);
        if ends.zip(self.stalls.iter().skip(1)).any(|(end, next)| next.0 < end) {
            return Err(Error::Mock("stalls overlap or are not in order of time".to_owned()));
        }
        if self.slots == Some(0) {
            return Err(Error::Mock("0 slots serve nobody; give at least 1".to_owned()));
        }
        Ok(())
    }
}

/// Counts of the mock's work.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Served {
    /// Connections accepted.
    pub connections: u64,
    /// Completions and chats asked for.
    pub requests: u64,
    /// Of these, answered to the end.
    pub completed: u64,
    /// Tokens handed to sockets.
    pub tokens: u64,
    /// Most streams open at once.
    pub peak_streams: u64,
}

/// A mock server, bound and not yet serving.
pub struct Mock(Server);

impl Mock {
    /// Binds `address` (port 0: any free one). `log` gets one JSON line ([`Truth`]) per request.
    ///
    /// # Errors
    /// Options that contradict each other, an address that cannot be bound.
    pub fn bind(
        address: impl ToSocketAddrs,
        options: MockOptions,
        log: Option<Box<dyn Write + Send>>,
    ) -> Result<Self, Error> {
        options.check()?;
        let listen = || Server::bind(address, options, log);
        Ok(Self(
            listen()
                .map_err(|e| Error::Io("cannot start the mock server".to_owned(), e.to_string()))?,
        ))
    }

    /// The address on which it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.0.address()
    }

    /// Serves until `stop` is set (looked at ten times per second).
    ///
    /// # Errors
    /// A poll or a log that fails; a client's misbehaviour never ends it.
    pub fn serve(self, stop: &AtomicBool) -> Result<Served, Error> {
        self.0
            .serve(stop)
            .map_err(|e| Error::Io("the mock server stopped".to_owned(), e.to_string()))
    }
}
