//! A measurement as AIPerf's `profile_export_aiperf.json` (schema 1.4) and `profile_export.jsonl`: what its own scripts
//! and plots read.
//!
//! Its words are its own: *inter-token latency* is what is TPOT here, a request's mean gap; *inter-chunk latency* is
//! every gap. Latencies count from the send there, so they do here, and percentiles interpolate linearly. Its settings
//! (`input_config`) are left out: they are flags that this run was not made with.

use std::time::{Duration, SystemTime};

use serde_json::{Map, Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::{Series, linear};
use crate::live::LiveRun;
use crate::record::Record;
use crate::summary::Summary;

/// Version of the file's form.
const SCHEMA: &str = "1.4";
/// Percentiles of every distribution.
const PERCENTILES: [u32; 9] = [1, 5, 10, 25, 50, 75, 90, 95, 99];

/// The file. Gaps between tokens need to have been kept. `began` is when the run did; `command` is what was typed.
#[must_use]
pub fn aiperf(run: &LiveRun, summary: &Summary, began: SystemTime, command: &str) -> Value {
    let mut file = Map::new();
    let figures = distributions(run).into_iter().chain(totals(run, summary));
    file.extend(figures.filter_map(|(name, value)| Some((name.to_owned(), value?))));
    file.insert("schema_version".to_owned(), json!(SCHEMA));
    file.insert("run_info".to_owned(), json!({ "cli_command": command }));
    file.insert("was_cancelled".to_owned(), json!(run.interrupted));
    file.insert("error_summary".to_owned(), errors(run));
    for (name, at) in [("start_time", began), ("end_time", began + length(run))] {
        if let Ok(text) = OffsetDateTime::from(at).format(&Rfc3339) {
            file.insert(name.to_owned(), json!(text));
        }
    }
    Value::Object(file)
}

/// A line for every request, as AIPerf's `profile_export.jsonl` has them. `began` is when the run did.
#[must_use]
pub fn aiperf_records(run: &LiveRun, began: SystemTime) -> String {
    let began = began.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let mut lines = String::new();
    for (record, number) in run.from_send.records.iter().zip(0u32..) {
        let at = |time: Duration| (began + time).as_nanos() as u64;
        let end = record.last_token.or(record.first_token).unwrap_or(record.scheduled);
        let metric = |unit: &str, value: f64| json!({ "value": value, "unit": unit });
        let mut metrics = Map::new();
        metrics
            .insert("input_sequence_length".to_owned(), metric("tokens", f64::from(record.input)));
        if record.completed() {
            for (name, unit, value) in [
                ("output_sequence_length", "tokens", Some(f64::from(record.output))),
                ("time_to_first_token", "ms", ms(record.ttft())),
                ("request_latency", "ms", ms(record.e2e())),
                ("inter_token_latency", "ms", ms(tpot(run, record))),
            ] {
                metrics.extend(value.map(|value| (name.to_owned(), metric(unit, value))));
            }
        }
        let outcome = record.outcome.name();
        let error = (!record.completed()).then(|| json!({ "type": outcome, "message": outcome }));
        let line = json!({
            "metadata": {
                "session_num": number,
                "request_start_ns": at(record.scheduled),
                "request_end_ns": at(end),
                "worker_id": "knee",
                "record_processor_id": "knee",
                "benchmark_phase": "profiling",
                "was_cancelled": false,
            },
            "metrics": metrics,
            "error": error,
        });
        lines += &format!("{line}\n");
    }
    lines
}

/// A metric by its name there; none where nothing has it.
type Figure = (&'static str, Option<Value>);

/// The figures that each request has of its own.
fn distributions(run: &LiveRun) -> Vec<Figure> {
    let completed = || run.from_send.records.iter().filter(|r| r.completed());
    let of = |value: fn(&Record) -> Option<f64>| completed().filter_map(value).collect();
    let gaps = || {
        let kept = run.gaps.iter().zip(&run.from_send.records).filter(|_| !run.audit.paceless);
        kept.filter(|(_, r)| r.completed()).map(|(gaps, _)| gaps)
    };
    let tpots: Vec<Duration> = completed().filter_map(|r| tpot(run, r)).collect();
    let per_user = tpots.iter().filter(|t| !t.is_zero()).map(|t| 1.0 / t.as_secs_f64()).collect();
    let tpots = tpots.into_iter().filter_map(|t| ms(Some(t))).collect();
    let second = gaps().filter_map(|g| Some(*g.first()? as f64 / 1e6)).collect();
    let every = gaps().flatten().map(|ns| *ns as f64 / 1e6).collect();
    vec![
        ("time_to_first_token", distribution("ms", of(|r| ms(r.ttft())))),
        ("time_to_second_token", distribution("ms", second)),
        ("request_latency", distribution("ms", of(|r| ms(r.e2e())))),
        ("inter_token_latency", distribution("ms", tpots)),
        ("inter_chunk_latency", distribution("ms", every)),
        ("output_token_throughput_per_user", distribution("tokens/sec/user", per_user)),
        ("output_sequence_length", distribution("tokens", of(|r| Some(f64::from(r.output))))),
        ("input_sequence_length", distribution("tokens", of(|r| Some(f64::from(r.input))))),
    ]
}

/// The figures that all requests have together.
fn totals(run: &LiveRun, summary: &Summary) -> Vec<Figure> {
    let seconds = length(run).as_secs_f64();
    let rate = |count: u64| if seconds > 0.0 { count as f64 / seconds } else { 0.0 };
    let one = |name, unit, value: f64| (name, Some(json!({"unit": unit, "avg": value})));
    let (input, output) = (summary.input_tokens, summary.output_tokens);
    let mut totals = vec![
        one("request_count", "requests", summary.completed as f64),
        one("request_throughput", "requests/sec", rate(summary.completed)),
        one("output_token_throughput", "tokens/sec", rate(output)),
        one("total_token_throughput", "tokens/sec", rate(input + output)),
        one("total_isl", "tokens", input as f64),
        one("total_osl", "tokens", output as f64),
        one("benchmark_duration", "sec", seconds),
    ];
    if !summary.verdict.targets.is_empty() {
        totals.push(one("good_request_count", "requests", summary.good as f64));
        totals.push(one("goodput", "requests/sec", rate(summary.good)));
    }
    let failed = run.from_send.records.len() as u64 - summary.completed;
    if failed > 0 {
        totals.push(one("error_request_count", "requests", failed as f64));
    }
    totals
}

/// Time per token, where the run's can be trusted.
fn tpot(run: &LiveRun, record: &Record) -> Option<Duration> {
    record.tpot().filter(|_| !run.audit.paceless)
}

fn ms(time: Option<Duration>) -> Option<f64> {
    time.map(|t| t.as_nanos() as f64 / 1e6)
}

/// From the first send to the last token of a completed request.
fn length(run: &LiveRun) -> Duration {
    let sent = run.from_send.records.iter().map(|r| r.scheduled).min().unwrap_or_default();
    let completed = run.from_send.records.iter().filter(|r| r.completed());
    let last = completed.filter_map(|r| r.last_token).max().unwrap_or(sent);
    last.saturating_sub(sent)
}

/// All statistics of a distribution; none of nothing.
fn distribution(unit: &str, values: Vec<f64>) -> Option<Value> {
    let series = Series::new(values);
    let (first, last) = (series.ascending.first()?, series.ascending.last()?);
    let mut stats = json!({
        "unit": unit,
        "avg": series.mean,
        "min": first,
        "max": last,
        "std": series.deviation,
        "count": series.ascending.len(),
        "sum": series.mean * series.ascending.len() as f64,
    });
    for p in PERCENTILES {
        stats[format!("p{p}")] = json!(linear(&series.ascending, f64::from(p) / 100.0));
    }
    Some(stats)
}

/// Failures by kind.
fn errors(run: &LiveRun) -> Value {
    let one = |(kind, f): (&String, &crate::Failures)| {
        let code = kind.strip_prefix("status_").and_then(|status| status.parse::<u16>().ok());
        let mut details = json!({"type": kind, "message": f.cause});
        if let Some(code) = code {
            details["code"] = json!(code);
        }
        json!({"error_details": details, "count": f.count})
    };
    Value::Array(run.failures.iter().map(one).collect())
}
