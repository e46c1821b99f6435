//! Attention over slots: each query row against its sequence's keys and values, wherever they lie.
//!
//! Scores first, for all positions; then their softmax; then the values, position after position. Every sum has an
//! order fixed by absolute positions, so a row's result does not depend on how its sequence was cut into chunks, what
//! else is in the batch, or which slots the allocator chose.

mod kernel;
mod span;

pub use span::{Run, Span};

use kernel::{On, Piece};
use span::{QUERIES, Tile};

use super::kv::{Data, KvLayer};
use super::rows::grow;
use super::simd::{Isa, LANES};
use super::team::{Scattered, Team};

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
    #[expect(clippy::too_many_arguments, reason = "they are the inputs of attention")]
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
        grow(&mut self.scratch, each * team.size());
        let scratch = Scattered::new(&mut self.scratch);
        let out = Scattered::new(out);
        let (tiles, isa) = (&self.tiles, team.isa());
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
                on(isa, kv, piece);
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
                let end = run.slot as usize + run.len as usize;
                assert!(end <= kv.slots(), "slots that exist");
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

/// Computes a piece on whichever kind of keys and values there are.
///
/// # Safety
/// The piece's slots are those of `kv`, and no other piece has its scratch memory or its part of
/// the results.
unsafe fn on(isa: Isa, kv: &KvLayer, piece: Piece<'_>) {
    match &kv.data {
        Data::Bf16(data) => isa.run(On { piece, data, plane: kv.plane() }),
        Data::F32(data) => isa.run(On { piece, data, plane: kv.plane() }),
    }
}
