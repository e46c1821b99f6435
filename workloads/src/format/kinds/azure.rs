//! Azure LLM inference traces: 2023 (local date-times of seven fractional digits), 2024 (`+00:00`) and the multimodal
//! one of 2025 (a column more, `T…Z`).

use std::io::Write;

use crate::format::date::civil;
use crate::format::kind::{Kind, Layout, Part, Reader, Writer};
use crate::{Arrival, Trace, TraceError};

pub(super) const FORMAT: Kind = Kind {
    name: "azure",
    about: "Azure's LLM inference traces of 2023, 2024 and 2025",
    tells: |seen| seen.has_all(&["timestamp", "context_tokens", "generated_tokens"]),
    reader: Reader::Table(Layout::PLAIN),
    writer: Some(Writer { write, keeps: &[Part::Fractions] }),
};

/// 2023-11-16, in days since 1970.
const FIRST_DAY: i64 = 19_677;

/// Writes the 2023 form, its clock starting on the day of the original. Times are rounded to its 100 ns.
fn write(trace: &Trace, out: &mut dyn Write) -> Result<(), TraceError> {
    writeln!(out, "TIMESTAMP,ContextTokens,GeneratedTokens")?;
    for request in &trace.requests {
        let Arrival::At(at) = request.arrival else {
            let problem = "its requests wait for earlier responses, and this format only has times; use jsonl";
            return Err(TraceError::Inexpressible {
                format: FORMAT.name,
                problem: problem.to_owned(),
            });
        };
        let ticks = (at.as_nanos() + 50) / 100;
        let (seconds, ticks) = (ticks / 10_000_000, ticks % 10_000_000);
        let (year, month, day) = civil(FIRST_DAY + (seconds / 86_400) as i64);
        let time = seconds % 86_400;
        let (hour, minute, second) = (time / 3_600, time / 60 % 60, time % 60);
        let (input, output) = (request.input, request.output);
        writeln!(
            out,
            "{year}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}.{ticks:07},{input},{output}"
        )?;
    }
    Ok(())
}
