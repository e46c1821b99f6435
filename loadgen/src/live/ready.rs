//! Waiting for a server that is not ready yet: one road for servers that are there and for those that we start.

use std::time::{Duration, Instant};

use super::endpoint::Endpoint;
use super::server::Server;
use super::{Live, greet};
use crate::error::Error;

/// From one question to the next, at first and at most.
const PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(1));

/// The time for which a server is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// The wait for a server that is there and does not take requests yet.
    pub ready: Duration,
    /// The wait for a server at whose address nothing listens yet.
    pub there: Duration,
    /// The wait for one answer.
    pub answer: Duration,
}

impl Live {
    /// Finds a server as soon as it takes requests. `watch` gets to know what it says each time that it is not ready
    /// yet, and ends the waiting by saying no.
    ///
    /// # Errors
    /// As [`Live::find`]; what the server said last where it was not ready in time.
    pub fn find_when_ready(
        server: &Server,
        patience: Patience,
        watch: &mut dyn FnMut(&Error) -> bool,
    ) -> Result<Self, Error> {
        let (began, mut pause) = (Instant::now(), PAUSE.0);
        loop {
            let found = Endpoint::find(server).and_then(|mut endpoint| {
                greet::health(&mut endpoint, patience.answer)?;
                Self::find_at(endpoint, server, patience.answer)
            });
            let error = match found {
                Ok(live) => return Ok(live),
                Err(error) => error,
            };
            let limit = match error {
                Error::NotReady(_) => patience.ready,
                Error::Nobody(_) => patience.there,
                _ => return Err(error),
            };
            let left = limit.saturating_sub(began.elapsed());
            if left.is_zero() {
                // A server may be of use whatever its /health says.
                return Self::find(server, patience.answer).map_err(|_| error);
            }
            if !watch(&error) {
                return Err(error);
            }
            std::thread::sleep(pause.min(left));
            pause = (pause * 2).min(PAUSE.1);
        }
    }
}
