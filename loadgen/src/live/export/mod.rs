//! A measurement in the files of others: per-request JSON lines, HDR histogram logs, and the results of
//! `vllm bench serve` and AIPerf, so that scripts made for them go on working.

mod aiperf;

use std::io::{self, Write};
use std::time::{Duration, SystemTime};

use hdrhistogram::serialization::V2DeflateSerializer;
use hdrhistogram::serialization::interval_log::{IntervalLogWriterBuilder, Tag};
use serde_json::{Value, json};

pub use aiperf::{aiperf, aiperf_records};

use super::LiveRun;
use crate::histogram::Histogram;
use crate::metric::Metric;
use crate::summary::Summary;

/// One JSON object per request: its [`Record`](crate::Record), when it was sent, and what the wire showed.
///
/// # Errors
/// A writer that fails.
pub fn jsonl(run: &LiveRun, to: &mut impl Write) -> io::Result<()> {
    for (record, wire) in run.recording.records.iter().zip(&run.wires) {
        let mut line = serde_json::to_value(record)?;
        line["sent_s"] = json!(wire.sent.map(|t| t.as_secs_f64()));
        line["held_back"] = json!(wire.held_back);
        line["chunks"] = json!(wire.chunks);
        line["coalesced"] = json!(wire.coalesced);
        line["prompt_tokens"] = json!(wire.prompt_tokens);
        line["completion_tokens"] = json!(wire.completion_tokens);
        writeln!(to, "{line}")?;
    }
    Ok(())
}

/// An HDR log with one interval, the run: TTFT, TPOT, ITL and E2E by tag, values in ns; readable by HdrHistogram's
/// log tools. Lost requests are not in it, and neither are TPOT and ITL of answers that came in one piece.
///
/// # Errors
/// A writer that fails.
pub fn hdr(run: &LiveRun, started: SystemTime, to: &mut impl Write) -> io::Result<()> {
    let failed = |e: &dyn std::fmt::Debug| io::Error::other(format!("{e:?}"));
    let mut serializer = V2DeflateSerializer::new();
    let mut log = IntervalLogWriterBuilder::new()
        .add_comment("knee bench: latencies from the scheduled times, ns")
        .with_start_time(started)
        .begin_log_with(to, &mut serializer)?;
    let records = &run.recording.records;
    let length = records.iter().filter_map(|r| r.last_token).max().unwrap_or_default();
    for metric in run.metrics() {
        let mut all = Histogram::new();
        match metric {
            Metric::Itl => all = run.recording.itl_of_all(),
            _ => records.iter().filter_map(|r| metric.of(r)).for_each(|t| all.record_n(t, 1)),
        }
        let tag = Tag::new(metric.name());
        log.write_histogram(all.hdr(), Duration::ZERO, length, tag).map_err(|e| failed(&e))?;
    }
    Ok(())
}

/// The result file of `vllm bench serve --save-result --save-detailed`, except generated texts,
/// which are not kept. Latencies count from the send there, so they do here. `itls` needs gaps that
/// were kept; of answers that came in one piece there are no figures of TPOT and ITL.
#[must_use]
pub fn vllm(run: &LiveRun, summary: &Summary, model: &str, rate_rps: Option<f64>) -> Value {
    let (records, seconds) = (&run.from_send.records, |t: Duration| t.as_secs_f64());
    let duration = summary.duration_s.max(f64::MIN_POSITIVE);
    let (input, output) = (summary.input_tokens, summary.output_tokens);
    let mut file = json!({
        "backend": "openai",
        "model_id": model,
        "num_prompts": records.len(),
        "request_rate": rate_rps.map_or(json!("inf"), |r| json!(r)),
        "max_concurrency": run.audit.streams_asked,
        "duration": summary.duration_s,
        "completed": summary.completed,
        "failed": records.len() as u64 - summary.completed,
        "total_input_tokens": input,
        "total_output_tokens": output,
        "request_throughput": summary.completed as f64 / duration,
        "request_goodput": summary.goodput_rps(),
        "output_throughput": output as f64 / duration,
        "total_token_throughput": (input + output) as f64 / duration,
        "input_lens": records.iter().map(|r| r.input).collect::<Vec<_>>(),
        "output_lens": records.iter().map(|r| if r.completed() { r.output } else { 0 }).collect::<Vec<_>>(),
        "ttfts": records.iter().map(|r| r.ttft().filter(|_| r.completed()).map_or(0.0, seconds)).collect::<Vec<_>>(),
        "start_times": records.iter().map(|r| run.origin_ns as f64 / 1e9 + seconds(r.scheduled)).collect::<Vec<_>>(),
        "errors": records.iter().map(|r| if r.completed() { "" } else { r.outcome.name() }).collect::<Vec<_>>(),
    });
    if !run.audit.paceless {
        let gaps = |gaps: &Vec<u64>| gaps.iter().map(|ns| *ns as f64 / 1e9).collect();
        file["itls"] = json!(run.gaps.iter().map(gaps).collect::<Vec<Vec<f64>>>());
    }
    let completed = || records.iter().filter(|r| r.completed());
    let gaps = || run.gaps.iter().zip(records).filter(|(_, r)| r.completed()).flat_map(|(g, _)| g);
    for metric in run.metrics() {
        let name = if metric == Metric::E2e { "e2el" } else { metric.name() };
        let ms = Series::new(match metric {
            Metric::Itl => gaps().map(|ns| *ns as f64 / 1e6).collect(),
            _ => completed().filter_map(|r| Some(metric.of(r)?.as_nanos() as f64 / 1e6)).collect(),
        });
        file[format!("mean_{name}_ms")] = json!(ms.mean);
        file[format!("median_{name}_ms")] = json!(linear(&ms.ascending, 0.5));
        file[format!("std_{name}_ms")] = json!(ms.deviation);
        file[format!("p99_{name}_ms")] = json!(linear(&ms.ascending, 0.99));
    }
    file
}

/// Values and their first two moments, as numpy has them (0 of none).
struct Series {
    ascending: Vec<f64>,
    mean: f64,
    deviation: f64,
}

impl Series {
    fn new(mut values: Vec<f64>) -> Self {
        values.sort_by(f64::total_cmp);
        let count = values.len().max(1) as f64;
        let mean = values.iter().sum::<f64>() / count;
        let variance = values.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / count;
        Self { ascending: values, mean, deviation: variance.sqrt() }
    }
}

/// Percentile by linear interpolation, as numpy's default; 0 of none, as there.
fn linear(ascending: &[f64], share: f64) -> f64 {
    let Some(last) = ascending.len().checked_sub(1) else { return 0.0 };
    let place = share * last as f64;
    let (low, high) = (ascending[place.floor() as usize], ascending[place.ceil() as usize]);
    low + (high - low) * place.fract()
}

#[cfg(test)]
mod tests {
    use super::linear;

    #[test]
    fn percentiles_as_numpy_has_them() {
        assert_eq!(linear(&[], 0.5), 0.0);
        assert_eq!(linear(&[3.0], 0.99), 3.0);
        assert_eq!(linear(&[1.0, 2.0, 4.0, 8.0], 0.5), 3.0);
        assert!((linear(&[0.0, 10.0], 0.99) - 9.9).abs() < 1e-12);
    }
}
