//! Results that are kept when a command is killed, interrupted, or cannot write.

use super::*;

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
fn ctrl_c_keeps_finished_runs() {
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
    let blocked = knee(&with(QUICK, &["-q", "--out", other.path().to_str().unwrap()]));
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
        ("--model", "mistral-7b", "--model was not given, and is mistral-7b"),
        ("--seed", "5", "--seed was not given, and is 5"),
        ("--slo", "itl=1s", "itl=1s"),
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

#[test]
fn results_that_could_not_be_written_are_refused_before_the_work() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    std::fs::write(&file, "").unwrap();
    let below = file.join("out");
    let said = refused(&["tune", "--slo", "ttft=1s", "--out", below.to_str().unwrap()]);
    assert!(said.contains("cannot write"), "{said}");
}
