//! Speculative decoding (Leviathan et al., ICML '23): tokens are drafted cheaply, computed in one pass with the next
//! token, and kept as far as the model says the same.
//!
//! A decode is then a chunk of 1 + k tokens: the commit takes what the model says too, and one token more, and the
//! memory of the rest is given back. Drafts are certain proposals (prompt lookup; the likeliest token of a small model),
//! so keeping a drafted token where the model samples the same one is what rejection sampling does, and every token is
//! the one that would have come without drafts, to the bit.

use crate::request::mix;
use crate::sequence::{Draft, Sequence};

/// Drafts tokens for decoding sequences.
pub trait Drafter: Send {
    /// Fills `draft`, which is empty, with at most `most` tokens that may follow `seq`.
    fn draft(&mut self, seq: &Sequence, most: u32, draft: &mut Draft);
}

/// Prompt lookup (Saxena 2023; vLLM's `ngram`): what followed the last tokens where they stood before follows again.
#[derive(Debug, Clone, Copy)]
pub struct PromptLookup {
    /// The most tokens that are looked for; then fewer and fewer.
    pub longest: usize,
    /// The fewest.
    pub shortest: usize,
}

impl Default for PromptLookup {
    fn default() -> Self {
        Self { longest: 4, shortest: 2 }
    }
}

impl Drafter for PromptLookup {
    fn draft(&mut self, seq: &Sequence, most: u32, draft: &mut Draft) {
        let tokens = &seq.tokens;
        let found = (self.shortest..=self.longest).rev().find_map(|n| {
            let before = tokens.len().checked_sub(n + 1)?;
            let (last, earlier) = (&tokens[before + 1..], &tokens[..tokens.len() - 1]);
            earlier.windows(n).rposition(|window| window == last).map(|at| at + n)
        });
        if let Some(at) = found {
            let end = tokens.len().min(at + most as usize);
            draft.tokens.extend_from_slice(&tokens[at..end]);
            draft.n = draft.tokens.len() as u32;
        }
    }
}

/// Drafts whose tokens are not real: so many are right as a curve says, by chance that depends on the request and the
/// place alone.
#[derive(Debug, Clone)]
pub struct Expected {
    /// The chance that a drafted token is right where all before it were, by place in the draft; the last counts for all
    /// further ones.
    pub chances: Vec<f64>,
    /// Changes all chance.
    pub seed: u64,
}

impl Expected {
    fn chance(&self, place: u32) -> f64 {
        let last = self.chances.len().saturating_sub(1);
        self.chances.get((place as usize).min(last)).copied().unwrap_or(0.0)
    }

    /// Tokens that an iteration brings a sequence on average, with `n` drafted: at least 1.
    #[must_use]
    pub fn mean(&self, n: u32) -> f64 {
        let mut all = 1.0;
        1.0 + (0..n)
            .map(|place| {
                all *= self.chance(place);
                all
            })
            .sum::<f64>()
    }
}

impl Drafter for Expected {
    fn draft(&mut self, seq: &Sequence, most: u32, draft: &mut Draft) {
        let own = mix(u64::from(seq.request) << 16 | u64::from(seq.branch), self.seed);
        let wrong = |place: &u32| {
            let word = mix(own, u64::from(seq.len + place));
            (word >> 11) as f64 / (1u64 << 53) as f64 >= self.chance(*place)
        };
        draft.n = most;
        draft.right = (0..most).find(wrong).unwrap_or(most);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::{Content, Token};
    use crate::sequence::testing::sequence;

    #[test]
    fn the_longest_and_latest_match_is_continued() {
        let draft = |tokens: &[Token], most| {
            let mut seq = sequence(tokens.len() as u32);
            seq.tokens = tokens.to_vec();
            let mut draft = Draft::default();
            PromptLookup::default().draft(&seq, most, &mut draft);
            assert_eq!(draft.n as usize, draft.tokens.len());
            draft.tokens
        };
        assert_eq!(draft(&[1, 2, 3, 4, 5, 1, 2, 3], 2), [4, 5]);
        assert_eq!(draft(&[1, 2, 7, 1, 2, 8, 1, 2], 9), [8, 1, 2], "the latest");
        assert_eq!(draft(&[3, 1, 2, 7, 9, 1, 2, 8, 3, 1, 2], 1), [7], "the longest first");
        assert_eq!(draft(&[5, 5, 5, 5], 3), [5], "it may reach into what is looked for");
        for none in [&[1, 2, 3, 4][..], &[1, 2], &[1], &[]] {
            assert!(draft(none, 4).is_empty());
        }
    }

    #[test]
    fn as_many_are_right_as_the_curve_says() {
        let mut drafter = Expected { chances: vec![0.8, 0.5], seed: 1 };
        let (mut right, mut again) = (Vec::new(), Vec::new());
        for request in 0..20_000 {
            let mut seq = sequence(100);
            (seq.request, seq.content) = (request, Content::Private);
            for all in [&mut right, &mut again] {
                let mut draft = Draft::default();
                drafter.draft(&seq, 3, &mut draft);
                assert!(draft.n == 3 && draft.right <= 3);
                all.push(draft.right);
            }
        }
        assert_eq!(right, again, "chance depends on the request and the place alone");
        let mean = 1.0 + right.iter().map(|&n| f64::from(n)).sum::<f64>() / right.len() as f64;
        assert!((mean - drafter.mean(3)).abs() < 0.02, "{mean} {}", drafter.mean(3));
        let share = right.iter().filter(|&&n| n >= 1).count() as f64 / right.len() as f64;
        assert!((share - 0.8).abs() < 0.01, "{share}");
        assert_eq!(drafter.mean(0), 1.0);
    }
}
