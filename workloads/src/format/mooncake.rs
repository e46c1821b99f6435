//! Mooncake's JSONL, which AIPerf reads and extends: milliseconds, lengths, and the prompt's hash ids of 512 tokens
//! each. A line with `session_id` and `delay` instead of `timestamp` is a turn that waits for the one before.
//!
//! GuideLLM writes seconds under the same three names. Only hash ids of 512 tokens with whole times, or AIPerf's own
//! keys, tell that a file is in milliseconds.

use std::io::Write;
use std::time::Duration;

use serde::Serialize;

use super::clock::Unit;
use super::layout::Layout;
use super::names::Slot;
use super::time::TimeUnit;
use crate::{Arrival, Trace, TraceError};

/// Tokens per hash id unless a line says otherwise.
pub(crate) const BLOCK_TOKENS: u32 = 512;

pub(crate) const LAYOUT: Layout = Layout {
    names: &[(Slot::Delay, "delay")],
    unit: Unit::Disputed,
    block_tokens: BLOCK_TOKENS,
    turns: true,
    ..Layout::PLAIN
};

/// GuideLLM's `trace_synthetic` and `mooncake`.
pub(crate) const GUIDELLM: Layout =
    Layout { unit: Unit::Known(TimeUnit::Seconds), block_tokens: BLOCK_TOKENS, ..Layout::PLAIN };

#[derive(Serialize)]
struct Line<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    timestamp: Option<u64>,
    input_length: u32,
    output_length: u32,
    #[serde(skip_serializing_if = "<[u64]>::is_empty")]
    hash_ids: &'a [u64],
    #[serde(skip_serializing_if = "Option::is_none")]
    session_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    delay: Option<u64>,
    /// Only where it is not Mooncake's.
    #[serde(skip_serializing_if = "Option::is_none")]
    block_size: Option<u32>,
}

/// Whole milliseconds, to the nearest, as the original has them.
fn milliseconds(time: Duration) -> u64 {
    ((time.as_nanos() + 500_000) / 1_000_000) as u64
}

/// True if a time of `trace` is between two milliseconds.
pub(crate) fn rounds(trace: &Trace) -> bool {
    trace.requests.iter().any(|r| {
        let (Arrival::At(time) | Arrival::After { think: time, .. }) = r.arrival;
        time.subsec_nanos() % 1_000_000 != 0
    })
}

/// Writes prompts' block identities only: what runs on into an output is repeated by the turn that reuses it.
pub(crate) fn write(trace: &Trace, out: &mut impl Write) -> Result<(), TraceError> {
    let mut latest = std::collections::HashMap::new();
    for (index, request) in (0..).zip(&trace.requests) {
        let (timestamp, delay) = match request.arrival {
            Arrival::At(at) => (Some(milliseconds(at)), None),
            Arrival::After { previous, think } => {
                if request.session.is_none() || latest.get(&request.session) != Some(&previous) {
                    let problem = "a request waits for one that is not the turn before it in its session; use jsonl";
                    return Err(TraceError::Inexpressible {
                        format: "mooncake",
                        problem: problem.to_owned(),
                    });
                }
                (None, Some(milliseconds(think)))
            }
        };
        latest.insert(request.session, index);
        let ids = trace.blocks_of(request);
        let prompt = request.input.div_ceil(trace.block_tokens.max(1)) as usize;
        let line = Line {
            timestamp,
            input_length: request.input,
            output_length: request.output,
            hash_ids: &ids[..prompt.min(ids.len())],
            session_id: request.session.map(|session| session.to_string()),
            delay,
            block_size: (!matches!(trace.block_tokens, 0 | BLOCK_TOKENS))
                .then_some(trace.block_tokens),
        };
        serde_json::to_writer(&mut *out, &line).map_err(std::io::Error::from)?;
        out.write_all(b"\n")?;
    }
    Ok(())
}
