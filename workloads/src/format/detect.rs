//! The format of a file, told by the names of its columns.

use std::collections::BTreeSet;

use super::flat::{self, Columns};
use super::known::Format;
use super::layouts;
use super::names::{Names, Slot};
use super::text::Documents;
use crate::TraceError;

/// The format of a table with these columns, or of objects with these keys.
pub(crate) fn columns(columns: &[String]) -> Format {
    let has = |name: &str| columns.iter().any(|c| c == name);
    let all = |names: &[&str]| names.iter().all(|name| has(name));
    let within = |part: &str| columns.iter().any(|c| c.contains(part));
    match () {
        () if all(&["timestamp", "context_tokens", "generated_tokens"]) => Format::Azure,
        () if all(&["timestamp", "request_tokens", "response_tokens"]) => Format::BurstGpt,
        () if all(&["arrived_at", "num_prefill_tokens", "num_decode_tokens"]) => Format::Vidur,
        () if all(&["num_prefill_tokens", "num_decode_tokens"]) && columns.len() <= 4 => {
            Format::Lengths
        }
        () if all(&["conv", "turn", "role", "tokens"]) => Format::ShareGpt,
        () if all(&["chat_id", "parent_chat_id", "turn"]) => Format::Bailian,
        () if all(&["prefix_group", "slo_class", "arrival_time_us"]) => Format::Blis,
        () if has("sub_requests") || all(&["input_toks", "output_toks", "arrival_time_ns"]) => {
            Format::LlmServingSim
        }
        () if has("input_length") && (has("output_length") || has("hash_ids")) => Format::Mooncake,
        () if has("start_time") && (has("call_type") || has("spend") || has("response_cost")) => {
            Format::LiteLlm
        }
        () if has("trace_id")
            && has("start_time")
            && (has("usage_details") || within("usage_details.") || has("type")) =>
        {
            Format::Langfuse
        }
        () if within("gen_ai.") || within("llm.") || has("span_id") => Format::Otel,
        () if within("usage.") && (has("created") || has("created_at") || within(".created")) => {
            Format::OpenAi
        }
        () => Format::Csv,
    }
}

/// The format of JSON documents, told by the keys of the first of them.
pub(crate) fn documents(documents: &mut Documents<'_>) -> Result<Format, TraceError> {
    let file = documents.file().to_owned();
    let mut top = BTreeSet::new();
    let mut names = BTreeSet::new();
    let first = documents.first()?;
    if first.is_empty() {
        return Err(TraceError::file(&file, "an empty list: there are no requests in it"));
    }
    for document in first {
        // A document that cannot be read is named when it is its turn.
        if let Ok(keys) = flat::keys(document.json) {
            top.extend(keys);
        }
        let _ = flat::rows(document.json, &mut |columns: Columns<'_>| {
            names.extend(columns.into_iter().map(|(name, _)| name));
            Ok::<(), serde_json::Error>(())
        });
    }
    if top.contains("schema") {
        return Ok(Format::Jsonl);
    }
    if top.contains("requests") || top.contains("request_arrival_delta_s") {
        return Ok(Format::Weka);
    }
    let all: Vec<String> = names.iter().chain(&top).cloned().collect();
    let format = columns(&all);
    let mut known = Names::new(layouts::of(format).names, &[]);
    let mut counts = |slot| all.iter().any(|n| known.places(n).iter().any(|p| p.slot == slot));
    if top.contains("input") && top.contains("output") && !counts(Slot::Input) {
        let problem = "its input and output are not token counts; count the tokens first (input_tokens, output_tokens)";
        return Err(TraceError::file(&file, problem));
    }
    Ok(if format == Format::Csv { Format::Json } else { format })
}
