//! Logs of iterations, one a row: what was computed and how long it took.
//!
//! The full form has a column for every total of [`Shape`], and `time_us`. An engine that logs only `tokens`,
//! `sequences`, `context` and `time_us` can be used where it only decodes: what a step with prompts in it computes
//! does not follow from these.

use std::io::Write;

use engine::Shape;
use serde_json::{Map, Value};

use crate::evidence::validate::read::{ReadError, text};
use crate::subject::bed::Step;

/// Tokens of one iteration: beyond any engine's batch.
const MOST_TOKENS: u32 = 1 << 24;

fn totals(shape: &Shape) -> Map<String, Value> {
    match serde_json::to_value(shape) {
        Ok(Value::Object(map)) => map,
        _ => Map::new(),
    }
}

/// Writes a log, one row at a time.
pub struct StepLog<W: Write> {
    out: csv::Writer<W>,
}

impl<W: Write> StepLog<W> {
    /// A log with its heading.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn new(out: W) -> Result<Self, csv::Error> {
        let mut out = csv::Writer::from_writer(out);
        let names = totals(&Shape::default());
        out.write_record(names.keys().map(String::as_str).chain(["time_us"]))?;
        Ok(Self { out })
    }

    /// Adds a row.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn push(&mut self, step: &Step) -> Result<(), csv::Error> {
        let cells = totals(&step.shape).into_iter().map(|(_, v)| v.to_string());
        self.out.write_record(cells.chain([(step.seconds * 1e6).to_string()]))
    }

    /// Ends the log.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn finish(mut self) -> Result<(), csv::Error> {
        Ok(self.out.flush()?)
    }
}

/// Reads a log, plain or gzipped; `file` names it in messages.
///
/// # Errors
/// Says file and line.
pub fn read_steps(file: &str, bytes: &[u8]) -> Result<Vec<Step>, ReadError> {
    let text = text(file, bytes)?;
    let mut reader = csv::ReaderBuilder::new().trim(csv::Trim::All).from_reader(text.as_bytes());
    let at = |line: u64, problem: String| ReadError::Line { file: file.to_owned(), line, problem };
    let header = reader.headers().map_err(|e| at(1, e.to_string()))?.clone();
    let full = header.iter().any(|h| h == "decode_context");
    let names: Vec<String> = if full {
        totals(&Shape::default()).into_iter().map(|(name, _)| name).collect()
    } else {
        ["tokens", "sequences", "context"].map(str::to_owned).to_vec()
    };
    for name in names.iter().map(String::as_str).chain(["time_us"]) {
        if !header.iter().any(|h| h == name) {
            return Err(at(
                1,
                format!("no column {name}; a log has {} and time_us", names.join(", ")),
            ));
        }
    }
    let mut steps = Vec::new();
    for record in reader.records() {
        let record =
            record.map_err(|e| at(e.position().map_or(0, csv::Position::line), e.to_string()))?;
        let line = record.position().map_or(0, csv::Position::line);
        let cell = |name: &str| {
            header.iter().position(|h| h == name).and_then(|i| record.get(i)).unwrap_or("")
        };
        let whole = |name: &str| {
            let bad = || at(line, format!("{name} = `{}` is not a whole number", cell(name)));
            cell(name).parse::<u64>().map_err(|_| bad())
        };
        let us: f64 = cell("time_us").parse().unwrap_or(f64::NAN);
        if !(us.is_finite() && us > 0.0) {
            return Err(at(
                line,
                format!("time_us = `{}`: a step takes a positive time", cell("time_us")),
            ));
        }
        let shape = if full {
            let mut map = Map::new();
            for name in &names {
                map.insert(name.clone(), whole(name)?.into());
            }
            serde_json::from_value(Value::Object(map)).map_err(|e| at(line, e.to_string()))?
        } else {
            decodes(whole("tokens")?, whole("sequences")?, whole("context")?)
                .map_err(|p| at(line, p))?
        };
        if shape.prefill_tokens.max(shape.decode_seqs) > MOST_TOKENS {
            return Err(at(line, format!("more than {MOST_TOKENS} tokens in one step")));
        }
        steps.push(Step { shape, seconds: us / 1e6 });
    }
    Ok(steps)
}

fn decodes(tokens: u64, sequences: u64, context: u64) -> Result<Shape, String> {
    if tokens != sequences {
        return Err(format!(
            "{tokens} tokens of {sequences} sequences: a step with prompts in it needs the full columns (knee bench --steps writes them)"
        ));
    }
    if sequences == 0 || context < sequences || sequences > u64::from(u32::MAX) {
        return Err(format!(
            "{sequences} sequences with {context} tokens of context are impossible"
        ));
    }
    let seqs = sequences as u32;
    let longest = u32::try_from(context.div_ceil(sequences)).unwrap_or(u32::MAX);
    let (decode_seqs, decode_context) = (seqs, context);
    Ok(Shape {
        decode_seqs,
        decode_context,
        decode_longest: longest,
        sampled: seqs,
        ..Shape::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::subject::bed::steps_of;
    use engine::Iteration;
    use std::time::Duration;

    fn written(steps: &[Step]) -> String {
        let mut bytes = Vec::new();
        let mut log = StepLog::new(&mut bytes).unwrap();
        steps.iter().for_each(|s| log.push(s).unwrap());
        log.finish().unwrap();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn a_stretch_is_its_steps_and_a_log_reads_back() {
        let mut shape = Shape::default();
        shape.add(100, 1, true, true);
        shape.add(200, 1, true, true);
        let us = Duration::from_micros;
        let it =
            Iteration { start: us(5), ends: vec![us(15), us(26)], shape, ..Iteration::default() };
        let steps: Vec<Step> = steps_of(&it).collect();
        assert_eq!(steps[0].shape, shape);
        assert_eq!((steps[1].shape.decode_context, steps[1].shape.decode_longest), (304, 202));
        assert_eq!(
            steps.iter().map(|s| (s.seconds * 1e6).round()).collect::<Vec<_>>(),
            [10.0, 11.0]
        );
        let back = read_steps("x", written(&steps).as_bytes()).unwrap();
        assert_eq!(back.len(), 2);
        for (a, b) in back.iter().zip(&steps) {
            assert_eq!(a.shape, b.shape);
            assert!((a.seconds / b.seconds - 1.0).abs() < 1e-12);
        }
    }

    #[test]
    fn four_columns_do_for_decodes_and_the_rest_is_refused_with_its_line() {
        let read = |rows: &str| {
            read_steps("x", format!("tokens,sequences,context,time_us\n{rows}").as_bytes())
        };
        let step = read("4,4,400,12.5\n").unwrap()[0];
        assert_eq!(
            (step.shape.decode_seqs, step.shape.decode_context, step.shape.sampled),
            (4, 400, 4)
        );
        let say = |rows: &str| read(rows).unwrap_err().to_string();
        assert!(say("4,4,400,1\n300,5,900,20\n").starts_with("x:3: 300 tokens of 5 sequences"));
        assert_eq!(say("4,4,2,1\n"), "x:2: 4 sequences with 2 tokens of context are impossible");
        assert_eq!(say("4,4,400,0\n"), "x:2: time_us = `0`: a step takes a positive time");
        assert_eq!(say("4,x,400,1\n"), "x:2: sequences = `x` is not a whole number");
        let missing = read_steps("x", b"tokens,context,time_us\n").unwrap_err().to_string();
        assert!(missing.starts_with("x:1: no column sequences"), "{missing}");
    }
}
