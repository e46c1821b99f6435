//! Files of no known origin, CSV or JSON: columns are recognised by the names people give them.
//!
//! A unit is part of a time's name (`arrival_s`, `timestamp_us`). A bare `timestamp` could be anything, and a guess
//! would be wrong by a factor of a thousand, so it is refused until the user names the unit.

use super::TimeUnit;
use super::table::{Layout, Slot};
use crate::TraceError;

const TIMES: &[&str] = &[
    "arrival",
    "arrival_time",
    "arrived_at",
    "timestamp",
    "time",
    "request_time",
    "start_time",
    "start",
    "ts",
    "t",
    "offset",
    "sent_at",
    "created_at",
];
const UNITS: &[(&str, TimeUnit)] = &[
    ("_s", TimeUnit::Seconds),
    ("_sec", TimeUnit::Seconds),
    ("_seconds", TimeUnit::Seconds),
    ("_ms", TimeUnit::Milliseconds),
    ("_us", TimeUnit::Microseconds),
    ("_ns", TimeUnit::Nanoseconds),
];
const INPUTS: &[&str] = &[
    "input_tokens",
    "prompt_tokens",
    "input_length",
    "prompt_length",
    "input_len",
    "prompt_len",
    "context_tokens",
    "contexttokens",
    "request_tokens",
    "num_prefill_tokens",
    "num_input_tokens",
    "num_prompt_tokens",
    "prefill_tokens",
    "isl",
    "in",
];
const OUTPUTS: &[&str] = &[
    "output_tokens",
    "completion_tokens",
    "output_length",
    "completion_length",
    "output_len",
    "completion_len",
    "generated_tokens",
    "generatedtokens",
    "response_tokens",
    "num_decode_tokens",
    "num_output_tokens",
    "decode_tokens",
    "osl",
    "out",
];
const CLASSES: &[&str] = &["class", "request_class", "tenant"];
const SESSIONS: &[&str] = &["session_id", "session", "conversation_id", "conversation"];

/// The layout of a table with these columns (or JSON keys), its times in `rate`-made arrivals if it has none.
pub(crate) fn layout(
    file: &str,
    columns: &[String],
    rate: Option<f64>,
) -> Result<Layout, TraceError> {
    let first = |names: &'static [&'static str]| {
        names.iter().copied().find(|n| columns.iter().any(|c| c == n))
    };
    let lengths = |what, names: &'static [&'static str]| {
        first(names).map(str::to_owned).ok_or_else(|| {
            let has = if columns.is_empty() { "none".to_owned() } else { columns.join(", ") };
            let known = names[..4].join(", ");
            TraceError::line(
                file,
                1,
                format!("no column of {what} ({known}, …) among: {has}; rename one"),
            )
        })
    };
    let input = lengths("prompt lengths in tokens", INPUTS)?;
    let output = lengths("response lengths in tokens", OUTPUTS)?;
    let mut found = vec![(Slot::Input, input.as_str()), (Slot::Output, output.as_str())];
    let times = columns.iter().filter_map(|column| Some((column.as_str(), time(column)?)));
    // Of several, one that says its unit.
    let time = times.min_by_key(|(_, unit)| unit.is_none());
    if let Some((column, _)) = time {
        found.push((Slot::Time, column));
    } else if rate.is_none() {
        let known = "arrival_s, arrival_ms, timestamp_us, a date-time";
        let problem = format!(
            "no column of arrival times ({known}, …); rename one, or give --arrival-rate (requests per second)"
        );
        return Err(TraceError::line(file, 1, problem));
    }
    found.extend(first(CLASSES).map(|name| (Slot::Class, name)));
    found.extend(first(SESSIONS).map(|name| (Slot::Session, name)));
    Ok(Layout::new(&found, time.and_then(|(_, unit)| unit)))
}

/// Whether a column holds times, and their unit if its name says.
fn time(column: &str) -> Option<Option<TimeUnit>> {
    if TIMES.contains(&column) {
        return Some(None);
    }
    let with_unit = |&(suffix, unit): &(&str, TimeUnit)| {
        column.strip_suffix(suffix).filter(|base| TIMES.contains(base)).map(|_| Some(unit))
    };
    UNITS.iter().find_map(with_unit)
}
