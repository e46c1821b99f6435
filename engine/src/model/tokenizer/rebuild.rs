//! A `tokenizer.json` rebuilt from a GGUF file's metadata, which keeps the vocabulary and the merges but only names how
//! text is split beforehand.

use std::collections::HashMap;

use candle_core::quantized::gguf_file::Value;
use serde_json::json;

use crate::model::gguf::Meta;
use crate::model::gguf_header::LONGEST_WORD;
use crate::model::weights::ModelError;

/// Llama 3's rule for splitting text: words with at most one mark before them, up to three digits, punctuation, white
/// space.
const LLAMA_3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// Qwen 2 and 3: the same with single digits.
const QWEN_2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// Kinds of tokens in `tokenizer.ggml.token_type`.
const CONTROL: u32 = 3;
const USER_DEFINED: u32 = 4;

/// The tokenizer that `meta` describes, in the form of the `tokenizers` crate.
pub(super) fn json(meta: Meta<'_>) -> Result<serde_json::Value, ModelError> {
    let words = texts(meta, "tokenizer.ggml.tokens")?;
    if let Some(id) = words.iter().position(|word| word.len() > LONGEST_WORD) {
        let length = words[id].len();
        let what = format!("token {id} of {length} bytes: at most {LONGEST_WORD}");
        return Err(ModelError::unsupported(meta.path, what));
    }
    let model = meta.text("tokenizer.ggml.model")?;
    let pre = meta.text("tokenizer.ggml.pre").unwrap_or("default");
    let (mut json, begins) = match model {
        "gpt2" => (letters(meta, &words, pre)?, pre == "llama-bpe"),
        "llama" => (pieces(meta, &words)?, true),
        other => {
            let what = format!("tokenizer `{other}`: expected gpt2 or llama");
            return Err(ModelError::unsupported(meta.path, what));
        }
    };
    json["version"] = "1.0".into();
    json["added_tokens"] = added(meta, &words).into();
    let first = meta.count("tokenizer.ggml.bos_token_id");
    if let Some(first) =
        first.filter(|_| meta.flag("tokenizer.ggml.add_bos_token").unwrap_or(begins))
    {
        let word = words.get(first as usize).copied().unwrap_or_default();
        let (special, text) = (
            json!({"SpecialToken": {"id": word, "type_id": 0}}),
            |id| json!({"Sequence": {"id": id, "type_id": 0}}),
        );
        json["post_processor"] = json!({
            "type": "TemplateProcessing",
            "single": [special, text("A")],
            "pair": [special, text("A"), text("B")],
            "special_tokens": { word: { "id": word, "ids": [first], "tokens": [word] } },
        });
    }
    Ok(json)
}

/// GPT-2's byte-level merges, behind the splitting rule called `pre`.
fn letters(meta: Meta<'_>, words: &[&str], pre: &str) -> Result<serde_json::Value, ModelError> {
    let split = |pattern: &str| {
        let rule = json!({"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false});
        json!({"type": "Sequence", "pretokenizers": [rule, byte_level(false)]})
    };
    let digits = json!({"type": "Digits", "individual_digits": true});
    let (pre_tokenizer, normalizer) = match pre {
        "default" | "gpt-2" | "gpt2" => (byte_level(true), json!(null)),
        "smollm" => {
            (json!({"type": "Sequence", "pretokenizers": [digits, byte_level(true)]}), json!(null))
        }
        "llama-bpe" | "llama3" | "llama-v3" => (split(LLAMA_3), json!(null)),
        "qwen2" => (split(QWEN_2), json!({"type": "NFC"})),
        other => {
            let what = format!(
                "pre-tokeniser `{other}`: expected default, gpt-2, smollm, llama-bpe or qwen2"
            );
            return Err(ModelError::unsupported(meta.path, what));
        }
    };
    let merges = texts(meta, "tokenizer.ggml.merges")?;
    Ok(json!({
        "normalizer": normalizer,
        "pre_tokenizer": pre_tokenizer,
        "decoder": byte_level(false),
        "model": {
            "type": "BPE",
            "vocab": vocabulary(words),
            "merges": merges,
            // A word of the vocabulary as it stands is not put together from its parts.
            "ignore_merges": pre.starts_with("llama"),
        },
    }))
}

/// SentencePiece's pieces (Llama 2, Mistral): the pair that makes the piece of the highest score is merged first.
fn pieces(meta: Meta<'_>, words: &[&str]) -> Result<serde_json::Value, ModelError> {
    let scores = meta.list("tokenizer.ggml.scores")?;
    let ids = vocabulary(words);
    let mut merges = Vec::new();
    for (word, score) in words.iter().zip(scores) {
        let score = score.to_f32().unwrap_or(f32::MIN);
        for (at, _) in word.char_indices().skip(1) {
            let (left, right) = word.split_at(at);
            if let (Some(&l), Some(&r)) = (ids.get(left), ids.get(right)) {
                merges.push((score, l, r, left, right));
            }
        }
    }
    merges.sort_by(|a, b| b.0.total_cmp(&a.0).then((a.1, a.2).cmp(&(b.1, b.2))));
    let merges: Vec<[&str; 2]> = merges.iter().map(|m| [m.3, m.4]).collect();
    let unknown = meta.count("tokenizer.ggml.unknown_token_id").unwrap_or(0) as usize;
    let spaces = json!({"type": "Replace", "pattern": {"String": " "}, "content": "▁"});
    let prefix = json!({"type": "Prepend", "prepend": "▁"});
    let leading = meta.flag("tokenizer.ggml.add_space_prefix").unwrap_or(true);
    let normalizers = if leading { vec![prefix, spaces] } else { vec![spaces] };
    Ok(json!({
        "normalizer": {"type": "Sequence", "normalizers": normalizers},
        "decoder": {"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
            {"type": "ByteFallback"},
            {"type": "Fuse"},
        ]},
        "model": {
            "type": "BPE",
            "vocab": ids,
            "merges": merges,
            "unk_token": words.get(unknown),
            "fuse_unk": true,
            "byte_fallback": true,
        },
    }))
}

/// GPT-2's letters for bytes; with `split`, after its own splitting of words.
pub(super) fn byte_level(split: bool) -> serde_json::Value {
    json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": split})
}

/// A token that is recognised before text is split.
pub(super) fn added_token(id: u32, content: &str, special: bool) -> serde_json::Value {
    json!({"id": id, "content": content, "special": special, "single_word": false, "lstrip": false,
        "rstrip": false, "normalized": false})
}

fn added(meta: Meta<'_>, words: &[&str]) -> Vec<serde_json::Value> {
    let kinds = meta.list("tokenizer.ggml.token_type").unwrap_or(&[]);
    let kind = |value: &Value| match value {
        Value::I32(n) => *n as u32,
        other => other.to_u64().unwrap_or(0) as u32,
    };
    let kinds = kinds.iter().map(kind).zip(words).enumerate();
    let added = kinds.filter(|(_, (kind, _))| matches!(*kind, CONTROL | USER_DEFINED));
    added.map(|(id, (kind, word))| added_token(id as u32, word, kind == CONTROL)).collect()
}

fn vocabulary<'a>(words: &[&'a str]) -> HashMap<&'a str, usize> {
    // Of a word that is there twice, the first counts.
    words.iter().enumerate().rev().map(|(id, word)| (*word, id)).collect()
}

fn texts<'a>(meta: Meta<'a>, key: &str) -> Result<Vec<&'a str>, ModelError> {
    let text = |value: &'a Value| {
        let text = value.to_string().map(String::as_str);
        text.map_err(|_| ModelError::broken(meta.path, format!("`{key}` is not a list of texts")))
    };
    meta.list(key)?.iter().map(text).collect()
}
