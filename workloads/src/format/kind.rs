//! A kind of trace file: its name, how it is told from others, read and written.

use std::collections::BTreeSet;
use std::io::Write;

use super::clock::Unit;
use super::csv::Csv;
use super::names::Own;
use super::options::ReadOptions;
use super::rows::Rows;
use super::text::Documents;
use crate::{Trace, TraceError};

/// A format of trace files.
pub(crate) struct Kind {
    /// Its name on a command line.
    pub name: &'static str,
    /// The files it is for, in a line.
    pub about: &'static str,
    /// True of a file with these names, unless a format before it in the table has said so.
    pub tells: fn(&Seen<'_>) -> bool,
    pub reader: Reader,
    /// None for a format that is only read.
    pub writer: Option<Writer>,
}

/// The names in a file.
pub(crate) struct Seen<'a> {
    /// Of its columns, or of the keys at any depth of its first objects.
    pub columns: &'a [String],
    /// The outermost keys of its first objects; none where it is a table.
    pub keys: Option<&'a BTreeSet<String>>,
}

impl Seen<'_> {
    pub(crate) fn has(&self, name: &str) -> bool {
        self.columns.iter().any(|c| c == name)
    }

    pub(crate) fn has_all(&self, names: &[&str]) -> bool {
        names.iter().all(|name| self.has(name))
    }

    /// True if a part of some column's name is `part`.
    pub(crate) fn within(&self, part: &str) -> bool {
        self.columns.iter().any(|c| c.contains(part))
    }

    pub(crate) fn has_key(&self, key: &str) -> bool {
        self.keys.is_some_and(|keys| keys.contains(key))
    }
}

/// The way from a file to requests.
pub(crate) enum Reader {
    /// A request is a row of a table, which may be CSV, JSON or Parquet.
    Table(Layout),
    /// CSV with names of its own.
    Csv(fn(&mut Csv<'_>, &ReadOptions) -> Result<Rows, TraceError>),
    /// JSON with keys of its own.
    Json(fn(&mut Documents<'_>, &ReadOptions) -> Result<Rows, TraceError>),
    /// Sessions in JSON, of which a folder of files is one trace.
    Sessions,
    /// JSON that says all there is in a trace.
    Whole(fn(&mut Documents<'_>) -> Result<Trace, TraceError>),
}

/// The peculiarities of a format's rows.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Layout {
    /// Columns in words that mean something else elsewhere.
    pub names: &'static [Own],
    /// Unit of numbers in a time column that does not say its own.
    pub unit: Unit,
    /// Tokens per hash id, where the format has a convention.
    pub block_tokens: u32,
    /// A request without output is one that failed.
    pub zero_output_failed: bool,
    /// Failed requests count like all others: their lengths are known.
    pub keeps_failed: bool,
    /// A log of many things, of which those with token counts are requests.
    pub log: bool,
    /// Turns of a session follow each other where they have no times.
    pub turns: bool,
}

impl Layout {
    /// Nothing special.
    pub(crate) const PLAIN: Self = Self {
        names: &[],
        unit: Unit::Unknown,
        block_tokens: 0,
        zero_output_failed: false,
        keeps_failed: false,
        log: false,
        turns: false,
    };
}

/// The way from a trace to a file.
pub(crate) struct Writer {
    pub write: fn(&Trace, &mut dyn Write) -> Result<(), TraceError>,
    /// The parts of a trace that it has a place for, besides times and lengths.
    pub keeps: &'static [Part],
}

/// A part of a trace that a format may have no place for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    /// Identities of blocks of prompts.
    Prefixes,
    /// Identities of blocks of responses, where those of prompts have a place.
    Responses,
    Sessions,
    Classes,
    /// The limit on concurrent sessions.
    Limit,
    /// Times between milliseconds.
    Fractions,
    Provenance,
}
