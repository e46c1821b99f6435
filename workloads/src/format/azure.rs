//! Azure LLM inference traces: 2023 (local date-times of seven fractional digits), 2024 (`+00:00`) and the multimodal
//! one of 2025 (a column more, `T…Z`).

use std::io::Write;

use super::table::{Layout, Slot};
use crate::{Arrival, Trace, TraceError};

pub(crate) fn layout() -> Layout {
    let columns = [
        (Slot::Time, "timestamp"),
        (Slot::Input, "contexttokens"),
        (Slot::Output, "generatedtokens"),
    ];
    Layout::new(&columns, None)
}

/// Writes the 2023 form, its clock starting on the day of the original. Times are rounded to its 100 ns.
pub(crate) fn write(trace: &Trace, out: &mut impl Write) -> Result<(), TraceError> {
    writeln!(out, "TIMESTAMP,ContextTokens,GeneratedTokens")?;
    for request in &trace.requests {
        let Arrival::At(at) = request.arrival else {
            let problem = "its requests wait for earlier responses, and this format only has times; use jsonl";
            return Err(TraceError::Inexpressible { format: "azure", problem: problem.to_owned() });
        };
        let ticks = (at.as_nanos() + 50) / 100;
        let (seconds, ticks) = (ticks / 10_000_000, ticks % 10_000_000);
        let (date, time) = (civil(seconds / 86_400), seconds % 86_400);
        let (hour, minute, second) = (time / 3_600, time / 60 % 60, time % 60);
        let (input, output) = (request.input, request.output);
        writeln!(out, "{date} {hour:02}:{minute:02}:{second:02}.{ticks:07},{input},{output}")?;
    }
    Ok(())
}

/// The date so many days after 2023-11-16.
fn civil(days: u128) -> String {
    let (mut year, mut month, mut day) = (2023_u128, 11_usize, 16 + days);
    loop {
        let leap =
            year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
        let length =
            [31, if leap { 29 } else { 28 }, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31][month - 1];
        if day <= length {
            return format!("{year}-{month:02}-{day:02}");
        }
        day -= length;
        (year, month) = if month == 12 { (year + 1, 1) } else { (year, month + 1) };
    }
}
