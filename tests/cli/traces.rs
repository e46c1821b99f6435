//! Traces and recorded runs through the program and back.

use super::*;

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
