//! Kernels at the sizes of real models, against f64 on sampled rows: heads of 128 in groups of four and eight, contexts of
//! 128k in 64 splits, a vocabulary of 128,256, a pool whose keys alone are more than 2^31 elements, and products of 9 to
//! 2,048 rows. An emulated device does the same at sizes that it can do.

use half::bf16;
use kernels::cpu::Heads;
use kernels::cuda::{
    Batch, CudaError, Device, DeviceBatch, KvPool, Limits, Out, Products, Scratch, Seq, Window,
};
use kernels::random::Uniform;

use super::checks::{ROUNDED, fetched, sample_of};
use super::devices;
use super::reference::distance;

/// The device, and whether it is a GPU.
fn device() -> Option<(Device, bool)> {
    let devices = devices().map_err(|reason| println!("skipped: {reason}")).ok()?;
    let (_, device) = devices.into_iter().next()?;
    let real = device.memory().expect("it says how much memory it has").is_some();
    Some((device, real))
}

/// Element `i` of `numbers` as a device has it.
fn element(numbers: Uniform, i: usize) -> f64 {
    bf16::from_f32(numbers.at(i as u64)).to_f64()
}

/// Sequences of (new tokens, tokens) over a pool of so many slots in blocks of 16, all over the place.
struct Attention {
    heads: Heads,
    seqs: Vec<(usize, usize)>,
    slots: usize,
}

const QUERIES: Uniform = Uniform::unit(11);
const KEYS: Uniform = Uniform { half_width: 2.0, ..Uniform::unit(12) };

impl Attention {
    /// The slot of a sequence's token: an odd prime as a stride visits every block before one twice.
    fn slot(&self, seq: usize, at: usize) -> usize {
        let before: usize = self.seqs[..seq].iter().map(|s| s.1.div_ceil(16)).sum();
        (before + at / 16) * 7919 % (self.slots / 16) * 16 + at % 16
    }

    fn run(&self, device: &Device) -> Result<f64, CudaError> {
        let Heads { queries: heads, kv, dim } = self.heads;
        let mut pool = KvPool::new(device, self.heads, 1, self.slots)?;
        let len = pool.data().len();
        device.fill(pool.data_mut(), 0, KEYS, Window::first(len))?;
        let mut batch = Batch::default();
        let mut first_rows = Vec::new();
        for (i, &(rows, context)) in self.seqs.iter().enumerate() {
            let row = batch.ids.len();
            let table = batch.tables.len() as i32;
            let blocks = (0..context.div_ceil(16)).map(|block| self.slot(i, block * 16) as i32);
            batch.tables.extend(blocks);
            batch.ids.extend(vec![0; rows]);
            let (new, context) = (rows as i32, context as i32);
            let seq = Seq { row: row as i32, out: row as i32, rows: new, context, table, shift: 4 };
            if rows == 1 {
                batch.decodes.push(seq);
            } else {
                batch.chunks.push(seq);
            }
            first_rows.push(row);
        }
        let rows = batch.ids.len();
        (batch.positions, batch.slots) = (vec![0; rows], vec![0; rows]);
        let limits = Limits { vocab: 1, positions: 1, slots: self.slots, rows };
        let mut on_device = DeviceBatch::new(device)?;
        on_device.set(device, &batch, limits)?;
        let queries = device.random(rows * heads * dim, QUERIES)?;
        let (mut out, mut scratch) = (device.zeros(queries.len())?, Scratch::new(device)?);
        device.attend(&on_device, &queries, (&pool, 0), 0, &mut scratch, &mut out)?;
        let out = fetched::<bf16>(&out)?;
        let (mut got, mut want) = (Vec::new(), Vec::new());
        for (i, &(rows, context)) in self.seqs.iter().enumerate() {
            // The first row of a chunk, one in the middle and its last; of heads, another for each.
            let mut sampled = vec![0, rows / 2, rows - 1];
            sampled.dedup();
            for (nth, row) in sampled.into_iter().enumerate() {
                let head = (i * 7 + nth * (heads / kv + 1)) % heads;
                let at = ((first_rows[i] + row) * heads + head) * dim;
                got.extend(out[at..at + dim].iter().map(|x| x.to_f64()));
                want.extend(self.answer(i, (at, head / (heads / kv)), context - rows + row));
            }
        }
        println!(
            "{:?}, {:?}: {} rows of {} pool elements",
            self.heads,
            self.seqs,
            want.len() / dim,
            len
        );
        Ok(distance(got, &want))
    }

    /// Attention of the query that begins at element `at` to a sequence's tokens up to `last`.
    fn answer(&self, seq: usize, (at, kv_head): (usize, usize), last: usize) -> Vec<f64> {
        let Heads { kv, dim, .. } = self.heads;
        let query: Vec<f64> = (0..dim).map(|d| element(QUERIES, at + d)).collect();
        let place = |position, values: usize| {
            ((values * self.slots + self.slot(seq, position)) * kv + kv_head) * dim
        };
        let score = |position| {
            let key = place(position, 0);
            let dot: f64 = (0..dim).map(|d| query[d] * element(KEYS, key + d)).sum();
            dot / (dim as f64).sqrt()
        };
        let scores: Vec<f64> = (0..=last).map(score).collect();
        let most = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let total: f64 = scores.iter().map(|s| (s - most).exp()).sum();
        let mut out = vec![0.0; dim];
        for (position, score) in scores.iter().enumerate() {
            let (weight, value) = ((score - most).exp() / total, place(position, 1));
            (0..dim).for_each(|d| out[d] += weight * element(KEYS, value + d));
        }
        out
    }
}

/// Both kernels, for groups of four and of eight.
#[test]
fn attention() {
    let Some((device, real)) = device() else { return };
    // 2.2 million slots of eight heads of 128 are 2.25e9 keys.
    let (slots, dim) = if real { (2_200_000, 128) } else { (1600, 128) };
    let [long, decodes, chunks] = if real {
        [
            vec![(1, 131_072)],
            vec![(1, 32_768), (1, 8192), (1, 1000), (1, 17)],
            vec![(2048, 2048), (300, 65_536)],
        ]
    } else {
        [vec![(1, 700)], vec![(1, 130), (1, 17)], vec![(70, 100)]]
    };
    for group in [4, 8] {
        let kv = if real { 8 } else { 1 };
        let heads = Heads { queries: kv * group, kv, dim };
        for seqs in [&long, &decodes, &chunks] {
            let case = Attention { heads, seqs: seqs.clone(), slots };
            let error = case.run(&device).unwrap_or_else(|e| panic!("{heads:?}, {seqs:?}: {e}"));
            println!("relative error {error:.1e}");
            // Weights are rounded to bf16 before they meet the values.
            assert!(error < 6e-3, "{heads:?}, {seqs:?}: {error:e}");
        }
    }
}

/// Sampled elements of a product, and what they are in f64.
fn product<T: Out + Default>(
    device: &Device,
    products: Products,
    (rows, features, outputs): (usize, usize, usize),
    wide: fn(T) -> f64,
) -> Result<f64, CudaError> {
    // Of other numbers for other sizes: what is left of them is wrong.
    let numbers = [1, 2].map(|n| Uniform::unit((rows * 2 + n) as u64));
    let x = device.random(rows * features, numbers[0])?;
    let weight = device.random(outputs * features, numbers[1])?;
    let mut y = device.zeros::<T>(rows * outputs)?;
    device.linear(products, (rows, features, outputs), &x, &weight, &mut y)?;
    let (mut got, mut want) = (Vec::new(), Vec::new());
    for n in 0..64 {
        // Its corners, and all over it.
        let at = if n == 63 { rows * outputs - 1 } else { n * 7_368_787 % (rows * outputs) };
        let (row, output) = (at / outputs, at % outputs);
        let mut one = [T::default()];
        y.read(at, &mut one)?;
        got.push(wide(one[0]));
        let factor = |i: usize| {
            element(numbers[0], row * features + i) * element(numbers[1], output * features + i)
        };
        want.push((0..features).map(factor).sum());
    }
    Ok(distance(got, &want))
}

/// The vendor's library and our own tiles, of rows that fill no tile and of many.
#[test]
fn products() {
    let Some((device, real)) = device() else { return };
    let (rows, shapes) = if real {
        let rows = vec![9, 16, 33, 64, 100, 250, 512, 1000, 2048];
        (rows, vec![(4096, 6144), (14_336, 4096), (4096, 128_256)])
    } else {
        (vec![9, 70], vec![(136, 72)])
    };
    for &(features, outputs) in &shapes {
        for &rows in &rows {
            for products in [Products::Fast, Products::Invariant] {
                let sizes = (rows, features, outputs);
                let rounded = product::<bf16>(&device, products, sizes, bf16::to_f64);
                let exact = product::<f32>(&device, products, sizes, f64::from);
                let [rounded, exact] = [rounded, exact]
                    .map(|error| error.unwrap_or_else(|e| panic!("{products:?} {sizes:?}: {e}")));
                println!("{products:?} {sizes:?}: relative error {rounded:.1e}, f32 {exact:.1e}");
                assert!(rounded < ROUNDED && exact < 2e-5, "{products:?} {sizes:?}");
            }
        }
    }
}

/// Tokens of a real vocabulary.
#[test]
fn sampling() {
    let Some((device, real)) = device() else { return };
    let vocab = if real { 128_256 } else { 3000 };
    assert_eq!(sample_of(&device, vocab).unwrap(), 0.0);
}
