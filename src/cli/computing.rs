//! The flags of the real engine on this machine.

use clap::Args;
use engine::exec::cpu::{Isa, Precision};

use super::headings::HERE;

/// The settings of the real engine (`--device cpu`, `--device cuda:N`, `--device cuda:0-3`).
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = HERE)]
pub(crate) struct Computing {
    /// Weights to compute with instead of the model's own: random, or random:SEED
    #[arg(long, value_name = "random[:SEED]", value_parser = weights)]
    pub(crate) weights: Option<Random>,
    /// Number format of weights: int8, bf16 or f32 (default: int8; on a GPU bf16, and nothing else)
    #[arg(long, value_parser = precision)]
    pub(crate) precision: Option<Precision>,
    /// Threads that compute (default: one per processor)
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub(crate) cpu_threads: Option<u32>,
    /// Instructions it computes with: amx-int8, avx512-bf16, avx512-vnni, avx2 or portable (default: the best this
    /// processor has)
    #[arg(long, value_parser = isa)]
    pub(crate) isa: Option<Isa>,
    /// On a GPU: results that do not depend on what else is in the batch, with slower kernels (a processor's never do)
    #[arg(long)]
    pub(crate) deterministic: bool,
    /// On a GPU: launch every kernel by itself instead of replaying decodes as CUDA graphs
    #[arg(long)]
    pub(crate) no_graphs: bool,
    /// Memory for keys and values of each worker, such as 512MB or 2GB (default: 1GB; on a GPU what kv-fraction of its
    /// memory leaves beside weights and a batch)
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub(crate) kv_memory: Option<u64>,
}

/// A seed of made-up weights.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Random(pub(crate) u64);

fn weights(text: &str) -> Result<Random, String> {
    let text = text.to_ascii_lowercase();
    let seed = match text.split_once(':') {
        None if text == "random" => Some(0),
        Some(("random", seed)) => seed.parse().ok(),
        _ => None,
    };
    seed.map(Random).ok_or_else(|| "expected random or random:SEED, such as random:7".to_owned())
}

fn isa(text: &str) -> Result<Isa, String> {
    let all = Isa::all();
    let here = || all.iter().map(|isa| isa.name()).collect::<Vec<_>>().join(", ");
    all.iter()
        .find(|i| i.name().eq_ignore_ascii_case(text))
        .copied()
        .ok_or_else(|| format!("this processor has {}", here()))
}

fn precision(text: &str) -> Result<Precision, String> {
    match text.to_ascii_lowercase().as_str() {
        "int8" => Ok(Precision::Int8),
        "bf16" => Ok(Precision::Bf16),
        "f32" => Ok(Precision::F32),
        _ => Err("expected int8, bf16 or f32".to_owned()),
    }
}

fn size(text: &str) -> Result<u64, String> {
    let bad = || "expected a size with its unit, such as 512MB or 2GB".to_owned();
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(bad)?;
    let number: f64 = text[..digits].parse().map_err(|_| bad())?;
    let unit = match text[digits..].trim().to_ascii_lowercase().as_str() {
        "mb" => 1e6,
        "gb" => 1e9,
        "mib" => f64::from(1 << 20),
        "gib" => f64::from(1 << 30),
        _ => return Err(bad()),
    };
    let bytes = number * unit;
    if (1e6..1e15).contains(&bytes) { Ok(bytes as u64) } else { Err(bad()) }
}
