//! Engines as they are listed, named and told.

use super::{QUICK, json, knee, refused, text, with};
use serde_json::Value;

/// A light load of one size, so that latencies are those of an engine with little to do.
const LIGHT: &[&str] =
    &["bench", "--isl", "500", "--osl", "50", "--requests", "400", "--rate", "2", "--json"];

fn figure(run: &Value, name: &str) -> f64 {
    run[name].as_f64().unwrap_or_else(|| panic!("no {name} in {run}"))
}

#[test]
fn engines_are_listed_with_versions_and_sources() {
    let all = json(&["engines", "--json"]);
    let names: Vec<&str> =
        all.as_array().unwrap().iter().map(|e| e["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["vllm", "sglang", "tensorrt-llm", "knee"]);
    let versions = all[0]["versions"].as_array().unwrap();
    let of = |version: &str| versions.iter().find(|v| v["version"] == version).unwrap();
    assert_eq!(of("0.15")["measured"], true);
    assert_eq!(of("0.32")["times_of"], "vllm@0.15");
    assert_eq!(of("0.11")["defaults"]["async-scheduling"], "off");
    assert_eq!(of("0.14")["defaults"]["async-scheduling"], "on");
    assert!(versions.iter().all(|v| !v["host"]["source"].as_str().unwrap().is_empty()));
    let shown = text(&knee(&["engines"]).stdout);
    assert!(shown.contains("vllm          0.15") && shown.contains("of vllm@0.15"), "{shown}");
}

#[test]
fn latencies_contain_the_front_end() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("own.toml");
    let with_front_end = |ms: &str| {
        let front = format!(
            "like = \"vllm@0.15\"\nname = \"here\"\n[front_end]\nrequest_ms = {ms}\ntoken_us = 2.0\nspread = 0.0\nsource = \"us\"\n"
        );
        std::fs::write(&path, front).unwrap();
        json(&with(LIGHT, &["--engine", path.to_str().unwrap()]))
    };
    let (none, some) = (with_front_end("0.0"), with_front_end("20.0"));
    for latency in ["mean_ttft_ms", "mean_e2e_ms"] {
        let more = figure(&some, latency) - figure(&none, latency);
        assert!((more - 20.0).abs() < 0.5, "{latency}: {more}");
    }
    let more = figure(&some, "mean_tpot_ms") - figure(&none, "mean_tpot_ms");
    assert!(more.abs() < 0.05, "tokens come as before: {more}");
}

#[test]
fn planning_ahead_shortens_iterations_as_the_version_does() {
    let tpot = |engine: &str, more: &[&str]| {
        figure(&json(&with(&with(LIGHT, &["--engine", engine]), more)), "mean_tpot_ms")
    };
    let (old, new) = (tpot("vllm@0.13", &[]), tpot("vllm@0.15", &[]));
    assert!(new < old, "{new} {old}");
    let off = tpot("vllm@0.15", &["--async-scheduling", "off"]);
    assert!((off - old).abs() < 0.02 * old, "{off} {old}: the same host time, hidden by neither");
}

#[test]
fn an_engine_is_searched_by_what_it_can_be_told() {
    let found = json(&with(QUICK, &["--engine", "vllm", "--json"]));
    let space: Vec<&str> =
        found["space"].as_array().unwrap().iter().map(|s| s.as_str().unwrap()).collect();
    assert!(space.contains(&"policy in chunked"), "{space:?}");
    let config = &found["best"]["config"];
    assert_eq!((&config["scheduler"], &config["allocator"]), (&"chunked".into(), &"paged".into()));
    assert_eq!(
        (&config["async-scheduling"], &config["kv-fraction"]),
        (&"on".into(), &"0.92".into())
    );
    assert_eq!(found["engine"], "vllm");
    assert!(found["engines"].is_null(), "no other engine is shown beside it");
    let notes = found["notes"].to_string();
    assert!(notes.contains("vllm@0.32 was not measured"), "{notes}");
    let said = text(&knee(&with(QUICK, &["--engine", "sglang"])).stdout);
    assert!(said.contains("sglang.launch_server"), "{said}");
}

#[test]
fn without_an_engine_the_best_of_each_is_shown() {
    let found = json(&with(QUICK, &["--json"]));
    let engines = found["engines"].as_array().unwrap();
    let names: Vec<&str> = engines.iter().map(|e| e["engine"].as_str().unwrap()).collect();
    assert_eq!(names, ["vllm", "sglang", "tensorrt-llm"]);
    let rps = |best: &Value| best["capacity_rps"].as_f64().unwrap();
    for engine in engines {
        assert!(rps(&engine["best"]) <= 1.0001 * rps(&found["best"]), "{engine}");
    }
    assert_eq!(found["best"]["config"]["queue"], "fcfs");
}

#[test]
fn mistakes_about_engines_are_named() {
    let bench = |more: &[&str]| refused(&with(LIGHT, more));
    assert!(bench(&["--engine", "vlm"]).contains("did you mean vllm?"));
    assert_eq!(
        bench(&["--engine", "vllm@0.15", "--queue", "shortest-prefill"]),
        "knee: vLLM cannot be told queue shortest-prefill: V1 knows fcfs and priority"
    );
    assert!(
        bench(&["--engine", "vllm@0.15", "--policy", "static"])
            .contains("cannot be told scheduler static")
    );
    let here = ["bench", "--device", "cpu", "--model", "tiny", "--engine", "vllm"];
    assert!(refused(&here).contains("--engine is of simulations"));
}
