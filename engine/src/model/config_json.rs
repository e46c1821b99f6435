//! A Hugging Face `config.json` as a [`LlamaConfig`]: fields that an architecture leaves out are filled in as its
//! reference implementation does, and a field that would compute something else is refused by name.

use std::path::Path;

use serde::Deserialize;

use super::llama::{FAMILY, LlamaConfig, Mixture, RopeScaling};
use super::weights::ModelError;
use crate::files::{LONGEST_SETTINGS, read_text};

/// The fields that are read of the file. Newer files keep the rotary settings in `rope_parameters`, older ones in two
/// places.
#[derive(Deserialize)]
struct Raw {
    model_type: String,
    hidden_size: u32,
    num_hidden_layers: u32,
    num_attention_heads: u32,
    num_key_value_heads: Option<u32>,
    head_dim: Option<u32>,
    intermediate_size: u32,
    moe_intermediate_size: Option<u32>,
    #[serde(alias = "num_local_experts")]
    num_experts: Option<u32>,
    num_experts_per_tok: Option<u32>,
    norm_topk_prob: Option<bool>,
    decoder_sparse_step: Option<u32>,
    #[serde(default)]
    mlp_only_layers: Vec<u32>,
    vocab_size: u32,
    rms_norm_eps: f32,
    max_position_embeddings: u32,
    rope_theta: Option<f32>,
    rope_scaling: Option<Rope>,
    rope_parameters: Option<Rope>,
    partial_rotary_factor: Option<f32>,
    #[serde(default)]
    tie_word_embeddings: bool,
    #[serde(default)]
    attention_bias: bool,
    #[serde(default)]
    mlp_bias: bool,
    hidden_act: Option<String>,
    sliding_window: Option<u32>,
    #[serde(default)]
    use_sliding_window: bool,
    max_window_layers: Option<u32>,
    quantization_config: Option<serde_json::Value>,
    eos_token_id: Option<OneOrMany>,
}

#[derive(Deserialize, Clone)]
struct Rope {
    #[serde(alias = "type")]
    rope_type: Option<String>,
    rope_theta: Option<f32>,
    factor: Option<f32>,
    low_freq_factor: Option<f32>,
    high_freq_factor: Option<f32>,
    original_max_position_embeddings: Option<u32>,
    beta_fast: Option<f32>,
    beta_slow: Option<f32>,
    attention_factor: Option<f32>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(u32),
    Many(Vec<u32>),
}

impl OneOrMany {
    fn list(self) -> Vec<u32> {
        match self {
            Self::One(id) => vec![id],
            Self::Many(ids) => ids,
        }
    }
}

impl LlamaConfig {
    /// Reads the `config.json` at `path`: a shape needs nothing else of a model.
    ///
    /// # Errors
    /// When it cannot be read, or is of a model that computes something else.
    pub fn open(path: &Path) -> Result<Self, ModelError> {
        let name = path.file_stem().map_or_else(String::new, |n| n.to_string_lossy().into_owned());
        Ok(read(path, &name)?.0)
    }
}

/// Parts of other architectures that nothing here computes or simulates, by the fields that tell of them.
const UNMODELLED: [(&str, &[&str]); 3] = [
    ("a mixture of experts", &["num_local_experts", "n_routed_experts", "num_experts"]),
    ("latent attention", &["kv_lora_rank"]),
    ("sliding windows", &["sliding_window"]),
];

/// The architecture of `config` with its parts that are not modelled: ` with a mixture of experts`.
fn unmodelled(config: &serde_json::Value) -> String {
    let has = |field: &&str| !config[field].is_null() || !config["text_config"][field].is_null();
    let parts = UNMODELLED.iter().filter(|(_, fields)| fields.iter().any(has));
    let parts: Vec<&str> = parts.map(|(part, _)| *part).collect();
    if parts.is_empty() { String::new() } else { format!(" with {}", parts.join(" and ")) }
}

/// Reads `config.json` at `path` for the model called `name`; beside it come the tokens that end its output.
pub(super) fn read(path: &Path, name: &str) -> Result<(LlamaConfig, Vec<u32>), ModelError> {
    let text = read_text(path, LONGEST_SETTINGS).map_err(|e| ModelError::read(path, e))?;
    let value: serde_json::Value =
        serde_json::from_str(&text).map_err(|e| ModelError::broken(path, e))?;
    let kind = value["model_type"].as_str().unwrap_or("(none given)");
    if !FAMILY.contains(&kind) {
        let (with, known) = (unmodelled(&value), FAMILY.join(", "));
        let what = format!("architecture `{kind}`{with}: expected one of {known}");
        return Err(ModelError::unsupported(path, what));
    }
    let mut raw: Raw = serde_json::from_value(value).map_err(|e| ModelError::broken(path, e))?;
    let ends = raw.eos_token_id.take().map_or_else(Vec::new, OneOrMany::list);
    let config = convert(path, name, &raw)?;
    config.check().map_err(|reason| ModelError::broken(path, reason))?;
    Ok((config, ends))
}

/// The tokens that end output according to a `generation_config.json`; none where it is not there or does not say.
///
/// # Errors
/// When it is there and cannot be read.
pub(super) fn generation_ends(path: &Path) -> Result<Vec<u32>, ModelError> {
    #[derive(Deserialize)]
    struct Generation {
        eos_token_id: Option<OneOrMany>,
    }
    let text = match read_text(path, LONGEST_SETTINGS) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        read => read.map_err(|e| ModelError::read(path, e))?,
    };
    let generation: Generation =
        serde_json::from_str(&text).map_err(|e| ModelError::broken(path, e))?;
    Ok(generation.eos_token_id.map_or_else(Vec::new, OneOrMany::list))
}

fn convert(path: &Path, name: &str, raw: &Raw) -> Result<LlamaConfig, ModelError> {
    let refuse = |what: &str| Err(ModelError::unsupported(path, what));
    let qwen = raw.model_type.starts_with("qwen");
    if raw.quantization_config.is_some() {
        return refuse("quantised checkpoint (`quantization_config`): use bf16 weights or a GGUF");
    }
    if raw.hidden_act.as_deref().is_some_and(|act| act != "silu") {
        return refuse("`hidden_act`: only silu");
    }
    if raw.mlp_bias || (raw.attention_bias && raw.model_type != "qwen2") {
        return refuse("biases (`attention_bias`, `mlp_bias`)");
    }
    if raw.partial_rotary_factor.is_some_and(|f| (f - 1.0).abs() > f32::EPSILON) {
        return refuse("`partial_rotary_factor` other than 1");
    }
    let heads = raw.num_attention_heads.max(1);
    if raw.head_dim.is_none() && !raw.hidden_size.is_multiple_of(heads) {
        let hidden = raw.hidden_size;
        let what =
            format!("hidden_size = {hidden} must be a multiple of num_attention_heads = {heads}");
        return Err(ModelError::broken(path, what));
    }
    let sliding_window = match (qwen, raw.use_sliding_window, raw.max_window_layers) {
        (true, false, _) => None,
        (true, true, Some(full)) if full >= raw.num_hidden_layers => None,
        (true, true, full) if full.is_some_and(|f| f > 0) => {
            return refuse("sliding window on some layers only (`max_window_layers`)");
        }
        _ => raw.sliding_window,
    };
    Ok(LlamaConfig {
        name: name.to_owned(),
        layers: raw.num_hidden_layers,
        hidden: raw.hidden_size,
        heads: raw.num_attention_heads,
        kv_heads: raw.num_key_value_heads.unwrap_or(raw.num_attention_heads),
        head_dim: raw.head_dim.unwrap_or(raw.hidden_size / heads),
        ffn: raw.moe_intermediate_size.unwrap_or(raw.intermediate_size),
        mixture: mixture(path, raw)?,
        vocab: raw.vocab_size,
        rms_eps: raw.rms_norm_eps,
        rope_theta: raw
            .rope_parameters
            .as_ref()
            .and_then(|r| r.rope_theta)
            .or(raw.rope_theta)
            .unwrap_or(10_000.0),
        rope_scaling: scaling(path, raw)?,
        tied_embeddings: raw.tie_word_embeddings,
        qkv_bias: raw.model_type == "qwen2",
        qk_norm: raw.model_type.starts_with("qwen3"),
        sliding_window,
        max_position: raw.max_position_embeddings,
    })
}

/// The experts of every layer, in the architectures that have them.
fn mixture(path: &Path, raw: &Raw) -> Result<Option<Mixture>, ModelError> {
    let scales = match raw.model_type.as_str() {
        "mixtral" => true,
        "qwen3_moe" => raw.norm_topk_prob.unwrap_or(false),
        _ => return Ok(None),
    };
    if raw.decoder_sparse_step.is_some_and(|step| step != 1) || !raw.mlp_only_layers.is_empty() {
        let what = "layers without experts (`decoder_sparse_step`, `mlp_only_layers`)";
        return Err(ModelError::unsupported(path, what));
    }
    let need = |n: Option<u32>, field: &str| {
        n.ok_or_else(|| ModelError::broken(path, format!("experts without `{field}`")))
    };
    Ok(Some(Mixture {
        experts: need(raw.num_experts, "num_experts")?,
        top_k: need(raw.num_experts_per_tok, "num_experts_per_tok")?,
        normalised: scales,
    }))
}

fn scaling(path: &Path, raw: &Raw) -> Result<RopeScaling, ModelError> {
    let Some(rope) = raw.rope_parameters.as_ref().or(raw.rope_scaling.as_ref()) else {
        return Ok(RopeScaling::None);
    };
    let need = |value: Option<f32>, field: &str| {
        value.ok_or_else(|| ModelError::broken(path, format!("rotary scaling without `{field}`")))
    };
    let original = rope.original_max_position_embeddings.unwrap_or(raw.max_position_embeddings);
    Ok(match rope.rope_type.as_deref().unwrap_or("default") {
        "default" => RopeScaling::None,
        "linear" => RopeScaling::Linear { factor: need(rope.factor, "factor")? },
        "llama3" => RopeScaling::Llama3 {
            factor: need(rope.factor, "factor")?,
            low_freq_factor: need(rope.low_freq_factor, "low_freq_factor")?,
            high_freq_factor: need(rope.high_freq_factor, "high_freq_factor")?,
            original_max_position: original,
        },
        "yarn" => RopeScaling::Yarn {
            factor: need(rope.factor, "factor")?,
            original_max_position: original,
            beta_fast: rope.beta_fast.unwrap_or(32.0),
            beta_slow: rope.beta_slow.unwrap_or(1.0),
            attention_factor: rope.attention_factor,
        },
        other => {
            let what = format!("rotary scaling `{other}`: expected linear, llama3 or yarn");
            return Err(ModelError::unsupported(path, what));
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_text(text: &str) -> Result<(LlamaConfig, Vec<u32>), String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.json");
        std::fs::write(&path, text).unwrap();
        let shown = path.display().to_string();
        read(&path, "m").map_err(|e| e.to_string().replace(&shown, "config.json"))
    }

    const LLAMA_32_1B: &str = r#"{"architectures": ["LlamaForCausalLM"], "attention_bias": false,
        "eos_token_id": [128001, 128008, 128009], "head_dim": 64, "hidden_act": "silu", "hidden_size": 2048,
        "intermediate_size": 8192, "max_position_embeddings": 131072, "mlp_bias": false, "model_type": "llama",
        "num_attention_heads": 32, "num_hidden_layers": 16, "num_key_value_heads": 8, "rms_norm_eps": 1e-05,
        "rope_scaling": {"factor": 32.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0,
        "original_max_position_embeddings": 8192, "rope_type": "llama3"}, "rope_theta": 500000.0,
        "tie_word_embeddings": true, "vocab_size": 128256}"#;

    #[test]
    fn a_llama_3_configuration() {
        let (config, ends) = read_text(LLAMA_32_1B).unwrap();
        assert_eq!(ends, [128_001, 128_008, 128_009]);
        // The published count: 1.24 billion with the embedding counted once.
        assert_eq!(config.shape().parameters(), 1_235_814_400);
        let freq = config.inv_freq();
        // From transformers' `_compute_llama3_parameters` on the same figures.
        let known = [(0, 1.0), (8, 0.037_606_03), (16, 0.000_429_540_36), (31, 9.418_307e-8)];
        for (i, value) in known {
            assert!((freq[i] / value - 1.0).abs() < 1e-4, "{i}: {} for {value}", freq[i]);
        }
    }

    #[test]
    fn qwens_have_what_their_configurations_do_not_say() {
        let qwen = |kind: &str, more: &str| {
            read_text(&LLAMA_32_1B.replace("\"llama\",", &format!("\"{kind}\", {more}")))
        };
        let (two, _) = qwen("qwen2", "\"sliding_window\": 4096,").unwrap();
        assert!(two.qkv_bias && !two.qk_norm && two.sliding_window.is_none());
        let (three, _) = qwen("qwen3", "").unwrap();
        assert!(!three.qkv_bias && three.qk_norm);
        let (mistral, _) = qwen("mistral", "\"sliding_window\": 4096,").unwrap();
        assert_eq!(mistral.sliding_window, Some(4096));
        let half =
            "\"use_sliding_window\": true, \"max_window_layers\": 8, \"sliding_window\": 4096,";
        assert_eq!(
            qwen("qwen2", half).unwrap_err(),
            "config.json: unsupported sliding window on some layers only (`max_window_layers`)"
        );
    }

    #[test]
    fn a_generation_config_that_is_there_is_read_or_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("generation_config.json");
        assert!(generation_ends(&path).unwrap().is_empty());
        let read = |text: &str| {
            std::fs::write(&path, text).unwrap();
            generation_ends(&path).map_err(|e| e.to_string())
        };
        assert_eq!(read("{\"eos_token_id\": [3, 5]}"), Ok(vec![3, 5]));
        assert_eq!(read("{\"temperature\": 0.6}"), Ok(Vec::new()));
        for broken in ["", "{", "[]", "{\"eos_token_id\": -1}", "{\"eos_token_id\": \"</s>\"}"] {
            let error = read(broken).unwrap_err();
            assert!(error.contains("generation_config.json: "), "{broken}: {error}");
        }
    }

    #[test]
    fn models_that_cannot_be_run_are_named() {
        let with = |from: &str, to: &str| read_text(&LLAMA_32_1B.replace(from, to)).unwrap_err();
        assert_eq!(
            with("\"llama\",", "\"gemma2\","),
            "config.json: unsupported architecture `gemma2`: expected one of llama, mistral, mixtral, qwen2, qwen3, qwen3_moe"
        );
        for (field, part) in [
            ("\"num_local_experts\": 8,", "a mixture of experts"),
            (
                "\"n_routed_experts\": 8, \"kv_lora_rank\": 512,",
                "a mixture of experts and latent attention",
            ),
            ("\"text_config\": {\"sliding_window\": 1024},", "sliding windows"),
        ] {
            let said = with("\"llama\",", &format!("\"other\", {field}"));
            let known = "expected one of llama, mistral, mixtral, qwen2, qwen3, qwen3_moe";
            let expected =
                format!("config.json: unsupported architecture `other` with {part}: {known}");
            assert_eq!(said, expected);
        }
        assert_eq!(
            with("\"llama3\"", "\"longrope\""),
            "config.json: unsupported rotary scaling `longrope`: expected linear, llama3 or yarn"
        );
        assert_eq!(with("silu", "gelu"), "config.json: unsupported `hidden_act`: only silu");
        assert_eq!(
            with("\"num_attention_heads\": 32", "\"num_attention_heads\": 30"),
            "config.json: heads = 30 must be a multiple of kv_heads = 8"
        );
        for (from, to, why) in [
            ("500000.0", "0", "rope_theta = 0 must be more than 1"),
            ("500000.0", "-10000.0", "rope_theta = -10000 must be more than 1"),
            ("500000.0", "1e39", "rope_theta = inf must be more than 1"),
            ("1e-05", "-1e-05", "rms_norm_eps = -0.00001 must be between 0 and 1"),
            (
                "\"num_attention_heads\": 32",
                "\"num_attention_heads\": 0",
                "heads must be at least 1",
            ),
            ("\"head_dim\": 64", "\"head_dim\": 0", "head_dim must be at least 1"),
            (
                "\"head_dim\": 64, \"hidden_act\": \"silu\", \"hidden_size\": 2048",
                "\"hidden_size\": 2049",
                "hidden_size = 2049 must be a multiple of num_attention_heads = 32",
            ),
            (
                "\"factor\": 32.0",
                "\"factor\": 0.0",
                "the rotary scaling's factor = 0 must be at least 1",
            ),
            (
                "\"high_freq_factor\": 4.0",
                "\"high_freq_factor\": 1.0",
                "low_freq_factor = 1 must be less than high_freq_factor = 1",
            ),
            (
                "\"original_max_position_embeddings\": 8192",
                "\"original_max_position_embeddings\": 0",
                "original_max_position_embeddings = 0 must be at least 1",
            ),
        ] {
            assert_eq!(with(from, to), format!("config.json: {why}"));
        }
        for none in ["NaN", "Infinity", "1e400", "\"1e-5\"", "null"] {
            let error = with("1e-05", none);
            assert!(error.starts_with("config.json: "), "{none}: {error}");
        }
        assert_eq!(with("\"hidden_size\": 2048,", ""), "config.json: missing field `hidden_size`");
        assert!(with("{", "{{").starts_with("config.json: key must be a string at line 1"));
    }
}
