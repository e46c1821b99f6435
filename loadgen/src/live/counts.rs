//! The test that the tokens of a run can be counted and timed. Tokens that came in one piece have
//! no pace, and counts that contradict each other are worth nothing.

use std::time::Duration;

use super::meter::Wire;
use crate::record::Record;

/// A stream of fewer events may well come at once.
const FEWEST: u32 = 4;
/// No model generates the tokens of one stream as fast as this from one to the next.
const AT_ONCE: Duration = Duration::from_micros(100);
/// A share of the requests from which a doubt matters: one in so many.
const MATERIAL: u64 = 20;

/// The number of completed requests, and how many of them are doubtful, by cause.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Doubtful {
    completed: u64,
    /// All their tokens came together.
    at_once: u64,
    /// Their tokens are not counted, and an event holds several.
    lumped: u64,
    /// By the server's count fewer tokens than came.
    fewer: u64,
    /// More tokens than were asked for.
    excessive: u64,
}

impl Doubtful {
    /// Of `records` with what the wire showed of them; `asked` says how many tokens each was to have.
    pub(super) fn of(records: &[Record], wires: &[Wire], asked: impl Fn(&Record) -> u32) -> Self {
        let mut all = Self::default();
        for (record, wire) in records.iter().zip(wires).filter(|(r, _)| r.completed()) {
            let (chunks, asked) = (wire.chunks, asked(record).max(1));
            let lasted =
                record.last_token.zip(record.first_token).map(|(l, f)| l.saturating_sub(f));
            let pace = lasted.map(|time| time / chunks.saturating_sub(1).max(1));
            // A token may be split over two events now and then, and the last one may be no text.
            let at_most = |n: u32| u64::from(n) + u64::from(n) / 50 + 2;
            all.completed += 1;
            all.at_once += u64::from(chunks >= FEWEST && pace.is_some_and(|pace| pace < AT_ONCE));
            match wire.output() {
                Some(tokens) => {
                    all.fewer += u64::from(u64::from(chunks) > at_most(tokens));
                    all.excessive += u64::from(u64::from(tokens) > at_most(asked));
                }
                None => {
                    let short = wire.full && u64::from(chunks) * 10 < u64::from(asked) * 9;
                    all.lumped += u64::from(short || wire.several * 2 > chunks);
                    all.excessive += u64::from(u64::from(chunks) > at_most(asked));
                }
            }
        }
        all
    }

    /// The doubts, each with what to do about it.
    pub(super) fn reasons(&self) -> Vec<String> {
        let of = self.completed;
        [
            (
                self.at_once,
                "came in one piece, all tokens together: something between here and the server (a proxy that buffers or packs) held them back, so that TTFT is E2E and TPOT is not the server's; measure without it",
            ),
            (
                self.lumped,
                "brought several tokens in an event and no count of them: their number is not known; have the server send usage (stream_options), or give --tokenizer",
            ),
            (
                self.fewer,
                "have fewer tokens by the server's count (usage) than came: one of the two is wrong, so figures per token are not to be trusted; give --tokenizer or fix the server",
            ),
            (
                self.excessive,
                "have more tokens than were asked for: the server does not honour the length, or counts something else, so figures per token are not to be trusted",
            ),
        ]
        .into_iter()
        .filter(|(n, _)| n * MATERIAL > of)
        .map(|(n, what)| format!("{n} of {of} answers {what}"))
        .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 20 alike: events, gap between them in µs, the count by the server, 8 tokens asked for.
    fn doubts(wire: Wire, gap_us: u64, asked: u32) -> Vec<String> {
        let first = Duration::from_millis(200);
        let last = first + Duration::from_micros(gap_us) * wire.chunks.saturating_sub(1);
        let output = wire.output().unwrap_or(wire.chunks);
        let record = Record::due(0, Duration::ZERO, 1).answered(first, last, output);
        Doubtful::of(&vec![record; 20], &vec![wire; 20], |_| asked).reasons()
    }

    #[test]
    fn doubtful_counts_are_told_from_good_ones() {
        let wire = Wire { chunks: 8, completion_tokens: Some(8), ..Wire::default() };
        let uncounted = Wire { completion_tokens: None, ..wire };
        for (what, wire, gap_us, asked, doubt) in [
            ("as it should be", wire, 5_000, 8, ""),
            ("a fast model", wire, 300, 8, ""),
            ("a proxy that buffers", wire, 0, 8, "one piece"),
            ("the same, read in pieces", wire, 20, 8, "one piece"),
            ("few tokens", Wire { chunks: 3, completion_tokens: Some(3), ..wire }, 0, 3, ""),
            ("several tokens an event", Wire { chunks: 3, ..wire }, 5_000, 8, ""),
            ("an end that is not shown", Wire { chunks: 7, ..wire }, 5_000, 8, ""),
            ("a token in two events", Wire { chunks: 9, ..wire }, 5_000, 8, ""),
            ("half of them", Wire { completion_tokens: Some(4), ..wire }, 5_000, 8, "fewer tokens"),
            ("none of them", Wire { completion_tokens: Some(0), ..wire }, 5_000, 8, "fewer tokens"),
            (
                "those of the prompt too",
                Wire { completion_tokens: Some(40), ..wire },
                5_000,
                8,
                "more tokens",
            ),
            ("the end is counted", Wire { completion_tokens: Some(9), ..wire }, 5_000, 8, ""),
            (
                "a count that is none",
                Wire { completion_tokens: Some(u32::MAX), ..wire },
                5_000,
                8,
                "more tokens",
            ),
            ("no count", uncounted, 5_000, 8, ""),
            ("no count, one more", uncounted, 5_000, 7, ""),
            ("no count, ended early", Wire { chunks: 3, ..uncounted }, 5_000, 8, ""),
            (
                "no count, two an event",
                Wire { chunks: 4, full: true, ..uncounted },
                5_000,
                8,
                "several tokens",
            ),
            (
                "no count, words an event",
                Wire { several: 8, ..uncounted },
                5_000,
                16,
                "several tokens",
            ),
            ("no count, no limit", uncounted, 5_000, 4, "more tokens"),
            (
                "by a tokenizer",
                Wire { tokenized: Some(8), full: true, chunks: 4, ..uncounted },
                5_000,
                8,
                "",
            ),
        ] {
            let found = doubts(wire, gap_us, asked);
            match doubt {
                "" => assert!(found.is_empty(), "{what}: {found:?}"),
                doubt => assert!(found.len() == 1 && found[0].contains(doubt), "{what}: {found:?}"),
            }
        }
        assert!(Doubtful::default().reasons().is_empty());
    }
}
