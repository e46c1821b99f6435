//! Text for people: help, summaries and reports.

use super::*;

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
        // Many flags stand in groups, each under its heading.
        let flags = said.lines().filter(|l| l.trim_start().starts_with('-')).count();
        let headings = said.lines().filter(|l| l.ends_with(':') && !l.starts_with(' ')).count();
        assert!(flags < 20 || headings >= 4, "{command:?}: {flags} flags, {headings} headings");
    }
    assert!(text(&knee(&["--help"]).stdout).contains("Exit status"));
    // Without a terminal, too.
    let said = text(&knee(&["tune", "--help"]).stdout);
    assert!(said.lines().all(|l| l.chars().count() <= 100));
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
        let beside = text(&out.stderr);
        assert!(!beside.contains(['\r', '\u{1b}']), "no progress bar off a terminal: {beside}");
    }
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

/// Disaggregation too, whoever wins.
#[test]
fn equal_rates_have_every_policy() {
    for policy in ["", "disagg"] {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().to_str().unwrap();
        let few = ["tune", "--slo", "ttft=5s", "--requests", "40", "--gpus", "2", "--out", out];
        let pinned = ["--max-seqs", "64", "--max-batch-tokens", "1024"];
        let policy = if policy.is_empty() { vec![] } else { vec!["--policy", policy] };
        let done = knee(&[&few[..], &pinned, &policy].concat());
        assert!(done.status.success(), "{}", text(&done.stderr));
        let page = std::fs::read_to_string(dir.path().join("report.html")).unwrap();
        let (_, after) = page.split_once("At equal rates").expect("a section");
        let table = after.split_once("<h2>").map_or(after, |(table, _)| table);
        for name in ["static", "continuous", "paged", "chunked", "disagg"] {
            assert!(table.contains(&format!("<td>{name}</td>")), "{name}");
        }
    }
}
