//! Trace files: which format a file is, told from what is in it, and the way to and from a [`Trace`].
//!
//! A file that could mean two things is refused with what to say, never guessed at; a line that cannot be right is
//! named. What was changed on the way (sorting, failed requests left out, times made up) is in the trace's provenance.

mod azure;
mod burstgpt;
mod generic;
mod jsonl;
mod mooncake;
mod rows;
mod sharegpt;
mod source;
mod table;
mod time;
mod vidur;
mod weka;

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};

use serde_json::value::RawValue;

pub use time::TimeUnit;

pub(crate) use rows::BlockPool;

use crate::{Arrival, Trace, TraceError, TraceRequest};

/// A trace file's format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Format {
    /// Azure LLM inference traces of 2023, 2024 and 2025 (CSV).
    Azure,
    /// BurstGPT, six or eight columns (CSV).
    BurstGpt,
    /// Mooncake and AIPerf (JSONL or a JSON array).
    Mooncake,
    /// Agent sessions of kv-cache-tester (JSON), or flattened to a line per turn (JSONL).
    Weka,
    /// Message lengths of conversations (CSV): `conv,turn,role,tokens`.
    ShareGpt,
    /// Vidur request traces (CSV, `arrived_at` in seconds).
    Vidur,
    /// Prompt and response lengths without times, in Vidur's column names (CSV).
    Lengths,
    /// CSV with columns recognised by name.
    Csv,
    /// JSONL or a JSON array with keys recognised by name.
    Json,
    /// Our own JSONL, schema `knee.trace/1`.
    Jsonl,
}

impl Format {
    /// All formats, in the order in which they are listed to people.
    pub const ALL: [Self; 10] = [
        Self::Azure,
        Self::BurstGpt,
        Self::Mooncake,
        Self::Weka,
        Self::ShareGpt,
        Self::Vidur,
        Self::Lengths,
        Self::Csv,
        Self::Json,
        Self::Jsonl,
    ];

    /// What it is called on a command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Azure => "azure",
            Self::BurstGpt => "burstgpt",
            Self::Mooncake => "mooncake",
            Self::Weka => "weka",
            Self::ShareGpt => "sharegpt",
            Self::Vidur => "vidur",
            Self::Lengths => "lengths",
            Self::Csv => "csv",
            Self::Json => "json",
            Self::Jsonl => "jsonl",
        }
    }
}

impl std::str::FromStr for Format {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        let known = || Self::ALL.map(Self::name).join(", ");
        Self::ALL
            .into_iter()
            .find(|f| f.name() == s)
            .ok_or_else(|| format!("unknown format {s:?}: use one of {}", known()))
    }
}

/// What the user says about a file beyond its content.
#[derive(Debug, Clone, Default)]
pub struct ReadOptions {
    /// The format, where the content would be taken for another.
    pub format: Option<Format>,
    /// Unit of numbers in the time column; needed where a column is only called `timestamp` or the like.
    pub time_unit: Option<TimeUnit>,
    /// Arrivals per second for files without times: requests, conversations or sessions. Poisson.
    pub rate: Option<f64>,
    /// Tokens per hash id (Mooncake: 512 unless given), or per identity made from known turns (ShareGPT: 16).
    pub block_tokens: Option<u32>,
    /// Keep BurstGPT's requests without response, which mark failures, as requests of output 0.
    pub keep_failed: bool,
    /// Seed of the arrivals that `rate` makes.
    pub seed: u64,
}

/// Reads a trace file, or a directory of session files as one trace.
///
/// # Errors
/// Says file, line and what to do: what cannot be read or understood, and what needs an option.
pub fn read(path: &Path, options: &ReadOptions) -> Result<Trace, TraceError> {
    let failed = |source| TraceError::Read { path: path.to_owned(), source };
    let name = path.to_string_lossy();
    if !path.is_dir() {
        return read_bytes(&name, &source::bytes(path)?, options);
    }
    let mut files: Vec<PathBuf> = Vec::new();
    for entry in std::fs::read_dir(path).map_err(failed)? {
        let entry = entry.map_err(failed)?.path();
        let ends = |e: &str| entry.to_string_lossy().ends_with(e);
        if entry.is_file() && [".json", ".json.gz", ".jsonl", ".jsonl.gz"].into_iter().any(ends) {
            files.push(entry);
        }
    }
    files.sort();
    let mut sessions = weka::Sessions::new(&name, options);
    for path in &files {
        let file = path.to_string_lossy();
        let bytes = source::bytes(path)?;
        let text = source::text(&file, &bytes)?;
        if !matches!(options.format.map_or_else(|| detect(&file, &text), Ok)?, Format::Weka) {
            let problem = "not a session file; a directory is read as one trace of sessions, other formats by file";
            return Err(TraceError::file(&file, problem));
        }
        sessions.add(&file, &text)?;
    }
    if files.is_empty() {
        return Err(TraceError::file(
            &name,
            "no session files (.json, .json.gz, .jsonl) in this directory",
        ));
    }
    sessions.into_rows().into_trace(options)
}

/// Reads a trace from memory; `name` is the file's name for messages and the trace's name.
///
/// # Errors
/// As [`read`].
pub fn read_bytes(name: &str, bytes: &[u8], options: &ReadOptions) -> Result<Trace, TraceError> {
    let text = source::text(name, bytes)?;
    let format = options.format.map_or_else(|| detect(name, &text), Ok)?;
    let csv = |layout: &table::Layout| table::csv(name, &text, format, layout, options);
    let rows = match format {
        Format::Azure => csv(&azure::layout())?,
        Format::BurstGpt => csv(&burstgpt::layout())?,
        Format::Vidur => csv(&vidur::layout())?,
        Format::Lengths => csv(&vidur::lengths())?,
        Format::Csv => {
            let columns = table::csv_header(name, &mut table::csv_reader(&text))?;
            csv(&generic::layout(name, &columns, options.rate)?)?
        }
        Format::Mooncake => table::json(name, &text, format, &mooncake::layout(), options)?,
        Format::Json => {
            let columns = keys(name, &text)?.into_iter().collect::<Vec<_>>();
            table::json(
                name,
                &text,
                format,
                &generic::layout(name, &columns, options.rate)?,
                options,
            )?
        }
        Format::ShareGpt => sharegpt::read(name, &text, options)?,
        Format::Weka => {
            let mut sessions = weka::Sessions::new(name, options);
            sessions.add(name, &text)?;
            sessions.into_rows()
        }
        Format::Jsonl => return jsonl::read(name, &source::documents(name, &text)?),
    };
    rows.into_trace(options)
}

/// Which format a text is in.
fn detect(file: &str, text: &str) -> Result<Format, TraceError> {
    if text.trim_start().starts_with(['{', '[']) {
        let keys = keys(file, text)?;
        let has = |key: &str| keys.contains(key);
        return match () {
            () if has("schema") => Ok(Format::Jsonl),
            () if has("requests") || has("request_arrival_delta_s") => Ok(Format::Weka),
            () if has("input_length") && has("output_length") => Ok(Format::Mooncake),
            () if has("input") && has("output") => {
                let problem = "its input and output are not token counts; count the tokens first (input_tokens, output_tokens)";
                Err(TraceError::file(file, problem))
            }
            () => Ok(Format::Json),
        };
    }
    let header = table::csv_header(file, &mut table::csv_reader(text))?;
    let has = |names: &[&str]| names.iter().all(|n| header.iter().any(|h| h == n));
    Ok(match () {
        () if has(&["timestamp", "contexttokens", "generatedtokens"]) => Format::Azure,
        () if has(&["timestamp", "request_tokens", "response_tokens"]) => Format::BurstGpt,
        () if has(&["arrived_at", "num_prefill_tokens", "num_decode_tokens"]) => Format::Vidur,
        () if has(&["num_prefill_tokens", "num_decode_tokens"]) && header.len() <= 4 => {
            Format::Lengths
        }
        () if has(&["conv", "turn", "role", "tokens"]) => Format::ShareGpt,
        () => Format::Csv,
    })
}

/// The keys of the first object.
fn keys(file: &str, text: &str) -> Result<std::collections::BTreeSet<String>, TraceError> {
    let documents = source::documents(file, text)?;
    let Some(first) = documents.first() else {
        return Err(TraceError::file(file, "an empty list: there are no requests in it"));
    };
    let object: BTreeMap<String, &RawValue> =
        serde_json::from_str(first.json).map_err(|e| source::bad_json(file, first.line, &e))?;
    Ok(object.into_keys().map(|key| table::plain_name(&key)).collect())
}

/// Writes a trace as Azure CSV, Mooncake JSONL or our own JSONL. See [`losses`] for what the first two leave out.
///
/// # Errors
/// Where the format cannot say when requests are sent, or is one that is only read.
pub fn write(trace: &Trace, format: Format, out: &mut impl Write) -> Result<(), TraceError> {
    match format {
        Format::Azure => azure::write(trace, out),
        Format::Mooncake => mooncake::write(trace, out),
        Format::Jsonl => jsonl::write(trace, out),
        other => Err(TraceError::Inexpressible {
            format: other.name(),
            problem: "it is only read; write azure, mooncake or jsonl".to_owned(),
        }),
    }
}

/// What `format` has no place for and [`write()`] therefore leaves out of `trace`.
#[must_use]
pub fn losses(trace: &Trace, format: Format) -> Vec<&'static str> {
    let closed = trace.requests.iter().any(|r| matches!(r.arrival, Arrival::After { .. }));
    let all = [
        (trace.block_tokens > 0, "prefix identities", &[Format::Mooncake][..]),
        (
            format == Format::Mooncake && trace.requests.iter().any(|r| outlasts(trace, r)),
            "identities of responses",
            &[],
        ),
        (trace.requests.iter().any(|r| r.session.is_some()), "sessions", &[Format::Mooncake]),
        (trace.classes.len() > 1, "request classes", &[]),
        (
            closed && trace.max_concurrent_sessions.is_some(),
            "the limit on concurrent sessions",
            &[],
        ),
        (!trace.provenance.is_empty(), "provenance", &[]),
    ];
    let lost = |&(present, _, kept): &(bool, &str, &[Format])| {
        present && format != Format::Jsonl && !kept.contains(&format)
    };
    all.iter().filter(|l| lost(l)).map(|l| l.1).collect()
}

/// Whether it is known which response this is, and not only which prompt.
fn outlasts(trace: &Trace, request: &TraceRequest) -> bool {
    request.blocks.len > request.input.div_ceil(trace.block_tokens.max(1))
}
