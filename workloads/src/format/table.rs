//! The loops over rows, whether they are lines of CSV, JSON objects or rows of Parquet.
//!
//! The name of a column alone ([`super::names`]) tells its content, row by row, so that a key counts wherever it
//! first appears. The peculiarities of a format are its [`Layout`].

use super::cells::Cells;
use super::csv::Csv;
use super::flat::{self, Columns};
use super::kind::Layout;
use super::options::ReadOptions;
use super::rows::Rows;
use super::text::{Document, Documents, bad_json};
use super::understand::Table;
use crate::TraceError;

/// Reads CSV with a header line.
pub(crate) fn csv(
    csv: &mut Csv<'_>,
    format: &'static str,
    layout: Layout,
    options: &ReadOptions,
) -> Result<Rows, TraceError> {
    let mut table = Table::new(csv.file(), format, layout, options)?;
    let header = csv.header.clone();
    let places: Vec<_> = header.iter().map(|name| table.names.places(name)).collect();
    for (index, name) in header.iter().enumerate().filter(|(i, _)| !places[*i].is_empty()) {
        if header[..index].contains(name) {
            let problem =
                format!("two columns are called {name}; rename the one that is not meant");
            return Err(TraceError::line(csv.file(), 1, problem));
        }
        table.note_names(&places[index], name);
    }
    let all = || header.join(", ");
    while let Some(record) = csv.next_row()? {
        if record.len() == 1 && record.iter().all(str::is_empty) {
            continue;
        }
        let nested: Vec<Columns<'_>> = (header.iter().zip(record.iter()))
            .filter(|(_, text)| text.starts_with('{'))
            .map(|(name, text)| flat::cell(name, text))
            .collect();
        let mut cells = Cells::default();
        for (index, text) in record.iter().enumerate().filter(|(_, t)| !t.starts_with('{')) {
            cells.add(&places[index], &header[index], text);
        }
        for (name, text) in nested.iter().flatten() {
            cells.add(&table.names.places(name), name, text);
        }
        table.push(record.line, &cells, &all)?;
    }
    table.finish()
}

/// The reason why a document was not understood.
enum Fault {
    Json(serde_json::Error),
    Row(TraceError),
}

impl From<serde_json::Error> for Fault {
    fn from(e: serde_json::Error) -> Self {
        Self::Json(e)
    }
}

/// Reads JSON objects, one per line or in an array, or wrapped as logs are.
pub(crate) fn json(
    documents: &mut Documents<'_>,
    format: &'static str,
    layout: Layout,
    options: &ReadOptions,
) -> Result<Rows, TraceError> {
    let file = documents.file().to_owned();
    let mut table = Table::new(&file, format, layout, options)?;
    while let Some(Document { line, json }) = documents.next_document()? {
        let row = &mut |columns: Columns<'_>| table.columns(line, &columns).map_err(Fault::Row);
        flat::rows(json, row).map_err(|fault| match fault {
            Fault::Json(e) => bad_json(&file, line, &e),
            Fault::Row(e) => e,
        })?;
    }
    table.finish()
}

/// Reads rows that come with their names, each with its number in place of a line's.
pub(crate) fn named(
    file: &str,
    rows: impl Iterator<Item = Result<Columns<'static>, TraceError>>,
    format: &'static str,
    layout: Layout,
    options: &ReadOptions,
) -> Result<Rows, TraceError> {
    let mut table = Table::new(file, format, layout, options)?;
    for (number, columns) in (1..).zip(rows) {
        table.columns(number, &columns?)?;
    }
    table.finish()
}
