//! The errors of predictions on measurements that the fit had not seen: every operator, and whole layers.
//!
//!     cargo run --release -p knee-engine --example operator_error -- DIR [SEED [DEVICE]]
//!
//! DIR holds the families' folders. Each fifth of an operator's rows is predicted by a fit to the other four; shapes without knots
//! of their own are predicted from their neighbours. A layer's
//! time is the sum of its operators', measured and predicted, for those shipped models and numbers of ranks whose
//! matrix products are all in the tables. Tables also hold batches whose keys and values no such device has room for
//! beside the weights; the last line is about those it has.

use std::collections::BTreeMap;
use std::path::Path;

use engine::exec::cost::Widths;
use engine::format::Format;
use engine::import::{Family, Imported, Point, Run, import, spread};
use engine::memory::kv_slots;
use engine::profile::{FitError, import_sheets};
use engine::{Config, ModelShape};

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let Some(dir) = arguments.first() else {
        eprintln!("usage: operator_error DIR [SEED [DEVICE]]");
        std::process::exit(2);
    };
    let only = arguments.get(2);
    let seed = arguments.get(1).and_then(|s| s.parse().ok()).unwrap_or(engine::import::SEED);
    for (name, text) in import_sheets() {
        if only.is_some_and(|only| only != name) {
            continue;
        }
        let imported =
            import(Path::new(dir), (name, text), &Family::ALL, seed).unwrap_or_else(|e| {
                eprintln!("{name}: {e}");
                std::process::exit(1);
            });
        println!("{name}: {} bytes", imported.toml.len());
        println!("  {:<34}{}", "operator", FitError::COLUMNS);
        for (operator, error) in &imported.profile.fit {
            println!("  {operator:<34}{error}");
        }
        layers(&imported);
    }
}

fn percent(x: [f64; 3]) -> String {
    let [a, b, c] = x.map(|x| 100.0 * x);
    format!("{a:.1} / {b:.1} / {c:.1} %")
}

/// Seconds measured, and predicted unseen, by run.
type Times<K> = BTreeMap<K, (f64, f64)>;

fn by<K: Ord>(points: Option<&Vec<Point>>, key: impl Fn(&Run) -> Option<K>) -> Times<K> {
    let mut sums: BTreeMap<K, (f64, f64, f64)> = BTreeMap::new();
    for point in points.into_iter().flatten() {
        if let Some(key) = key(&point.run) {
            let sum = sums.entry(key).or_default();
            *sum = (sum.0 + point.measured, sum.1 + point.unseen, sum.2 + 1.0);
        }
    }
    sums.into_iter().map(|(k, (m, u, n))| (k, (m / n, u / n))).collect()
}

fn layers(imported: &Imported) {
    let points = |operator: &str| imported.points.get(operator);
    let gemms = by(points("gemm"), |run| match *run {
        Run::Gemm { m, n, k, format: Format::Bf16 } => Some((n, k, m as u64)),
        _ => None,
    });
    let moves = by(points("elementwise"), |run| match *run {
        Run::Move { bytes } => Some(bytes as u64),
        _ => None,
    });
    let borrowed =
        |operator: &str| imported.profile.composed.iter().any(|c| c.starts_with(operator));
    let mut all: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
    let mut held: Vec<f64> = Vec::new();
    for name in ModelShape::names() {
        let Ok(model) = ModelShape::load(name) else { continue };
        let Some(flat) = model.dense() else { continue };
        for tp in [1, 2, 4, 8] {
            let widths = Widths::new(&flat, tp);
            let config = Config { tp, ..Config::default() };
            let room = kv_slots(&model, &imported.profile, &config).map_or(0, |plan| plan.slots);
            // The layer without attention, of `m` tokens: measured and predicted.
            let dense = |m: f64| {
                let mut sum = (0.0, 0.0);
                for (n, k) in widths.gemms {
                    let (measured, unseen) = gemms.get(&(n as u32, k as u32, m as u64))?;
                    sum = (sum.0 + measured, sum.1 + unseen);
                }
                for elements in widths.moved.iter().filter(|_| !moves.is_empty()) {
                    let (measured, unseen) = moves.get(&((m * elements * 2.0) as u64))?;
                    sum = (sum.0 + measured, sum.1 + unseen);
                }
                Some(sum)
            };
            let mut found: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
            for kind in ["prefill_attention", "mixed_attention", "decode_attention"] {
                for point in points(kind).into_iter().flatten().filter(|_| !borrowed(kind)) {
                    let Run::Attention { heads, chunks, tokens, history, decodes, length, .. } =
                        point.run
                    else {
                        continue;
                    };
                    if heads != widths.heads {
                        continue;
                    }
                    if let Some((measured, unseen)) = dense(chunks * tokens + decodes) {
                        let ratio = (unseen + point.unseen) / (measured + point.measured);
                        found.entry(kind.trim_end_matches("_attention")).or_default().push(ratio);
                        if chunks * (history + tokens) + decodes * length <= room as f64 {
                            held.push(ratio);
                        }
                    }
                }
            }
            if borrowed("prefill_attention") {
                let ratios = (1..=16_384).filter_map(|m| dense(f64::from(m))).map(|(m, u)| u / m);
                found.insert("without attention", ratios.collect());
            }
            for (kind, ratios) in found.into_iter().filter(|(_, r)| !r.is_empty()) {
                let label = format!("layer of {name} TP {tp}, {kind}");
                println!(
                    "  {label:<50}{:>6} points {:>26}",
                    ratios.len(),
                    percent(spread(&ratios))
                );
                all.entry(kind).or_default().extend(ratios);
            }
        }
    }
    let every: Vec<f64> = all.values().flatten().copied().collect();
    for (label, ratios) in [("all layers", every), ("all layers that fit in memory", held)] {
        if !ratios.is_empty() {
            println!("  {label:<50}{:>6} points {:>26}", ratios.len(), percent(spread(&ratios)));
        }
    }
}
