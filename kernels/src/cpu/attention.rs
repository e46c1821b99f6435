//! Attention over slots: each query row against its sequence's keys and values, wherever they lie.
//!
//! Scores first, for all positions; then their softmax; then the values, position after position. Every sum has an
//! order fixed by absolute positions, so a row's result does not depend on how its sequence was cut into chunks, what
//! else is in the batch, or which slots the allocator chose.

use super::kv::{Data, Heads, KvLayer, Pair};
use super::simd::{Element, Kernel, LANES, Simd, exp};
use super::team::{Scattered, Team};

/// Queries of one piece of work: rows of a chunk times heads that share keys.
const QUERIES: usize = 12;

/// Elements of a value that one pass over the positions takes.
const CHUNK: usize = 2 * LANES;

/// Consecutive positions in consecutive slots.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    /// First position.
    pub position: u32,
    /// Its slot.
    pub slot: u32,
    /// How many.
    pub len: u32,
}

/// Rows of one sequence that follow each other: row `row + i` is at position `first + i` and attends up to itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// Its first row in the batch.
    pub row: u32,
    /// Rows.
    pub rows: u32,
    /// Position of the first.
    pub first: u32,
    /// Its runs, a range of the batch's: they cover positions `0..first + rows` in order.
    pub runs: (u32, u32),
    /// Whether results are thrown away (padding).
    pub discard: bool,
}

/// Some rows of a span.
#[derive(Debug, Clone, Copy)]
struct Tile {
    span: Span,
    row: u32,
    rows: u32,
}

/// Attention's scratch memory; never shrinks.
#[derive(Debug, Default)]
pub struct Attention {
    tiles: Vec<Tile>,
    /// By member of the team: scores of each query, then one row of results to throw away.
    scratch: Vec<f32>,
}

impl Attention {
    /// Attends every span over `kv`, within `window` positions if there is one; `queries` as
    /// [`Rotation::apply`](super::Rotation::apply) left them. Rows of `out` have queries x dim elements.
    ///
    /// # Panics
    /// When spans overlap, lack runs or name rows or slots that do not exist.
    #[expect(clippy::too_many_arguments, reason = "they are what attention is about")]
    pub fn forward(
        &mut self,
        team: &Team,
        kv: &KvLayer,
        queries: &[f32],
        spans: &[Span],
        runs: &[Run],
        window: Option<u32>,
        out: &mut [f32],
    ) {
        let heads = kv.heads;
        let shared = heads.group().min(QUERIES);
        let parts = heads.group().div_ceil(shared);
        let longest = self.cut(kv, spans, runs, (QUERIES / shared) as u32);
        let rows = queries.len() / (heads.queries * heads.padded());
        assert!(out.len() / (heads.queries * heads.dim) <= rows, "queries for every row");
        // Windows start anywhere: room for the lanes before the first position, and after the last.
        let width = longest.next_multiple_of(LANES) + LANES;
        let each = QUERIES * width + heads.dim;
        if self.scratch.len() < each * team.size() {
            self.scratch.resize(each * team.size(), 0.0);
        }
        let scratch = Scattered::new(&mut self.scratch);
        let out = Scattered::new(out);
        let tiles = &self.tiles;
        let isa = team.isa();
        team.split(tiles.len() * heads.kv * parts, |member, piece| {
            let (tile, rest) = (piece / (heads.kv * parts), piece % (heads.kv * parts));
            let (head, part) = (rest / parts, rest % parts);
            let tile = &tiles[tile];
            let first = head * heads.group() + part * shared;
            let last = (first + shared).min((head + 1) * heads.group());
            let spans_runs = &runs[tile.span.runs.0 as usize..tile.span.runs.1 as usize];
            // SAFETY: slots were checked, each member has its scratch, and each piece its rows and heads of `out`.
            unsafe {
                let scratch = scratch.part(member * each, each);
                let (scores, waste) = scratch.split_at_mut(QUERIES * width);
                let piece = Piece {
                    heads,
                    queries,
                    tile,
                    kv_head: head,
                    query_heads: (first, last),
                    runs: spans_runs,
                    window,
                    scores,
                    width,
                    waste,
                    out,
                };
                match &kv.data {
                    Data::Bf16(data) => isa.run(On { piece, data, plane: kv.plane() }),
                    Data::F32(data) => isa.run(On { piece, data, plane: kv.plane() }),
                }
            }
        });
    }

    /// Cuts spans into tiles and checks them; returns the longest context.
    fn cut(&mut self, kv: &KvLayer, spans: &[Span], runs: &[Run], most: u32) -> usize {
        self.tiles.clear();
        let (mut next, mut longest) = (0, 0);
        for span in spans {
            assert!(span.discard || span.row >= next, "spans in order of rows, none shared");
            next = if span.discard { next } else { span.row + span.rows };
            let mut covered = 0;
            for run in &runs[span.runs.0 as usize..span.runs.1 as usize] {
                assert_eq!(run.position, covered, "runs follow each other");
                assert!((run.slot + run.len) as usize <= kv.slots(), "slots that exist");
                covered += run.len;
            }
            assert!(covered >= span.first + span.rows, "a slot for each position");
            longest = longest.max(span.first + span.rows);
            let cuts = (0..span.rows).step_by(most as usize);
            self.tiles.extend(cuts.map(|at| {
                let rows = most.min(span.rows - at);
                Tile { span: *span, row: at, rows }
            }));
        }
        longest as usize
    }
}

/// Some rows of a span, and some heads that share one key-value head.
struct Piece<'a> {
    heads: Heads,
    queries: &'a [f32],
    tile: &'a Tile,
    kv_head: usize,
    query_heads: (usize, usize),
    runs: &'a [Run],
    window: Option<u32>,
    scores: &'a mut [f32],
    /// Scores of one query to those of the next.
    width: usize,
    waste: &'a mut [f32],
    out: Scattered<f32>,
}

/// A piece on keys and values of one kind.
struct On<'a, E> {
    piece: Piece<'a>,
    data: &'a Pair<E>,
    plane: usize,
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
