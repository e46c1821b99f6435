//! The distance of the CUDA kernels from the device's limits, measured in the same run: memory-bound ones as a share of
//! the copy bandwidth, products and prefill attention as a share of an 8192³ product. Shapes of Llama 3.1 8B, and
//! attention of the 70B. Inputs are random, and weights, keys and values lie in more memory than any cache holds.
//!
//! `cuda_speed cuda:0`; without a device on an emulated one with small shapes, where times mean nothing. With `--once`
//! the kernels that a step's time goes to are launched once each and not timed: for profilers.

use half::bf16;
use kernels::cpu::Heads;
use kernels::cuda::roofline::{self, Roofline};
use kernels::cuda::{
    Batch, Buffer, CudaError, Device, DeviceBatch, Draw, HeadExtras, KvPool, Limits, Products,
    Scratch, Seq, Window, emulator,
};
use kernels::random::Uniform;

/// The runs.
struct Shapes {
    heads: Heads,
    /// Heads of a model whose query heads share keys and values in eights.
    eights: Heads,
    hidden: usize,
    ffn: usize,
    vocab: usize,
    /// Sequences that decode, and their length.
    batches: &'static [usize],
    length: usize,
    /// Decodes of unequal lengths: how many of which.
    mixed: [(usize, usize); 2],
    /// Tokens of a prompt.
    prompt: usize,
}

const LLAMA: Shapes = Shapes {
    heads: Heads { queries: 32, kv: 8, dim: 128 },
    eights: Heads { queries: 64, kv: 8, dim: 128 },
    hidden: 4096,
    ffn: 14_336,
    vocab: 128_256,
    batches: &[1, 8, 64],
    length: 2048,
    mixed: [(1, 32_768), (63, 1024)],
    prompt: 2048,
};

const SMALL: Shapes = Shapes {
    heads: Heads { queries: 2, kv: 1, dim: 32 },
    eights: Heads { queries: 8, kv: 1, dim: 32 },
    hidden: 64,
    ffn: 64,
    vocab: 100,
    batches: &[1, 2],
    length: 64,
    mixed: [(1, 96), (2, 32)],
    prompt: 64,
};

/// Bytes over which launches rotate: twice and a half what the largest cache holds.
const ROTATION: usize = 150 << 20;

/// The table, line by line.
struct Table<'a> {
    device: &'a Device,
    shapes: &'static Shapes,
    /// None where nothing is timed.
    limits: Option<Roofline>,
    failed: bool,
}

/// Bytes of bf16 elements.
fn bytes(elements: usize) -> f64 {
    2.0 * elements as f64
}

fn main() {
    let (mut index, mut once) = (None, false);
    for argument in std::env::args().skip(1) {
        match argument.strip_prefix("cuda:").and_then(|n| n.parse().ok()) {
            Some(n) => index = Some(n),
            None if argument == "--once" => once = true,
            None => {
                eprintln!("cuda_speed [cuda:N] [--once]");
                std::process::exit(2);
            }
        }
    }
    let device = match index {
        Some(index) => Device::open(index),
        None => Ok(emulator::device(&std::env::temp_dir(), 0)),
    };
    let failed = device.and_then(|device| run(&device, once)).unwrap_or_else(|error| {
        eprintln!("cuda_speed: {error}");
        true
    });
    std::process::exit(i32::from(failed));
}

/// Set when a line failed; the lines after it are still tried.
fn run(device: &Device, once: bool) -> Result<bool, CudaError> {
    let real = device.memory()?.is_some();
    let shapes = if real { &LLAMA } else { &SMALL };
    println!("{}{}", device.name(), if real { "" } else { ": times mean nothing" });
    let limits = if once { None } else { Some(roofline::measure(device)?) };
    if let Some(Roofline { copy, flops }) = limits {
        println!("copies {:.0} GB/s, products {:.1} TFLOP/s", copy / 1e9, flops / 1e12);
        println!("{:<48} {:>11} {:>10} {:>10}", "", "µs", "of copies", "of FLOP/s");
    }
    let mut table = Table { device, shapes, limits, failed: false };
    let Shapes { heads, eights, length, mixed, prompt, batches, .. } = *shapes;
    if once {
        let many = vec![length; batches[batches.len() - 1]];
        table.section(|t| t.attention(heads, &many, 1));
        table.section(|t| t.attention(eights, &many, 1));
        table.section(|t| t.attention(heads, &[prompt], prompt));
        table.section(|t| t.products(1));
        table.section(Table::sampling);
        return Ok(table.failed);
    }
    for &batch in batches {
        table.section(|t| t.products(batch));
        table.section(|t| t.attention(heads, &vec![length; batch], 1));
        table.section(|t| t.attention(eights, &vec![length; batch], 1));
    }
    let lengths = mixed.map(|(seqs, length)| vec![length; seqs]).concat();
    table.section(|t| t.attention(heads, &lengths, 1));
    table.section(|t| t.products(prompt));
    table.section(|t| t.attention(heads, &[prompt], prompt));
    table.section(Table::rows);
    table.section(Table::sampling);
    Ok(table.failed)
}

impl Table<'_> {
    fn section(&mut self, section: impl FnOnce(&mut Self) -> Result<(), CudaError>) {
        if let Err(error) = section(self) {
            println!("failed: {error}");
            self.failed = true;
        }
    }

    /// A line: bytes that a launch moves or operations that it does, against the limit.
    fn line(
        &mut self,
        name: &str,
        (bytes, flops): (f64, f64),
        mut work: impl FnMut(usize) -> Result<(), CudaError>,
    ) {
        let Some(limits) = self.limits else {
            let done = work(0).and_then(|()| self.device.synchronise());
            return self.section(|_| done);
        };
        match roofline::median(self.device, work) {
            Ok(time) => {
                let seconds = time.as_secs_f64();
                let copied = bytes / seconds / limits.copy * 100.0;
                let computed = flops / seconds / limits.flops * 100.0;
                println!("{name:<48} {:>11.1} {copied:>9.1}% {computed:>9.1}%", seconds * 1e6);
            }
            Err(error) => {
                println!("{name:<48} failed: {error}");
                self.failed = true;
            }
        }
    }

    /// Buffers of this size that fill the rotation.
    fn sets(&self, bytes: f64) -> usize {
        match self.limits.is_some() && self.is_real() {
            true => (ROTATION as f64 / bytes).ceil().clamp(1.0, 64.0) as usize,
            false => 2,
        }
    }

    fn is_real(&self) -> bool {
        std::ptr::eq(self.shapes, &LLAMA)
    }

    /// Several buffers of random numbers.
    fn random(&self, sets: usize, len: usize) -> Result<Vec<Buffer<bf16>>, CudaError> {
        (0..sets).map(|set| self.device.random(len, Uniform::unit(set as u64))).collect()
    }

    /// The matrix products of a layer and the vocabulary head.
    fn products(&mut self, rows: usize) -> Result<(), CudaError> {
        let Shapes { heads, hidden, ffn, vocab, .. } = *self.shapes;
        let of_layer = [
            ("qkv", hidden, heads.width()),
            ("out", heads.queries * heads.dim, hidden),
            ("gate and up", hidden, 2 * ffn),
            ("down", ffn, hidden),
            ("head", hidden, vocab),
        ];
        for (name, features, outputs) in of_layer {
            let device = self.device;
            let x = device.random(rows * features, Uniform::unit(1))?;
            let mut y = device.zeros::<bf16>(rows * outputs)?;
            let sets = self.sets(bytes(features * outputs));
            let weights = self.random(sets, features * outputs)?;
            let moved = bytes(features * (rows + outputs) + rows * outputs);
            let operations = 2.0 * (rows * features * outputs) as f64;
            for products in [Products::Fast, Products::Invariant] {
                let sizes = (rows, features, outputs);
                let name = format!("{name}, {rows} rows, {products:?}");
                self.line(&name, (moved, operations), |i| {
                    device.linear(products, sizes, &x, &weights[i % sets], &mut y)
                });
            }
        }
        Ok(())
    }

    /// Attention of the last `rows` tokens of sequences of such lengths, in scattered blocks of 16.
    fn attention(&mut self, heads: Heads, lengths: &[usize], rows: usize) -> Result<(), CudaError> {
        let (device, seqs, tokens) = (self.device, lengths.len(), lengths.iter().sum::<usize>());
        let moved = bytes(tokens * 2 * heads.kv * heads.dim);
        // A layer each.
        let sets = self.sets(moved);
        let mut pool = KvPool::new(device, heads, sets, tokens)?;
        let len = pool.data().len();
        device.fill(pool.data_mut(), 0, Uniform::unit(1), Window::first(len))?;
        let blocks = tokens / 16;
        let mut table = 0;
        let mut seq = |(i, &length): (usize, &usize)| {
            let row = (i * rows) as i32;
            let first = table;
            table += (length / 16) as i32;
            let (rows, context) = (rows as i32, length as i32);
            Seq { row, out: row, rows, context, table: first, shift: 4 }
        };
        let listed: Vec<Seq> = lengths.iter().enumerate().map(&mut seq).collect();
        let (decodes, chunks) = if rows == 1 { (listed, Vec::new()) } else { (Vec::new(), listed) };
        let none = vec![0; seqs * rows];
        let batch = Batch {
            ids: none.clone(),
            positions: none.clone(),
            slots: none,
            decodes,
            chunks,
            tables: (0..blocks).map(|i| (i * 1237 % blocks * 16) as i32).collect(),
            last: Vec::new(),
            reach: 0,
        };
        let mut on_device = DeviceBatch::new(device)?;
        let limit = Limits { vocab: 1, positions: 1, slots: tokens, rows: seqs * rows };
        on_device.set(device, &batch, limit)?;
        let width = heads.queries * heads.dim;
        let queries = device.random(seqs * rows * width, Uniform::unit(2))?;
        let (mut out, mut scratch) = (device.zeros::<bf16>(queries.len())?, Scratch::new(device)?);
        let pairs = |length: usize| rows * (length - rows) + rows * (rows + 1) / 2;
        let pairs: usize = lengths.iter().map(|&length| pairs(length)).sum();
        let of = match lengths.iter().all(|length| *length == lengths[0]) {
            true => format!("{}", lengths[0]),
            false => "mixed".to_owned(),
        };
        let group = heads.queries / heads.kv;
        let name = format!("attention, GQA {group}, {seqs} x {rows} rows of {of} tokens");
        self.line(&name, (moved, 4.0 * (pairs * width) as f64), |i| {
            let layer = (&pool, i % sets);
            device.attend(&on_device, &queries, layer, 0, &mut scratch, &mut out)
        });
        Ok(())
    }

    /// The work on rows between products.
    fn rows(&mut self) -> Result<(), CudaError> {
        let Shapes { heads, hidden, ffn, .. } = *self.shapes;
        let (device, rows) = (self.device, self.shapes.prompt);
        let sets = self.sets(bytes(3 * rows * hidden));
        let x = self.random(sets, rows * hidden)?;
        let mut residual = self.random(sets, rows * hidden)?;
        let mut y = self.random(sets, rows * hidden)?;
        let weight = device.random(hidden, Uniform { mean: 1.0, ..Uniform::unit(3) })?;
        let moved = bytes(4 * rows * hidden);
        self.line(&format!("add and norm, {rows} rows"), (moved, 0.0), |i| {
            let (x, set) = (Some(&x[i % sets]), i % sets);
            device.add_rmsnorm(rows, x, &mut residual[set], &weight, &mut y[set], 1e-5)
        });
        let sets = self.sets(bytes(3 * rows * ffn));
        let gates = self.random(sets, rows * 2 * ffn)?;
        let mut inner = self.random(sets, rows * ffn)?;
        let moved = bytes(3 * rows * ffn);
        self.line(&format!("SiLU * mul, {rows} rows"), (moved, 0.0), |i| {
            device.silu_mul(rows, ffn, &gates[i % sets], &mut inner[i % sets])
        });
        let sets = self.sets(bytes(2 * rows * heads.width()));
        let mut pool = KvPool::new(device, heads, sets, rows)?;
        let count: Vec<i32> = (0..rows as i32).collect();
        let none = vec![0; rows];
        let batch = Batch { ids: none, positions: count.clone(), slots: count, ..Batch::default() };
        let mut on_device = DeviceBatch::new(device)?;
        on_device.set(device, &batch, Limits { vocab: 1, positions: rows, slots: rows, rows })?;
        let qkv = self.random(sets, rows * heads.width())?;
        let mut queries = self.random(sets, rows * heads.queries * heads.dim)?;
        let turns: Vec<f32> = (0..rows * heads.dim).map(|i| (i as f32).cos()).collect();
        let turns = device.upload(&turns)?;
        let extras = HeadExtras { bias: None, norms: None, epsilon: 1e-5 };
        let moved = bytes(2 * rows * heads.width());
        self.line(&format!("RoPE and KV write, {rows} rows"), (moved, 0.0), |i| {
            let (set, queries) = (i % sets, &mut queries[i % sets]);
            device.rope_kv_write(&on_device, &qkv[set], extras, &turns, queries, (&mut pool, set))
        });
        Ok(())
    }

    /// Choosing tokens. Logits were just written: no rotation.
    fn sampling(&mut self) -> Result<(), CudaError> {
        let (device, vocab) = (self.device, self.shapes.vocab);
        for &seqs in self.shapes.batches {
            let numbers = Uniform { half_width: 8.0, ..Uniform::unit(4) };
            let logits: Vec<f32> = (0..(seqs * vocab) as u64).map(|i| numbers.at(i)).collect();
            let logits = device.upload(&logits)?;
            let mut tokens = device.zeros::<i32>(seqs)?;
            let nucleus = Draw { inverse_temperature: 1.0, top_k: 50, top_p: 0.9, at: 0.5 };
            for (name, draw) in [("greedy", Draw::GREEDY), ("top-k, top-p", nucleus)] {
                let draws = device.upload(&vec![draw; seqs])?;
                let moved = 4.0 * logits.len() as f64;
                self.line(&format!("sampling, {name}, {seqs} rows"), (moved, 0.0), |_| {
                    device.sample((seqs, vocab), &logits, &draws, &mut tokens)
                });
            }
        }
        Ok(())
    }
}
