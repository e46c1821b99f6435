//! `scripts/gpu-check run` with parts that stand for real ones: each costs its cap at most, whatever it does, and what was
//! measured before is kept, in few files of bounded size.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn script() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/gpu-check")
}

fn run(out: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new("bash");
    command.arg(script()).arg("run").arg("--out").arg(out).args(arguments);
    command.output().expect("bash is there")
}

/// Name and status of each part.
fn table(out: &Path) -> Vec<(String, String)> {
    let text = std::fs::read_to_string(out.join("table.txt")).unwrap();
    let line = |line: &str| {
        let (part, rest) = line.split_once(' ').unwrap();
        let (_, status) = rest.split_once(" s   ").unwrap();
        (part.to_owned(), status.to_owned())
    };
    text.lines().map(line).collect()
}

#[test]
fn a_part_costs_its_cap_at_most() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let parts = "stub-passes,stub-skips,stub-hangs,stub-fails,stub-floods";
    let ended = run(&out, &["--parts", parts]);
    assert_eq!(ended.status.code(), Some(1), "a part failed");
    let said = [
        ("stub-passes", "passed"),
        ("stub-skips", "skipped: nothing to do"),
        ("stub-hangs", "TIMED OUT after 1 s"),
        ("stub-fails", "FAILED (exit 3)"),
        ("stub-floods", "passed"),
    ];
    let said = said.map(|(part, status)| (part.to_owned(), status.to_owned()));
    assert_eq!(table(&out), said);
    let files: Vec<_> = std::fs::read_dir(&out).unwrap().map(|file| file.unwrap()).collect();
    assert!(files.len() <= 3, "{files:?}");
    let sizes = files.iter().map(|file| file.metadata().unwrap().len());
    assert!(sizes.max().unwrap() < 16 << 20);
    // The output of each part is kept, also the end of the flood. The names of files that are too
    // large are listed.
    let mut unpack = Command::new("tar");
    unpack.arg("-xzf").arg(out.join("results.tar.gz")).current_dir(folder.path());
    assert!(unpack.status().unwrap().success());
    let read = |name: &str| std::fs::read_to_string(folder.path().join(name)).unwrap();
    assert_eq!(read("stub-hangs.txt"), "hangs\n");
    assert_eq!(read("stub-fails.txt"), "fails\n");
    assert!(read("stub-floods.txt").ends_with("y\ny\n"));
    assert_eq!(read("left-behind.txt"), "./noise\n");
}

#[test]
fn all_parts_passed_is_success() {
    let folder = tempfile::tempdir().unwrap();
    let ended = run(folder.path(), &["--parts", "stub-passes,stub-skips"]);
    let said = String::from_utf8_lossy(&ended.stdout).into_owned();
    assert!(ended.status.success(), "{said}");
    assert!(said.contains("stub-passes") && said.contains("skipped: nothing to do"), "{said}");
}

#[test]
fn mistakes_are_told() {
    let folder = tempfile::tempdir().unwrap();
    let ended = run(folder.path(), &["--device", "cuda:0-3"]);
    assert_eq!(ended.status.code(), Some(2));
    let said = String::from_utf8(ended.stderr).unwrap();
    assert_eq!(said, "--device cuda:0-3: name GPUs one by one, as cuda:0 or cuda:0,1,2,3\n");
    let ended = run(folder.path(), &["--parts", "smoke,nothing"]);
    assert_eq!(ended.status.code(), Some(2));
    assert!(String::from_utf8(ended.stderr).unwrap().contains("unknown part nothing"));
}
