//! This machine as the device.

use super::*;

#[test]
fn the_real_engine_is_measured_and_says_so() {
    for policy in ["static", "continuous", "paged", "chunked"] {
        let run =
            json(&with(&with(&["bench", "--policy", policy, "--rate", "20", "--json"], TINY), &[]));
        assert_eq!(run["simulated"], false, "{policy}");
        assert_eq!(run["completed"], 12, "{policy}");
        assert!(run["device"].as_str().unwrap().starts_with("cpu (int8"), "{policy}");
        assert!(run["mean_ttft_ms"].as_f64().unwrap() > 0.0, "{policy}");
        let work = run["tokens_executed"].as_u64().unwrap();
        assert!(work >= run["iterations"].as_u64().unwrap(), "{policy}");
    }
    let flags = ["bench", "--pp", "2", "--saturated", "--kv-memory", "2MB", "--json"];
    let flags = with(&flags, &TINY[..8]);
    let run = json(&flags);
    assert_eq!((&run["completed"], &run["config"]["pp"]), (&12.into(), &"2".into()));
    let said = refused(&with(&flags, &["--replicas", "2"]));
    assert!(said.contains("leave one of the two at 1"), "{said}");
}

#[test]
fn this_machine_is_profiled_screened_and_decided_on() {
    let dir = tempfile::tempdir().unwrap();
    let profile = dir.path().join("cpu.toml");
    let profile = profile.to_str().unwrap();
    let made = json(&[
        "profile",
        "measure",
        "--model",
        "tiny",
        "--longest",
        "128",
        "--to",
        profile,
        "--json",
    ]);
    assert!(made["fit"]["gemm"]["rows"].as_u64().unwrap() > 20, "{made}");
    let tune = [
        "tune",
        "--slo",
        "ttft=10s",
        "--max-seqs",
        "8",
        "--max-batch-tokens",
        "256",
        "--cpu-profile",
        profile,
        "--json",
    ];
    let out = knee(&with(&tune, TINY));
    let result: Value = serde_json::from_slice(&out.stdout).expect("JSON on standard output");
    assert_fits("tune.json", &result);
    let answer = &result["answer"];
    assert_eq!(
        (&result["simulated"], &answer["source"]["simulated"]),
        (&false.into(), &false.into())
    );
    assert!(result["best"].is_null() && result["screening"]["simulated"] == true);
    assert!(answer["runs"].as_u64().unwrap() > 0, "{answer}");
    assert!(!answer["contenders"].as_array().unwrap().is_empty());
    let out = knee(&with(&with(&tune, &["--budget", "1ns"]), TINY));
    let result: Value = serde_json::from_slice(&out.stdout).expect("JSON on standard output");
    assert_fits("tune.json", &result);
    let answer = &result["answer"];
    assert_eq!((&answer["runs"], &answer["winner"]), (&0.into(), &Value::Null));
    assert_eq!((out.status.code(), &answer["out_of_time"]), (Some(2), &true.into()));
    let said = refused(&["tune", "--slo", "ttft=1s", "--budget", "1min"]);
    assert!(said.contains("--device cpu"), "{said}");
}

#[test]
fn the_engine_here_stands_beside_its_simulation() {
    let dir = tempfile::tempdir().unwrap();
    let check = ["profile", "check", "--repeats", "2", "--rate", "20", "--isa", "portable"];
    let out = with(&check, &["--json", "--out", dir.path().to_str().unwrap()]);
    let out = json(&with(&out, TINY));
    assert!(out["device"].as_str().unwrap().starts_with("cpu (int8 by portable, "), "{out}");
    let names: Vec<&str> =
        out["figures"].as_array().unwrap().iter().map(|f| f["name"].as_str().unwrap()).collect();
    assert_eq!(
        names,
        ["TTFT p50", "TTFT p99", "TPOT p50", "TPOT p99", "E2E p50", "E2E p99", "requests/s"]
    );
    for figure in out["figures"].as_array().unwrap() {
        assert_eq!(figure["measured"].as_array().unwrap().len(), 2, "{figure}");
        let (median, predicted) = (&figure["median"], &figure["predicted"]);
        let error = 100.0 * (predicted.as_f64().unwrap() / median.as_f64().unwrap() - 1.0);
        assert!((error - figure["error_percent"].as_f64().unwrap()).abs() < 1e-6, "{figure}");
    }
    let page = std::fs::read_to_string(dir.path().join("report.html")).unwrap();
    assert!(page.contains("MEASURED") && page.contains("SIMULATED"));
    let said = refused(&with(&["profile", "check", "--capacity"], TINY));
    assert!(said.contains("--slo"), "{said}");
}
