//! Reports on disk: each file is written beside its place and moved there whole, so that a reader
//! meanwhile, or after a crash, sees the old file or the new one.

use crate::report::{Report, SCHEMA};
use crate::wrap::Terminal;
use crate::{
    Error, bench_page, compare_page, csv, fidelity_page, served_page, tune_page, validation_page,
};
use serde::{Deserialize, Serialize};
use std::fs;
use std::io::{Read as _, Write};
use std::path::{Path, PathBuf};

/// The page's file name.
pub const PAGE: &str = "report.html";
/// The stored report's file name.
pub const STORED: &str = "report.json";

#[derive(Serialize)]
struct Stored<'a> {
    schema: &'static str,
    report: &'a Report,
}

#[derive(Deserialize)]
struct Loaded {
    report: Report,
}

/// Just the first key, so that a strange version is called by its name.
#[derive(Deserialize)]
struct Version {
    schema: String,
}

impl Report {
    /// The page.
    #[must_use]
    pub fn page(&self) -> String {
        match self {
            Self::Tune(r) => tune_page(r),
            Self::Compare(r) => compare_page(r),
            Self::Bench(r) => bench_page(r),
            Self::Validate(r) => validation_page(r),
            Self::Fidelity(r) => fidelity_page(r),
            Self::Served(r) => served_page(r),
        }
    }

    /// The summary for a terminal; see [`crate::terminal`].
    #[must_use]
    pub fn terminal(&self, terminal: Terminal) -> String {
        match self {
            Self::Tune(r) => crate::terminal::tune(r, terminal),
            Self::Compare(r) => crate::terminal::compare(r, terminal),
            Self::Bench(r) => crate::terminal::bench(r, terminal),
            Self::Validate(r) => crate::validation::terminal(r, terminal),
            Self::Fidelity(r) => crate::fidelity::terminal(r, terminal),
            Self::Served(r) => crate::terminal::served(r, terminal),
        }
    }

    /// Writes [`PAGE`], [`STORED`] and, of a tuning run, `trials.csv` into `directory`, which is made if missing.
    /// Returns what was written.
    ///
    /// # Errors
    /// When the directory cannot be made, or a file not be written; the others are all the same.
    pub fn write(&self, directory: &Path) -> Result<Vec<PathBuf>, Error> {
        let stored = serde_json::to_string(&Stored { schema: SCHEMA, report: self });
        let stored = stored.map_err(|e| Error::Encode { what: STORED, cause: e.to_string() })?;
        let mut files = vec![(PAGE, self.page()), (STORED, stored)];
        if let Self::Tune(r) = self {
            files.push(("trials.csv", csv::trials(&r.result)?));
        }
        let write = |(name, text): (&str, String)| write_file(directory, name, text.as_bytes());
        let written: Vec<_> = files.into_iter().map(write).collect();
        written.into_iter().collect()
    }
}

/// Writes `directory/name` whole or not at all; the directory is made if missing. Returns the path.
///
/// # Errors
/// When the directory cannot be made or written.
pub fn write_file(directory: &Path, name: &str, bytes: &[u8]) -> Result<PathBuf, Error> {
    let path = directory.join(name);
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |cause| Error::Write { path, cause }
    };
    fs::create_dir_all(directory).map_err(failed(directory))?;
    let mut file = tempfile::Builder::new()
        .prefix(".knee-")
        .tempfile_in(directory)
        .map_err(failed(directory))?;
    file.write_all(bytes).map_err(failed(&path))?;
    readable(file.as_file()).map_err(failed(&path))?;
    file.persist(&path).map_err(|e| failed(&path)(e.error))?;
    Ok(path)
}

/// Temporary files are private; a report is for the team.
#[cfg(unix)]
fn readable(file: &fs::File) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    file.set_permissions(fs::Permissions::from_mode(0o644))
}

#[cfg(not(unix))]
fn readable(_: &fs::File) -> std::io::Result<()> {
    Ok(())
}

/// Bytes of a stored report: a thousand times what one has.
const LONGEST: u64 = 512 << 20;

/// Reads the report stored in `directory`.
///
/// # Errors
/// When there is none, it is broken, or of another version.
pub fn load(directory: &Path) -> Result<Report, Error> {
    let path = directory.join(STORED);
    let mut text = String::new();
    let read = fs::File::open(&path).and_then(|f| f.take(LONGEST + 1).read_to_string(&mut text));
    read.map_err(|cause| Error::Read { path: path.clone(), cause })?;
    if text.len() as u64 > LONGEST {
        let message = format!("longer than {LONGEST} bytes");
        return Err(Error::Format { path, line: 1, message });
    }
    let broken = |e: &serde_json::Error| Error::Format {
        path: path.clone(),
        line: e.line(),
        message: e.to_string(),
    };
    let version: Version = serde_json::from_str(&text).map_err(|e| broken(&e))?;
    if version.schema != SCHEMA {
        return Err(Error::Schema { path, found: version.schema, expected: SCHEMA });
    }
    serde_json::from_str::<Loaded>(&text).map(|l| l.report).map_err(|e| broken(&e))
}
