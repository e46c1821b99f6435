//! The work of one iteration for the hardware, as integers.
//!
//! Integers, so that equal work costs equal time to the bit however the totals were reached: step by step, many
//! steps at once, or with sequences in another order.

/// Query rows of a tile: attention kernels compute whole tiles of rows against all of a chunk's context.
pub const TILE: u32 = 64;

/// Totals over the chunks of one iteration. A *decode* is a chunk of one token, and of those drafted after it, that
/// extends a sequence whose prompt is computed; every other chunk is a *prefill* (a prompt, a part of one, or a
/// recomputation).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Shape {
    /// Sequences with a prefill chunk.
    pub prefill_seqs: u32,
    /// New tokens in prefill chunks.
    pub prefill_tokens: u32,
    /// Tokens of context that prefill chunks read, their own included: Σ (history + n).
    pub prefill_context: u64,
    /// Query-key pairs of prefill attention: Σ n·history + n(n+1)/2.
    pub prefill_pairs: u64,
    /// The same for whole tiles: every row of a tile sees as much context as its last.
    pub prefill_tile_pairs: u64,
    /// Tiles of prefill attention: Σ ⌈n / TILE⌉.
    pub prefill_tiles: u64,
    /// The longest context among prefill chunks.
    pub prefill_longest: u32,
    /// New tokens of the largest prefill chunk: a kernel starts as many tiles for every sequence as for this one.
    pub prefill_widest: u32,
    /// Sequences that decode one token each.
    pub decode_seqs: u32,
    /// Tokens of context that decodes read, the new token included: Σ length.
    pub decode_context: u64,
    /// The longest context among the decodes.
    pub decode_longest: u32,
    /// Drafted tokens that are computed beside those of the decodes.
    #[serde(default)]
    pub drafted: u32,
    /// The most of them of one sequence: a drafter takes so many steps.
    #[serde(default)]
    pub draft_longest: u32,
    /// Sequences whose last position goes through the vocabulary head.
    pub sampled: u32,
    /// Tokens whose keys and values are copied inside the pool before the pass (copy-on-write, regrown reservations).
    pub copied_tokens: u64,
}

/// Query-key pairs of `n` tokens after `history`, in whole tiles.
fn tile_pairs(history: u64, n: u64) -> u64 {
    let tile = u64::from(TILE);
    let (whole, rest) = (n / tile, n % tile);
    let mut contexts = whole * history + tile * whole * (whole + 1) / 2;
    if rest > 0 {
        contexts += history + n;
    }
    tile * contexts
}

impl Shape {
    /// Adds a chunk of `n` tokens after `history` computed ones; `decode` as defined above, where all but the first are
    /// drafted.
    #[inline]
    pub fn add(&mut self, history: u32, n: u32, decode: bool, samples: bool) {
        if decode {
            self.decode_seqs += 1;
            self.decode_context += u64::from(history) + u64::from(n);
            self.decode_longest = self.decode_longest.max(history + n);
            self.drafted += n - 1;
            self.draft_longest = self.draft_longest.max(n - 1);
            // The model is asked what follows each.
            self.sampled += n - 1;
        } else {
            self.add_prefill(history, n);
        }
        self.sampled += u32::from(samples);
    }

    fn add_prefill(&mut self, history: u32, n: u32) {
        let (h, n64) = (u64::from(history), u64::from(n));
        self.prefill_seqs += 1;
        self.prefill_tokens += n;
        self.prefill_context += h + n64;
        self.prefill_pairs += n64 * h + n64 * (n64 + 1) / 2;
        self.prefill_tile_pairs += tile_pairs(h, n64);
        self.prefill_tiles += n64.div_ceil(u64::from(TILE));
        self.prefill_longest = self.prefill_longest.max(history + n);
        self.prefill_widest = self.prefill_widest.max(n);
    }

    /// The same batch with `seats` rows, each as long as the longest: the work of a padded static batch. `to` is the
    /// context of a decoding row, or the new tokens of a prefilling one.
    #[must_use]
    pub fn padded(mut self, seats: u32, to: u32) -> Self {
        let (rows, n) = (u64::from(seats), u64::from(to));
        if self.decode_seqs > 0 {
            (self.decode_seqs, self.decode_context, self.decode_longest) = (seats, rows * n, to);
        } else {
            (self.prefill_seqs, self.prefill_tokens) = (seats, seats * to);
            self.prefill_context = self.prefill_context.max(rows * n);
            self.prefill_pairs = self.prefill_pairs.max(rows * n * (n + 1) / 2);
            self.prefill_tile_pairs = self.prefill_tile_pairs.max(rows * tile_pairs(0, n));
            self.prefill_tiles = self.prefill_tiles.max(rows * n.div_ceil(u64::from(TILE)));
            self.prefill_longest = self.prefill_longest.max(to);
            self.prefill_widest = self.prefill_widest.max(to);
        }
        self.sampled = seats + self.drafted;
        self
    }

    /// The same batch where a query sees at most `seen` tokens, the latest: totals are bounded, for the parts of it are
    /// not known. A tile sees those of all of its rows.
    #[must_use]
    pub fn seeing(mut self, seen: u32) -> Self {
        let (each, new) = (u64::from(seen), u64::from(self.prefill_tokens));
        let tile = each + u64::from(TILE);
        self.decode_context = self.decode_context.min(u64::from(self.decode_seqs) * each);
        self.decode_longest = self.decode_longest.min(seen);
        let history = u64::from(self.prefill_seqs).saturating_mul(each);
        self.prefill_context = self.prefill_context.min(history.saturating_add(new));
        self.prefill_pairs = self.prefill_pairs.min(new.saturating_mul(each));
        let rows = self.prefill_tiles.saturating_mul(u64::from(TILE));
        self.prefill_tile_pairs = self.prefill_tile_pairs.min(rows.saturating_mul(tile));
        self.prefill_longest = self.prefill_longest.min(seen.saturating_add(TILE));
        self
    }

    /// Tokens that go through the dense layers.
    #[must_use]
    pub fn tokens(&self) -> u32 {
        self.prefill_tokens + self.decode_seqs + self.drafted
    }

    /// Its decodes, one token each.
    #[must_use]
    pub fn decodes_alone(&self) -> Self {
        Self {
            decode_seqs: self.decode_seqs,
            decode_context: self.decode_context,
            decode_longest: self.decode_longest,
            sampled: self.decode_seqs,
            ..Self::default()
        }
    }

    /// The same decodes one token later.
    pub fn next_decode(&mut self) {
        self.decode_context += u64::from(self.decode_seqs);
        self.decode_longest += 1;
    }
}
