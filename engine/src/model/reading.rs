//! Tests of the readers: made-up weights are written as each kind of file and read back.

use std::collections::HashMap;
use std::fs::File;
use std::path::{Path, PathBuf};

use candle_core::quantized::gguf_file::{self, Value};
use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{Device, Tensor as CandleTensor};
use half::{bf16, f16};
use proptest::prelude::*;
use safetensors::Dtype;
use safetensors::tensor::TensorView;

use super::gguf::Gguf;
use super::llama::{LlamaConfig, RopeScaling};
use super::open::Model;
use super::random::RandomWeights;
use super::safetensors::Folder;
use super::tokenizer::Tokenizer;
use super::weights::{Tensor, Weights, expected_shape};

/// Wide enough for blocks of 256.
fn config() -> LlamaConfig {
    LlamaConfig {
        name: "sample".to_owned(),
        layers: 2,
        hidden: 256,
        heads: 4,
        head_dim: 64,
        ffn: 512,
        vocab: 300,
        tied_embeddings: false,
        ..LlamaConfig::tiny()
    }
}

/// Every tensor a model of `config` has.
fn names(config: &LlamaConfig) -> Vec<String> {
    let parts = [
        "input_layernorm.weight",
        "post_attention_layernorm.weight",
        "self_attn.q_proj.weight",
        "self_attn.k_proj.weight",
        "self_attn.v_proj.weight",
        "self_attn.o_proj.weight",
        "self_attn.q_proj.bias",
        "self_attn.k_proj.bias",
        "self_attn.v_proj.bias",
        "self_attn.q_norm.weight",
        "self_attn.k_norm.weight",
        "mlp.gate_proj.weight",
        "mlp.up_proj.weight",
        "mlp.down_proj.weight",
    ];
    let layers = 0..config.layers;
    let layered = layers.flat_map(|l| parts.map(|part| format!("model.layers.{l}.{part}")));
    let whole = ["model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"];
    let all = whole.map(str::to_owned).into_iter().chain(layered);
    all.filter(|name| expected_shape(config, name).is_some()).collect()
}

fn dims(tensor: &Tensor) -> Vec<usize> {
    if tensor.rows == 1 { vec![tensor.cols] } else { vec![tensor.rows, tensor.cols] }
}

/// The folder of such a model, its weights in as many files, stored as `dtype`.
fn write_folder(dir: &Path, weights: &mut RandomWeights, files: usize, dtype: Dtype) {
    let c = weights.config.clone();
    let kind = match (c.qkv_bias, c.qk_norm) {
        (true, _) => "qwen2",
        (_, true) => "qwen3",
        _ => "llama",
    };
    let json = serde_json::json!({
        "model_type": kind, "hidden_size": c.hidden, "num_hidden_layers": c.layers,
        "num_attention_heads": c.heads, "num_key_value_heads": c.kv_heads, "head_dim": c.head_dim,
        "intermediate_size": c.ffn, "vocab_size": c.vocab, "rms_norm_eps": c.rms_eps,
        "max_position_embeddings": c.max_position, "rope_theta": c.rope_theta,
        "tie_word_embeddings": c.tied_embeddings, "eos_token_id": 2,
    });
    std::fs::write(dir.join("config.json"), json.to_string()).unwrap();
    std::fs::write(dir.join("generation_config.json"), r#"{"eos_token_id": [2, 7]}"#).unwrap();
    let bytes = |x: &f32| match dtype {
        Dtype::BF16 => bf16::from_f32(*x).to_le_bytes().to_vec(),
        Dtype::F16 => f16::from_f32(*x).to_le_bytes().to_vec(),
        _ => x.to_le_bytes().to_vec(),
    };
    let mut map = HashMap::new();
    type Stored = (String, Vec<usize>, Vec<u8>);
    let mut shards: Vec<Vec<Stored>> = vec![Vec::new(); files];
    for (at, name) in names(&c).into_iter().enumerate() {
        let tensor = weights.tensor(&name).unwrap();
        map.insert(name.clone(), format!("part-{}.safetensors", at % files));
        let data = tensor.data.iter().flat_map(bytes).collect();
        shards[at % files].push((name, dims(&tensor), data));
    }
    for (at, shard) in shards.iter().enumerate() {
        let views = shard.iter().map(|(name, dims, data)| {
            (name.as_str(), TensorView::new(dtype, dims.clone(), data).unwrap())
        });
        let file = if files == 1 { "model".to_owned() } else { format!("part-{at}") };
        let path = dir.join(file + ".safetensors");
        safetensors::serialize_to_file(views, None, &path).unwrap();
    }
    if files > 1 {
        let index = serde_json::json!({ "weight_map": map });
        std::fs::write(dir.join("model.safetensors.index.json"), index.to_string()).unwrap();
    }
}

#[test]
fn a_folder_gives_back_what_was_written() {
    let cases = [
        (Dtype::F32, 1, LlamaConfig { tied_embeddings: true, ..config() }),
        (Dtype::BF16, 3, LlamaConfig { qkv_bias: true, ..config() }),
        (Dtype::F16, 2, LlamaConfig { qk_norm: true, ..config() }),
    ];
    for (dtype, files, config) in cases {
        let dir = tempfile::tempdir().unwrap();
        let mut source = RandomWeights { config: config.clone(), seed: 5 };
        write_folder(dir.path(), &mut source, files, dtype);
        let mut folder = Folder::open(dir.path()).unwrap();
        assert_eq!(folder.ends(), [2, 7]);
        let named = LlamaConfig { name: folder.config().name.clone(), ..config.clone() };
        assert_eq!(*folder.config(), named);
        for name in names(&config) {
            let mut expected = source.tensor(&name).unwrap();
            for x in &mut expected.data {
                *x = match dtype {
                    Dtype::BF16 => bf16::from_f32(*x).to_f32(),
                    Dtype::F16 => f16::from_f32(*x).to_f32(),
                    _ => *x,
                };
            }
            assert!(folder.tensor(&name).unwrap() == expected, "{name} as {dtype:?}");
        }
    }
}

#[test]
fn tokens_without_a_row_are_refused() {
    let opened = |vocab: u32, ends: &str| {
        let dir = tempfile::tempdir().unwrap();
        let config = LlamaConfig { vocab, ..config() };
        write_folder(dir.path(), &mut RandomWeights { config, seed: 5 }, 1, Dtype::F32);
        let tokenizer = Tokenizer::bytes().to_json();
        std::fs::write(dir.path().join("tokenizer.json"), tokenizer).unwrap();
        std::fs::write(dir.path().join("generation_config.json"), ends).unwrap();
        let name = dir.path().display().to_string();
        let opened = Model::open(&name, None).map(|model| model.ends);
        opened.map_err(|e| e.to_string().replace(&format!("{name}: "), "").replace(&name, ""))
    };
    assert_eq!(opened(256, r#"{"eos_token_id": 7}"#), Ok(vec![2, 7]), "control tokens may lack");
    assert_eq!(
        opened(255, "{}").unwrap_err(),
        "its tokenizer makes 256 tokens, but its weights have 255"
    );
    let foreign = opened(256, r#"{"eos_token_id": 256}"#).unwrap_err();
    assert_eq!(foreign, "token 256 ends its output, but its weights have 256 tokens");
    let broken = opened(256, "{").unwrap_err();
    assert!(broken.starts_with("/generation_config.json: EOF while parsing"), "{broken}");
}

/// The effect of llama.cpp's converter on the rows of queries and keys, written from its definition: within a head, the
/// two halves are laced together.
fn laced(tensor: &Tensor, head_dim: usize) -> Vec<f32> {
    let width = if tensor.rows == 1 { 1 } else { tensor.cols };
    let rows = tensor.data.len() / width;
    let mut out = vec![0.0; tensor.data.len()];
    for row in 0..rows {
        let (head, within) = (row / head_dim, row % head_dim);
        let (side, pair) = (within / (head_dim / 2), within % (head_dim / 2));
        let to = head * head_dim + 2 * pair + side;
        out[to * width..][..width].copy_from_slice(&tensor.data[row * width..][..width]);
    }
    out
}

fn gguf_name(name: &str) -> String {
    let pairs = [
        ("model.embed_tokens", "token_embd"),
        ("model.norm", "output_norm"),
        ("lm_head", "output"),
        ("model.layers", "blk"),
        ("input_layernorm", "attn_norm"),
        ("post_attention_layernorm", "ffn_norm"),
        ("self_attn.o_proj", "attn_output"),
        ("self_attn.", "attn_"),
        ("mlp.", "ffn_"),
        ("_proj", ""),
    ];
    pairs.iter().fold(name.to_owned(), |name, (from, to)| name.replace(from, to))
}

/// A GGUF file of such a model with matrices stored as `dtype`.
fn write_gguf(
    path: &Path,
    weights: &mut RandomWeights,
    dtype: GgmlDType,
    more: &[(&str, Vec<f32>)],
) {
    let c = weights.config.clone();
    let kind = match (c.qkv_bias, c.qk_norm) {
        (true, _) => "qwen2",
        (_, true) => "qwen3",
        _ => "llama",
    };
    let key = |name: &str| format!("{kind}.{name}");
    let meta = [
        ("general.architecture".to_owned(), Value::String(kind.to_owned())),
        ("general.name".to_owned(), Value::String(c.name.clone())),
        (key("block_count"), Value::U32(c.layers)),
        (key("context_length"), Value::U32(c.max_position)),
        (key("embedding_length"), Value::U32(c.hidden)),
        (key("feed_forward_length"), Value::U32(c.ffn)),
        (key("attention.head_count"), Value::U32(c.heads)),
        (key("attention.head_count_kv"), Value::U32(c.kv_heads)),
        (key("attention.layer_norm_rms_epsilon"), Value::F32(c.rms_eps)),
        (key("rope.freq_base"), Value::F32(c.rope_theta)),
    ];
    let mut tensors = Vec::new();
    for name in names(&c) {
        let tensor = weights.tensor(&name).unwrap();
        let rotated = name.contains(".q_proj.") || name.contains(".k_proj.");
        let data = if kind == "llama" && rotated {
            laced(&tensor, c.head_dim as usize)
        } else {
            tensor.data.clone()
        };
        let stored = if tensor.rows == 1 { GgmlDType::F32 } else { dtype };
        let tensor = CandleTensor::from_vec(data, dims(&tensor), &Device::Cpu).unwrap();
        tensors.push((gguf_name(&name), QTensor::quantize(&tensor, stored).unwrap()));
    }
    for (name, data) in more {
        let tensor = CandleTensor::new(data.as_slice(), &Device::Cpu).unwrap();
        tensors.push(((*name).to_owned(), QTensor::quantize(&tensor, GgmlDType::F32).unwrap()));
    }
    let meta: Vec<(&str, &Value)> = meta.iter().map(|(k, v)| (k.as_str(), v)).collect();
    let tensors: Vec<(&str, &QTensor)> = tensors.iter().map(|(n, t)| (n.as_str(), t)).collect();
    gguf_file::write(&mut File::create(path).unwrap(), &meta, &tensors).unwrap();
}

fn scratch() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.gguf");
    (dir, path)
}

#[test]
fn a_gguf_file_gives_back_what_was_written() {
    let kinds = [
        config(),
        LlamaConfig { tied_embeddings: true, ..config() },
        LlamaConfig { qkv_bias: true, ..config() },
        LlamaConfig { qk_norm: true, ..config() },
    ];
    for config in kinds {
        let (_dir, path) = scratch();
        let mut source = RandomWeights { config: config.clone(), seed: 5 };
        write_gguf(&path, &mut source, GgmlDType::F32, &[]);
        let mut gguf = Gguf::open(&path).unwrap();
        assert_eq!(*gguf.config(), config);
        for name in names(&config) {
            assert!(gguf.tensor(&name).unwrap() == source.tensor(&name).unwrap(), "{name}");
        }
        let error = gguf.tensor("model.layers.2.mlp.up_proj.weight").unwrap_err().to_string();
        assert_eq!(error, "sample has no tensor `model.layers.2.mlp.up_proj.weight`");
    }
}

#[test]
fn every_block_format_is_close_to_what_was_written() {
    use GgmlDType::{BF16, F16, Q4_0, Q4_1, Q4K, Q6K, Q8_0};
    // Root mean square error relative to the weights', about what the bits allow.
    let formats = [
        (F16, 0.001),
        (BF16, 0.005),
        (Q8_0, 0.01),
        (Q6K, 0.03),
        (Q4K, 0.1),
        (Q4_1, 0.1),
        (Q4_0, 0.12),
    ];
    for (dtype, most) in formats {
        let (_dir, path) = scratch();
        let mut source = RandomWeights { config: config(), seed: 5 };
        write_gguf(&path, &mut source, dtype, &[]);
        let mut gguf = Gguf::open(&path).unwrap();
        for name in ["model.layers.1.self_attn.q_proj.weight", "model.embed_tokens.weight"] {
            let (got, want) = (gguf.tensor(name).unwrap(), source.tensor(name).unwrap());
            let squares = |x: &mut dyn Iterator<Item = f32>| x.map(|x| x * x).sum::<f32>();
            let off = squares(&mut got.data.iter().zip(&want.data).map(|(a, b)| a - b));
            let error = (off / squares(&mut want.data.iter().copied())).sqrt();
            assert!(error > 0.0 && error < most, "{name} as {dtype:?}: {error}");
        }
    }
}

#[test]
fn rotary_factors_of_a_gguf_file_are_those_of_llama_3() {
    let scaling = RopeScaling::Llama3 {
        factor: 8.0,
        low_freq_factor: 1.0,
        high_freq_factor: 4.0,
        original_max_position: 8192,
    };
    let plain = LlamaConfig { rope_theta: 500_000.0, ..config() };
    let scaled = LlamaConfig { rope_scaling: scaling, ..plain.clone() };
    let factors: Vec<f32> =
        plain.inv_freq().iter().zip(scaled.inv_freq()).map(|(a, b)| a / b).collect();
    let open = |factors: Vec<f32>| {
        let (_dir, path) = scratch();
        let mut source = RandomWeights { config: plain.clone(), seed: 5 };
        write_gguf(&path, &mut source, GgmlDType::F32, &[("rope_freqs.weight", factors)]);
        Gguf::open(&path).map(|g| g.config().clone()).map_err(|e| e.to_string())
    };
    assert_eq!(open(factors.clone()).unwrap(), scaled);
    let mut other = factors;
    other[3] *= 2.0;
    let error = open(other).unwrap_err();
    assert!(error.contains("unsupported rotary factors (`rope_freqs.weight`)"), "{error}");
}

#[test]
fn a_tensor_without_a_place_is_named() {
    let (_dir, path) = scratch();
    let mut source = RandomWeights { config: config(), seed: 5 };
    write_gguf(&path, &mut source, GgmlDType::F32, &[("blk.0.attn_sinks.weight", vec![0.0; 4])]);
    let error = Gguf::open(&path).err().unwrap().to_string();
    assert_eq!(error, format!("{}: unsupported tensor `blk.0.attn_sinks.weight`", path.display()));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// A file cut short or with a byte changed is read or refused; nothing panics.
    #[test]
    fn damaged_files_are_refused_or_read(cut in any::<prop::sample::Index>(), at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let dir = tempfile::tempdir().unwrap();
        let mut source = RandomWeights { config: LlamaConfig { layers: 1, ..LlamaConfig::tiny() }, seed: 5 };
        write_folder(dir.path(), &mut source, 1, Dtype::F32);
        let gguf = dir.path().join("m.gguf");
        write_gguf(&gguf, &mut source, GgmlDType::F32, &[]);
        for path in [dir.path().join("model.safetensors"), gguf.clone()] {
            let whole = std::fs::read(&path).unwrap();
            // Headers are at the front: most of the damage belongs there.
            let reach = whole.len().min(4000);
            let mut damaged = whole.clone();
            damaged[at.index(reach)] = byte;
            for bytes in [&whole[..cut.index(reach)], &damaged] {
                std::fs::write(&path, bytes).unwrap();
                let read = |w: &mut dyn Weights| {
                    names(&w.config().clone()).iter().try_for_each(|name| w.tensor(name).map(drop))
                };
                let result = if path == gguf {
                    Gguf::open(&path).and_then(|mut w| read(&mut w))
                } else {
                    Folder::open(dir.path()).and_then(|mut w| read(&mut w))
                };
                if bytes.len() < whole.len() {
                    prop_assert!(result.is_err());
                }
            }
        }
    }
}
