//! Trace files: the format of a file, told from its contents, and the way to and from a [`Trace`].
//!
//! A file that could mean two things is refused with what to say, never guessed at; a line that
//! cannot be right is named. The trace's provenance lists the changes on the way (sorting, failed
//! requests left out, times made up).

mod cells;
mod clock;
mod csv;
mod date;
mod detect;
mod flat;
mod guarded;
mod identities;
mod kind;
mod kinds;
mod known;
mod names;
mod options;
mod parquet;
mod rows;
mod source;
mod table;
mod text;
mod time;
mod understand;
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
use kind::{Kind, Reader};
use kinds::Sessions;
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
    let mut sessions = Sessions::new(&name, options);
    for path in &files {
        let file = path.to_string_lossy();
        let no_session = || {
            let problem = "not a session file; a directory is read as one trace of sessions, other formats by file";
            TraceError::file(&file, problem)
        };
        let Content::Text(text) = source::open(path)? else { return Err(no_session()) };
        let mut documents = Documents::new(text)?;
        let kind = settled(&file, options, || detect::documents(&mut documents))?;
        if !matches!(kind.reader, Reader::Sessions) {
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
                let kind = settled(name, options, || detect::documents(&mut documents))?;
                match &kind.reader {
                    Reader::Whole(read) => return read(&mut documents),
                    Reader::Sessions => {
                        let mut sessions = Sessions::new(name, options);
                        sessions.add(&mut documents)?;
                        sessions.into_rows()
                    }
                    Reader::Json(read) => read(&mut documents, options)?,
                    Reader::Table(layout) => {
                        table::json(&mut documents, kind.name, *layout, options)?
                    }
                    Reader::Csv(_) => return Err(not_as(name, "JSON", "CSV")),
                }
            }
            Some(_) => {
                let mut csv = Csv::new(text)?;
                let kind = settled(name, options, || Ok(detect::columns(&csv.header)))?;
                match &kind.reader {
                    Reader::Csv(read) => read(&mut csv, options)?,
                    Reader::Table(layout) => table::csv(&mut csv, kind.name, *layout, options)?,
                    Reader::Json(_) | Reader::Sessions | Reader::Whole(_) => {
                        return Err(not_as(name, "CSV", "JSON"));
                    }
                }
            }
        },
    };
    rows.into_trace(options)
}

fn read_parquet<R: ::parquet::file::reader::ChunkReader + 'static>(
    name: &str,
    reader: R,
    options: &ReadOptions,
) -> Result<Rows, TraceError> {
    let read = || {
        let parquet = Parquet::open(name, reader)?;
        let kind = settled(name, options, || Ok(detect::columns(&parquet.columns())))?;
        let Reader::Table(layout) = kind.reader else {
            return Err(not_as(name, "Parquet", "text"));
        };
        table::named(name, parquet.rows()?, kind.name, layout, options)
    };
    guarded(read).unwrap_or_else(|| Err(parquet::damaged(name, &"it contradicts itself")))
}

/// The format that was named, or else what `detect` finds.
fn settled(
    file: &str,
    options: &ReadOptions,
    detect: impl FnOnce() -> Result<&'static Kind, TraceError>,
) -> Result<&'static Kind, TraceError> {
    let kind = options.format.map_or_else(detect, |format| Ok(kinds::of(format)))?;
    if !matches!(kind.reader, Reader::Table(_)) && !options.map.is_empty() {
        let name = kind.name;
        let problem = format!(
            "read as {name}, whose names are fixed: leave --map out, or give --format csv or json"
        );
        return Err(TraceError::file(file, problem));
    }
    Ok(kind)
}

fn not_as(name: &str, is: &str, wants: &str) -> TraceError {
    TraceError::file(name, format!("{is}, and this format is {wants}; leave --format out"))
}
