//! Batches that an engine replays from CUDA graphs: filled up with tokens that nobody asked for, to the next recorded size.
//!
//! Matrix products compute whole tiles of rows anyway, and attention skips rows without context. But tokens of filling
//! go through experts as others do, and wake experts of their own.

/// The largest batch that vLLM records by default.
pub(super) const MOST_TOKENS: u32 = 512;
const MOST: f64 = MOST_TOKENS as f64;

/// Tokens that a batch of `tokens` is filled up to, by vLLM's default sizes: 1, 2, 4, multiples of 8, and of 16 from 256
/// on.
pub(super) fn filled(tokens: f64) -> f64 {
    let step = match tokens {
        ..=2.0 => 1.0,
        ..=4.0 => 2.0,
        ..=256.0 => 8.0,
        ..=MOST => 16.0,
        _ => return tokens,
    };
    (tokens / step).ceil() * step
}

/// Numbers of tokens at which it changes.
pub(super) fn sizes() -> impl Iterator<Item = f64> {
    let recorded = (1..=MOST_TOKENS).map(f64::from).filter(|tokens| filled(*tokens) == *tokens);
    recorded.flat_map(|tokens| [tokens, tokens + 1.0])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_are_filled_up_to_the_next_size() {
        let of = [0, 1, 2, 3, 5, 9, 17, 250, 257, 500, 512, 513, 8192];
        let to = [0, 1, 2, 4, 8, 16, 24, 256, 272, 512, 512, 513, 8192];
        assert_eq!(of.map(|n| filled(f64::from(n))), to.map(f64::from));
        let at = |n: i32| filled(f64::from(n));
        assert!((0..1000).all(|n| at(n) >= f64::from(n) && at(n) <= at(n + 1)));
        assert_eq!(sizes().count(), 2 * (3 + 32 + 16));
    }
}
