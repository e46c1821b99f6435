//! Folders and files of published tables.

use std::fs::DirEntry;
use std::path::{Path, PathBuf};

use super::source::Source;
use super::tables::ImportError;

/// Shows every row of a file.
pub(super) fn each(
    path: &Path,
    mut row: impl FnMut(&Source) -> Result<(), ImportError>,
) -> Result<(), ImportError> {
    let mut source = Source::open(path)?;
    while source.advance()? {
        row(&source)?;
    }
    Ok(())
}

/// The first folder `inside/system` of these places that there is.
pub(super) fn folder(places: &[&Path], inside: &[&str], system: &str) -> Option<PathBuf> {
    let all = places.iter().flat_map(|place| inside.iter().map(|i| place.join(i).join(system)));
    all.into_iter().find(|folder| folder.is_dir())
}

/// Folders in a folder, by name.
pub(super) fn folders(dir: &Path) -> Result<Vec<PathBuf>, ImportError> {
    let read = |source| ImportError::Read { path: dir.to_path_buf(), source };
    let entries: Result<Vec<_>, _> = std::fs::read_dir(dir).map_err(read)?.collect();
    let mut found: Vec<PathBuf> = entries.map_err(read)?.iter().map(DirEntry::path).collect();
    found.retain(|path| path.is_dir());
    found.sort();
    Ok(found)
}

/// The last part of a path.
pub(super) fn name_of(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

pub(super) const MS: f64 = 1e-3;
pub(super) const US: f64 = 1e-6;
