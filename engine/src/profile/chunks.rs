//! The work of a kernel of prompt chunks: the variables of its table, for the cost model and for the fit alike.
//!
//! Such kernels compute tiles of [`TILE`] query rows of one head against all context of their sequence, one head after
//! another, and as many tiles for each sequence as the largest chunk needs. On a processor tiles are of a few rows, so
//! that rows are counted, not tiles. If the attention backend runs a mixed batch as one such kernel, each decode costs
//! a tile for each query head, and query heads read again the keys and values that a kernel made for decodes lets them
//! share.

use super::parts::Heads;
use crate::config::KvDtype;
use crate::model::kv_element_bytes;
use crate::shape::{Shape, TILE};

/// The way in which chunks share a kernel: see [`Attention`](super::Attention), which holds the same figures.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Law {
    /// Tokens of context that starting a tile is worth.
    pub tile_tokens: f64,
    /// Query rows that a decode costs; 0 = decodes have a kernel of their own.
    pub decode_rows: f64,
    /// Tokens of context that starting a tile without rows is worth.
    pub idle_tokens: f64,
    /// True where rows and their pairs count, not whole tiles.
    pub fine_tiles: bool,
}

/// The device's limits by its data sheet.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Peaks {
    /// FLOP/s in bf16.
    pub flops: f64,
    /// FLOP/s in fp8; 0 = the device does not compute in it.
    pub fp8: f64,
    /// FLOP/s in fp4; 0 = the device does not compute in it.
    pub fp4: f64,
    /// Bytes/s.
    pub bandwidth: f64,
    /// Last-level cache, bytes.
    pub cache_bytes: f64,
    /// Streaming multiprocessors; 0 = not known.
    pub multiprocessors: f64,
}

/// A kernel of prompt chunks for certain heads on a certain device.
#[derive(Debug, Clone, Copy)]
pub struct Chunks {
    query: f64,
    kv: f64,
    /// Tokens before each that it attends to; 0 = all.
    window: u64,
    law: Law,
    multiprocessors: f64,
    /// Tokens of one KV head that the cache holds.
    cached: f64,
    /// By the data sheet, seconds: of a query head's pair, to read a KV head's token, and to read and write a new one.
    pair: f64,
    read: f64,
    carry: f64,
}

/// The work of one batch for the kernel.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Asked {
    /// Query heads x pairs: those of tiles, and as many as starting tiles or reading from memory is worth.
    pub work: f64,
    /// The longest context: no kernel takes less than its longest tile.
    pub longest: f64,
    /// Seconds that the data sheet sets as the least.
    pub floor: f64,
}

/// Kernels reach about this share of either peak, so that reading and computing may be counted in one unit.
const REACHED: f64 = 0.8;

/// Share of the cache that keeps data read in turn: a little more flushes all of it.
const CACHED: f64 = 0.8;

impl Chunks {
    /// The kernel for `heads` over keys and values in a format.
    #[must_use]
    pub fn new(law: Law, heads: Heads, kv: KvDtype, peaks: Peaks) -> Self {
        let (query, dim) = (f64::from(heads.query), f64::from(heads.dim));
        let token = 2.0 * dim * kv_element_bytes(kv) as f64;
        Self {
            query,
            kv: f64::from(heads.kv),
            window: u64::from(heads.window),
            law,
            multiprocessors: peaks.multiprocessors,
            cached: CACHED * peaks.cache_bytes / token,
            pair: 4.0 * dim / peaks.attention_rate(kv),
            read: token / peaks.bandwidth,
            carry: 2.0 * query * dim * 2.0 / peaks.bandwidth,
        }
    }

    /// The work of `shape` for it; its decodes count only if they share the kernel.
    #[must_use]
    pub fn asked(&self, shape: &Shape) -> Asked {
        let shape = &within(shape, self.window);
        let Law { tile_tokens, decode_rows, idle_tokens, fine_tiles } = self.law;
        let tile = f64::from(TILE);
        let (mut seqs, mut longest) = (f64::from(shape.prefill_seqs), shape.prefill_longest);
        let (tiles, pairs) = if fine_tiles {
            (f64::from(shape.prefill_tokens) / tile, shape.prefill_pairs)
        } else {
            (shape.prefill_tiles as f64, shape.prefill_tile_pairs)
        };
        let mut pairs = pairs as f64 + tile * tile_tokens * tiles;
        let mut read = self.kv * shape.prefill_context as f64;
        let mut read_again = 0.0;
        if decode_rows > 0.0 {
            let (decodes, context) = (f64::from(shape.decode_seqs), shape.decode_context as f64);
            pairs += decode_rows * (context + tile_tokens * decodes);
            longest = longest.max(shape.decode_longest);
            seqs += decodes;
            read += self.kv * context;
            read_again = self.read_again(tiles + decodes, context);
        }
        pairs += idle_tokens * tile * seqs * f64::from(shape.prefill_widest.div_ceil(TILE));
        let computed = self.pair * self.query * shape.prefill_pairs as f64;
        Asked {
            work: (self.query * pairs).max(REACHED * read_again * self.read / self.pair),
            longest: f64::from(longest),
            floor: computed.max(self.read * read + self.carry * f64::from(shape.prefill_tokens)),
        }
    }

    /// Tokens of KV, times heads, that decodes with `context` tokens between them read. Query heads of one KV head
    /// share a read where their tiles run in the same wave over the multiprocessors, or where the cache holds what
    /// all sequences of a head read until the next head comes.
    fn read_again(&self, tiles: f64, context: f64) -> f64 {
        if self.multiprocessors == 0.0 {
            return self.kv * context;
        }
        let again = (self.query / self.kv - 1.0) * (tiles / self.multiprocessors).min(1.0);
        self.kv * (context + again * (4.0 * (context - self.cached)).clamp(0.0, context))
    }
}

/// The part of a batch within a window of so many tokens: no token attends to more, and of no sequence is more read.
fn within(shape: &Shape, window: u64) -> Shape {
    if window == 0 {
        return *shape;
    }
    let least = |longest: u32, most: u64| u32::try_from(most).map_or(longest, |m| longest.min(m));
    let tile = u64::from(TILE);
    let (tokens, seqs) = (u64::from(shape.prefill_tokens), u64::from(shape.prefill_seqs));
    let decodes = u64::from(shape.decode_seqs);
    Shape {
        prefill_context: shape
            .prefill_context
            .min(tokens.saturating_add(seqs.saturating_mul(window))),
        prefill_pairs: shape.prefill_pairs.min(tokens.saturating_mul(window)),
        prefill_tile_pairs: shape
            .prefill_tile_pairs
            .min(shape.prefill_tiles.saturating_mul(tile * (window + tile))),
        prefill_longest: least(shape.prefill_longest, window + tile),
        decode_context: shape.decode_context.min(decodes.saturating_mul(window)),
        decode_longest: least(shape.decode_longest, window),
        ..*shape
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LAW: Law =
        Law { tile_tokens: 100.0, decode_rows: 64.0, idle_tokens: 10.0, fine_tiles: false };
    const PEAKS: Peaks = Peaks {
        flops: 1e14,
        fp8: 0.0,
        fp4: 0.0,
        bandwidth: 5e11,
        cache_bytes: 512.0 * 10_000.0,
        multiprocessors: 64.0,
    };

    fn asked(chunks: &[(u32, u32)], decodes: u32, length: u32) -> Asked {
        asked_by(LAW, chunks, decodes, length)
    }

    fn asked_by(law: Law, chunks: &[(u32, u32)], decodes: u32, length: u32) -> Asked {
        let mut shape = Shape::default();
        chunks.iter().for_each(|(history, n)| shape.add(*history, *n, false, true));
        (0..decodes).for_each(|_| shape.add(length - 1, 1, true, true));
        let heads = Heads { query: 32, kv: 8, dim: 128, window: 0 };
        Chunks::new(law, heads, KvDtype::Bf16, PEAKS).asked(&shape)
    }

    #[test]
    fn work_is_that_of_every_tile_started() {
        // Two tiles see 564 and 600 tokens, a decode 300; all three sequences start two tiles.
        let of = asked(&[(500, 100)], 2, 300);
        let pairs = 64.0 * (564.0 + 600.0 + 2.0 * 300.0 + 4.0 * 100.0 + 3.0 * 2.0 * 10.0);
        assert_eq!((of.work, of.longest), (32.0 * pairs, 600.0));
        // The same tokens in narrower chunks start fewer tiles for the decodes.
        assert!(asked(&[(0, 64), (0, 64)], 20, 300).work < asked(&[(0, 128)], 20, 300).work);
    }

    #[test]
    fn a_window_bounds_what_is_seen() {
        let of = |window: u32, length: u32| {
            let heads = Heads { query: 32, kv: 8, dim: 128, window };
            let mut shape = Shape::default();
            shape.add(0, length, false, true);
            Chunks::new(Law::default(), heads, KvDtype::Bf16, PEAKS).asked(&shape)
        };
        assert_eq!(of(128, 64), of(0, 64));
        // 128 tiles of 64 rows that see 192 tokens each.
        assert_eq!((of(128, 8192).work, of(128, 8192).longest), (32.0 * 8192.0 * 192.0, 192.0));
        assert!(of(128, 16_384).work < 2.01 * of(128, 8192).work);
        assert!(of(128, 16_384).floor < 2.01 * of(128, 8192).floor);
    }

    #[test]
    fn fine_tiles_cost_their_rows() {
        let law = Law { tile_tokens: 100.0, fine_tiles: true, ..Law::default() };
        let of = asked_by(law, &[(500, 10), (0, 20)], 3, 300);
        let pairs = 10.0 * 500.0 + 10.0 * 11.0 / 2.0 + 20.0 * 21.0 / 2.0;
        assert_eq!((of.work, of.longest), (32.0 * (pairs + 30.0 * 100.0), 510.0));
        // Not a step where a tile would be full.
        let of = |n| asked_by(law, &[(0, n)], 0, 0).work;
        assert_eq!(of(65) - of(64), of(64) - of(63) + 32.0);
    }

    #[test]
    fn context_beyond_the_cache_is_read_by_every_query_head() {
        // Half a wave: each of the other three query heads of a KV head reads again half of the time.
        let (tokens, read, pair) = (31.0 * 10_000.0, 512.0 / 5e11, 512.0 / 1e14);
        let half = 0.8 * 8.0 * tokens * (1.0 + 3.0 * 0.5) * read / pair;
        assert!((asked(&[(0, 16)], 31, 10_000).work / half - 1.0).abs() < 1e-12);
        assert!((asked(&[(0, 16)], 31, 10_000).floor / (8.0 * tokens * read) - 1.0).abs() < 1e-3);
        // Context that fits is read once, and computing hides that.
        let small = asked(&[(0, 16)], 31, 250);
        assert_eq!(small.work, 32.0 * 64.0 * (16.0 + 31.0 * 250.0 + 32.0 * 100.0 + 32.0 * 10.0));
    }
}
