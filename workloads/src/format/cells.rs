//! The cells of a row that count, and what the words in them mean.

use super::names::{Place, SLOTS, Slot};
use super::time::TimeUnit;

/// A cell that counts, and the name of its column.
#[derive(Clone, Copy)]
pub(crate) struct Cell<'a> {
    rank: u16,
    pub name: &'a str,
    pub unit: Option<TimeUnit>,
    pub text: &'a str,
}

/// Cells of one row by [`Slot`].
#[derive(Default)]
pub(crate) struct Cells<'a>([Option<Cell<'a>>; SLOTS]);

impl<'a> Cells<'a> {
    pub(crate) fn add(&mut self, places: &[Place], name: &'a str, text: &'a str) {
        let text = text.trim();
        for place in places.iter().filter(|_| !text.is_empty()) {
            let held = &mut self.0[place.slot as usize];
            if held.is_none_or(|held| place.rank < held.rank) {
                *held = Some(Cell { rank: place.rank, name, unit: place.unit, text });
            }
        }
    }

    pub(crate) fn get(&self, slot: Slot) -> Option<Cell<'a>> {
        self.0[slot as usize]
    }

    pub(crate) fn text(&self, slot: Slot) -> Option<&'a str> {
        self.get(slot).map(|cell| cell.text)
    }
}

/// Longest prompt or response believed; beyond it the column is not one of token counts.
const MOST_TOKENS: u32 = 100_000_000;

/// A whole number of tokens, `500` or `500.0`.
pub(crate) fn tokens(text: &str) -> Result<u32, String> {
    let text = text.trim();
    let whole = text.strip_suffix(".0").unwrap_or(text);
    match whole.parse::<u32>() {
        Ok(n) if n <= MOST_TOKENS => Ok(n),
        _ => Err(format!(
            "{text:?} is not a number of tokens between 0 and {MOST_TOKENS}; correct or delete the line"
        )),
    }
}

/// True if a prompt under this name is counted without what the cache held, as Anthropic and Langfuse do.
pub(crate) fn counts_cache_apart(name: &str) -> bool {
    let name = name.replace('.', "_");
    !name.contains("gen_ai")
        && (name.ends_with("usage_details_input") || name.ends_with("input_tokens"))
}

/// True of the status of a request that failed.
pub(crate) fn is_failure(status: &str) -> bool {
    const WORDS: [&str; 11] = [
        "failure",
        "failed",
        "error",
        "timeout",
        "rejected",
        "unfinished",
        "cancelled",
        "aborted",
        "status_code_error",
        "true",
        "2",
    ];
    WORDS.iter().any(|word| status.eq_ignore_ascii_case(word))
}

/// Calls and spans that make no tokens one by one, or hold the requests that do.
pub(crate) fn is_other_call(kind: &str) -> bool {
    const PARTS: [&str; 16] = [
        "embed",
        "image",
        "speech",
        "transcri",
        "moderation",
        "rerank",
        "agent",
        "tool",
        "workflow",
        "span",
        "event",
        "chain",
        "retriev",
        "evaluator",
        "guardrail",
        "search",
    ];
    let kind = kind.to_ascii_lowercase();
    PARTS.iter().any(|part| kind.contains(part))
}
