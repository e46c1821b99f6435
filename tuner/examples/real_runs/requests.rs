//! Sets with a row for every request: arrivals, lengths, first and last token.

use std::sync::Arc;
use std::time::Duration;

use engine::Config;
use engine::config::Policy;
use tuner::evidence::calibrate::from_requests;
use tuner::evidence::validate::knee::{Capacity, capacity};
use tuner::evidence::validate::recorded::{Alike, Recorded};
use tuner::evidence::validate::{self, Setup, Validation, read};

use crate::setup::{Aims, NONE, ahead, by_its_own_clock, figures, push, setup, v1};
use crate::{Results, Source};

/// Prompts of LLMServingSim's bench that continue an earlier request's conversation: row, earlier row, tokens that are
/// the same, as whole blocks of 16. Not in the recorded runs; read off the prompts of the workload that was sent
/// (sharegpt-llama-3.1-8b-300-sps10.jsonl of that project, commit 5daddb2), as `knee validate --prompts` does.
const CONTINUED: [(usize, usize, u32); 32] = [
    (47, 40, 448),
    (66, 35, 624),
    (68, 28, 352),
    (79, 17, 848),
    (88, 27, 320),
    (93, 82, 624),
    (117, 45, 384),
    (128, 63, 832),
    (139, 117, 992),
    (140, 76, 384),
    (152, 31, 32),
    (158, 107, 608),
    (173, 153, 448),
    (174, 38, 1312),
    (177, 22, 480),
    (180, 61, 816),
    (183, 31, 304),
    (184, 151, 576),
    (188, 138, 720),
    (200, 109, 256),
    (209, 201, 592),
    (220, 146, 512),
    (223, 36, 800),
    (227, 226, 512),
    (235, 56, 832),
    (237, 207, 1264),
    (265, 149, 592),
    (280, 147, 816),
    (281, 186, 816),
    (285, 165, 720),
    (287, 111, 448),
    (293, 163, 256),
];

/// The engine of LLMServingSim's bench.
const VERSION: &str = "vllm@0.19";

/// LLMServingSim's bench: vLLM 0.19, 300 requests of ShareGPT at 10/s, the engine's own clock. First with the profiles as
/// they are, then with the host time found on the other GPU's run, both ways round.
pub(crate) fn llmservingsim(source: &Source, r: &mut Results) {
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
            let base = setup(source, device, "Llama-3.1-8B", (VERSION, config))?;
            let setup = Setup { kv_blocks, engine: by_its_own_clock(VERSION), ..base };
            let run = read::read(&source.path(&file)).map_err(|e| e.to_string())?.remove(0);
            let continued = |(row, earlier, tokens)| Alike { row, earlier, tokens };
            let run = run.alike(CONTINUED.map(continued).to_vec());
            let v = validate::validate(&run, &setup).map_err(|e| e.to_string())?;
            let fitted = from_requests(&run, &setup, 1).map_err(|e| e.to_string())?;
            Ok::<_, String>((run, setup, v, fitted.overlay(device, folder)))
        })();
        match done {
            Ok((run, setup, v, host)) => {
                figures(r, "llmservingsim", &name, &v, &NONE);
                r.residuals(device, &[&v]);
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
pub(crate) fn blis(source: &Source, r: &mut Results) {
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
            let setup =
                Setup { kv_blocks, ..setup(source, "h100-sxm", model, ("vllm@0.15.1", config))? };
            let file = source.path(&format!("blis-training-h100/{name}.requests.csv.gz"));
            let run = read::read(&file).map_err(|e| e.to_string())?.remove(0);
            validate::validate(&run, &setup).map_err(|e| e.to_string())
        })();
        match done {
            Ok(v) => {
                figures(r, "blis", name.split_once("-").map_or(&name, |n| n.1), &v, &aims);
                r.residuals("h100-sxm", &[&v]);
            }
            Err(why) => r.skip(name, why),
        }
    }
}

/// Llama-3.1-70B on two A100 across its knee, 252 requests of ShareGPT at each of six rates.
pub(crate) fn lmbench(source: &Source, r: &mut Results) {
    let done = (|| -> Result<(), String> {
        // The defaults of vLLM of May 2025 on a device of 70 GiB or more, A100 included.
        let config = Config { kv_fraction: 0.95, ..v1(2, 1024, 8192) };
        let setup = setup(source, "a100-sxm", "Llama-3.1-70B-Instruct", ("vllm@0.8.5", config))?;
        let file = source.path("llmd-lmbench-70b/exp-0_vllm-70b.requests.csv.gz");
        let mut runs = Vec::new();
        for run in read::read(&file).map_err(|e| e.to_string())? {
            let v = validate::validate(&run, &setup).map_err(|e| e.to_string())?;
            figures(r, "lmbench-70b", &run.name, &v, &NONE);
            runs.push((run, v));
        }
        r.residuals("a100-sxm", &runs.iter().map(|run| &run.1).collect::<Vec<_>>());
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

/// The part of the error that is due to the size of the KV pool, which was not recorded: the two
/// highest rates again, with the pool that the run itself shows. An explanation, not a prediction.
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

/// OPT-13B of an old vLLM (prompts first, none in pieces): Poisson arrivals of ShareGPT.
pub(crate) fn distserve(source: &Source, r: &mut Results) {
    let done = (|| -> Result<(), String> {
        // The budget of that time's default.
        let mut config = v1(1, 256, 2560);
        config.set_policy(Policy::Paged);
        let setup = setup(source, "a100-sxm", "facebook/opt-13b", ("vllm@0", config))?;
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
                10.0,
            );
        }
        Ok(())
    })();
    if let Err(why) = done {
        r.skip("distserve", why);
    }
}
