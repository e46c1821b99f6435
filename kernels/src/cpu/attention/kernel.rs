//! The kernels: scores of some queries at all positions, their softmax, and their shares of the values.

use super::span::{QUERIES, Run, Tile};
use crate::cpu::kv::{Heads, Pair};
use crate::cpu::simd::{Element, Kernel, LANES, Simd, exp};
use crate::cpu::team::Scattered;

/// Elements of a value that one load takes.
const CHUNK: usize = 2 * LANES;

/// Some rows of a span, and some heads that share one key-value head.
pub(super) struct Piece<'a> {
    pub(super) heads: Heads,
    pub(super) queries: &'a [f32],
    pub(super) tile: &'a Tile,
    pub(super) kv_head: usize,
    pub(super) query_heads: (usize, usize),
    pub(super) runs: &'a [Run],
    pub(super) window: Option<u32>,
    pub(super) scores: &'a mut [f32],
    /// Scores of one query to those of the next.
    pub(super) width: usize,
    pub(super) waste: &'a mut [f32],
    pub(super) out: Scattered<f32>,
}

/// A piece on keys and values of one kind.
pub(super) struct On<'a, E> {
    pub(super) piece: Piece<'a>,
    pub(super) data: &'a Pair<E>,
    pub(super) plane: usize,
}

impl<E: Element> Kernel for On<'_, E> {
    type Out = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(mut self) {
        let queries = self.piece.queries();
        let mut at = 0;
        while at < queries {
            let left = (queries - at).min(S::ROWS);
            at += match left {
                12.. => self.scores::<S, 12>(at),
                8.. => self.scores::<S, 8>(at),
                6.. => self.scores::<S, 6>(at),
                4.. => self.scores::<S, 4>(at),
                3 => self.scores::<S, 3>(at),
                2 => self.scores::<S, 2>(at),
                _ => self.scores::<S, 1>(at),
            };
        }
        let mut shares = [0.0f32; QUERIES];
        for (i, share) in shares[..queries].iter_mut().enumerate() {
            *share = 1.0 / self.piece.softmax::<S>(i);
        }
        let mut at = 0;
        while at < queries {
            let left = (queries - at).min(S::ROWS);
            at += match left {
                12.. => self.values::<S, 12>(at, &shares),
                8.. => self.values::<S, 8>(at, &shares),
                6.. => self.values::<S, 6>(at, &shares),
                4.. => self.values::<S, 4>(at, &shares),
                3 => self.values::<S, 3>(at, &shares),
                2 => self.values::<S, 2>(at, &shares),
                _ => self.values::<S, 1>(at, &shares),
            };
        }
    }
}

impl<E: Element> On<'_, E> {
    /// Scores of queries `at..at + R` at all positions; several tiles of slots at a time where a run has them, so that
    /// there are sums enough to hide the latency of one behind the others. Meanwhile the values are fetched.
    #[inline(always)]
    unsafe fn scores<S: Simd, const R: usize>(&mut self, at: usize) -> usize {
        if R > S::ROWS {
            return R; // Never asked for; not worth its code.
        }
        let (from, until) = self.piece.positions();
        let tile_len = LANES * self.piece.heads.padded();
        let keys = self.data.keys.as_ptr().add(self.piece.kv_head * self.plane);
        let values = self.data.values.as_ptr().add(self.piece.kv_head * self.plane);
        let mut queries = [std::ptr::null(); R];
        for r in 0..R {
            queries[r] = self.piece.query(at + r);
        }
        let tiles_of = |run: &Stretch| (run.slot / LANES, (run.slot + run.len - 1) / LANES);
        for (i, run) in self.piece.runs.iter().enumerate() {
            let Some(run) = run.within(from, until) else { continue };
            let (mut tile, last) = tiles_of(&run);
            if at == 0 {
                let next = self.piece.runs.get(i + 1).and_then(|next| next.within(from, until));
                if let Some(next) = next {
                    fetch::<S, E>(keys.add(tiles_of(&next).0 * tile_len), tile_len);
                }
            }
            while tile <= last {
                let key = keys.add(tile * tile_len);
                let tiles = if 4 * R <= S::ROWS && tile + 3 <= last {
                    let sums = self.products::<S, R, 4>(key, &queries);
                    self.piece.keep::<S, R, 4>(&run, from, tile, at, &sums)
                } else if tile < last {
                    let sums = self.products::<S, R, 2>(key, &queries);
                    self.piece.keep::<S, R, 2>(&run, from, tile, at, &sums)
                } else {
                    let sums = self.products::<S, R, 1>(key, &queries);
                    self.piece.keep::<S, R, 1>(&run, from, tile, at, &sums)
                };
                if at == 0 {
                    fetch::<S, E>(values.add(tile * tile_len), tiles * tile_len);
                }
                tile += tiles;
            }
        }
        R
    }

    /// `R` queries times `T` tiles of 16 keys, over the elements of a head in order.
    #[inline(always)]
    unsafe fn products<S: Simd, const R: usize, const T: usize>(
        &self,
        key: *const E,
        queries: &[*const f32; R],
    ) -> [[S::F; T]; R] {
        let padded = self.piece.heads.padded();
        let mut sums = [[S::splat(0.0); T]; R];
        for pair in 0..padded / 2 {
            for t in 0..T {
                let pairs = key.add(t * LANES * padded + pair * 2 * LANES);
                let (first, second) = E::load_pairs::<S>(pairs);
                for r in 0..R {
                    let q = queries[r].add(2 * pair);
                    sums[r][t] = S::fma(first, S::splat(*q), sums[r][t]);
                    sums[r][t] = S::fma(second, S::splat(*q.add(1)), sums[r][t]);
                }
            }
        }
        sums
    }

    /// Results of queries `at..at + R`, as many elements at a time as there are registers for.
    #[inline(always)]
    unsafe fn values<S: Simd, const R: usize>(
        &mut self,
        at: usize,
        shares: &[f32; QUERIES],
    ) -> usize {
        if R > S::ROWS {
            return R;
        }
        let (mut chunk, chunks) = (0, self.piece.heads.padded() / CHUNK);
        while chunk < chunks {
            chunk += if 2 * R <= S::ROWS && chunk + 1 < chunks {
                self.mix::<S, R, 2>(at, chunk, shares)
            } else {
                self.mix::<S, R, 1>(at, chunk, shares)
            };
        }
        R
    }

    /// `C` times 32 elements of the results: shares of the values, position after position.
    #[inline(always)]
    unsafe fn mix<S: Simd, const R: usize, const C: usize>(
        &mut self,
        at: usize,
        chunk: usize,
        shares: &[f32; QUERIES],
    ) -> usize {
        let (from, until) = self.piece.positions();
        let padded = self.piece.heads.padded();
        let values = self.data.values.as_ptr().add(self.piece.kv_head * self.plane + chunk * CHUNK);
        let scores = self.piece.scores.as_ptr().add(at * self.piece.width);
        let mut sums = [[[S::splat(0.0); 2]; C]; R];
        for run in self.piece.runs {
            let Some(run) = run.within(from, until) else { continue };
            for i in 0..run.len {
                let value = values.add((run.slot + i) * padded);
                let mut halves = [(S::splat(0.0), S::splat(0.0)); C];
                for c in 0..C {
                    halves[c] = E::load_pairs::<S>(value.add(c * CHUNK));
                }
                for r in 0..R {
                    let score = *scores.add(r * self.piece.width + run.position + i - from);
                    for c in 0..C {
                        sums[r][c][0] = S::fma(halves[c].0, S::splat(score), sums[r][c][0]);
                        sums[r][c][1] = S::fma(halves[c].1, S::splat(score), sums[r][c][1]);
                    }
                }
            }
        }
        for r in 0..R {
            for c in 0..C {
                self.piece.finish::<S>(at + r, chunk + c, sums[r][c], shares[at + r]);
            }
        }
        C
    }
}

/// Asks for `len` elements that will be read soon.
#[inline(always)]
unsafe fn fetch<S: Simd, E: Element>(from: *const E, len: usize) {
    for line in (0..len * size_of::<E>()).step_by(64) {
        S::prefetch(from.cast::<u8>().wrapping_add(line));
    }
}

/// Part of a run, in machine words.
#[derive(Clone, Copy)]
struct Stretch {
    position: usize,
    slot: usize,
    len: usize,
}

impl Run {
    /// The part of it within `from..until`.
    #[inline(always)]
    fn within(&self, from: usize, until: usize) -> Option<Stretch> {
        let (start, slot) = (self.position as usize, self.slot as usize);
        let first = start.max(from);
        let end = (start + self.len as usize).min(until);
        (first < end).then(|| Stretch {
            position: first,
            slot: slot + first - start,
            len: end - first,
        })
    }
}

impl Piece<'_> {
    /// Queries: rows of the tile times heads.
    #[inline(always)]
    fn queries(&self) -> usize {
        self.tile.rows as usize * (self.query_heads.1 - self.query_heads.0)
    }

    /// Row in the batch and head of query `i`.
    #[inline(always)]
    fn row_and_head(&self, i: usize) -> (usize, usize) {
        let heads = self.query_heads.1 - self.query_heads.0;
        let row = self.tile.span.row + self.tile.row;
        (row as usize + i / heads, self.query_heads.0 + i % heads)
    }

    #[inline(always)]
    fn query(&self, i: usize) -> *const f32 {
        let ((row, head), padded) = (self.row_and_head(i), self.heads.padded());
        self.queries[(row * self.heads.queries + head) * padded..][..padded].as_ptr()
    }

    /// Positions that row `row` of the tile attends to.
    #[inline(always)]
    fn seen(&self, row: usize) -> (usize, usize) {
        let end = (self.tile.span.first + self.tile.row) as usize + row + 1;
        (self.window.map_or(0, |w| end.saturating_sub(w as usize)), end)
    }

    /// Positions that scores are kept for: from a whole vector on, so that lanes mean the same in every tile.
    #[inline(always)]
    fn positions(&self) -> (usize, usize) {
        (self.seen(0).0 / LANES * LANES, self.seen(self.tile.rows as usize - 1).1)
    }

    /// Writes the lanes of `T` tiles of slots that belong to `run` where their positions are; returns T.
    #[inline(always)]
    unsafe fn keep<S: Simd, const R: usize, const T: usize>(
        &mut self,
        run: &Stretch,
        from: usize,
        tile: usize,
        at: usize,
        sums: &[[S::F; T]; R],
    ) -> usize {
        for t in 0..T {
            let start = (tile + t) * LANES;
            let (first, end) = (run.slot.max(start), (run.slot + run.len).min(start + LANES));
            let to = run.position - from + first - run.slot;
            for r in 0..R {
                let to = self.scores.as_mut_ptr().add((at + r) * self.width + to);
                if end - first == LANES {
                    S::store(sums[r][t], to);
                } else {
                    let mut lanes = [0.0f32; LANES];
                    S::store(sums[r][t], lanes.as_mut_ptr());
                    let some = lanes[first - start..].as_ptr();
                    std::ptr::copy_nonoverlapping(some, to, end - first);
                }
            }
        }
        T
    }

    /// Turns the scores of query `i` into exponentials, zero where it does not look; returns their sum.
    #[inline(always)]
    unsafe fn softmax<S: Simd>(&mut self, i: usize) -> f32 {
        let (base, until) = self.positions();
        let heads = self.query_heads.1 - self.query_heads.0;
        let (first, end) = self.seen(i / heads);
        let (first, end, all) = (first - base, end - base, until - base);
        let scores = &mut self.scores[i * self.width..][..all.next_multiple_of(LANES)];
        scores[..first].fill(f32::MIN);
        scores[end..].fill(f32::MIN);
        let vectors = end.div_ceil(LANES);
        let start = scores.as_mut_ptr();
        let mut most = S::splat(f32::MIN);
        for v in 0..vectors {
            most = S::max(most, S::load(start.add(v * LANES)));
        }
        let most = S::splat(S::largest(most));
        for v in 0..vectors {
            let at = start.add(v * LANES);
            S::store(exp::<S>(S::sub(S::load(at), most)), at);
        }
        scores[..first].fill(0.0);
        scores[end..].fill(0.0);
        let mut sum = S::splat(0.0);
        for v in 0..vectors {
            sum = S::add(sum, S::load(start.add(v * LANES)));
        }
        S::sum(sum)
    }

    /// Writes 32 elements of the result of query `i`.
    #[inline(always)]
    unsafe fn finish<S: Simd>(&mut self, i: usize, chunk: usize, sums: [S::F; 2], share: f32) {
        let mut lanes = [0.0f32; CHUNK];
        S::store(S::mul(sums[0], S::splat(share)), lanes.as_mut_ptr());
        S::store(S::mul(sums[1], S::splat(share)), lanes.as_mut_ptr().add(LANES));
        let (dim, (row, head)) = (self.heads.dim, self.row_and_head(i));
        let from = chunk * CHUNK;
        let len = CHUNK.min(dim - from);
        let to = if self.tile.span.discard {
            &mut self.waste[from..from + len]
        } else {
            self.out.part((row * self.heads.queries + head) * dim + from, len)
        };
        to.copy_from_slice(&lanes[..len]);
    }
}
