//! The counters of a run that is going on: the bytes and times of each request on the wire, and the
//! work of the loop.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::histogram::Histogram;
use crate::time::seconds;

/// The wire's account of a request.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wire {
    /// When its first byte was handed to the socket; none when it never was.
    #[serde(rename = "sent_s", with = "seconds::option")]
    pub sent: Option<Duration>,
    /// True where it waited because as many as allowed were under way, or no connection could be had.
    pub held_back: bool,
    /// Events that stood for tokens.
    pub chunks: u32,
    /// Of these, those that came in one read with the event before: their gap is not the server's.
    pub coalesced: u32,
    /// Of these, those that hold several words: more than a token each.
    #[serde(default)]
    pub several: u32,
    /// True where the server says that the answer is as long as was asked for.
    #[serde(default)]
    pub full: bool,
    /// Prompt tokens by the server's count.
    pub prompt_tokens: Option<u32>,
    /// Generated tokens by the server's count.
    pub completion_tokens: Option<u32>,
    /// The same by a tokenizer, where there is one and the server did not count.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokenized: Option<u32>,
}

impl Wire {
    /// Generated tokens, by the server's count or the tokenizer's.
    pub(super) fn output(&self) -> Option<u32> {
        self.completion_tokens.or(self.tokenized)
    }
}

/// The loop's measurements of itself.
#[derive(Default)]
pub(super) struct Meter {
    /// The time from the arrival of bytes to their read, for each read. It is an upper bound if the
    /// arrival is not known.
    pub(super) lag: Histogram,
    /// The largest possible distance of each read's stamp from its arrival.
    pub(super) stamp_error: Histogram,
    pub(super) cpu: Duration,
    pub(super) wall: Duration,
    /// Requests in flight, integrated over time, until the last send.
    pub(super) held_ns: u128,
    pub(super) until_ns: u64,
    pub(super) peak: usize,
    /// Requests sent again because an idle connection was closed under them.
    pub(super) resent: u64,
    pub(super) connections: u64,
    /// Turns that repeated an earlier answer, and those that could not.
    pub(super) answers: (u64, u64),
    /// Tokens in time, and tokens expected, of the fluidity index.
    pub(super) fluid: (u64, u64),
}
