//! Mistakes on the command line are met with one line that says what works.

use super::*;

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

/// Every mistake in a file of settings is told on one line that names the file.
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

#[test]
fn bad_names_are_met_with_the_good_ones() {
    assert!(refused(&["bench", "--model", "gpt-9"]).contains("`knee models` lists"));
    assert!(refused(&["bench", "--model", "lama-3.1-8b"]).contains("did you mean llama-3.1-8b"));
    assert!(refused(&["bench", "--device", "tpu"]).contains("h100-sxm"));
    assert!(refused(&["bench", "--workload", "nosuch"]).contains("chat"));
    assert!(refused(&["tune", "--objective", "fame"]).contains("tokens-per-gpu"));
    assert!(refused(&["compare", "--policy", "magic"]).contains("static, continuous"));
    assert!(refused(&["bench", "--max-seqs", "0"]).contains("from 1 to 8192"));
    assert!(refused(&["trace", "synth", "nosuch"]).contains("nosuch"));
    assert!(refused(&["report", "nosuch"]).contains("nosuch"));
}

#[test]
fn a_model_that_does_not_fit_says_by_how_much() {
    let said = refused(&["bench", "--model", "llama-3.1-70b"]);
    assert!(said.contains("GB short") && said.contains("--tp"), "{said}");
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
fn limits_of_this_machine_are_told_on_one_line() {
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
