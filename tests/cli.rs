//! The binary from outside: what people and scripts see.

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

/// Runs `knee` with these words.
fn knee(args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_knee"));
    command.args(args).env("RUST_BACKTRACE", "1").output().expect("the binary starts")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// What a refusal says: one line on standard error, a non-zero exit, no panic.
fn refused(args: &[&str]) -> String {
    let out = knee(args);
    let said = text(&out.stderr);
    assert!(!out.status.success(), "{args:?} succeeded: {}", text(&out.stdout));
    assert!(!said.contains("panicked") && !said.contains("backtrace"), "{args:?}: {said}");
    assert_eq!(said.trim_end().lines().count(), 1, "{args:?}: {said}");
    said.trim_end().to_owned()
}

fn json(args: &[&str]) -> Value {
    let out = knee(args);
    assert!(out.status.success(), "{args:?}: {}", text(&out.stderr));
    serde_json::from_slice(&out.stdout).expect("JSON on standard output")
}

fn assert_fits(schema: &str, value: &Value) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/schemas").join(schema);
    let schema = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let validator = jsonschema::validator_for(&schema).expect("a valid schema");
    let errors: Vec<String> =
        validator.iter_errors(value).map(|e| format!("{} at {}", e, e.instance_path())).collect();
    assert!(errors.is_empty(), "{errors:#?}");
}

/// The JSON of a run that had an answer, but not the one hoped for: nothing holds the targets.
fn json_of_nothing(args: &[&str]) -> Value {
    let out = knee(args);
    assert_eq!(out.status.code(), Some(2), "{args:?}: {}", text(&out.stderr));
    serde_json::from_slice(&out.stdout).expect("JSON on standard output")
}

/// A narrow search: seconds on a slow machine, not minutes.
const QUICK: &[&str] =
    &["tune", "--slo", "ttft=1s", "--slo", "tpot=30ms", "--requests", "400", "--max-seqs", "128"];

fn with<'a>(base: &[&'a str], more: &[&'a str]) -> Vec<&'a str> {
    [base, more].concat()
}

#[test]
fn a_knob_that_can_do_nothing_is_refused() {
    let tune = ["tune", "--slo", "ttft=1s", "--gpus", "2"];
    for (args, knob, rest) in [
        (with(&tune, &["--policy", "continuous", "--block-size", "32"]), "block-size 32", "16"),
        (with(&tune, &["--policy", "paged", "--prompt-kv", "chunk"]), "prompt-kv chunk", "whole"),
        (vec!["bench", "--policy", "static", "--prefix-cache", "on"], "prefix-cache on", "off"),
        (vec!["bench", "--router", "round-robin"], "router round-robin", "least-loaded"),
        (vec!["compare", "--policy", "static,chunked", "--mix", "on"], "mix on", "off"),
    ] {
        let said = refused(&args);
        assert!(said.contains(&format!("{knob} does nothing without ")), "{said}");
        assert!(said.ends_with(&format!(": leave it at {rest}")), "{said}");
    }
}

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

/// Where figures are missing or infinite, too.
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
fn a_plan_says_what_decided_and_tables_count_gpus() {
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
fn a_schema_refuses_what_lacks_a_key() {
    let mut value = json(&["bench", "--requests", "50", "--json"]);
    value.as_object_mut().unwrap().remove("p99_itl_ms");
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/schemas/bench.json");
    let schema = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    assert!(!jsonschema::is_valid(&schema, &value));
}

/// Without what depends on the machine and the moment.
fn timeless(mut value: Value) -> Value {
    let object = value.as_object_mut().unwrap();
    ["wall_s", "cpu_s", "host"].into_iter().for_each(|k| drop(object.remove(k)));
    value
}

#[test]
fn a_result_does_not_depend_on_threads() {
    let one = timeless(json(&with(QUICK, &["--threads", "1", "--json"])));
    let three = timeless(json(&with(QUICK, &["--threads", "3", "--json"])));
    assert_eq!(one, three);
}

#[test]
fn a_killed_study_resumes_to_the_same_result() {
    let whole = tempfile::tempdir().unwrap();
    let cut = tempfile::tempdir().unwrap();
    let dir = |d: &tempfile::TempDir| d.path().to_str().unwrap().to_owned();
    let (whole_dir, cut_dir) = (dir(&whole), dir(&cut));
    let expected = timeless(json(&with(QUICK, &["--out", &whole_dir, "--json"])));
    for pause in [150, 300, 600] {
        let mut child = Command::new(env!("CARGO_BIN_EXE_knee"))
            .args(with(QUICK, &["--out", &cut_dir, "--json"]))
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(std::time::Duration::from_millis(pause));
        child.kill().unwrap();
        child.wait().unwrap();
    }
    let resumed = timeless(json(&with(QUICK, &["--out", &cut_dir, "--json"])));
    assert_eq!(resumed, expected);
    let stored = std::fs::read_to_string(cut.path().join("result.json")).unwrap();
    assert_eq!(timeless(serde_json::from_str(&stored).unwrap()), expected);
}

#[test]
fn ctrl_c_keeps_what_is_finished() {
    let out = tempfile::tempdir().unwrap();
    let child = Command::new(env!("CARGO_BIN_EXE_knee"))
        .args(["tune", "--slo", "ttft=1s", "--exhaustive", "--out", out.path().to_str().unwrap()])
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    std::thread::sleep(std::time::Duration::from_millis(1500));
    let killed = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(killed.success());
    let done = child.wait_with_output().unwrap();
    assert_eq!(done.status.code(), Some(130), "{}", text(&done.stderr));
    let stored = std::fs::read_to_string(out.path().join("result.json")).unwrap();
    let result: Value = serde_json::from_str(&stored).unwrap();
    assert_eq!(result["interrupted"], true);
    assert!(result["trials"].as_u64().unwrap() > 0);
}

#[test]
fn ctrl_c_ends_a_comparison() {
    let child = Command::new(env!("CARGO_BIN_EXE_knee"))
        .args(["compare", "--slo", "ttft=1s", "--json"])
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    std::thread::sleep(std::time::Duration::from_millis(400));
    assert!(
        Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success()
    );
    let done = child.wait_with_output().unwrap();
    assert_eq!(done.status.code(), Some(130), "{}", text(&done.stderr));
    assert_eq!(text(&done.stderr).lines().count(), 1);
    assert!(done.stdout.is_empty());
}

#[test]
fn bad_targets_are_named() {
    let say = |slo: &str| refused(&["tune", "--slo", slo]);
    assert!(say("latency=1s").contains("ttft"), "{}", say("latency=1s"));
    assert!(say("ttft=200").contains("ttft=200ms"), "{}", say("ttft=200"));
    assert!(say("ttft=-1ms").contains("ttft=-1ms"), "{}", say("ttft=-1ms"));
    assert!(say("ttft:p101=1s").contains("p101"), "{}", say("ttft:p101=1s"));
    assert!(say("ttft@vip=1s").contains("vip"), "{}", say("ttft@vip=1s"));
}

#[test]
fn bad_numbers_are_refused_where_they_are_typed() {
    for (args, says) in [
        (&["bench", "--rate", "0"][..], "above 0"),
        (&["bench", "--rate", "-3"], "above 0"),
        (&["bench", "--rate", "nan"], "above 0"),
        (&["bench", "--rate-scale", "inf"], "above 0"),
        (&["bench", "--rate", "1e-9"], "250 years"),
        (&["compare", "--rates", "4,0"], "above 0"),
        (&["compare", "--rates", "-1"], "above 0"),
        (&["compare", "--rates", "1e-300"], "250 years"),
        (&["bench", "--requests", "0"], "from 1"),
        (&["bench", "--requests", "-1"], "from 1"),
        (&["tune", "--gpus", "0"], "from 1 to 1024"),
        (&["tune", "--gpus", "4294967295"], "from 1 to 1024"),
        (&["tune", "--threads", "0"], "from 1 to 1024"),
        (&["tune", "--threads", "-1"], "from 1 to 1024"),
        (&["trace", "synth", "chat", "--seed", "-1"], "from 0"),
        (&["plan", "--demand", "-5rps"], "above 0"),
        (&["plan", "--demand", "nanrps"], "above 0"),
        (&["plan", "--demand", "5rps", "--headroom", "-1%"], "0% to below 100%"),
        (&["plan", "--slo", "ttft=1s"], "--demand"),
        (&["tune", "--max-sequences", "3"], "--max-seqs"),
        (&["bench", "--rate", "3", "--saturated"], "--saturated"),
        (&["trace", "inspect", "chat", "--time-unit", "hour"], "s, ms, us or ns"),
        (&["trace", "inspect", "chat", "--format", "azure"], "--format"),
        (&["bench", "--arrival-rate", "3"], "--arrival-rate"),
    ] {
        let said = refused(args);
        assert!(said.contains(says), "{args:?}: {said}");
    }
}

/// Nothing that is wrong with a file of settings takes more than a line to say, or leaves out which file it is.
#[test]
fn bad_settings_are_named_with_their_file() {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    for (text, says) in [
        ("# knobs\nmax-seqs 3\n", "knobs.toml:2: "),
        ("max-seqs = [1]\n", "knobs.toml: max-seqs must be a single value"),
        ("max-seqs = \"many\"\n", "knobs.toml: max-seqs = `many`: expected a whole number"),
        ("max-seq = 3\n", "knobs.toml: unknown knob `max-seq`"),
    ] {
        let said = refused(&["bench", "--config", &file("knobs.toml", text)]);
        assert!(said.contains(says), "{said}");
    }
    for flag in ["--device", "--model"] {
        let said = refused(&["bench", flag, &file("thing.toml", "\nname = 3\n")]);
        assert!(said.contains("thing.toml:2: ") && said.matches("name").count() < 2, "{said}");
    }
    let said = refused(&["bench", "--model", "nosuch.toml"]);
    assert_eq!(said.matches("No such file").count(), 1, "{said}");
}

/// Files beyond a limit, which end as on a full disk: what was found is printed, and each file that could be written is.
#[test]
#[cfg(target_os = "linux")]
fn a_full_disk_loses_no_answer() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().to_str().unwrap();
    let args = with(QUICK, &["--json"]);
    let expected = timeless(json(&args));
    let limited = std::process::Command::new("sh")
        .args(["-c", "trap '' XFSZ; ulimit -f 128; exec \"$@\"", "sh", env!("CARGO_BIN_EXE_knee")])
        .args(with(&args, &["--out", out]))
        .output()
        .unwrap();
    let found = serde_json::from_slice(&limited.stdout).expect("an answer");
    assert_eq!(timeless(found), expected);
    let said = text(&limited.stderr);
    assert_eq!(limited.status.code(), Some(1), "{said}");
    assert!(said.contains("File too large"), "{said}");
    // The same with one file only: its name is said, and the others are there.
    let other = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(other.path().join("result.json/in the way")).unwrap();
    let blocked = knee(&with(QUICK, &["--out", other.path().to_str().unwrap()]));
    let said = text(&blocked.stderr);
    assert_eq!((blocked.status.code(), said.lines().count()), (Some(1), 1), "{said}");
    assert!(said.contains("result.json") && !blocked.stdout.is_empty(), "{said}");
    for name in ["report.html", "report.json", "trials.csv", "requests.csv", "trace.json"] {
        assert!(other.path().join(name).is_file(), "{name}");
    }
}

#[test]
fn a_study_that_cannot_be_used_is_refused_with_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().to_str().unwrap();
    let args = with(QUICK, &["--out", out]);
    std::fs::write(dir.path().join("study.sqlite"), [7; 5000]).unwrap();
    let said = refused(&args);
    assert!(said.contains("study.sqlite") && said.contains("remove"), "{said}");
    std::fs::remove_file(dir.path().join("study.sqlite")).unwrap();
    assert!(knee(&args).status.success());
    for (flag, value, says) in [
        ("--model", "mistral-7b", "model = llama-3.1-8b, this run has mistral-7b"),
        ("--seed", "5", "trace"),
        ("--slo", "itl=1s", "itl:p99=1s"),
    ] {
        let said = refused(&with(&args, &[flag, value]));
        assert!(said.contains(says) && said.len() < 400, "{said}");
    }
    std::fs::write(dir.path().join("report.json"), "{\"tune\": 3").unwrap();
    let said = refused(&["report", out]);
    assert!(said.contains("report.json:1"), "{said}");
}

/// A full disk is an error, a closed pipe is not, and neither is a panic.
#[cfg(target_os = "linux")]
#[test]
fn outputs_that_take_nothing() {
    let run = |out: &str, err: &str| {
        let open = |path: &str| std::fs::OpenOptions::new().write(true).open(path).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_knee"));
        command.args(["trace", "inspect", "chat"]).stdout(open(out)).stderr(open(err));
        command.status().unwrap().code()
    };
    assert_eq!(run("/dev/full", "/dev/null"), Some(1));
    assert_eq!(run("/dev/full", "/dev/full"), Some(1));
    let mut child = Command::new(env!("CARGO_BIN_EXE_knee"))
        .args(["trace", "synth", "chat"])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    assert!(child.wait().unwrap().success());
}

/// A conversion that fails leaves what was there.
#[test]
fn conversions_are_whole_or_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let kept = dir.path().join("kept.csv");
    std::fs::write(&kept, "mine").unwrap();
    let to = kept.to_str().unwrap();
    let said = refused(&["trace", "synth", "agentic", "--to", "azure", "-o", to]);
    assert!(said.contains("use jsonl"), "{said}");
    assert_eq!(std::fs::read_to_string(&kept).unwrap(), "mine");
    let made = knee(&["trace", "synth", "rag-long", "--to", "azure", "-o", to]);
    assert!(text(&made.stderr).contains("no place for: prefix identities, sessions"));
}

#[test]
fn bad_names_are_met_with_the_good_ones() {
    assert!(refused(&["bench", "--model", "gpt-9"]).contains("llama-3.1-8b"));
    assert!(refused(&["bench", "--device", "tpu"]).contains("h100-sxm"));
    assert!(refused(&["bench", "--workload", "nosuch"]).contains("chat"));
    assert!(refused(&["tune", "--objective", "fame"]).contains("tokens-per-gpu"));
    assert!(refused(&["compare", "--policy", "magic"]).contains("static, continuous"));
    assert!(refused(&["bench", "--max-seqs", "0"]).contains("from 1 to 8192"));
    assert!(refused(&["plan", "--demand", "40"]).contains("40rps"));
    assert!(refused(&["trace", "synth", "nosuch"]).contains("nosuch"));
    assert!(refused(&["report", "nosuch"]).contains("nosuch"));
}

#[test]
fn a_model_that_does_not_fit_says_by_how_much() {
    let said = refused(&["bench", "--model", "llama-3.1-70b"]);
    assert!(said.contains("GB short") && said.contains("--tp"), "{said}");
}

#[test]
fn an_impossible_target_shows_the_nearest_feasible() {
    let out = knee(&["tune", "--slo", "ttft=1ms", "--requests", "200", "--max-seqs", "64"]);
    assert_eq!(out.status.code(), Some(2), "{}", text(&out.stderr));
    let said = text(&out.stdout);
    assert!(said.contains("nearest") && said.contains("ttft"), "{said}");
}

#[test]
fn traces_that_are_empty_or_too_short_are_refused_or_run() {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let empty = file("empty.csv", "");
    assert!(refused(&["bench", "--workload", &empty]).contains("empty.csv"));
    let header = file("header.csv", "TIMESTAMP,ContextTokens,GeneratedTokens\n");
    assert!(refused(&["tune", "--slo", "ttft=1s", "--workload", &header]).contains("no requests"));
    let one =
        file("one.csv", "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46.68,374,44\n");
    assert_eq!(json(&["bench", "--workload", &one, "--json"])["completed"], 1);
    assert!(refused(&["tune", "--slo", "ttft=1s", "--workload", &one]).contains("one request"));
    let at_once = "arrival_s,input_tokens,output_tokens\n5,10,10\n5,10,10\n";
    let at_once = file("at_once.csv", at_once);
    assert_eq!(json(&["bench", "--workload", &at_once, "--json"])["completed"], 2);
    for command in ["tune", "compare"] {
        assert!(refused(&[command, "--workload", &at_once]).contains("at one instant"));
    }
    assert!(refused(&["bench", "--workload", &at_once, "--rate", "2"]).contains("one instant"));
    let nothing = file("nothing.csv", "arrival_s,input_tokens,output_tokens\n5,0,0\n6,0,0\n");
    assert!(refused(&["tune", "--workload", &nothing]).contains("nothing to run"));
    let wrong = file(
        "wrong.csv",
        "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46.68,many,44\n",
    );
    assert!(refused(&["bench", "--workload", &wrong]).contains("wrong.csv:2:"));
    let unit = file("unit.csv", "timestamp,input_tokens,output_tokens\n0,10,1\n5,20,2\n");
    assert!(refused(&["bench", "--workload", &unit]).contains("unit"));
    let said = json(&["bench", "--workload", &unit, "--time-unit", "s", "--json"]);
    assert_eq!(said["requests"], 2);
}

#[test]
fn results_that_could_not_be_written_are_refused_before_the_work() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    std::fs::write(&file, "").unwrap();
    let below = file.join("out");
    let said = refused(&["tune", "--slo", "ttft=1s", "--out", below.to_str().unwrap()]);
    assert!(said.contains("cannot write"), "{said}");
}

/// Every command, those inside others too, as the help lists them.
fn commands(inside: &[String]) -> Vec<Vec<String>> {
    let asked = [&["help".to_owned()], inside].concat();
    let said =
        text(&Command::new(env!("CARGO_BIN_EXE_knee")).args(&asked).output().unwrap().stdout);
    let mut found = vec![inside.to_vec()];
    let listed = said.lines().skip_while(|l| *l != "Commands:").skip(1);
    let names = listed.take_while(|l| !l.is_empty()).filter(|l| !l.starts_with("   "));
    for name in names.filter_map(|l| l.split_whitespace().next()).filter(|name| *name != "help") {
        found.extend(commands(&[inside, &[name.to_owned()]].concat()));
    }
    found
}

#[test]
fn every_help_fits_its_terminal() {
    let all = commands(&[]);
    assert!(all.len() >= 20 && all.contains(&vec!["profile".to_owned(), "check".to_owned()]));
    for (command, (columns, most)) in
        all.iter().flat_map(|c| [("80", 80), ("200", 100)].map(|width| (c, width)))
    {
        let mut run = Command::new(env!("CARGO_BIN_EXE_knee"));
        let out = run.arg("help").args(command).env("COLUMNS", columns).output().unwrap();
        let said = text(&out.stdout);
        let wide = said.lines().find(|l| l.chars().count() > most);
        assert!(said.lines().count() > 3 && wide.is_none(), "{command:?}: {wide:?}");
    }
    assert!(text(&knee(&["--help"]).stdout).contains("Exit status"));
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
fn summaries_fit_a_terminal() {
    let runs: [&[&str]; 4] = [
        &["bench", "--requests", "200"],
        &["compare", "--requests", "300", "--slo", "ttft=1s"],
        QUICK,
        &["trace", "inspect", "chat"],
    ];
    for args in runs {
        let out = knee(args);
        assert!(out.status.success(), "{args:?}: {}", text(&out.stderr));
        let said = text(&out.stdout);
        assert!(said.lines().count() > 5, "{args:?}");
        for line in said.lines() {
            let pasted = line.trim_start().starts_with("vllm serve") || line.contains("--");
            assert!(line.chars().count() <= 100 || pasted, "{args:?}: {line}");
        }
        assert!(out.stderr.is_empty(), "no progress bar off a terminal: {}", text(&out.stderr));
    }
}

#[test]
fn a_synthesised_trace_reads_back() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("rag.jsonl");
    let file = path.to_str().unwrap();
    let made = knee(&["trace", "synth", "summarization", "--to", "mooncake", "-o", file]);
    assert!(made.status.success(), "{}", text(&made.stderr));
    let as_it_is = ["--format", "mooncake"];
    let made = json(&["trace", "inspect", "summarization", "--json"]);
    let read = json(&[&["trace", "inspect", file, "--json"], &as_it_is[..]].concat());
    assert_eq!(made["requests"], read["requests"]);
    assert_eq!(made["input"], read["input"]);
    let csv = dir.path().join("rag.csv");
    let to = ["trace", "convert", file, "--to", "azure", "-o", csv.to_str().unwrap()];
    assert!(refused(&to).contains("--format mooncake or --format guidellm"));
    assert!(knee(&[&to[..], &as_it_is[..]].concat()).status.success());
    let read = json(&["trace", "inspect", csv.to_str().unwrap(), "--json"]);
    assert_eq!(made["output"], read["output"]);
}

#[test]
fn reports_are_written_whole_and_rendered_again() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().to_str().unwrap();
    let bench = ["bench", "--requests", "200", "--slo", "ttft=1s", "--out", out];
    assert!(knee(&bench).status.success());
    let page = || std::fs::read_to_string(dir.path().join("report.html")).unwrap();
    let first = page();
    assert!(first.contains("<svg") && first.to_lowercase().contains("simulated"));
    std::fs::remove_file(dir.path().join("report.html")).unwrap();
    assert!(knee(&["report", out]).status.success());
    assert_eq!(page(), first);
}

/// A run of the simulator as a file of records, and the words that validate it.
fn own_run(dir: &Path) -> (String, String) {
    let (out, steps) = (dir.join("run"), dir.join("steps.csv"));
    let (out, steps) = (out.to_str().unwrap().to_owned(), steps.to_str().unwrap().to_owned());
    let mut trace = String::from("arrived_at,num_prefill_tokens,num_decode_tokens\n");
    for i in 0..300u32 {
        let (at, input, output) = (f64::from(i) * 0.03, 50 + i * 37 % 900, 1 + i * 29 % 250);
        trace += &format!("{at},{input},{output}\n");
    }
    let file = dir.join("trace.csv");
    std::fs::write(&file, trace).unwrap();
    let words = ["bench", "--workload", file.to_str().unwrap(), "--max-seqs", "64"];
    assert!(knee(&with(&words, &["--out", &out, "--steps", &steps])).status.success());
    (format!("{out}/requests.csv"), steps)
}

#[test]
fn its_own_run_validates_without_error() {
    let dir = tempfile::tempdir().unwrap();
    let (requests, _) = own_run(dir.path());
    let validate = ["validate", "--requests", &requests, "--max-seqs", "64", "--json"];
    let value = json(&validate);
    assert_fits("validate.json", &value);
    for metric in ["ttft", "tpot", "e2e"] {
        for statistic in ["mean", "p50", "p90", "p99"] {
            let error = value["errors"][metric][statistic].as_f64().unwrap();
            assert!(error.abs() < 1e-6, "{metric} {statistic} {error}");
        }
    }
    assert!(value["errors"]["throughput"].as_f64().unwrap().abs() < 1e-6);
    let fewer = ["validate", "--requests", &requests, "--max-seqs", "8", "--json"];
    assert!(json(&fewer)["errors"]["ttft"]["p99"].as_f64().unwrap() > 100.0, "other settings");
    let page = dir.path().join("page");
    let shown =
        ["validate", "--requests", &requests, "--max-seqs", "64", "--out", page.to_str().unwrap()];
    let out = text(&knee(&shown).stdout);
    assert!(out.contains("not validated near the knee") && out.contains("TTFT p99"), "{out}");
    assert!(
        out.lines().filter(|l| !l.starts_with("Report:")).all(|l| l.chars().count() <= 100),
        "{out}"
    );
    assert!(page.join("report.html").exists());
    assert!(text(&knee(&["report", page.to_str().unwrap()]).stdout).contains("TTFT p99"));
}

#[test]
fn a_log_of_steps_calibrates_to_the_profile_that_made_it() {
    let dir = tempfile::tempdir().unwrap();
    let (_, steps) = own_run(dir.path());
    let found = dir.path().join("c.toml");
    let found = found.to_str().unwrap();
    let words = ["calibrate", "--steps", &steps, "--to", found, "--json"];
    let value = json(&words);
    assert!(value["after"]["p99"].as_f64().unwrap() < 0.01, "{value}");
    let host = &value["coefficients"][0];
    let (before, after) = (host["before"].as_f64().unwrap(), host["after"].as_f64().unwrap());
    assert!((after / before - 1.0).abs() < 0.01, "{value}");
    // The file can be used both ways, and says so.
    for words in [["--calibration", found], ["--device", found]] {
        let bench = with(&["bench", "--requests", "50", "--json"], &words);
        assert_eq!(json(&bench)["device"], "h100-sxm (calibrated)");
    }
    let other = ["bench", "--requests", "50", "--device", "a100", "--calibration", found];
    assert!(refused(&other).contains("belongs to h100-sxm"));
}

#[test]
fn recorded_runs_that_cannot_be_read_say_where() {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let head = "arrival_s,prompt_len,output_len,ttft_ms,e2e_ms\n";
    let bad = file("bad.csv", &format!("{head}0,5,5,1,2\n1,x,5,1,2\n"));
    assert!(refused(&["validate", "--requests", &bad]).contains("bad.csv:3: prompt_len = `x`"));
    let none = file("none.csv", "a,b\n1,2\n");
    assert!(refused(&["validate", "--requests", &none]).contains("when requests arrived"));
    assert!(refused(&["validate", "--requests", "/nosuch.csv"]).contains("/nosuch.csv"));
    let good = file("good.csv", &format!("{head}0,5,5,1,2\n"));
    assert!(refused(&["validate", "--requests", &good, "--run", "x"]).contains("it holds good"));
    assert!(refused(&["validate", "--requests", &good, "--slo", "ttft"]).contains("ttft"));
    assert!(refused(&["calibrate", "--requests", &good]).contains("at least 20"));
    assert!(refused(&["calibrate"]).contains("--steps FILE or --requests FILE"));
    assert!(refused(&["calibrate", "--requests", &good, "--fit", "all"]).contains("--steps"));
    let series = file("t.csv", "t,running\n1,2\n");
    let with_series = ["validate", "--requests", &good, "--timeseries", &series];
    assert!(refused(&with_series).contains("t.csv:1: no column waiting"));
    let row = r#"{"prompt_token_ids": [1, 2, 3, 4, 5]}"#;
    for (prompts, said) in [
        (row.to_owned() + "\n{\"prompt\": 1}\n", "p.jsonl:2: missing field `prompt_token_ids`"),
        (row.replace(", 5", "") + "\n", "p.jsonl:1: a prompt of 4 tokens where the run recorded 5"),
        (format!("{row}\n{row}\n"), "p.jsonl: 2 prompts for 1 recorded requests"),
    ] {
        let prompts = file("p.jsonl", &prompts);
        let said_so = refused(&["validate", "--requests", &good, "--prompts", &prompts]);
        assert!(said_so.contains(said), "{said_so}");
    }
}

#[test]
fn devices_are_listed_with_what_was_measured_of_them() {
    let all = json(&["devices", "--json"]);
    let of = |name: &str| all.as_array().unwrap().iter().find(|d| d["name"] == name).unwrap();
    assert_eq!(
        (&of("h100-sxm")["measured"], &of("mi300x")["measured"]),
        (&true.into(), &false.into())
    );
    assert!(of("b200")["timed_under"].as_str().unwrap().starts_with("vLLM "));
    assert_eq!(of("mi300x")["borrowed_from"], "h200-sxm");
    let shown = text(&knee(&["devices"]).stdout).to_owned();
    assert!(
        shown.contains("borrowed from h200-sxm") && shown.lines().all(|l| l.chars().count() <= 100)
    );
}

#[test]
fn a_device_is_described_by_its_data_sheet() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("new.toml");
    let path = path.to_str().unwrap();
    let add = [
        "device",
        "add",
        "new-gpu",
        "--bf16",
        "990TFLOPS",
        "--fp8",
        "1980TFLOPS",
        "--link",
        "450GB/s",
    ];
    let add = with(&add, &["--memory", "141GB", "--price", "3", "--to", path]);
    assert!(refused(&with(&add, &["--bandwidth", "4.8"])).contains("with its unit"));
    assert!(knee(&with(&add, &["--bandwidth", "4.8TB/s"])).status.success());
    assert!(refused(&with(&add, &["--bandwidth", "4.8TB/s"])).contains("exists"));
    let few = ["tune", "--slo", "ttft=1s", "--requests", "200", "--max-seqs", "64", "--json"];
    let few = with(&few, &["--max-batch-tokens", "2048", "--policy", "chunked"]);
    let tuned = |device: &str, more: &[&str]| json(&with(&with(&few, &["--device", device]), more));
    let (own, like) = (tuned(path, &[]), tuned("h200-sxm", &[]));
    let capacity = |r: &Value| r["best"]["capacity_rps"].as_f64().unwrap();
    assert!(
        (capacity(&own) / capacity(&like) - 1.0).abs() < 0.05,
        "the same GPU under another name"
    );
    // Nothing of it was measured: the interval is wider.
    let width = |r: &Value| {
        let [low, high] = [0, 1].map(|i| r["answer"]["interval_rps"][i].as_f64().unwrap());
        high / low.max(1e-9)
    };
    assert!(width(&own) > width(&like), "{} {}", own["answer"], like["answer"]);
    assert!(
        own["devices"][0]["provenance"]
            .as_str()
            .unwrap()
            .contains("No operator of it was measured")
    );
}

#[test]
fn prices_are_ones_own() {
    let few = ["tune", "--slo", "ttft=1s", "--requests", "200", "--max-seqs", "64", "--json"];
    let few = with(&few, &["--max-batch-tokens", "2048", "--policy", "chunked"]);
    let tuned = |more: &[&str]| json(&with(&few, more));
    let own = tuned(&["--price", "h100=1.25"]);
    assert_eq!(own["best"]["usd_per_hour"], 1.25);
    assert_eq!(
        own["answer"]["interval_rps"],
        tuned(&[])["answer"]["interval_rps"],
        "a price changes no time"
    );
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("prices.toml");
    std::fs::write(&path, "h100-sxm = 2.75\nl40s = 0.9\n").unwrap();
    let file = ["--prices", path.to_str().unwrap()];
    assert_eq!(tuned(&file)["best"]["usd_per_hour"], 2.75);
    assert_eq!(tuned(&with(&file, &["--price", "h100-sxm=1"]))["best"]["usd_per_hour"], 1.0);
    assert!(refused(&with(&few, &["--price", "l40s=1"])).contains("none of the devices asked for"));
    assert!(refused(&with(&few, &["--price", "h100=free"])).contains("DEVICE=USD"));
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
fn another_engines_host_time_costs_and_is_named() {
    let bench =
        |more: &[&str]| json(&with(&["bench", "--requests", "200", "--rate", "4", "--json"], more));
    let own = bench(&[]);
    let (old, none) = (bench(&["--host-time", "vllm-v0"]), bench(&["--host-time", "none"]));
    let tpot = |run: &Value| run["mean_tpot_ms"].as_f64().unwrap();
    assert!(tpot(&none) < tpot(&own) && tpot(&own) < tpot(&old));
    assert_eq!(old["device"], "h100-sxm (host time: vllm-v0)");
}

/// The real engine on a model small enough for a test.
const TINY: &[&str] = &[
    "--device",
    "cpu",
    "--model",
    "tiny",
    "--requests",
    "12",
    "--cut",
    "96",
    "--kv-memory",
    "1MB",
];

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
    assert!(said.contains("take turns"), "{said}");
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

#[test]
fn what_this_machine_cannot_do_is_said_in_a_line() {
    let said = refused(&["bench", "--device", "cpu"]);
    assert!(said.contains("random weights"), "{said}");
    let said =
        refused(&["tune", "--device", "cpu,h100-sxm", "--model", "tiny", "--slo", "ttft=1s"]);
    assert!(said.contains("alone"), "{said}");
    let said = refused(&with(&["bench", "--kv-memory", "12"], &TINY[..4]));
    assert!(said.contains("unit"), "{said}");
    let said = refused(&with(&["bench", "--isa", "sse9"], &TINY[..4]));
    assert!(said.contains("this processor has") && said.contains("portable"), "{said}");
}

/// A log through a pipe, its columns named; and a session's name, which AIPerf takes as text only.
#[test]
fn traces_come_through_pipes_and_leave_for_aiperf() {
    let args = "trace convert - --to mooncake --map input=n.in --map output=n.out,time=at:s --map session=who";
    let mut child = Command::new(env!("CARGO_BIN_EXE_knee"))
        .args(args.split(' '))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let rows = b"{\"at\":5,\"n\":{\"in\":10,\"out\":2},\"who\":7}\n{\"at\":5.2504,\"n\":{\"in\":11,\"out\":3}}\n";
    child.stdin.take().unwrap().write_all(rows).unwrap();
    let done = child.wait_with_output().unwrap();
    assert_eq!(
        text(&done.stdout),
        "{\"timestamp\":0,\"input_length\":10,\"output_length\":2,\"session_id\":\"0\"}\n\
         {\"timestamp\":250,\"input_length\":11,\"output_length\":3}\n"
    );
}
