//! The answers of searches, plans and benchmarks.

use super::*;

#[test]
fn a_knob_that_is_set_is_kept() {
    let base = ["tune", "--slo", "ttft=5s", "--requests", "60", "--max-seqs", "64"];
    let more = ["--max-batch-tokens", "1024", "--gpus", "2", "--policy", "disagg", "--json"];
    let set = ["--prompt-kv", "chunk", "--max-queue", "500"];
    let best = &json(&[&base[..], &more, &set].concat())["best"]["config"];
    assert_eq!((&best["prompt-kv"], &best["max-queue"]), (&"chunk".into(), &"500".into()));
}

#[test]
fn json_fits_its_schemas() {
    assert_fits("tune.json", &json(&with(QUICK, &["--json"])));
    assert_fits("bench.json", &json(&["bench", "--requests", "200", "--slo", "ttft=1s", "--json"]));
    let compare = ["compare", "--requests", "300", "--slo", "ttft=1s", "--json"];
    assert_fits("compare.json", &json(&compare));
}

/// The JSON fits its schemas also if figures are missing or infinite.
#[test]
fn json_of_poor_results_fits_its_schemas() {
    let few = ["--requests", "60", "--max-seqs", "64", "--json"];
    let impossible = json_of_nothing(&with(&["tune", "--slo", "ttft=1ms"], &few));
    assert!(impossible["best"].is_null() && !impossible["infeasible"]["nearest"].is_null());
    assert_fits("tune.json", &impossible);
    let plan = ["plan", "--demand", "5rps", "--device", "h100-sxm", "--slo", "ttft=1ms"];
    let unplanned = json_of_nothing(&with(&plan, &few));
    assert!(unplanned["plans"].as_array().unwrap().is_empty());
    assert_fits("tune.json", &unplanned);
    let large = ["plan", "--demand", "5rps", "--device", "h100-sxm", "--model", "llama-3.1-70b"];
    let too_large = json_of_nothing(&with(&large, &few));
    assert!(too_large.to_string().contains("GB short"));
    assert_fits("tune.json", &too_large);
    assert_fits("tune.json", &json(&with(&["tune"], &few)));
    for more in [&["--max-model-len", "10"][..], &["--saturated"], &["--rate", "1e4"]] {
        let bench = with(&["bench", "--requests", "60", "--slo", "ttft=1s", "--json"], more);
        assert_fits("bench.json", &json(&bench));
    }
    let compare = ["compare", "--requests", "60", "--no-claims", "--policy", "static,disagg"];
    assert_fits("compare.json", &json(&with(&compare, &["--slo", "ttft=1ms", "--json"])));
}

/// Two, where one replica may take two, are of no use to a demand that one carries.
#[test]
fn to_allow_more_gpus_never_costs_more() {
    let plan = |demand: &str, gpus: &str| {
        let args = ["plan", "--demand", demand, "--slo", "ttft=500ms", "--slo", "tpot=25ms"];
        let less = ["--device", "h100-sxm", "--requests", "500", "--max-batch-tokens", "2048"];
        let value = json(&with(&with(&args, &less), &["--gpus", gpus, "--json"]));
        assert_fits("tune.json", &value);
        let plan = &value["plans"][0];
        let replicas = plan["simulated_replicas"].as_f64().unwrap();
        let each = value["best"]["capacity_rps"].as_f64().unwrap() / replicas;
        let enough = (plan["demand_rps"].as_f64().unwrap() / (0.9 * each)).ceil();
        assert_eq!(plan["deployments"].as_f64().unwrap(), enough.max(replicas));
        assert!(!value["chosen"]["rule"].is_null());
        (plan["usd_per_hour"].as_f64().unwrap(), plan["gpus"].as_u64().unwrap())
    };
    assert_eq!(plan("1rps", "1").1, 1);
    assert_eq!(plan("1rps", "4").1, 1);
    let (one, two) = (plan("25rps", "1"), plan("25rps", "2"));
    assert!(two.0 <= one.0, "{two:?} after {one:?}");
}

#[test]
fn a_plan_names_its_reason_and_tables_count_gpus() {
    let args = ["plan", "--demand", "25rps", "--slo", "ttft=500ms", "--device", "h100-sxm"];
    let out = tempfile::tempdir().unwrap();
    let dir = out.path().to_str().unwrap();
    let less = ["--requests", "500", "--max-batch-tokens", "2048", "--out", dir];
    let said = knee(&with(&args, &less));
    assert!(said.status.success(), "{}", text(&said.stderr));
    let terminal = text(&said.stdout);
    let flat = terminal.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(
        flat.contains("Chosen ") && flat.contains("the next best of all deployments"),
        "{terminal}"
    );
    let page = std::fs::read_to_string(out.path().join("report.html")).unwrap();
    assert!(page.contains("the next best of all deployments") && page.contains("req/s per GPU"));
    let trials = std::fs::read_to_string(out.path().join("trials.csv")).unwrap();
    assert!(trials.lines().next().unwrap().ends_with("capacity_rps_per_gpu"));
    assert!(refused(&with(&args, &["--replicas", "2"])).contains("leave out --replicas"));
}

#[test]
fn a_schema_refuses_a_result_without_a_key() {
    let mut value = json(&["bench", "--requests", "50", "--json"]);
    value.as_object_mut().unwrap().remove("p99_itl_ms");
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/schemas/bench.json");
    let schema = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    assert!(!jsonschema::is_valid(&schema, &value));
}

#[test]
fn a_result_does_not_depend_on_threads() {
    let one = timeless(json(&with(QUICK, &["--threads", "1", "--json"])));
    let three = timeless(json(&with(QUICK, &["--threads", "3", "--json"])));
    assert_eq!(one, three);
}

#[test]
fn an_impossible_target_shows_the_nearest_feasible() {
    let out = knee(&["tune", "--slo", "ttft=1ms", "--requests", "200", "--max-seqs", "64"]);
    assert_eq!(out.status.code(), Some(2), "{}", text(&out.stderr));
    let said = text(&out.stdout);
    assert!(said.contains("nearest") && said.contains("ttft"), "{said}");
}

/// Once by its name and once by another is still one device.
#[test]
fn a_device_is_searched_once() {
    let few = ["--slo", "ttft=1s", "--requests", "60", "--max-seqs", "64", "--json"];
    let candidates =
        |devices| json(&with(&["tune", "--device", devices], &few))["candidates"].clone();
    assert_eq!(candidates("h100-sxm,h100,h100-sxm"), candidates("h100-sxm"));
}

#[test]
fn the_closed_loop_of_the_field_is_simulated() {
    let of = |more: &[&str]| json(&with(&["bench", "--isl", "512", "--osl", "64", "--json"], more));
    let (few, many) =
        (of(&["--concurrency", "2"]), of(&["--concurrency", "32", "--range-ratio", "0.8"]));
    assert_eq!((&few["requests"], &many["requests"]), (&20.into(), &320.into()), "ten a stream");
    let figure = |r: &Value, name: &str| r[name].as_f64().unwrap();
    assert!(figure(&few, "mean_batch") <= 2.0 && figure(&many, "mean_batch") <= 32.0);
    assert!(figure(&many, "mean_batch") > 20.0, "the loop is kept full");
    assert!(figure(&many, "mean_tpot_ms") > figure(&few, "mean_tpot_ms"));
    let said = refused(&["bench", "--isl", "512", "--osl", "64", "--workload", "chat"]);
    assert!(said.contains("--workload"), "{said}");
    assert!(refused(&["bench", "--isl", "512"]).contains("--osl"));
}

#[test]
fn another_engines_host_time_costs() {
    let bench =
        |more: &[&str]| json(&with(&["bench", "--requests", "200", "--rate", "4", "--json"], more));
    let own = bench(&[]);
    let (old, none) = (bench(&["--host-time", "vllm-v0"]), bench(&["--host-time", "none"]));
    let tpot = |run: &Value| run["mean_tpot_ms"].as_f64().unwrap();
    assert!(tpot(&none) < tpot(&own) && tpot(&own) < tpot(&old));
    let both = ["bench", "--engine", "vllm", "--host-time", "none"];
    assert!(refused(&both).contains("cannot be used with"));
}

#[test]
fn less_context_takes_fewer_gpus() {
    let plan = [
        "plan",
        "--demand",
        "60rps",
        "--slo",
        "ttft=2s",
        "--slo",
        "tpot=50ms",
        "--requests",
        "600",
    ];
    let knobs = ["--policy", "chunked", "--max-seqs", "128", "--max-batch-tokens", "2048"];
    let device = ["--device", "h100-sxm", "--workload", "code", "--context", "2k,4k", "--json"];
    let found = json(&with(&with(&plan, &knobs), &device));
    assert_fits("tune.json", &found);
    let tiers = found["tiers"].as_array().unwrap();
    let figure = |i: usize, name: &str| tiers[i][name].as_f64().unwrap();
    assert_eq!((figure(0, "context"), figure(1, "context")), (4096.0, 2048.0));
    assert!(1.0 > figure(0, "share") && figure(0, "share") > figure(1, "share"));
    let gpus = |plan: &Value| plan["gpus"].as_u64().unwrap();
    let all = gpus(&found["plans"][0]);
    assert!(all >= gpus(&tiers[0]["plan"]) && gpus(&tiers[0]["plan"]) > gpus(&tiers[1]["plan"]));
    assert!(refused(&["plan", "--demand", "1rps", "--context", "16q"]).contains("16k"));
}

/// The example for notebooks, run as it stands. A machine without Python has nothing to run it with.
#[test]
fn python_reads_answers() {
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/from_python.py");
    let mut python = Command::new("python3");
    let run = python.arg(example).env("KNEE", env!("CARGO_BIN_EXE_knee")).output();
    let Ok(out) = run else {
        eprintln!("no python3: the example is not run");
        return;
    };
    assert!(out.status.success(), "{}", text(&out.stderr));
    let said = text(&out.stdout);
    let rows: Vec<Vec<&str>> = said.lines().map(|l| l.split('\t').collect()).collect();
    assert_eq!((rows.len(), rows[0].len()), (3, 6), "{said}");
    let rate = |row: &[&str]| row[1].parse::<f64>().unwrap();
    assert!(rate(&rows[1]) < rate(&rows[2]) && rows[1][5].starts_with("chunked"), "{said}");
}

/// Lists and descriptions, of what ships and of a file as poor as one can be.
#[test]
fn json_of_lists_fits_its_schemas() {
    assert_fits("devices.json", &json(&["devices", "--json"]));
    assert_fits("engines.json", &json(&["engines", "--json"]));
    assert_fits("models.json", &json(&["models", "--json"]));
    assert_fits("models.json", &json(&["models", "openai/gpt-oss-120b", "--json"]));
    let dir = tempfile::tempdir().unwrap();
    let one = dir.path().join("one.csv");
    std::fs::write(&one, "timestamp,input_tokens,output_tokens\n0,5,1\n").unwrap();
    let file = ["trace", "inspect", one.to_str().unwrap(), "--time-unit", "s", "--json"];
    assert_fits("trace.json", &json(&file));
    for more in [&[][..], &["--model", "llama-2-13b"]] {
        assert_fits("trace.json", &json(&with(&["trace", "inspect", "agentic", "--json"], more)));
    }
}

/// Decodes with drafts bring more tokens each, as many more as the acceptance says.
#[test]
fn drafts_shorten_decodes() {
    let light = ["bench", "--rate", "0.5", "--requests", "60", "--slo", "ttft=1s", "--json"];
    let of = |more: &[&str]| json(&with(&light, more));
    let tpot = |value: &Value| value["mean_tpot_ms"].as_f64().unwrap();
    let plain = of(&[]);
    let drafted = of(&["--speculation", "prompt-lookup", "--acceptance", "1.6/1.9"]);
    assert_fits("bench.json", &drafted);
    let ratio = tpot(&plain) / tpot(&drafted);
    // Three drafted tokens, half of the second's successes for the third: 2.05 tokens a decode that takes a little longer.
    assert!(ratio > 1.8 && ratio < 2.05, "{ratio}");
    let counts = ["tokens_drafted", "tokens_accepted"].map(|key| drafted[key].as_f64().unwrap());
    assert!(counts[1] / counts[0] > 0.3 && counts[1] / counts[0] < 0.4, "{counts:?}");
    let told = refused(&with(&light, &["--speculation", "prompt-lookup"]));
    assert!(told.contains("no measured acceptance of prompt-lookup drafts"), "{told}");
    let told = refused(&with(&light, &["--speculation", "mtp"]));
    assert!(told.contains("has no draft head (MTP)"), "{told}");
    let told = refused(&with(&light, &["--draft-tokens", "4"]));
    assert!(told.contains("draft-tokens 4 does nothing without"), "{told}");
}

/// A draft head is priced, kept in memory, and as good as was measured for the model.
#[test]
fn a_draft_head_is_a_layer_more() {
    let large = ["bench", "--model", "zai-org/GLM-5-FP8", "--device", "h200-sxm", "--tp", "8"];
    let of = |more: &[&str]| {
        let light = ["--rate", "0.2", "--requests", "30", "--slo", "ttft=5s", "--json"];
        json(&with(&with(&large, &light), more))
    };
    let (plain, drafted) = (of(&[]), of(&["--speculation", "mtp", "--draft-tokens", "2"]));
    let figure = |value: &Value, key: &str| value[key].as_f64().unwrap();
    assert!(figure(&drafted, "kv_slots") < figure(&plain, "kv_slots"));
    let ratio = figure(&plain, "mean_tpot_ms") / figure(&drafted, "mean_tpot_ms");
    // 2.5 tokens a decode, for two passes of one layer of 78 and of the vocabulary head, and more experts.
    assert!(ratio > 1.4 && ratio < 2.5, "{ratio}");
}
