//! Files of recorded runs: a row per request, JSON lines or CSV, plain or gzipped; and the files of
//! other clients.
//!
//! The name of a column alone tells its meaning and its unit, by one table below that covers the
//! forms in use: LLMServingSim's bench (its engine clock: queued to first token), inference-perf
//! and blis, LMBench, DistServe, and our own `requests.csv`. `vllm` and `aiperf` bring those tools'
//! results to the same lines of cells. A file without the columns that matter is refused; a cell
//! that cannot be right is named by its place.
//!
//! A request that failed stays: it was sent, so it is sent again. Its cause is counted.

mod aiperf;
mod cells;
mod vllm;

use std::collections::{BTreeMap, HashMap};
use std::io::Read as _;
use std::path::Path;
use std::time::Duration;

use cells::{Cell, Field, Line, Object, Place, problem, stem, unit_of};

pub use cells::ReadError;

use super::recorded::{IDENTITY_TOKENS, Occupancy, Recorded, Row};

/// Text that a file may unpack to: a few megabytes of gzip can stand for any amount.
const LONGEST: u64 = 2 << 30;

/// Blocks of prompts that can be told apart by their identities.
const MOST_BLOCKS: u64 = 1 << 26;

/// Tokens of a prompt or an answer: beyond any model's context.
const MOST_TOKENS: u32 = 1 << 24;

/// Seconds since 1970 until the year 2286; what is later is in another unit.
const LATEST_S: f64 = 1e10;

/// Seconds between two requests of one run that are believed: thirty years are two clocks.
const LONGEST_RUN_S: u64 = 1_000_000_000;

/// The meaning of columns. If several names mean the same, the first that is there counts: the
/// engine's own clock before the client's, the output that was enforced before the one a client
/// counted.
const COLUMNS: &[(Field, &[&str])] = &[
    (Field::Arrival, &["queued_ts", "arrival_s", "scheduled_s", "arrived_at"]),
    (Field::Admitted, &["scheduled_ts", "admitted_s"]),
    (Field::FirstToken, &["first_token_ts", "first_token_s"]),
    (Field::LastToken, &["last_token_ts", "last_token_s"]),
    (Field::Ttft, &["ttft_s", "ttft_ms"]),
    (Field::E2e, &["e2e_s", "e2e_ms", "latency_ms", "latency_s"]),
    (Field::Generation, &["generation_time_s"]),
    (
        Field::Input,
        &[
            "input_toks",
            "input_tokens",
            "prompt_tokens",
            "prompt_len",
            "num_prefill_tokens",
            "input",
        ],
    ),
    (
        Field::Output,
        &[
            "output_toks",
            "output_tokens_requested",
            "output_tokens",
            "generation_tokens",
            "output_len",
            "num_decode_tokens",
            "output",
        ],
    ),
    (Field::Failed, &["has_error"]),
    (Field::Outcome, &["outcome"]),
    (Field::Prompt, &["prompt_id", "prompt_id_inferred"]),
    (Field::User, &["user_id"]),
    (Field::Run, &["run"]),
    (Field::Workload, &["workload"]),
    (Field::Rate, &["qps", "rate_req_s"]),
];

/// Characters of a failure's cause that are kept.
const LONGEST_CAUSE: usize = 120;

/// Every run in the file at `path`, in the order of their first lines.
///
/// # Errors
/// Names the file, and the line where there is one.
pub fn read(path: &Path) -> Result<Vec<Recorded>, ReadError> {
    let bytes = bytes(path)?;
    read_bytes(&path.to_string_lossy(), &bytes)
}

/// The bytes of such a file.
///
/// # Errors
/// When it cannot be read, or is longer than 2 GiB.
pub fn bytes(path: &Path) -> Result<Vec<u8>, ReadError> {
    let failed = |cause| ReadError::Read { path: path.to_owned(), cause };
    engine::files::read(path, LONGEST).map_err(failed)
}

/// The same from memory; `file` names it in messages, and the run where the file holds a single one.
///
/// # Errors
/// As [`read`].
pub fn read_bytes(file: &str, bytes: &[u8]) -> Result<Vec<Recorded>, ReadError> {
    let text = text(file, bytes)?;
    let lines = match text.trim_start().starts_with('{') {
        true => json(file, &text)?,
        false => csv(file, &text)?,
    };
    let mut runs: Vec<Run> = Vec::new();
    let (mut places, mut blocks) = (HashMap::new(), 0);
    for line in &lines {
        let (name, rate) = (line.run(), line.number_of(Field::Rate)?);
        let at = *places.entry(name.clone()).or_insert(runs.len());
        if at == runs.len() {
            runs.push(Run { name, rate, rows: Vec::new(), failures: BTreeMap::new() });
        }
        let row = line.row()?;
        if let Some(first) = runs[at].rows.first() {
            line.same_clock(first.arrival, row.arrival)?;
        }
        blocks += u64::from(row.input / IDENTITY_TOKENS);
        if blocks > MOST_BLOCKS {
            return Err(line.error(format!(
                "more than {MOST_BLOCKS} blocks of {IDENTITY_TOKENS} tokens of prompts up to here; cut the file into parts"
            )));
        }
        if row.failed {
            *runs[at].failures.entry(line.failure()).or_default() += 1;
        }
        runs[at].rows.push(row);
    }
    if runs.is_empty() {
        return Err(problem(file, "no requests in it"));
    }
    if runs.iter().flat_map(|run| &run.rows).all(|row| row.failed) {
        let what: Vec<String> = runs.iter().map(|run| failures(&run.failures)).collect();
        return Err(problem(file, format!("no request completed ({})", what.join(", "))));
    }
    for run in runs.iter_mut().filter(|run| run.name.is_empty()) {
        run.name = stem(file);
    }
    Ok(runs.into_iter().map(Run::recorded).collect())
}

/// A run as it is being read.
struct Run {
    name: String,
    rate: Option<f64>,
    rows: Vec<Row>,
    failures: BTreeMap<String, u64>,
}

impl Run {
    fn recorded(self) -> Recorded {
        Recorded::new(self.name, self.rate, self.rows).failing(self.failures)
    }
}

/// Failures and how many of each, in words.
#[must_use]
pub fn failures(by_cause: &BTreeMap<String, u64>) -> String {
    let each: Vec<String> = by_cause.iter().map(|(cause, n)| format!("{n} × {cause}")).collect();
    each.join(", ")
}

/// The requests running and waiting over time as an engine reported them: CSV with `t` (seconds),
/// `running` and `waiting`.
///
/// # Errors
/// As [`read`].
pub fn read_load(path: &Path) -> Result<Vec<Occupancy>, ReadError> {
    let bytes = bytes(path)?;
    let file = path.to_string_lossy();
    let text = text(&file, &bytes)?;
    let mut reader = csv::ReaderBuilder::new().trim(csv::Trim::All).from_reader(text.as_bytes());
    let at = |line: u64, problem: String| ReadError::Line { file: file.to_string(), line, problem };
    let header = reader.headers().map_err(|e| at(1, e.to_string()))?.clone();
    let mut places = [0; 3];
    for (place, name) in places.iter_mut().zip(["t", "running", "waiting"]) {
        let found = header.iter().position(|h| h == name);
        *place = found
            .ok_or_else(|| at(1, format!("no column {name}; expected t, running, waiting")))?;
    }
    let mut load = Vec::new();
    for record in reader.records() {
        let record =
            record.map_err(|e| at(e.position().map_or(0, csv::Position::line), e.to_string()))?;
        let line = record.position().map_or(0, csv::Position::line);
        let cell = |i: usize| record.get(places[i]).unwrap_or("");
        let bad = |i: usize| at(line, format!("`{}` is not a number here", cell(i)));
        load.push(Occupancy {
            at_s: cell(0).parse().ok().filter(|t: &f64| t.is_finite()).ok_or_else(|| bad(0))?,
            running: cell(1).parse().map_err(|_| bad(1))?,
            waiting: cell(2).parse().map_err(|_| bad(2))?,
        });
    }
    Ok(load)
}

/// The file as text, gzip undone.
pub(crate) fn text(file: &str, bytes: &[u8]) -> Result<String, ReadError> {
    let mut plain = Vec::new();
    let bytes = if bytes.starts_with(&[0x1f, 0x8b]) {
        let mut gzip = flate2::read::MultiGzDecoder::new(bytes).take(LONGEST + 1);
        gzip.read_to_end(&mut plain)
            .map_err(|e| problem(file, format!("damaged gzip data ({e}); fetch the file again")))?;
        if plain.len() as u64 > LONGEST {
            return Err(problem(
                file,
                "unpacks to more than 2 GiB; unpack it and cut it into parts",
            ));
        }
        &plain
    } else {
        bytes
    };
    let text = std::str::from_utf8(bytes)
        .map_err(|_| problem(file, "not UTF-8 text; a recorded run is CSV or JSON lines"))?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    if text.trim().is_empty() {
        return Err(problem(file, "empty: there are no requests in it"));
    }
    Ok(text.to_owned())
}

fn csv<'a>(file: &'a str, text: &str) -> Result<Vec<Line<'a>>, ReadError> {
    let mut reader = csv::ReaderBuilder::new().trim(csv::Trim::All).from_reader(text.as_bytes());
    let broken = |e: &csv::Error| ReadError::Line {
        file: file.to_owned(),
        line: e.position().map_or(1, csv::Position::line),
        problem: format!("not a row of this table: {e}"),
    };
    let header = reader.headers().map_err(|e| broken(&e))?.clone();
    let columns = columns(file, |name| header.iter().position(|h| h.eq_ignore_ascii_case(name)))?;
    let mut lines = Vec::new();
    for record in reader.records() {
        let record = record.map_err(|e| broken(&e))?;
        let number = record.position().map_or(0, csv::Position::line);
        let cell = |(field, name, at): &(Field, &'static str, usize)| {
            let text = record.get(*at).filter(|c| !c.is_empty())?;
            Some((*field, Cell::new(*name, text, unit_of(name))))
        };
        let cells = columns.iter().filter_map(cell).collect();
        lines.push(Line { file, place: Place::Line(number), cells });
    }
    Ok(lines)
}

/// A JSON object for every request, or what a client made of a whole run.
fn json<'a>(file: &'a str, text: &str) -> Result<Vec<Line<'a>>, ReadError> {
    let first = serde_json::Deserializer::from_str(text).into_iter::<Object>().next();
    if let Some(Ok(first)) = first {
        if vllm::is_result(&first) {
            return vllm::lines(file, text);
        }
        if aiperf::is_summary(&first) {
            return Err(problem(file, aiperf::SUMMARY));
        }
    }
    let mut lines = Vec::new();
    for (line, number) in text.lines().zip(1u64..).filter(|(l, _)| !l.trim().is_empty()) {
        let place = Place::Line(number);
        let object: Object = serde_json::from_str(line).map_err(|e| ReadError::Line {
            file: file.to_owned(),
            line: number,
            problem: format!("not a JSON object: {e}"),
        })?;
        if let Some(record) = aiperf::record(&object) {
            let cells = record.map_err(|e| ReadError::Line {
                file: file.to_owned(),
                line: number,
                problem: e,
            })?;
            lines.push(Line { file, place, cells });
            continue;
        }
        if lines.is_empty() {
            columns(file, |name| object.contains_key(name).then_some(0))?;
        }
        let cell = |(field, names): &(Field, &[&'static str])| {
            let cell = names.iter().find_map(|n| Cell::json(n, object.get(*n)?));
            Some((*field, cell?))
        };
        lines.push(Line { file, place, cells: COLUMNS.iter().filter_map(cell).collect() });
    }
    Ok(lines)
}

/// The place of each field among the columns; an error if a necessary one is missing.
fn columns(
    file: &str,
    find: impl Fn(&str) -> Option<usize>,
) -> Result<Vec<(Field, &'static str, usize)>, ReadError> {
    let one = |(field, names): &(Field, &'static [&'static str])| {
        names.iter().find_map(|n| Some((*field, *n, find(n)?)))
    };
    let found: Vec<_> = COLUMNS.iter().filter_map(one).collect();
    let has = |field| found.iter().any(|f: &(Field, _, _)| f.0 == field);
    let names =
        |field| COLUMNS.iter().find(|c| c.0 == field).map_or(String::new(), |c| c.1.join(", "));
    for (field, what) in [
        (Field::Arrival, "when requests arrived"),
        (Field::Input, "prompt tokens"),
        (Field::Output, "output tokens"),
    ] {
        if !has(field) {
            return Err(problem(
                file,
                format!("no column says {what}: expected one of {}", names(field)),
            ));
        }
    }
    if !has(Field::FirstToken) && !has(Field::Ttft) {
        let names = [names(Field::FirstToken), names(Field::Ttft)].join(", ");
        return Err(problem(
            file,
            format!("no column says when first tokens came: expected one of {names}"),
        ));
    }
    if ![Field::LastToken, Field::E2e, Field::Generation].into_iter().any(has) {
        let names = [Field::LastToken, Field::E2e, Field::Generation].map(names).join(", ");
        return Err(problem(
            file,
            format!("no column says when requests ended: expected one of {names}"),
        ));
    }
    Ok(found)
}

impl Line<'_> {
    fn error(&self, problem: impl Into<String>) -> ReadError {
        let (file, problem) = (self.file.to_owned(), problem.into());
        match self.place {
            Place::Line(line) => ReadError::Line { file, line, problem },
            Place::Request(n) => {
                ReadError::File { file, problem: format!("request {n}: {problem}") }
            }
        }
    }

    fn text(&self, field: Field) -> Option<&str> {
        self.cells.get(&field).map(|c| c.text.as_str())
    }

    /// The name of its run; empty if the file does not tell.
    fn run(&self) -> String {
        let parts = [Field::Run, Field::Workload].into_iter().filter_map(|f| self.text(f));
        let mut name = parts.collect::<Vec<_>>().join(" ");
        if self.text(Field::Run).is_none()
            && let Some(rate) = self.text(Field::Rate)
        {
            name = format!("{name} {rate}/s").trim().to_owned();
        }
        name
    }

    fn number_of(&self, field: Field) -> Result<Option<f64>, ReadError> {
        let Some(Cell { name, text, .. }) = self.cells.get(&field) else { return Ok(None) };
        match text.parse::<f64>() {
            Ok(x) if x.is_finite() => Ok(Some(x)),
            _ => Err(self.error(format!("{name} = `{text}` is not a number"))),
        }
    }

    /// A time in its unit.
    fn time(&self, field: Field) -> Result<Option<Duration>, ReadError> {
        let Some(x) = self.number_of(field)? else { return Ok(None) };
        let Cell { name, text, unit } = &self.cells[&field];
        if x * unit > LATEST_S {
            return Err(
                self.error(format!("{name} = {x} is after the year 2286: is its unit right?"))
            );
        }
        // A clock since 1970 in ns has more digits than a float.
        if let (true, Ok(ns)) = (*unit == 1e-9, text.parse()) {
            return Ok(Some(Duration::from_nanos(ns)));
        }
        let time = Duration::try_from_secs_f64(x * unit);
        time.map(Some).map_err(|_| self.error(format!("{name} = {x}: a time cannot be negative")))
    }

    /// Refuses an `arrival` that cannot be on the clock of the run's `first`.
    fn same_clock(&self, first: Duration, arrival: Duration) -> Result<(), ReadError> {
        if arrival.abs_diff(first).as_secs() <= LONGEST_RUN_S {
            return Ok(());
        }
        let (at, first) = (arrival.as_secs_f64(), first.as_secs_f64());
        Err(self.error(format!(
            "arrival at {at} s where the run begins at {first} s: one counts from 1970, the other does not; correct it"
        )))
    }

    fn tokens(&self, field: Field, least: u32) -> Result<u32, ReadError> {
        let Some(Cell { name, text, .. }) = self.cells.get(&field) else {
            if self.failed() {
                return Ok(0);
            }
            let names = COLUMNS.iter().find(|c| c.0 == field).map_or(&[][..], |c| c.1);
            return Err(self.error(format!("no {}", names.join(" or "))));
        };
        // Some tools write counts as floats.
        let value =
            text.parse::<f64>().ok().filter(|x| x.fract() == 0.0 && *x <= f64::from(MOST_TOKENS));
        match value.map(|x| x as i64) {
            Some(n) if n >= i64::from(least) => Ok(n as u32),
            _ => Err(self.error(format!(
                "{name} = `{text}`: expected a whole number from {least} to {MOST_TOKENS}"
            ))),
        }
    }

    fn failed(&self) -> bool {
        let flagged = matches!(self.text(Field::Failed), Some("1" | "true" | "True"));
        let ended = self.text(Field::Outcome).is_some_and(|o| o != "completed");
        flagged || ended || self.text(Field::Error).is_some()
    }

    /// The cause of its failure, in at most a line. Of a trace back it is the last line, which
    /// holds the cause.
    fn failure(&self) -> String {
        let told = self.text(Field::Error).or(self.text(Field::Outcome)).unwrap_or("failed");
        let line = told.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("failed").trim();
        line.chars().take(LONGEST_CAUSE).collect()
    }

    fn row(&self) -> Result<Row, ReadError> {
        let arrival = self.time(Field::Arrival)?.ok_or_else(|| self.error("no time of arrival"))?;
        let first = match self.time(Field::FirstToken)? {
            Some(at) => Some(at),
            None => self.time(Field::Ttft)?.map(|t| arrival + t),
        };
        let last = match (self.time(Field::LastToken)?, self.time(Field::E2e)?) {
            (Some(at), _) => Some(at),
            (None, Some(t)) => Some(arrival + t),
            (None, None) => match (first, self.time(Field::Generation)?) {
                (Some(first), Some(t)) => Some(first + t),
                _ => None,
            },
        };
        let failed = self.failed();
        let completed = [("first token", first), ("last token", last)];
        if let (false, Some((what, _))) = (failed, completed.iter().find(|c| c.1.is_none())) {
            return Err(self.error(format!("no {what}, and nothing says that the request failed")));
        }
        let early = [first, last].into_iter().flatten().any(|t| t < arrival);
        if !failed && (early || last < first) {
            return Err(self.error("its times run backwards: arrival, first token, last token"));
        }
        let identity = self.text(Field::Prompt).or_else(|| self.text(Field::User));
        Ok(Row {
            arrival,
            admitted: self.time(Field::Admitted)?,
            first_token: first,
            last_token: last,
            input: self.tokens(Field::Input, u32::from(!failed))?.max(1),
            output: self.tokens(Field::Output, 0)?,
            prompt: identity.map(identity_of),
            failed,
        })
    }
}

/// A number for what a file calls a prompt: itself if it is one, else a hash of its name (FNV-1a), cut to 32 bits.
fn identity_of(name: &str) -> u64 {
    name.parse::<u32>().map_or_else(
        |_| {
            let fnv = |h: u64, b: u8| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3);
            name.bytes().fold(0xcbf2_9ce4_8422_2325, fnv) & 0xffff_ffff
        },
        u64::from,
    )
}

#[cfg(test)]
mod tests;
