//! `knee tune --launch` from outside: servers started, searched, and ended whatever happens.
//!
//! The servers are `knee mock`, whose flags are tried like any server's, shells that misbehave, and `knee serve`.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

mod common;

use common::workload;

const KNEE: &str = env!("CARGO_BIN_EXE_knee");

fn tune(launch: &str, words: &[&str]) -> Command {
    let mut command = Command::new(KNEE);
    command.args([
        "tune",
        "--launch",
        launch,
        "--slo",
        "ttft=300ms",
        "--probe",
        "1s",
        "--workload",
    ]);
    command.arg(workload()).args(words).current_dir(workload().parent().unwrap());
    command.env_remove("OPENAI_API_KEY");
    command
}

/// A mock of four slots that can be told from others by its model's name.
fn mock(model: &str) -> String {
    format!(
        "{KNEE} mock --listen 127.0.0.1:{{port}} --ttft 20ms --slots 4 --model {model} {{flags}}"
    )
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {}", said(output)))
}

/// Processes with `mark` in their command line, besides those that only mention it in a `--launch`.
fn running(mark: &str) -> usize {
    let command = |entry: std::fs::DirEntry| std::fs::read(entry.path().join("cmdline")).ok();
    let all = std::fs::read_dir("/proc").unwrap().filter_map(Result::ok).filter_map(command);
    let words = |line: Vec<u8>| line.split(|b| *b == 0).any(|word| word == mark.as_bytes());
    all.filter(|line| words(line.clone())).count()
}

/// The contender that won.
fn winner(found: &Value) -> &Value {
    let at = found["answer"]["winner"].as_u64().unwrap();
    &found["answer"]["contenders"][at as usize]
}

fn standing<'a>(found: &'a Value, label: &str) -> &'a Value {
    let all = found["answer"]["contenders"].as_array().unwrap();
    let one = all.iter().find(|c| c["label"] == label);
    &one.unwrap_or_else(|| panic!("{label} of {all:?}"))["standing"]
}

#[test]
fn the_best_flags_win_and_a_server_that_cannot_start_is_a_trial() {
    let dir = TempDir::new().unwrap();
    let out = dir.path().to_str().unwrap();
    let knobs = ["--knob", "itl=sulk,1ms,200ms", "--out", out, "--budget", "90s"];
    let output = tune(&mock("the-best"), &knobs).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    let shown = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(shown.contains("MEASURED") && shown.contains("Itl sulk FAILED"), "{shown}");
    let read = |name: &str| std::fs::read_to_string(dir.path().join(name)).unwrap();
    let found: Value = serde_json::from_str(&read("result.json")).unwrap();
    assert_eq!(winner(&found)["flags"], "--itl 1ms");
    assert!(found["command"].as_str().unwrap().ends_with("--model the-best --itl 1ms"));
    // Four slots, 20 ms and five more tokens of 1 ms each: 160 requests/s; by default 20 ms each: 33. A second of too
    // much is not yet 300 ms late, so that a third more may pass.
    let carries = |label| standing(&found, label)["carries"].as_f64().unwrap();
    assert!((120.0..215.0).contains(&carries("itl 1ms")), "{}", carries("itl 1ms"));
    let own = carries("the server's own defaults");
    assert!((10.0..45.0).contains(&own), "{own}");
    assert_eq!(found["capacity_rps"], found["rate_rps"], "the figures are of the best");
    let failed = &standing(&found, "itl sulk")["failed"];
    assert!(failed["why"].as_str().unwrap().contains("before it took requests"), "{failed}");
    assert!(failed["last_lines"].to_string().contains("sulk"), "{failed}");
    assert!(standing(&found, "itl 200ms")["beaten"].is_number());
    assert!(read("server-02.log").contains("sulk"));
    let page = read("report.html");
    assert!(page.contains("Servers that failed") && page.contains("--itl 1ms"));
    let again = Command::new(KNEE).args(["report", out]).output().unwrap();
    assert!(again.status.success() && page == read("report.html"));
    assert_eq!(running("the-best"), 0);
}

#[test]
fn the_end_of_a_search_before_its_time_is_told_everywhere() {
    let dir = TempDir::new().unwrap();
    let out = dir.path().to_str().unwrap();
    let words = ["--slo", "tpot=100ms", "--knob", "itl=200ms", "--out", out, "--budget", "30s"];
    let output = tune(&mock("the-slow"), &words).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    let read = |name: &str| std::fs::read_to_string(dir.path().join(name)).unwrap();
    let found: Value = serde_json::from_str(&read("result.json")).unwrap();
    let slow = &found["answer"]["contenders"][1];
    assert_eq!((&slow["label"], &slow["standing"]), (&"itl 200ms".into(), &"nothing".into()));
    let why = "one request at a time misses the targets";
    assert!(slow["note"].as_str().unwrap().contains(why), "{slow}");
    assert!(found["answer"]["contenders"][0].get("note").is_none());
    let shown =
        String::from_utf8_lossy(&output.stdout).split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(shown.contains("Itl 200ms: the search ended early"), "{shown}");
    assert!(shown.contains(why) && read("report.html").contains(why), "{shown}");
}

#[test]
fn any_misbehaving_server_is_one_failed_trial() {
    let why = |launch: &str, words: &[&str]| {
        let words = [&["--json", "--knob", "x=1", "--ready-timeout", "3s"], words].concat();
        let output = tune(launch, &words).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{}", said(&output));
        let found = json(&output);
        assert!(found["capacity_rps"].is_null() && found["answer"]["winner"].is_null());
        assert_eq!(found["answer"]["contenders"].as_array().unwrap().len(), 2);
        standing(&found, "x 1")["failed"].to_string()
    };
    let exits = why("echo loading; echo no memory >&2; exit 3; : {port} {flags}", &[]);
    assert!(exits.contains("ended with status 3") && exits.contains("no memory"), "{exits}");
    let never = why(": {flags} {port}; sleep 1234", &[]);
    assert!(never.contains("took no requests within 3 s"), "{never}");
    let killed = why(": {flags} {port}; kill -9 $$", &[]);
    assert!(killed.contains("signal 9"), "{killed}");
    let hangs = format!(": {{flags}}; {}", mock("the-hung").replace("{flags}", "--fault hang"));
    let hangs = why(&hangs, &["--timeout", "1s"]);
    assert!(hangs.contains("timeout") && hangs.contains("Serving on"), "{hangs}");
    let other = why(": {flags}; sleep 1234", &["--url", "ftp://nowhere"]);
    assert!(other.contains("http://"), "{other}");
    assert_eq!((running("1234"), running("the-hung")), (0, 0));
}

#[test]
fn a_server_that_dies_under_load_has_failed() {
    let dies = format!(
        ": {{flags}}; {} & sleep 3; kill -9 $!; exit 9",
        mock("the-dead").replace("{flags}", "")
    );
    let output = tune(&dies, &["--json", "--knob", "x=1"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{}", said(&output));
    let found = json(&output);
    let failed = &standing(&found, "x 1")["failed"];
    let why = failed["why"].as_str().unwrap();
    assert_eq!(why, "it ended with status 9 while it was measured");
    assert!(
        found["answer"]["load_s"].as_f64().unwrap() > 0.0,
        "what it was tried with is kept: {found}"
    );
}

/// Starts a search of mocks called `mark` and waits until a rate has held.
fn under_way(mark: &str, out: &Path) -> std::process::Child {
    let words = ["--knob", "itl=1ms", "--out", out.to_str().unwrap()];
    let mut command = tune(&mock(mark), &words);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let held = lines.map_while(Result::ok).find(|l| l.contains(": holds"));
    assert!(held.is_some() && running(mark) > 0);
    child
}

fn signal(child: &std::process::Child, name: &str) {
    let id = child.id().to_string();
    assert!(Command::new("kill").args([name, &id]).status().unwrap().success());
}

#[test]
fn an_interruption_keeps_results_and_ends_the_server() {
    let dir = TempDir::new().unwrap();
    let child = under_way("the-interrupted", dir.path());
    signal(&child, "-INT");
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130));
    assert_eq!(running("the-interrupted"), 0);
    let found = std::fs::read(dir.path().join("result.json")).unwrap();
    let found: Value = serde_json::from_slice(&found).unwrap();
    assert_eq!(found["interrupted"], true);
    assert!(standing(&found, "the server's own defaults")["carries"].is_number(), "{found}");
    assert_eq!(*standing(&found, "itl 1ms"), serde_json::json!({"untried": "interrupted"}));
    assert!(String::from_utf8_lossy(&output.stdout).contains("interrupted"));
}

#[test]
fn an_interrupted_search_goes_on_where_it_was() {
    let dir = TempDir::new().unwrap();
    let child = under_way("the-resumed", dir.path());
    signal(&child, "-KILL");
    child.wait_with_output().unwrap();
    let words = ["--knob", "itl=1ms", "--out", dir.path().to_str().unwrap()];
    let read = || -> Value {
        let found = std::fs::read(dir.path().join("result.json")).unwrap();
        serde_json::from_slice(&found).unwrap()
    };
    let resumed = tune(&mock("the-resumed"), &words).output().unwrap();
    assert_eq!(resumed.status.code(), Some(0), "{}", said(&resumed));
    assert!(said(&resumed).contains("are not repeated"), "{}", said(&resumed));
    // The one that was broken off is started once more: half a search is no answer.
    assert_eq!(said(&resumed).matches("ready after").count(), 2, "{}", said(&resumed));
    let whole = read();
    assert_eq!(winner(&whole)["flags"], "--itl 1ms");
    // Once more: everything is known, no server is started, and all is as it was.
    let again = tune(&mock("the-resumed"), &words).output().unwrap();
    assert_eq!(again.status.code(), Some(0), "{}", said(&again));
    assert_eq!(said(&again).matches("measured before").count(), 2, "{}", said(&again));
    assert!(!said(&again).contains("ready after"), "{}", said(&again));
    let timeless = |mut found: Value| {
        ["wall_s", "cpu_s"]
            .iter()
            .for_each(|key| drop(found.as_object_mut().unwrap().remove(*key)));
        found
    };
    assert_eq!(timeless(read()), timeless(whole));
    // Of another server it knows nothing.
    let other = tune(&mock("another"), &words).output().unwrap();
    assert!(
        other.status.code() == Some(1) && said(&other).contains("--launch was "),
        "{}",
        said(&other)
    );
}

#[test]
fn a_server_that_leaves_its_group_is_ended_too() {
    let dir = TempDir::new().unwrap();
    let mark = format!("4321.{}", std::process::id());
    let launch = format!(
        ": {{flags}}; (setsid sleep {mark} &); {}",
        mock("the-daemon").replace("{flags}", "")
    );
    let words = ["--knob", "x=1", "--tries", "1", "--json", "--budget", "2s"];
    let words = [&words[..], &["--out", dir.path().to_str().unwrap()]].concat();
    let output = tune(&launch, &words).output().unwrap();
    assert!(json(&output)["answer"]["contenders"].is_array());
    assert_eq!((running(&mark), running("the-daemon")), (0, 0));
}

#[test]
fn no_server_survives_its_parent() {
    let dir = TempDir::new().unwrap();
    let mut child = under_way("the-orphan", dir.path());
    signal(&child, "-KILL");
    child.wait().unwrap();
    let began = Instant::now();
    while running("the-orphan") > 0 {
        assert!(began.elapsed() < Duration::from_secs(20), "it lives on");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn a_simulation_says_which_are_worth_starting() {
    let launch = format!(": {{flags}}; {}", mock("the-screened").replace("{flags}", "--itl 1ms"));
    let words = ["--json", "--device", "h100-sxm", "--model", "llama-3.1-8b", "--tries", "1"];
    let knobs = ["--knob", "max-num-seqs=1,64,4096", "--knob", "swap-space=4", "--budget", "10s"];
    let output = tune(&launch, &[&words[..], &knobs].concat()).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    let found = json(&output);
    let all = found["answer"]["contenders"].as_array().unwrap();
    let labels: Vec<&str> = all.iter().map(|c| c["label"].as_str().unwrap()).collect();
    assert_eq!(
        labels,
        [
            "the server's own defaults",
            "max-num-seqs 64, swap-space 4",
            "max-num-seqs 4096, swap-space 4",
            "max-num-seqs 1, swap-space 4"
        ]
    );
    let predicted = |i: usize| all[i]["predicted_rps"].as_f64();
    assert!(predicted(0).is_none() && predicted(1) > predicted(3) && predicted(3) > Some(0.0));
    assert!(
        all[2]["standing"]["untried"].as_str().unwrap().contains("4096"),
        "more seats than tokens"
    );
    assert_eq!(all[3]["standing"]["untried"], "1 others come before it");
}

#[test]
fn our_own_engine_is_launched_like_any_other() {
    let serve = format!(
        "{KNEE} serve --model tiny --precision f32 --kv-memory 20MiB --port {{port}} {{flags}}"
    );
    let words =
        ["--json", "--flags", "knee", "--knob", "max-seqs=1,8", "--budget", "30s", "--exhaustive"];
    let output = tune(&serve, &[&words[..], &["--slo", "e2e=5s"]].concat()).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    let found = json(&output);
    assert!(found["capacity_rps"].as_f64().unwrap() > 0.0 && found["model"] == "tiny");
    let carries = |label| standing(&found, label).get("carries").and_then(Value::as_f64);
    assert!(carries("the server's own defaults").is_some(), "{found}");
}

#[test]
fn mistakes_are_one_line() {
    let refused = |launch: &str, words: &[&str]| {
        let output = tune(launch, words).output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{launch} {words:?}");
        assert_eq!(said(&output).lines().count(), 1, "{}", said(&output));
        said(&output)
    };
    let good = mock("the-mistaken");
    assert!(refused("serve --port {port}", &[]).contains("{flags}"));
    assert!(refused("serve {flags}", &[]).contains("{port}"));
    assert!(refused(&good, &["--max-seqs", "8"]).contains("--knob"));
    assert!(refused(&good, &["--knob", "max-num-seqs"]).contains("NAME=VALUE"));
    assert!(refused(&good, &["--knob", "x=1", "--knob", "x=2"]).contains("listed twice"));
    assert!(refused(&good, &["--flags", "knee", "--knob", "sulk=1"]).contains("sulk"));
    assert!(refused(&good, &["--flags", "klingon"]).contains("klingon"));
    assert!(refused(&good, &["--device", "h100-sxm"]).contains("--model"));
    assert!(refused(&good, &["--device", "cpu", "--model", "tiny"]).contains("cpu"));
    let alone = Command::new(KNEE).args(["tune", "--knob", "x=1"]).output().unwrap();
    assert!(said(&alone).contains("--launch"), "{}", said(&alone));
}
