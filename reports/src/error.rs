//! What can go wrong with files of a report.

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
        /// What the system said.
        cause: io::Error,
    },
    /// A stored report cannot be opened.
    #[error("cannot read {path}: {cause}; is this the --out directory of an earlier run?", path = path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        cause: io::Error,
    },
    /// A stored report is not one.
    #[error("{path}:{line}: {message}; run the command that made this directory again", path = path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// Where the reader stopped.
        line: usize,
        /// What it found.
        message: String,
    },
    /// A stored report of another version.
    #[error("{path} has schema {found:?}, this knee reads {expected:?}: run the command that made it again", path = path.display())]
    Schema {
        /// The file.
        path: PathBuf,
        /// Its schema.
        found: String,
        /// What is read.
        expected: &'static str,
    },
    /// A value that has no place in its format.
    #[error("cannot write {what}: {cause}")]
    Encode {
        /// What was to be written.
        what: &'static str,
        /// Why not.
        cause: String,
    },
}
