//! Sets with means and percentiles for every rate of a sweep.

use std::time::Duration;

use engine::Config;
use engine::config::Policy;
use tuner::evidence::validate::recorded::{Recorded, Row};
use tuner::evidence::validate::{self, Setup, side};

use crate::setup::{ahead, constant, published, push, setup, v1};
use crate::{Results, Source};

/// Three sweeps of Llama-3.1-8B on one H100 by a client that keeps at most 440 requests in flight.
pub(crate) fn kubecon(source: &Source, r: &mut Results) {
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
            let by = if file.contains("v0") { "vllm@0" } else { "vllm@0.11.0" };
            let base = setup(source, "h100-sxm", "Llama-3.1-8B", (by, config))?;
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

/// Means and percentiles of stages of vLLM 0.15.1.
pub(crate) fn stages(source: &Source, r: &mut Results) {
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
    let setup = setup(source, device, &first["model"], ("vllm@0.15.1", config))?;
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

/// Long prompts over replicas behind a Kubernetes service, nearly evenly spaced. The longest gaps between tokens (0.6 s at
/// p99) are those of 8,192 tokens computed at once: the default of that month. The service picks a replica at random
/// for every connection, and the client opens one per request.
pub(crate) fn exp7(source: &Source, r: &mut Results) {
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
        match setup(source, "a100-sxm", "Llama-3.1-8B", ("vllm@0.8.5", v1(1, 1024, 8192)))
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

/// The figures of `rows` if each goes to one of so many replicas at random, over ten draws.
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
