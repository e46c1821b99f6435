//! Between the projection and attention: per-head norms, the rotary embedding, and keys and values into their slots.

use super::kv::{Data, Heads, KvLayer, Pair, key_at, value_at};
use super::rows::RmsNorm;
use super::simd::{Element, Isa, Kernel, Simd};
use super::team::{Scattered, Team};

/// Rows of one piece of work.
const ROWS: usize = 16;

/// RMS norms of single heads before rotation (Qwen 3).
#[derive(Debug, Clone, Copy)]
pub struct HeadNorms<'a> {
    /// For queries, one weight per element of a head.
    pub query: &'a [f32],
    /// For keys.
    pub key: &'a [f32],
    /// Added to the mean square.
    pub epsilon: f32,
}

/// The rotary embedding's cosines and sines for the rows of a batch; computed once per batch, used by every layer.
#[derive(Debug, Default)]
pub struct Rotation {
    /// By row and pair of elements: (cosine, sine).
    turns: Vec<(f32, f32)>,
    pairs: usize,
}

impl Rotation {
    /// Rows at these `positions`: pair `i` turns by `position * frequencies[i]` radians, and grows by `scale`.
    pub fn set(&mut self, positions: &[u32], frequencies: &[f32], scale: f32) {
        self.pairs = frequencies.len();
        self.turns.clear();
        for &position in positions {
            self.turns.extend(frequencies.iter().map(|f| {
                let (sin, cos) = (position as f32 * f).sin_cos();
                (cos * scale, sin * scale)
            }));
        }
    }

    /// Rotates the heads of `qkv` (rows of [`Heads::width`]: queries, keys, values), writes keys and values to `slots`
    /// of `kv`, and queries, divided by the root of their size, to `queries`.
    ///
    /// # Panics
    /// When sizes disagree or a slot does not exist.
    pub fn apply(
        &self,
        team: &Team,
        qkv: &[f32],
        norms: Option<HeadNorms<'_>>,
        slots: &[u32],
        kv: &mut KvLayer,
        queries: &mut Vec<f32>,
    ) {
        let (heads, rows) = (kv.heads, slots.len());
        assert_eq!(qkv.len(), rows * heads.width(), "a row for each slot");
        assert_eq!(self.turns.len(), rows * heads.dim / 2, "positions of the same rows");
        assert!(slots.iter().all(|&s| (s as usize) < kv.slots()), "slots that exist");
        let wide = |w: &[f32]| w.len() == heads.dim;
        assert!(norms.is_none_or(|n| wide(n.query) && wide(n.key)), "norms as wide as heads");
        let row_width = heads.queries * heads.padded();
        if queries.len() < rows * row_width {
            queries.resize(rows * row_width, 0.0);
        }
        let plane = kv.plane();
        let step = Step { rotation: self, qkv, norms, slots, heads, isa: team.isa() };
        let queries = Scattered::new(queries);
        match &mut kv.data {
            Data::Bf16(data) => step.split(team, data, plane, queries),
            Data::F32(data) => step.split(team, data, plane, queries),
        }
    }
}

/// One layer's work.
struct Step<'a> {
    rotation: &'a Rotation,
    qkv: &'a [f32],
    norms: Option<HeadNorms<'a>>,
    slots: &'a [u32],
    heads: Heads,
    isa: Isa,
}

impl Step<'_> {
    /// Queries are split by rows; keys and values by head, so that no two threads write to one head.
    fn split<E: Element>(
        &self,
        team: &Team,
        data: &mut Pair<E>,
        plane: usize,
        queries: Scattered<f32>,
    ) {
        let (rows, kv) = (self.slots.len(), self.heads.kv);
        let width = self.heads.queries * self.heads.padded();
        let keys = Scattered::new(&mut data.keys[..]);
        let values = Scattered::new(&mut data.values[..]);
        let blocks = rows.div_ceil(ROWS);
        let work = |piece: usize| {
            // SAFETY: each block of rows, each head's keys and each head's values are one piece.
            unsafe {
                if piece < kv {
                    self.keys(piece, keys.part(piece * plane, plane));
                } else if piece < 2 * kv {
                    self.values(piece - kv, values.part((piece - kv) * plane, plane));
                } else {
                    let first = (piece - 2 * kv) * ROWS;
                    for row in first..(first + ROWS).min(rows) {
                        self.queries(row, queries.part(row * width, width));
                    }
                }
            }
        };
        if rows < ROWS {
            (0..2 * kv + blocks).for_each(work);
        } else {
            team.split(2 * kv + blocks, |_, piece| work(piece));
        }
    }

    /// Head number `head` (of queries, then keys, then values) of a row.
    fn head(&self, row: usize, head: usize) -> &[f32] {
        let at = row * self.heads.width() + head * self.heads.dim;
        &self.qkv[at..at + self.heads.dim]
    }

    fn turn(
        &self,
        row: usize,
        head: usize,
        norm: Option<(&[f32], f32)>,
        scale: f32,
        to: &mut [f32],
    ) {
        let pairs = self.rotation.pairs;
        let turns = &self.rotation.turns[row * pairs..(row + 1) * pairs];
        // SAFETY: a head is as long as its norm's weights and twice its pairs; `to` is at least that.
        unsafe { self.isa.run(Turn { head: self.head(row, head), norm, turns, scale, to }) }
    }

    fn queries(&self, row: usize, to: &mut [f32]) {
        let norm = self.norms.map(|n| (n.query, n.epsilon));
        let scale = 1.0 / (self.heads.dim as f32).sqrt();
        for (head, to) in to.chunks_exact_mut(self.heads.padded()).enumerate() {
            self.turn(row, head, norm, scale, to);
        }
    }

    fn keys<E: Element>(&self, head: usize, to: &mut [E]) {
        let norm = self.norms.map(|n| (n.key, n.epsilon));
        let (dim, padded) = (self.heads.dim, self.heads.padded());
        let mut key = [0.0f32; Heads::MAX_DIM];
        for (row, &slot) in self.slots.iter().enumerate() {
            self.turn(row, self.heads.queries + head, norm, 1.0, &mut key);
            for (d, &k) in key[..dim].iter().enumerate() {
                to[key_at::<E>(padded, slot as usize, d)] = E::from_f32(k);
            }
        }
    }

    fn values<E: Element>(&self, head: usize, to: &mut [E]) {
        let padded = self.heads.padded();
        for (row, &slot) in self.slots.iter().enumerate() {
            let to = &mut to[slot as usize * padded..][..padded];
            let value = self.head(row, self.heads.queries + self.heads.kv + head);
            for (d, &v) in value.iter().enumerate() {
                to[value_at::<E>(d)] = E::from_f32(v);
            }
        }
    }
}

/// Normalises and rotates one head: element `i` with element `i + dim / 2`.
struct Turn<'a> {
    head: &'a [f32],
    norm: Option<(&'a [f32], f32)>,
    turns: &'a [(f32, f32)],
    scale: f32,
    to: &'a mut [f32],
}

impl Kernel for Turn<'_> {
    type Out = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let mut normal = [0.0f32; Heads::MAX_DIM];
        let x = match self.norm {
            None => self.head,
            Some((weight, epsilon)) => {
                let to = &mut normal[..self.head.len()];
                RmsNorm { x: self.head, weight, epsilon, to }.run::<S>();
                &normal[..self.head.len()]
            }
        };
        let (low, high) = x.split_at(self.turns.len());
        let (to_low, to_high) = self.to.split_at_mut(self.turns.len());
        for (i, &(cos, sin)) in self.turns.iter().enumerate() {
            to_low[i] = (low[i] * cos - high[i] * sin) * self.scale;
            to_high[i] = (high[i] * cos + low[i] * sin) * self.scale;
        }
    }
}
