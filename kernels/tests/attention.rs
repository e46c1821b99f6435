//! Attention against softmax in f64, and the law that results do not depend on layout, chunks or company.

mod common;

use common::{Numbers, bf16, error};
use kernels::cpu::{Attention, HeadNorms, Heads, Isa, KvLayer, Rotation, Run, Span, Team};
use proptest::prelude::*;

/// One sequence's rows, and how they are fed.
struct Case {
    heads: Heads,
    qkv: Vec<f32>,
    frequencies: Vec<f32>,
    norms: Option<(Vec<f32>, Vec<f32>)>,
    window: Option<u32>,
    bf16: bool,
}

impl Case {
    fn new(
        heads: Heads,
        len: usize,
        normal: bool,
        window: Option<u32>,
        bf16: bool,
        seed: u64,
    ) -> Self {
        let mut numbers = Numbers::new(seed);
        let qkv = numbers.vec(len * heads.width());
        let frequencies = (0..heads.dim / 2).map(|i| 0.5f32.powi(i as i32 % 20)).collect();
        let norms = normal.then(|| (numbers.vec(heads.dim), numbers.vec(heads.dim)));
        Self { heads, qkv, frequencies, norms, window, bf16 }
    }

    fn len(&self) -> usize {
        self.qkv.len() / self.heads.width()
    }

    /// Head `head` of row `row`, normalised and turned, in f64.
    fn turned(&self, row: usize, head: usize, weight: Option<&Vec<f32>>) -> Vec<f64> {
        let (dim, half) = (self.heads.dim, self.heads.dim / 2);
        let at = row * self.heads.width() + head * dim;
        let mut x: Vec<f64> = self.qkv[at..at + dim].iter().map(|&x| f64::from(x)).collect();
        if let Some(weight) = weight {
            let mean = x.iter().map(|x| x * x).sum::<f64>() / dim as f64;
            let scale = 1.0 / (mean + 1e-6).sqrt();
            x.iter_mut().zip(weight).for_each(|(x, &w)| *x *= scale * f64::from(w));
        }
        let turn = |i: usize| f64::from(row as f32 * self.frequencies[i % half]).sin_cos();
        (0..dim)
            .map(|i| {
                let (sin, cos) = turn(i);
                if i < half {
                    x[i] * cos - x[i + half] * sin
                } else {
                    x[i] * cos + x[i - half] * sin
                }
            })
            .collect()
    }

    fn kept(&self, x: f64) -> f64 {
        if self.bf16 { f64::from(bf16(x as f32)) } else { x }
    }

    /// Rows x queries x dim.
    fn reference(&self) -> Vec<f64> {
        let Heads { queries, kv, dim } = self.heads;
        let (of_q, of_k) = (self.norms.as_ref().map(|n| &n.0), self.norms.as_ref().map(|n| &n.1));
        let mut out = Vec::new();
        for row in 0..self.len() {
            for head in 0..queries {
                let group = head / (queries / kv);
                let q = self.turned(row, head, of_q);
                let first = self.window.map_or(0, |w| (row + 1).saturating_sub(w as usize));
                let scores: Vec<f64> = (first..=row)
                    .map(|at| {
                        let k = self.turned(at, queries + group, of_k);
                        let dot = q.iter().zip(&k).map(|(q, &k)| q * self.kept(k)).sum::<f64>();
                        dot / (dim as f64).sqrt()
                    })
                    .collect();
                let most = scores.iter().copied().fold(f64::MIN, f64::max);
                let shares: Vec<f64> = scores.iter().map(|s| (s - most).exp()).collect();
                let sum: f64 = shares.iter().sum();
                for d in 0..dim {
                    let value = |at: usize| {
                        let v = at * self.heads.width() + (queries + kv + group) * dim + d;
                        self.kept(f64::from(self.qkv[v]))
                    };
                    let mixed = (first..=row).zip(&shares).map(|(at, s)| s * value(at));
                    out.push(mixed.sum::<f64>() / sum);
                }
            }
        }
        out
    }

    /// The same by kernels: chunks of these lengths, each sharing its pass with some of another sequence's rows;
    /// `slot` says where each position lies. With the rest of the memory full of what must not be read.
    fn run(
        &self,
        team: &Team,
        chunks: &[usize],
        slot: impl Fn(u32) -> u32,
        slots: usize,
    ) -> Vec<f32> {
        let mut kv = KvLayer::new(self.heads, slots, self.bf16);
        let (mut attention, mut rotation) = (Attention::default(), Rotation::default());
        let (mut queries, mut out) = (Vec::new(), Vec::new());
        let width = self.heads.width();
        let norms = self.norms.as_ref().map(|(query, key)| HeadNorms { query, key, epsilon: 1e-6 });
        let poison = vec![f32::INFINITY; slots * width];
        rotation.set(&vec![0; slots], &self.frequencies, 1.0);
        let all: Vec<u32> = (0..slots as u32).collect();
        rotation.apply(team, &poison, None, &all, &mut kv, &mut queries);
        let mut at = 0;
        for &n in chunks {
            let positions: Vec<u32> = (at as u32..(at + n) as u32).collect();
            let to: Vec<u32> = positions.iter().map(|&p| slot(p)).collect();
            rotation.set(&positions, &self.frequencies, 1.0);
            let qkv = &self.qkv[at * width..(at + n) * width];
            rotation.apply(team, qkv, norms, &to, &mut kv, &mut queries);
            let runs = runs(&slot, (at + n) as u32);
            let whole = (0, runs.len() as u32);
            let (rows, first) = (n as u32, at as u32);
            let span = Span { row: 0, rows, first, runs: whole, discard: false };
            let padding = Span { row: rows - 1, rows: 1, first, runs: whole, discard: true };
            let mut part = vec![f32::NAN; n * self.heads.queries * self.heads.dim];
            let spans = [span, padding];
            attention.forward(team, &kv, &queries, &spans, &runs, self.window, &mut part);
            out.extend(part);
            at += n;
        }
        out
    }
}

/// Positions `0..len`, as few runs as there can be.
fn runs(slot: impl Fn(u32) -> u32, len: u32) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    for position in 0..len {
        match runs.last_mut() {
            Some(run) if run.slot + run.len == slot(position) => run.len += 1,
            _ => runs.push(Run { position, slot: slot(position), len: 1 }),
        }
    }
    runs
}

fn heads() -> impl Strategy<Value = Heads> {
    let dim = prop_oneof![Just(2usize), Just(24), Just(32), Just(64), Just(80), Just(128)];
    (1usize..=3, prop_oneof![Just(1usize), Just(3), Just(7), Just(16)], dim)
        .prop_map(|(kv, group, dim)| Heads { queries: kv * group, kv, dim })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn it_is_softmax_of_products(
        heads in heads(),
        chunks in prop::collection::vec(1usize..30, 1..4),
        options in (any::<bool>(), prop_oneof![Just(None), (1u32..40).prop_map(Some)], any::<bool>()),
        start in 0u32..20,
        seed: u64,
    ) {
        let len: usize = chunks.iter().sum();
        let case = Case::new(heads, len, options.0, options.1, options.2, seed);
        let want = case.reference();
        // Rounding to bf16 is done on f32: a value on the edge may fall on either side.
        let tolerance = if case.bf16 { 2e-2 } else { 2e-4 };
        let slots = 256;
        for isa in Isa::all() {
            let (one, two) = (Team::with_isa(1, isa), Team::with_isa(2, isa));
            let extent = case.run(&two, &chunks, |p| start + p, slots);
            let off = error(&extent, &want);
            prop_assert!(off < tolerance, "{isa:?}: {off}");
            let scattered = case.run(&one, &[len], |p| (p * 37 + start) % 256, slots);
            prop_assert_eq!(&extent, &scattered, "a block of one, one chunk");
            let blocks = case.run(&two, &vec![1; len], |p| (p / 16 * 7 + 3) % 16 * 16 + p % 16, slots);
            prop_assert_eq!(&extent, &blocks, "blocks of 16, token by token");
        }
    }
}

#[test]
fn copies_are_as_good_as_the_original() {
    let team = Team::new(1);
    for bf16 in [false, true] {
        let heads = Heads { queries: 4, kv: 2, dim: 40 };
        let case = Case::new(heads, 33, false, None, bf16, 5);
        let (mut rotation, mut queries) = (Rotation::default(), Vec::new());
        let positions: Vec<u32> = (0..33).collect();
        rotation.set(&positions, &case.frequencies, 1.0);
        let mut kv = KvLayer::new(heads, 128, bf16);
        let slots: Vec<u32> = positions.iter().map(|p| 5 + p).collect();
        rotation.apply(&team, &case.qkv, None, &slots, &mut kv, &mut queries);
        let attend = |kv: &KvLayer, slot: u32| {
            let mut out = vec![0.0; 33 * 160];
            let span = Span { row: 0, rows: 33, first: 0, runs: (0, 1), discard: false };
            let run = Run { position: 0, slot, len: 33 };
            Attention::default().forward(&team, kv, &queries, &[span], &[run], None, &mut out);
            out
        };
        let want = attend(&kv, 5);
        let mut other = KvLayer::new(heads, 200, bf16);
        (0..33).for_each(|i| other.receive(150 + i, &kv, 5 + i));
        assert_eq!(attend(&other, 150), want);
        // Both ways over itself.
        kv.copy(5, 20, 33);
        assert_eq!(attend(&kv, 20), want);
        kv.copy(20, 3, 33);
        assert_eq!(attend(&kv, 3), want);
    }
}
