//! Terminal manners: colours, columns, loudness, progress, spellings, and advice that works when it is followed.

use std::io::{BufRead as _, BufReader};

use super::*;

/// The program at a terminal of its own, with these variables: what that shows.
fn at_a_terminal(variables: &[(&str, &str)], args: &[&str]) -> String {
    let dir = tempfile::tempdir().unwrap();
    let command = [&[env!("CARGO_BIN_EXE_knee")], args].concat().join(" ");
    let mut script = Command::new("script");
    script.args(["-qec", &command, "/dev/null"]).current_dir(dir.path());
    script.env_remove("NO_COLOR").env("TERM", "xterm").envs(variables.iter().copied());
    text(&script.stdin(Stdio::null()).output().expect("script, of util-linux, is there").stdout)
}

#[test]
fn colours_are_for_terminals_that_want_them() {
    let run = |variables: &[(&str, &str)]| {
        at_a_terminal(variables, &["bench", "--requests", "100", "--slo", "ttft=1s"])
    };
    assert!(run(&[]).contains("\u{1b}[1m"), "{}", run(&[]));
    for plain in [("NO_COLOR", "1"), ("TERM", "dumb")] {
        let said = run(&[plain]);
        assert!(!said.contains('\u{1b}') && said.contains("requests"), "{plain:?}: {said}");
    }
    assert!(run(&[("NO_COLOR", "")]).contains('\u{1b}'), "an empty NO_COLOR asks for nothing");
    // Help is coloured by the same rules.
    let help = |variables: &[(&str, &str)]| at_a_terminal(variables, &["tune", "--help"]);
    assert!(help(&[]).contains('\u{1b}') && !help(&[("NO_COLOR", "1")]).contains('\u{1b}'));
    for ci in [&[("TERM", "dumb")][..], &[("TERM", "dumb"), ("CI", "true")]] {
        assert!(!help(ci).contains('\u{1b}'), "{ci:?}");
    }
}

#[test]
fn columns_are_kept() {
    let dir = tempfile::tempdir().unwrap();
    let run = |columns: &str, args: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_knee"));
        let out = command.args(args).env("COLUMNS", columns).current_dir(dir.path()).output();
        text(&out.unwrap().stdout)
    };
    let commands: [&[&str]; 3] = [
        &["bench", "--requests", "100", "--slo", "ttft=1s"],
        &["compare", "--requests", "100", "--policy", "paged,chunked", "--no-claims"],
        QUICK,
    ];
    for args in commands {
        for (columns, most) in [("60", 60), ("1000", 100), ("nonsense", 100)] {
            let said = run(columns, args);
            let copied = |line: &str| line.contains("--") || line.starts_with("Report: ");
            let wide = said.lines().find(|l| l.chars().count() > most && !copied(l));
            assert!(said.lines().count() > 3 && wide.is_none(), "{args:?}, {columns}: {wide:?}");
        }
    }
}

#[test]
fn quiet_says_only_mistakes_and_verbose_says_more() {
    let dir = tempfile::tempdir().unwrap();
    let run = |args: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_knee"));
        let out = command.args(args).current_dir(dir.path()).output().unwrap();
        (out.status.success(), text(&out.stderr), text(&out.stdout))
    };
    // A model on a device that was not measured with it has a note.
    let noted = ["bench", "--model", "openai/gpt-oss-20b", "--device", "a40", "--requests", "20"];
    let (_, usual, answer) = run(&noted);
    assert!(usual.contains("note:"), "{usual}");
    for quiet in ["-q", "--quiet"] {
        let (good, said, quietly) = run(&with(&noted, &[quiet]));
        assert_eq!((good, said.as_str(), &quietly), (true, "", &answer));
    }
    assert_eq!(refused(&["-q", "bench", "--rate", "0"]).lines().count(), 1);
    let (_, said, _) = run(&with(QUICK, &["-v"]));
    let told = ["results go to knee-out", "study.sqlite: 0 runs remembered", " s\n"];
    assert!(told.iter().all(|part| said.contains(part)), "{said}");
    let (_, said, _) = run(&with(QUICK, &["--verbose"]));
    assert!(!said.contains(" 0 runs remembered"), "the same question goes on: {said}");
    assert!(refused(&["tune", "-q", "-v"]).contains("cannot be used with"));
}

#[test]
fn progress_is_told_now_and_then_where_nothing_can_be_drawn() {
    let dir = tempfile::tempdir().unwrap();
    let many = ["tune", "--slo", "ttft=1s", "--exhaustive", "--requests", "4000", "--gpus", "8"];
    let mut child = Command::new(env!("CARGO_BIN_EXE_knee"))
        .args(many)
        .current_dir(dir.path())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let line = lines.next().expect("a line before the end").unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(
        line.starts_with("knee: ") && line.contains(" of ") && !line.contains('\u{1b}'),
        "{line}"
    );
}

/// `args` run in `dir`: standard output, if it went well.
fn done(dir: &Path, args: &[&str]) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_knee"));
    let out = command.args(args).current_dir(dir).output().unwrap();
    assert!(out.status.success(), "{args:?}: {}", text(&out.stderr));
    text(&out.stdout)
}

#[test]
fn each_question_has_its_folder() {
    let dir = tempfile::tempdir().unwrap();
    let folders = || {
        let found = std::fs::read_dir(dir.path().join("knee-out")).unwrap();
        let mut names: Vec<_> =
            found.map(|f| f.unwrap().file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    };
    let bench = ["bench", "--requests", "50"];
    let latest = || std::fs::canonicalize(dir.path().join("knee-out/latest")).unwrap();
    let said = done(dir.path(), &bench);
    let first = latest();
    assert!(said.contains(first.file_name().unwrap().to_str().unwrap()), "{said}");
    assert_eq!(folders().len(), 2, "{:?}", folders());
    // The same question, whatever the order of flags and the form of the answer.
    done(dir.path(), &["bench", "--seed", "0", "--requests", "50"]);
    let other = latest();
    assert_ne!(first, other);
    done(dir.path(), &["bench", "-q", "--requests", "50", "--seed", "0"]);
    assert_eq!((folders().len(), latest()), (3, other));
    done(dir.path(), &bench);
    assert_eq!((folders().len(), latest()), (3, first));
    // `knee report` without a folder is about the latest.
    assert!(done(dir.path(), &["report"]).contains("knee-out/latest/report.html"));
    // A trace of the same name with another content is another question.
    let trace = dir.path().join("t.jsonl");
    for (n, seed) in [(4, "1"), (5, "2"), (5, "2")] {
        let written = done(dir.path(), &["trace", "synth", "chat", "--seed", seed]);
        let head: Vec<&str> = written.lines().take(60).collect();
        std::fs::write(&trace, head.join("\n") + "\n").unwrap();
        done(dir.path(), &["bench", "--workload", "t.jsonl"]);
        assert_eq!(folders().len(), n, "{:?}", folders());
    }
}

#[test]
fn a_folder_that_was_given_keeps_its_question() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().to_str().unwrap();
    let first = json(&with(QUICK, &["--out", out, "--json"]));
    let stored = || std::fs::read(dir.path().join("result.json")).unwrap();
    let before = stored();
    for (more, says) in [
        (&["--gpus", "2"][..], "--gpus was 1, and is 2"),
        (&["--model", "mistral-7b"], "--model was not given, and is mistral-7b"),
        (&["--slo", "itl=1s"], "--slo was ttft=1s,tpot=30ms, and is ttft=1s,tpot=30ms,itl=1s"),
    ] {
        let said = refused(&with(&with(QUICK, &["--out", out]), more));
        assert!(said.contains(says) && said.contains("another --out"), "{said}");
    }
    let said = refused(&["bench", "--out", out]);
    assert!(said.contains("knee tune, and this is knee bench"), "{said}");
    // A mistake leaves no question behind: it is corrected with the same folder.
    let other = dir.path().join("other");
    let other = other.to_str().unwrap();
    refused(&["bench", "--requests", "20", "--slo", "ttft=0.2", "--out", other]);
    done(dir.path(), &["bench", "--requests", "20", "--slo", "ttft=0.2s", "--out", other]);
    assert_eq!(stored(), before);
    // Threads and loudness are no part of it, and neither is how the targets are typed.
    let again = ["tune", "--slo", "ttft=1s,tpot=30ms", "--requests", "400", "--max-seqs", "128"];
    let again = json(&with(&again, &["--out", out, "--json", "--threads", "1", "-v"]));
    for part in ["answer", "best", "baselines", "trials", "simulated_requests"] {
        assert_eq!(again[part], first[part], "{part}");
    }
}

#[test]
fn runs_of_another_build_are_set_aside() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().to_str().unwrap();
    let args = with(QUICK, &["--out", out, "--json"]);
    let first = json(&args);
    // Another program is another build, though it computes the same.
    let other = dir.path().join("other-knee");
    std::fs::copy(env!("CARGO_BIN_EXE_knee"), &other).unwrap();
    let mut file = std::fs::OpenOptions::new().append(true).open(&other).unwrap();
    file.write_all(b"x").unwrap();
    drop(file);
    let run = Command::new(&other).args(&args).output().unwrap();
    let said = text(&run.stderr);
    assert!(said.contains("set aside as") && said.contains("study-1.sqlite"), "{said}");
    assert!(dir.path().join("study-1.sqlite").is_file());
    assert_eq!(timeless(serde_json::from_slice(&run.stdout).unwrap()), timeless(first));
}

#[test]
fn a_rate_is_written_in_one_way_everywhere() {
    let same = |runs: &[&[&str]]| {
        let all: Vec<Value> = runs.iter().map(|args| timeless(json(args))).collect();
        assert!(all.windows(2).all(|pair| pair[0] == pair[1]), "{runs:?}");
    };
    let bench = ["bench", "--requests", "60", "--json", "--rate"];
    let rates = ["3", "3rps", "180rpm", "3RPS", "180/min", "3req/s"];
    let all: Vec<Vec<&str>> = rates.iter().map(|rate| with(&bench, &[rate])).collect();
    same(&all.iter().map(Vec::as_slice).collect::<Vec<_>>());
    let plan = with(QUICK, &["--json"]);
    let plan = with(&["plan"], &plan[1..]);
    let all: Vec<Vec<&str>> = rates.iter().map(|r| with(&plan, &["--demand", r])).collect();
    same(&all[..3].iter().map(Vec::as_slice).collect::<Vec<_>>());
    for args in [
        &["compare", "--rates", "3,x"][..],
        &["plan", "--demand", "x"],
        &["check", "r", "--min-rps", "x"],
    ] {
        assert!(refused(args).contains("such as 2.5, 2.5rps or 150rpm"), "{}", refused(args));
    }
}

#[test]
fn names_are_known_in_any_case() {
    let lower = ["bench", "--model", "llama-3.1-8b", "--device", "h100-sxm", "--slo", "ttft=1s"];
    let lower = with(&lower, &["--workload", "chat", "--policy", "chunked", "--requests", "50"]);
    let upper = ["bench", "--model", "LLAMA-3.1-8B", "--device", "H100-SXM", "--slo", "TTFT=1s"];
    let upper = with(&upper, &["--workload", "CHAT", "--policy", "Chunked", "--requests", "50"]);
    let run = |args: &[&str]| timeless(json(&with(args, &["--json"])));
    assert_eq!(run(&lower), run(&upper));
    for args in [
        &["bench", "--host-time", "NONE", "--requests", "20"][..],
        &["bench", "--quantization", "FP8", "--requests", "20"],
        &["bench", "--prefix-cache", "ON", "--requests", "20"],
        &["tune", "--objective", "RPS", "--slo", "ttft=1s", "--max-seqs", "64", "--requests", "50"],
        &["trace", "synth", "chat", "--to", "JSONL"],
        &["compare", "--policy", "PAGED", "--no-claims", "--requests", "50"],
    ] {
        let dir = tempfile::tempdir().unwrap();
        done(dir.path(), args);
    }
}

#[test]
fn a_slip_is_met_with_what_was_meant() {
    for (args, meant) in [
        (&["bench", "--model", "lama-3.1-8b"][..], "llama-3.1-8b"),
        (&["bench", "--device", "h100-smx"], "h100-sxm"),
        (&["bench", "--device", "B20"], "b200"),
        (&["tune", "--slo", "tfft=200ms"], "ttft"),
        (&["trace", "convert", "x", "--to", "jsnol"], "jsonl"),
        (&["trace", "inspect", "x", "--format", "moooncake"], "mooncake"),
        (&["bench", "--workload", "caht"], "chat"),
        (&["tune", "--objective", "csot"], "cost"),
        (&["tune", "--max-sequences", "3"], "--max-seqs"),
        (&["tnue"], "tune"),
    ] {
        let said = refused(args);
        assert!(
            said.contains(meant) && said.to_lowercase().contains("mean")
                || said.contains("similar"),
            "{said}"
        );
    }
}

/// `args` changed as `said` advises.
fn followed(args: &[&str], said: &str) -> Vec<String> {
    let mut args: Vec<String> = args.iter().map(|a| (*a).to_owned()).collect();
    let word = |after: &str| {
        let rest = said.split_once(after)?.1;
        Some(rest.split([' ', ';', ',', '?']).next().unwrap().trim_end_matches('.').to_owned())
    };
    let quoted = || said.split(['`', '"']).nth(1).unwrap().to_owned();
    let mut set = |flag: String, value: String| match args.iter().position(|a| *a == flag) {
        Some(at) => args[at + 1] = value,
        None => args.extend([flag, value]),
    };
    if let Some(meant) = word("did you mean ") {
        let wrong = quoted();
        args.iter_mut().for_each(|arg| *arg = arg.replace(&wrong, &meant));
    } else if let Some(good) = word("Write ") {
        let wrong = good.trim_end_matches(|c: char| c.is_ascii_alphabetic()).to_owned();
        args.iter_mut().for_each(|arg| *arg = arg.replace(&wrong, &good));
    } else if let Some((_, advice)) = said.split_once("try --") {
        let mut words = advice.split_whitespace();
        let flag = format!("--{}", words.next().unwrap());
        set(flag, words.next().unwrap().trim_end_matches(['.', ';', ',']).to_owned());
    } else if let Some(rest) = word("leave it at ") {
        let knob = said.split_once("knee: ").unwrap().1.split(' ').next().unwrap();
        set(format!("--{knob}"), rest);
    } else if let Some(flag) = word("leave out ") {
        let at = args.iter().position(|a| *a == flag).unwrap();
        args.drain(at..at + 2);
    } else {
        panic!("no advice in: {said}");
    }
    args
}

#[test]
fn advice_works_when_it_is_followed() {
    let few = ["--requests", "60", "--slo", "ttft=5s", "--max-seqs", "64"];
    let seventy = ["--model", "llama-3.1-70b"];
    let narrow = ["--max-batch-tokens", "2048", "--policy", "chunked"];
    let tune = |more: &[&'static str]| [&["tune"], &few[..], &narrow[..], more].concat();
    for args in [
        [&["bench"][..], &few[..2], &seventy].concat(),
        [&["bench"][..], &few[..2], &seventy, &["--tp", "3"]].concat(),
        tune(&seventy),
        tune(&["--tp", "2"]),
        tune(&["--model", "llama-3.1-70b", "--device", "a100-sxm"]),
        [
            &["plan", "--demand", "2"][..],
            &few[..],
            &narrow[..],
            &seventy,
            &["--device", "h100-sxm"],
        ]
        .concat(),
        [&["plan", "--demand", "2"][..], &few[..], &narrow[..], &["--replicas", "2"]].concat(),
        vec!["bench", "--requests", "60", "--device", "h100-smx"],
        vec!["bench", "--requests", "60", "--model", "lama-3.1-8b"],
        vec!["bench", "--requests", "60", "--slo", "tfft=200ms"],
        vec!["bench", "--requests", "60", "--slo", "ttft=0.2"],
        vec!["bench", "--requests", "60", "--workload", "caht"],
        vec!["bench", "--requests", "60", "--policy", "continuous", "--block-size", "32"],
        vec!["trace", "synth", "chat", "--to", "jsnol"],
    ] {
        let dir = tempfile::tempdir().unwrap();
        let run = |args: &[String]| {
            let mut command = Command::new(env!("CARGO_BIN_EXE_knee"));
            let out =
                command.args(args).current_dir(dir.path()).env("COLUMNS", "100").output().unwrap();
            let said = text(&out.stderr) + &text(&out.stdout);
            (out.status.success(), said.split_whitespace().collect::<Vec<_>>().join(" "))
        };
        let typed: Vec<String> = args.iter().map(|a| (*a).to_owned()).collect();
        let (good, said) = run(&typed);
        assert!(!good, "{args:?} went well");
        let again = followed(&args, &said);
        let (good, then) = run(&again);
        assert!(good, "{args:?}: {said}\nfollowed as {again:?}: {then}");
    }
}

#[test]
fn an_address_is_written_in_one_way() {
    let said = |url: &str| refused(&["bench", "--requests", "2", "--url", url]);
    // Nobody listens on port 1: that is found out after the address was understood.
    let whole = said("http://localhost:1");
    for url in ["localhost:1", ":1", "1"] {
        assert_eq!(said(url), whole);
    }
    assert!(said("/v1").contains("such as http://localhost:8000"), "{}", said("/v1"));
    for args in
        [&["mock", "--listen", "nowhere"][..], &["serve", "--model", "tiny", "--listen", "a/b:1"]]
    {
        assert!(refused(args).contains("ADDRESS:PORT"), "{}", refused(args));
    }
}
