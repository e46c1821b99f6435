//! Mooncake's JSONL, which AIPerf reads and extends: milliseconds, lengths, and the prompt's hash ids of 512 tokens
//! each. A line with `session_id` and `delay` instead of `timestamp` is a turn that waits for the one before.
//!
//! GuideLLM writes seconds under the same three names. Only hash ids of 512 tokens with whole times, or AIPerf's own
//! keys, tell that a file is in milliseconds.

use std::io::Write;
use std::time::Duration;

use serde::Serialize;

use crate::format::clock::Unit;
use crate::format::identities::MOONCAKE_BLOCK;
use crate::format::kind::{Kind, Layout, Part, Reader, Writer};
use crate::format::names::Slot;
use crate::format::time::TimeUnit;
use crate::{Arrival, Trace, TraceError};

pub(super) const FORMAT: Kind = Kind {
    name: "mooncake",
    about: "Mooncake and AIPerf, times in milliseconds",
    tells: |seen| seen.has("input_length") && (seen.has("output_length") || seen.has("hash_ids")),
    reader: Reader::Table(Layout {
        names: &[(Slot::Delay, "delay")],
        unit: Unit::Disputed,
        block_tokens: MOONCAKE_BLOCK,
        turns: true,
        ..Layout::PLAIN
    }),
    writer: Some(Writer { write, keeps: &[Part::Prefixes, Part::Sessions] }),
};

/// GuideLLM's `trace_synthetic` and `mooncake`.
pub(super) const GUIDELLM: Kind = Kind {
    name: "guidellm",
    about: "GuideLLM: Mooncake's columns, times in seconds",
    // Its files look like Mooncake's.
    tells: |_| false,
    reader: Reader::Table(Layout {
        unit: Unit::Known(TimeUnit::Seconds),
        block_tokens: MOONCAKE_BLOCK,
        ..Layout::PLAIN
    }),
    writer: None,
};

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

/// Writes prompts' block identities only: what runs on into an output is repeated by the turn that reuses it.
fn write(trace: &Trace, out: &mut dyn Write) -> Result<(), TraceError> {
    let mut latest = std::collections::HashMap::new();
    for (index, request) in (0..).zip(&trace.requests) {
        let (timestamp, delay) = match request.arrival {
            Arrival::At(at) => (Some(milliseconds(at)), None),
            Arrival::After { previous, think } => {
                if request.session.is_none() || latest.get(&request.session) != Some(&previous) {
                    let problem = "a request waits for one that is not the turn before it in its session; use jsonl";
                    return Err(TraceError::Inexpressible {
                        format: FORMAT.name,
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
            block_size: (!matches!(trace.block_tokens, 0 | MOONCAKE_BLOCK))
                .then_some(trace.block_tokens),
        };
        serde_json::to_writer(&mut *out, &line).map_err(std::io::Error::from)?;
        out.write_all(b"\n")?;
    }
    Ok(())
}
