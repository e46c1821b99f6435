//! The binary from outside: what people and scripts see.

mod answers;
mod devices;
mod engines;
mod here;
mod manners;
mod mistakes;
mod models;
mod results;
mod settings;
mod shown;
mod studies;
mod traces;

use serde_json::Value;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};

/// The program in a folder of its own, so that nothing is remembered from one run to the next.
pub(crate) fn knee(args: &[&str]) -> Output {
    let folder = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_knee"));
    command.args(args).env("RUST_BACKTRACE", "1").current_dir(folder.path());
    command.output().expect("the binary starts")
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The text of a refusal: one line on standard error, a non-zero exit, no panic.
pub(crate) fn refused(args: &[&str]) -> String {
    let out = knee(args);
    let said = text(&out.stderr);
    assert!(!out.status.success(), "{args:?} succeeded: {}", text(&out.stdout));
    assert!(!said.contains("panicked") && !said.contains("backtrace"), "{args:?}: {said}");
    assert_eq!(said.trim_end().lines().count(), 1, "{args:?}: {said}");
    said.trim_end().to_owned()
}

pub(crate) fn json(args: &[&str]) -> Value {
    let out = knee(args);
    assert!(out.status.success(), "{args:?}: {}", text(&out.stderr));
    serde_json::from_slice(&out.stdout).expect("JSON on standard output")
}

pub(crate) fn assert_fits(schema: &str, value: &Value) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/schemas").join(schema);
    let schema = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let validator = jsonschema::validator_for(&schema).expect("a valid schema");
    let errors: Vec<String> =
        validator.iter_errors(value).map(|e| format!("{} at {}", e, e.instance_path())).collect();
    assert!(errors.is_empty(), "{errors:#?}");
}

/// The JSON of a run that had an answer, but not the one hoped for: nothing holds the targets.
pub(crate) fn json_of_nothing(args: &[&str]) -> Value {
    let out = knee(args);
    assert_eq!(out.status.code(), Some(2), "{args:?}: {}", text(&out.stderr));
    serde_json::from_slice(&out.stdout).expect("JSON on standard output")
}

/// A narrow search: seconds on a slow machine, not minutes.
pub(crate) const QUICK: &[&str] =
    &["tune", "--slo", "ttft=1s", "--slo", "tpot=30ms", "--requests", "400", "--max-seqs", "128"];

pub(crate) fn with<'a>(base: &[&'a str], more: &[&'a str]) -> Vec<&'a str> {
    [base, more].concat()
}

/// Without what depends on the machine and the moment.
pub(crate) fn timeless(mut value: Value) -> Value {
    let object = value.as_object_mut().unwrap();
    ["wall_s", "cpu_s", "host"].into_iter().for_each(|k| drop(object.remove(k)));
    value
}

/// The real engine on a model small enough for a test.
pub(crate) const TINY: &[&str] = &[
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
