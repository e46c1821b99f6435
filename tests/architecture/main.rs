//! The house has floors: crates and modules import downwards only. A forbidden arrow fails here.

mod imports;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Crate, and which of ours it may use.
const CRATES: &[(&str, &[&str])] = &[
    ("kernels", &[]),
    ("workloads", &[]),
    ("engine", &["kernels"]),
    ("loadgen", &["workloads"]),
    ("tuner", &["engine", "loadgen", "workloads"]),
    ("reports", &["loadgen", "tuner", "workloads"]),
    // Of kernels their emulator, for rehearsals.
    (".", &["engine", "kernels", "loadgen", "reports", "tuner", "workloads"]),
];

/// Module of the engine, and which of its siblings it must not name.
const ENGINE_NEVER: &[(&str, &[&str])] = &[
    ("config", &["sequence", "plan", "kv", "state", "sched", "exec", "engine"]),
    ("request", &["sequence", "plan", "kv", "state", "sched", "exec", "engine"]),
    ("shape", &["sequence", "plan", "kv", "state", "sched", "exec", "engine"]),
    ("sequence", &["plan", "kv", "state", "sched", "exec", "engine"]),
    ("plan", &["kv", "state", "sched", "exec", "engine"]),
    ("kv", &["plan", "state", "sched", "exec", "engine", "fleet"]),
    ("state", &["sched", "exec", "engine", "fleet"]),
    ("sched", &["exec", "kv", "engine", "fleet"]),
    // It reads sequences and tables through `&State`, which owns both; it cannot change them.
    ("exec", &["sched", "engine", "fleet"]),
    ("model", &["sequence", "plan", "state", "sched", "engine", "kv", "exec", "live", "server"]),
    ("sample", &["plan", "state", "sched", "engine", "kv", "live", "server"]),
    ("beam", &["sequence", "plan", "state", "sched", "engine", "kv", "exec", "live", "server"]),
    // The owner of the clock sees the engine, its inputs and its outputs.
    ("live", &["plan", "sched", "kv", "exec", "fleet", "server"]),
    ("server", &["sequence", "plan", "state", "sched", "kv", "exec", "fleet"]),
    ("profile", &["state", "sched", "engine", "engines", "kv", "exec"]),
    ("engines", &["sequence", "plan", "state", "sched", "engine", "kv", "exec"]),
];

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Rust files below `dir`.
fn sources(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
    found
}

/// The code of a file without comments and tests: a test may look anywhere.
fn code(path: &Path) -> String {
    let text = fs::read_to_string(path).unwrap();
    let body = text.split("#[cfg(test)]\nmod ").next().unwrap();
    body.lines().filter(|l| !l.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n")
}

#[test]
fn crates_depend_downwards() {
    let ours: BTreeSet<&str> = CRATES.iter().map(|(name, _)| *name).collect();
    for (name, may) in CRATES {
        let manifest = fs::read_to_string(root().join(name).join("Cargo.toml")).unwrap();
        let mut section = "";
        for line in manifest.lines() {
            if line.starts_with('[') {
                section = line;
            }
            let dependency = line.split(['.', ' ', '=']).next().unwrap();
            if section == "[dependencies]" && ours.contains(dependency) {
                assert!(may.contains(&dependency), "{name} must not depend on {dependency}");
            }
        }
    }
}

#[test]
fn the_engine_imports_downwards() {
    let src = root().join("engine/src");
    let modules: BTreeMap<&str, &[&str]> = ENGINE_NEVER.iter().copied().collect();
    let mut seen = 0;
    for path in sources(&src) {
        let relative = path.strip_prefix(&src).unwrap();
        let first = relative.components().next().unwrap().as_os_str().to_str().unwrap();
        let Some(never) = modules.get(first.trim_end_matches(".rs")) else { continue };
        // A test may look anywhere.
        if relative.ends_with("tests.rs") {
            continue;
        }
        seen += 1;
        let code = code(&path);
        for target in *never {
            let named = code.contains(&format!("crate::{target}::"))
                || code.contains(&format!("crate::{target};"));
            assert!(!named, "{} must not import {target}", relative.display());
        }
    }
    assert!(seen >= ENGINE_NEVER.len(), "every module of the table was found");
}

/// Nothing outside `sched` and `kv` takes a concrete policy, but for the two places that put one together.
#[test]
fn only_wiring_names_concrete_policies() {
    let src = root().join("engine/src");
    let names = ["StaticBatch", "Continuous", "Chunked", "Disagg", "Contiguous", "Paged"];
    for path in sources(&src) {
        let relative = path.strip_prefix(&src).unwrap().to_str().unwrap().to_owned();
        if relative == "wiring.rs" || relative.starts_with("sched/") || relative.starts_with("kv/")
        {
            continue;
        }
        for line in code(&path).lines() {
            let imports = line.contains("sched::") || line.contains("kv::");
            let named = names.iter().find(|n| imports && line.contains(*n));
            assert!(named.is_none(), "{relative}: {line}");
        }
    }
}

/// A scheduler's properties stand in its row: nothing compares or matches its name. Only an exporter does, which puts
/// it into the words of another engine.
#[test]
fn schedulers_are_known_by_their_traits() {
    let rows = ["engine/src/config/policies.rs", "engine/src/sched/mod.rs"];
    let asks = |line: &str, name: &str| {
        let variant = format!("SchedulerKind::{name}");
        line.split_once(&variant).is_some_and(|(before, after)| {
            before.ends_with("== ")
                || before.ends_with("!= ")
                || before.contains("matches!(")
                || after.contains("=>")
                || after.contains(" |")
        })
    };
    let names = ["Static", "Continuous", "Chunked", "Disagg"];
    let named = |line: &&str| names.iter().any(|name| asks(line, name));
    for folder in ["engine/src", "tuner/src", "reports/src", "src"] {
        for path in sources(&root().join(folder)) {
            let relative = path.strip_prefix(root()).unwrap().to_str().unwrap().to_owned();
            if !rows.contains(&relative.as_str()) {
                let by_name = code(&path).lines().find(named).map(str::to_owned);
                assert_eq!(by_name, None, "{relative}");
            }
        }
    }
}

/// Files that take names from each other cannot be read one after the other.
#[test]
fn no_crate_has_a_circle() {
    for (name, _) in CRATES {
        let arrows = imports::arrows(&root().join(name).join("src"));
        let circles = imports::circles(&arrows);
        assert!(circles.is_empty(), "{name}: {}", circles[0].join(" "));
    }
}

#[test]
fn every_module_says_what_it_is_for() {
    for (name, _) in CRATES {
        for path in sources(&root().join(name).join("src")) {
            let text = fs::read_to_string(&path).unwrap();
            assert!(text.starts_with("//!"), "{} begins without a `//!` line", path.display());
        }
    }
}

/// A module of several files is a folder with a `mod.rs`.
#[test]
fn modules_of_several_files_are_folders() {
    for (name, _) in CRATES {
        for path in sources(&root().join(name).join("src")) {
            let folder = path.with_extension("");
            assert!(!folder.is_dir(), "{} belongs into its folder as mod.rs", path.display());
        }
    }
}

#[test]
fn only_kernels_may_be_unsafe() {
    let manifest = fs::read_to_string(root().join("Cargo.toml")).unwrap();
    assert!(manifest.contains("unsafe_code = \"forbid\""));
    for (name, _) in CRATES {
        let own = fs::read_to_string(root().join(name).join("Cargo.toml")).unwrap();
        let workspace = own.contains("[lints]\nworkspace = true");
        assert_eq!(workspace, *name != "kernels", "{name} takes the workspace's lints");
    }
}
