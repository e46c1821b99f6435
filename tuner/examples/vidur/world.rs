//! The files of this folder as values: Vidur's schedulers as knobs, its device as a sheet, its models as shapes.

use std::path::{Path, PathBuf};

use engine::{Config, ModelShape};

/// Vidur's replica schedulers that have a counterpart here.
pub(crate) const SCHEDULERS: [&str; 3] = ["vllm", "sarathi", "orca"];

/// A file of this folder.
#[must_use]
pub(crate) fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/vidur").join(name)
}

/// The text of a file of this folder.
///
/// # Errors
/// When it cannot be read.
pub(crate) fn text(name: &str) -> Result<String, String> {
    let path = path(name);
    std::fs::read_to_string(&path).map_err(|e| format!("cannot read {}: {e}", path.display()))
}

/// Knobs of one of [`SCHEDULERS`], as `--config` of the command line reads them.
///
/// # Errors
/// When the file holds no knobs.
pub(crate) fn scheduler(name: &str) -> Result<Config, String> {
    let file = format!("{name}.toml");
    let table: toml::Table = toml::from_str(&text(&file)?).map_err(|e| format!("{file}: {e}"))?;
    let mut knobs: Vec<(&String, &toml::Value)> = table.iter().collect();
    knobs.sort_by_key(|(name, _)| *name != "policy"); // it sets several, which the others refine
    let mut config = Config::default();
    for (knob, value) in knobs {
        let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        config.set(knob, &value).map_err(|e| format!("{file}: {e}"))?;
    }
    Ok(config)
}

/// A model as Vidur counts it.
///
/// # Errors
/// When the file holds no model.
pub(crate) fn model(name: &str) -> Result<ModelShape, String> {
    let path = path(&format!("{name}.toml"));
    ModelShape::load(&path.to_string_lossy()).map_err(|e| e.to_string())
}
