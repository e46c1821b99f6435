//! The published families of operator tables, brought to one vocabulary.
//!
//! Each family's folder is read as its publisher lays it. Rows of model-specific tables become rows of general
//! operators by the model's shape; the time of a row is in seconds on one rank.

use std::path::Path;

use super::tables::{Family, Found, ImportError, Tables};
use super::{aiconfigurator, llmservingsim, vidur};

impl Family {
    /// Everything it measured of the device and the node that `from` names.
    pub(super) fn rows(self, dir: &Path, from: &Tables) -> Result<Found, ImportError> {
        let own = dir.join(self.name());
        match self {
            Self::AiConfigurator => aiconfigurator::rows(&[&own], dir, &from.system),
            Self::AiSimulate => {
                let cut = dir.join("nvidia-vllm");
                // The older wheel lies the same way and holds the same tables of fewer devices.
                let older = dir.join(Self::AiConfigurator.name());
                aiconfigurator::rows(&[&cut, &own, &older], dir, &from.system)
            }
            Self::Vidur => Ok(Found { rows: vidur::rows(&own, from)?, ..Found::default() }),
            Self::LlmServingSim => llmservingsim::rows(&own, dir, &from.system),
            Self::Knee => Err(ImportError::Sheet {
                sheet: from.system.clone(),
                reason: "measured where it was made: there are no tables to import".to_owned(),
            }),
        }
    }
}
