//! Rows understood one by one: lengths, times, sessions, blocks and classes from the cells that hold them.

use std::collections::HashMap;

use super::cells::{Cell, Cells, counts_cache_apart, is_failure, is_other_call, tokens};
use super::clock::{Clock, Unit};
use super::flat::Columns;
use super::identities::{Identities, MOONCAKE_BLOCK};
use super::kind::Layout;
use super::names::{Names, Place, SLOTS, Slot};
use super::options::ReadOptions;
use super::rows::{HAS_TIMES, Row, Rows, Sent};
use super::time::{TimeUnit, nanoseconds};
use crate::error::printable;
use crate::{BlockSpan, TraceError};

/// Rows so far, and what is needed to understand the next.
pub(crate) struct Table<'o> {
    file: String,
    layout: Layout,
    options: &'o ReadOptions,
    pub names: Names,
    clock: Clock,
    /// The column first met for each slot.
    met: [Option<String>; SLOTS],
    classes: HashMap<String, u16>,
    /// Number of a session, and its latest row.
    sessions: HashMap<String, (u32, usize)>,
    identities: Identities,
    /// True if hash ids tell the file's writer, and true if turns do.
    hashed: bool,
    turned: bool,
    failed_kept: u64,
    others: u64,
    rows: Rows,
}

impl<'o> Table<'o> {
    pub(crate) fn new(
        file: &str,
        format: &'static str,
        layout: Layout,
        options: &'o ReadOptions,
    ) -> Result<Self, TraceError> {
        let mut rows = Rows::new(file, format);
        rows.block_tokens = options.block_tokens(file, layout.block_tokens)?;
        // A format that was named settles what its files leave open.
        let unit = match (options.time_unit, layout.unit) {
            (Some(unit), _) => Unit::Known(unit),
            (None, Unit::Disputed) if options.format.is_some() => {
                Unit::Known(TimeUnit::Milliseconds)
            }
            (None, unit) => unit,
        };
        Ok(Self {
            file: file.to_owned(),
            layout,
            options,
            names: Names::new(layout.names, &options.map),
            clock: Clock::new(unit, options.date_order),
            met: Default::default(),
            classes: HashMap::new(),
            sessions: HashMap::new(),
            identities: Identities::default(),
            hashed: false,
            turned: false,
            failed_kept: 0,
            others: 0,
            rows,
        })
    }

    /// Remembers what the file calls things.
    pub(crate) fn note_names(&mut self, places: &[Place], name: &str) {
        for place in places {
            self.met[place.slot as usize].get_or_insert_with(|| name.to_owned());
        }
    }

    /// Adds a row that brings its names along.
    pub(crate) fn columns(&mut self, line: u64, columns: &Columns<'_>) -> Result<(), TraceError> {
        let mut cells = Cells::default();
        for (name, text) in columns {
            let places = self.names.places(name);
            cells.add(&places, name, text);
            if !places.is_empty() {
                self.note_names(&places, name);
            }
        }
        let all = || columns.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(", ");
        self.push(line, &cells, &all)
    }

    /// Adds a row of these `cells`; `columns` names all that it has.
    pub(crate) fn push(
        &mut self,
        line: u64,
        cells: &Cells<'_>,
        columns: &dyn Fn() -> String,
    ) -> Result<(), TraceError> {
        self.understand(line, cells, columns).map_err(|e| TraceError::line(&self.file, line, e))
    }

    /// The column that a row lacks, in the words of its file.
    fn missing(&self, slot: Slot, what: &str, field: &str, columns: &dyn Fn() -> String) -> String {
        if let Some(name) = &self.met[slot as usize] {
            return format!("no {name}; correct or delete the line");
        }
        let (known, has) = (self.names.examples(slot), columns());
        let has = if has.is_empty() { "none".to_owned() } else { has };
        format!(
            "no column of {what} ({known}) among: {has}; rename one, or name it: --map {field}=COLUMN"
        )
    }

    fn understand(
        &mut self,
        line: u64,
        cells: &Cells<'_>,
        columns: &dyn Fn() -> String,
    ) -> Result<(), String> {
        let (input, output) = (cells.get(Slot::Input), cells.get(Slot::Output));
        let counted = input.is_some() || output.is_some();
        if self.layout.log && (!counted || cells.text(Slot::Kind).is_some_and(is_other_call)) {
            self.others += 1;
            return Ok(());
        }
        let count = |cell: Option<Cell<'_>>, slot, what, field| {
            let cell = cell.ok_or_else(|| self.missing(slot, what, field, columns))?;
            tokens(cell.text).map_err(|e| format!("{}: {e}", cell.name))
        };
        let input = count(input, Slot::Input, "prompt lengths in tokens", "input")?;
        let output = count(output, Slot::Output, "response lengths in tokens", "output")?;
        let input = self.whole_prompt(cells, input)?;
        let failed = self.layout.zero_output_failed && output == 0
            || cells.text(Slot::Status).is_some_and(is_failure);
        if failed {
            if output == 0 && !self.layout.keeps_failed && !self.options.keep_failed {
                self.rows.failed += 1;
                return Ok(());
            }
            self.failed_kept += 1;
        }
        let row = self.rows.len();
        let (session, previous) = self.session(cells, row);
        let sent = self.sent((row, line), cells, previous, columns)?;
        if let Some(size) = cells.text(Slot::BlockSize) {
            self.block_size(tokens(size)?)?;
        }
        let class = cells.get(Slot::Class).map_or(Ok(0), |cell| self.class(cell))?;
        let blocks = self.blocks(cells, input, output)?;
        self.rows.push(Row { line, sent, input, output, class, session, blocks })
    }

    /// The prompt with what some count apart: what a cache held, or what a group of requests has in common.
    fn whole_prompt(&self, cells: &Cells<'_>, input: u32) -> Result<u32, String> {
        let count = |slot| {
            cells
                .get(slot)
                .map_or(Ok(0), |cell| tokens(cell.text).map_err(|e| format!("{}: {e}", cell.name)))
        };
        let grouped = cells.get(Slot::PrefixGroup).is_some();
        let apart = cells.get(Slot::Input).is_some_and(|c| counts_cache_apart(c.name));
        let whole = match count(Slot::ServerInput)? {
            _ if grouped => input.saturating_add(count(Slot::PrefixLength)?),
            0 if apart => input
                .saturating_add(count(Slot::CacheRead)?)
                .saturating_add(count(Slot::CacheWrite)?),
            0 => input,
            by_server => by_server,
        };
        tokens(&whole.to_string())
    }

    /// The session of a row, and the row before it there.
    fn session(&mut self, cells: &Cells<'_>, row: usize) -> (Option<u32>, Option<usize>) {
        // A session is a chain of names where requests name the one they follow.
        let (key, before) = match cells.text(Slot::Id) {
            Some(own) => (Some(own), cells.text(Slot::Parent)),
            None => (cells.text(Slot::Session), cells.text(Slot::Session)),
        };
        let Some(key) = key else { return (None, None) };
        let known = before.and_then(|before| self.sessions.get(before)).copied();
        let number = known.map_or(self.rows.sessions, |(number, _)| number);
        if known.is_none() {
            self.rows.sessions += 1;
        }
        self.sessions.insert(key.to_owned(), (number, row));
        (Some(number), known.map(|(_, row)| row))
    }

    fn sent(
        &mut self,
        at: (usize, u64),
        cells: &Cells<'_>,
        previous: Option<usize>,
        columns: &dyn Fn() -> String,
    ) -> Result<Sent, String> {
        let (delay, time) = (cells.get(Slot::Delay), cells.get(Slot::Time));
        self.turned |= delay.is_some() || cells.get(Slot::Session).is_some();
        let follows = previous.filter(|_| self.layout.turns && (delay.is_some() || time.is_none()));
        if let Some(previous) = follows {
            let think = delay.map_or(Ok(0), |delay| {
                nanoseconds(delay.text, delay.unit.unwrap_or(TimeUnit::Milliseconds))
                    .map_err(|e| format!("{}: {e}", delay.name))
            })?;
            return Ok(Sent::After { previous, think });
        }
        match time {
            Some(_) if self.options.rate.is_some() => Err(HAS_TIMES.to_owned()),
            Some(Cell { name, unit, text, .. }) => {
                let unit = self.options.time_unit.or(unit);
                self.clock.read(at, name, text, unit).map(Sent::At)
            }
            None if self.options.rate.is_some() => Ok(Sent::Unknown),
            None => {
                let each = if self.layout.turns && cells.get(Slot::Session).is_some() {
                    "sessions"
                } else {
                    "requests"
                };
                let missing = self.missing(Slot::Time, "arrival times", "time", columns);
                Err(match self.met[Slot::Time as usize] {
                    Some(_) => missing,
                    None => format!("{missing}, or give --arrival-rate ({each} per second)"),
                })
            }
        }
    }

    fn blocks(&mut self, cells: &Cells<'_>, input: u32, output: u32) -> Result<BlockSpan, String> {
        if let Some(group) = cells.text(Slot::PrefixGroup) {
            let shared = cells.text(Slot::PrefixLength).map_or(Ok(0), tokens)?;
            let size = self.rows.block_tokens;
            let ids = self.identities.of_group(group, shared.min(input), input, size);
            return self.rows.pool.push(&ids);
        }
        let Some(Cell { name, text, .. }) = cells.get(Slot::HashIds) else {
            return Ok(BlockSpan::default());
        };
        let ids: Vec<u64> = serde_json::from_str(text)
            .map_err(|e| format!("{name}: not a list of whole numbers ({e})"))?;
        let fits = ids.len() as u64 == u64::from(input.div_ceil(MOONCAKE_BLOCK));
        if self.rows.block_tokens == 0 {
            if !fits {
                let n = ids.len();
                return Err(format!(
                    "{name}: {n} identities for {input} tokens, and how many each stands for is not known; give --block-tokens"
                ));
            }
            self.rows.block_tokens = MOONCAKE_BLOCK;
        }
        let (size, tokens) = (self.rows.block_tokens, input.saturating_add(output));
        if ids.len() as u64 > u64::from(tokens.div_ceil(size)) {
            let n = ids.len();
            return Err(format!(
                "{name}: {n} identities of {size} tokens for {tokens} tokens; give --block-tokens if they are of fewer"
            ));
        }
        self.hashed |= fits && size == MOONCAKE_BLOCK && !ids.is_empty();
        self.rows.pool.push(&ids)
    }

    /// Tokens per block as a line says it; all lines must agree.
    fn block_size(&mut self, size: u32) -> Result<(), String> {
        let known = self.rows.block_tokens;
        if size == 0 || size != known && !self.rows.pool.is_empty() {
            return Err(format!(
                "block_size {size} where {known} was said before; one size per file"
            ));
        }
        self.rows.block_tokens = size;
        Ok(())
    }

    fn class(&mut self, Cell { name, text, .. }: Cell<'_>) -> Result<u16, String> {
        if let Some(&class) = self.classes.get(text) {
            return Ok(class);
        }
        let class = u16::try_from(self.classes.len())
            .map_err(|_| format!("more than 65,536 different values of {name}"))?;
        self.classes.insert(text.to_owned(), class);
        self.rows.classes.push(printable(text));
        Ok(class)
    }

    /// The rows, when what one left open others have settled.
    pub(crate) fn finish(mut self) -> Result<Rows, TraceError> {
        if self.rows.pool.is_empty() {
            self.rows.block_tokens = 0;
        }
        if self.rows.len() == 0 && self.others > 0 {
            let n = self.others;
            let problem = format!(
                "no token counts in any of its {n} rows; if they are under another name, give --map input=COLUMN,output=COLUMN"
            );
            return Err(TraceError::file(&self.file, problem));
        }
        let settled = self.clock.settle(self.turned, self.hashed);
        let changed =
            settled.map_err(|(line, problem)| TraceError::line(&self.file, line, problem))?;
        self.rows.correct(changed);
        let mut note = |n: u64, what: &str| {
            if n > 0 {
                self.rows.notes.push(format!("{n} {what}"));
            }
        };
        note(self.failed_kept, "requests that failed when recorded are kept");
        note(self.others, "rows that are no requests to a language model are left out");
        Ok(self.rows)
    }
}
