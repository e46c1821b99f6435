//! The server's own log of every request: the truth to hold a client's figures against.
//!
//! All times are of the system's monotonic clock, the one the client uses, so that on one machine the two can be
//! subtracted.

use std::io::{self, Write};

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// One request's truth. Instants in ns of the system's monotonic clock.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Truth {
    /// Order of arrival, from 0.
    pub request: u64,
    /// The client's own name for it (`X-Request-Id`), where it gave one.
    pub id: Option<String>,
    /// When its last byte arrived; where the system does not stamp that, when it was read.
    pub arrived_ns: u64,
    /// When it got a slot; none when it never did.
    pub started_ns: Option<u64>,
    /// Just before its first token was handed to the socket.
    pub first_ns: Option<u64>,
    /// Tokens by the write they left in: (ns after the first token, tokens).
    pub writes: Vec<(u64, u32)>,
    /// When it was over.
    pub end_ns: u64,
    /// Prompt tokens counted.
    pub prompt_tokens: u32,
    /// `complete`, a fault's name, `gone` (the client left) or a status.
    pub outcome: String,
    /// The prompt or the messages as they came, where these are logged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt: Option<Value>,
    /// The answer that was given, or would have been: token ids if the request asked for them, else
    /// text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answer: Option<Value>,
}

impl Truth {
    /// Tokens handed to the socket.
    #[must_use]
    pub fn output_tokens(&self) -> u64 {
        self.writes.iter().map(|w| u64::from(w.1)).sum()
    }

    /// When its last token was handed to the socket.
    #[must_use]
    pub fn last_ns(&self) -> Option<u64> {
        Some(self.first_ns? + self.writes.last()?.0)
    }
}

/// The destination of the truths.
pub(super) struct Log {
    to: Option<Box<dyn Write + Send>>,
    failed: Option<io::Error>,
}

impl Log {
    pub(super) fn new(to: Option<Box<dyn Write + Send>>) -> Self {
        Self { to, failed: None }
    }

    /// True if there is a destination.
    pub(super) fn is_kept(&self) -> bool {
        self.to.is_some()
    }

    pub(super) fn push(&mut self, truth: &Truth) {
        let Some(to) = &mut self.to else { return };
        let line = serde_json::to_writer(&mut *to, truth).map_err(io::Error::from);
        if let Err(e) = line.and_then(|()| to.write_all(b"\n")) {
            (self.failed, self.to) = (Some(e), None);
        }
    }

    pub(super) fn flush(&mut self) {
        if let Some(Err(e)) = self.to.as_mut().map(|to| to.flush()) {
            (self.failed, self.to) = (Some(e), None);
        }
    }

    /// Writes the rest of the log. Returns the first error in writing it, if there was one.
    pub(super) fn close(mut self) -> io::Result<()> {
        self.flush();
        self.failed.map_or(Ok(()), Err)
    }
}
