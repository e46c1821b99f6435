//! The limits that a server sets its clients.

use std::time::Duration;

use super::admit::Refusal;

/// Most completions of one request.
pub(super) const MOST_BRANCHES: u16 = 128;
/// Most stop strings, and most stop tokens: all are looked for at every token.
pub(super) const MOST_STOPS: usize = 16;

/// The times that clients may take.
#[derive(Debug, Clone, Copy)]
pub(super) struct Times {
    /// For a request's headers, or with a connection that is not used.
    pub(super) head: Duration,
    /// For a body.
    pub(super) body: Duration,
    /// From one part of it to the next.
    pub(super) pause: Duration,
    /// To read anything of what there is for them.
    pub(super) write: Duration,
}

impl Times {
    pub(super) const USUAL: Self = Self {
        head: Duration::from_secs(30),
        body: Duration::from_secs(60),
        pause: Duration::from_secs(10),
        write: Duration::from_secs(30),
    };
}

/// Refuses a member's value outside of its range.
pub(super) fn within(name: &'static str, value: u32, from: u32, to: u32) -> Result<(), Refusal> {
    if (from..=to).contains(&value) {
        return Ok(());
    }
    Err(Refusal::field(name, format!("{name} = {value} must be between {from} and {to}")))
}
