//! Every run, written down as it ends, so that a search killed at any moment goes on where it was.
//!
//! A study is one SQLite file. [`Recorded`] is an [`Evaluate`] that first looks whether the same trial is in the
//! study: a resumed search asks the same questions in the same order, is answered from the file as far as the file
//! goes, and ends with the same result. Observations are JSON, whose numbers are read back to the bit. Writing
//! happens on a thread of its own in batches, so that no simulation waits for a disk; the write-ahead log makes each
//! batch all or nothing however the process ends.

use crate::evaluate::{Evaluate, Refused, Trial};
use crate::observation::Observation;
use crate::space;
use engine::Config;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqliteSynchronous};
use sqlx::{ConnectOptions, Connection, Row as _};
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError, mpsc};
use std::thread::JoinHandle;
use tokio::runtime::Runtime;
use workloads::{Arrival, Trace};

/// Version of the tables below; a study of another version is refused.
const SCHEMA: &str = "1";
/// Rows written in one transaction at most.
const BATCH: usize = 256;

/// Why a study cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StudyError {
    /// SQLite or the file system says no.
    #[error("study {path}: {source}")]
    Store {
        /// The file.
        path: PathBuf,
        /// What it said.
        source: sqlx::Error,
    },
    /// The runtime or the writer thread cannot be started.
    #[error("study {path}: cannot start its writer: {source}")]
    Start {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It belongs to something else.
    #[error(
        "study {path} was made with {what} = {theirs}, this run has {ours}: give another file or remove this one"
    )]
    Other {
        /// The file.
        path: PathBuf,
        /// What differs.
        what: String,
        /// In the file.
        theirs: String,
        /// In this run.
        ours: String,
    },
    /// A stored run does not parse.
    #[error("study {path}: trial `{trial}` is not readable ({reason}): remove the file")]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// Its key.
        trial: String,
        /// What is wrong.
        reason: String,
    },
}

/// What must be equal for a study's runs to be valid in this run: trace, model, SLO, version, by name.
pub type Identity = BTreeMap<String, String>;

/// An open study.
pub struct Study {
    path: PathBuf,
    known: Mutex<HashMap<String, Observation>>,
    sender: Option<mpsc::SyncSender<Row>>,
    writer: Option<JoinHandle<Result<(), sqlx::Error>>>,
}

/// One run on its way to the file.
struct Row {
    key: String,
    device: String,
    config: String,
    relax: &'static str,
    head: i64,
    scale: f64,
    observation: String,
}

impl Study {
    /// Opens or creates the study at `path` and reads what it knows.
    pub fn open(path: &Path, identity: &Identity) -> Result<Self, StudyError> {
        let store = |source| StudyError::Store { path: path.to_owned(), source };
        let start = |source| StudyError::Start { path: path.to_owned(), source };
        let runtime = tokio::runtime::Builder::new_current_thread().build().map_err(start)?;
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Normal);
        let mut connection = runtime.block_on(options.connect()).map_err(store)?;
        let theirs = runtime.block_on(prepare(&mut connection, identity)).map_err(store)?;
        let mut ours = identity.clone();
        ours.insert("schema".to_owned(), SCHEMA.to_owned());
        for what in ours.keys().chain(theirs.keys()) {
            let text = |m: &Identity| m.get(what).cloned().unwrap_or_else(|| "nothing".to_owned());
            let (theirs, ours) = (text(&theirs), text(&ours));
            if theirs != ours {
                let (path, what) = (path.to_owned(), what.clone());
                return Err(StudyError::Other { path, what, theirs, ours });
            }
        }
        let rows = runtime.block_on(read(&mut connection)).map_err(store)?;
        let parse = |(key, json): (String, String)| match serde_json::from_str(&json) {
            Ok(observation) => Ok((key, observation)),
            Err(e) => {
                let (path, reason) = (path.to_owned(), e.to_string());
                Err(StudyError::Corrupt { path, trial: key, reason })
            }
        };
        let known = rows.into_iter().map(parse).collect::<Result<HashMap<_, _>, _>>()?;
        let (sender, receiver) = mpsc::sync_channel(4 * BATCH);
        let writer = std::thread::Builder::new()
            .name("study".to_owned())
            .spawn(move || write(&runtime, connection, &receiver))
            .map_err(start)?;
        let (sender, writer) = (Some(sender), Some(writer));
        Ok(Self { path: path.to_owned(), known: Mutex::new(known), sender, writer })
    }

    /// Runs it holds.
    #[must_use]
    pub fn len(&self) -> usize {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Whether it holds none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// `evaluate` with this study as its memory. `device` tells devices of one study apart; it should change when the
    /// device's figures do.
    pub fn record<E: Evaluate>(&self, evaluate: E, device: &str) -> Recorded<'_, E> {
        Recorded { evaluate, study: self, device: device.to_owned() }
    }

    /// Waits until everything is in the file.
    pub fn close(mut self) -> Result<(), StudyError> {
        self.finish().map_err(|source| StudyError::Store { path: self.path.clone(), source })
    }

    fn finish(&mut self) -> Result<(), sqlx::Error> {
        drop(self.sender.take());
        match self.writer.take().map(JoinHandle::join) {
            Some(Ok(result)) => result,
            Some(Err(_)) => Err(sqlx::Error::WorkerCrashed),
            None => Ok(()),
        }
    }
}

impl Drop for Study {
    fn drop(&mut self) {
        // Whoever wants to know uses `close`.
        let _ = self.finish();
    }
}

/// Creates what is missing; returns the identity in the file, which is this run's if the file is new.
async fn prepare(c: &mut SqliteConnection, identity: &Identity) -> Result<Identity, sqlx::Error> {
    let mut tx = c.begin().await?;
    sqlx::query("CREATE TABLE IF NOT EXISTS identity (what TEXT PRIMARY KEY, value TEXT NOT NULL)")
        .execute(&mut *tx)
        .await?;
    sqlx::query(
        "CREATE TABLE IF NOT EXISTS trials (key TEXT PRIMARY KEY, device TEXT NOT NULL, \
         config TEXT NOT NULL, relax TEXT NOT NULL, head INTEGER NOT NULL, scale REAL NOT NULL, \
         observation TEXT NOT NULL)",
    )
    .execute(&mut *tx)
    .await?;
    let stored = |rows: Vec<sqlx::sqlite::SqliteRow>| -> Identity {
        rows.iter().map(|r| (r.get(0), r.get(1))).collect()
    };
    let select = || sqlx::query("SELECT what, value FROM identity");
    let found = stored(select().fetch_all(&mut *tx).await?);
    if found.is_empty() {
        let schema = ("schema".to_owned(), SCHEMA.to_owned());
        for (what, value) in identity.iter().map(|(k, v)| (k.clone(), v.clone())).chain([schema]) {
            let insert = sqlx::query("INSERT INTO identity (what, value) VALUES (?, ?)");
            insert.bind(what).bind(value).execute(&mut *tx).await?;
        }
    }
    let found = stored(select().fetch_all(&mut *tx).await?);
    tx.commit().await?;
    Ok(found)
}

async fn read(c: &mut SqliteConnection) -> Result<Vec<(String, String)>, sqlx::Error> {
    let rows = sqlx::query("SELECT key, observation FROM trials").fetch_all(c).await?;
    Ok(rows.iter().map(|r| (r.get(0), r.get(1))).collect())
}

/// The writer thread: whatever has come in since the last transaction is the next one.
fn write(
    runtime: &Runtime,
    mut connection: SqliteConnection,
    rows: &mpsc::Receiver<Row>,
) -> Result<(), sqlx::Error> {
    while let Ok(first) = rows.recv() {
        let batch: Vec<Row> =
            std::iter::once(first).chain(rows.try_iter().take(BATCH - 1)).collect();
        runtime.block_on(insert(&mut connection, batch))?;
    }
    runtime.block_on(connection.close())
}

async fn insert(c: &mut SqliteConnection, batch: Vec<Row>) -> Result<(), sqlx::Error> {
    let mut tx = c.begin().await?;
    for row in batch {
        sqlx::query("INSERT OR REPLACE INTO trials VALUES (?, ?, ?, ?, ?, ?, ?)")
            .bind(row.key)
            .bind(row.device)
            .bind(row.config)
            .bind(row.relax)
            .bind(row.head)
            .bind(row.scale)
            .bind(row.observation)
            .execute(&mut *tx)
            .await?;
    }
    tx.commit().await
}

/// An [`Evaluate`] that remembers.
pub struct Recorded<'a, E> {
    evaluate: E,
    study: &'a Study,
    device: String,
}

impl<E: Evaluate> Evaluate for Recorded<'_, E> {
    fn run(&self, trial: &Trial<'_>) -> Result<Observation, Refused> {
        let config = space::key(trial.config);
        // The scale to the bit: a trial at almost the same rate is another trial.
        let key = format!(
            "{}|{config}|{}|{}|{:016x}|{}",
            self.device,
            trial.relax.name(),
            trial.head,
            trial.scale.to_bits(),
            trial.may_stop
        );
        let known = || self.study.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(observation) = known().get(&key) {
            return Ok(observation.clone());
        }
        let observation = self.evaluate.run(trial)?;
        let json = serde_json::to_string(&observation)
            .map_err(|e| Refused { reason: format!("a run that cannot be stored: {e}") })?;
        known().insert(key.clone(), observation.clone());
        let row = Row {
            key,
            device: self.device.clone(),
            config,
            relax: trial.relax.name(),
            head: trial.head as i64,
            scale: trial.scale,
            observation: json,
        };
        // A writer that gave up reports why when the study is closed; the search goes on without it.
        if let Some(sender) = &self.study.sender {
            let _ = sender.send(row);
        }
        Ok(observation)
    }

    fn requests(&self) -> usize {
        self.evaluate.requests()
    }

    fn natural_rate(&self, head: usize) -> f64 {
        self.evaluate.natural_rate(head)
    }

    fn output_tokens_per_request(&self) -> f64 {
        self.evaluate.output_tokens_per_request()
    }

    fn ceiling(&self, config: &Config) -> Result<f64, Refused> {
        self.evaluate.ceiling(config)
    }
}

/// A hash of everything in a trace that a run depends on (FNV-1a, 64 bits): part of a study's identity.
#[must_use]
pub fn fingerprint(trace: &Trace) -> String {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    let mut eat = |x: u64| {
        for byte in x.to_le_bytes() {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    };
    for r in &trace.requests {
        let (kind, time) = match r.arrival {
            Arrival::At(at) => (0, at),
            Arrival::After { previous, think } => (1 + u64::from(previous), think),
        };
        eat(kind);
        eat(time.as_nanos() as u64);
        for x in [r.input, r.output, r.blocks.start, r.blocks.len] {
            eat(u64::from(x));
        }
        eat(u64::from(r.class) << 33 | r.session.map_or(0, |s| 1 + u64::from(s)));
    }
    trace.block_ids.iter().for_each(|id| eat(*id));
    eat(u64::from(trace.block_tokens));
    trace.classes.iter().flat_map(|c| c.bytes().chain([0])).for_each(|b| eat(u64::from(b)));
    format!("{hash:016x}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capacity::Probe;
    use crate::fake::Fake;
    use crate::progress::{Silent, Watch};
    use crate::search::{Candidate, Contest, Found, RUNGS, halving};
    use crate::space::{Scope, Space};
    use std::sync::atomic::{AtomicBool, Ordering};

    static GO_ON: AtomicBool = AtomicBool::new(false);

    fn identity(trace: &str) -> Identity {
        Identity::from([("trace".to_owned(), trace.to_owned())])
    }

    fn search(evaluate: &dyn Evaluate) -> Found {
        let mut space = Space::new(Scope {
            gpus: 1,
            fewer_gpus: false,
            shared_prefixes: false,
            allow_lossy_kv: false,
        });
        space.pin("max-batch-tokens", "2048").unwrap();
        space.search("max-seqs", &["16", "64", "256"]).unwrap();
        let configs = space.enumerate().configs;
        let candidate = |config: Config| {
            let group = config.policy() as usize;
            Candidate { device: 0, config, weight: 1.0, group }
        };
        let candidates = configs.into_iter().map(candidate).collect();
        let watch = Watch { progress: &Silent, cancel: &GO_ON };
        halving(&Contest { devices: &[evaluate], candidates, watch }, RUNGS)
    }

    fn fake() -> Fake {
        Fake { jitter: 0.1, bias: 0.5, ..Fake::new(&["ttft=300ms", "tpot=30ms"]) }
    }

    /// What SQLite would find after the process was killed with the first `rows` runs written.
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
            assert_eq!(again.evaluate.runs.load(Ordering::Relaxed) as usize, all - kept);
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
            relax: crate::evaluate::Relax::Nothing,
            head: 100,
            scale: 1.0,
            may_stop: true,
        };
        study.record(fake(), "x").run(&trial).unwrap();
        study.record(fake(), "x").run(&trial).unwrap();
        assert_eq!(study.len(), 1);
        study.record(fake(), "y").run(&trial).unwrap();
        trial.relax = crate::evaluate::Relax::KvMemory;
        study.record(fake(), "y").run(&trial).unwrap();
        assert_eq!(study.len(), 3);
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
}
