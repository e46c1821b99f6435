//! Trace files: the format of a file, told from its contents, and the way to and from a [`Trace`].
//!
//! A file that could mean two things is refused with what to say, never guessed at; a line that
//! cannot be right is named. The trace's provenance lists the changes on the way (sorting, failed
//! requests left out, times made up).

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
mod known;
mod layout;
mod layouts;
mod llmservingsim;
mod logs;
mod mooncake;
mod names;
mod options;
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
pub use known::Format;
pub use names::Mapping;
pub use options::ReadOptions;
pub use time::TimeUnit;
pub use write::{losses, write};

pub(crate) use rows::BlockPool;

use self::csv::Csv;
use self::parquet::Parquet;
use guarded::guarded;
use rows::Rows;
use source::Content;
use text::Documents;

use crate::{Trace, TraceError};

/// Reads a trace file, standard input (`-`), or a directory of session files as one trace.
///
/// # Errors
/// Says file, line and what to do: what cannot be read or understood, and what needs an option.
pub fn read(path: &Path, options: &ReadOptions) -> Result<Trace, TraceError> {
    if !path.is_dir() {
        return read_content(&source::name(path), source::open(path)?, options);
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
                    _ => table::csv(&mut csv, format, layouts::of(format), options)?,
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
        _ => table::json(documents, format, layouts::of(format), options),
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
        table::named(name, parquet.rows()?, format, layouts::of(format), options)
    };
    guarded(read).unwrap_or_else(|| Err(parquet::damaged(name, &"it contradicts itself")))
}

fn not_as(name: &str, is: &str, wants: &str) -> TraceError {
    TraceError::file(name, format!("{is}, and this format is {wants}; leave --format out"))
}
