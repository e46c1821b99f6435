//! The best speed of attention in decodes: SmolLM2-135M's heads over keys and values that no cache holds, laid out as
//! allocators leave them, beside how fast the machine reads.
//!
//!     cargo run --release -p knee-kernels --example attention_speed -- [THREADS]

use std::time::Instant;

use kernels::cpu::{Attention, Heads, KvLayer, Run, Span, Team, roofline};

const LAYERS: usize = 30;
const HEADS: Heads = Heads { queries: 9, kv: 3, dim: 64 };
/// Tokens of keys and values, of each layer.
const POOL: u32 = 32_768;
const BLOCK: u32 = 16;
const LAYOUTS: [&str; 4] = ["one run", "blocks in order", "blocks in turns", "scattered"];

/// The runs of sequence `seq` of `seqs`, whose first block is the pool's `first`-th.
fn runs(layout: &str, (seq, seqs): (u32, u32), length: u32, first: u32) -> Vec<Run> {
    let blocks = length / BLOCK;
    let slot = |block: u32| {
        let at = match layout {
            "blocks in turns" => block * seqs + seq,
            "scattered" => (seq * blocks + block) * 1237,
            _ => seq * blocks + block,
        };
        (first + at) % (POOL / BLOCK) * BLOCK
    };
    if layout == "one run" {
        return vec![Run { position: 0, slot: slot(0), len: length }];
    }
    (0..blocks).map(|b| Run { position: b * BLOCK, slot: slot(b), len: BLOCK }).collect()
}

fn main() {
    let threads = std::env::args().nth(1).map_or(2, |n| n.parse().expect("a number of threads"));
    let team = Team::new(threads);
    let read = roofline::measure(&team).read;
    println!("{threads} threads, {}: reads {:.1} GB/s", team.isa().name(), read / 1e9);
    let memory: Vec<KvLayer> =
        (0..LAYERS).map(|_| KvLayer::new(HEADS, POOL as usize, true)).collect();
    let mut attention = Attention::default();
    for (seqs, length) in [(1, 128), (1, 512), (1, 2048), (8, 512), (32, 512)] {
        print!("{seqs:3} of {length:4}");
        let rows = seqs as usize * HEADS.queries * HEADS.dim;
        let (queries, mut out) = (vec![0.1f32; rows], vec![0.0f32; rows]);
        for layout in LAYOUTS {
            let mut best = f64::INFINITY;
            for pass in 0..12 {
                // Elsewhere in the pool each time: what a pass leaves in caches is of no use to the next.
                let first = pass % (POOL / (seqs * length)) * (seqs * length / BLOCK);
                let (mut all, mut spans) = (Vec::new(), Vec::new());
                for seq in 0..seqs {
                    let start = all.len() as u32;
                    all.extend(runs(layout, (seq, seqs), length, first));
                    let runs = (start, all.len() as u32);
                    spans.push(Span { row: seq, rows: 1, first: length - 1, runs, discard: false });
                }
                let start = Instant::now();
                for kv in &memory {
                    attention.forward(&team, kv, &queries, &spans, &all, None, &mut out);
                }
                best = best.min(start.elapsed().as_secs_f64() / LAYERS as f64);
            }
            let bytes = f64::from(seqs * length) * (HEADS.kv * HEADS.dim * 2 * 2) as f64;
            print!("  {layout}: {:6.1} us {:3.0} %", best * 1e6, 100.0 * bytes / read / best);
        }
        println!();
    }
}
