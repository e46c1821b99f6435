//! Mistakes in a trace or a workload description, said so that the reader knows what to change.

use std::path::PathBuf;

/// Everything this crate refuses.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TraceError {
    /// The file or directory could not be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// As given.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// One line of a file is wrong.
    #[error("{file}:{line}: {problem}")]
    Line {
        /// Name of the file.
        file: String,
        /// Counted from 1, after decompression.
        line: u64,
        /// The mistake and the remedy.
        problem: String,
    },
    /// A file is wrong as a whole, or needs something said before it can be read.
    #[error("{file}: {problem}")]
    File {
        /// Name of the file.
        file: String,
        /// The mistake and the remedy.
        problem: String,
    },
    /// The format asked for cannot say what this trace says.
    #[error("cannot write this trace as {format}: {problem}")]
    Inexpressible {
        /// The format asked for.
        format: &'static str,
        /// The part that is lost, and another format for it.
        problem: String,
    },
    /// Writing failed.
    #[error("cannot write the trace: {0}")]
    Write(#[from] std::io::Error),
    /// A workload description is wrong.
    #[error("workload {name}: {problem}")]
    Spec {
        /// Name of the preset or file.
        name: String,
        /// The mistake and the remedy.
        problem: String,
    },
}

impl TraceError {
    pub(crate) fn file(file: &str, problem: impl Into<String>) -> Self {
        Self::File { file: file.to_owned(), problem: brief(&problem.into()) }
    }

    pub(crate) fn line(file: &str, line: u64, problem: impl Into<String>) -> Self {
        Self::Line { file: file.to_owned(), line, problem: brief(&problem.into()) }
    }

    pub(crate) fn spec(name: &str, problem: impl Into<String>) -> Self {
        Self::Spec { name: name.to_owned(), problem: brief(&problem.into()) }
    }
}

/// A problem quotes the file, which may hold megabytes on a line and control characters: what a terminal can show of
/// it, and both ends, for advice is at the end.
fn brief(problem: &str) -> String {
    const ENDS: [usize; 2] = [240, 160];
    let problem = printable(problem);
    let count = problem.chars().count();
    if count <= ENDS[0] + ENDS[1] {
        return problem;
    }
    let head: String = problem.chars().take(ENDS[0]).collect();
    let tail: String = problem.chars().skip(count - ENDS[1]).collect();
    format!("{head} […] {tail}")
}

/// Text from a file without what would move a terminal's cursor or change its colours.
pub(crate) fn printable(text: &str) -> String {
    text.replace(char::is_control, "\u{fffd}")
}
