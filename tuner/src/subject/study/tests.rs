//! Studies cut off, torn and mistaken.

use super::*;
use crate::contest::entry::Candidate;
use crate::contest::progress::{Silent, Watch};
use crate::contest::waves::{Contest, Found, RUNGS, halving};
use crate::knee::Probe;
use crate::space::{Scope, Space};
use crate::subject::fake::Fake;
use engine::Config;
use std::sync::atomic::{AtomicBool, Ordering};

static GO_ON: AtomicBool = AtomicBool::new(false);

fn identity(trace: &str) -> Identity {
    Identity::from([("trace".to_owned(), trace.to_owned())])
}

fn search(subject: &dyn Subject) -> Found {
    let mut space = Space::new(Scope {
        gpus: 1,
        fewer_gpus: false,
        shared_prefixes: false,
        allow_lossy_kv: false,
        experts: false,
    });
    space.pin("max-batch-tokens", "2048").unwrap();
    space.search("max-seqs", &["16", "64", "256"]).unwrap();
    let configs = space.enumerate().configs;
    let candidate = |config: Config| {
        let group = config.policy() as usize;
        Candidate { device: 0, config, group }
    };
    let candidates = configs.into_iter().map(candidate).collect();
    let watch = Watch { progress: &Silent, cancel: &GO_ON };
    let near = &|_: &Candidate| Vec::new();
    halving(&Contest { devices: &[subject], candidates, near, watch }, RUNGS)
}

fn fake() -> Fake {
    Fake { jitter: 0.1, bias: 0.5, ..Fake::new(&["ttft=300ms", "tpot=30ms"]) }
}

/// Leaves the file that SQLite would find after the process was killed with the first `rows` runs
/// written.
fn cut(path: &Path, rows: usize) {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let options = SqliteConnectOptions::new().filename(path);
        let mut c = options.connect().await.unwrap();
        let delete = "DELETE FROM trials WHERE rowid NOT IN \
                      (SELECT rowid FROM trials ORDER BY rowid LIMIT ?)";
        sqlx::query(delete).bind(rows as i64).execute(&mut c).await.unwrap();
        c.close().await.unwrap();
    });
}

#[test]
fn a_search_cut_off_after_any_run_resumes_to_the_same_result() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("whole.db");
    let plain = fake();
    let expected = search(&plain);
    let all = plain.runs.load(Ordering::Relaxed) as usize;
    let study = Study::open(&path, &identity("a")).unwrap();
    assert!(search(&study.record(fake(), "x")) == expected);
    assert_eq!(study.len(), all);
    study.close().unwrap();
    for kept in 0..=all {
        let copy = dir.path().join(format!("{kept}.db"));
        std::fs::copy(&path, &copy).unwrap();
        cut(&copy, kept);
        let study = Study::open(&copy, &identity("a")).unwrap();
        assert_eq!(study.len(), kept);
        let again = study.record(fake(), "x");
        assert!(search(&again) == expected, "after {kept}");
        assert_eq!(again.subject.runs.load(Ordering::Relaxed) as usize, all - kept);
        drop(again);
        study.close().unwrap();
        std::fs::remove_file(&copy).unwrap();
    }
}

#[test]
fn a_write_ahead_log_torn_anywhere_leaves_a_study_that_opens() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("live.db");
    let study = Study::open(&path, &identity("a")).unwrap();
    let expected = search(&study.record(fake(), "x"));
    let wal = dir.path().join("live.db-wal");
    // The writer is done when the log stops growing; the study stays open, as in a killed process.
    let mut size = 0;
    while size == 0 || std::fs::metadata(&wal).unwrap().len() != size {
        size = std::fs::metadata(&wal).map_or(0, |m| m.len());
        std::thread::sleep(std::time::Duration::from_millis(200));
    }
    for i in 0..24 {
        let torn = dir.path().join(format!("torn{i}.db"));
        std::fs::copy(&path, &torn).unwrap();
        let bytes = std::fs::read(&wal).unwrap();
        let kept = bytes.len() * i / 23;
        std::fs::write(dir.path().join(format!("torn{i}.db-wal")), &bytes[..kept]).unwrap();
        let again = Study::open(&torn, &identity("a")).unwrap();
        assert!(i < 23 || again.len() == study.len());
        assert!(search(&again.record(fake(), "x")) == expected, "{kept} of {}", bytes.len());
    }
}

#[test]
fn a_study_of_something_else_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s.db");
    Study::open(&path, &identity("a")).unwrap().close().unwrap();
    let refused = Study::open(&path, &identity("b")).err().unwrap().to_string();
    assert!(refused.contains("made with trace = a, this run has b"), "{refused}");
    let missing = Study::open(&dir.path().join("no/such/dir/s.db"), &identity("a"));
    assert!(matches!(missing.err().unwrap(), StudyError::Store { .. }));
    std::fs::write(
        dir.path().join("text.db"),
        "not a database, but long enough to be one".repeat(40),
    )
    .unwrap();
    assert!(Study::open(&dir.path().join("text.db"), &identity("a")).is_err());
}

#[test]
fn devices_and_relaxations_are_kept_apart() {
    let dir = tempfile::tempdir().unwrap();
    let study = Study::open(&dir.path().join("s.db"), &identity("a")).unwrap();
    let config = Config::default();
    let mut trial = Trial {
        config: &config,
        relax: crate::subject::Relax::Nothing,
        length: crate::subject::Length::Requests(100),
        scale: 1.0,
        verdict_only: false,
    };
    study.record(fake(), "x").run(&trial).unwrap();
    study.record(fake(), "x").run(&trial).unwrap();
    assert_eq!(study.len(), 1);
    study.record(fake(), "y").run(&trial).unwrap();
    trial.relax = crate::subject::Relax::KvMemory;
    study.record(fake(), "y").run(&trial).unwrap();
    assert_eq!(study.len(), 3);
}

#[test]
fn a_verdict_is_not_remembered_as_a_run_in_full() {
    let dir = tempfile::tempdir().unwrap();
    let study = Study::open(&dir.path().join("s.db"), &identity("a")).unwrap();
    let config = Config::default();
    let in_full = Trial {
        config: &config,
        relax: crate::subject::Relax::Nothing,
        length: crate::subject::Length::Requests(100),
        scale: 1.0,
        verdict_only: false,
    };
    let verdict = Trial { verdict_only: true, ..in_full };
    for (trial, runs) in [(&verdict, 1), (&verdict, 1), (&in_full, 2), (&verdict, 2)] {
        study.record(fake(), "x").run(trial).unwrap();
        assert_eq!(study.len(), runs);
    }
}

#[test]
fn observations_survive_json_to_the_bit() {
    let found = search(&fake());
    let probes: Vec<&Probe> = found.entries.iter().flat_map(|e| &e.probes).collect();
    assert!(probes.len() > 30);
    for probe in probes {
        let json = serde_json::to_string(&probe.observation).unwrap();
        assert_eq!(serde_json::from_str::<Observation>(&json).unwrap(), probe.observation);
    }
}

/// Runs `statements` on a copy of `path`, and opens it as a study of "a".
fn after(path: &Path, statements: &str) -> String {
    let copy = path.with_extension("copy");
    std::fs::copy(path, &copy).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let mut c = SqliteConnectOptions::new().filename(&copy).connect().await.unwrap();
        for statement in statements.split(';') {
            let sql = sqlx::AssertSqlSafe(statement.to_owned());
            sqlx::query(sql).execute(&mut c).await.unwrap();
        }
        c.close().await.unwrap();
    });
    let opened = Study::open(&copy, &identity("a"));
    opened.map_or_else(|e| e.to_string(), |study| format!("{} runs", study.len()))
}

#[test]
fn values_of_other_types_and_tables_of_others_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s.db");
    let study = Study::open(&path, &identity("a")).unwrap();
    let config = Config::default();
    let trial = Trial {
        config: &config,
        relax: crate::subject::Relax::Nothing,
        length: crate::subject::Length::Requests(100),
        scale: 1.0,
        verdict_only: false,
    };
    study.record(fake(), "x").run(&trial).unwrap();
    study.close().unwrap();
    assert_eq!(after(&path, "SELECT 1"), "1 runs");
    for statements in [
        "UPDATE trials SET observation = x'ff00fe'",
        "UPDATE trials SET key = x'80'",
        "UPDATE trials SET observation = 7",
        "UPDATE trials SET observation = zeroblob(1000000)",
        "UPDATE identity SET value = x'ff'",
        "UPDATE identity SET what = NULL",
        "DROP TABLE trials; CREATE TABLE trials (a)",
        "ALTER TABLE trials ADD COLUMN more",
        "CREATE TABLE more (a)",
        "CREATE VIEW more AS SELECT 1",
        "DROP TABLE trials; CREATE VIEW trials AS WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) \
         SELECT x AS key, x AS observation FROM c",
    ] {
        let said = after(&path, statements);
        assert!(said.starts_with("study ") && !said.contains('\n'), "{statements}: {said}");
    }
}

#[test]
fn a_damaged_page_is_no_panic() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s.db");
    let study = Study::open(&path, &identity("a")).unwrap();
    assert!(!search(&study.record(fake(), "x")).entries.is_empty());
    study.close().unwrap();
    let whole = std::fs::read(&path).unwrap();
    for place in (16..whole.len()).step_by(whole.len() / 150) {
        let mut bytes = whole.clone();
        bytes[place] ^= 0xff;
        let copy = dir.path().join("damaged.db");
        std::fs::write(&copy, bytes).unwrap();
        if let Err(refused) = Study::open(&copy, &identity("a")) {
            assert!(!refused.to_string().contains('\n'), "{refused}");
        }
        std::fs::remove_file(&copy).unwrap();
    }
}
