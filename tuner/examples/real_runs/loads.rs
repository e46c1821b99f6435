//! Sets with a few means of one load: bursts, and a single rate.

use std::time::Duration;

use engine::Config;
use serde_json::Value;
use tuner::evidence::validate::recorded::{Recorded, Row};
use tuner::evidence::validate::{self, Setup, side};

use crate::setup::{constant, published, push, setup, v1};
use crate::{Results, Source};

/// Llama-3.1-70B on four H100, 300 requests of ShareGPT at 10/s: three means.
pub(crate) fn ispass(source: &Source, r: &mut Results) {
    let done = (|| -> Result<(), String> {
        let file = source.path("llmservingsim-ispass26/sharegpt_req300_rate10_llama.csv.gz");
        let rows = ispass_rows(&file)?;
        // Its version was not published; at that time it planned between iterations.
        let by = ("vllm@0.11", v1(4, 256, 8192));
        let setup = setup(source, "h100-sxm", "Llama-3.1-70B-Instruct", by)?;
        let run = Recorded::new("ispass26", None, rows);
        let run = validate::rerun(&run, &setup, &mut |_| ()).map_err(|e| e.to_string())?;
        let (p, label) = (side(&run.records), "70B tp4 H100 10/s");
        published(
            r,
            "ispass26",
            label,
            &p,
            &[("TTFT mean", Some(61.5)), ("TPOT mean", Some(26.72))],
        );
        let s = &run.observation.summary;
        push(r, "ispass26", label, ("tok/s", ""), 1833.89, s.output_tokens_per_s(), 0.0);
        Ok(())
    })();
    if let Err(why) = done {
        r.skip("ispass26", why);
    }
}

fn ispass_rows(path: &std::path::Path) -> Result<Vec<Row>, String> {
    let shown = path.display();
    let file = std::fs::File::open(path).map_err(|e| format!("cannot read {shown}: {e}"))?;
    let mut reader = csv::Reader::from_reader(flate2::read::GzDecoder::new(file));
    let row = |line: Result<(u32, u32, u64), csv::Error>| {
        let (input, output, ns) = line.map_err(|e| format!("{shown}: {e}"))?;
        let arrival = Duration::from_nanos(ns);
        Ok(Row { arrival, input, output, ..constant(1.0, 1, 1, 1, None)[0] })
    };
    reader.deserialize().map(row).collect()
}

/// Everything at once on an H100 of 64 GB, whose memory is slower than that of the 80 GB part the profile is of.
pub(crate) fn bursts(source: &Source, r: &mut Results) {
    let Some(data) = source.json("bsc-h100-bursts/runs.json") else {
        return r.skip("bsc-bursts", "not in this folder");
    };
    for run in data["runs"].as_array().into_iter().flatten() {
        let f = |key: &str| run[key].as_f64().unwrap_or(f64::NAN);
        let Some(seqs) = text_number(&run["max_num_seqs"]) else { continue };
        let n = f("num_prompts");
        let (input, output) = (f("total_input_tokens") / n, f("total_output_tokens") / n);
        let config = Config { prefix_cache: false, ..v1(1, seqs, 2048.max(seqs)) };
        let label = format!("{seqs} seqs, {input:.0}/{output:.0}");
        let done = (|| {
            let base = setup(source, "h100-sxm", "Llama-3.1-8B", ("vllm@0.8.5", config))?;
            let kv_blocks = run["kv_cache_tokens"].as_f64().map(|t| (t / 16.0) as u32);
            let setup = Setup { kv_blocks, ..base };
            let mut rows =
                constant(1.0, n as usize, input.round() as u32, output.round() as u32, None);
            rows.iter_mut().for_each(|row| row.arrival = Duration::ZERO);
            validate::rerun(&Recorded::new("burst", None, rows), &setup, &mut |_| ())
                .map_err(|e| e.to_string())
        })();
        match done {
            Err(why) => r.skip(format!("bsc-bursts {label}"), why),
            Ok(simulated) => {
                let p = side(&simulated.records);
                push(
                    r,
                    "bsc-bursts",
                    &label,
                    ("req/s", ""),
                    f("request_throughput"),
                    p.throughput_rps,
                    0.0,
                );
                published(
                    r,
                    "bsc-bursts",
                    &label,
                    &p,
                    &[("TPOT mean", run["mean_tpot_ms"].as_f64())],
                );
            }
        }
    }
}

fn text_number(value: &Value) -> Option<u32> {
    value.as_u64().map(|n| n as u32).or_else(|| value.as_str()?.parse().ok())
}
