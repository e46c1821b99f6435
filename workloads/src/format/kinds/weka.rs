//! Recorded agent sessions: one JSON object each, as the kv-cache-tester traces have them, or the same flattened to one
//! line per turn. Closed loop: a turn is sent so long after the answer to the turn before.
//!
//! Sub-agents branch off the turn that started them and run beside it. Hash ids mean something within their session
//! only, so every session gets its own range of identities. The files do not say when sessions started.

use std::collections::{BTreeMap, HashSet};

use serde::Deserialize;

use crate::TraceError;
use crate::format::cells::tokens;
use crate::format::kind::{Kind, Reader};
use crate::format::options::ReadOptions;
use crate::format::rows::{Row, Rows, Sent};
use crate::format::text::{Documents, bad_json};

const CLASSES: [&str; 2] = ["main", "subagent"];

pub(super) const FORMAT: Kind = Kind {
    name: "weka",
    about: "agent sessions of kv-cache-tester (JSON, or JSONL of a line per turn)",
    tells: |seen| seen.has_key("requests") || seen.has_key("request_arrival_delta_s"),
    reader: Reader::Sessions,
    writer: None,
};

/// A session file. Fields not needed here are ignored.
#[derive(Deserialize)]
struct Session {
    #[serde(default)]
    id: Option<String>,
    block_size: Option<u32>,
    requests: Vec<Call>,
}

/// One request of a session, or a sub-agent with requests of its own.
#[derive(Deserialize)]
struct Call {
    /// Seconds since the start of the session or sub-agent.
    #[serde(default)]
    t: f64,
    #[serde(rename = "in")]
    input: Option<u64>,
    #[serde(rename = "out")]
    output: Option<u64>,
    #[serde(default)]
    hash_ids: Vec<u64>,
    /// Seconds it took to be answered.
    #[serde(default)]
    api_time: Option<f64>,
    /// Seconds from the answer before to this request.
    think_time: Option<f64>,
    /// Present in sub-agents.
    requests: Option<Vec<Self>>,
}

/// A turn of the flattened form, which keeps a digest of the hash ids but not the ids.
#[derive(Deserialize)]
struct Turn {
    session_id: String,
    turn_index: u64,
    request_arrival_delta_s: f64,
    input_tokens: u64,
    output_tokens: u64,
    api_time_s: Option<f64>,
    think_time_s: Option<f64>,
}

/// Sessions of one file or of a directory, becoming rows.
pub(crate) struct Sessions {
    rows: Rows,
    seen: HashSet<String>,
    duplicates: u32,
    without_blocks: u32,
    /// First identity not yet used.
    next_id: u64,
    timed: bool,
}

impl Sessions {
    pub(crate) fn new(name: &str, options: &ReadOptions) -> Self {
        let mut rows = Rows::new(name, FORMAT.name);
        rows.classes = CLASSES.map(str::to_owned).to_vec();
        let timed = options.rate.is_none();
        Self { rows, seen: HashSet::new(), duplicates: 0, without_blocks: 0, next_id: 0, timed }
    }

    /// Adds the session or sessions of one file.
    pub(crate) fn add(&mut self, documents: &mut Documents<'_>) -> Result<(), TraceError> {
        let file = &documents.file().to_owned();
        let mut flat: BTreeMap<String, Vec<Turn>> = BTreeMap::new();
        while let Some(document) = documents.next_document()? {
            let wrong = |e: serde_json::Error| bad_json(file, document.line, &e);
            if let Ok(turn) = serde_json::from_str::<Turn>(document.json) {
                flat.entry(turn.session_id.clone()).or_default().push(turn);
                continue;
            }
            let session: Session = serde_json::from_str(document.json).map_err(wrong)?;
            self.session(&session)
                .map_err(|problem| TraceError::line(file, document.line, problem))?;
        }
        for (id, mut turns) in flat {
            turns.sort_by_key(|turn| turn.turn_index);
            let session = Session {
                id: Some(id),
                block_size: None,
                requests: turns.into_iter().map(Call::from).collect(),
            };
            self.session(&session).map_err(|problem| TraceError::file(file, problem))?;
        }
        Ok(())
    }

    /// All rows, with a word on what was done.
    pub(crate) fn into_rows(mut self) -> Rows {
        let mut note = |text: String| self.rows.notes.push(text);
        note(if self.timed {
            "the files do not say when sessions start: all start at once (--arrival-rate spreads them)"
                .to_owned()
        } else {
            "the files do not say when sessions start".to_owned()
        });
        if self.duplicates > 0 {
            note(format!("{} sessions met twice were read once", self.duplicates));
        }
        if self.without_blocks > 0 {
            note(format!(
                "{} sessions have no hash ids: nothing is known about their prefixes",
                self.without_blocks
            ));
        }
        self.rows
    }

    fn session(&mut self, session: &Session) -> Result<(), String> {
        if let Some(id) = &session.id
            && !self.seen.insert(id.clone())
        {
            self.duplicates += 1;
            return Ok(());
        }
        if let Some(last) = highest_id(&session.requests) {
            let size = session
                .block_size
                .filter(|&size| size > 0)
                .ok_or("hash_ids without a block_size; add it")?;
            if !matches!(self.rows.block_tokens, 0) && self.rows.block_tokens != size {
                return Err(format!(
                    "block_size {size}, but {} before; read them apart",
                    self.rows.block_tokens
                ));
            }
            self.rows.block_tokens = size;
            let room = self.next_id.checked_add(last).filter(|&end| end < 1 << 62);
            let tail =
                room.ok_or("hash ids are too large to be kept apart from other sessions'")? + 1;
            let mut chain = Chain { sessions: self, base: 0, tail, class: 0 };
            chain.base = chain.sessions.next_id;
            chain.add(&session.requests, None)?;
            self.next_id = chain.tail;
        } else {
            self.without_blocks += 1;
            let base = self.next_id;
            Chain { sessions: self, base, tail: base, class: 0 }.add(&session.requests, None)?;
        }
        self.rows.sessions += 1;
        Ok(())
    }
}

impl From<Turn> for Call {
    fn from(turn: Turn) -> Self {
        Self {
            t: turn.request_arrival_delta_s,
            input: Some(turn.input_tokens),
            output: Some(turn.output_tokens),
            hash_ids: Vec::new(),
            api_time: turn.api_time_s,
            think_time: turn.think_time_s,
            requests: None,
        }
    }
}

fn highest_id(calls: &[Call]) -> Option<u64> {
    let own = calls.iter().flat_map(|c| &c.hash_ids).copied().max();
    own.max(calls.iter().filter_map(|c| highest_id(c.requests.as_deref()?)).max())
}

/// The turn something waits for: its row, and when it was answered by the file's clock.
#[derive(Clone, Copy)]
struct Before {
    row: usize,
    end: f64,
}

/// A session's turns, or those of a sub-agent.
struct Chain<'a> {
    sessions: &'a mut Sessions,
    /// Added to the session's hash ids.
    base: u64,
    /// Next identity for the partial last block of a prompt, which the files leave out.
    tail: u64,
    class: u16,
}

impl Chain<'_> {
    fn add(&mut self, calls: &[Call], parent: Option<Before>) -> Result<(), String> {
        let mut before = parent;
        let mut own: Vec<&Call> = calls.iter().filter(|c| c.requests.is_none()).collect();
        own.reverse();
        for (index, call) in calls.iter().enumerate() {
            let at = |problem: String| format!("request {index}: {problem}");
            let Some(nested) = &call.requests else {
                own.pop();
                let next = own.last().copied();
                before = Some(self.turn(call, next, before).map_err(at)?);
                continue;
            };
            let class = std::mem::replace(&mut self.class, 1);
            // A sub-agent's clock starts when it does.
            let parent = before.map(|b| Before { row: b.row, end: b.end - call.t });
            self.add(nested, parent).map_err(at)?;
            self.class = class;
        }
        Ok(())
    }

    fn turn(
        &mut self,
        call: &Call,
        next: Option<&Call>,
        before: Option<Before>,
    ) -> Result<Before, String> {
        let input = length(call.input, "in")?;
        let output = length(call.output, "out")?;
        let ids = self.blocks(call, input, output, next);
        let size = u64::from(self.sessions.rows.block_tokens.max(1));
        let most = (u64::from(input) + u64::from(output)).div_ceil(size);
        if ids.len() as u64 > most {
            return Err(format!(
                "{} hash_ids where in and out hold {most} blocks; correct or delete the session",
                ids.len()
            ));
        }
        let rows = &mut self.sessions.rows;
        let blocks = rows.pool.push(&ids)?;
        let sent = match before {
            Some(Before { row, end }) => {
                let think = call.think_time.unwrap_or_else(|| (call.t - end).max(0.0));
                Sent::After { previous: row, think: seconds(think)? }
            }
            None if self.sessions.timed => Sent::At(0),
            None => Sent::Unknown,
        };
        let row = rows.len();
        let (class, session) = (self.class, Some(rows.sessions));
        rows.push(Row { line: 0, sent, input, output, class, session, blocks })?;
        Ok(Before { row, end: call.t + call.api_time.unwrap_or(0.0) })
    }

    /// Its identities: those of the prompt, and where the next turn repeats prompt and output, the output's too.
    fn blocks(&mut self, call: &Call, input: u32, output: u32, next: Option<&Call>) -> Vec<u64> {
        let size = self.sessions.rows.block_tokens;
        let repeats = |next: &&Call| {
            let reach = u64::from(input) + u64::from(output);
            next.hash_ids.starts_with(&call.hash_ids)
                && next.input.is_some_and(|input| input >= reach)
        };
        let ids = match next.filter(repeats) {
            Some(next) if !call.hash_ids.is_empty() => {
                let reach = (input + output).div_ceil(size) as usize;
                &next.hash_ids[..reach.min(next.hash_ids.len())]
            }
            _ => &call.hash_ids[..],
        };
        let mut ids: Vec<u64> = ids.iter().map(|id| self.base + id).collect();
        if !ids.is_empty() && ids.len() as u64 * u64::from(size) < u64::from(input) {
            ids.push(self.tail);
            self.tail += 1;
        }
        ids
    }
}

fn length(count: Option<u64>, name: &str) -> Result<u32, String> {
    let count = count.ok_or_else(|| format!("no {name}; correct or delete the session"))?;
    tokens(&count.to_string()).map_err(|e| format!("{name}: {e}"))
}

fn seconds(think: f64) -> Result<i64, String> {
    if (0.0..1e9).contains(&think) {
        Ok((think * 1e9).round() as i64)
    } else {
        Err(format!("think_time {think} s is not within 0 and 1e9; correct or delete the session"))
    }
}
