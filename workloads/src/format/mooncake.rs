//! Mooncake's JSONL, which AIPerf reads and extends: milliseconds, lengths, and the prompt's hash ids of 512 tokens
//! each. A line with `session_id` and `delay` instead of `timestamp` is a turn that waits for the one before.

use std::io::Write;

use serde::Serialize;

use super::TimeUnit;
use super::table::{Layout, Slot};
use crate::{Arrival, Trace, TraceError};

/// Tokens per hash id unless a line says otherwise.
const BLOCK_TOKENS: u32 = 512;

pub(crate) fn layout() -> Layout {
    let columns = [
        (Slot::Time, "timestamp"),
        (Slot::Input, "input_length"),
        (Slot::Output, "output_length"),
        (Slot::Session, "session_id"),
        (Slot::Delay, "delay"),
        (Slot::HashIds, "hash_ids"),
        (Slot::BlockSize, "block_size"),
    ];
    Layout { block_tokens: BLOCK_TOKENS, ..Layout::new(&columns, Some(TimeUnit::Milliseconds)) }
}

#[derive(Serialize)]
struct Line<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    timestamp: Option<Milliseconds>,
    input_length: u32,
    output_length: u32,
    #[serde(skip_serializing_if = "<[u64]>::is_empty")]
    hash_ids: &'a [u64],
    #[serde(skip_serializing_if = "Option::is_none")]
    session_id: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    delay: Option<Milliseconds>,
    /// Only where it is not Mooncake's.
    #[serde(skip_serializing_if = "Option::is_none")]
    block_size: Option<u32>,
}

/// Whole milliseconds as the original has them, else with the fraction.
struct Milliseconds(std::time::Duration);

impl Serialize for Milliseconds {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.0.subsec_nanos().is_multiple_of(1_000_000) {
            serializer.serialize_u64(self.0.as_millis() as u64)
        } else {
            serializer.serialize_f64(self.0.as_nanos() as f64 / 1e6)
        }
    }
}

/// Writes prompts' block identities only: what runs on into an output is repeated by the turn that reuses it.
pub(crate) fn write(trace: &Trace, out: &mut impl Write) -> Result<(), TraceError> {
    let mut latest = std::collections::HashMap::new();
    for (index, request) in (0..).zip(&trace.requests) {
        let (timestamp, delay) = match request.arrival {
            Arrival::At(at) => (Some(Milliseconds(at)), None),
            Arrival::After { previous, think } => {
                if request.session.is_none() || latest.get(&request.session) != Some(&previous) {
                    let problem = "a request waits for one that is not the turn before it in its session; use jsonl";
                    return Err(TraceError::Inexpressible {
                        format: "mooncake",
                        problem: problem.to_owned(),
                    });
                }
                (None, Some(Milliseconds(think)))
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
            session_id: request.session,
            delay,
            block_size: (!matches!(trace.block_tokens, 0 | BLOCK_TOKENS))
                .then_some(trace.block_tokens),
        };
        serde_json::to_writer(&mut *out, &line).map_err(std::io::Error::from)?;
        out.write_all(b"\n")?;
    }
    Ok(())
}
