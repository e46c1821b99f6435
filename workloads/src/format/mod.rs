//! Trace files: which format a file is, told from what is in it, and the way to and from a [`Trace`].
//!
//! A file that could mean two things is refused with what to say, never guessed at; a line that cannot be right is
//! named. What was changed on the way (sorting, failed requests left out, times made up) is in the trace's provenance.

mod azure;
mod bailian;
mod blis;
mod burstgpt;
mod cells;
mod clock;
mod csv;
mod date;
mod detect;
mod flat;
mod guarded;
mod identities;
mod jsonl;
mod llmservingsim;
mod logs;
mod mooncake;
mod names;
mod parquet;
mod rows;
mod sharegpt;
mod source;
mod table;
mod text;
mod time;
mod understand;
mod weka;
mod write;

use std::path::{Path, PathBuf};

pub use clock::DateOrder;
pub use names::Mapping;
pub use time::TimeUnit;
pub use write::{losses, write};

pub(crate) use rows::BlockPool;

use self::csv::Csv;
use self::parquet::Parquet;
use clock::Unit;
use guarded::guarded;
use rows::Rows;
use source::Content;
use table::Layout;
use text::Documents;

use crate::{Trace, TraceError};

/// A trace file's format. Whether it is written as CSV, as JSON or as Parquet is told apart by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Format {
    /// Azure LLM inference traces of 2023, 2024 and 2025.
    Azure,
    /// BurstGPT, six or eight columns.
    BurstGpt,
    /// Mooncake and AIPerf: times in milliseconds.
    Mooncake,
    /// GuideLLM: Mooncake's columns, with times in seconds.
    GuideLlm,
    /// Alibaba's Bailian traces of Qwen.
    Bailian,
    /// BLIS's TraceV2.
    Blis,
    /// LLMServingSim's workloads (JSONL).
    LlmServingSim,
    /// Agent sessions of kv-cache-tester (JSON), or flattened to a line per turn (JSONL).
    Weka,
    /// Message lengths of conversations (CSV): `conv,turn,role,tokens`.
    ShareGpt,
    /// Vidur request traces: `arrived_at` in seconds.
    Vidur,
    /// Prompt and response lengths without times, in Vidur's column names.
    Lengths,
    /// LiteLLM's spend logs and callback payloads.
    LiteLlm,
    /// Observations exported from Langfuse.
    Langfuse,
    /// OpenTelemetry spans with the attributes of gen_ai.
    Otel,
    /// Answers of OpenAI's interface with their usage.
    OpenAi,
    /// A table with columns recognised by name.
    Csv,
    /// JSON with keys recognised by name.
    Json,
    /// Our own JSONL, schema `knee.trace/1`.
    Jsonl,
}

impl Format {
    /// All formats, in the order in which they are listed to people.
    pub const ALL: [Self; 18] = [
        Self::Azure,
        Self::BurstGpt,
        Self::Mooncake,
        Self::GuideLlm,
        Self::Bailian,
        Self::Blis,
        Self::LlmServingSim,
        Self::Weka,
        Self::ShareGpt,
        Self::Vidur,
        Self::Lengths,
        Self::LiteLlm,
        Self::Langfuse,
        Self::Otel,
        Self::OpenAi,
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
            Self::GuideLlm => "guidellm",
            Self::Bailian => "bailian",
            Self::Blis => "blis",
            Self::LlmServingSim => "llmservingsim",
            Self::Weka => "weka",
            Self::ShareGpt => "sharegpt",
            Self::Vidur => "vidur",
            Self::Lengths => "lengths",
            Self::LiteLlm => "litellm",
            Self::Langfuse => "langfuse",
            Self::Otel => "otel",
            Self::OpenAi => "openai",
            Self::Csv => "csv",
            Self::Json => "json",
            Self::Jsonl => "jsonl",
        }
    }

    /// Whether it is no table, and its names are fixed.
    fn is_own(self) -> bool {
        matches!(self, Self::Weka | Self::ShareGpt | Self::LlmServingSim | Self::Jsonl)
    }

    /// What is special about its rows. The formats that are no tables have readers of their own.
    fn layout(self) -> Layout {
        match self {
            Self::BurstGpt => burstgpt::LAYOUT,
            Self::Mooncake => mooncake::LAYOUT,
            Self::GuideLlm => mooncake::GUIDELLM,
            Self::Bailian => bailian::LAYOUT,
            Self::Blis => blis::LAYOUT,
            Self::LiteLlm => logs::LITELLM,
            Self::Langfuse => logs::LANGFUSE,
            Self::Otel => logs::OTEL,
            Self::OpenAi => logs::OPENAI,
            Self::Vidur => Layout { unit: Unit::Known(TimeUnit::Seconds), ..Layout::PLAIN },
            _ => Layout::PLAIN,
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
    /// Tokens per hash id (Mooncake: 512 unless given), or per identity made from what else is known of prompts (16).
    pub block_tokens: Option<u32>,
    /// Keep requests that failed without a response, as requests of output 0.
    pub keep_failed: bool,
    /// Columns that are not called by what they hold.
    pub map: Vec<Mapping>,
    /// Whether day or month comes first in dates with slashes, where no date tells.
    pub date_order: Option<DateOrder>,
    /// Seed of the arrivals that `rate` makes.
    pub seed: u64,
}

impl ReadOptions {
    /// The format that was named, or else what `detect` finds.
    fn format(
        &self,
        file: &str,
        detect: impl FnOnce() -> Result<Format, TraceError>,
    ) -> Result<Format, TraceError> {
        let format = self.format.map_or_else(detect, Ok)?;
        if format.is_own() && !self.map.is_empty() {
            let name = format.name();
            let problem = format!(
                "read as {name}, whose names are fixed: leave --map out, or give --format csv or json"
            );
            return Err(TraceError::file(file, problem));
        }
        Ok(format)
    }

    /// Tokens per block identity in `file`, where `usual` is what its format has.
    fn block_tokens(&self, file: &str, usual: u32) -> Result<u32, TraceError> {
        match self.block_tokens {
            Some(0) => Err(TraceError::file(file, "tokens per block must be at least 1")),
            given => Ok(given.unwrap_or(usual)),
        }
    }
}

/// Reads a trace file, standard input (`-`), or a directory of session files as one trace.
///
/// # Errors
/// Says file, line and what to do: what cannot be read or understood, and what needs an option.
pub fn read(path: &Path, options: &ReadOptions) -> Result<Trace, TraceError> {
    if !path.is_dir() {
        let name =
            if path.as_os_str() == source::STDIN { "stdin".into() } else { path.to_string_lossy() };
        return read_content(&name, source::open(path)?, options);
    }
    let name = path.to_string_lossy();
    let failed = |source| TraceError::Read { path: path.to_owned(), source };
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
        let no_session = || {
            let problem = "not a session file; a directory is read as one trace of sessions, other formats by file";
            TraceError::file(&file, problem)
        };
        let Content::Text(text) = source::open(path)? else { return Err(no_session()) };
        let mut documents = Documents::new(text)?;
        if options.format(&file, || detect::documents(&mut documents))? != Format::Weka {
            return Err(no_session());
        }
        sessions.add(&mut documents)?;
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
    read_content(name, source::content(name, Box::new(bytes))?, options)
}

fn read_content(
    name: &str,
    content: Content<'_>,
    options: &ReadOptions,
) -> Result<Trace, TraceError> {
    let rows = match content {
        Content::ParquetFile(file) => read_parquet(name, file, options)?,
        Content::ParquetBytes(bytes) => read_parquet(name, ::bytes::Bytes::from(bytes), options)?,
        Content::Text(mut text) => match text.begins_with()? {
            None => return Err(TraceError::file(name, "empty: there are no requests in it")),
            Some(b'{' | b'[') => {
                let mut documents = Documents::new(text)?;
                let format = options.format(name, || detect::documents(&mut documents))?;
                if format == Format::Jsonl {
                    return jsonl::read(&mut documents);
                }
                read_json(name, &mut documents, format, options)?
            }
            Some(_) => {
                let mut csv = Csv::new(text)?;
                let format = options.format(name, || Ok(detect::columns(&csv.header)))?;
                match format {
                    Format::ShareGpt => sharegpt::read(&mut csv, options)?,
                    Format::Weka | Format::LlmServingSim | Format::Jsonl => {
                        return Err(not_as(name, "CSV", "JSON"));
                    }
                    _ => table::csv(&mut csv, format, format.layout(), options)?,
                }
            }
        },
    };
    rows.into_trace(options)
}

fn read_json(
    name: &str,
    documents: &mut Documents<'_>,
    format: Format,
    options: &ReadOptions,
) -> Result<Rows, TraceError> {
    match format {
        Format::Weka => {
            let mut sessions = weka::Sessions::new(name, options);
            sessions.add(documents)?;
            Ok(sessions.into_rows())
        }
        Format::LlmServingSim => llmservingsim::read(documents, options),
        Format::ShareGpt => Err(not_as(name, "JSON", "CSV")),
        _ => table::json(documents, format, format.layout(), options),
    }
}

fn read_parquet<R: ::parquet::file::reader::ChunkReader + 'static>(
    name: &str,
    reader: R,
    options: &ReadOptions,
) -> Result<Rows, TraceError> {
    let read = || {
        let parquet = Parquet::open(name, reader)?;
        let format = options.format(name, || Ok(detect::columns(&parquet.columns())))?;
        if format.is_own() {
            return Err(not_as(name, "Parquet", "text"));
        }
        table::named(name, parquet.rows()?, format, format.layout(), options)
    };
    guarded(read).unwrap_or_else(|| Err(parquet::damaged(name, &"it contradicts itself")))
}

fn not_as(name: &str, is: &str, wants: &str) -> TraceError {
    TraceError::file(name, format!("{is}, and this format is {wants}; leave --format out"))
}
