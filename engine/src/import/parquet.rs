//! Parquet tables as records of text, so that they are read further as CSV is.

use std::fs::File;

use csv::StringRecord;
use parquet::errors::ParquetError;
use parquet::file::reader::{FileReader as _, SerializedFileReader};
use parquet::record::{Field, Row};

use crate::contained::contained;

/// More unpacked bytes than this in one group of rows are refused rather than held.
const LARGEST_GROUP: i64 = 1 << 30;

/// Names of columns, and rows.
pub(super) type Table = (StringRecord, Vec<StringRecord>);

/// All of a table.
///
/// # Errors
/// On a file that is damaged or none of the kind, in words.
pub(super) fn read(file: File) -> Result<Table, String> {
    let damaged = |e: ParquetError| format!("not readable as Parquet: {e}; fetch the file again");
    // The reader asserts what a damaged file need not hold.
    contained(|| table(file).map_err(damaged))
        .unwrap_or_else(|| Err("not readable as Parquet: damaged; fetch the file again".to_owned()))
}

fn table(file: File) -> Result<Table, ParquetError> {
    let table = SerializedFileReader::new(file)?;
    if table.metadata().row_groups().iter().any(|g| g.total_byte_size() > LARGEST_GROUP) {
        return Err(ParquetError::General("a group of rows is over 1 GiB".to_owned()));
    }
    let schema = table.metadata().file_metadata().schema_descr();
    let headers: StringRecord = schema.columns().iter().map(|c| c.name().to_owned()).collect();
    let rows = table.get_row_iter(None)?.map(|row| Ok(record(&row?)));
    let rows = rows.collect::<Result<_, ParquetError>>()?;
    Ok((headers, rows))
}

/// A row as text, field by field.
fn record(row: &Row) -> StringRecord {
    let text = |field: &Field| match field {
        Field::Null => String::new(),
        Field::Str(text) => text.clone(),
        Field::Bytes(bytes) => String::from_utf8_lossy(bytes.data()).into_owned(),
        Field::Double(x) => x.to_string(),
        Field::Float(x) => x.to_string(),
        other => other.to_string(),
    };
    row.get_column_iter().map(|(_, field)| text(field)).collect()
}
