//! The best speed of linear layers: those of SmolLM2-135M's shape at several batches, beside what the machine can do.
//!
//!     cargo run --release -p knee-kernels --example linear_speed -- [THREADS]

use std::time::Instant;

use kernels::cpu::{Linear, Output, Precision, Rows, Team, roofline};

const LAYERS: usize = 30;
const SHAPES: [(&str, usize, usize); 5] = [
    ("qkv", 576, 960),
    ("out", 576, 576),
    ("gate, up", 576, 1536),
    ("down", 1536, 576),
    ("head", 576, 49_152),
];

fn weights(len: usize) -> Vec<f32> {
    (0..len as u32).map(|i| ((i.wrapping_mul(2_654_435_761) >> 8) as f32 / 8e6) - 1.0).collect()
}

/// As many as a model has of them.
fn layers(
    team: &Team,
    precision: Precision,
    name: &str,
    features: usize,
    outputs: usize,
) -> Vec<Linear> {
    let w = weights(features * outputs);
    let layer = |_| match name {
        "gate, up" => Linear::pack_gated(team, precision, features, &w, &w),
        _ => Linear::pack(team, precision, features, &[&w]),
    };
    (0..if name == "head" { 1 } else { LAYERS }).map(layer).collect()
}

fn main() {
    let threads = std::env::args().nth(1).map_or(2, |n| n.parse().expect("a number of threads"));
    let team = Team::new(threads);
    let limits = roofline::measure(&team);
    println!(
        "{threads} threads, {}: reads {:.1} GB/s, int8 {:.0} GOP/s, f32 {:.0} GFLOP/s",
        team.isa().name(),
        limits.read / 1e9,
        limits.int8 / 1e9,
        limits.f32 / 1e9
    );
    for precision in [Precision::Int8, Precision::Bf16] {
        let peak = if precision == Precision::Int8 { limits.int8 } else { limits.f32 };
        for (name, features, outputs) in SHAPES {
            let layers = layers(&team, precision, name, features, outputs);
            print!("{precision:?} {name:8}");
            for rows in [1, 8, 32, 512] {
                let x = weights(rows * features);
                let mut taken = Rows::new(precision);
                let mut y = vec![0.0f32; rows * outputs];
                let (mut quantising, mut best) = (f64::INFINITY, f64::INFINITY);
                for _ in 0..if rows == 512 { 4 } else { 30 } {
                    let start = Instant::now();
                    taken.take(&team, &x, features);
                    quantising = quantising.min(start.elapsed().as_secs_f64());
                    for layer in &layers {
                        let start = Instant::now();
                        layer.forward(&team, &taken, Output::Store(&mut y));
                        best = best.min(start.elapsed().as_secs_f64());
                    }
                }
                let gates = if name == "gate, up" { 2 } else { 1 };
                let operations = (2 * rows * features * outputs * gates) as f64;
                let bytes = layers[0].bytes() as f64;
                let least = (operations / peak).max(bytes / limits.read);
                print!(
                    "  {rows:3}: {:7.1} us {:3.0} % (take {:5.1})",
                    best * 1e6,
                    100.0 * least / best,
                    quantising * 1e6
                );
            }
            println!();
        }
    }
}
