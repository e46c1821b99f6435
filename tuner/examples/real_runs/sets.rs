//! The sets: where each run lies, how it was set up, and how its client behaved.
//!
//! Settings are the recorded flags, and vLLM's defaults of the version that ran where there was no flag. An engine of
//! the V1 kind is `chunked` (it chunks whatever it is told), one of the V0 kind `paged`. Longer than a
//! file should be because it is a list: a set a function, nothing shared but how a line is pushed.

use std::sync::Arc;
use std::time::Duration;

use engine::config::Policy;
use engine::{Config, DeviceProfile};
use serde_json::Value;
use tuner::calibrate::from_requests;
use tuner::validate::knee::{Capacity, capacity};
use tuner::validate::recorded::{Recorded, Row};
use tuner::validate::{self, Setup, Validation, read, side};

use crate::models::shape;
use crate::{Line, Results, Source};

/// What each figure of a run is called, and how far off it may be.
struct Aims {
    ttft: f64,
    ttft_p99: f64,
    tpot: f64,
    e2e: f64,
    e2e_p99: f64,
}

const NONE: Aims = Aims { ttft: 0.0, ttft_p99: 0.0, tpot: 0.0, e2e: 0.0, e2e_p99: 0.0 };

/// Every set, in the order of detail.
pub(crate) fn all(source: &Source) -> Results {
    let mut results = Results::default();
    type Set = fn(&Source, &mut Results);
    let sets: &[(&str, Set)] = &[
        ("llmservingsim", llmservingsim),
        ("blis", blis),
        ("kubecon", kubecon),
        ("lmbench-70b", lmbench),
        ("sim-to-real", stages),
        ("distserve", distserve),
        ("exp7-8b", exp7),
        ("ispass26", ispass),
        ("bsc-bursts", bursts),
    ];
    for (name, set) in sets {
        if source.only.as_ref().is_none_or(|only| name.contains(only.as_str())) {
            set(source, &mut results);
        }
    }
    for (set, why) in [
        ("transcribed (B)", "input and output lengths were not published"),
        ("mlperf-v5.1 (B)", "FP8 weights are not modelled; TensorRT-LLM's are graded C"),
        ("accelmark, yobitel (C+)", "lengths or flags were not recorded"),
    ] {
        results.skip(set, why);
    }
    results
}

fn push(
    r: &mut Results,
    set: &'static str,
    setup: &str,
    what: (&'static str, &'static str),
    m: f64,
    p: f64,
    aim: f64,
) {
    let error = 100.0 * (p / m - 1.0);
    r.lines.push(Line {
        set,
        setup: setup.to_owned(),
        what: what.0,
        unit: what.1,
        measured: m,
        predicted: p,
        error,
        aim,
    });
}

/// The figures of one run.
fn figures(r: &mut Results, set: &'static str, setup: &str, v: &Validation, aims: &Aims) {
    let (m, p) = (&v.measured, &v.predicted);
    let rows = [
        ("TTFT mean", m.ttft.mean, p.ttft.mean, aims.ttft),
        ("TTFT p50", m.ttft.p50, p.ttft.p50, aims.ttft),
        ("TTFT p99", m.ttft.p99, p.ttft.p99, aims.ttft_p99),
        ("TPOT mean", m.tpot.mean, p.tpot.mean, aims.tpot),
        ("TPOT p50", m.tpot.p50, p.tpot.p50, aims.tpot),
        ("TPOT p99", m.tpot.p99, p.tpot.p99, aims.tpot),
        ("E2E p50", m.e2e.p50, p.e2e.p50, aims.e2e),
        ("E2E p99", m.e2e.p99, p.e2e.p99, aims.e2e_p99),
    ];
    for (what, measured, predicted, aim) in rows {
        if let (Some(measured), Some(predicted)) = (measured, predicted) {
            push(r, set, setup, (what, "ms"), measured, predicted, aim);
        }
    }
    push(r, set, setup, ("req/s", ""), m.throughput_rps, p.throughput_rps, 0.0);
}

fn v1(tp: u32, seqs: u32, tokens: u32) -> Config {
    Config { tp, max_seqs: seqs, max_batch_tokens: tokens, ..Config::default() }
}

/// vLLM from 0.14 on plans ahead of the device unless told otherwise.
fn ahead(tp: u32, seqs: u32, tokens: u32) -> Config {
    Config { async_scheduling: true, ..v1(tp, seqs, tokens) }
}

fn setup(source: &Source, device: &str, model: &str, config: Config) -> Result<Setup, String> {
    let profile: Arc<DeviceProfile> = source
        .device(device)
        .ok_or_else(|| format!("no profile of {device} (--profile {device}=FILE)"))?;
    let model = Arc::new(shape(model).ok_or_else(|| format!("the shape of {model} is not known"))?);
    let correction = source.correction(device);
    Ok(Setup { model, device: profile, config, correction, kv_blocks: None, in_flight: None })
}

/// LLMServingSim's bench: vLLM 0.19, 300 requests of ShareGPT at 10/s, the engine's own clock. First with the profiles as
/// they are, then with the host time found on the other GPU's run, both ways round.
fn llmservingsim(source: &Source, r: &mut Results) {
    // The 4090's pool is recorded; the other's (96 GB) never filled.
    let runs = [
        ("RTX4090", "rtx4090", ahead(1, 256, 2048), Some(2588)),
        ("RTXPRO6000", "rtx-pro-6000", ahead(1, 128, 2048), None),
    ];
    let aims = Aims { ttft: 5.0, ttft_p99: 8.0, tpot: 3.0, e2e: 3.0, e2e_p99: 3.0 };
    let mut both = Vec::new();
    for (folder, device, config, kv_blocks) in runs {
        let name = format!("{folder} Llama-3.1-8B 10/s");
        let file = format!("../llmservingsim/bench/{folder}/Llama-3.1-8B/requests.jsonl.gz");
        let done = (|| {
            let setup = Setup { kv_blocks, ..setup(source, device, "Llama-3.1-8B", config)? };
            let run = read::read(&source.path(&file)).map_err(|e| e.to_string())?.remove(0);
            let v = validate::validate(&run, &setup).map_err(|e| e.to_string())?;
            let fitted = from_requests(&run, &setup, 1).map_err(|e| e.to_string())?;
            Ok::<_, String>((run, setup, v, fitted.overlay(device, folder)))
        })();
        match done {
            Ok((run, setup, v, host)) => {
                figures(r, "llmservingsim", &name, &v, &NONE);
                r.residuals(device, &v);
                both.push((folder, run, setup, host));
            }
            Err(why) => r.skip(name, why),
        }
    }
    if let [a, b] = &both[..] {
        for ((folder, run, setup, _), (other, _, _, host)) in [(a, b), (b, a)] {
            let device = Arc::new(host.apply(&setup.device));
            let time =
                host.host.map_or(String::new(), |h| format!("{:.0}+{:.1} µs", h.step_us, h.seq_us));
            if let Ok(v) = validate::validate(run, &Setup { device, ..setup.clone() }) {
                figures(
                    r,
                    "llmservingsim",
                    &format!("{folder}, host of {other} ({time})"),
                    &v,
                    &aims,
                );
            }
        }
    }
}

/// Per-request runs on H100 of vLLM 0.15.1: a pool of 100 prompts used in turn, prefix cache on.
fn blis(source: &Source, r: &mut Results) {
    let Ok(folder) = std::fs::read_dir(source.path("blis-training-h100")) else {
        return r.skip("blis", "not in this folder");
    };
    let mut names: Vec<String> = folder
        .filter_map(|e| e.ok()?.file_name().to_str()?.strip_suffix(".meta.json").map(str::to_owned))
        .collect();
    names.sort();
    let aims = Aims { e2e: 10.0, e2e_p99: 15.0, ..NONE };
    for name in names {
        if name.contains("llama-2-7b-tp1-reasoning") {
            r.skip(name, "4,068 of 4,800 requests timed out at the client, which is not recorded well enough to replay");
            continue;
        }
        let done = (|| {
            let meta = source
                .json(&format!("blis-training-h100/{name}.meta.json"))
                .ok_or("no meta.json")?;
            let server = &meta["server"];
            let number = |key: &str| server[key].as_u64().unwrap_or(0) as u32;
            let config =
                ahead(number("tp"), number("max_num_seqs"), number("max_num_batched_tokens"));
            let model = meta["model"].as_str().unwrap_or_default();
            let kv_blocks = Some(number("gpu_kv_blocks")).filter(|b| *b > 0);
            let setup = Setup { kv_blocks, ..setup(source, "h100-sxm", model, config)? };
            let file = source.path(&format!("blis-training-h100/{name}.requests.csv.gz"));
            let run = read::read(&file).map_err(|e| e.to_string())?.remove(0);
            validate::validate(&run, &setup).map_err(|e| e.to_string())
        })();
        match done {
            Ok(v) => {
                figures(r, "blis", name.split_once("-").map_or(&name, |n| n.1), &v, &aims);
                r.residuals("h100-sxm", &v);
            }
            Err(why) => r.skip(name, why),
        }
    }
}

/// Requests of equal length at a constant rate, from the pool of 100 prompts of inference-perf (10 system prompts x 10
/// users), as so many rows without outcome.
fn constant(rate: f64, n: usize, input: u32, output: u32, pool: Option<u32>) -> Vec<Row> {
    let row = |i: usize| Row {
        arrival: Duration::from_secs_f64(i as f64 / rate),
        admitted: None,
        first_token: None,
        last_token: None,
        input,
        output,
        prompt: pool.map(|pool| i as u64 % u64::from(pool)),
        failed: false,
    };
    (0..n).map(row).collect()
}

/// Means, and percentiles where published, of `records` beside published figures in ms.
fn published(
    r: &mut Results,
    set: &'static str,
    setup: &str,
    p: &validate::Side,
    m: &[(&'static str, Option<f64>)],
) {
    for (what, measured) in m {
        let predicted = match *what {
            "TTFT mean" => p.ttft.mean,
            "TTFT p50" => p.ttft.p50,
            "TTFT p99" => p.ttft.p99,
            "TPOT mean" => p.tpot.mean,
            "TPOT p99" => p.tpot.p99,
            "E2E mean" => p.e2e.mean,
            "E2E p50" => p.e2e.p50,
            _ => p.e2e.p99,
        };
        if let (Some(m), Some(p)) = (measured.filter(|m| *m > 0.0), predicted) {
            push(r, set, setup, (what, "ms"), m, p, 0.0);
        }
    }
}

/// Three sweeps of Llama-3.1-8B on one H100 by a client that keeps at most 440 requests in flight.
fn kubecon(source: &Source, r: &mut Results) {
    // Budgets are the defaults of an API server on H100: 2,048 of V0 without chunking, 8,192 of V1 (which chunks even
    // when told not to).
    let mut v0 = v1(1, 128, 2048);
    v0.set_policy(Policy::Paged);
    let plain = Config { prefix_cache: false, ..v1(1, 128, 8192) };
    let sweeps = [
        ("vllm+v0_engine", "V0 0.9.0", v0, 200, 76.0),
        ("vllm", "V1 0.11.0", plain, 204, 102.0),
        (
            "vllm+chunking_and_prefix_caching",
            "V1 0.11.0 prefix cache",
            v1(1, 128, 8192),
            203,
            172.0,
        ),
    ];
    for (file, name, config, input, saturated) in sweeps {
        let done = (|| -> Result<(), String> {
            let data = source
                .json(&format!("inference-perf-kubecon-h100/{file}.json"))
                .ok_or("not in this folder")?;
            let base = setup(source, "h100-sxm", "Llama-3.1-8B", config)?;
            let setup = Setup { in_flight: Some(440), ..base };
            let mut most = 0.0f64;
            for stage in data["stages"].as_array().into_iter().flatten() {
                let (load, ok) =
                    (&stage["lifecycle"]["load_summary"], &stage["lifecycle"]["successes"]);
                let (Some(rate), Some(n)) =
                    (load["requested_rate"].as_f64(), load["count"].as_u64())
                else {
                    continue;
                };
                let rows = constant(rate, n as usize, input, 64, Some(100));
                let run = Recorded::new(name, Some(rate), rows).sharing(128, 10);
                let run = validate::rerun(&run, &setup, &mut |_| ()).map_err(|e| e.to_string())?;
                let p = side(&run.records);
                most = most.max(p.throughput_rps);
                let l = &ok["latency"];
                let ms = |a: &str, b: &str| l[a][b].as_f64().map(|s| s * 1e3);
                let (ttft, e2e) = ("time_to_first_token", "request_latency");
                let decode = ms(e2e, "mean").zip(ms(ttft, "mean")).map(|(e, t)| (e - t) / 63.0);
                let label = format!("{name}, {rate:.0}/s");
                published(
                    r,
                    "kubecon",
                    &label,
                    &p,
                    &[
                        ("TTFT mean", ms(ttft, "mean")),
                        ("TPOT mean", decode),
                        ("E2E p50", ms(e2e, "median")),
                        ("E2E p99", ms(e2e, "p99")),
                    ],
                );
                let rps = ok["throughput"]["requests_per_sec"].as_f64().unwrap_or(f64::NAN);
                push(r, "kubecon", &label, ("req/s", ""), rps, p.throughput_rps, 0.0);
            }
            push(
                r,
                "kubecon",
                &format!("{name}: capacity"),
                ("capacity", ""),
                saturated,
                most,
                10.0,
            );
            Ok(())
        })();
        if let Err(why) = done {
            r.skip(format!("kubecon {name}"), why);
        }
    }
}

/// Llama-3.1-70B on two A100 across its knee, 252 requests of ShareGPT at each of six rates.
fn lmbench(source: &Source, r: &mut Results) {
    let done = (|| -> Result<(), String> {
        // What vLLM of May 2025 took on a device of 70 GiB or more, A100 included, when nothing was said.
        let config = Config { kv_fraction: 0.95, ..v1(2, 1024, 8192) };
        let setup = setup(source, "a100-sxm", "Llama-3.1-70B-Instruct", config)?;
        let file = source.path("llmd-lmbench-70b/exp-0_vllm-70b.requests.csv.gz");
        let mut runs = Vec::new();
        for run in read::read(&file).map_err(|e| e.to_string())? {
            let v = validate::validate(&run, &setup).map_err(|e| e.to_string())?;
            figures(r, "lmbench-70b", &run.name, &v, &NONE);
            r.residuals("a100-sxm", &v);
            runs.push((run, v));
        }
        seen(r, &runs, &setup)?;
        match capacity(&runs, &setup, None).map_err(|e| e.to_string())? {
            Capacity::Validated { target, measured_rps, predicted_rps, .. } => {
                push(
                    r,
                    "lmbench-70b",
                    &format!("knee at {target}"),
                    ("capacity", ""),
                    measured_rps,
                    predicted_rps,
                    10.0,
                );
            }
            Capacity::NotNearTheKnee { reason, .. } => r.skip("lmbench-70b knee", reason),
        }
        Ok(())
    })();
    if let Err(why) = done {
        r.skip("lmbench-70b", why);
    }
}

/// What part of the error is the size of the KV pool, which was not recorded: the two highest rates again, with the
/// pool that the run itself shows. An explanation, not a prediction.
fn seen(r: &mut Results, runs: &[(Recorded, Validation)], setup: &Setup) -> Result<(), String> {
    let Some(blocks) = runs.iter().filter_map(|(run, _)| plateau(run)).max() else { return Ok(()) };
    let setup = Setup { kv_blocks: Some(blocks), ..setup.clone() };
    for (run, _) in &runs[runs.len().saturating_sub(2)..] {
        let v = validate::validate(run, &setup).map_err(|e| e.to_string())?;
        figures(r, "lmbench-70b", &format!("{}, {blocks} blocks as seen", run.name), &v, &NONE);
    }
    Ok(())
}

/// Blocks in use while at least three requests wait, by the median over seconds: a full pool's size. Each sequence's
/// last block is half full on average.
fn plateau(run: &Recorded) -> Option<u32> {
    let end = run.rows.iter().filter_map(|row| row.last_token).max()?;
    let at = |second: u64| {
        let t = Duration::from_secs(second);
        let (mut tokens, mut running, mut waiting) = (0.0, 0u32, 0u32);
        for row in run.rows.iter().filter(|row| row.arrival <= t) {
            let (Some(first), Some(last)) = (row.first_token, row.last_token) else { continue };
            if t < first {
                waiting += 1;
            } else if t < last {
                let done = (t - first).as_secs_f64() / (last - first).as_secs_f64();
                tokens += f64::from(row.input) + f64::from(row.output) * done;
                running += 1;
            }
        }
        (waiting >= 3).then_some(tokens / 16.0 + f64::from(running) / 2.0)
    };
    let mut full: Vec<f64> = (0..end.as_secs()).filter_map(at).collect();
    full.sort_by(f64::total_cmp);
    (full.len() >= 30).then(|| full[full.len() / 2] as u32)
}

/// Means and percentiles of stages of vLLM 0.15.1.
fn stages(source: &Source, r: &mut Results) {
    let Ok(mut reader) = csv::Reader::from_path(source.path("sim-to-real-stages/stages.csv"))
    else {
        return r.skip("sim-to-real", "not in this folder");
    };
    let rows: Vec<std::collections::BTreeMap<String, String>> =
        reader.deserialize().filter_map(Result::ok).collect();
    let mut runs: Vec<&str> = rows.iter().map(|r| r["exp"].as_str()).collect();
    runs.dedup();
    for exp in runs {
        let of = rows.iter().filter(|row| row["exp"] == exp && row["stage"] != "all");
        let stages: Vec<_> = of.collect();
        let Some(first) = stages.first() else { continue };
        if let Err(why) = stage_run(source, r, exp, first, &stages) {
            r.skip(format!("sim-to-real {exp}"), why);
        }
    }
}

fn stage_run(
    source: &Source,
    r: &mut Results,
    exp: &str,
    first: &std::collections::BTreeMap<String, String>,
    stages: &[&std::collections::BTreeMap<String, String>],
) -> Result<(), String> {
    let number =
        |row: &std::collections::BTreeMap<String, String>, key: &str| row[key].parse::<f64>().ok();
    let device = match first["hardware"].as_str() {
        "H100" => "h100-sxm",
        "A100-80GB" => "a100-sxm",
        other => other,
    };
    let (input, output, seconds) = match first["workload"].as_str() {
        "codegen" => (566, 247, 600.0),
        "general" | "general-lite" => (547, 248, 600.0),
        "roleplay" => (750, 251, 1200.0),
        _ => (1034, 1448, 1200.0),
    };
    let count = |key: &str| number(first, key).unwrap_or(0.0) as u32;
    let config = ahead(count("tp"), count("max_num_seqs"), count("max_num_batched_tokens"));
    let setup = setup(source, device, &first["model"], config)?;
    let (mut all, mut ranges, mut start) = (Vec::new(), Vec::new(), 0.0);
    for stage in stages {
        let rate = number(stage, "rate_req_s").ok_or("no rate")?;
        let mut rows = constant(rate, (rate * seconds) as usize, input, output, Some(100));
        rows.iter_mut().for_each(|row| row.arrival += Duration::from_secs_f64(start));
        ranges.push((rate, all.len()..all.len() + rows.len(), *stage));
        all.extend(rows);
        start += seconds + 7.0;
    }
    let run = Recorded::new(exp, None, all).sharing(100, 10);
    let run = validate::rerun(&run, &setup, &mut |_| ()).map_err(|e| e.to_string())?;
    for (rate, range, row) in ranges {
        let p = side(&run.records[range]);
        let ms = |key: &str| number(row, key);
        let decode =
            ms("e2e_mean_ms").zip(ms("ttft_mean_ms")).map(|(e, t)| (e - t) / f64::from(output - 1));
        let name = first["model"].rsplit('/').next().unwrap_or_default();
        let label =
            format!("{}-{} {name} tp{} {rate}/s", first["exp_id"], first["hardware"], first["tp"]);
        published(
            r,
            "sim-to-real",
            &label,
            &p,
            &[
                ("TTFT mean", ms("ttft_mean_ms")),
                ("TTFT p99", ms("ttft_p99_ms")),
                ("TPOT mean", decode),
                ("E2E mean", ms("e2e_mean_ms")),
                ("E2E p99", ms("e2e_p99_ms")),
            ],
        );
    }
    Ok(())
}

/// OPT-13B of an old vLLM (prompts first, none in pieces): Poisson arrivals of ShareGPT.
fn distserve(source: &Source, r: &mut Results) {
    let done = (|| -> Result<(), String> {
        // The budget of that time's default.
        let mut config = v1(1, 256, 2560);
        config.set_policy(Policy::Paged);
        let setup = setup(source, "a100-sxm", "facebook/opt-13b", config)?;
        let file = source.path("distserve-opt13b-a100/vllm_opt13b_sharegpt.requests.csv.gz");
        let mut runs = Vec::new();
        for run in read::read(&file).map_err(|e| e.to_string())? {
            let v = validate::validate(&run, &setup).map_err(|e| e.to_string())?;
            figures(r, "distserve", &format!("opt-13b {}", run.name), &v, &NONE);
            runs.push((run, v));
        }
        if let Capacity::Validated { target, measured_rps, predicted_rps, .. } =
            capacity(&runs, &setup, None).map_err(|e| e.to_string())?
        {
            push(
                r,
                "distserve",
                &format!("knee at {target}"),
                ("capacity", ""),
                measured_rps,
                predicted_rps,
                0.0,
            );
        }
        Ok(())
    })();
    if let Err(why) = done {
        r.skip("distserve", why);
    }
}

/// Long prompts over replicas behind a Kubernetes service, nearly evenly spaced. The longest gaps between tokens (0.6 s at
/// p99) are those of 8,192 tokens computed at once: the default of that month. The service picks a replica at random
/// for every connection, and the client opens one per request.
fn exp7(source: &Source, r: &mut Results) {
    let Some(data) = source.json("llmd-exp7-8b/exp7_A100.json") else {
        return r.skip("exp7-8b", "not in this folder");
    };
    for run in data["runs"].as_array().into_iter().flatten() {
        let f = |key: &str| run[key].as_f64().unwrap_or(f64::NAN);
        let (n, rate, replicas) = (f("num_prompts"), f("request_rate"), f("_replicas"));
        let (input, output) = (f("total_input_tokens") / n, f("total_output_tokens") / n);
        let date = run["date"].as_str().unwrap_or_default();
        let label = format!("{replicas} x A100 {input:.0}/{output:.0} {rate}/s {date}");
        let rows = constant(rate, n as usize, input as u32, output as u32, None);
        match setup(source, "a100-sxm", "Llama-3.1-8B", v1(1, 1024, 8192))
            .and_then(|setup| scattered(&rows, replicas as u64, &setup))
        {
            Err(why) => r.skip(format!("exp7-8b {label}"), why),
            Ok(p) => {
                let ms = |key: &str| run[key].as_f64();
                let figures = [
                    ("TTFT mean", ms("mean_ttft_ms")),
                    ("TTFT p50", ms("median_ttft_ms")),
                    ("TTFT p99", ms("p99_ttft_ms")),
                    ("TPOT mean", ms("mean_tpot_ms")),
                    ("TPOT p99", ms("p99_tpot_ms")),
                ];
                published(r, "exp7-8b", &label, &p, &figures);
            }
        }
    }
}

/// What becomes of `rows` when each goes to one of so many replicas at random, over ten draws.
fn scattered(rows: &[Row], replicas: u64, setup: &Setup) -> Result<validate::Side, String> {
    let mut records = Vec::new();
    for seed in 0..10 {
        for replica in 0..replicas {
            let goes = |i: &usize| engine::request::mix(seed, *i as u64) % replicas == replica;
            let own = (0..rows.len()).filter(goes).map(|i| rows[i]).collect();
            let run = validate::rerun(&Recorded::new("scattered", None, own), setup, &mut |_| ());
            records.extend(run.map_err(|e| e.to_string())?.records);
        }
    }
    Ok(side(&records))
}

/// Llama-3.1-70B on four H100, 300 requests of ShareGPT at 10/s: three means.
fn ispass(source: &Source, r: &mut Results) {
    let done = (|| -> Result<(), String> {
        let file = source.path("llmservingsim-ispass26/sharegpt_req300_rate10_llama.csv.gz");
        let rows = ispass_rows(&file)?;
        let setup = setup(source, "h100-sxm", "Llama-3.1-70B-Instruct", v1(4, 256, 8192))?;
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
fn bursts(source: &Source, r: &mut Results) {
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
            let base = setup(source, "h100-sxm", "Llama-3.1-8B", config)?;
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
