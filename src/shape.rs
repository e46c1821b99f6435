//! A model's shape, by the name or the file that it is given as.

use std::path::Path;

use anyhow::Result;
use engine::ModelShape;
use engine::model::llama::LlamaConfig;
use engine::model::{Model, hub};

/// The shape of `config`, called as its file or folder is, or as the hub calls it. Profiles of this machine count every
/// number format in elements of two bytes.
pub(crate) fn named(model: &str, config: &LlamaConfig) -> ModelShape {
    let path = Path::new(model);
    if model.starts_with(hub::PREFIX) {
        return config.shape(2);
    }
    let name = if path.is_dir() { path.file_name() } else { path.file_stem() };
    let name = name.map_or_else(|| config.name.clone(), |name| name.to_string_lossy().into_owned());
    ModelShape { name, ..config.shape(2) }
}

/// The shape of the model called `name`: a shipped one, a TOML file, or that of a model's own files.
pub(crate) fn shape(name: &str) -> Result<ModelShape> {
    if let Some(id) = name.strip_prefix(hub::PREFIX) {
        return Ok(named(name, &hub::config(id)?));
    }
    let path = Path::new(name);
    if name == "tiny" || path.is_dir() || path.extension().is_some_and(|e| e == "gguf") {
        return Ok(named(name, Model::open(name, None)?.weights.config()));
    }
    Ok(ModelShape::load(name)?)
}
