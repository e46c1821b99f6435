//! A server that knows exactly how slow it is: OpenAI's completions and chat over a fixed clockwork.
//!
//! Its purpose is to be the truth that a load generator is held against, and a stand-in for a GPU in tests. The
//! first token comes `ttft` after a slot is free, each further one `itl` later, the finished stream frees its slot
//! for the first in the queue; so its capacity is `slots / (ttft + (tokens − 1) · itl)` and known. It keeps its own
//! log ([`Truth`]) on the clock that clients on the same machine read. One thread, one poll, no task per stream, and
//! all that is due at an instant leaves in one write: at zero delays it must leave the processor to the client.

mod fault;
mod log;
mod options;
mod reply;
mod server;
mod words;

use std::io::Write;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::atomic::AtomicBool;

pub use fault::{Fault, FaultShare};
pub use log::Truth;
pub use options::{MockOptions, Served};

use crate::error::Error;
use server::Server;

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
