//! The three published families of operator tables, brought to one vocabulary.
//!
//! Each family's folder is read as its publisher lays it. Rows of model-specific tables become rows of general operators
//! by the model's shape; what a row costs is in seconds on one rank.

use std::fs::DirEntry;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::source::Source;
use super::{Found, ImportError, Tables, aiconfigurator, llmservingsim, vidur};

/// Who measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Family {
    /// NVIDIA's AIConfigurator: kernels alone, any shape.
    AiConfigurator,
    /// Microsoft's Vidur: a model's operators, and links.
    Vidur,
    /// KAIST's LLMServingSim: a model's operators inside vLLM, with mixed batches.
    LlmServingSim,
    /// This program, on the machine it runs on.
    Knee,
}

impl Family {
    /// All that publish tables.
    pub const ALL: [Self; 3] = [Self::AiConfigurator, Self::Vidur, Self::LlmServingSim];

    /// Its name, which is that of its folder.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::AiConfigurator => "aiconfigurator",
            Self::Vidur => "vidur",
            Self::LlmServingSim => "llmservingsim",
            Self::Knee => "knee",
        }
    }

    /// The family called `name`.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|f| f.name() == name)
    }

    /// Everything it measured of the device and the node that `from` names.
    pub(super) fn rows(self, dir: &Path, from: &Tables) -> Result<Found, ImportError> {
        let own = dir.join(self.name());
        match self {
            Self::AiConfigurator => aiconfigurator::rows(&own, dir, &from.system),
            Self::Vidur => Ok(Found { rows: vidur::rows(&own, from)?, notes: Vec::new() }),
            Self::LlmServingSim => llmservingsim::rows(&own, dir, &from.system),
            Self::Knee => Err(ImportError::Sheet {
                sheet: from.system.clone(),
                reason: "measured where it was made: there are no tables to import".to_owned(),
            }),
        }
    }
}

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
