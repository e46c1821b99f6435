//! Parquet: its rows under their columns' names, groups opened and lists written as JSON writes them.

use std::borrow::Cow;

use parquet::basic::{LogicalType, TimeUnit as Precision};
use parquet::file::reader::{ChunkReader, FileReader as _, SerializedFileReader};
use parquet::record::Field;
use parquet::schema::types::Type;

use super::date::written;
use super::flat::{self, Columns};
use super::names::plain_name;
use crate::TraceError;

/// More unpacked bytes than this in one group of rows are refused rather than held.
const LARGEST_GROUP: i64 = 2 << 30;

/// A Parquet file that is being read.
pub(crate) struct Parquet<R: ChunkReader> {
    file: String,
    reader: SerializedFileReader<R>,
    /// The nanoseconds that a number counts, by column at the top, where the file says that it is a time since 1970.
    times: Vec<Option<i64>>,
}

impl<R: ChunkReader + 'static> Parquet<R> {
    pub(crate) fn open(file: &str, reader: R) -> Result<Self, TraceError> {
        let reader = SerializedFileReader::new(reader).map_err(|e| damaged(file, &e))?;
        let metadata = reader.metadata();
        if metadata.row_groups().iter().any(|g| g.total_byte_size() > LARGEST_GROUP) {
            let problem = "a group of rows is over 2 GiB; write it again with smaller groups";
            return Err(TraceError::file(file, problem));
        }
        let fields = metadata.file_metadata().schema().get_fields();
        let times = fields.iter().map(|field| time(field)).collect();
        Ok(Self { file: file.to_owned(), reader, times })
    }

    /// The names of its columns, groups opened.
    pub(crate) fn columns(&self) -> Vec<String> {
        let schema = self.reader.metadata().file_metadata().schema_descr();
        schema.columns().iter().map(|c| plain_name(&c.path().string())).collect()
    }

    pub(crate) fn rows(
        &self,
    ) -> Result<impl Iterator<Item = Result<Columns<'static>, TraceError>> + '_, TraceError> {
        let rows = self.reader.get_row_iter(None).map_err(|e| damaged(&self.file, &e))?;
        Ok(rows.map(|row| {
            let row = row.map_err(|e| damaged(&self.file, &e))?;
            let mut columns = Columns::new();
            let times = self.times.iter().copied().chain(std::iter::repeat(None));
            for ((name, field), time) in row.into_columns().into_iter().zip(times) {
                column(&plain_name(&name), field, time, &mut columns);
            }
            Ok(columns)
        }))
    }
}

/// The error for a file that the format's own crate cannot read.
pub(crate) fn damaged(file: &str, e: &dyn std::fmt::Display) -> TraceError {
    TraceError::file(
        file,
        format!("not readable as Parquet ({e}); fetch it again, or save it as CSV"),
    )
}

/// Nanoseconds of one count, if the column holds times.
fn time(field: &Type) -> Option<i64> {
    match field.get_basic_info().logical_type_ref()? {
        LogicalType::Timestamp(timestamp) => Some(match timestamp.unit {
            Precision::MILLIS => 1_000_000,
            Precision::MICROS => 1_000,
            Precision::NANOS => 1,
        }),
        _ => None,
    }
}

fn column(name: &str, field: Field, time: Option<i64>, columns: &mut Columns<'static>) {
    match field {
        Field::Null => {}
        // The text that pandas writes for nothing.
        Field::Double(x) if x.is_nan() => {}
        Field::Group(row) => {
            for (inner, field) in row.into_columns() {
                column(&format!("{name}.{}", plain_name(&inner)), field, None, columns);
            }
        }
        Field::MapInternal(map) => {
            for (key, value) in map.entries() {
                let inner = plain_name(&text(key, None));
                column(&format!("{name}.{inner}"), value.clone(), None, columns);
            }
        }
        // An export may hold JSON as text.
        Field::Str(text) if text.starts_with('{') => {
            let nested = flat::cell(name, &text);
            columns.extend(nested.into_iter().map(|(n, t)| (n, Cow::Owned(t.into_owned()))));
        }
        field => columns.push((name.to_owned(), Cow::Owned(text(&field, time)))),
    }
}

fn text(field: &Field, time: Option<i64>) -> String {
    match field {
        Field::Str(text) => text.clone(),
        Field::ListInternal(list) => {
            let elements: Vec<String> = list.elements().iter().map(|e| text(e, None)).collect();
            format!("[{}]", elements.join(","))
        }
        Field::TimestampMillis(n) => moment(*n, 1_000_000),
        Field::TimestampMicros(n) => moment(*n, 1_000),
        Field::Long(n) => time.map_or_else(|| n.to_string(), |unit| moment(*n, unit)),
        Field::Double(x) => x.to_string(),
        Field::Float(x) => x.to_string(),
        Field::Date(n) | Field::TimeMillis(n) => n.to_string(),
        Field::TimeMicros(n) => n.to_string(),
        other => other.to_string(),
    }
}

/// The date-time `n` units since 1970, where there is one.
fn moment(n: i64, unit: i64) -> String {
    n.checked_mul(unit).and_then(written).unwrap_or_else(|| n.to_string())
}
