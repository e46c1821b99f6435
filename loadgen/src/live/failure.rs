//! Everything that can go wrong with a request, each under its own name.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::record::Outcome;

/// The kinds of failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Kind {
    /// No server listens there.
    Refused,
    /// The host cannot be reached.
    Unreachable,
    /// A proxy, or a rule of this machine, does not allow the connection.
    Denied,
    /// The connection could not be made secure.
    Tls,
    /// No end within the time allowed.
    Timeout,
    /// Refused with this status.
    Status(u16),
    /// A success that is no stream of events.
    NotSse,
    /// An event that is not JSON, or a response that is not HTTP.
    Malformed,
    /// The stream carried an error instead of tokens.
    ServerError,
    /// The stream ended, whole, without a token.
    Empty,
    /// The connection ended in the middle of the response, or before it.
    Cut,
    /// The same by a reset: most often the server, or what stands before it, has more connections than it takes.
    Reset,
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
            Self::Denied => "denied",
            Self::Tls => "tls",
            Self::Timeout => "timeout",
            Self::Status(status) => return write!(f, "status_{status}"),
            Self::NotSse => "not_sse",
            Self::Malformed => "malformed",
            Self::ServerError => "server_error",
            Self::Empty => "empty",
            Self::Cut => "cut",
            Self::Reset => "reset",
            Self::Cancelled => "cancelled",
            Self::Local => "local",
        })
    }
}

impl Kind {
    /// The outcome of a request with this failure.
    pub(crate) fn outcome(self) -> Outcome {
        match self {
            Self::Status(status) if is_busy(status) => Outcome::Rejected,
            Self::Cancelled => Outcome::Unfinished,
            _ => Outcome::Failed,
        }
    }

    /// The kind of a socket's error.
    pub(crate) fn of(error: &std::io::Error) -> Self {
        use std::io::ErrorKind as E;
        match error.kind() {
            E::ConnectionRefused => Self::Refused,
            E::HostUnreachable | E::NetworkUnreachable | E::TimedOut => Self::Unreachable,
            E::PermissionDenied => Self::Denied,
            E::ConnectionReset | E::ConnectionAborted | E::BrokenPipe => Self::Reset,
            E::InvalidData => Self::Tls,
            E::AddrNotAvailable | E::AddrInUse | E::OutOfMemory => Self::Local,
            // Too many open files has no kind of its own: EMFILE and ENFILE.
            _ if matches!(error.raw_os_error(), Some(23 | 24)) => Self::Local,
            _ => Self::Cut,
        }
    }
}

/// True where a status says that the server, or the one behind it, does not take more requests now.
pub(crate) fn is_busy(status: u16) -> bool {
    matches!(status, 425 | 429 | 502 | 503 | 504 | 529)
}

/// The number of failures of one kind, and the details of the first.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Failures {
    /// Requests.
    pub count: u64,
    /// The cause of the first of them, on one line.
    pub cause: String,
    /// The longest that any of them was told to wait (`Retry-After`), s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after_s: Option<f64>,
}

impl Failures {
    /// These failures, whose kind is `kind`, in words: `9 of 31 refused with 429 (too many
    /// requests)`.
    pub(crate) fn words(&self, kind: &str, of: usize) -> String {
        let what = match kind {
            "timeout" => "not answered in time".to_owned(),
            "reset" => "refused by a reset of the connection".to_owned(),
            "refused" => "refused: nobody listens".to_owned(),
            _ => match kind.strip_prefix("status_") {
                Some(status) if is_refusal(kind) => format!("refused with {status}"),
                Some(status) => format!("failed with {status}"),
                None => format!("failed ({kind})"),
            },
        };
        let cause =
            if self.cause.is_empty() { String::new() } else { format!(" ({})", self.cause) };
        format!("{} of {of} {what}{cause}", self.count)
    }
}

/// True where failures called so are refusals: the server, or what stands before it, takes no more for now.
pub(crate) fn is_refusal(kind: &str) -> bool {
    let status = kind.strip_prefix("status_").and_then(|status| status.parse().ok());
    matches!(kind, "reset" | "refused") || status.is_some_and(is_busy)
}

#[derive(Debug, Clone, Default)]
pub(crate) struct Tally(BTreeMap<Kind, Failures>);

impl Tally {
    /// Counts one, and keeps the cause of the first.
    pub(crate) fn note(&mut self, kind: Kind, cause: &str, retry_after: Option<Duration>) {
        let failures = self.0.entry(kind).or_default();
        failures.count += 1;
        if let Some(wait) = retry_after.map(|t| t.as_secs_f64()) {
            failures.retry_after_s = Some(failures.retry_after_s.map_or(wait, |w| w.max(wait)));
        }
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
