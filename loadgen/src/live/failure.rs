//! Everything that can go wrong with a request, each under its own name.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::record::Outcome;

/// What went wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Kind {
    /// Nobody listens there.
    Refused,
    /// The host cannot be reached.
    Unreachable,
    /// The connection could not be made secure.
    Tls,
    /// No end within the time allowed.
    Timeout,
    /// Refused with this status.
    Status(u16),
    /// An answer of 200 that is no stream of events.
    NotSse,
    /// An event that is not JSON, or a response that is not HTTP.
    Malformed,
    /// The stream carried an error instead of tokens.
    ServerError,
    /// The stream ended, whole, without a token.
    Empty,
    /// The connection ended in the middle of the response, or before it.
    Cut,
    /// The run was ended by its user while this was under way.
    Cancelled,
    /// This machine has no more descriptors or ports.
    Local,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Refused => "refused",
            Self::Unreachable => "unreachable",
            Self::Tls => "tls",
            Self::Timeout => "timeout",
            Self::Status(status) => return write!(f, "status_{status}"),
            Self::NotSse => "not_sse",
            Self::Malformed => "malformed",
            Self::ServerError => "server_error",
            Self::Empty => "empty",
            Self::Cut => "cut",
            Self::Cancelled => "cancelled",
            Self::Local => "local",
        })
    }
}

impl Kind {
    /// How a request ends that this befalls.
    pub(crate) fn outcome(self) -> Outcome {
        match self {
            Self::Status(429 | 503) => Outcome::Rejected,
            Self::Cancelled => Outcome::Unfinished,
            _ => Outcome::Failed,
        }
    }

    /// What an error of the socket means.
    pub(crate) fn of(error: &std::io::Error) -> Self {
        use std::io::ErrorKind as E;
        match error.kind() {
            E::ConnectionRefused => Self::Refused,
            E::HostUnreachable | E::NetworkUnreachable | E::TimedOut => Self::Unreachable,
            E::InvalidData => Self::Tls,
            E::AddrNotAvailable | E::AddrInUse | E::OutOfMemory => Self::Local,
            // Too many open files has no kind of its own: EMFILE and ENFILE.
            _ if matches!(error.raw_os_error(), Some(23 | 24)) => Self::Local,
            _ => Self::Cut,
        }
    }
}

/// How often one kind of failure happened.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failures {
    /// Requests.
    pub count: u64,
    /// What the first of them met, on one line.
    pub cause: String,
}

/// Failures by kind.
#[derive(Debug, Clone, Default)]
pub(crate) struct Tally(BTreeMap<Kind, Failures>);

impl Tally {
    /// Counts one, and keeps the cause of the first.
    pub(crate) fn note(&mut self, kind: Kind, cause: &str) {
        let failures = self.0.entry(kind).or_default();
        failures.count += 1;
        if failures.count == 1 {
            failures.cause = one_line(cause);
        }
    }

    /// By the kinds' names.
    pub(crate) fn named(&self) -> BTreeMap<String, Failures> {
        self.0.iter().map(|(kind, failures)| (kind.to_string(), failures.clone())).collect()
    }
}

/// At most 200 characters without line breaks.
pub(crate) fn one_line(text: &str) -> String {
    let words: Vec<&str> = text.split_whitespace().collect();
    let line = words.join(" ");
    match line.char_indices().nth(200) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line,
    }
}
