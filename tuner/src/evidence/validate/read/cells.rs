//! The cells that every form of a recorded run comes down to, and why one cannot be read.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::Value;

/// Why a recorded run cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The file cannot be read at all.
    #[error("cannot read {path}: {cause}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        cause: std::io::Error,
    },
    /// The file as a whole is not what is needed.
    #[error("{file}: {problem}")]
    File {
        /// The file.
        file: String,
        /// The fault, and what to do about it.
        problem: String,
    },
    /// One line is not.
    #[error("{file}:{line}: {problem}")]
    Line {
        /// The file.
        file: String,
        /// The line, from 1.
        line: u64,
        /// The fault, and what to do about it.
        problem: String,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Field {
    Arrival,
    Admitted,
    FirstToken,
    LastToken,
    Ttft,
    E2e,
    Generation,
    Input,
    Output,
    Failed,
    Outcome,
    /// The cause of a request's failure, in words.
    Error,
    Prompt,
    User,
    Run,
    Workload,
    Rate,
}

/// The place of a request in its file, from 1.
#[derive(Clone, Copy)]
pub(super) enum Place {
    Line(u64),
    /// Of a file that has no line for it.
    Request(u64),
}

/// A value with its column's name and, for times, its unit in seconds.
pub(super) struct Cell {
    pub(super) name: String,
    pub(super) text: String,
    pub(super) unit: f64,
}

impl Cell {
    pub(super) fn new(name: impl Into<String>, text: impl Into<String>, unit: f64) -> Self {
        Self { name: name.into(), text: text.into(), unit }
    }

    /// A JSON value, whose unit its name ends in; none of null.
    pub(super) fn json(name: &str, value: &Value) -> Option<Self> {
        let text = match value {
            Value::Null => return None,
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        Some(Self::new(name, text, unit_of(name)))
    }
}

/// The unit that a column's name ends in, in seconds; seconds where it says none.
pub(super) fn unit_of(name: &str) -> f64 {
    let units = [("_ms", 1e-3), ("_us", 1e-6), ("_ns", 1e-9)];
    units.iter().find(|(end, _)| name.ends_with(end)).map_or(1.0, |u| u.1)
}

/// The cells of one request that mean something.
pub(super) struct Line<'a> {
    pub(super) file: &'a str,
    pub(super) place: Place,
    pub(super) cells: BTreeMap<Field, Cell>,
}

pub(super) type Object = serde_json::Map<String, Value>;

/// The name of a file, without its folder and endings.
pub(super) fn stem(file: &str) -> String {
    let name = Path::new(file).file_name().map_or(file.into(), |n| n.to_string_lossy());
    name.split('.').next().unwrap_or(file).to_owned()
}

pub(super) fn problem(file: &str, problem: impl Into<String>) -> ReadError {
    ReadError::File { file: file.to_owned(), problem: problem.into() }
}
