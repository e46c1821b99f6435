//! Microsoft's Vidur: a model's operators one by one, and links; and the choices that its tables leave open.
//!
//! Vidur's own simulator has no host time, no embedding, no vocabulary head and no sampler; those are for the sheet and
//! the model file to say. Differences between the tables and the engines that knee prices are choices of the sheet, in
//! `[import.vidur]`; without them nothing is left out.

use std::path::{Path, PathBuf};

use super::folders::{MS, each};
use super::source::{Source, find, find_all};
use super::tables::{CacheSave, Choices, ImportError, Row, Run, Tables};
use crate::config::KvDtype;
use crate::exec::cost::Widths;
use crate::format::Format;
use crate::model::DenseShape;
use crate::profile::Heads;

/// Elements of a head in all of its tables.
const HEAD_DIM: u32 = 128;

impl Choices {
    /// The choices that were made, for readers of the result.
    pub(super) fn notes(&self, rows: &[Row]) -> Vec<String> {
        let attention = rows.iter().any(|row| matches!(row.run, Run::Attention { .. }));
        let sums = rows.iter().any(|row| matches!(row.run, Run::AllReduce { .. }));
        let mut notes = Vec::new();
        if attention {
            notes.push(match self.kv_cache_save {
                CacheSave::Measured => "writing keys and values is as measured".to_owned(),
                CacheSave::Omit => "writing keys and values is left out".to_owned(),
                CacheSave::Us(us) => format!("writing keys and values takes {us} µs a layer"),
            });
        }
        if attention && self.derived {
            notes.push("tables marked DERIVED were not measured as such".to_owned());
        }
        if self.residual_add {
            notes.push("the residual is added in a kernel of its own, once a layer".to_owned());
        }
        if sums && self.all_reduce_launch_us > 0.0 {
            notes.push(format!("each sum takes {} µs to launch", self.all_reduce_launch_us));
        }
        notes
    }

    /// The tables of the wanted models; one that is named must have its own.
    fn tables(&self, dir: &Path, system: &str, ends: &str) -> Result<Vec<PathBuf>, ImportError> {
        if self.models.is_empty() {
            return find_all(dir, &format!("{system}."), ends, self.derived);
        }
        let mut found = Vec::new();
        for model in &self.models {
            let starts = format!("{system}.{model}.");
            let tables = find_all(dir, &starts, ends, self.derived)?;
            if tables.is_empty() {
                let derived = !find_all(dir, &starts, ends, true)?.is_empty();
                let name = format!("{system}.{model}*{ends}");
                return Err(ImportError::Absent { name, dir: dir.to_path_buf(), derived });
            }
            found.extend(tables);
        }
        Ok(found)
    }

    /// Seconds to write the keys and values of a row of attention.
    fn save(&self, s: &Source) -> Result<f64, ImportError> {
        const COLUMN: &str = "attn_kv_cache_save.median";
        match self.kv_cache_save {
            CacheSave::Omit => Ok(0.0),
            CacheSave::Us(us) => Ok(us * 1e-6),
            CacheSave::Measured if s.has(COLUMN) => s.seconds(COLUMN, MS),
            CacheSave::Measured => Err(s.header_error(format!(
                "no column `{COLUMN}`: say kv_cache_save = \"omit\" in [import.vidur] to leave it out, or \
                 kv_cache_save = {{ us = TIME }} for a kernel of that length"
            ))),
        }
    }
}

pub(super) fn rows(dir: &Path, from: &Tables) -> Result<Vec<Row>, ImportError> {
    let (system, choices) = (&from.system, &from.vidur);
    let mut rows = Vec::new();
    if from.wants(&["gemm", "elementwise"]) {
        for path in choices.tables(dir, system, ".mlp.csv")? {
            each(&path, |s| layer(s, choices.residual_add, &mut rows))?;
        }
    }
    if from.wants(&["prefill_attention", "decode_attention"]) {
        for path in choices.tables(dir, system, ".attention.csv")? {
            each(&path, |s| attention(s, choices, &mut rows))?;
        }
    }
    let Some(links) = &from.links else { return Ok(rows) };
    if let Some(path) = find(dir, &format!("{links}."), "all_reduce.csv")? {
        let launch = choices.all_reduce_launch_us * 1e-6;
        each(&path, |s| {
            let (ranks, node) = (s.count("num_workers")?, s.count("devices_per_node")?);
            let run = Run::AllReduce { bytes: s.number("size")?, ranks };
            let seconds = s.seconds("all_reduce.median", MS)? + launch;
            if s.count("rank")? == 0 && ranks == node {
                rows.push(Row { run, seconds });
            }
            Ok(())
        })?;
    }
    if let Some(path) = find(dir, &format!("{links}."), "send_recv.csv")? {
        each(&path, |s| {
            let network = s.count("devices_per_node")? == 1;
            let run = Run::Send { bytes: s.number("size")?, network };
            let seconds = s.seconds("send_recv.median", MS)?;
            if s.count("rank")? == 0 {
                rows.push(Row { run, seconds });
            }
            Ok(())
        })?;
    }
    Ok(rows)
}

/// One rank's layer over a number of tokens.
fn layer(s: &Source, residual_add: bool, rows: &mut Vec<Row>) -> Result<(), ImportError> {
    let (ranks, m) = (s.positive("num_tensor_parallel_workers")?, s.number("num_tokens")?);
    let (hidden, heads) = (s.count("n_embd")?, s.count("n_head")?);
    let model = DenseShape {
        name: String::new(),
        source: String::new(),
        hidden,
        layers: 1,
        heads,
        kv_heads: s.count("n_kv_head")?,
        head_dim: hidden / heads.max(1),
        ffn: s.count("n_expanded_embd")?,
        gated: s.text("use_gated_mlp")?.eq_ignore_ascii_case("true"),
        vocab: s.count("vocab_size")?,
        tied_embeddings: false,
        position_rows: 0,
        bias: false,
        qk_norm: false,
        format: Format::Bf16,
        dtype_bytes: None,
        max_context: 1,
    };
    let time = |operator: &str| s.seconds(&format!("{operator}.median"), MS);
    let widths = Widths::new(&model, ranks);
    let gemms = ["attn_pre_proj", "attn_post_proj", "mlp_up_proj", "mlp_down_proj"];
    for (name, (n, k)) in gemms.iter().zip(widths.gemms) {
        rows.push(Row {
            run: Run::Gemm { m, n: n as u32, k: k as u32, format: Format::Bf16 },
            seconds: time(name)?,
        });
    }
    let movers = ["input_layernorm", "post_attention_layernorm", "attn_rope", "mlp_act"];
    for (name, elements) in movers.iter().zip(&widths.moved) {
        let mut seconds = time(name)?;
        if residual_add && *name == "post_attention_layernorm" {
            seconds += time("add")?;
        }
        rows.push(Row { run: Run::Move { bytes: m * elements * 2.0 }, seconds });
    }
    Ok(())
}

fn attention(s: &Source, choices: &Choices, rows: &mut Vec<Row>) -> Result<(), ImportError> {
    let ranks = s.positive("num_tensor_parallel_workers")?;
    let (query, kv) = (s.count("n_q_head")? / ranks, s.count("n_kv_head")? / ranks);
    let heads = Heads { query, kv, dim: HEAD_DIM, window: 0 };
    let (seqs, cached) = (s.number("batch_size")?, s.number("kv_cache_size")?);
    let prompts = s.text("is_prefill")?.eq_ignore_ascii_case("true");
    let (run, column) = if prompts {
        let tokens = s.number("prefill_chunk_size")?;
        let run = Run::Attention {
            heads,
            kv: KvDtype::Bf16,
            chunks: seqs,
            tokens,
            history: cached,
            decodes: 0.0,
            length: 0.0,
        };
        (run, "attn_prefill.median")
    } else {
        let run = Run::Attention {
            heads,
            kv: KvDtype::Bf16,
            chunks: 0.0,
            tokens: 0.0,
            history: 0.0,
            decodes: seqs,
            length: cached + 1.0,
        };
        (run, "attn_decode.median")
    };
    rows.push(Row { run, seconds: s.seconds(column, MS)? + choices.save(s)? });
    Ok(())
}
