//! Failures with the files of a report.

use std::io;
use std::path::PathBuf;

/// A report could not be written or read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The place does not take files.
    #[error("cannot write {path}: {cause}; choose another directory with --out", path = path.display())]
    Write {
        /// The file or directory.
        path: PathBuf,
        /// The system's message.
        cause: io::Error,
    },
    /// A stored report cannot be opened.
    #[error("cannot read {path}: {cause}; is this the --out directory of an earlier run?", path = path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's message.
        cause: io::Error,
    },
    /// A stored report is not one.
    #[error("{path}:{line}: {message}; run the command that made this directory again", path = path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// The line at which the reader stopped.
        line: usize,
        /// The text that it found.
        message: String,
    },
    /// A stored report of another version.
    #[error("{path} has schema {found:?}, this knee reads {expected:?}: run the command that made it again", path = path.display())]
    Schema {
        /// The file.
        path: PathBuf,
        /// Its schema.
        found: String,
        /// The version that is read.
        expected: &'static str,
    },
    /// A value that has no place in its format.
    #[error("cannot write {what}: {cause}")]
    Encode {
        /// The file that was to be written.
        what: &'static str,
        /// The reason.
        cause: String,
    },
}
