//! CSV as a stream of records, whatever separates its fields.

use csv_core::{ReadRecordResult, Reader, ReaderBuilder};

use super::names::plain_name;
use super::text::Text;
use crate::TraceError;

/// Longest record, bytes: a quote that is never closed ends here.
const LONGEST: usize = 64 << 20;

/// A table whose first line names its columns.
pub(crate) struct Csv<'a> {
    text: Text<'a>,
    reader: Reader,
    /// Lines of which not all has been read, and how far it has.
    input: Vec<u8>,
    read: usize,
    line: u64,
    fields: Vec<u8>,
    ends: Vec<usize>,
    /// Column names, evened out.
    pub header: Vec<String>,
}

/// One line of a table, its fields trimmed.
#[derive(Clone, Copy)]
pub(crate) struct Record<'t> {
    pub line: u64,
    fields: &'t str,
    ends: &'t [usize],
}

impl<'t> Record<'t> {
    pub(crate) fn len(self) -> usize {
        self.ends.len()
    }

    pub(crate) fn get(self, column: usize) -> Option<&'t str> {
        let end = *self.ends.get(column)?;
        let start = column.checked_sub(1).map_or(0, |before| self.ends[before]);
        Some(self.fields.get(start..end)?.trim())
    }

    pub(crate) fn iter(self) -> impl Iterator<Item = &'t str> {
        (0..self.len()).filter_map(move |column| self.get(column))
    }
}

impl<'a> Csv<'a> {
    /// Reads the header.
    pub(crate) fn new(text: Text<'a>) -> Result<Self, TraceError> {
        let mut csv = Self {
            text,
            reader: Reader::new(),
            input: Vec::new(),
            read: 0,
            line: 1,
            fields: vec![0; 1024],
            ends: vec![0; 32],
            header: Vec::new(),
        };
        csv.fetch()?;
        let head = String::from_utf8_lossy(&csv.input).into_owned();
        let count = |c: char| head.matches(c).count();
        let delimiter = [',', ';', '\t'].into_iter().rev().max_by_key(|&c| count(c)).unwrap_or(',');
        csv.reader = ReaderBuilder::new().delimiter(delimiter as u8).build();
        let file = csv.text.file.clone();
        let Some(first) = csv.next_record()? else { return Ok(csv) };
        let values = first.iter().filter(|field| is_value(field)).count();
        if values > 0 && first.iter().all(|field| field.is_empty() || is_value(field)) {
            let problem = "has no header: this line holds values; add a line of column names above it, such as arrival_s,input_tokens,output_tokens";
            return Err(TraceError::line(&file, first.line, problem));
        }
        csv.header = first.iter().map(plain_name).collect();
        Ok(csv)
    }

    pub(crate) fn file(&self) -> &str {
        &self.text.file
    }

    /// One more line to read.
    fn fetch(&mut self) -> Result<bool, TraceError> {
        self.input.clear();
        self.read = 0;
        let Some((line, text)) = self.text.next_line()? else { return Ok(false) };
        self.line = line;
        self.input.extend_from_slice(text.as_bytes());
        self.input.push(b'\n');
        Ok(true)
    }

    /// The next record, blank lines left out.
    pub(crate) fn next_record(&mut self) -> Result<Option<Record<'_>>, TraceError> {
        let (mut filled, mut count, mut line) = (0, 0, None);
        loop {
            if self.read == self.input.len() && self.fetch()? && line.is_none() {
                line = (self.input != b"\n").then_some(self.line);
            }
            let line = line.unwrap_or(self.line);
            let (result, read, written, ended) = self.reader.read_record(
                &self.input[self.read..],
                &mut self.fields[filled..],
                &mut self.ends[count..],
            );
            self.read += read;
            filled += written;
            count += ended;
            if filled > LONGEST || count > LONGEST / 64 {
                let problem = "a record of over 64 MiB; is a quote left open?";
                return Err(TraceError::line(&self.text.file, line, problem));
            }
            match result {
                ReadRecordResult::InputEmpty => {}
                ReadRecordResult::OutputFull => self.fields.resize(2 * self.fields.len(), 0),
                ReadRecordResult::OutputEndsFull => self.ends.resize(2 * self.ends.len(), 0),
                ReadRecordResult::End => return Ok(None),
                ReadRecordResult::Record => {
                    let fields = std::str::from_utf8(&self.fields[..filled]);
                    let fields = fields.map_err(|_| {
                        TraceError::line(&self.text.file, line, "not readable as CSV")
                    })?;
                    return Ok(Some(Record { line, fields, ends: &self.ends[..count] }));
                }
            }
        }
    }

    /// The next record, which must have a field for every column.
    pub(crate) fn next_row(&mut self) -> Result<Option<Record<'_>>, TraceError> {
        let (wants, file) = (self.header.len(), self.text.file.clone());
        let Some(record) = self.next_record()? else { return Ok(None) };
        if record.len() == wants {
            return Ok(Some(record));
        }
        let has = record.len();
        let hint =
            if has == wants + 1 { " (a time such as 10:00:00,123 needs quotes)" } else { "" };
        let problem =
            format!("{has} fields where the header has {wants}; correct or delete the line{hint}");
        Err(TraceError::line(&file, record.line, problem))
    }
}

/// A number or a date-time: nothing that a column is called.
fn is_value(field: &str) -> bool {
    field.parse::<f64>().is_ok() && !field.eq_ignore_ascii_case("nan")
        || field.len() > 7
            && field.starts_with(|c: char| c.is_ascii_digit())
            && field.contains(['-', '/', ':'])
}
