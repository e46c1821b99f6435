//! The one loop over rows, whether they are lines of CSV or JSON objects.
//!
//! A format of this kind is only a [`Layout`]: which column holds what, and in which unit time counts.

use std::collections::{BTreeMap, HashMap};

use serde_json::value::RawValue;

use super::rows::{Rows, Sent};
use super::source::{Document, bad_json, documents};
use super::time::{TimeUnit, nanoseconds};
use super::{Format, ReadOptions};
use crate::TraceError;
use crate::error::printable;

/// What a column can hold, and its place in [`Layout::names`].
#[derive(Clone, Copy)]
pub(crate) enum Slot {
    Time,
    Input,
    Output,
    Class,
    Session,
    Delay,
    HashIds,
    BlockSize,
}

const SLOTS: usize = 8;

/// Texts of one row by [`Slot`].
type Cells<'a> = [Option<&'a str>; SLOTS];

/// Which column (CSV) or key (JSON) holds what.
#[derive(Debug, Default, Clone)]
pub(crate) struct Layout {
    pub names: [Option<String>; SLOTS],
    /// Unit of numbers in the time column; `None` when only the user can know.
    pub unit: Option<TimeUnit>,
    /// Tokens per hash id, where the format has a convention.
    pub block_tokens: u32,
    /// A request without output is one that failed, and is left out.
    pub zero_output_failed: bool,
}

impl Layout {
    pub(crate) fn new(columns: &[(Slot, &str)], unit: Option<TimeUnit>) -> Self {
        let mut layout = Self { unit, ..Self::default() };
        for &(slot, name) in columns {
            layout.names[slot as usize] = Some(name.to_owned());
        }
        layout
    }

    pub(crate) fn name(&self, slot: Slot) -> Option<&str> {
        self.names[slot as usize].as_deref()
    }
}

/// Reads CSV with a header line.
pub(crate) fn csv(
    file: &str,
    text: &str,
    format: Format,
    layout: &Layout,
    options: &ReadOptions,
) -> Result<Rows, TraceError> {
    let mut reader = csv_reader(text);
    let header = csv_header(file, &mut reader)?;
    let mut index = [None; SLOTS];
    for (slot, name) in layout.names.iter().enumerate() {
        let Some(name) = name else { continue };
        index[slot] = header.iter().position(|h| h == name);
        if header.iter().filter(|h| *h == name).nth(1).is_some() {
            let problem =
                format!("two columns are called {name}; rename the one that is not meant");
            return Err(TraceError::line(file, 1, problem));
        }
    }
    let mut table = Table::new(file, format, layout, options)?;
    let mut record = csv::StringRecord::new();
    while reader.read_record(&mut record).map_err(|e| bad_csv(file, &e))? {
        let line = line_of(text, &record);
        if record.len() == 1 && record[0].trim().is_empty() {
            continue;
        }
        if record.len() != header.len() {
            let (has, wants) = (record.len(), header.len());
            let problem =
                format!("{has} fields where the header has {wants}; correct or delete the line");
            return Err(TraceError::line(file, line, problem));
        }
        table.push(line, index.map(|i| i.and_then(|i| record.get(i))))?;
    }
    Ok(table.rows)
}

pub(crate) fn csv_reader(text: &str) -> csv::Reader<&[u8]> {
    let head = text.lines().find(|l| !l.trim().is_empty()).unwrap_or_default();
    let count = |c: char| head.matches(c).count();
    let delimiter = [',', ';', '\t'].into_iter().rev().max_by_key(|&c| count(c)).unwrap_or(',');
    csv::ReaderBuilder::new().flexible(true).delimiter(delimiter as u8).from_reader(text.as_bytes())
}

/// The line a record is on. The reader's own count is of where it began to look, before blank lines and `\n` of `\r\n`.
pub(crate) fn line_of(text: &str, record: &csv::StringRecord) -> u64 {
    let Some(position) = record.position() else { return 1 };
    let from = usize::try_from(position.byte()).unwrap_or(0).min(text.len());
    let skipped = text.as_bytes()[from..].iter().take_while(|b| b"\r\n".contains(b));
    position.line() + skipped.filter(|&&b| b == b'\n').count() as u64
}

/// Column names, lower-case with `_` for space.
pub(crate) fn csv_header(
    file: &str,
    reader: &mut csv::Reader<&[u8]>,
) -> Result<Vec<String>, TraceError> {
    Ok(reader.headers().map_err(|e| bad_csv(file, &e))?.iter().map(plain_name).collect())
}

/// A column's name with case, spaces and hyphens evened out.
pub(crate) fn plain_name(name: &str) -> String {
    name.trim().to_ascii_lowercase().replace([' ', '-'], "_")
}

pub(crate) fn bad_csv(file: &str, e: &csv::Error) -> TraceError {
    let line = e.position().map_or(1, csv::Position::line);
    TraceError::line(file, line, format!("not readable as CSV ({e})"))
}

/// Reads JSON objects, one per line or in an array.
pub(crate) fn json(
    file: &str,
    text: &str,
    format: Format,
    layout: &Layout,
    options: &ReadOptions,
) -> Result<Rows, TraceError> {
    let mut table = Table::new(file, format, layout, options)?;
    for Document { line, json } in documents(file, text)? {
        let object: BTreeMap<String, &RawValue> =
            serde_json::from_str(json).map_err(|e| bad_json(file, line, &e))?;
        let object: BTreeMap<String, &str> =
            object.iter().map(|(key, value)| (plain_name(key), unquoted(value.get()))).collect();
        let cell = |name: &Option<String>| name.as_ref().and_then(|n| object.get(n)).copied();
        table.push(
            line,
            std::array::from_fn(|slot| cell(&layout.names[slot]).filter(|v| *v != "null")),
        )?;
    }
    Ok(table.rows)
}

fn unquoted(json: &str) -> &str {
    json.strip_prefix('"').and_then(|j| j.strip_suffix('"')).unwrap_or(json)
}

/// Longest prompt or response believed; beyond it the column is not one of token counts.
const MOST_TOKENS: u32 = 100_000_000;

/// A whole number of tokens, `500` or `500.0`.
pub(crate) fn tokens(text: &str) -> Result<u32, String> {
    let text = text.trim();
    let whole = text.strip_suffix(".0").unwrap_or(text);
    match whole.parse::<u32>() {
        Ok(n) if n <= MOST_TOKENS => Ok(n),
        _ => Err(format!(
            "{text:?} is not a number of tokens between 0 and {MOST_TOKENS}; correct or delete the line"
        )),
    }
}

/// Rows so far, and what is needed to understand the next.
struct Table<'a> {
    file: &'a str,
    layout: &'a Layout,
    unit: Option<TimeUnit>,
    timed: bool,
    drop_failed: bool,
    classes: HashMap<String, u16>,
    /// Number of a session, and its latest row.
    sessions: HashMap<String, (u32, usize)>,
    rows: Rows,
}

impl<'a> Table<'a> {
    fn new(
        file: &'a str,
        format: Format,
        layout: &'a Layout,
        options: &ReadOptions,
    ) -> Result<Self, TraceError> {
        let timed = layout.name(Slot::Time).is_some();
        if timed && options.rate.is_some() {
            let problem = "has its own arrival times: leave --arrival-rate out here and scale the rate when replaying";
            return Err(TraceError::file(file, problem));
        }
        if !timed && options.rate.is_none() {
            let problem =
                "has lengths but no arrival times; give --arrival-rate (requests per second)";
            return Err(TraceError::file(file, problem));
        }
        let mut rows = Rows::new(file, format);
        if layout.name(Slot::HashIds).is_some() {
            rows.block_tokens = options.block_tokens.unwrap_or(layout.block_tokens);
            if rows.block_tokens == 0 {
                return Err(TraceError::file(file, "tokens per block must be at least 1"));
            }
        }
        Ok(Self {
            file,
            layout,
            unit: options.time_unit.or(layout.unit),
            timed,
            drop_failed: layout.zero_output_failed && !options.keep_failed,
            classes: HashMap::new(),
            sessions: HashMap::new(),
            rows,
        })
    }

    fn push(&mut self, line: u64, cells: Cells<'_>) -> Result<(), TraceError> {
        self.understand(cells).map_err(|problem| TraceError::line(self.file, line, problem))
    }

    fn understand(&mut self, cells: Cells<'_>) -> Result<(), String> {
        let cell = |slot: Slot| cells[slot as usize].map(str::trim).filter(|c| !c.is_empty());
        let named = |slot: Slot| self.layout.name(slot).unwrap_or_default();
        let need = |slot: Slot| {
            cell(slot).ok_or_else(|| format!("no {}; correct or delete the line", named(slot)))
        };
        let count = |slot: Slot| tokens(need(slot)?).map_err(|e| format!("{}: {e}", named(slot)));
        let (input, output) = (count(Slot::Input)?, count(Slot::Output)?);
        if output == 0 && self.drop_failed {
            self.rows.failed += 1;
            return Ok(());
        }
        let key = cell(Slot::Session);
        let earlier = key.and_then(|k| self.sessions.get(k)).copied();
        let sent = match (cell(Slot::Delay), earlier) {
            (Some(delay), Some((_, previous))) => {
                let think = nanoseconds(delay, Some(TimeUnit::Milliseconds))
                    .map_err(|e| format!("delay: {e}"))?;
                Sent::After { previous, think }
            }
            _ if self.timed => Sent::At(nanoseconds(need(Slot::Time)?, self.unit)?),
            _ => Sent::Unknown,
        };
        if let Some(size) = cell(Slot::BlockSize) {
            self.block_size(tokens(size)?)?;
        }
        let class = match cell(Slot::Class) {
            Some(name) => self.class(name)?,
            None => 0,
        };
        let blocks = match cell(Slot::HashIds) {
            Some(list) => {
                let ids: Vec<u64> = serde_json::from_str(list).map_err(|e| {
                    format!("{}: not a list of whole numbers ({e})", named(Slot::HashIds))
                })?;
                self.covered(&ids, input, output)?;
                self.rows.pool.push(&ids)?
            }
            None => Default::default(),
        };
        let row = self.rows.len();
        let session = key.map(|k| {
            let fresh = self.sessions.len() as u32;
            let entry = self.sessions.entry(k.to_owned()).or_insert((fresh, row));
            entry.1 = row;
            entry.0
        });
        self.rows.push(sent, input, output, class, session, blocks);
        Ok(())
    }

    /// More identities than prompt and response have blocks are identities of smaller blocks.
    fn covered(&self, ids: &[u64], input: u32, output: u32) -> Result<(), String> {
        let (size, tokens) = (self.rows.block_tokens, input + output);
        if ids.len() as u64 <= u64::from(tokens.div_ceil(size)) {
            return Ok(());
        }
        let name = self.layout.name(Slot::HashIds).unwrap_or_default();
        Err(format!(
            "{name}: {} identities of {size} tokens for {tokens} tokens; give --block-tokens if they are of fewer",
            ids.len()
        ))
    }

    /// Tokens per block as a line says it; all lines must agree.
    fn block_size(&mut self, size: u32) -> Result<(), String> {
        let known = self.rows.block_tokens;
        if size == 0 || self.rows.len() > 0 && size != known {
            return Err(format!(
                "block_size {size} where {known} was said before; one size per file"
            ));
        }
        self.rows.block_tokens = size;
        Ok(())
    }

    fn class(&mut self, name: &str) -> Result<u16, String> {
        if let Some(&class) = self.classes.get(name) {
            return Ok(class);
        }
        let class = u16::try_from(self.classes.len()).map_err(|_| {
            format!(
                "more than 65,536 different values of {}",
                self.layout.name(Slot::Class).unwrap_or_default()
            )
        })?;
        self.classes.insert(name.to_owned(), class);
        self.rows.classes.push(printable(name));
        Ok(class)
    }
}
