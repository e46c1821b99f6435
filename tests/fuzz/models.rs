//! Small models as files: a Hugging Face folder and GGUF, written from the formats' definitions.

use std::collections::BTreeMap;
use std::path::Path;

use engine::model::llama::LlamaConfig;
use engine::model::random::RandomWeights;
use engine::model::weights::Weights as _;
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use serde_json::{Value, json};

use crate::child::write;

/// One narrow layer over bytes and three control tokens.
fn config() -> LlamaConfig {
    LlamaConfig {
        layers: 1,
        hidden: 32,
        heads: 2,
        kv_heads: 1,
        head_dim: 16,
        ffn: 32,
        vocab: 259,
        max_position: 512,
        ..LlamaConfig::tiny()
    }
}

/// A tensor's name, dimensions and elements.
type Stored = (String, Vec<usize>, Vec<u8>);

fn tensors(config: &LlamaConfig) -> Vec<Stored> {
    let mut source = RandomWeights { config: config.clone(), seed: 5 };
    let mut parts = vec![
        "input_layernorm.weight",
        "post_attention_layernorm.weight",
        "self_attn.q_proj.weight",
        "self_attn.k_proj.weight",
        "self_attn.v_proj.weight",
        "self_attn.o_proj.weight",
        "mlp.gate_proj.weight",
        "mlp.up_proj.weight",
        "mlp.down_proj.weight",
    ];
    if config.qkv_bias {
        parts.extend(["self_attn.q_proj.bias", "self_attn.k_proj.bias", "self_attn.v_proj.bias"]);
    }
    let names = parts.iter().map(|part| format!("model.layers.0.{part}"));
    let whole = ["model.embed_tokens.weight", "model.norm.weight"].map(str::to_owned);
    whole
        .into_iter()
        .chain(names)
        .map(|name| {
            let tensor = source.tensor(&name).expect("a tensor of the model");
            let dims =
                if tensor.rows == 1 { vec![tensor.cols] } else { vec![tensor.rows, tensor.cols] };
            (name, dims, tensor.data.iter().flat_map(|x| x.to_le_bytes()).collect())
        })
        .collect()
}

/// A folder as models are published in.
pub(crate) fn folder(dir: &Path) {
    let c = config();
    let json = json!({
        "model_type": "llama", "hidden_size": c.hidden, "num_hidden_layers": c.layers,
        "num_attention_heads": c.heads, "num_key_value_heads": c.kv_heads, "head_dim": c.head_dim,
        "intermediate_size": c.ffn, "vocab_size": c.vocab, "rms_norm_eps": 1e-5,
        "max_position_embeddings": c.max_position, "rope_theta": 10000.0, "tie_word_embeddings": true,
        "rope_scaling": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 256},
        "hidden_act": "silu", "eos_token_id": [257, 258],
    });
    let text = |name: &str, json: Value| write(&dir.join(name), json.to_string().as_bytes());
    text("config.json", json);
    text("generation_config.json", json!({"eos_token_id": [257], "temperature": 0.7}));
    text("tokenizer.json", tokenizer());
    text(
        "tokenizer_config.json",
        json!({"bos_token": "<s>", "eos_token": {"content": "<|im_end|>"}}),
    );
    let template = "{% for m in messages %}{{ bos_token }}{{ m.role | upper }} {{ m['content'].strip() }}{% endfor %}";
    write(&dir.join("chat_template.jinja"), template.as_bytes());
    let stored = tensors(&c);
    let mut places = BTreeMap::new();
    for (at, half) in stored.chunks(stored.len().div_ceil(2)).enumerate() {
        let file = format!("part-{at}.safetensors");
        places.extend(half.iter().map(|(name, ..)| (name.clone(), file.clone())));
        let views = half.iter().map(|(name, dims, data)| {
            (name, TensorView::new(Dtype::F32, dims.clone(), data).expect("sizes agree"))
        });
        write(&dir.join(&file), &safetensors::serialize(views, None).expect("it can be written"));
    }
    text("model.safetensors.index.json", json!({ "weight_map": places }));
}

/// GPT-2's letters for bytes and some merges.
fn tokenizer() -> Value {
    let vocab: BTreeMap<String, usize> = letters().into_iter().zip(0..).collect();
    let special = |id: u32, content: &str| {
        json!({"id": id, "content": content, "special": true, "single_word": false, "lstrip": false,
            "rstrip": false, "normalized": false})
    };
    let byte_level = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true});
    json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": [special(256, "<s>"), special(257, "<|im_end|>"), special(258, "<|im_start|>")],
        "normalizer": {"type": "NFC"},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": "\\s+|\\d"}, "behavior": "Isolated", "invert": false}, byte_level]},
        "post_processor": {"type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [256], "tokens": ["<s>"]}}},
        "decoder": byte_level,
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "vocab": vocab, "merges": []},
    })
}

fn letters() -> Vec<String> {
    let mut next = 0x100;
    let letter = |byte: u8| {
        if matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff) {
            return char::from(byte).to_string();
        }
        next += 1;
        char::from_u32(next - 1).expect("a letter").to_string()
    };
    (0..=255).map(letter).collect()
}

/// Bytes of a GGUF file under construction.
#[derive(Default)]
struct Writer(Vec<u8>);

impl Writer {
    fn u32(&mut self, n: u32) {
        self.0.extend(n.to_le_bytes());
    }

    fn u64(&mut self, n: u64) {
        self.0.extend(n.to_le_bytes());
    }

    fn text(&mut self, text: &str) {
        self.u64(text.len() as u64);
        self.0.extend(text.as_bytes());
    }

    fn key(&mut self, key: &str, kind: u32) {
        self.text(key);
        self.u32(kind);
    }

    fn count(&mut self, key: &str, n: u32) {
        self.key(key, 4);
        self.u32(n);
    }

    fn list<T>(&mut self, key: &str, kind: u32, items: &[T], put: impl Fn(&mut Self, &T)) {
        self.key(key, 9);
        self.u32(kind);
        self.u64(items.len() as u64);
        items.iter().for_each(|item| put(self, item));
    }
}

/// A GGUF file (version 3) of `architecture` with its tokenizer: GPT-2's for Qwen, SentencePiece's for Llama.
pub(crate) fn gguf(architecture: &str) -> Vec<u8> {
    let gpt2 = architecture == "qwen2";
    // As many rows as there are words below.
    let c = LlamaConfig { qkv_bias: gpt2, vocab: if gpt2 { 261 } else { 259 }, ..config() };
    let tensors = tensors(&c);
    let mut w = Writer::default();
    w.0.extend(b"GGUF");
    w.u32(3);
    w.u64(tensors.len() as u64);
    let counts = [
        ("block_count", c.layers),
        ("context_length", c.max_position),
        ("embedding_length", c.hidden),
        ("feed_forward_length", c.ffn),
        ("attention.head_count", c.heads),
        ("attention.head_count_kv", c.kv_heads),
    ];
    w.u64(counts.len() as u64 + 10);
    w.key("general.architecture", 8);
    w.text(architecture);
    w.count("general.alignment", 32);
    counts.iter().for_each(|(key, n)| w.count(&format!("{architecture}.{key}"), *n));
    w.key(&format!("{architecture}.attention.layer_norm_rms_epsilon"), 6);
    w.u32(1e-5_f32.to_bits());
    let words: Vec<String> = if gpt2 {
        let specials = ["<s>", "<|im_end|>", "<|im_start|>", "ab", "cd"].map(str::to_owned);
        letters().into_iter().chain(specials).collect()
    } else {
        let bytes = (0..=255).map(|b| format!("<0x{b:02X}>"));
        ["<unk>", "<s>", "▁"].map(str::to_owned).into_iter().chain(bytes).collect()
    };
    w.key("tokenizer.ggml.model", 8);
    w.text(if gpt2 { "gpt2" } else { "llama" });
    w.key("tokenizer.ggml.pre", 8);
    w.text(if gpt2 { "qwen2" } else { "default" });
    w.list("tokenizer.ggml.tokens", 8, &words, |w, word| w.text(word));
    w.list("tokenizer.ggml.scores", 6, &words, |w, _| w.u32((-1.0_f32).to_bits()));
    let kind = |word: &String| if word.starts_with("<s") || word.starts_with("<|") { 3 } else { 1 };
    w.list("tokenizer.ggml.token_type", 5, &words, |w, word| w.u32(kind(word)));
    w.list("tokenizer.ggml.merges", 8, &["a b", "c d"][..usize::from(gpt2)], |w, m| w.text(m));
    w.count("tokenizer.ggml.bos_token_id", if gpt2 { 256 } else { 1 });
    let mut offset = 0;
    for (name, dims, data) in &tensors {
        w.text(&gguf_name(name));
        w.u32(dims.len() as u32);
        dims.iter().rev().for_each(|n| w.u64(*n as u64));
        w.u32(0); // f32
        w.u64(offset);
        offset += (data.len() as u64).next_multiple_of(32);
    }
    for (_, _, data) in &tensors {
        let padded = w.0.len().next_multiple_of(32);
        w.0.resize(padded, 0);
        w.0.extend(data);
    }
    w.0
}

fn gguf_name(name: &str) -> String {
    let pairs = [
        ("model.embed_tokens", "token_embd"),
        ("model.norm", "output_norm"),
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
