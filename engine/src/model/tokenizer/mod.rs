//! Text to tokens and back.
//!
//! Encoding is the `tokenizers` crate's, from a `tokenizer.json` or from one rebuilt out of what a GGUF file says.
//! Decoding is a table of bytes per token, so that text can be given out token by token ([`stream`]): the families that
//! can be run all spell bytes, either by GPT-2's letters or by SentencePiece's `<0xNN>`.

mod rebuild;
pub mod stream;

use std::collections::HashMap;
use std::path::Path;

use serde_json::{Value, json};

use super::gguf::Gguf;
use super::weights::ModelError;
use crate::contained::contained;
use crate::files;
use crate::request::Token;

/// See the module.
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    /// All tokens' bytes, one after the other.
    bytes: Vec<u8>,
    /// The start of each; one entry more than there are tokens.
    starts: Vec<u32>,
    special: Vec<bool>,
    /// Bytes of the longest.
    longest: usize,
}

/// Bytes of a text that are tokenised at a time only to count them.
const PIECE: usize = 64 << 10;
/// By how many tokens a text may be shorter than its pieces, for each cut: far more than a cut through a word makes.
const CUT: usize = 64;
/// No tokenizer's longest token is taken to be shorter than this, bytes.
const SHORTEST: usize = 16;

/// The spelling of bytes in a vocabulary.
enum Spelling {
    /// A letter stands for each byte (GPT-2).
    Letters(HashMap<char, u8>),
    /// `▁` is a space and `<0xNN>` a byte (SentencePiece with byte fallback).
    Pieces,
}

impl Tokenizer {
    /// 256 bytes, then `<|im_start|>` and `<|im_end|>`: what the built-in model reads and writes.
    #[must_use]
    pub fn bytes() -> Self {
        let vocab = byte_letters().into_iter().map(|(letter, byte)| (letter.to_string(), byte));
        let vocab: HashMap<String, u8> = vocab.collect();
        let special = |id: u32, content: &str| rebuild::added_token(id, content, true);
        let json = json!({
            "version": "1.0",
            "added_tokens": [special(256, "<|im_start|>"), special(257, "<|im_end|>")],
            "pre_tokenizer": rebuild::byte_level(false),
            "decoder": rebuild::byte_level(false),
            "model": { "type": "BPE", "vocab": vocab, "merges": [] },
        });
        Self::from_json(Path::new("tiny"), &json.to_string()).expect("the built-in one is sound")
    }

    /// Reads a `tokenizer.json`.
    ///
    /// # Errors
    /// When it is missing, broken or of a kind that cannot be decoded byte by byte.
    pub fn open(path: &Path) -> Result<Self, ModelError> {
        let text = files::read_text(path, LONGEST).map_err(|e| ModelError::read(path, e))?;
        Self::from_json(path, &text)
    }

    /// The same as a `tokenizer.json`.
    #[cfg(test)]
    pub(super) fn to_json(&self) -> String {
        self.inner.to_string(false).expect("what was read can be written")
    }

    /// The tokenizer inside a GGUF file.
    ///
    /// # Errors
    /// When its metadata is incomplete or of a kind that is not known.
    pub fn of_gguf(gguf: &Gguf) -> Result<Self, ModelError> {
        let meta = gguf.meta();
        Self::from_json(meta.path, &rebuild::json(meta)?.to_string())
    }

    fn from_json(path: &Path, text: &str) -> Result<Self, ModelError> {
        let broken =
            |e: &dyn std::fmt::Display| ModelError::broken(path, format!("not a tokenizer: {e}"));
        // The crate panics on text that is no JSON and on identities at the end of their type.
        let json = serde_json::from_str(text).map_err(|e| broken(&e))?;
        check_ids(&json).map_err(|e| broken(&e))?;
        drop(json);
        let inner = contained(|| tokenizers::Tokenizer::from_bytes(text));
        let mut inner = inner.ok_or_else(|| broken(&CONTRADICTS))?.map_err(|e| broken(&e))?;
        // Settings for training are dropped: a prompt is neither cut nor filled up.
        inner.with_padding(None);
        inner.with_truncation(None).map_err(|e| broken(&e))?;
        // A reference to a token that is not there shows in any text.
        contained(|| inner.encode_fast(" a", true).is_ok()).ok_or_else(|| broken(&CONTRADICTS))?;
        let spelling = spelling(&inner).ok_or_else(|| {
            ModelError::unsupported(path, "tokenizer: its decoder spells no bytes")
        })?;
        let vocab = inner.get_vocab(true);
        let count = vocab.values().max().map_or(0, |id| *id as usize + 1);
        let mut words = vec![""; count];
        for (word, id) in &vocab {
            words[*id as usize] = word;
        }
        let added = inner.get_added_tokens_decoder();
        let mut special = vec![false; count];
        let (mut bytes, mut starts) = (Vec::new(), vec![0]);
        for (id, word) in words.iter().enumerate() {
            match added.get(&(id as u32)) {
                Some(token) => {
                    special[id] = token.special;
                    bytes.extend(word.as_bytes());
                }
                None => spelling.spell(word, &mut bytes),
            }
            starts.push(bytes.len() as u32);
        }
        let longest = starts.windows(2).map(|at| (at[1] - at[0]) as usize).max().unwrap_or(0);
        Ok(Self { inner, bytes, starts, special, longest: longest.max(SHORTEST) })
    }

    /// The tokens of `text`; with `specials`, those that the model wants before and after any text too. Control tokens
    /// written out in `text` are recognised.
    ///
    /// # Errors
    /// When the tokenizer cannot represent it.
    pub fn encode(&self, text: &str, specials: bool) -> Result<Vec<Token>, ModelError> {
        let refused =
            |why: &dyn std::fmt::Display| ModelError::Text(format!("cannot tokenise: {why}"));
        let encoding = contained(|| self.inner.encode_fast(text, specials));
        let encoding = encoding.ok_or_else(|| refused(&CONTRADICTS))?.map_err(|e| refused(&e))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// The same for a text that may be far too long; none when it has certainly more than `most` tokens. That is
    /// found by a count of its pieces, because tokens take two hundred times the memory of their text while they are
    /// made.
    ///
    /// # Errors
    /// When the tokenizer cannot represent it.
    pub fn encode_up_to(
        &self,
        text: &str,
        specials: bool,
        most: u32,
    ) -> Result<Option<Vec<Token>>, ModelError> {
        let (mut rest, mut tokens) = (text, 0);
        // A token is a byte at least: a rest with no more bytes than are wanted needs no count.
        while text.len() > PIECE.max(most as usize) && !rest.is_empty() {
            let (piece, after) = rest.split_at(rest.floor_char_boundary(PIECE.min(rest.len())));
            rest = after;
            tokens += self.encode(piece, false)?.len().saturating_sub(CUT);
            if tokens > most as usize {
                return Ok(None);
            }
        }
        self.encode(text, specials).map(Some)
    }

    /// True where a text of so many bytes could be `most` tokens or fewer.
    #[must_use]
    pub fn could_be(&self, bytes: usize, most: u32) -> bool {
        bytes <= self.most_bytes(most)
    }

    /// The longest text that so many tokens can be, bytes.
    #[must_use]
    pub fn most_bytes(&self, tokens: u32) -> usize {
        self.longest.saturating_mul(tokens as usize)
    }

    /// The bytes that `token` stands for: not always whole characters; none for an unknown one.
    #[must_use]
    pub fn piece(&self, token: Token) -> &[u8] {
        let at = token as usize;
        match (self.starts.get(at), self.starts.get(at + 1)) {
            (Some(&from), Some(&to)) => &self.bytes[from as usize..to as usize],
            _ => &[],
        }
    }

    /// True where `token` is a control token, which is not shown.
    #[must_use]
    pub fn is_special(&self, token: Token) -> bool {
        self.special.get(token as usize).copied().unwrap_or(false)
    }

    /// The control or ordinary token spelt `word`.
    #[must_use]
    pub fn token(&self, word: &str) -> Option<Token> {
        self.inner.token_to_id(word)
    }

    /// The spelling of `token`.
    #[must_use]
    pub fn word(&self, token: Token) -> Option<String> {
        self.inner.id_to_token(token)
    }

    /// Tokens, the highest one plus one.
    #[must_use]
    pub fn vocab(&self) -> u32 {
        self.special.len() as u32
    }

    /// The same of those that ordinary text may become. Files name control tokens that their model never learnt.
    #[must_use]
    pub fn words(&self) -> u32 {
        self.special.iter().rposition(|special| !special).map_or(0, |last| last as u32 + 1)
    }
}

impl Spelling {
    /// Appends the bytes that the vocabulary's `word` stands for.
    fn spell(&self, word: &str, bytes: &mut Vec<u8>) {
        match self {
            Self::Letters(letters) => {
                let start = bytes.len();
                for letter in word.chars() {
                    let Some(byte) = letters.get(&letter) else {
                        // Not spelt that way at all, then it stands for itself.
                        bytes.truncate(start);
                        bytes.extend(word.as_bytes());
                        return;
                    };
                    bytes.push(*byte);
                }
            }
            Self::Pieces => {
                let hex = word.strip_prefix("<0x").and_then(|w| w.strip_suffix('>'));
                match hex.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
                    Some(byte) => bytes.push(byte),
                    None => bytes.extend(word.replace('▁', " ").as_bytes()),
                }
            }
        }
    }
}

/// The reason given for a file at which the crate panics.
const CONTRADICTS: &str = "it contradicts itself";

/// Bytes of a `tokenizer.json`: ten times the longest in use.
const LONGEST: u64 = 256 << 20;

/// Highest identity of a token: tables are as long as that.
const MOST_IDS: u64 = 1 << 24;

/// Refuses identities that no vocabulary reaches, wherever they are stated.
fn check_ids(json: &Value) -> Result<(), String> {
    fn words(value: &Value) -> impl Iterator<Item = &Value> {
        value.as_object().into_iter().flat_map(|all| all.values())
    }
    fn list(value: &Value) -> impl Iterator<Item = &Value> {
        value.as_array().into_iter().flatten()
    }
    let vocab = words(&json["model"]["vocab"]);
    let added = list(&json["added_tokens"]).map(|token| &token["id"]);
    let specials = words(&json["post_processor"]["special_tokens"]).flat_map(|s| list(&s["ids"]));
    let mut ids = vocab.chain(added).chain(specials).filter_map(Value::as_u64);
    match ids.find(|id| *id >= MOST_IDS) {
        Some(id) => Err(format!("a token of identity {id}: they end below {MOST_IDS}")),
        None => Ok(()),
    }
}

/// The spelling of bytes in the vocabulary of `tokenizer`, by its decoder.
fn spelling(tokenizer: &tokenizers::Tokenizer) -> Option<Spelling> {
    let decoder = serde_json::to_value(tokenizer.get_decoder()?).ok()?;
    let steps = decoder["decoders"].as_array().cloned().unwrap_or_else(|| vec![decoder]);
    let has = |kind: &str| steps.iter().any(|step| step["type"] == kind);
    if has("ByteLevel") {
        Some(Spelling::Letters(byte_letters().into_iter().collect()))
    } else {
        has("ByteFallback").then_some(Spelling::Pieces)
    }
}

/// GPT-2's letter for each byte: printable ones stand for themselves, the rest are counted up from U+0100.
fn byte_letters() -> Vec<(char, u8)> {
    let mut next = 0x100;
    let letter = |byte: u8| {
        if matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff) {
            return (char::from(byte), byte);
        }
        next += 1;
        (char::from_u32(next - 1).expect("a letter of Latin Extended"), byte)
    };
    (0..=255).map(letter).collect()
}

#[cfg(test)]
mod tests;
