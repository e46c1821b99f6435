//! The answers of twenty simulated questions, to the digit: what a change of structure must leave as it is.
//!
//! A change that means to move an answer says so by reviewing the snapshot (`cargo insta review`), and why in its commit.

use std::fmt::Write as _;
use std::process::Command;

use rayon::prelude::*;
use serde_json::Value;

/// Small questions, a second or two each: every command that searches, every objective, policy and way of serving.
const QUESTIONS: [&str; 20] = [
    "tune --requests 600 --slo ttft=200ms",
    "tune --requests 600 --slo ttft=300ms --slo tpot=20ms --max-seqs 128",
    "tune --requests 600 --slo e2e:p95=8s --max-batch-tokens 2048",
    "tune --requests 600 --slo ttft=1s --slo tpot=40ms --attainment 95% --max-seqs 64",
    "tune --requests 600 --slo itl=50ms --workload code --policy chunked",
    "tune --requests 400 --slo ttft=2s --workload summarization --max-seqs 64",
    "tune --requests 400 --slo ttft=2s --slo tpot=50ms --workload rag-long --policy chunked",
    "tune --requests 400 --slo ttft=1s --workload agentic --max-seqs 128",
    "tune --requests 400 --slo tpot=30ms --workload reasoning --max-seqs 256",
    "tune --requests 400 --slo ttft=1s --model llama-3.1-70b --gpus 4 --max-seqs 128 --policy chunked",
    "tune --requests 400 --slo ttft=500ms --gpus 2 --objective tokens-per-gpu --max-seqs 128",
    "tune --requests 400 --slo ttft=500ms --device h100-sxm,a100-sxm,rtx4090 --objective cost --max-seqs 128",
    "tune --requests 400 --slo ttft=1s --policy static",
    "tune --requests 400 --slo ttft=1s --policy continuous",
    "tune --requests 400 --slo ttft=1s --gpus 2 --policy disagg --max-seqs 128",
    "tune --requests 300 --slo ttft=1ms --max-seqs 64",
    "compare --requests 400 --slo ttft=1s --slo tpot=50ms --no-claims",
    "plan --requests 400 --demand 40rps --slo ttft=500ms --slo tpot=50ms --device h100-sxm,h200-sxm --max-seqs 256",
    "plan --requests 400 --demand 5rps --slo ttft=2s --model llama-3.1-70b --device h100-sxm --gpus 4 --max-seqs 64",
    "bench --requests 400 --rate 6 --slo ttft=500ms --policy chunked",
];

/// `null` as a dash, a number to five figures.
fn figure(value: &Value) -> String {
    value.as_f64().map_or_else(|| "-".to_owned(), |x| format!("{x:.5}"))
}

/// A configuration that holds, in a line; the knobs in full.
fn operating(best: &Value) -> String {
    let Some(config) = best["config"].as_object() else { return "nothing holds".to_owned() };
    let knobs: Vec<String> =
        config.iter().map(|(k, v)| format!("{k}={}", v.as_str().unwrap_or_default())).collect();
    let figures = ["capacity_rps", "ttft_p99_ms", "tpot_p99_ms", "itl_p99_ms", "e2e_p99_ms"]
        .map(|name| format!("{name} {}", figure(&best[name])));
    format!(
        "{} x{} {}\n      {}\n      {}",
        best["device"].as_str().unwrap_or_default(),
        best["gpus"],
        best["label"].as_str().unwrap_or_default(),
        figures.join(", "),
        knobs.join(" ")
    )
}

fn answer(question: &str) -> String {
    let out = Command::new(env!("CARGO_BIN_EXE_knee"))
        .args(question.split(' '))
        .arg("--json")
        .output()
        .expect("the binary starts");
    let said = String::from_utf8_lossy(&out.stderr);
    let found: Value =
        serde_json::from_slice(&out.stdout).unwrap_or_else(|e| panic!("{question}: {e}: {said}"));
    let mut text = format!("$ knee {question}\n");
    let mut line = |what: &str, value: String| writeln!(text, "  {what}: {value}").unwrap();
    if let Some(best) = found.get("best") {
        line("best", operating(best));
    }
    for row in found["baselines"].as_array().into_iter().flatten() {
        let of = format!("{} on {}", row["policy"], row["device"]);
        line(&of, figure(&row["best"]["capacity_rps"]));
    }
    for name in found["order"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        line(name, figure(&found["policies"][name]["capacity_rps"]));
    }
    for plan in found["plans"].as_array().into_iter().flatten() {
        let price = figure(&plan["usd_per_hour"]);
        line("plan", format!("{} x {}, ${price}/h", plan["deployments"], plan["label"]));
    }
    for name in ["goodput_rps", "p99_ttft_ms", "p99_tpot_ms", "p99_itl_ms", "p99_e2e_ms"] {
        if let Some(value) = found.get(name) {
            line(name, figure(value));
        }
    }
    text
}

#[test]
fn answers_stay_as_they_are() {
    let answers: Vec<String> = QUESTIONS.par_iter().map(|question| answer(question)).collect();
    insta::assert_snapshot!(answers.join("\n"));
}
