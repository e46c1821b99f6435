//! The attention and the feed-forward layer of each layer of a configuration.

use serde_json::Value;

use super::fields::{Fields, short};
use super::parts::{LAYERS, Parts, unknown};
use crate::model::attention::{Attention, Full};
use crate::model::feed_forward::{Dense, FeedForward};

type Pair = (Option<Attention>, Option<FeedForward>);

/// Most layers: ten times any model's.
const MOST_LAYERS: u32 = 1 << 12;

/// The attention and feed-forward layer of every layer.
///
/// # Errors
/// When a layer is of a kind that is not known, or of one whose figures are missing.
pub(super) fn layers(fields: &Fields<'_>, parts: &Parts) -> Result<Vec<Pair>, String> {
    if let Some(blocks) = fields.list("block_configs") {
        return blocks.iter().map(|block| searched(block, fields, parts)).collect();
    }
    if let Some(order) = mixers(fields)? {
        return order.iter().map(|kind| mixer(kind, fields, parts)).collect();
    }
    let count = fields.need(LAYERS)?;
    if count > MOST_LAYERS {
        return Err(format!("layers = {count} is more than any model has ({MOST_LAYERS})"));
    }
    (0..count)
        .map(|i| Ok((attention(i, fields, parts)?, feed_forward(i, fields, parts)?)))
        .collect()
}

/// The word that `list` has for layer `i`.
fn word<'a>(fields: &Fields<'a>, list: &str, i: u32) -> Result<Option<&'a str>, String> {
    let Some(words) = fields.list(list) else { return Ok(None) };
    let word = words.get(i as usize).and_then(Value::as_str);
    word.map(Some).ok_or_else(|| format!("`{list}` has no kind for layer {i}"))
}

/// True where `list` has the number `i`.
fn lists(fields: &Fields<'_>, list: &str, i: u32) -> bool {
    fields.list(list).is_some_and(|l| l.iter().any(|n| n.as_u64() == Some(i.into())))
}

/// A part that the configuration speaks of and does not give the figures of.
fn given<T: Clone>(part: &Option<T>, what: &str) -> Result<Option<T>, String> {
    part.clone().map(Some).ok_or_else(|| format!("it lacks the figures of its {what}"))
}

fn attention(i: u32, fields: &Fields<'_>, parts: &Parts) -> Result<Option<Attention>, String> {
    let full = || given(&parts.full, "attention");
    if let Some(kind) = word(fields, "layer_types", i)? {
        return match kind {
            "full_attention" | "attention" | "global_attention" => full(),
            "deepseek_sparse_attention" => sparse(i, fields, full()?),
            "sliding_attention" | "chunked_attention" | "local_attention" => {
                given(&parts.windowed, "windows (`sliding_window`)")
            }
            "linear_attention" => given(&parts.linear, "linear attention"),
            "mamba" => given(&parts.mamba, "Mamba layers"),
            other => Err(unknown("attention", other, fields)),
        };
    }
    let mixed = ["mamba_", "ssm_", "linear_num_"].iter().find_map(|p| fields.has_prefix(p));
    if let Some(field) = mixed.filter(|_| fields.any(&["full_attention_interval"]).is_none()) {
        return Err(unknown("attention", field, fields) + " without a list of layers");
    }
    if let Some(every) = fields.count(&["full_attention_interval"])?.filter(|n| *n > 0) {
        let whole = (i + 1).is_multiple_of(every);
        return if whole { full() } else { given(&parts.linear, "linear attention") };
    }
    let kind = fields.list("attn_type_list").and_then(|kinds| kinds.get(i as usize));
    if kind.is_some_and(|kind| kind != 1) {
        return Err(unknown("attention", "lightning attention", fields) + " (`attn_type_list`)");
    }
    if parts.windowed.is_some() && in_window(i, fields)? {
        return Ok(parts.windowed.clone());
    }
    sparse(i, fields, full()?)
}

/// Sparse attention whose layer takes the choice of one before it.
fn sparse(
    i: u32,
    fields: &Fields<'_>,
    full: Option<Attention>,
) -> Result<Option<Attention>, String> {
    let own = match word(fields, "indexer_types", i)? {
        Some("full") => true,
        None => {
            let every = fields.count(&["index_topk_freq"])?.unwrap_or(1).max(1);
            let first = fields.count(&["index_skip_topk_offset"])?.unwrap_or(0);
            (i + 1).saturating_sub(first).is_multiple_of(every)
        }
        Some("shared") => false,
        Some(other) => return Err(unknown("indexer", other, fields)),
    };
    Ok(full.map(|attention| match attention {
        Attention::Latent(mut latent) => {
            if let Some(index) = &mut latent.index {
                index.own = own;
            }
            Attention::Latent(latent)
        }
        other => other,
    }))
}

/// True where layer `i` sees a window, in families that say so by a rule.
fn in_window(i: u32, fields: &Fields<'_>) -> Result<bool, String> {
    let family = fields.family();
    if let Some(from) = fields.count(&["max_window_layers"])?.filter(|_| family.starts_with("qwen"))
    {
        return Ok(i >= from);
    }
    if family.starts_with("llama4") {
        // Layers without positions see everything: a list with 0 for them, or every fourth.
        if let Some(turned) = fields.list("no_rope_layers").filter(|l| !l.is_empty()) {
            return Ok(turned.get(i as usize).is_none_or(|t| t == 1));
        }
        let every = fields.count(&["no_rope_layer_interval"])?.unwrap_or(4).max(1);
        return Ok(!(i + 1).is_multiple_of(every));
    }
    if let Some(pattern) = fields.text(&["sliding_window_pattern"]) {
        let letters: Vec<char> = pattern.chars().collect();
        return Ok(letters.get(i as usize % letters.len().max(1)) == Some(&'L'));
    }
    let usual = match family {
        f if f.starts_with("gemma3") => 6,
        f if f.starts_with("cohere2") => 4,
        f if f.starts_with("gemma2") || f.starts_with("gpt_oss") => 2,
        _ => 0,
    };
    let names = ["sliding_window_pattern", "_sliding_window_pattern"];
    let every = fields.count(&names)?.unwrap_or(usual);
    // The last of each few sees everything; without a rule none does.
    Ok(every == 0 || !(i + 1).is_multiple_of(every))
}

fn feed_forward(i: u32, fields: &Fields<'_>, parts: &Parts) -> Result<Option<FeedForward>, String> {
    let dense = || given(&parts.dense, "feed-forward layer (`intermediate_size`)");
    if parts.experts.is_none() {
        return dense();
    }
    let routed = match word(fields, "mlp_layer_types", i)? {
        Some("sparse") => true,
        Some("dense") => false,
        Some(other) => return Err(unknown("feed-forward", other, fields)),
        None => is_routed(i, fields)?,
    };
    if routed { Ok(parts.experts.clone()) } else { dense() }
}

/// True where layer `i` has experts, in families that say so by a rule.
fn is_routed(i: u32, fields: &Fields<'_>) -> Result<bool, String> {
    if fields.list("moe_layers").is_some_and(|l| !l.is_empty()) {
        return Ok(lists(fields, "moe_layers", i));
    }
    if lists(fields, "mlp_only_layers", i) {
        return Ok(false);
    }
    let first = fields.count(&["first_k_dense_replace", "moe_layer_start_index"])?.unwrap_or(0);
    if i < first {
        return Ok(false);
    }
    if let Some(each) = fields.list("moe_layer_freq") {
        return Ok(each.get(i as usize).is_some_and(|routed| routed == 1));
    }
    if let Some(step) = fields.count(&["decoder_sparse_step", "interleave_moe_layer_step"])? {
        return Ok(step > 0 && (i + 1).is_multiple_of(step));
    }
    let step = fields.count(&["moe_layer_freq", "moe_layer_interval"])?.unwrap_or(1);
    Ok(step > 0 && i.is_multiple_of(step))
}

/// The order of layers that do one thing each (Nemotron-H): a letter or a word for every layer.
fn mixers<'a>(fields: &Fields<'a>) -> Result<Option<Vec<&'a str>>, String> {
    let order: Vec<&str> = if let Some(pattern) = fields.text(&["hybrid_override_pattern"]) {
        pattern.split("").filter(|letter| !letter.is_empty()).collect()
    } else if let Some(words) = fields.list("layers_block_type") {
        words.iter().map(|word| word.as_str().unwrap_or("?")).collect()
    } else {
        return Ok(None);
    };
    if order.len() > MOST_LAYERS as usize {
        return Err(format!("layers = {} is more than any model has ({MOST_LAYERS})", order.len()));
    }
    Ok(Some(order))
}

fn mixer(kind: &str, fields: &Fields<'_>, parts: &Parts) -> Result<Pair, String> {
    Ok(match kind {
        "M" | "mamba" => (given(&parts.mamba, "Mamba layers")?, None),
        "*" | "attention" => (given(&parts.full, "attention")?, None),
        "E" | "moe" => (None, given(&parts.experts, "experts")?),
        "-" | "mlp" => (None, given(&parts.dense, "feed-forward layers")?),
        other => return Err(unknown("layer", other, fields)),
    })
}

/// A layer of a model that was cut down by architecture search: parts of their own sizes, or none.
fn searched(block: &Value, fields: &Fields<'_>, parts: &Parts) -> Result<Pair, String> {
    let (attention, ffn) = (&block["attention"], &block["ffn"]);
    for part in [attention, ffn] {
        if part["replace_with_linear"] == true {
            return Err(unknown("layer", "a linear map", fields));
        }
    }
    if !attention["window_length"].is_null() || !attention["sparsify"].is_null() {
        return Err(unknown("attention", "window of a block", fields));
    }
    let attention = match (attention["no_op"] == true, &parts.full) {
        (false, Some(Attention::Full(full))) => {
            let share = attention["n_heads_in_group"].as_u64().and_then(|n| u32::try_from(n).ok());
            let share = share.filter(|n| *n > 0).unwrap_or(1);
            Some(Attention::Full(Full { kv_heads: full.heads / share, ..full.clone() }))
        }
        (true, _) => None,
        (false, _) => return Err("it lacks the figures of its attention".to_owned()),
    };
    if ffn["no_op"] == true {
        return Ok((attention, None));
    }
    let width = ffn["intermediate_size"].as_f64().or_else(|| {
        // As the model's own code rounds it: two thirds of a multiple of the width, up to the next 256.
        let hidden = f64::from(fields.need(super::parts::HIDDEN).ok()?);
        Some(((2.0 * ffn["ffn_mult"].as_f64()? * hidden / 3.0).floor() / 256.0).ceil() * 256.0)
    });
    let width = width.filter(|w| (1.0..4e9).contains(w));
    let width = width.ok_or_else(|| format!("`ffn` = {} does not say its width", short(ffn)))?;
    let dense = Dense { width: width as u32, gated: true, bias: false };
    Ok((attention, Some(FeedForward::Dense(dense))))
}
