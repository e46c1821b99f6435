//! The manual: its commands run as they stand, and its command reference is what the program says.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn manual() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/src")
}

fn pages() -> Vec<PathBuf> {
    let all = std::fs::read_dir(manual()).unwrap().map(|entry| entry.unwrap().path());
    let mut all: Vec<PathBuf> = all.filter(|p| p.extension().is_some_and(|e| e == "md")).collect();
    all.sort();
    all
}

fn knee(folder: &Path, words: impl IntoIterator<Item = impl AsRef<str>>) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_knee"));
    command.args(words.into_iter().map(|word| word.as_ref().to_owned()));
    command.env("COLUMNS", "100").current_dir(folder).output().expect("the binary starts")
}

/// A fenced block: the words after its fence, and its lines.
fn blocks(page: &str) -> Vec<(String, Vec<String>)> {
    let (mut found, mut inside) = (Vec::new(), false);
    for line in page.lines() {
        match (line.strip_prefix("```"), inside) {
            (Some(words), false) => {
                found.push((words.to_owned(), Vec::new()));
                inside = true;
            }
            (Some(_), true) => inside = false,
            (None, true) => found.last_mut().unwrap().1.push(line.to_owned()),
            (None, false) => {}
        }
    }
    found
}

/// A block of `console` is commands. One with a second word is a file of that name, which later commands read.
#[test]
fn commands_run_as_they_stand() {
    let mut ran = 0;
    for page in pages() {
        let folder = tempfile::tempdir().unwrap();
        let text = std::fs::read_to_string(&page).unwrap();
        for (words, lines) in blocks(&text) {
            if words == "console" {
                for line in lines {
                    let command = line.strip_prefix("$ knee ").unwrap_or_else(|| {
                        panic!("{}: not a command of knee: {line}", page.display())
                    });
                    let out = knee(folder.path(), command.split_whitespace());
                    let said = String::from_utf8_lossy(&out.stderr);
                    assert!(out.status.success(), "{}: {line}: {said}", page.display());
                    assert!(!out.stdout.is_empty(), "{}: {line} says nothing", page.display());
                    ran += 1;
                }
            } else if let Some((_, name)) = words.split_once(' ') {
                let path = folder.path().join(name);
                std::fs::create_dir_all(path.parent().unwrap()).unwrap();
                std::fs::write(path, lines.join("\n") + "\n").unwrap();
            } else {
                let commands = lines.iter().any(|line| line.trim_start().starts_with("$ knee"));
                assert!(!commands, "{}: commands in a block that is not run", page.display());
            }
        }
    }
    assert!(ran >= 15, "{ran} commands");
}

/// Every page is in the summary, and every link goes to a page.
#[test]
fn the_summary_has_every_page() {
    let text = std::fs::read_to_string(manual().join("SUMMARY.md")).unwrap();
    for page in pages() {
        let name = page.file_name().unwrap().to_str().unwrap();
        assert!(name == "SUMMARY.md" || text.contains(&format!("({name})")), "{name}");
    }
    let links = text.split('(').skip(1).filter_map(|rest| rest.split(')').next());
    assert!(links.clone().count() >= 6);
    for link in links {
        assert!(manual().join(link).exists(), "{link}");
    }
}

/// The names of the commands that `help` lists.
fn listed(help: &str) -> Vec<String> {
    let lines = help.lines().skip_while(|line| *line != "Commands:").skip(1);
    let lines = lines.take_while(|line| !line.is_empty()).filter(|line| !line.starts_with("   "));
    let names = lines.filter_map(|line| line.split_whitespace().next());
    names.filter(|name| *name != "help").map(str::to_owned).collect()
}

/// The help of the command `words`, then of those inside it.
fn described(words: &[String], page: &mut String) {
    let out = knee(&manual(), [&["help".to_owned()], words].concat());
    let help = String::from_utf8(out.stdout).unwrap();
    let title = [&["knee".to_owned()], words].concat().join(" ");
    page.push_str(&format!("\n## {title}\n\n```text\n{}\n```\n", help.trim_end()));
    for name in listed(&help) {
        described(&[words, &[name]].concat(), page);
    }
}

/// `KNEE_WRITE_DOCS=1 cargo test --test docs` writes the page.
#[test]
fn the_command_reference_is_what_the_program_says() {
    let mut page =
        "# Command reference\n\nWritten from the program's own help; do not edit.\n".to_owned();
    described(&[], &mut page);
    let path = manual().join("commands.md");
    if std::env::var_os("KNEE_WRITE_DOCS").is_some() {
        std::fs::write(&path, &page).unwrap();
    }
    let written = std::fs::read_to_string(&path).unwrap_or_default();
    let first = page.lines().zip(written.lines()).find(|(now, then)| now != then);
    assert!(
        page == written,
        "docs/src/commands.md is old ({first:?}): KNEE_WRITE_DOCS=1 cargo test --test docs"
    );
}
