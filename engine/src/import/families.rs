//! The three published families of operator tables, brought to one vocabulary.
//!
//! Rows of model-specific tables become rows of general operators by the model's shape; what a row costs is in seconds
//! on one rank.

use std::path::Path;

use serde::Deserialize;

use super::source::{Source, find};
use super::{ImportError, Row, Run, Tables, vidur};
use crate::exec::cost::Widths;
use crate::model::ModelShape;

/// Who measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Family {
    /// NVIDIA's AIConfigurator: kernels alone, any shape.
    AiConfigurator,
    /// Microsoft's Vidur: a model's operators, and links.
    Vidur,
    /// KAIST's LLMServingSim: a model's operators inside vLLM, with mixed batches.
    LlmServingSim,
    /// This program, on the machine it runs on.
    Knee,
}

impl Family {
    /// All that publish tables.
    pub const ALL: [Self; 3] = [Self::AiConfigurator, Self::Vidur, Self::LlmServingSim];

    /// Its name, which is that of its folder.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::AiConfigurator => "aiconfigurator",
            Self::Vidur => "vidur",
            Self::LlmServingSim => "llmservingsim",
            Self::Knee => "knee",
        }
    }

    /// The family called `name`.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|f| f.name() == name)
    }

    /// Everything it measured of the device and the node that `from` names.
    pub(super) fn rows(self, dir: &Path, from: &Tables) -> Result<Vec<Row>, ImportError> {
        let dir = dir.join(self.name());
        match self {
            Self::AiConfigurator => aiconfigurator(&dir, &from.system),
            Self::Vidur => vidur::rows(&dir, from),
            Self::LlmServingSim => llmservingsim(&dir, &from.system),
            Self::Knee => Err(ImportError::Sheet {
                sheet: from.system.clone(),
                reason: "measured where it was made: there are no tables to import".to_owned(),
            }),
        }
    }
}

pub(super) fn each(
    path: &Path,
    mut row: impl FnMut(&Source) -> Result<(), ImportError>,
) -> Result<(), ImportError> {
    let mut source = Source::open(path)?;
    while source.advance()? {
        row(&source)?;
    }
    Ok(())
}

pub(super) const MS: f64 = 1e-3;
const US: f64 = 1e-6;

fn aiconfigurator(dir: &Path, system: &str) -> Result<Vec<Row>, ImportError> {
    let mut rows = Vec::new();
    let starts = format!("{system}.");
    if let Some(path) = find(dir, &starts, ".gemm.csv")? {
        each(&path, |s| {
            let run = Run::Gemm { m: s.number("m")?, n: s.count("n")?, k: s.count("k")? };
            let seconds = s.seconds("latency_ms", MS)?;
            if s.text("gemm_dtype")? == "bfloat16" {
                rows.push(Row { run, seconds });
            }
            Ok(())
        })?;
    }
    for (table, length) in [("context", "isl"), ("generation", "kv_len")] {
        let Some(path) = find(dir, &starts, &format!(".{table}_attention.csv"))? else { continue };
        each(&path, |s| {
            let heads = [s.count("num_heads")?, s.count("num_key_value_heads")?];
            let (seqs, length) = (s.number("batch_size")?, s.number(length)?);
            let run = if table == "context" {
                Run::Attention {
                    heads,
                    chunks: seqs,
                    tokens: length,
                    history: 0.0,
                    decodes: 0.0,
                    length: 0.0,
                }
            } else {
                Run::Attention {
                    heads,
                    chunks: 0.0,
                    tokens: 0.0,
                    history: 0.0,
                    decodes: seqs,
                    length,
                }
            };
            let seconds = s.seconds("latency_ms", MS)?;
            let bf16 =
                s.text("kv_cache_dtype")? == "bfloat16" && s.text("attn_dtype")? == "bfloat16";
            if bf16 && s.count("head_dim")? == 128 {
                rows.push(Row { run, seconds });
            }
            Ok(())
        })?;
    }
    if let Some(path) = find(dir, &starts, ".custom_allreduce.csv")? {
        each(&path, |s| {
            let bytes = 2.0 * s.number("elements")?;
            let run = Run::AllReduce { bytes, ranks: s.count("num_gpus")? };
            let seconds = s.seconds("latency_ms", MS)?;
            // Inside CUDA graphs, as engines run it.
            if s.text("backend")? == "vllm_graph" {
                rows.push(Row { run, seconds });
            }
            Ok(())
        })?;
    }
    Ok(rows)
}

fn llmservingsim(dir: &Path, system: &str) -> Result<Vec<Row>, ImportError> {
    let mut rows = Vec::new();
    let root = dir.join("perf").join(system);
    for (folder, model, ranks) in measured_models(&root)? {
        let model = ModelShape::load(&model)?;
        let table = |name: &str| find(&folder, name, ".csv");
        let heads = Widths::new(&model, ranks).heads;
        let heads = [heads.query, heads.kv];
        if let Some(path) = table("dense")? {
            each(&path, |s| llmservingsim_layer(s, &model, ranks, &mut rows))?;
        }
        if let Some(path) = table("per_sequence")? {
            each(&path, |s| {
                let m = s.number("sequences")?;
                let run = match s.text("layer")? {
                    "lm_head" => Run::Gemm { m, n: model.vocab / ranks, k: model.hidden },
                    "sampler" => Run::Choose { bytes: m * f64::from(model.vocab / ranks) * 4.0 },
                    _ => return Ok(()),
                };
                rows.push(Row { run, seconds: s.seconds("time_us", US)? });
                Ok(())
            })?;
        }
        if let Some(path) = table("attention")? {
            each(&path, |s| {
                let run = Run::Attention {
                    heads,
                    chunks: f64::from(u8::from(s.number("prefill_chunk")? > 0.0)),
                    tokens: s.number("prefill_chunk")?,
                    history: s.number("kv_prefill")?,
                    decodes: s.number("n_decode")?,
                    length: s.number("kv_decode")? + 1.0,
                };
                rows.push(Row { run, seconds: s.seconds("time_us", US)? });
                Ok(())
            })?;
        }
        if let Some(path) = table("skew.")? {
            each(&path, |s| {
                let [mean, longest, seconds] =
                    ["t_mean_us", "t_max_us", "t_skew_us"].map(|c| s.seconds(c, US));
                let run = Run::Skew { mean: mean?, longest: longest? };
                if s.text("regime")? == "pure" {
                    rows.push(Row { run, seconds: seconds? });
                }
                Ok(())
            })?;
        }
    }
    Ok(rows)
}

fn llmservingsim_layer(
    s: &Source,
    model: &ModelShape,
    ranks: u32,
    rows: &mut Vec<Row>,
) -> Result<(), ImportError> {
    let name = s.text("layer")?;
    let gemms = ["qkv_proj", "o_proj", "gate_up_proj", "down_proj"];
    let movers = ["layernorm", "", "rotary_emb", "act_fn", "qk_norm"];
    let widths = Widths::new(model, ranks);
    let m = s.number("tokens")?;
    let run = if let Some(i) = gemms.iter().position(|g| *g == name) {
        let (n, k) = widths.gemms[i];
        Run::Gemm { m, n: n as u32, k: k as u32 }
    } else if let Some(elements) =
        movers.iter().position(|g| *g == name).and_then(|i| widths.moved.get(i))
    {
        Run::Move { bytes: m * elements * 2.0 }
    } else {
        return Ok(()); // embedding, final norm: once per iteration
    };
    rows.push(Row { run, seconds: s.seconds("time_us", US)? });
    Ok(())
}

/// Folders ORGANISATION/MODEL/bf16/tpN under `root`: (folder, model, ranks).
fn measured_models(root: &Path) -> Result<Vec<(std::path::PathBuf, String, u32)>, ImportError> {
    let list = |dir: &Path| -> Result<Vec<std::path::PathBuf>, ImportError> {
        let read = |source| ImportError::Read { path: dir.to_path_buf(), source };
        let mut found = Vec::new();
        for entry in std::fs::read_dir(dir).map_err(read)? {
            found.push(entry.map_err(read)?.path());
        }
        found.retain(|p| p.is_dir());
        found.sort();
        Ok(found)
    };
    let mut models = Vec::new();
    for organisation in list(root)? {
        for model in list(&organisation)? {
            let name = model.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
            for folder in list(&model.join("bf16"))? {
                let tp = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
                if let Some(ranks) =
                    tp.strip_prefix("tp").and_then(|n| n.parse().ok()).filter(|n| *n > 0)
                {
                    models.push((folder, name.clone(), ranks));
                }
            }
        }
    }
    Ok(models)
}
