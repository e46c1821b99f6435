//! The tables of AIConfigurator and AISimulate that are read: the operator that a row of each was.
//!
//! Not read: `computescale` and `scale_matrix`, whose times the fp8 products hold; the absorbed products of latent
//! attention, which its blocks hold; and what no engine runs inside CUDA graphs.

use std::collections::{HashMap, HashSet};

use super::source::Source;
use super::tables::{ImportError, Row, Run};
use crate::config::KvDtype;
use crate::format::Format;
use crate::profile::{Collective, Delta, Exchange, Experts, Heads, Index, Latent};

/// A published table.
pub(super) struct Kernel {
    /// Its name.
    pub(super) table: &'static str,
    /// The operators it is of.
    pub(super) kinds: &'static [&'static str],
    /// The kernels that ran it.
    pub(super) by: &'static str,
    /// True where its times are in microseconds, whatever the column is called.
    pub(super) microseconds: bool,
    /// The run that a row measured; nothing where it is of no use.
    pub(super) row: fn(&Source) -> Result<Option<Run>, ImportError>,
    /// Brings rows together that are parts of one.
    pub(super) together: fn(Vec<Row>) -> Vec<Row>,
}

impl Kernel {
    const fn new(
        table: &'static str,
        kinds: &'static [&'static str],
        row: fn(&Source) -> Result<Option<Run>, ImportError>,
    ) -> Self {
        Self { table, kinds, by: "vLLM", microseconds: false, row, together: |rows| rows }
    }
}

/// All of them.
pub(super) const ALL: &[Kernel] = &[
    Kernel::new("gemm", &["gemm"], gemm),
    Kernel::new("context_attention", &["prefill_attention"], |s| attention(s, true)),
    Kernel::new("generation_attention", &["decode_attention"], |s| attention(s, false)),
    Kernel::new("moe", &["experts"], experts),
    Kernel::new("mla_context_module", &["latent_prefill"], |s| latent(s, false)),
    Kernel::new("mla_generation_module", &["latent_decode"], |s| latent(s, true)),
    Kernel {
        together: choice_reused,
        ..Kernel::new("dsa_context_module", &["sparse_prefill"], |s| latent(s, false))
    },
    Kernel {
        together: choice_reused,
        ..Kernel::new("dsa_generation_module", &["sparse_decode"], |s| latent(s, true))
    },
    Kernel { together: in_pairs, ..Kernel::new("gdn", &["delta_prefill", "delta_decode"], delta) },
    Kernel::new("custom_allreduce", &["all_reduce"], all_reduce),
    Kernel {
        by: "NCCL",
        ..Kernel::new("nccl", &["all_gather", "reduce_scatter", "all_to_all"], collective)
    },
    Kernel { microseconds: true, ..Kernel::new("moe_a2a", &["dispatch", "combine"], exchange) },
];

/// The format that a table calls so, where it is one of ours.
fn format(name: &str) -> Option<Format> {
    Some(match name {
        "bfloat16" => Format::Bf16,
        "fp8" => Format::Fp8,
        "fp8_block" => Format::Fp8Block,
        "nvfp4" => Format::Nvfp4,
        "w4a16_mxfp4" => Format::Mxfp4,
        "w4a8_mxfp4_mxfp8" => Format::Mxfp4Fp8,
        "int8_wo" => Format::Int8,
        "int4_wo" => Format::Int4,
        _ => return None,
    })
}

fn kv_format(name: &str) -> Option<KvDtype> {
    match name {
        "bfloat16" => Some(KvDtype::Bf16),
        "fp8" => Some(KvDtype::Fp8),
        _ => None,
    }
}

fn gemm(s: &Source) -> Result<Option<Run>, ImportError> {
    let (m, n, k) = (s.number("m")?, s.count("n")?, s.count("k")?);
    Ok(format(s.text("gemm_dtype")?).map(|format| Run::Gemm { m, n, k, format }))
}

/// Prompts, or sequences that decode a token each.
fn attention(s: &Source, prompts: bool) -> Result<Option<Run>, ImportError> {
    let window = if s.has("window_size") { s.count("window_size")? } else { 0 };
    let heads = Heads {
        query: s.positive("num_heads")?,
        kv: s.positive("num_key_value_heads")?,
        dim: s.positive("head_dim")?,
        window,
    };
    let (seqs, zero) = (s.number("batch_size")?, 0.0);
    let bf16 = !s.has("attn_dtype") || s.text("attn_dtype")? == "bfloat16";
    let Some(kv) = kv_format(s.text("kv_cache_dtype")?).filter(|_| bf16) else { return Ok(None) };
    // The wheel says how many tokens are new (isl) and how many were there before (step).
    let history = if s.has("step") { s.number("step")? } else { 0.0 };
    let run = if prompts {
        let tokens = s.number("isl")?;
        Run::Attention { heads, kv, chunks: seqs, tokens, history, decodes: zero, length: zero }
    } else {
        let length = if s.has("kv_len") { s.number("kv_len")? } else { s.number("isl")? + history };
        Run::Attention {
            heads,
            kv,
            chunks: zero,
            tokens: zero,
            history: zero,
            decodes: seqs,
            length,
        }
    };
    Ok(Some(run))
}

/// Layers whose experts have no gate, by width, width of an expert: Nemotron-3's. No table says so.
const UNGATED: [[u32; 2]; 4] = [[2688, 1856], [1024, 2688], [2048, 5120], [4096, 2688]];

fn experts(s: &Source) -> Result<Option<Run>, ImportError> {
    let (hidden, inter) = (s.positive("hidden_size")?, s.positive("inter_size")?);
    let (total, top_k) = (s.positive("num_experts")?, s.positive("topk")?);
    let (widths, ranks) = (s.positive("moe_tp_size")?, s.positive("moe_ep_size")?);
    let even = match s.text("distribution")? {
        "balanced" => true,
        "power_law_1.01" => false,
        _ => return Ok(None),
    };
    let tokens = s.number("num_tokens")?;
    let gated = !UNGATED.contains(&[hidden, inter]);
    let held = total.div_ceil(ranks);
    let experts = Experts { hidden, inter: inter.div_ceil(widths), held, total, top_k, gated };
    Ok(format(s.text("moe_dtype")?).map(|format| Run::Experts { experts, format, tokens, even }))
}

fn latent(s: &Source, decode: bool) -> Result<Option<Run>, ImportError> {
    let heads = s.positive("num_heads")?;
    let model = s.text("model")?;
    let of: fn(u32) -> Latent = if model.contains("DeepSeek-V3.2") {
        Latent::deepseek_v32
    } else if model.contains("DeepSeek-V3") {
        Latent::deepseek_v3
    } else if model.contains("GLM-5") {
        |heads| Latent::glm_5(heads, false)
    } else {
        return Ok(None);
    };
    let formats = (format(s.text("gemm_type")?), kv_format(s.text("kv_cache_dtype")?));
    let (Some(format), Some(kv)) = formats else { return Ok(None) };
    let (seqs, tokens) = (s.number("batch_size")?, s.number("isl")?);
    let history = s.number("step")?;
    Ok(Some(Run::Latent { latent: of(heads), format, kv, seqs, tokens, history, decode }))
}

fn delta(s: &Source) -> Result<Option<Run>, ImportError> {
    let delta = Delta {
        key_heads: s.positive("num_k_heads")?,
        value_heads: s.positive("num_v_heads")?,
        key_dim: s.positive("head_k_dim")?,
        value_dim: s.positive("head_v_dim")?,
    };
    let decode = s.text("phase")? == "generation";
    let (seqs, tokens) = (s.number("batch_size")?, s.number("seq_len")?);
    Ok(Some(Run::Delta { delta, seqs, tokens, decode }))
}

/// Of a sparse layer that may reuse the tokens which a layer before it chose, each row is there twice by the same names,
/// first with its indexer and then, always quicker, without.
fn choice_reused(rows: Vec<Row>) -> Vec<Row> {
    let mut seen = HashSet::new();
    let second = |mut row: Row| {
        let first = seen.insert(format!("{:?}", row.run));
        if let (false, Run::Latent { latent, .. }) = (first, &mut row.run) {
            latent.index = latent.index.map(|index| Index { reused: true, ..index });
        }
        row
    };
    rows.into_iter().map(second).collect()
}

/// The convolution and the recurrence of a gated delta net are rows of their own by the same names; a layer takes both.
/// Models with the same heads have the same rows once more. Rows without a partner are left out.
fn in_pairs(rows: Vec<Row>) -> Vec<Row> {
    let mut order: Vec<Run> = Vec::new();
    let mut sums: HashMap<String, (f64, u32)> = HashMap::new();
    for row in rows {
        let sum = sums.entry(format!("{:?}", row.run)).or_insert_with(|| {
            order.push(row.run);
            (0.0, 0)
        });
        *sum = (sum.0 + row.seconds, sum.1 + 1);
    }
    let pair = |run: Run| {
        let (seconds, rows) = sums[&format!("{run:?}")];
        rows.is_multiple_of(2).then(|| Row { run, seconds: seconds * 2.0 / f64::from(rows) })
    };
    order.into_iter().filter_map(pair).collect()
}

/// Inside CUDA graphs, as engines run it; sizes are in elements of bf16.
fn all_reduce(s: &Source) -> Result<Option<Run>, ImportError> {
    let size = if s.has("message_size") { "message_size" } else { "elements" };
    let run = Run::AllReduce { bytes: 2.0 * s.number(size)?, ranks: s.count("num_gpus")? };
    let bf16 = s.text("allreduce_dtype")? == "bfloat16";
    Ok((bf16 && s.text("backend")? == "vllm_graph").then_some(run))
}

/// By NCCL; sizes are in elements of two bytes.
fn collective(s: &Source) -> Result<Option<Run>, ImportError> {
    let of = match s.text("op_name")? {
        "all_gather" => Collective::AllGather,
        "reduce_scatter" => Collective::ReduceScatter,
        "alltoall" => Collective::AllToAll,
        _ => return Ok(None),
    };
    let run = Run::Collective {
        of,
        bytes: 2.0 * s.number("message_size")?,
        ranks: s.positive("num_gpus")?,
    };
    Ok((s.text("nccl_dtype")? == "half").then_some(run))
}

/// By DeepEP, on one node.
fn exchange(s: &Source) -> Result<Option<Run>, ImportError> {
    let by = match s.text("comm_backend")? {
        "deepep_ll" => Exchange::LowLatency,
        "deepep_ht" => Exchange::HighThroughput,
        _ => return Ok(None),
    };
    let dispatch = s.text("phase")? == "dispatch";
    let shape = [s.positive("hidden_size")?, s.positive("topk")?, s.positive("num_experts")?];
    let (tokens, ranks) = (s.number("num_tokens")?, s.positive("ep_size")?);
    let run = Run::Exchange { by, dispatch, shape, tokens, ranks };
    Ok((s.count("node_num")? == 1).then_some(run))
}
