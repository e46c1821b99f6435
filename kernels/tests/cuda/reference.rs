//! The right results of kernels, in f64, and random numbers to compute them from.

use half::bf16;
use kernels::cpu::Heads;
use kernels::cuda::Seq;

/// Xorshift: tests need no more.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    pub(crate) fn below(&mut self, n: usize) -> usize {
        (self.next() >> 16) as usize % n
    }

    /// From 0 to 1.
    pub(crate) fn unit(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1u64 << 24) as f32
    }

    /// From -1 to 1.
    pub(crate) fn bf16s(&mut self, n: usize) -> Vec<bf16> {
        (0..n).map(|_| bf16::from_f32(self.unit() * 2.0 - 1.0)).collect()
    }

    pub(crate) fn permutation(&mut self, n: usize) -> Vec<i32> {
        let mut all: Vec<i32> = (0..n as i32).collect();
        for i in (1..n).rev() {
            all.swap(i, self.below(i + 1));
        }
        all
    }
}

/// The distance of `got` from `want`, over the size of `want`; infinite where it is no number.
pub(crate) fn distance(got: impl IntoIterator<Item = f64>, want: &[f64]) -> f64 {
    let (mut error, mut size, mut len) = (0.0, 0.0, 0);
    for (got, want) in got.into_iter().zip(want) {
        if !got.is_finite() {
            return f64::INFINITY;
        }
        error += (got - want) * (got - want);
        size += want * want;
        len += 1;
    }
    assert_eq!(len, want.len(), "as many results as there should be");
    if size == 0.0 { error } else { (error / size).sqrt() }
}

pub(crate) fn wide(values: &[bf16]) -> Vec<f64> {
    values.iter().map(|v| v.to_f64()).collect()
}

pub(crate) fn rmsnorm(row: &[f64], weight: &[f64], epsilon: f64) -> Vec<f64> {
    let mean = row.iter().map(|x| x * x).sum::<f64>() / row.len() as f64;
    row.iter().zip(weight).map(|(x, w)| x / (mean + epsilon).sqrt() * w).collect()
}

/// Sequences, where they are, and their keys and values in one layer.
pub(crate) struct Attention {
    pub(crate) heads: Heads,
    pub(crate) slots: usize,
    pub(crate) queries: Vec<bf16>,
    pub(crate) keys: Vec<bf16>,
    pub(crate) values: Vec<bf16>,
    pub(crate) seqs: Vec<Seq>,
    pub(crate) tables: Vec<i32>,
    pub(crate) window: u32,
}

impl Attention {
    /// Sequences of these (new tokens, context), in blocks of `1 << shift` slots. Slots of no
    /// sequence hold NaN, so that reading one shows.
    pub(crate) fn new(
        (queries, kv, dim): (usize, usize, usize),
        lengths: &[(usize, usize)],
        shift: i32,
        window: u32,
    ) -> Self {
        let heads = Heads { queries, kv, dim };
        let mut random = Random(77 + dim as u64 * 31 + queries as u64);
        let rows: usize = lengths.iter().map(|l| l.0).sum();
        let contiguous = shift > 20;
        let block = if contiguous { 1 << 9 } else { 1 << shift };
        let blocks: usize = lengths.iter().map(|l| l.1.div_ceil(block)).sum();
        let (mut seqs, mut tables, mut row) = (Vec::new(), Vec::new(), 0);
        let places = random.permutation(blocks + 2);
        let mut places = places.iter().map(|&place| place * block as i32);
        for &(rows, context) in lengths {
            let seq = Seq {
                row,
                out: row,
                rows: rows as i32,
                context: context as i32,
                table: tables.len() as i32,
                shift,
            };
            seqs.push(seq);
            tables.extend(places.by_ref().take(context.div_ceil(block)));
            row += rows as i32;
        }
        let slots = (blocks + 2) * block;
        let none = vec![bf16::NAN; slots * kv * dim];
        let queries = random.bf16s(rows * queries * dim);
        let mut case =
            Self { heads, slots, queries, keys: none.clone(), values: none, seqs, tables, window };
        for seq in case.seqs.clone() {
            for position in 0..seq.context {
                let at = case.slot(&seq, position) * kv * dim;
                case.keys[at..at + kv * dim].copy_from_slice(&random.bf16s(kv * dim));
                case.values[at..at + kv * dim].copy_from_slice(&random.bf16s(kv * dim));
            }
        }
        case
    }

    pub(crate) fn slot(&self, seq: &Seq, position: i32) -> usize {
        let block = self.tables[(seq.table + (position >> seq.shift)) as usize];
        (block + (position & ((1 << seq.shift) - 1))) as usize
    }

    /// Attention of every row, `[rows, heads, dim]`.
    pub(crate) fn answer(&self) -> Vec<f64> {
        let Heads { queries: heads, kv, dim } = self.heads;
        let mut out = vec![0.0; self.queries.len()];
        for seq in &self.seqs {
            for r in 0..seq.rows {
                let last = seq.context - seq.rows + r;
                let first = match self.window {
                    0 => 0,
                    window => (last - window as i32 + 1).max(0),
                };
                for head in 0..heads {
                    let at = ((seq.row + r) as usize * heads + head) * dim;
                    let query = &self.queries[at..at + dim];
                    let place = |p| (self.slot(seq, p) * kv + head / (heads / kv)) * dim;
                    let dot = |key: &[bf16]| -> f64 {
                        query.iter().zip(key).map(|(q, k)| q.to_f64() * k.to_f64()).sum()
                    };
                    let scores: Vec<f64> = (first..=last)
                        .map(|p| dot(&self.keys[place(p)..][..dim]) / (dim as f64).sqrt())
                        .collect();
                    let most = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                    let total: f64 = scores.iter().map(|s| (s - most).exp()).sum();
                    for (p, score) in (first..=last).zip(&scores) {
                        let weight = (score - most).exp() / total;
                        for d in 0..dim {
                            out[at + d] += weight * self.values[place(p) + d].to_f64();
                        }
                    }
                }
            }
        }
        out
    }
}
