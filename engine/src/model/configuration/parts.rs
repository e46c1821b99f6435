//! The attention and the feed-forward layers that the fields of a configuration stand for.

use super::fields::Fields;
use crate::model::attention::{Attention, Full, GatedDelta, Index, Latent, Mamba};
use crate::model::feed_forward::{Dense, Experts, FeedForward};

/// Width of the residual stream.
pub(super) const HIDDEN: &[&str] = &["hidden_size", "n_embd", "d_model"];
/// Number of layers.
pub(super) const LAYERS: &[&str] = &["num_hidden_layers", "n_layer", "num_layers", "n_layers"];
const HEADS: &[&str] = &["num_attention_heads", "n_head", "n_heads"];
const KV_HEADS: &[&str] =
    &["num_key_value_heads", "num_kv_heads", "n_head_kv", "multi_query_group_num"];
const WIDTH: &[&str] =
    &["intermediate_size", "ffn_dim", "n_inner", "ffn_hidden_size", "ffn_intermediate_size"];
const EXPERTS: &[&str] =
    &["num_local_experts", "n_routed_experts", "num_experts", "moe_num_experts"];
const TOP_K: &[&str] = &[
    "num_experts_per_tok",
    "experts_per_token",
    "num_experts_per_token",
    "top_k_experts",
    "moe_topk",
    "moe_top_k",
    "moe_k",
];
const EXPERT_WIDTH: &[&str] =
    &["moe_intermediate_size", "moe_ffn_hidden_size", "expert_hidden_size"];
const SHARED_EXPERTS: &[&str] = &["n_shared_experts", "num_shared_experts", "num_shared_expert"];
const SHARED_WIDTH: &[&str] = &[
    "shared_expert_intermediate_size",
    "moe_shared_expert_intermediate_size",
    "shared_intermediate_size",
];

/// Fields of attention of no kind known here, and the name of its kind.
const UNKNOWN: [(&str, &str); 8] = [
    ("compress_ratios", "compressed attention"),
    ("linear_attn_config", "Kimi delta attention"),
    ("index_kpool", "pooled sparse attention"),
    ("hc_mult", "hyper-connections"),
    ("cross_attention_layers", "cross-attention"),
    ("attn_layer_period", "Mamba 1"),
    ("rwkv_version", "RWKV"),
    ("mb_attn_size", "lightning attention"),
];

/// The error for a kind of `part` (attention, feed-forward) that is not known.
pub(super) fn unknown(part: &str, kind: &str, fields: &Fields<'_>) -> String {
    format!("{part} `{kind}` of model_type `{}` is not known", fields.family())
}

/// The parts its layers are made of.
pub(super) struct Parts {
    family: String,
    /// Attention over every token.
    pub(super) full: Option<Attention>,
    /// Attention over a window.
    pub(super) windowed: Option<Attention>,
    /// Linear attention.
    pub(super) linear: Option<Attention>,
    /// Mamba.
    pub(super) mamba: Option<Attention>,
    /// A dense feed-forward layer.
    pub(super) dense: Option<FeedForward>,
    /// A mixture of experts.
    pub(super) experts: Option<FeedForward>,
}

/// Families by what their configurations leave out.
fn is(family: &str, families: &[&str]) -> bool {
    families.iter().any(|f| family.starts_with(f))
}

/// Families that were looked at one by one.
const KNOWN: &[&str] = &[
    "llama",
    "mistral",
    "ministral",
    "mixtral",
    "qwen2",
    "qwen3",
    "mimo",
    "gpt_oss",
    "gemma",
    "deepseek_v2",
    "deepseek_v3",
    "kimi_k2",
    "glm_moe_dsa",
    "glm4_moe",
    "minimax_m2",
    "nemotron_h",
    "nemotron-nas",
    "opt",
];

impl Parts {
    /// Reads them.
    ///
    /// # Errors
    /// A field that is missing or odd, or the kind that is not known.
    pub(super) fn read(fields: &Fields<'_>) -> Result<Self, String> {
        let family = fields.family().to_owned();
        let odd = UNKNOWN.iter().find(|(field, _)| fields.any(&[field]).is_some());
        if let Some((field, kind)) = odd {
            return Err(unknown("attention", kind, fields) + &format!(" (`{field}`)"));
        }
        if fields.is("is_encoder_decoder") {
            return Err(unknown("attention", "encoder and decoder", fields));
        }
        for (field, what) in [
            ("num_kv_shared_layers", "keys and values shared between layers"),
            ("hidden_size_per_layer_input", "embeddings per layer"),
        ] {
            if fields.count(&[field])?.is_some_and(|n| n > 0) {
                return Err(unknown("attention", what, fields) + &format!(" (`{field}`)"));
            }
        }
        let window = window(fields, &family)?;
        let latent = latent(fields)?;
        let full = match latent {
            Some(latent) => Some(Attention::Latent(latent)),
            None => full(fields, &family)?.map(Attention::Full),
        };
        let windowed = match (&full, window) {
            (Some(Attention::Full(full)), Some(window)) => {
                Some(Attention::Full(Full { window: Some(window), ..full.clone() }))
            }
            _ => None,
        };
        let full = match full {
            Some(Attention::Full(full)) => Some(Attention::Full(global(fields, &full)?)),
            other => other,
        };
        let experts = experts(fields, &family)?;
        Ok(Self {
            full,
            windowed,
            linear: gated_delta(fields)?.map(Attention::GatedDelta),
            mamba: mamba(fields)?.map(Attention::Mamba),
            dense: dense(fields, &family)?.map(FeedForward::Dense),
            experts: experts.map(FeedForward::Experts),
            family,
        })
    }

    /// Norms of each part of a layer, and whether they have biases.
    pub(super) fn norms(&self) -> (u32, bool) {
        let sandwich = is(&self.family, &["gemma2", "gemma3", "gemma4", "glm4"])
            && !is(&self.family, &["glm4_moe"]);
        let bias = is(&self.family, &["opt", "gpt2", "gpt_neox", "phi", "starcoder2", "falcon"])
            && !is(&self.family, &["phi3", "phimoe"]);
        (if sandwich { 2 } else { 1 }, bias)
    }

    /// True where the head is the embedding.
    pub(super) fn tied(&self, fields: &Fields<'_>) -> bool {
        fields.switch("tie_word_embeddings").unwrap_or_else(|| {
            is(&self.family, &["gemma", "opt", "cohere", "gpt2", "falcon", "starcoder2"])
        })
    }

    /// Rows of learned positions.
    pub(super) fn position_rows(&self, context: u32) -> u32 {
        match self.family.as_str() {
            // The checkpoint keeps two rows before position 0.
            "opt" => context.saturating_add(2),
            "gpt2" => context,
            _ => 0,
        }
    }

    /// A word where a family is read by its fields alone.
    pub(super) fn note(&self) -> Option<String> {
        (!is(&self.family, KNOWN)).then(|| {
            format!("model_type `{}` is not known by name: it is read by its fields", self.family)
        })
    }

    /// A word where attention keeps to blocks of tokens.
    pub(super) fn blocks_note(&self) -> Option<String> {
        let blocks = is(&self.family, &["llama4"]) && self.windowed.is_some();
        blocks.then(|| {
            "its attention within blocks of tokens (`attention_chunk_size`) is priced as a window as wide, which holds \
             and reads up to twice as much"
                .to_owned()
        })
    }
}

/// The window, where there is one.
fn window(fields: &Fields<'_>, family: &str) -> Result<Option<u32>, String> {
    if is(family, &["llama4"]) {
        return fields.count(&["attention_chunk_size"]);
    }
    let off = fields.switch("use_sliding_window") == Some(false)
        || (is(family, &["qwen", "mimo"]) && fields.switch("use_sliding_window").is_none());
    let window = fields.count(&["sliding_window", "sliding_window_size"])?;
    Ok(window.filter(|window| *window > 0 && !off))
}

/// Elements per head.
fn head_dim(fields: &Fields<'_>, hidden: u32, heads: u32) -> Result<u32, String> {
    if let Some(dim) = fields.count(&["head_dim", "attention_head_dim", "kv_channels"])? {
        return Ok(dim);
    }
    if heads == 0 || !hidden.is_multiple_of(heads) {
        return Err(format!(
            "hidden_size = {hidden} must be a multiple of num_attention_heads = {heads}"
        ));
    }
    Ok(hidden / heads)
}

fn full(fields: &Fields<'_>, family: &str) -> Result<Option<Full>, String> {
    let Some(heads) = fields.count(HEADS)? else { return Ok(None) };
    let dim = head_dim(fields, fields.need(HIDDEN)?, heads)?;
    let biased = is(family, &["qwen2", "opt", "gpt2", "gpt_neox", "phi", "starcoder2"])
        && !is(family, &["phi3"]);
    let bias = fields.switch("attention_bias").or(fields.switch("qkv_bias")).unwrap_or(biased);
    // Their output has none where the others do.
    let inward = is(family, &["qwen", "mimo", "glm"]);
    let normalised = is(family, &["qwen3", "gemma3", "gemma4", "olmo2", "hunyuan"]);
    Ok(Some(Full {
        bias,
        output_bias: bias && !inward,
        qk_norm: fields.switch("use_qk_norm").unwrap_or(normalised),
        norm_over_heads: fields.text(&["qk_norm_type"]) == Some("per_layer"),
        gate: fields.switch("attn_output_gate").unwrap_or(is(family, &["qwen3_next"])),
        keys_are_values: false,
        sinks: is(family, &["gpt_oss"]),
        ..Full::plain(heads, fields.count(KV_HEADS)?.unwrap_or(heads), dim)
    }))
}

/// The heads of layers that see every token, where they have others than the layers of a window (Gemma 4).
fn global(fields: &Fields<'_>, full: &Full) -> Result<Full, String> {
    let kv_heads = fields.count(&["num_global_key_value_heads"])?.unwrap_or(full.kv_heads);
    let head_dim = fields.count(&["global_head_dim"])?.unwrap_or(full.head_dim);
    let keys_are_values = fields.is("attention_k_eq_v");
    Ok(Full { kv_heads, head_dim, keys_are_values, ..full.clone() })
}

fn latent(fields: &Fields<'_>) -> Result<Option<Latent>, String> {
    let Some(kv_rank) = fields.count(&["kv_lora_rank"])? else { return Ok(None) };
    let index = match fields.count(&["index_topk"])? {
        None => None,
        Some(top_k) => Some(Index {
            heads: fields.need(&["index_n_heads"])?,
            head_dim: fields.need(&["index_head_dim"])?,
            top_k,
            own: true,
        }),
    };
    Ok(Some(Latent {
        heads: fields.need(HEADS)?,
        query_rank: fields.count(&["q_lora_rank"])?.unwrap_or(0),
        kv_rank,
        nope_dim: fields.need(&["qk_nope_head_dim"])?,
        rope_dim: fields.need(&["qk_rope_head_dim"])?,
        value_dim: fields.need(&["v_head_dim"])?,
        index,
    }))
}

/// Bytes of an element of a state, by the field that says its number format.
fn state_element(fields: &Fields<'_>, name: &str) -> u32 {
    if fields.text(&[name]).is_some_and(|dtype| dtype == "float32") { 4 } else { 2 }
}

fn gated_delta(fields: &Fields<'_>) -> Result<Option<GatedDelta>, String> {
    let Some(value_heads) = fields.count(&["linear_num_value_heads"])? else { return Ok(None) };
    Ok(Some(GatedDelta {
        key_heads: fields.need(&["linear_num_key_heads"])?,
        value_heads,
        key_dim: fields.need(&["linear_key_head_dim"])?,
        value_dim: fields.need(&["linear_value_head_dim"])?,
        kernel: fields.need(&["linear_conv_kernel_dim"])?,
        state_element: state_element(fields, "mamba_ssm_dtype"),
    }))
}

fn mamba(fields: &Fields<'_>) -> Result<Option<Mamba>, String> {
    let Some(heads) = fields.count(&["mamba_num_heads", "mamba_n_heads"])? else { return Ok(None) };
    Ok(Some(Mamba {
        heads,
        groups: fields.need(&["mamba_n_groups", "n_groups"])?,
        head_dim: fields.need(&["mamba_head_dim", "mamba_d_head"])?,
        state: fields.need(&["ssm_state_size", "mamba_d_state"])?,
        kernel: fields.need(&["conv_kernel", "mamba_d_conv"])?,
        state_element: state_element(fields, "mamba_ssm_cache_dtype"),
    }))
}

/// True where a feed-forward layer has a gate.
fn gated(fields: &Fields<'_>, family: &str) -> bool {
    let two = is(family, &["opt", "gpt2", "gpt_neox", "starcoder2", "falcon", "nemotron_h"])
        || (is(family, &["phi"]) && !is(family, &["phi3", "phimoe"]));
    let act = fields.text(&["hidden_act", "mlp_hidden_act", "activation_function"]);
    !two && !act.is_some_and(|act| ["relu", "relu2", "gelu_new", "gelu_fast"].contains(&act))
}

fn dense(fields: &Fields<'_>, family: &str) -> Result<Option<Dense>, String> {
    let width = fields.count(&["intermediate_size_mlp"])?.or(fields.count(WIDTH)?);
    let bias = is(family, &["opt", "gpt2", "gpt_neox", "starcoder2"]) || fields.is("mlp_bias");
    Ok(width.map(|width| Dense { width, gated: gated(fields, family), bias }))
}

fn experts(fields: &Fields<'_>, family: &str) -> Result<Option<Experts>, String> {
    let Some(experts) = fields.count(EXPERTS)?.filter(|n| *n > 1) else { return Ok(None) };
    let own_width = fields.count(EXPERT_WIDTH)?;
    let width = match own_width {
        Some(width) => width,
        None => fields.need(WIDTH)?,
    };
    // A dense layer that every token goes through beside them is a shared expert.
    let beside = fields.is("enable_moe_block");
    let shared = if beside {
        fields.need(WIDTH)?
    } else if let Some(shared) = fields.count(SHARED_WIDTH)? {
        shared
    } else if is(family, &["llama4"]) {
        width
    } else {
        fields.count(SHARED_EXPERTS)?.unwrap_or(0).saturating_mul(width)
    };
    Ok(Some(Experts {
        experts,
        top_k: fields.need(TOP_K)?,
        width,
        shared,
        shared_gate: fields.any(&["shared_expert_intermediate_size"]).is_some(),
        gated: gated(fields, family),
        bias: is(family, &["gpt_oss"]),
        latent: fields.count(&["moe_latent_size", "routed_expert_hidden_size"])?,
    }))
}
