//! Every run, written down as it ends, so that a search killed at any moment goes on where it was.
//!
//! A study is one SQLite file. [`Study::record`] makes a subject that first looks whether the same trial is in the
//! study: a resumed search asks the same questions in the same order, is answered from the file as far as the file
//! goes, and ends with the same result. So does the search of a real server ([`crate::subject::server::Memory`]).
//! Runs are JSON, whose numbers are read back to the bit. Writing happens on a thread of its own in batches, so that
//! no simulation waits for a disk; the write-ahead log makes each batch all or nothing however the process ends.

mod build;

use crate::space;
use crate::subject::observation::Observation;
use crate::subject::wrapper::Wrapper;
use crate::subject::{Refused, Stop, Subject, Trial};
use serde::Serialize;
use serde::de::DeserializeOwned;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqliteSynchronous};
use sqlx::{ConnectOptions, Connection, Row as _};
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError, mpsc};
use std::thread::JoinHandle;
use tokio::runtime::Runtime;
use workloads::{Arrival, Trace};

/// Version of the tables below; a study of another version is refused.
const SCHEMA: &str = "2";
/// Its tables by name, with their columns.
const TABLES: [(&str, &str); 2] = [
    ("identity", "(what TEXT PRIMARY KEY, value TEXT NOT NULL)"),
    (
        "trials",
        "(key TEXT PRIMARY KEY, device TEXT NOT NULL, config TEXT NOT NULL, relax TEXT NOT NULL, \
         head INTEGER NOT NULL, scale REAL NOT NULL, observation TEXT NOT NULL)",
    ),
];
/// Rows written in one transaction at most.
const BATCH: usize = 256;

/// Why a study cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StudyError {
    /// SQLite or the file system says no.
    #[error("study {path} cannot be used ({source}): remove it or give another directory")]
    Store {
        /// The file.
        path: PathBuf,
        /// Its message.
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
        /// The property that differs.
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
        /// The fault.
        reason: String,
    },
}

pub use build::{build, digest_of};

/// The properties, by name, that must be equal for a study's runs to be valid in this run: trace,
/// model, SLO, [`build`].
pub type Identity = BTreeMap<String, String>;

/// An open study of runs that were simulated.
pub type Study = Runs<Observation>;

/// An open study of runs that each showed an `R`.
pub struct Runs<R> {
    path: PathBuf,
    known: Mutex<HashMap<String, R>>,
    sender: Option<mpsc::SyncSender<Row>>,
    writer: Option<JoinHandle<Result<(), sqlx::Error>>>,
}

/// One run on its way to the file.
struct Row {
    asked: Asked,
    observation: String,
}

/// The identity of a run. The key decides; the rest is for people who look into the file.
pub(crate) struct Asked {
    pub(crate) key: String,
    pub(crate) device: String,
    pub(crate) config: String,
    pub(crate) relax: String,
    pub(crate) head: i64,
    pub(crate) scale: f64,
}

impl<R: Clone + Serialize + DeserializeOwned> Runs<R> {
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

    /// True where it holds none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The result of the run called `key`, if it was made.
    pub(crate) fn known(&self, key: &str) -> Option<R> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).get(key).cloned()
    }

    /// Remembers the result of a run.
    pub(crate) fn remember(&self, asked: Asked, run: &R) -> Result<(), serde_json::Error> {
        let observation = serde_json::to_string(run)?;
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.insert(asked.key.clone(), run.clone());
        drop(known);
        // A writer that gave up reports why when the study is closed; the search goes on without it.
        if let Some(sender) = &self.sender {
            let _ = sender.send(Row { asked, observation });
        }
        Ok(())
    }

    /// Waits until everything is in the file.
    pub fn close(mut self) -> Result<(), StudyError> {
        self.finish().map_err(|source| StudyError::Store { path: self.path.clone(), source })
    }
}

impl Study {
    /// `subject` with this study as its memory. `device` tells devices of one study apart; it should change when the
    /// device's figures do.
    pub fn record<S: Subject>(&self, subject: S, device: &str) -> Recorded<'_, S> {
        Recorded { study: self, subject, device: device.to_owned() }
    }
}

/// A subject whose runs a study remembers.
pub struct Recorded<'s, S> {
    study: &'s Study,
    pub(crate) subject: S,
    device: String,
}

impl<S: Subject> Recorded<'_, S> {
    fn asked(&self, trial: &Trial<'_>) -> Asked {
        let (config, head) = (space::key(trial.config), trial.head(&self.subject));
        let (device, relax) = (self.device.clone(), trial.relax.name().into_owned());
        // The scale to the bit: a trial at almost the same rate is another trial.
        let part = if trial.verdict_only { "|verdict" } else { "" };
        let key = format!("{device}|{config}|{relax}|{head}|{:016x}{part}", trial.scale.to_bits());
        Asked { key, device, config, relax, head: head as i64, scale: trial.scale }
    }
}

impl<S: Subject> Wrapper for Recorded<'_, S> {
    type Inner = S;

    fn inner(&self) -> &S {
        &self.subject
    }

    fn known(&self, trial: &Trial<'_>) -> Option<Observation> {
        // A run in full would tell the verdict as well, but has other counts: a search counts the same with a memory and
        // without.
        self.study.known(&self.asked(trial).key)
    }

    fn seen(&self, trial: &Trial<'_>, observation: &Observation) -> Result<(), Stop> {
        self.study
            .remember(self.asked(trial), observation)
            .map_err(|e| Refused { reason: format!("a run that cannot be stored: {e}") }.into())
    }
}

impl<R> Runs<R> {
    fn finish(&mut self) -> Result<(), sqlx::Error> {
        drop(self.sender.take());
        match self.writer.take().map(JoinHandle::join) {
            Some(Ok(result)) => result,
            Some(Err(_)) => Err(sqlx::Error::WorkerCrashed),
            None => Ok(()),
        }
    }
}

impl<R> Drop for Runs<R> {
    fn drop(&mut self) {
        // A caller that wants the error uses `close`.
        let _ = self.finish();
    }
}

/// Creates what is missing; returns the identity in the file, which is this run's if the file is new.
async fn prepare(c: &mut SqliteConnection, identity: &Identity) -> Result<Identity, sqlx::Error> {
    let mut tx = c.begin().await?;
    for (name, columns) in TABLES {
        let create = format!("CREATE TABLE IF NOT EXISTS {name} {columns}");
        sqlx::query(sqlx::AssertSqlSafe(create)).execute(&mut *tx).await?;
    }
    sound(&mut tx).await?;
    let stored = |rows: Vec<sqlx::sqlite::SqliteRow>| -> Result<Identity, sqlx::Error> {
        rows.iter().map(|r| Ok((r.try_get(0)?, r.try_get(1)?))).collect()
    };
    let select = || sqlx::query("SELECT what, value FROM identity");
    let found = stored(select().fetch_all(&mut *tx).await?)?;
    if found.is_empty() {
        let schema = ("schema".to_owned(), SCHEMA.to_owned());
        for (what, value) in identity.iter().map(|(k, v)| (k.clone(), v.clone())).chain([schema]) {
            let insert = sqlx::query("INSERT INTO identity (what, value) VALUES (?, ?)");
            insert.bind(what).bind(value).execute(&mut *tx).await?;
        }
    }
    let found = stored(select().fetch_all(&mut *tx).await?)?;
    tx.commit().await?;
    Ok(found)
}

/// Refuses a file whose pages are damaged, or that has other tables than a study: a view in place of one could go on
/// for ever.
async fn sound(c: &mut SqliteConnection) -> Result<(), sqlx::Error> {
    let damage: String =
        sqlx::query("PRAGMA quick_check(1)").fetch_one(&mut *c).await?.try_get(0)?;
    if damage != "ok" {
        return Err(sqlx::Error::Protocol(format!("it is damaged: {}", damage.replace('\n', " "))));
    }
    let all = "SELECT name, sql FROM sqlite_master WHERE name NOT LIKE 'sqlite_%' ORDER BY name";
    let mut found = Vec::new();
    for row in sqlx::query(all).fetch_all(c).await? {
        found.push((row.try_get::<String, _>(0)?, row.try_get::<String, _>(1)?));
    }
    let ours =
        TABLES.map(|(name, columns)| (name.to_owned(), format!("CREATE TABLE {name} {columns}")));
    match found == ours {
        true => Ok(()),
        false => Err(sqlx::Error::Protocol("its tables are not those of a study".to_owned())),
    }
}

async fn read(c: &mut SqliteConnection) -> Result<Vec<(String, String)>, sqlx::Error> {
    let rows = sqlx::query("SELECT key, observation FROM trials").fetch_all(c).await?;
    rows.iter().map(|r| Ok((r.try_get(0)?, r.try_get(1)?))).collect()
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
            .bind(row.asked.key)
            .bind(row.asked.device)
            .bind(row.asked.config)
            .bind(row.asked.relax)
            .bind(row.asked.head)
            .bind(row.asked.scale)
            .bind(row.observation)
            .execute(&mut *tx)
            .await?;
    }
    tx.commit().await
}

/// FNV-1a, 64 bits: the same for the same bytes on any machine and in any version.
struct Fnv(u64);

impl Fnv {
    fn new() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }

    fn eat(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.take(u64::from(*byte)));
    }

    fn take(&mut self, word: u64) {
        self.0 = (self.0 ^ word).wrapping_mul(0x0100_0000_01b3);
    }

    fn digest(self) -> String {
        format!("{:016x}", self.0)
    }
}

/// A hash of a text.
#[must_use]
pub fn digest(text: &str) -> String {
    let mut hash = Fnv::new();
    hash.eat(text.as_bytes());
    hash.digest()
}

/// A hash of everything in a trace that a run depends on: part of a study's identity.
#[must_use]
pub fn fingerprint(trace: &Trace) -> String {
    let mut hash = Fnv::new();
    let mut eat = |x: u64| hash.eat(&x.to_le_bytes());
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
    hash.digest()
}

#[cfg(test)]
mod tests;
