//! Iterations as trace events, for Perfetto and `chrome://tracing`: a track per worker, and counters for KV memory,
//! running and waiting.
//!
//! The format is the JSON Array of Google's "Trace Event Format": complete events (`X`) and counters (`C`), times in
//! microseconds, sorted.

use crate::Error;
use crate::charts::classes;
use serde_json::{Value, json};
use std::io::Write;
use tuner::subject::observation::{IterationSpan, KvSample};

/// Writes the trace of a run. `title` names the process in the viewer.
///
/// # Errors
/// When `out` does not take it.
pub fn write(
    title: &str,
    iterations: &[IterationSpan],
    kv: &[KvSample],
    mut out: impl Write,
) -> Result<(), Error> {
    let failed =
        |e: &dyn std::fmt::Display| Error::Encode { what: "trace.json", cause: e.to_string() };
    let mut put = |text: &str, event: Option<Value>| -> Result<(), Error> {
        out.write_all(text.as_bytes()).map_err(|e| failed(&e))?;
        event.map_or(Ok(()), |e| serde_json::to_writer(&mut out, &e).map_err(|e| failed(&e)))
    };
    put("{\"displayTimeUnit\":\"ms\",\"traceEvents\":[\n", Some(named("process_name", 0, title)))?;
    let mut workers: Vec<u32> = iterations.iter().map(|s| s.worker).collect();
    workers.sort_unstable();
    workers.dedup();
    for worker in workers {
        put(",\n", Some(named("thread_name", worker, &format!("worker {worker}"))))?;
    }
    // Both are ordered already, each for itself; iterations of several workers need not be.
    let mut spans: Vec<&IterationSpan> = iterations.iter().collect();
    spans.sort_by(|a, b| a.start_s.total_cmp(&b.start_s));
    let (mut spans, mut samples) = (spans.into_iter().peekable(), kv.iter().peekable());
    loop {
        let sample_first = match (spans.peek(), samples.peek()) {
            (Some(span), Some(sample)) => sample.at_s <= span.start_s,
            (None, Some(_)) => true,
            (Some(_), None) => false,
            (None, None) => break,
        };
        if sample_first {
            for event in samples.next().map(counters).into_iter().flatten() {
                put(",\n", Some(event))?;
            }
        } else if let Some(span) = spans.next() {
            put(",\n", Some(iteration(span)))?;
        }
    }
    put("\n]}\n", None)
}

fn micros(s: f64) -> f64 {
    (s * 1e9).round() / 1e3
}

fn named(what: &str, thread: u32, name: &str) -> Value {
    json!({"ph": "M", "name": what, "pid": 0, "tid": thread, "args": {"name": name}})
}

fn iteration(s: &IterationSpan) -> Value {
    let name = match (s.prefill_tokens, s.decode_seqs) {
        (p, 0) => format!("prefill {p}"),
        (0, d) => format!("decode {d}"),
        (p, d) => format!("prefill {p} + decode {d}"),
    };
    json!({
        "ph": "X", "name": name, "cat": "iteration", "pid": 0, "tid": s.worker,
        "ts": micros(s.start_s), "dur": micros(s.length_s),
        "args": {
            "iterations": s.count, "prefill_tokens": s.prefill_tokens,
            "prefill_seqs": s.prefill_seqs, "decode_seqs": s.decode_seqs,
        },
    })
}

fn counters(s: &KvSample) -> [Value; 2] {
    let slots: serde_json::Map<String, Value> =
        classes(&s.slots).iter().map(|(name, slots)| ((*name).to_owned(), json!(slots))).collect();
    let counter = |name: &str, args: Value| json!({"ph": "C", "name": name, "pid": 0, "tid": 0, "ts": micros(s.at_s), "args": args});
    [
        counter("KV slots", Value::Object(slots)),
        counter("requests", json!({"running": s.running, "waiting": s.waiting})),
    ]
}
