//! Traces into files, and what is lost on the way.

use std::io::Write;

use super::kind::Part;
use super::kinds;
use super::known::Format;
use crate::{Arrival, Trace, TraceError};

/// Writes a trace in one of [`Format::written`]. See [`losses`] for what some of them leave out.
///
/// # Errors
/// If the format cannot say when requests are sent, or is one that is only read.
pub fn write(trace: &Trace, format: Format, out: &mut impl Write) -> Result<(), TraceError> {
    match &kinds::of(format).writer {
        Some(writer) => (writer.write)(trace, out),
        None => {
            let written: Vec<_> = Format::written().map(Format::name).collect();
            let problem = format!("it is only read; write {}", written.join(", "));
            Err(TraceError::Inexpressible { format: format.name(), problem })
        }
    }
}

/// The parts of `trace` that `format` has no place for and [`write()`] therefore leaves out.
#[must_use]
pub fn losses(trace: &Trace, format: Format) -> Vec<&'static str> {
    let keeps = kinds::of(format).writer.as_ref().map_or(&[][..], |writer| writer.keeps);
    let lost = |part: &Part| !keeps.contains(part) && present(*part, trace, keeps);
    PARTS.iter().filter(|(part, _)| lost(part)).map(|(_, name)| *name).collect()
}

/// Parts in words.
const PARTS: [(Part, &str); 7] = [
    (Part::Prefixes, "prefix identities"),
    (Part::Responses, "identities of responses"),
    (Part::Sessions, "sessions"),
    (Part::Classes, "request classes"),
    (Part::Limit, "the limit on concurrent sessions"),
    (Part::Fractions, "fractions of a millisecond"),
    (Part::Provenance, "provenance"),
];

/// True if `trace` has this part, in a format that keeps others.
fn present(part: Part, trace: &Trace, keeps: &[Part]) -> bool {
    let requests = &trace.requests;
    match part {
        Part::Prefixes => trace.block_tokens > 0,
        Part::Responses => {
            let reaches = |input: u32| input.div_ceil(trace.block_tokens.max(1));
            keeps.contains(&Part::Prefixes)
                && requests.iter().any(|r| r.blocks.len > reaches(r.input))
        }
        Part::Sessions => requests.iter().any(|r| r.session.is_some()),
        Part::Classes => trace.classes.len() > 1,
        Part::Limit => {
            let waits = requests.iter().any(|r| matches!(r.arrival, Arrival::After { .. }));
            waits && trace.max_concurrent_sessions.is_some()
        }
        Part::Fractions => requests.iter().any(|r| {
            let (Arrival::At(time) | Arrival::After { think: time, .. }) = r.arrival;
            time.subsec_nanos() % 1_000_000 != 0
        }),
        Part::Provenance => !trace.provenance.is_empty(),
    }
}
