//! The published measurements as rows of (what was run, how long it took), and what a profile predicts for them.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;

use engine::profile::{DeviceProfile, FitError, Heads};
use flate2::read::GzDecoder;

/// What was run.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Run {
    /// `[m,k] x [k,n]` in bf16.
    Gemm { m: f64, n: f64, k: f64 },
    /// Whole prompts, nothing cached.
    Prefill { heads: Heads, seqs: f64, tokens: f64 },
    /// One token for each of `seqs` sequences of `length`.
    Decode { heads: Heads, seqs: f64, length: f64 },
    /// A sum over ranks.
    AllReduce { bytes: f64, ranks: u32 },
    /// From one GPU to another, of the same node or not.
    Send { bytes: f64, network: bool },
}

/// A measurement.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Row {
    pub(crate) run: Run,
    pub(crate) seconds: f64,
}

impl Run {
    /// What the profile's law gives, seconds.
    pub(crate) fn predict(&self, device: &DeviceProfile) -> f64 {
        match *self {
            Self::Gemm { m, n, k } => device.gemm(m, n, k, 2.0),
            Self::Prefill { heads, seqs, tokens } => {
                let new = seqs * tokens;
                let pairs = seqs * tokens * (tokens + 1.0) / 2.0;
                device.prefill_attention.start_us * 1e-6
                    + device.prefill_attention(heads, new, new, pairs, 2.0)
            }
            Self::Decode { heads, seqs, length } => {
                device.decode_attention.start_us * 1e-6
                    + device.decode_attention(heads, seqs, seqs * length, 2.0)
            }
            Self::AllReduce { bytes, ranks } => device.all_reduce(bytes, ranks),
            Self::Send { bytes, network } => {
                if network { &device.network } else { &device.node }.seconds(bytes)
            }
        }
    }
}

/// Files a device was measured in: (system, engine version, point-to-point system).
fn files(device: &str) -> Option<[&'static str; 3]> {
    match device {
        "h100-sxm" => Some(["h100_sxm", "vllm-0.24.0", "h100_dgx"]),
        // Same links as the H100's node.
        "h200-sxm" => Some(["h200_sxm", "vllm-0.24.0", "h100_dgx"]),
        "a100-sxm" => Some(["a100_sxm", "vllm-0.14.0", "a100_dgx"]),
        _ => None,
    }
}

type Record = BTreeMap<String, String>;

fn number(record: &Record, field: &str) -> f64 {
    record[field].parse().unwrap_or_else(|e| panic!("{field} = {}: {e}", record[field]))
}

fn records(path: &Path) -> Vec<Record> {
    let file = File::open(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let mut reader = csv::Reader::from_reader(GzDecoder::new(file));
    reader
        .deserialize()
        .collect::<Result<_, _>>()
        .unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// The rows of one operator that its law is meant for: those near what dense models of 7B to 70B run.
pub(crate) fn rows(dir: &Path, device: &str, operator: &str) -> Vec<Row> {
    let [system, engine, links] = files(device).unwrap_or_else(|| panic!("no tables for {device}"));
    let table =
        |name: &str| records(&dir.join(format!("aiconfigurator/{system}.{engine}.{name}.csv.gz")));
    let sent = || records(&dir.join(format!("vidur/{links}.send_recv.csv.gz")));
    match operator {
        "gemm" => table("gemm").iter().filter_map(gemm).collect(),
        "prefill_attention" => table("context_attention").iter().filter_map(prefill).collect(),
        "decode_attention" => table("generation_attention").iter().filter_map(decode).collect(),
        "node" => sent().iter().filter_map(|r| send(r, false)).collect(),
        "network" => sent().iter().filter_map(|r| send(r, true)).collect(),
        _ => {
            let ranks: u32 = operator
                .strip_prefix("all_reduce_")
                .and_then(|n| n.parse().ok())
                .expect("a known operator");
            table("custom_allreduce").iter().filter_map(|r| all_reduce(r, ranks)).collect()
        }
    }
}

/// Every operator that is fitted.
pub(crate) const OPERATORS: [&str; 8] = [
    "gemm",
    "prefill_attention",
    "decode_attention",
    "all_reduce_2",
    "all_reduce_4",
    "all_reduce_8",
    "node",
    "network",
];

fn gemm(r: &Record) -> Option<Row> {
    let [m, n, k] = ["m", "n", "k"].map(|f| number(r, f));
    // Layers of these models, whole or split, and nothing an order of magnitude away; beyond 16k tokens no engine goes.
    let near = r["gemm_dtype"] == "bfloat16" && n.min(k) >= 1024.0 && n * k >= 4e6 && m <= 16_384.0;
    near.then(|| Row { run: Run::Gemm { m, n, k }, seconds: number(r, "latency_ms") * 1e-3 })
}

fn heads(r: &Record) -> Option<Heads> {
    let [query, kv, dim] =
        ["num_heads", "num_key_value_heads", "head_dim"].map(|f| number(r, f) as u32);
    (dim == 128 && query >= 4).then_some(Heads { query, kv, dim })
}

fn prefill(r: &Record) -> Option<Row> {
    let (seqs, tokens) = (number(r, "batch_size"), number(r, "isl"));
    let run = Run::Prefill { heads: heads(r)?, seqs, tokens };
    (seqs * tokens <= 32_768.0).then(|| Row { run, seconds: number(r, "latency_ms") * 1e-3 })
}

fn decode(r: &Record) -> Option<Row> {
    let heads = heads(r)?;
    let (seqs, length) = (number(r, "batch_size"), number(r, "kv_len"));
    let bytes = seqs * length * f64::from(heads.kv * heads.dim) * 4.0;
    // The benchmark repeats over the same KV: between these sizes it is served by the L2 cache (40 to 50 MB), which in
    // a model the other layers have flushed.
    let honest = bytes <= 4e6 || bytes >= 100e6;
    honest.then(|| Row {
        run: Run::Decode { heads, seqs, length },
        seconds: number(r, "latency_ms") * 1e-3,
    })
}

fn all_reduce(r: &Record, ranks: u32) -> Option<Row> {
    let bytes = 2.0 * number(r, "elements");
    // Inside CUDA graphs, as engines run it; up to 16k tokens of the widest model here.
    let near =
        r["backend"] == "vllm_graph" && number(r, "num_gpus") as u32 == ranks && bytes <= 300e6;
    near.then(|| Row {
        run: Run::AllReduce { bytes, ranks },
        seconds: number(r, "latency_ms") * 1e-3,
    })
}

fn send(r: &Record, network: bool) -> Option<Row> {
    let apart = if network { 1.0 } else { 2.0 };
    let near = number(r, "rank") == 0.0 && number(r, "devices_per_node") == apart;
    near.then(|| Row {
        run: Run::Send { bytes: number(r, "size"), network },
        seconds: number(r, "send_recv.median") * 1e-3,
    })
}

/// The error of a profile's law on `rows`.
pub(crate) fn error(device: &DeviceProfile, rows: &[Row]) -> FitError {
    let mut errors: Vec<f64> =
        rows.iter().map(|r| (r.run.predict(device) / r.seconds - 1.0).abs()).collect();
    errors.sort_by(f64::total_cmp);
    let at = |q: f64| errors[((errors.len() - 1) as f64 * q).round() as usize];
    FitError { rows: errors.len(), median: at(0.5), p90: at(0.9) }
}
