//! How close the CUDA kernels come to the device's limits, measured in the same run: memory-bound ones as a share of the
//! copy bandwidth, products and prefill attention as a share of an 8192³ product. Shapes of Llama 3.1 8B.
//!
//! `cuda_speed cuda:0`; without an argument on an emulated device with small shapes, where times mean nothing.

use std::time::Duration;

use half::bf16;
use kernels::cpu::Heads;
use kernels::cuda::roofline::{self, Roofline, fastest};
use kernels::cuda::{
    Batch, CudaError, Device, DeviceBatch, Draw, HeadExtras, KvPool, Limits, Products, Scratch,
    Seq, emulator,
};

/// What is run.
struct Shapes {
    heads: Heads,
    hidden: usize,
    ffn: usize,
    vocab: usize,
    /// Sequences that decode, and their length.
    batches: Vec<usize>,
    length: usize,
    /// Tokens of a prompt.
    prompt: usize,
}

impl Shapes {
    fn llama() -> Self {
        let heads = Heads { queries: 32, kv: 8, dim: 128 };
        let batches = vec![1, 8, 64];
        Self {
            heads,
            hidden: 4096,
            ffn: 14_336,
            vocab: 128_256,
            batches,
            length: 2048,
            prompt: 2048,
        }
    }

    fn small() -> Self {
        let heads = Heads { queries: 2, kv: 1, dim: 32 };
        Self { heads, hidden: 64, ffn: 64, vocab: 100, batches: vec![1, 2], length: 64, prompt: 64 }
    }
}

/// A line of the table: bytes moved or operations done, against the limit.
fn line(limits: &Roofline, name: &str, time: Duration, bytes: f64, flops: f64) {
    let seconds = time.as_secs_f64();
    let (copied, computed) = (bytes / seconds / limits.copy, flops / seconds / limits.flops);
    let us = seconds * 1e6;
    println!("{name:<44} {us:>11.1} {:>8.1}% {:>8.1}%", copied * 100.0, computed * 100.0);
}

/// Bytes of bf16 elements.
fn bytes(elements: usize) -> f64 {
    2.0 * elements as f64
}

fn main() {
    let device = match std::env::args().nth(1) {
        Some(name) => {
            let index = name.strip_prefix("cuda:").and_then(|n| n.parse().ok());
            Device::open(index.expect("the device is called cuda:N"))
        }
        None => Ok(emulator::device(&std::env::temp_dir(), 0)),
    };
    if let Err(error) = device.and_then(|device| run(&device)) {
        eprintln!("cuda_speed: {error}");
        std::process::exit(1);
    }
}

fn run(device: &Device) -> Result<(), CudaError> {
    let real = device.memory()?.is_some();
    let shapes = if real { Shapes::llama() } else { Shapes::small() };
    println!("{}{}", device.name(), if real { "" } else { ": times mean nothing" });
    let limits = roofline::measure(device)?;
    println!("copies {:.0} GB/s, products {:.1} TFLOP/s", limits.copy / 1e9, limits.flops / 1e12);
    println!("{:<44} {:>11} {:>9} {:>9}", "", "µs", "of copies", "of FLOP/s");
    for &batch in &shapes.batches {
        products(device, &limits, &shapes, batch)?;
        attention(device, &limits, &shapes, (batch, 1))?;
    }
    products(device, &limits, &shapes, shapes.prompt)?;
    attention(device, &limits, &shapes, (1, shapes.prompt))?;
    rows(device, &limits, &shapes)
}

/// The matrix products of a layer and the vocabulary head.
fn products(device: &Device, limits: &Roofline, s: &Shapes, rows: usize) -> Result<(), CudaError> {
    let (hidden, ffn, attended) = (s.hidden, s.ffn, s.heads.queries * s.heads.dim);
    let of_layer = [
        ("qkv", hidden, s.heads.width()),
        ("out", attended, hidden),
        ("gate and up", hidden, 2 * ffn),
        ("down", ffn, hidden),
        ("head", hidden, s.vocab),
    ];
    for (name, features, outputs) in of_layer {
        let x = device.upload(&vec![bf16::from_f32(0.5); rows * features])?;
        let weight = device.upload(&vec![bf16::from_f32(0.25); outputs * features])?;
        let moved = bytes(features * (rows + outputs) + rows * outputs);
        let operations = 2.0 * (rows * features * outputs) as f64;
        let mut y = device.zeros::<bf16>(rows * outputs)?;
        for products in [Products::Fast, Products::Invariant] {
            let sizes = (rows, features, outputs);
            let time = fastest(device, || device.linear(products, sizes, &x, &weight, &mut y))?;
            let name = format!("{name}, {rows} rows, {products:?}");
            line(limits, &name, time, moved, operations);
        }
    }
    Ok(())
}

/// Attention of `rows` new tokens each of so many sequences as long as the shapes say, in scattered blocks of 16.
fn attention(
    device: &Device,
    limits: &Roofline,
    s: &Shapes,
    (seqs, rows): (usize, usize),
) -> Result<(), CudaError> {
    let blocks = s.length / 16;
    let mut pool = KvPool::new(device, s.heads, 1, seqs * s.length)?;
    let values = vec![bf16::from_f32(0.125); pool.data().len()];
    pool.data_mut().write(0, &values)?;
    let all = seqs * blocks;
    let tables = (0..all).map(|i| (i * 1237 % all * 16) as i32).collect();
    let seq = |i: usize| Seq {
        row: (i * rows) as i32,
        out: (i * rows) as i32,
        rows: rows as i32,
        context: s.length as i32,
        table: (i * blocks) as i32,
        shift: 4,
    };
    let listed: Vec<Seq> = (0..seqs).map(seq).collect();
    let (decodes, chunks) = if rows == 1 { (listed, Vec::new()) } else { (Vec::new(), listed) };
    let none = vec![0; seqs * rows];
    let batch = Batch {
        ids: none.clone(),
        positions: none.clone(),
        slots: none,
        decodes,
        chunks,
        tables,
        last: Vec::new(),
        reach: 0,
    };
    let mut on_device = DeviceBatch::new(device)?;
    let limit = Limits { vocab: 1, positions: 1, slots: pool.slots(), rows: seqs * rows };
    on_device.set(device, &batch, limit)?;
    let width = s.heads.queries * s.heads.dim;
    let queries = device.upload(&vec![bf16::from_f32(0.5); seqs * rows * width])?;
    let (mut out, mut scratch) = (device.zeros::<bf16>(queries.len())?, Scratch::new(device)?);
    let time = fastest(device, || {
        device.attend(&on_device, &queries, (&pool, 0), 0, &mut scratch, &mut out)
    })?;
    let moved = bytes(seqs * s.length * 2 * s.heads.kv * s.heads.dim);
    let history = s.length - rows;
    let pairs = seqs * (rows * history + rows * (rows + 1) / 2);
    let operations = 4.0 * (pairs * width) as f64;
    let name = format!("attention, {seqs} x {rows} rows of {} tokens", s.length);
    line(limits, &name, time, moved, operations);
    Ok(())
}

/// What is done to rows between products.
fn rows(device: &Device, limits: &Roofline, s: &Shapes) -> Result<(), CudaError> {
    let (rows, hidden) = (s.prompt, s.hidden);
    let x = device.upload(&vec![bf16::from_f32(0.5); rows * hidden])?;
    let weight = device.upload(&vec![bf16::ONE; hidden])?;
    let (mut residual, mut y) = (device.zeros::<bf16>(x.len())?, device.zeros::<bf16>(x.len())?);
    let time = fastest(device, || {
        device.add_rmsnorm(rows, Some(&x), &mut residual, &weight, &mut y, 1e-5)
    })?;
    line(limits, &format!("add and norm, {rows} rows"), time, bytes(4 * rows * hidden), 0.0);

    let gates = device.upload(&vec![bf16::from_f32(0.5); rows * 2 * s.ffn])?;
    let mut inner = device.zeros::<bf16>(rows * s.ffn)?;
    let time = fastest(device, || device.silu_mul(rows, s.ffn, &gates, &mut inner))?;
    line(limits, &format!("SiLU * mul, {rows} rows"), time, bytes(3 * rows * s.ffn), 0.0);

    let mut pool = KvPool::new(device, s.heads, 1, rows)?;
    let count: Vec<i32> = (0..rows as i32).collect();
    let batch =
        Batch { ids: vec![0; rows], positions: count.clone(), slots: count, ..Batch::default() };
    let mut on_device = DeviceBatch::new(device)?;
    on_device.set(device, &batch, Limits { vocab: 1, positions: rows, slots: rows, rows })?;
    let qkv = device.upload(&vec![bf16::from_f32(0.5); rows * s.heads.width()])?;
    let turns = device.upload(&vec![0.5f32; rows * s.heads.dim])?;
    let mut queries = device.zeros::<bf16>(rows * s.heads.queries * s.heads.dim)?;
    let extras = HeadExtras { bias: None, norms: None, epsilon: 1e-5 };
    let time = fastest(device, || {
        device.rope_kv_write(&on_device, &qkv, extras, &turns, &mut queries, (&mut pool, 0))
    })?;
    line(limits, &format!("RoPE and KV write, {rows} rows"), time, bytes(2 * qkv.len()), 0.0);

    for &seqs in &s.batches {
        let logits: Vec<f32> =
            (0..seqs * s.vocab).map(|i| (i * 7919 % 1009) as f32 / 64.0).collect();
        let logits = device.upload(&logits)?;
        let mut tokens = device.zeros::<i32>(seqs)?;
        let nucleus = Draw { inverse_temperature: 1.0, top_k: 50, top_p: 0.9, at: 0.5 };
        for (name, draw) in [("greedy", Draw::GREEDY), ("top-k, top-p", nucleus)] {
            let draws = device.upload(&vec![draw; seqs])?;
            let time =
                fastest(device, || device.sample((seqs, s.vocab), &logits, &draws, &mut tokens))?;
            let name = format!("sampling, {name}, {seqs} rows");
            line(limits, &name, time, 4.0 * logits.len() as f64, 0.0);
        }
    }
    Ok(())
}
