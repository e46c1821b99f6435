//! Weights in a Hugging Face folder: one safetensors file, or several behind an index.
//!
//! Headers are read when the folder is opened, tensors when they are asked for.

use std::collections::{BTreeSet, HashMap};
use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};

use half::{bf16, f16};
use safetensors::Dtype;
use safetensors::tensor::Metadata;

use super::config_json;
use super::llama::LlamaConfig;
use crate::files::read_text;

use super::weights::{ModelError, Tensor, Weights, checked, expected_shape};

/// Longest header of a file, bytes: what the format's own reader allows.
const LONGEST_HEADER: u64 = 100_000_000;

/// The weights of a folder.
#[derive(Debug)]
pub struct Folder {
    config: LlamaConfig,
    ends: Vec<u32>,
    files: Vec<Shard>,
    /// The file of each tensor, and its name there.
    place: HashMap<String, (usize, String)>,
}

#[derive(Debug)]
struct Shard {
    path: PathBuf,
    file: File,
    header: Metadata,
    /// The offset at which the data begins.
    start: u64,
}

impl Folder {
    /// Opens the folder `dir`: its `config.json` and the headers of its weights.
    ///
    /// # Errors
    /// When a file is missing or broken, or the model has something that cannot be run.
    pub fn open(dir: &Path) -> Result<Self, ModelError> {
        let whole = dir.canonicalize().map_err(|e| ModelError::read(dir, e))?;
        let name = whole.file_name().map_or_else(|| "model".into(), |n| n.to_string_lossy());
        Self::open_as(dir, &name)
    }

    /// The same for a model that is called `name`.
    ///
    /// # Errors
    /// When a file is missing or broken, or the model has something that cannot be run.
    pub fn open_as(dir: &Path, name: &str) -> Result<Self, ModelError> {
        let (config, mut ends) = config_json::read(&dir.join("config.json"), name)?;
        for end in config_json::generation_ends(&dir.join("generation_config.json"))? {
            if !ends.contains(&end) {
                ends.push(end);
            }
        }
        let mut folder = Self { config, ends, files: Vec::new(), place: HashMap::new() };
        for path in shards(dir)? {
            folder.add(&path)?;
        }
        Ok(folder)
    }

    /// Tokens that end the model's output.
    #[must_use]
    pub fn ends(&self) -> &[u32] {
        &self.ends
    }

    fn add(&mut self, path: &Path) -> Result<(), ModelError> {
        let shard = Shard::open(path)?;
        for name in shard.header.offset_keys() {
            // Old checkpoints store the rotary frequencies; tied ones may repeat the embedding.
            let spare = name.ends_with("rotary_emb.inv_freq")
                || (name == "lm_head.weight" && self.config.tied_embeddings);
            let known = known_name(&name);
            if !spare && expected_shape(&self.config, &known).is_none() {
                return Err(ModelError::unsupported(path, format!("tensor `{name}`")));
            }
            self.place.insert(known, (self.files.len(), name));
        }
        self.files.push(shard);
        Ok(())
    }
}

/// Mixtral's names of an expert's parts, and Qwen 3's.
const EXPERT: [(&str, &str); 3] = [
    ("w1.weight", "gate_proj.weight"),
    ("w3.weight", "up_proj.weight"),
    ("w2.weight", "down_proj.weight"),
];

/// The name by which [`Weights`] knows the file's tensor `name`.
fn known_name(name: &str) -> String {
    let name = name.replace(".block_sparse_moe.", ".mlp.");
    let renamed = EXPERT.iter().find_map(|(theirs, ours)| {
        let stem = name.strip_suffix(theirs)?;
        stem.contains(".mlp.experts.").then(|| format!("{stem}{ours}"))
    });
    renamed.unwrap_or(name)
}

/// The files that hold a folder's weights.
pub(super) fn shards(dir: &Path) -> Result<Vec<PathBuf>, ModelError> {
    let index = dir.join("model.safetensors.index.json");
    let single = dir.join("model.safetensors");
    if single.exists() || !index.exists() {
        return Ok(vec![single]);
    }
    let text = read_text(&index, LONGEST_HEADER).map_err(|e| ModelError::read(&index, e))?;
    let json: serde_json::Value =
        serde_json::from_str(&text).map_err(|e| ModelError::broken(&index, e))?;
    let Some(map) = json["weight_map"].as_object() else {
        return Err(ModelError::broken(&index, "there is no `weight_map`"));
    };
    let names: BTreeSet<&str> = map.values().filter_map(|file| file.as_str()).collect();
    // A name with a folder in it could lead anywhere.
    match names.iter().find(|n| Path::new(n).components().count() != 1 || n.starts_with('.')) {
        Some(odd) => Err(ModelError::broken(&index, format!("`{odd}` is not a file name"))),
        None => Ok(names.iter().map(|n| dir.join(n)).collect()),
    }
}

impl Shard {
    fn open(path: &Path) -> Result<Self, ModelError> {
        let read = |e| ModelError::read(path, e);
        let mut file = File::open(path).map_err(read)?;
        let length = file.metadata().map_err(read)?.len();
        let mut word = [0; 8];
        file.read_exact(&mut word).map_err(read)?;
        let size = u64::from_le_bytes(word);
        if size > LONGEST_HEADER || size.saturating_add(8) > length {
            return Err(ModelError::broken(path, "not a safetensors file: its header is too long"));
        }
        let mut header = vec![0; size as usize];
        file.read_exact(&mut header).map_err(read)?;
        let header: Metadata = serde_json::from_slice(&header)
            .map_err(|e| ModelError::broken(path, format!("not a safetensors file: {e}")))?;
        let start = 8 + size;
        if start + header.data_len() as u64 != length {
            return Err(ModelError::broken(path, "the file is cut short or too long"));
        }
        Ok(Self { path: path.to_owned(), file, header, start })
    }
}

impl Weights for Folder {
    fn config(&self) -> &LlamaConfig {
        &self.config
    }

    fn tensor(&mut self, name: &str) -> Result<Tensor, ModelError> {
        let missing =
            || ModelError::Missing { model: self.config.name.clone(), tensor: name.to_owned() };
        let (file, stored) = self.place.get(name).ok_or_else(missing)?;
        let shard = &mut self.files[*file];
        let info = shard.header.info(stored).ok_or_else(missing)?;
        let (rows, cols) = checked(&self.config, name, &info.shape)?;
        let (from, to) = info.data_offsets;
        let mut bytes = vec![0; to - from];
        let read = |e| ModelError::read(&shard.path, e);
        shard.file.seek(SeekFrom::Start(shard.start + from as u64)).map_err(read)?;
        shard.file.read_exact(&mut bytes).map_err(read)?;
        let (halves, words) = (bytes.as_chunks::<2>().0.iter(), bytes.as_chunks::<4>().0.iter());
        let data = match info.dtype {
            Dtype::F32 => words.map(|b| f32::from_le_bytes(*b)).collect(),
            Dtype::F16 => halves.map(|b| f16::from_le_bytes(*b).to_f32()).collect(),
            Dtype::BF16 => halves.map(|b| bf16::from_le_bytes(*b).to_f32()).collect(),
            other => {
                let what = format!("type {other:?} of tensor `{name}`: expected F32, F16 or BF16");
                return Err(ModelError::unsupported(&shard.path, what));
            }
        };
        Ok(Tensor { rows, cols, data })
    }
}
