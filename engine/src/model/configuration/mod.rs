//! A Hugging Face `config.json` as a [`ModelShape`]: the fields of every publisher that cost time or memory.
//!
//! Configurations are read by their fields, not by a list of models: what each field means is the same in most of them.
//! `parts` says which attention and feed-forward the fields stand for, `order` which layer has which, and
//! `quantization` in which number formats. A kind that is not known is refused by its name.

mod defaults;
mod fields;
mod order;
mod parts;
mod patterns;
mod quantization;

use std::borrow::Cow;
use std::path::Path;

use serde_json::Value;

use super::layers::{Layer, Layers};
use super::{ModelShape, SpecError};
use crate::files::{LONGEST_SETTINGS, read_text};
use fields::Fields;
use parts::Parts;
use quantization::Quantization;

/// The file of a model that says its shape.
pub const CONFIG: &str = "config.json";
/// The file beside it in which ModelOpt says number formats.
pub const FORMATS: &str = "hf_quant_config.json";

impl ModelShape {
    /// The shape that the `config.json` at `path` tells, with the number formats of the file beside it.
    ///
    /// # Errors
    /// When it cannot be read, or has layers of a kind that is not known.
    pub fn of_config(path: &Path, name: &str) -> Result<Self, SpecError> {
        let shown = path.display().to_string();
        let config = json(path, &shown)?;
        let beside = path.with_file_name(FORMATS);
        let beside = if beside.is_file() { Some(json(&beside, &shown)?) } else { None };
        let impossible =
            |reason| SpecError::Impossible { what: "model", name: shown.clone(), reason };
        let shape = of_value(&config, beside.as_ref(), name).map_err(impossible)?;
        match shape.fault() {
            Some(reason) => Err(impossible(reason)),
            None => Ok(shape),
        }
    }
}

fn json(path: &Path, shown: &str) -> Result<Value, SpecError> {
    let text = read_text(path, LONGEST_SETTINGS).map_err(|source| SpecError::Read {
        what: "model",
        path: shown.to_owned(),
        source,
    })?;
    serde_json::from_str(&finite(&text)).map_err(|e| SpecError::Parse {
        what: "model configuration",
        path: path.display().to_string(),
        line: e.line(),
        reason: e.to_string(),
    })
}

/// JSON as Python writes it, with numbers that are none as null: `Infinity`, `-Infinity`, `NaN`.
fn finite(text: &str) -> Cow<'_, str> {
    let odd = ["-Infinity", "Infinity", "NaN"];
    if !odd[1..].iter().any(|word| text.contains(word)) {
        return Cow::Borrowed(text);
    }
    let (mut out, mut rest, mut quoted) = (String::with_capacity(text.len()), text, false);
    while let Some(c) = rest.chars().next() {
        let word = odd.iter().find(|word| !quoted && rest.starts_with(**word));
        let length = match (word, c) {
            (Some(word), _) => {
                out.push_str("null");
                rest = &rest[word.len()..];
                continue;
            }
            // An escaped character ends no string.
            (None, '\\') if quoted => 1 + rest[1..].chars().next().map_or(0, char::len_utf8),
            (None, c) => c.len_utf8(),
        };
        quoted ^= c == '"';
        out.push_str(&rest[..length]);
        rest = &rest[length..];
    }
    Cow::Owned(out)
}

/// The shape that a configuration tells, before its figures are checked.
///
/// # Errors
/// The field that is missing, or the kind of layer that is not known.
pub(super) fn of_value(
    config: &Value,
    beside: Option<&Value>,
    name: &str,
) -> Result<ModelShape, String> {
    if !config.is_object() {
        return Err("a configuration is a JSON object".to_owned());
    }
    let fields = Fields::new(config);
    let parts = Parts::read(&fields)?;
    let quantization = Quantization::read(&fields, beside)?;
    let mut notes = Vec::new();
    for (field, what) in [("vision_config", "vision tower"), ("audio_config", "audio tower")] {
        if !config[field].is_null() {
            notes.push(format!("its {what} is left out"));
        }
    }
    let drafts = ["num_nextn_predict_layers", "mtp_num_hidden_layers", "num_mtp_modules"];
    let drafts = fields.count(&drafts)?.filter(|n| *n > 0);
    if drafts.is_some() {
        notes.push("its draft head (MTP) is left out without --speculation mtp".to_owned());
    }
    notes.extend(fields.note());
    notes.extend(parts.note());
    notes.extend(parts.blocks_note());
    let family = fields.family();
    let layers: Layers = order::layers(&fields, &parts)?
        .into_iter()
        .enumerate()
        .map(|(i, (attention, feed_forward))| {
            let (a, f) = (attention.as_ref(), feed_forward.as_ref());
            let formats = quantization.formats(i, a, f, family);
            let (norms, norm_bias) = parts.norms();
            Layer { norms, norm_bias, formats, ..Layer::new(attention, feed_forward) }
        })
        .collect();
    if layers.groups().any(|(_, layer)| layer.state_bytes(1) > 0) {
        let what = "its linear layers keep a state, to which tokens are added";
        notes.push(format!("{what}: no prefix is cached, which is vLLM's default for such models"));
    }
    let context = context(&fields)?;
    let draft_head = drafts.and_then(|_| layers.last().cloned());
    notes.extend(quantization.notes.iter().cloned());
    Ok(ModelShape {
        name: name.to_owned(),
        source: "its own configuration".to_owned(),
        hidden: fields.need(parts::HIDDEN)?,
        layers,
        vocab: fields.need(&["vocab_size", "padded_vocab_size"])?,
        tied_embeddings: parts.tied(&fields),
        head: quantization.head(),
        position_rows: parts.position_rows(context),
        max_context: context,
        draft_head,
        notes,
    })
}

/// The longest sequence that it was trained for, by scaled positions where they are scaled.
fn context(fields: &Fields<'_>) -> Result<u32, String> {
    let names = [
        "max_position_embeddings",
        "max_sequence_length",
        "n_positions",
        "seq_length",
        "model_max_length",
    ];
    let own = fields.need(&names)?;
    // Gemma 3 was trained on its scaled positions: `max_position_embeddings` counts them.
    if fields.family().starts_with("gemma3") {
        return Ok(own);
    }
    let Some(scaling) = fields.any(&["rope_scaling", "rope_parameters"]) else { return Ok(own) };
    let kind = scaling["rope_type"].as_str().or_else(|| scaling["type"].as_str());
    let factor = scaling["factor"].as_f64().filter(|f| f.is_finite() && *f >= 1.0);
    let Some(factor) = factor else { return Ok(own) };
    let from = match kind {
        Some("yarn") => scaling["original_max_position_embeddings"].as_u64().unwrap_or(own.into()),
        Some("linear" | "dynamic") => own.into(),
        _ => return Ok(own),
    };
    Ok((from as f64 * factor) as u32)
}

#[cfg(test)]
mod tests;
