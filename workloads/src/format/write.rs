//! Traces into files, and what is lost on the way.

use std::io::Write;

use super::known::Format;
use super::{azure, jsonl, mooncake};
use crate::{Arrival, Trace, TraceError, TraceRequest};

/// Writes a trace as Azure CSV, Mooncake JSONL or our own JSONL. See [`losses`] for what the first two leave out.
///
/// # Errors
/// If the format cannot say when requests are sent, or is one that is only read.
pub fn write(trace: &Trace, format: Format, out: &mut impl Write) -> Result<(), TraceError> {
    match format {
        Format::Azure => azure::write(trace, out),
        Format::Mooncake => mooncake::write(trace, out),
        Format::Jsonl => jsonl::write(trace, out),
        other => Err(TraceError::Inexpressible {
            format: other.name(),
            problem: "it is only read; write azure, mooncake or jsonl".to_owned(),
        }),
    }
}

/// The parts of `trace` that `format` has no place for and [`write()`] therefore leaves out.
#[must_use]
pub fn losses(trace: &Trace, format: Format) -> Vec<&'static str> {
    let closed = trace.requests.iter().any(|r| matches!(r.arrival, Arrival::After { .. }));
    let all = [
        (trace.block_tokens > 0, "prefix identities", &[Format::Mooncake][..]),
        (
            format == Format::Mooncake && trace.requests.iter().any(|r| outlasts(trace, r)),
            "identities of responses",
            &[],
        ),
        (trace.requests.iter().any(|r| r.session.is_some()), "sessions", &[Format::Mooncake]),
        (trace.classes.len() > 1, "request classes", &[]),
        (
            closed && trace.max_concurrent_sessions.is_some(),
            "the limit on concurrent sessions",
            &[],
        ),
        (format == Format::Mooncake && mooncake::rounds(trace), "fractions of a millisecond", &[]),
        (!trace.provenance.is_empty(), "provenance", &[]),
    ];
    let lost = |&(present, _, kept): &(bool, &str, &[Format])| {
        present && format != Format::Jsonl && !kept.contains(&format)
    };
    all.iter().filter(|l| lost(l)).map(|l| l.1).collect()
}

/// True if the response itself is known, and not only its prompt.
fn outlasts(trace: &Trace, request: &TraceRequest) -> bool {
    request.blocks.len > request.input.div_ceil(trace.block_tokens.max(1))
}
