//! Requests that can never be served, and the load offered against the load completed, as people
//! and scripts see them.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;
use tempfile::TempDir;

fn knee(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_knee")).args(args).output().expect("the binary starts")
}

/// The output of a run that ends well, spaces as typed.
fn said(args: &[&str]) -> String {
    let out = knee(args);
    assert!(out.status.success(), "{args:?}: {}", String::from_utf8_lossy(&out.stderr));
    let text = String::from_utf8(out.stdout).unwrap().replace('\u{202f}', " ");
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn json(args: &[&str]) -> Value {
    let out = knee(&[args, &["--json"]].concat());
    let told = String::from_utf8_lossy(&out.stderr).into_owned();
    serde_json::from_slice(&out.stdout).unwrap_or_else(|e| panic!("{args:?}: {e}: {told}"))
}

/// A trace of `requests` a second each, every `nth` with a prompt of `long` tokens.
fn trace(dir: &TempDir, requests: usize, nth: usize, long: u32) -> PathBuf {
    let mut text = "arrival_s,prompt_tokens,completion_tokens\n".to_owned();
    for i in 0..requests {
        let input = if i % nth == nth - 1 { long } else { 300 + (i as u32 * 37) % 200 };
        let _ = writeln!(text, "{},{input},{}", i, 20 + (i * 13) % 60);
    }
    let path = dir.path().join("few.csv");
    std::fs::write(&path, text).unwrap();
    path
}

fn shown(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Fixes what a search would vary, so that it takes a second.
const FIXED: [&str; 8] = [
    "--policy",
    "chunked",
    "--max-seqs",
    "64",
    "--max-batch-tokens",
    "2048",
    "--prefix-cache",
    "off",
];

#[test]
fn a_small_gpu_wins_nothing_by_refusing() {
    let dir = TempDir::new().unwrap();
    let few = trace(&dir, 600, 200, 90_000);
    let base = ["--workload", shown(&few), "--slo", "ttft=5s"];
    let plan = ["plan", "--demand", "20rps", "--device", "rtx4090,h100-sxm", "--gpus", "1"];
    let both = json(&[&plan[..], &base, &FIXED].concat());
    assert_eq!(both["device"], "h100-sxm");
    let of = |device: &str| {
        both["plans"].as_array().unwrap().iter().find(|p| p["device"] == device).unwrap().clone()
    };
    assert_eq!(of("h100-sxm")["unfit"]["requests"], 0);
    assert_eq!(of("rtx4090")["unfit"]["requests"], 3);
    assert_eq!(of("rtx4090")["unfit"]["beyond"][0]["bound"], "kv-memory");
    let out = dir.path().join("out");
    let text = said(&[&plan[..], &base, &FIXED, &["--out", shown(&out)]].concat());
    assert!(text.contains("× h100-sxm carr"), "{text}");
    assert!(text.contains("On rtx4090 0.5 % of the prompts do not fit (3 of 600)"), "{text}");
    let page = std::fs::read_to_string(out.join("report.html")).unwrap();
    assert!(page.contains("of the prompts do not fit (3 of 600)"));
    // Alone it is the best there is, and says what it refuses.
    let alone = said(
        &[
            &["tune", "--device", "rtx4090", "--out", shown(&dir.path().join("alone"))][..],
            &base,
            &FIXED,
        ]
        .concat(),
    );
    assert!(alone.contains("On rtx4090 0.5 % of the prompts do not fit ("), "{alone}");
}

#[test]
fn more_failures_than_the_target_allows_are_named_and_not_infinite() {
    let dir = TempDir::new().unwrap();
    let few = trace(&dir, 200, 50, 90_000);
    let out = dir.path().join("out");
    let base = ["--workload", shown(&few), "--device", "rtx4090", "--slo", "ttft=5s"];
    let bench = [&["bench"][..], &base, &FIXED, &["--out", shown(&out)]].concat();
    let text = said(&bench);
    assert!(
        text.contains("p99 TTFT against 5 s: missed, as 2 % of the prompts do not fit"),
        "{text}"
    );
    assert!(text.contains("2 % of the prompts do not fit (4 of 200): up to 9"), "{text}");
    let [beside, searched] = ["beside", "searched"].map(|name| dir.path().join(name));
    let compare = ["compare", "--policy", "paged,chunked", "--no-claims", "--out", shown(&beside)];
    let beside = said(&[&compare[..], &base, &FIXED[2..]].concat());
    let both = "With paged and chunked 2 % of the prompts do not fit (4 of 200)";
    assert!(beside.contains(both), "{beside}");
    let tune = knee(&[&["tune", "--out", shown(&searched)][..], &base, &FIXED].concat());
    assert_eq!(tune.status.code(), Some(2));
    let text = String::from_utf8(tune.stdout).unwrap();
    assert!(text.contains("2 % of the prompts do not fit"), "{text}");
    assert!(!text.contains('∞'), "{text}");
}

#[test]
fn a_prompt_beyond_the_context_window_is_refused_as_an_engine_would() {
    let dir = TempDir::new().unwrap();
    let few = trace(&dir, 100, 10, 5000);
    let base = ["bench", "--workload", shown(&few), "--model", "llama-2-13b"];
    let cut = json(&base);
    assert_eq!((&cut["completed"], &cut["rejected"]), (&Value::from(90), &Value::from(10)));
    assert_eq!(cut["unfit"]["beyond"][0]["bound"], "context-window");
    assert_eq!(cut["unfit"]["beyond"][0]["tokens"], 4096);
    let all = json(&[&base[..], &["--allow-long-context"]].concat());
    assert_eq!(
        (&all["completed"], &all["unfit"]["requests"]),
        (&Value::from(100), &Value::from(0))
    );
    let told = |more: &[&str]| {
        let out = knee(&[&base[..], more].concat());
        assert!(!out.status.success());
        String::from_utf8(out.stderr).unwrap()
    };
    assert_eq!(
        told(&["--max-model-len", "8192"]),
        "knee: max-model-len 8192 is beyond the 4096 tokens of llama-2-13b's context window: lower it, or add \
         --allow-long-context\n"
    );
    let inspect = said(&["trace", "inspect", shown(&few), "--model", "llama-2-13b"]);
    assert!(
        inspect.contains("llama-2-13b: 10 % of the prompts do not fit (10 of 100)"),
        "{inspect}"
    );
    assert!(inspect.contains("--cut 4096 shortens them"), "{inspect}");
    let fits = said(&["trace", "inspect", "chat", "--model", "llama-3.1-8b"]);
    assert!(fits.contains("every prompt fits its context window of 131072 tokens"), "{fits}");
}

#[test]
fn targets_that_hold_alone_may_be_missed_together() {
    let dir = TempDir::new().unwrap();
    // Every 40th prompt is slow to start, every 40th response (others) long: 2.5 % and 2.5 % of requests.
    let mut text = "arrival_s,prompt_tokens,completion_tokens\n".to_owned();
    for i in 0..400 {
        let (input, output) = match i % 40 {
            10 => (40_000, 10),
            30 => (100, 900),
            _ => (100, 10),
        };
        let _ = writeln!(text, "{},{input},{output}", 20 * i);
    }
    let path = dir.path().join("two.csv");
    std::fs::write(&path, text).unwrap();
    let slo = ["--slo", "ttft=500ms", "--slo", "e2e=4s", "--attainment", "97%"];
    let bench = [&["bench", "--workload", shown(&path)][..], &slo].concat();
    let (flat, out) = (json(&bench), dir.path().join("out"));
    assert_eq!((&flat["attainment"], &flat["slo_met"]), (&Value::from(0.95), &Value::from(false)));
    assert!(flat["targets"].as_array().unwrap().iter().all(|t| t["met"] == true), "{flat}");
    assert_eq!(flat["all_targets"]["met"], false);
    let text = said(&[&bench[..], &["--out", shown(&out)]].concat());
    assert!(text.contains("all targets: 95.0 % of requests against 97.0 %: missed"), "{text}");
    let page = std::fs::read_to_string(out.join("report.html")).unwrap();
    assert!(page.contains("All targets: 95.0 % of requests against 97.0 %: missed"));
}

#[test]
fn offered_requests_are_told_from_completed_ones() {
    let dir = TempDir::new().unwrap();
    let out = dir.path().join("out");
    let overload = ["bench", "--rate", "1e6", "--requests", "200", "--out", shown(&out)];
    let text = said(&overload);
    assert!(text.contains("was offered 1,000,000 requests/s of chat and completed "), "{text}");
    assert!(!text.contains(" served "), "{text}");
    let page = std::fs::read_to_string(out.join("report.html")).unwrap();
    assert!(page.contains("was offered 1,000,000 requests/s"));
}

#[test]
fn a_capacity_is_never_above_the_rate_of_a_saturated_run() {
    let loose = ["--requests", "1500", "--slo", "e2e=600s"];
    let flat = json(&[&["bench", "--saturated"][..], &loose, &FIXED].concat());
    let most = flat["request_throughput_rps"].as_f64().unwrap();
    let tuned = json(&[&["tune"][..], &loose, &FIXED, &["--block-size", "16"]].concat());
    let capacity = tuned["best"]["capacity_rps"].as_f64().unwrap();
    let config: Vec<String> = tuned["best"]["config"]
        .as_object()
        .unwrap()
        .iter()
        .filter(|(knob, _)| *knob != "policy")
        .flat_map(|(knob, value)| [format!("--{knob}"), value.as_str().unwrap().to_owned()])
        .collect();
    let own: Vec<&str> = config.iter().map(String::as_str).collect();
    let own = json(&[&["bench", "--saturated"][..], &loose, &own].concat());
    assert!(capacity <= own["request_throughput_rps"].as_f64().unwrap(), "{capacity}");
    // Such a load is worked off soon after its end, but it cannot go on for ever.
    let above = (most * 1.03).to_string();
    let run = json(&[&["bench", "--rate", &above][..], &loose, &FIXED].concat());
    assert_eq!(run["sustained"], false, "{most}");
}

#[test]
fn a_simulated_model_needs_only_its_config_json() {
    let dir = TempDir::new().unwrap();
    let small = r#"{"model_type": "llama", "hidden_size": 2048, "num_hidden_layers": 16, "num_attention_heads": 32,
        "num_key_value_heads": 8, "intermediate_size": 8192, "vocab_size": 128256, "rms_norm_eps": 1e-5,
        "max_position_embeddings": 4096, "rope_theta": 500000.0"#;
    let model = |name: &str, more: &str| {
        let path = dir.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, format!("{small}{more}}}")).unwrap();
        path
    };
    let bench = |model: &str| {
        let words = ["bench", "--rate", "1", "--requests", "50", "--json", "--model", model];
        knee(&words)
    };
    let (file, folder) = (model("small.json", ""), model("own/config.json", ""));
    let folder = folder.parent().unwrap();
    for (path, name) in [
        (shown(&file), "small"),
        (shown(folder), "own"),
        (shown(&folder.join("config.json")), "own"),
    ] {
        let out = bench(path);
        let said: Value = serde_json::from_slice(&out.stdout).expect("JSON on standard output");
        assert_eq!(said["model"], name);
    }
    assert!(bench("meta-llama/Llama-3.1-8B-Instruct").status.success());
    // The later of two equal keys counts.
    for (more, is_simulated, why) in [
        (", \"num_local_experts\": 8, \"num_experts_per_tok\": 2", true, ""),
        (", \"model_type\": \"mistral\", \"sliding_window\": 1024", true, ""),
        (", \"num_local_experts\": 8", false, "it does not say `num_experts_per_tok`"),
        (
            ", \"layer_types\": [\"riddle\"]",
            false,
            "attention `riddle` of model_type `llama` is not known",
        ),
    ] {
        let out = bench(shown(&model("other.json", more)));
        let said = String::from_utf8_lossy(&out.stderr).into_owned();
        assert!(out.status.success() == is_simulated && said.contains(why), "{said}");
    }
}

#[test]
fn an_exported_command_fits_the_memory_it_was_simulated_with() {
    let dir = TempDir::new().unwrap();
    let out = dir.path().join("out");
    let tune = ["tune", "--device", "rtx4090", "--slo", "ttft=5s", "--requests", "100"];
    said(&[&tune[..], &FIXED, &["--out", shown(&out)]].concat());
    let report: Value =
        serde_json::from_str(&std::fs::read_to_string(out.join("report.json")).unwrap()).unwrap();
    let tuned = &report["report"]["tune"];
    let slots = tuned["result"]["best"]["work"]["kv_slots"].as_u64().unwrap();
    for export in tuned["exports"].as_array().unwrap() {
        let text = export["text"].as_str().unwrap().replace(['\'', '\n', '-', '\\'], " ");
        let mut words = text.split_whitespace();
        let flag = ["len", "length", "max_seq_len"];
        let before = words.by_ref().find(|word| flag.contains(word));
        let tokens: u64 = words.next().and_then(|n| n.parse().ok()).unwrap_or(0);
        assert!(before.is_some() && tokens > 0 && tokens <= slots, "{tokens} of {slots}: {export}");
    }
}
