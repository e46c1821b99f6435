//! Batches that an engine replays from CUDA graphs: filled up with tokens that nobody asked for, to the next recorded size.
//!
//! Matrix products compute whole tiles of rows anyway, and attention skips rows without context. But tokens of filling
//! go through experts as others do, and wake experts of their own.

/// The largest batch that vLLM records by default.
pub(super) const MOST_TOKENS: u32 = 512;

/// From here on sizes are further apart.
const COARSE: u32 = 256;

/// Tokens that a batch of `tokens` is filled up to, by vLLM's default sizes: 1, 2, 4, multiples of 8, and of 16 from 256
/// on.
pub(super) fn filled(tokens: u32) -> u32 {
    match tokens {
        0..=2 => tokens,
        3..=4 => 4,
        ..=COARSE => tokens.next_multiple_of(8),
        ..=MOST_TOKENS => tokens.next_multiple_of(16),
        _ => tokens,
    }
}

/// Numbers of tokens at which it changes.
pub(super) fn sizes() -> impl Iterator<Item = f64> {
    let recorded = (1..=MOST_TOKENS).filter(|tokens| filled(*tokens) == *tokens);
    recorded.flat_map(|tokens| [f64::from(tokens), f64::from(tokens + 1)])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_are_filled_up_to_the_next_size() {
        let of = [0, 1, 2, 3, 5, 9, 17, 250, 257, 500, 512, 513, 8192].map(filled);
        assert_eq!(of, [0, 1, 2, 4, 8, 16, 24, 256, 272, 512, 512, 513, 8192]);
        assert!((0..1000).all(|n| filled(n) >= n && filled(n) <= filled(n + 1)));
        assert_eq!(sizes().count(), 2 * (3 + 32 + 16));
    }
}
