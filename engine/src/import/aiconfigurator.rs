//! NVIDIA's AIConfigurator: kernels alone, any shape, timed inside engines.
//!
//! Read as its wheel lies, unpacked: SYSTEM/FAMILY/vllm/VERSION/TABLE_perf.parquet somewhere under `systems/data`, the
//! newest version that has the table; or as CSV in one folder, SYSTEM.VERSION.TABLE.csv. Times are in milliseconds in
//! both, and only the dense bf16 rows that the cost model prices are taken.

use std::path::{Path, PathBuf};

use super::folders::{MS, each, folder, folders, name_of};
use super::source::{Source, find};
use super::tables::{Found, ImportError, Row, Run};

/// Where the data of systems lie in an unpacked wheel, an installed package or a checkout.
const DATA: [&str; 5] = [
    "data",
    "systems/data",
    "aisimulate_core/systems/data",
    "aiconfigurator_core/systems/data",
    "aic-core/src/aiconfigurator_core/systems/data",
];

/// The engine whose kernels were timed.
const ENGINE: &str = "vllm";

/// Where the tables of one system are.
enum Tables {
    /// In folders by operator, engine and version.
    Folders(PathBuf),
    /// Side by side in one folder, named after the system.
    Flat(PathBuf, String),
}

impl Tables {
    fn find(&self, name: &str) -> Result<Option<PathBuf>, ImportError> {
        match self {
            Self::Folders(system) => newest(system, &format!("{name}_perf.parquet")),
            Self::Flat(dir, system) => find(dir, &format!("{system}."), &format!(".{name}.csv")),
        }
    }
}

/// Everything there is of `system`, in the family's own folder or straight in the one that was given.
pub(super) fn rows(own: &Path, given: &Path, system: &str) -> Result<Found, ImportError> {
    let places = [own, given];
    let of_system = || folder(&places, &DATA, system).or_else(|| folder(&places, &[""], system));
    let tables = match (of_system(), folder(&[own], &DATA, "")) {
        (Some(folder), _) => Tables::Folders(folder),
        (None, Some(dir)) => {
            let name = format!("of {system}");
            return Err(ImportError::Absent { name, dir, derived: false });
        }
        (None, None) => Tables::Flat(own.to_path_buf(), system.to_owned()),
    };
    let mut found = Found::default();
    read(&tables, "gemm", &mut found, gemm)?;
    read(&tables, "context_attention", &mut found, |s| attention(s, true))?;
    read(&tables, "generation_attention", &mut found, |s| attention(s, false))?;
    read(&tables, "custom_allreduce", &mut found, all_reduce)?;
    Ok(found)
}

/// Adds the rows of a table that are wanted, where there is such a table.
fn read(
    tables: &Tables,
    name: &str,
    to: &mut Found,
    row: impl Fn(&Source) -> Result<Option<Run>, ImportError>,
) -> Result<(), ImportError> {
    let Some(path) = tables.find(name)? else { return Ok(()) };
    each(&path, |s| {
        let seconds = s.seconds(if s.has("latency") { "latency" } else { "latency_ms" }, MS)?;
        to.rows.extend(row(s)?.map(|run| Row { run, seconds }));
        Ok(())
    })?;
    if let (Tables::Folders(_), Some(version)) = (tables, path.parent()) {
        to.notes.push(format!("{name} is of {ENGINE} {}", name_of(version)));
    }
    Ok(())
}

fn gemm(s: &Source) -> Result<Option<Run>, ImportError> {
    let run = Run::Gemm { m: s.number("m")?, n: s.count("n")?, k: s.count("k")? };
    Ok((s.text("gemm_dtype")? == "bfloat16").then_some(run))
}

/// Prompts, or sequences that decode a token each: heads of 128, the whole context.
fn attention(s: &Source, prompts: bool) -> Result<Option<Run>, ImportError> {
    let heads = [s.count("num_heads")?, s.count("num_key_value_heads")?];
    let (seqs, zero) = (s.number("batch_size")?, 0.0);
    let bf16 = s.text("kv_cache_dtype")? == "bfloat16" && s.text("attn_dtype")? == "bfloat16";
    let whole = !s.has("window_size") || s.count("window_size")? == 0;
    // The wheel says how many tokens are new (isl) and how many were there before (step).
    let before = if s.has("step") { s.number("step")? } else { 0.0 };
    let run = if prompts {
        let tokens = s.number("isl")?;
        Run::Attention { heads, chunks: seqs, tokens, history: before, decodes: zero, length: zero }
    } else {
        let length = if s.has("kv_len") { s.number("kv_len")? } else { s.number("isl")? + before };
        Run::Attention { heads, chunks: zero, tokens: zero, history: zero, decodes: seqs, length }
    };
    Ok((bf16 && whole && s.count("head_dim")? == 128).then_some(run))
}

/// Inside CUDA graphs, as engines run it; sizes are in elements of bf16.
fn all_reduce(s: &Source) -> Result<Option<Run>, ImportError> {
    let size = if s.has("message_size") { "message_size" } else { "elements" };
    let run = Run::AllReduce { bytes: 2.0 * s.number(size)?, ranks: s.count("num_gpus")? };
    let bf16 = s.text("allreduce_dtype")? == "bfloat16";
    Ok((bf16 && s.text("backend")? == "vllm_graph").then_some(run))
}

/// The table `file` of the newest version among SYSTEM/FAMILY/ENGINE/VERSION that has it.
fn newest(system: &Path, file: &str) -> Result<Option<PathBuf>, ImportError> {
    let mut versions = Vec::new();
    for family in folders(system)? {
        let engine = family.join(ENGINE);
        if engine.is_dir() {
            versions.extend(folders(&engine)?.into_iter().filter(|v| v.join(file).is_file()));
        }
    }
    let newest = versions.into_iter().max_by_key(|v| version_key(&name_of(v)));
    Ok(newest.map(|version| version.join(file)))
}

/// Puts versions in the order of their releases: by numbers, with `dev` and `rc` before and `post` after the release.
fn version_key(version: &str) -> Vec<(i8, u64)> {
    let mut key = Vec::new();
    let mut rest = version;
    while let Some(first) = rest.chars().next() {
        let end = |same: fn(char) -> bool| rest.find(|c| !same(c)).unwrap_or(rest.len());
        let digits = end(|c| c.is_ascii_digit());
        let (part, length) = match digits {
            0 if first.is_alphabetic() => {
                let length = end(char::is_alphabetic);
                let part = match &rest[..length] {
                    "dev" => (-2, 0),
                    "post" => (1, 0),
                    _ => (-1, 0),
                };
                (Some(part), length)
            }
            0 => (None, first.len_utf8()),
            length => (Some((1, rest[..length].parse().unwrap_or(u64::MAX))), length),
        };
        key.extend(part);
        rest = &rest[length..];
    }
    key.push((0, 0));
    key
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_in_the_order_of_their_releases() {
        let order = [
            "0.1.dev19262",
            "0.5.6",
            "0.5.6.post2",
            "0.9.0",
            "0.24.0rc3",
            "0.24.0",
            "0.24.1",
            "1.0",
        ];
        assert!(order.is_sorted_by_key(|v| version_key(v)), "{:?}", order.map(version_key));
        let _ = version_key("v1.é-x..99999999999999999999999");
    }
}
