//! Rows as a reader finds them, and the trace they become: sorted, counted from the first arrival, with a word on
//! everything that was done to them.

use std::time::Duration;

use rand::SeedableRng as _;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution as _, Exp1};

use super::options::ReadOptions;
use crate::{Arrival, BlockSpan, Trace, TraceError, TraceRequest};

/// The moment at which a row says it is sent.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Sent {
    /// Nanoseconds on the file's clock.
    At(i64),
    /// Nanoseconds after row `previous` has been answered.
    After { previous: usize, think: i64 },
    /// The file has no times.
    Unknown,
}

/// More block identities than this are refused: counting their hits takes some gigabytes.
const MOST_IDS: u64 = 1 << 26;

/// Block identities of a trace under construction. A request whose blocks continue the ones stored last only adds
/// what is new: the turns of a session share one run.
#[derive(Debug, Default)]
pub(crate) struct BlockPool {
    ids: Vec<u64>,
    last: BlockSpan,
}

impl BlockPool {
    /// Stores `ids` and says where.
    pub(crate) fn push(&mut self, ids: &[u64]) -> Result<BlockSpan, String> {
        let start = self.last.start as usize;
        let kept = &self.ids[start..];
        let (start, new) = match ids.strip_prefix(kept) {
            Some(new) if !kept.is_empty() => (start, new),
            _ if kept.starts_with(ids) => (start, &[][..]),
            _ => (self.ids.len(), ids),
        };
        self.room(new.len() as u64)?;
        self.ids.extend_from_slice(new);
        self.last = BlockSpan { start: start as u32, len: (self.ids.len() - start) as u32 };
        Ok(BlockSpan { start: start as u32, len: ids.len() as u32 })
    }

    /// Refuses `more` identities that there is no room for: few words in a file can stand for very many.
    pub(crate) fn room(&self, more: u64) -> Result<(), String> {
        if self.ids.len() as u64 + more <= MOST_IDS {
            return Ok(());
        }
        Err("more than 67 million block identities; cut the trace into parts or make its blocks larger"
            .to_owned())
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    /// All identities, to be owned by the trace.
    pub(crate) fn into_ids(self) -> Vec<u64> {
        self.ids
    }
}

/// More requests than this are refused: an archive that unpacks without end takes no more memory.
const MOST_REQUESTS: usize = 1 << 25;

const DAY: i64 = 86_400 * 1_000_000_000;

/// Longest time without an arrival, ns.
const YEAR: i64 = 366 * DAY;

/// True if `time`, read in a unit `scale` times finer than its own, is of the years 2001 to 2100.
fn is_epoch(time: i64, scale: i64) -> bool {
    time.checked_mul(scale).is_some_and(|t| (11_323 * DAY..47_482 * DAY).contains(&t))
}

/// The answer to an arrival rate for a file that needs none.
pub(crate) const HAS_TIMES: &str =
    "has its own arrival times: leave --arrival-rate out here and scale the rate when replaying";

/// A request as a reader finds it on one line.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Row {
    pub line: u64,
    pub sent: Sent,
    pub input: u32,
    pub output: u32,
    pub class: u16,
    pub session: Option<u32>,
    pub blocks: BlockSpan,
}

/// A trace under construction.
#[derive(Debug)]
pub(crate) struct Rows {
    file: String,
    format: &'static str,
    sent: Vec<Sent>,
    lines: Vec<u32>,
    requests: Vec<TraceRequest>,
    pub pool: BlockPool,
    pub block_tokens: u32,
    pub classes: Vec<String>,
    /// Sessions seen so far.
    pub sessions: u32,
    /// Requests left out because they failed.
    pub failed: u64,
    /// The other changes made to the rows.
    pub notes: Vec<String>,
}

impl Rows {
    pub(crate) fn new(file: &str, format: &'static str) -> Self {
        Self {
            file: file.to_owned(),
            format,
            sent: Vec::new(),
            lines: Vec::new(),
            requests: Vec::new(),
            pool: BlockPool::default(),
            block_tokens: 0,
            classes: Vec::new(),
            sessions: 0,
            failed: 0,
            notes: Vec::new(),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.sent.len()
    }

    /// Adds a row.
    pub(crate) fn push(&mut self, row: Row) -> Result<(), String> {
        if self.sent.len() == MOST_REQUESTS {
            return Err("more than 33 million requests; cut the file into parts".to_owned());
        }
        self.sent.push(row.sent);
        self.lines.push(u32::try_from(row.line).unwrap_or(u32::MAX));
        self.requests.push(TraceRequest {
            arrival: Arrival::At(Duration::ZERO),
            input: row.input,
            output: row.output,
            blocks: row.blocks,
            class: row.class,
            session: row.session,
        });
        Ok(())
    }

    /// Times that later rows have settled.
    pub(crate) fn correct(&mut self, times: Vec<(usize, i64)>) {
        for (row, time) in times {
            self.sent[row] = Sent::At(time);
        }
    }

    /// The trace: open-loop rows by time, each closed-loop row after the row it waits for.
    pub(crate) fn into_trace(mut self, options: &ReadOptions) -> Result<Trace, TraceError> {
        if self.requests.is_empty() {
            let problem = match self.failed {
                0 => "a header but no requests".to_owned(),
                n => format!("all {n} requests failed (no output); keep them with --keep-failed"),
            };
            return Err(TraceError::file(&self.file, problem));
        }
        if let Some(rate) =
            options.rate.filter(|_| self.sent.iter().any(|s| matches!(s, Sent::Unknown)))
        {
            self.spread(rate, options.seed)?;
        }
        let keys = self.keys();
        let origin = keys.iter().copied().min().unwrap_or(0);
        let mut order: Vec<usize> = (0..keys.len()).collect();
        if !keys.is_sorted() {
            order.sort_by_key(|&row| keys[row]);
            self.notes.push("rows were not in order of arrival and have been sorted".to_owned());
        }
        self.one_era(&keys, &order)?;
        let mut place = vec![0_u32; order.len()];
        for (new, &old) in (0..).zip(&order) {
            place[old] = new;
        }
        let arrival = |row: usize| match self.sent[row] {
            Sent::After { previous, think } => {
                Arrival::After { previous: place[previous], think: nanos(think) }
            }
            Sent::At(_) | Sent::Unknown => Arrival::At(nanos(keys[row] - origin)),
        };
        let requests = order
            .iter()
            .map(|&row| TraceRequest { arrival: arrival(row), ..self.requests[row] })
            .collect();
        Ok(Trace {
            name: stem(&self.file),
            requests,
            provenance: self.provenance(),
            block_ids: self.pool.into_ids(),
            block_tokens: self.block_tokens,
            max_concurrent_sessions: None,
            classes: if self.classes.is_empty() {
                vec!["default".to_owned()]
            } else {
                self.classes
            },
        })
    }

    /// Refuses rows whose times are of another era: seconds since 1970 among seconds since the start, or among
    /// milliseconds.
    fn one_era(&self, keys: &[i64], order: &[usize]) -> Result<(), TraceError> {
        let gap = |at: usize| keys[order[at + 1]] - keys[order[at]];
        let Some(split) = (0..order.len().saturating_sub(1)).max_by_key(|&at| gap(at)) else {
            return Ok(());
        };
        let (gap, (early, late)) = (gap(split), order.split_at(split + 1));
        let (most, few, side) =
            if early.len() < late.len() { (late, early, "before") } else { (early, late, "after") };
        let span = keys[most[most.len() - 1]] - keys[most[0]];
        let since_1970 = |scale| few.iter().all(|&row| is_epoch(keys[row], scale));
        let odd = gap > DAY && gap / 100 > span && [1_000, 1_000_000].into_iter().any(since_1970);
        if gap <= YEAR && !odd {
            return Ok(());
        }
        let row = few.iter().min().copied().unwrap_or(0);
        let days = gap / DAY;
        let problem = format!(
            "its time is {days} days {side} the other rows' (a time since 1970 among times since the start?); correct or delete the line"
        );
        Err(TraceError::line(&self.file, u64::from(self.lines[row]), problem))
    }

    /// Poisson arrivals for rows without time.
    fn spread(&mut self, rate: f64, seed: u64) -> Result<(), TraceError> {
        if !(rate.is_finite() && rate > 0.0) {
            return Err(TraceError::file(
                &self.file,
                format!("--arrival-rate {rate} must be a positive number per second"),
            ));
        }
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let mut at = 0.0;
        for sent in &mut self.sent {
            if matches!(sent, Sent::Unknown) {
                *sent = Sent::At((at * 1e9) as i64);
                let gap: f64 = Exp1.sample(&mut random);
                at += gap / rate;
            }
        }
        if at > 1e9 {
            return Err(TraceError::file(
                &self.file,
                format!("at --arrival-rate {rate} it lasts over 30 years; raise it"),
            ));
        }
        self.notes.push(format!(
            "no arrival times in the file: Poisson arrivals at {rate}/s, seed {seed}"
        ));
        Ok(())
    }

    /// The times that rows are sorted by: their own, or that of the first of the chain they wait for.
    fn keys(&self) -> Vec<i64> {
        let mut keys = Vec::with_capacity(self.sent.len());
        for sent in &self.sent {
            keys.push(match *sent {
                Sent::At(t) => t,
                Sent::After { previous, .. } => keys[previous],
                Sent::Unknown => 0,
            });
        }
        keys
    }

    fn provenance(&self) -> Vec<String> {
        let base = std::path::Path::new(&self.file)
            .file_name()
            .map_or(self.file.as_str().into(), |n| n.to_string_lossy());
        let mut lines = vec![format!("{base}, read as {}", self.format)];
        if self.failed > 0 {
            lines.push(format!("{} failed requests (no output) left out", self.failed));
        }
        lines.extend(self.notes.iter().cloned());
        lines
    }
}

fn nanos(n: i64) -> Duration {
    Duration::from_nanos(n.max(0) as u64)
}

/// The name of a trace read from `file`: the file's name up to the endings that formats have.
pub(crate) fn stem(file: &str) -> String {
    let base = std::path::Path::new(file)
        .file_name()
        .map_or_else(String::new, |n| n.to_string_lossy().into_owned());
    let mut name = base.as_str();
    for ending in
        [".gz", ".zst", ".xz", ".bz2", ".csv", ".tsv", ".jsonl", ".json", ".ndjson", ".parquet"]
    {
        name = name.strip_suffix(ending).unwrap_or(name);
    }
    if name.is_empty() { "trace".to_owned() } else { name.to_owned() }
}
