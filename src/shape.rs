//! A model's shape, by the name or the file that it is given as.

use std::path::Path;

use anyhow::{Result, bail};
use engine::ModelShape;
use engine::model::configuration::CONFIG;
use engine::model::llama::LlamaConfig;
use engine::model::{Model, hub};

/// The shape of `config`, called as its file or folder is, or as the hub calls it. Profiles of this machine count every
/// number format in elements of two bytes.
pub(crate) fn named(model: &str, config: &LlamaConfig) -> ModelShape {
    let path = Path::new(model);
    if model.starts_with(hub::PREFIX) {
        return config.shape();
    }
    // A configuration says nothing of its name; its folder may.
    let path = if path.ends_with(CONFIG) { path.parent().unwrap_or(path) } else { path };
    let name = if path.is_dir() { path.file_name() } else { path.file_stem() };
    let name = name.map_or_else(|| config.name.clone(), |name| name.to_string_lossy().into_owned());
    ModelShape { name, ..config.shape() }
}

/// The shape of the model called `name`: a shipped one, a file or folder, one on the hub, or that of a model's weights.
pub(crate) fn shape(name: &str) -> Result<ModelShape> {
    let is_gguf = Path::new(name).extension().is_some_and(|e| e.eq_ignore_ascii_case("gguf"));
    if name != "tiny" && !is_gguf {
        return Ok(ModelShape::load(name)?);
    }
    let model = Model::open(name, None)?;
    let config = model.weights.config();
    match config.sliding_window {
        Some(window) if window < config.max_position => {
            bail!("{name}: attention in a sliding window of {window} tokens is not simulated")
        }
        _ => Ok(named(name, config)),
    }
}
