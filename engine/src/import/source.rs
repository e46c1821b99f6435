//! Tables of rows, as CSV (plain or gzipped) or Parquet, read so that every fault is told with its file and row.

use std::fs::File;
use std::io::{BufReader, Cursor, Read};
use std::path::{Path, PathBuf};

use csv::StringRecord;
use flate2::read::MultiGzDecoder;

use super::parquet;
use super::tables::{ImportError, Place};

/// The beginning of a Git LFS pointer: a file that stands for another, which was not fetched.
const LFS_POINTER: &[u8] = b"version https://git-lfs.github.com/spec/";

/// Bytes of a table, unpacked: ten times the longest one published. A few kilobytes of gzip can stand for any amount.
const LONGEST: u64 = 256 << 20;
/// Its rows; the longest one published has 150,000.
const MOST_ROWS: u64 = 1_000_000;

/// Largest size or count.
const MOST: f64 = 1e15;
/// Longest time of one kernel, seconds.
const LONGEST_S: f64 = 1e4;

/// One table, a record at a time.
pub(super) struct Source {
    path: PathBuf,
    format: Format,
    headers: StringRecord,
    record: StringRecord,
    records: u64,
}

/// The format in which a table is stored.
enum Format {
    Csv(csv::Reader<Box<dyn Read>>),
    Parquet(std::vec::IntoIter<StringRecord>),
}

impl Source {
    pub(super) fn open(path: &Path) -> Result<Self, ImportError> {
        let read = |source| ImportError::Read { path: path.to_path_buf(), source };
        let whole = |reason: String| ImportError::Row {
            path: path.to_path_buf(),
            place: Place::Whole,
            reason,
        };
        let mut file = File::open(path).map_err(read)?;
        let mut start = Vec::new();
        (&mut file).take(LFS_POINTER.len() as u64).read_to_end(&mut start).map_err(read)?;
        if start == LFS_POINTER {
            return Err(whole(
                "a Git LFS pointer and not the table: run `git lfs pull`".to_owned(),
            ));
        }
        let is = |extension: &str| path.extension().is_some_and(|e| e == extension);
        let mut headers = StringRecord::new();
        let format = if is("parquet") {
            let (names, rows) = parquet::read(file).map_err(whole)?;
            headers = names;
            Format::Parquet(rows.into_iter())
        } else {
            let all = Cursor::new(start).chain(file);
            let bytes: Box<dyn Read> = if is("gz") {
                Box::new(MultiGzDecoder::new(BufReader::new(all)))
            } else {
                Box::new(all)
            };
            Format::Csv(csv::Reader::from_reader(Box::new(bytes.take(LONGEST))))
        };
        let record = StringRecord::new();
        let mut source = Self { path: path.to_path_buf(), format, headers, record, records: 0 };
        if let Format::Csv(reader) = &mut source.format {
            let headers = reader.headers().cloned();
            source.headers = headers.map_err(|e| source.bad(&e))?;
        }
        if source.headers.is_empty() {
            return Err(source.header_error("the file is empty".to_owned()));
        }
        Ok(source)
    }

    /// Moves to the next record, if there is one. A table without any is an error.
    pub(super) fn advance(&mut self) -> Result<bool, ImportError> {
        let more = match &mut self.format {
            Format::Csv(reader) => {
                let more = reader.read_record(&mut self.record);
                more.map_err(|e| self.bad(&e))?
            }
            Format::Parquet(rows) => {
                let row = rows.next();
                let more = row.is_some();
                self.record = row.unwrap_or_default();
                more
            }
        };
        self.records += u64::from(more);
        let read = match &self.format {
            Format::Csv(reader) => reader.position().byte(),
            Format::Parquet(_) => 0,
        };
        if self.records > MOST_ROWS || read >= LONGEST {
            return Err(self.error(&format!(
                "the table is longer than {MOST_ROWS} rows or {LONGEST} bytes; leave out what is not needed"
            )));
        }
        if self.records == 0 {
            return Err(self.error("the table has no rows"));
        }
        Ok(more)
    }

    fn bad(&self, error: &csv::Error) -> ImportError {
        let truncated = matches!(error.kind(), csv::ErrorKind::Io(e) if e.kind() == std::io::ErrorKind::UnexpectedEof);
        if truncated {
            return self.error("the file ends too soon: it is truncated, fetch it again");
        }
        if matches!(error.kind(), csv::ErrorKind::Io(_)) {
            return self.error(&format!("not readable as gzip: {error}"));
        }
        self.error(&error.to_string())
    }

    /// An error at the current record.
    pub(super) fn error(&self, reason: &str) -> ImportError {
        let place = match &self.format {
            Format::Csv(reader) => Place::Line(self.record.position().map_or_else(
                || reader.position().line(),
                |p| if reader.is_done() { p.line() + 1 } else { p.line() },
            )),
            Format::Parquet(_) if self.records == 0 => Place::Whole,
            Format::Parquet(_) => Place::Row(self.records),
        };
        ImportError::Row { path: self.path.clone(), place, reason: reason.to_owned() }
    }

    /// The index of a column; Vidur writes `time_stats.` before the names of times.
    fn column(&self, name: &str) -> Option<usize> {
        self.headers.iter().position(|h| h.strip_prefix("time_stats.").unwrap_or(h) == name)
    }

    /// True where there is such a column.
    pub(super) fn has(&self, column: &str) -> bool {
        self.column(column).is_some()
    }

    /// An error of the header.
    pub(super) fn header_error(&self, reason: String) -> ImportError {
        let place = match self.format {
            Format::Csv(_) => Place::Line(1),
            Format::Parquet(_) => Place::Whole,
        };
        ImportError::Row { path: self.path.clone(), place, reason }
    }

    /// A field by its column's name.
    pub(super) fn text(&self, column: &str) -> Result<&str, ImportError> {
        let at = self.column(column).ok_or_else(|| {
            let has: Vec<&str> = self.headers.iter().collect();
            self.header_error(format!("no column `{column}` among {}", has.join(", ")))
        })?;
        self.record.get(at).ok_or_else(|| self.error(&format!("no field for `{column}`")))
    }

    /// A count or size: finite and not negative.
    pub(super) fn number(&self, column: &str) -> Result<f64, ImportError> {
        let text = self.text(column)?;
        match text.trim().parse::<f64>() {
            Ok(x) if (0.0..=MOST).contains(&x) => Ok(x),
            _ => Err(self.error(&format!("{column} = `{text}` must be a number from 0 to {MOST}"))),
        }
    }

    pub(super) fn count(&self, column: &str) -> Result<u32, ImportError> {
        let x = self.number(column)?;
        if x.fract() == 0.0 && x <= f64::from(u32::MAX) {
            Ok(x as u32)
        } else {
            Err(self.error(&format!("{column} = {x} must be a whole number")))
        }
    }

    /// A positive count.
    pub(super) fn positive(&self, column: &str) -> Result<u32, ImportError> {
        match self.count(column)? {
            0 => Err(self.error(&format!("{column} = 0 must be at least 1"))),
            n => Ok(n),
        }
    }

    /// A time in seconds, from a column whose unit is `unit` seconds: more than nothing.
    pub(super) fn seconds(&self, column: &str, unit: f64) -> Result<f64, ImportError> {
        let text = self.text(column)?;
        match text.trim().parse::<f64>() {
            Ok(x) if x > 0.0 && x * unit <= LONGEST_S => Ok(x * unit),
            _ => Err(self.error(&format!(
                "{column} = `{text}` must be a time above 0 and up to {LONGEST_S} s"
            ))),
        }
    }
}

/// The table in `dir` whose name starts and ends so, gzipped or not; the last by name where there are several.
pub(super) fn find(dir: &Path, starts: &str, ends: &str) -> Result<Option<PathBuf>, ImportError> {
    Ok(find_all(dir, starts, ends, false)?.pop())
}

/// All such tables, by name; those marked DERIVED, which were not measured as such, only where they are wanted.
pub(super) fn find_all(
    dir: &Path,
    starts: &str,
    ends: &str,
    derived: bool,
) -> Result<Vec<PathBuf>, ImportError> {
    let read = |source| ImportError::Read { path: dir.to_path_buf(), source };
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(read)? {
        let path = entry.map_err(read)?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let stem = name.strip_suffix(".gz").unwrap_or(&name);
        let stem = if derived { stem.replace(".DERIVED", "") } else { stem.to_owned() };
        if stem.starts_with(starts) && stem.ends_with(ends) && !stem.contains("DERIVED") {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}
