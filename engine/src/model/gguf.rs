//! Weights in a GGUF file (llama.cpp's format), dequantised as they are asked for.
//!
//! Llama-architecture files keep the rows of queries and keys in another order, because llama.cpp rotates neighbouring
//! elements where Hugging Face rotates halves: here they are put back.

use std::fs::File;
use std::io::{BufReader, Seek as _};
use std::path::{Path, PathBuf};

use candle_core::Device;
use candle_core::quantized::gguf_file::{Content, Value};

use super::gguf_header;
use super::llama::{FAMILY, LlamaConfig, RopeScaling};
use super::weights::{ModelError, Tensor, Weights, checked, expected_shape};

/// An open file.
pub struct Gguf {
    path: PathBuf,
    reader: BufReader<File>,
    content: Content,
    config: LlamaConfig,
    /// True where queries and keys are in llama.cpp's order.
    interleaved: bool,
}

impl Gguf {
    /// Opens the file at `path` and reads its metadata.
    ///
    /// # Errors
    /// When it is missing or broken, or the model has something that cannot be run.
    pub fn open(path: &Path) -> Result<Self, ModelError> {
        let file = File::open(path).map_err(|e| ModelError::read(path, e))?;
        let mut reader = BufReader::new(file);
        let broken = |e: String| ModelError::broken(path, format!("not a GGUF file: {e}"));
        gguf_header::check(&mut reader).map_err(|e| broken(e.to_string()))?;
        reader.rewind().map_err(|e| ModelError::read(path, e))?;
        let content = Content::read(&mut reader).map_err(|e| broken(first_line(&e)))?;
        let meta = Meta { path, content: &content };
        let architecture = meta.text("general.architecture")?;
        if !FAMILY.contains(&architecture) {
            let expected = FAMILY.join(", ");
            let what = format!("architecture `{architecture}`: expected one of {expected}");
            return Err(ModelError::unsupported(path, what));
        }
        let config = meta.config(architecture)?;
        let interleaved = matches!(architecture, "llama" | "mistral");
        let mut gguf = Self { path: path.to_owned(), reader, content, config, interleaved };
        gguf.config.check().map_err(|reason| ModelError::broken(path, reason))?;
        gguf.check_names()?;
        gguf.read_rope_factors()?;
        Ok(gguf)
    }

    /// Every tensor must have a place in the model, or the model is another one.
    fn check_names(&self) -> Result<(), ModelError> {
        for name in self.content.tensor_infos.keys() {
            let known = name == ROPE_FACTORS
                || hugging_face_name(name)
                    .is_some_and(|hf| expected_shape(&self.config, &hf).is_some());
            if !known {
                return Err(ModelError::unsupported(&self.path, format!("tensor `{name}`")));
            }
        }
        Ok(())
    }

    /// Llama 3.1's scaling is stored as one factor per pair of elements. All its published models differ in `factor`
    /// only; a file whose factors are not of that form is refused.
    fn read_rope_factors(&mut self) -> Result<(), ModelError> {
        if !self.content.tensor_infos.contains_key(ROPE_FACTORS) {
            return Ok(());
        }
        let pairs = self.config.head_dim as usize / 2;
        let what = format!("rotary factors (`{ROPE_FACTORS}`) that are not Llama 3.1's");
        let refused = ModelError::unsupported(&self.path, what);
        if self.dims(ROPE_FACTORS) != Some(vec![pairs]) {
            return Err(refused);
        }
        let factors = self.read(ROPE_FACTORS)?;
        let plain = LlamaConfig { rope_scaling: RopeScaling::None, ..self.config.clone() };
        let base = plain.inv_freq();
        let factor = factors.iter().copied().fold(1.0, f32::max);
        self.config.rope_scaling = RopeScaling::Llama3 {
            factor,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_max_position: 8192,
        };
        let scaled = self.config.inv_freq();
        let near = |i: usize| (base[i] / factors[i] / scaled[i] - 1.0).abs() < 1e-3;
        if (0..pairs).all(near) { Ok(()) } else { Err(refused) }
    }

    /// Dimensions of the tensor called `name` in the file, if it is there.
    fn dims(&self, name: &str) -> Option<Vec<usize>> {
        Some(self.content.tensor_infos.get(name)?.shape.dims().to_vec())
    }

    /// Elements of the tensor called `name` in the file, whose dimensions have been found to be sensible.
    fn read(&mut self, name: &str) -> Result<Vec<f32>, ModelError> {
        let broken = |e: candle_core::Error| {
            ModelError::broken(&self.path, format!("tensor `{name}`: {}", first_line(&e)))
        };
        let tensor = self.content.tensor(&mut self.reader, name, &Device::Cpu).map_err(broken)?;
        let whole = tensor.dequantize(&Device::Cpu).and_then(|t| t.flatten_all()?.to_vec1());
        whole.map_err(broken)
    }

    /// The file's metadata, for the tokenizer.
    pub(super) fn meta(&self) -> Meta<'_> {
        Meta { path: &self.path, content: &self.content }
    }
}

impl Weights for Gguf {
    fn config(&self) -> &LlamaConfig {
        &self.config
    }

    fn tensor(&mut self, name: &str) -> Result<Tensor, ModelError> {
        let found = gguf_name(name).and_then(|stored| Some((self.dims(&stored)?, stored)));
        let missing =
            || ModelError::Missing { model: self.config.name.clone(), tensor: name.to_owned() };
        let (dims, stored) = found.ok_or_else(missing)?;
        // First, because sizes that do not belong to the model may be beyond all memory.
        let (rows, cols) = checked(&self.config, name, &dims)?;
        let mut data = self.read(&stored)?;
        if self.interleaved && (name.contains(".q_proj.") || name.contains(".k_proj.")) {
            let width = if rows == 1 { 1 } else { cols };
            data = halves_from_pairs(&data, self.config.head_dim as usize, width);
        }
        Ok(Tensor { rows, cols, data })
    }
}

/// Within each head, row `2 i + a` becomes row `a * head_dim / 2 + i`.
fn halves_from_pairs(data: &[f32], head_dim: usize, width: usize) -> Vec<f32> {
    let mut out = Vec::with_capacity(data.len());
    for head in data.chunks(head_dim * width) {
        for side in 0..2 {
            for pair in 0..head_dim / 2 {
                let row = (2 * pair + side) * width;
                out.extend_from_slice(&head[row..row + width]);
            }
        }
    }
    out
}

/// Factors by which rotary frequencies are divided.
const ROPE_FACTORS: &str = "rope_freqs.weight";

/// Names of a layer's parts: here and in the file.
const PARTS: [(&str, &str); 11] = [
    ("input_layernorm", "attn_norm"),
    ("post_attention_layernorm", "ffn_norm"),
    ("self_attn.q_proj", "attn_q"),
    ("self_attn.k_proj", "attn_k"),
    ("self_attn.v_proj", "attn_v"),
    ("self_attn.o_proj", "attn_output"),
    ("self_attn.q_norm", "attn_q_norm"),
    ("self_attn.k_norm", "attn_k_norm"),
    ("mlp.gate_proj", "ffn_gate"),
    ("mlp.up_proj", "ffn_up"),
    ("mlp.down_proj", "ffn_down"),
];

/// Names of tensors outside of layers.
const WHOLE: [(&str, &str); 3] = [
    ("model.embed_tokens.weight", "token_embd.weight"),
    ("model.norm.weight", "output_norm.weight"),
    ("lm_head.weight", "output.weight"),
];

/// The file's name for the tensor `name`.
fn gguf_name(name: &str) -> Option<String> {
    if let Some((_, stored)) = WHOLE.iter().find(|(hf, _)| *hf == name) {
        return Some((*stored).to_owned());
    }
    let (layer, rest) = name.strip_prefix("model.layers.")?.split_once('.')?;
    let (part, kind) = rest.rsplit_once('.')?;
    let (_, stored) = PARTS.iter().find(|(hf, _)| *hf == part)?;
    Some(format!("blk.{layer}.{stored}.{kind}"))
}

/// Hugging Face's name for the file's tensor `name`.
fn hugging_face_name(name: &str) -> Option<String> {
    if let Some((hf, _)) = WHOLE.iter().find(|(_, stored)| *stored == name) {
        return Some((*hf).to_owned());
    }
    let (layer, rest) = name.strip_prefix("blk.")?.split_once('.')?;
    let (part, kind) = rest.rsplit_once('.')?;
    let (hf, _) = PARTS.iter().find(|(_, stored)| *stored == part)?;
    Some(format!("model.layers.{layer}.{hf}.{kind}"))
}

/// Errors of the reader carry a backtrace below their first line.
fn first_line(error: &candle_core::Error) -> String {
    error.to_string().lines().next().unwrap_or_default().to_owned()
}

/// Metadata of a file, by key.
#[derive(Clone, Copy)]
pub(super) struct Meta<'a> {
    pub(super) path: &'a Path,
    content: &'a Content,
}

impl<'a> Meta<'a> {
    pub(super) fn value(&self, key: &str) -> Option<&'a Value> {
        self.content.metadata.get(key)
    }

    fn missing(&self, key: &str) -> ModelError {
        ModelError::broken(self.path, format!("there is no `{key}` in its metadata"))
    }

    pub(super) fn text(&self, key: &str) -> Result<&'a str, ModelError> {
        let text = self.value(key).and_then(|v| v.to_string().ok());
        text.map(String::as_str).ok_or_else(|| self.missing(key))
    }

    /// A whole number, however wide it is stored.
    pub(super) fn count(&self, key: &str) -> Option<u32> {
        match self.value(key)? {
            Value::I32(n) => u32::try_from(*n).ok(),
            Value::I64(n) => u32::try_from(*n).ok(),
            other => other.to_u64().ok()?.try_into().ok(),
        }
    }

    pub(super) fn list(&self, key: &str) -> Result<&'a [Value], ModelError> {
        let list = self.value(key).and_then(|v| v.to_vec().ok());
        list.map(Vec::as_slice).ok_or_else(|| self.missing(key))
    }

    pub(super) fn flag(&self, key: &str) -> Option<bool> {
        self.value(key)?.to_bool().ok()
    }

    fn real(&self, key: &str) -> Option<f32> {
        self.value(key)?.to_f32().ok()
    }

    fn has(&self, tensor: &str) -> bool {
        self.content.tensor_infos.contains_key(tensor)
    }

    fn config(&self, architecture: &str) -> Result<LlamaConfig, ModelError> {
        let key = |name: &str| format!("{architecture}.{name}");
        let need = |name: &str| self.count(&key(name)).ok_or_else(|| self.missing(&key(name)));
        let (hidden, heads) = (need("embedding_length")?, need("attention.head_count")?);
        let head_dim = self.count(&key("attention.key_length")).unwrap_or(hidden / heads.max(1));
        let rotated = self.count(&key("rope.dimension_count")).unwrap_or(head_dim);
        let values = self.count(&key("attention.value_length")).unwrap_or(head_dim);
        if rotated != head_dim || values != head_dim {
            let what = format!("heads: {head_dim} elements, {rotated} rotated, {values} as values");
            return Err(ModelError::unsupported(self.path, what));
        }
        if self.count(&key("expert_count")).is_some_and(|n| n > 0) {
            return Err(ModelError::unsupported(self.path, "mixture of experts"));
        }
        let embedding = self.content.tensor_infos.get("token_embd.weight");
        let vocab = embedding.and_then(|info| Some(*info.shape.dims().first()? as u32));
        let eps = key("attention.layer_norm_rms_epsilon");
        let name = self.text("general.name").ok().map(str::to_owned);
        let stem = || self.path.file_stem().map(|s| s.to_string_lossy().into_owned());
        Ok(LlamaConfig {
            name: name.or_else(stem).unwrap_or_default(),
            layers: need("block_count")?,
            hidden,
            heads,
            kv_heads: self.count(&key("attention.head_count_kv")).unwrap_or(heads),
            head_dim,
            ffn: need("feed_forward_length")?,
            mixture: None,
            vocab: vocab.ok_or_else(|| self.missing_tensor("token_embd.weight"))?,
            rms_eps: self.real(&eps).ok_or_else(|| self.missing(&eps))?,
            rope_theta: self.real(&key("rope.freq_base")).unwrap_or(10_000.0),
            rope_scaling: self.scaling(architecture)?,
            tied_embeddings: !self.has("output.weight"),
            qkv_bias: self.has("blk.0.attn_q.bias"),
            qk_norm: self.has("blk.0.attn_q_norm.weight"),
            sliding_window: self.count(&key("attention.sliding_window")).filter(|n| *n > 0),
            max_position: need("context_length")?,
        })
    }

    fn missing_tensor(&self, tensor: &str) -> ModelError {
        ModelError::Missing { model: self.path.display().to_string(), tensor: tensor.to_owned() }
    }

    fn scaling(&self, architecture: &str) -> Result<RopeScaling, ModelError> {
        let key = |name: &str| format!("{architecture}.rope.scaling.{name}");
        let kind = self.text(&key("type")).unwrap_or("none");
        let factor = || self.real(&key("factor")).ok_or_else(|| self.missing(&key("factor")));
        let original = key("original_context_length");
        Ok(match kind {
            "none" => RopeScaling::None,
            "linear" => RopeScaling::Linear { factor: factor()? },
            "yarn" => RopeScaling::Yarn {
                factor: factor()?,
                original_max_position: self
                    .count(&original)
                    .ok_or_else(|| self.missing(&original))?,
                beta_fast: 32.0,
                beta_slow: 1.0,
                // The stored value multiplies the usual temperature; it does not replace it.
                attention_factor: match self.real(&key("attn_factor")) {
                    Some(more) => Some(more * (0.1 * factor()?.ln() + 1.0)),
                    None => None,
                },
            },
            other => {
                let what = format!("rotary scaling `{other}`: expected none, linear or yarn");
                return Err(ModelError::unsupported(self.path, what));
            }
        })
    }
}
