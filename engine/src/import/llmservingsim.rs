//! KAIST's LLMServingSim: a model's operators inside vLLM, with mixed batches.
//!
//! Read as a checkout lies: profiler/perf/GPU/ORGANISATION/MODEL/bf16/tpN/*.csv, or `perf` alone. Times are in
//! microseconds. Tables of models whose shape is not known are left out, and named.

use std::path::{Path, PathBuf};

use super::folders::{US, each, folder, folders, name_of};
use super::source::{Source, find};
use super::tables::{Found, ImportError, Row, Run};
use crate::config::KvDtype;
use crate::exec::cost::Widths;
use crate::format::Format;
use crate::model::{DenseShape, ModelShape};

/// Everything there is of `system`, in the family's own folder or straight in the one that was given.
pub(super) fn rows(own: &Path, given: &Path, system: &str) -> Result<Found, ImportError> {
    let root = folder(&[own, given], &["perf", "profiler/perf"], system);
    let root = root.unwrap_or_else(|| own.join("perf").join(system));
    let mut found = Found::default();
    let mut unknown = None;
    for measured in measured_models(&root)? {
        match ModelShape::load(&measured.model.to_lowercase()) {
            Ok(shape) => match shape.dense() {
                Some(shape) => tables(&measured, &shape, &mut found.rows)?,
                None => {
                    found.notes.push(format!("{} is left out: it is not dense", measured.model));
                }
            },
            Err(error) => {
                let Measured { model, ranks, .. } = &measured;
                found.notes.push(format!("{model} on {ranks} is left out: its shape is not known"));
                unknown = Some(error);
            }
        }
    }
    match unknown {
        Some(error) if found.rows.is_empty() => Err(error.into()),
        _ => Ok(found),
    }
}

/// A model and the folder of its tables on some ranks.
struct Measured {
    model: String,
    ranks: u32,
    folder: PathBuf,
}

/// Everything in ORGANISATION/MODEL/bf16/tpN under `root`.
fn measured_models(root: &Path) -> Result<Vec<Measured>, ImportError> {
    let mut found = Vec::new();
    for organisation in folders(root)? {
        for model in folders(&organisation)? {
            let bf16 = model.join("bf16");
            for folder in if bf16.is_dir() { folders(&bf16)? } else { Vec::new() } {
                let ranks = name_of(&folder).strip_prefix("tp").and_then(|n| n.parse().ok());
                if let Some(ranks) = ranks.filter(|n| *n > 0) {
                    found.push(Measured { model: name_of(&model), ranks, folder });
                }
            }
        }
    }
    Ok(found)
}

/// Rows of one model.
fn tables(measured: &Measured, model: &DenseShape, rows: &mut Vec<Row>) -> Result<(), ImportError> {
    let ranks = measured.ranks;
    let table = |name: &str| find(&measured.folder, name, ".csv");
    let heads = Widths::new(model, ranks).heads;
    if let Some(path) = table("dense")? {
        each(&path, |s| layer(s, model, ranks, rows))?;
    }
    if let Some(path) = table("per_sequence")? {
        each(&path, |s| {
            let m = s.number("sequences")?;
            let run = match s.text("layer")? {
                "lm_head" => {
                    Run::Gemm { m, n: model.vocab / ranks, k: model.hidden, format: Format::Bf16 }
                }
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
                kv: KvDtype::Bf16,
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
    Ok(())
}

/// One operator of a layer over a number of tokens.
fn layer(
    s: &Source,
    model: &DenseShape,
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
        Run::Gemm { m, n: n as u32, k: k as u32, format: Format::Bf16 }
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
