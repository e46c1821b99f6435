//! AIPerf's `profile_export.jsonl`: an object for every request, with `metadata`, `metrics` and `error`. Every metric
//! has its value and its unit beside it. Requests of the warm-up are a run of their own.

use std::collections::BTreeMap;

use super::cells::{Cell, Field, Object};
use serde_json::Value;

/// The error for a file that has statistics alone.
pub(super) const SUMMARY: &str = "this is AIPerf's summary, which has no single requests: give the file that is \
     written beside it, profile_export.jsonl";

/// True where this is AIPerf's summary of a run.
pub(super) fn is_summary(object: &Object) -> bool {
    let metric = |key: &str| object.get(key).is_some_and(|m| m.get("avg").is_some());
    metric("request_latency") || metric("request_throughput")
}

/// The meaning of metrics. If several mean the same, the first that is there counts: the server's
/// own count of tokens before the client's.
const METRICS: [(Field, &[&str]); 4] = [
    (Field::Ttft, &["time_to_first_token"]),
    (Field::E2e, &["request_latency"]),
    (Field::Input, &["usage_prompt_tokens", "input_sequence_length", "error_isl"]),
    (Field::Output, &["usage_completion_tokens", "output_sequence_length"]),
];

/// The cells of a request; none where this is no record of AIPerf.
pub(super) fn record(object: &Object) -> Option<Result<BTreeMap<Field, Cell>, String>> {
    let part = |key: &str| object.get(key).and_then(Value::as_object);
    let metadata = part("metadata").filter(|m| m.contains_key("request_start_ns"))?;
    Some(cells(metadata, part("metrics"), object.get("error")))
}

fn cells(
    metadata: &Object,
    metrics: Option<&Object>,
    error: Option<&Value>,
) -> Result<BTreeMap<Field, Cell>, String> {
    let mut cells = BTreeMap::new();
    let told = |key: &str| Cell::json(key, metadata.get(key)?);
    cells.extend(told("request_start_ns").map(|cell| (Field::Arrival, cell)));
    for (field, names) in METRICS {
        if let Some((name, metric)) = names.iter().find_map(|n| Some((*n, metrics?.get(*n)?))) {
            cells.extend(metric_cell(name, metric)?.map(|cell| (field, cell)));
        }
    }
    let phase = told("benchmark_phase").filter(|phase| phase.text != "profiling");
    cells.extend(phase.map(|phase| (Field::Run, phase)));
    // The same turn of the same conversation is the same prompt, sent again.
    if let (Some(conversation), Some(turn)) = (told("conversation_id"), told("turn_index")) {
        let prompt = format!("{} {}", conversation.text, turn.text);
        cells.insert(Field::Prompt, Cell::new("conversation_id", prompt, 1.0));
    }
    let cancelled = metadata.get("was_cancelled").and_then(Value::as_bool) == Some(true);
    if let Some(error) = error.filter(|e| !e.is_null()) {
        cells.insert(Field::Error, Cell::new("error", cause(error), 1.0));
    } else if cancelled {
        cells.insert(Field::Error, Cell::new("was_cancelled", "cancelled", 1.0));
    }
    Ok(cells)
}

/// A value in its unit.
fn metric_cell(name: &str, metric: &Value) -> Result<Option<Cell>, String> {
    let unit = match metric.get("unit").and_then(Value::as_str) {
        Some("ns") => 1e-9,
        Some("us") => 1e-6,
        Some("ms") => 1e-3,
        Some("sec" | "s" | "tokens" | "token") => 1.0,
        other => {
            let unit = other.unwrap_or("none");
            return Err(format!(
                "{name} is in an unknown unit ({unit}): expected ns, us, ms, sec or tokens"
            ));
        }
    };
    let value = metric.get("value").ok_or_else(|| format!("{name} has no value"))?;
    Ok(Cell::json(name, value).map(|cell| Cell { unit, ..cell }))
}

/// An error as type, code and message, whatever there is.
fn cause(error: &Value) -> String {
    let text = |key: &str| match error.get(key)? {
        Value::Null => None,
        Value::String(text) => Some(text.clone()),
        other => Some(other.to_string()),
    };
    let parts: Vec<String> = ["type", "code", "message"].into_iter().filter_map(text).collect();
    match (parts.is_empty(), error.as_str()) {
        (false, _) => parts.join(" "),
        (true, Some(text)) if !text.trim().is_empty() => text.to_owned(),
        (true, _) => "failed".to_owned(),
    }
}
