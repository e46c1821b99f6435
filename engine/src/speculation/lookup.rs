//! Prompt lookup (Saxena 2023; vLLM's `ngram`): the last few tokens
//! are looked for earlier in the text, and the tokens that followed them there are drafted.

use super::Drafter;
use crate::sequence::{Draft, Sequence};

/// See the module.
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
    fn draft(&mut self, seq: &Sequence, most: u32, draft: &mut Draft) -> u32 {
        let tokens = &seq.tokens;
        let found = (self.shortest..=self.longest).rev().find_map(|n| {
            let before = tokens.len().checked_sub(n + 1)?;
            let (last, earlier) = (&tokens[before + 1..], &tokens[..tokens.len() - 1]);
            earlier.windows(n).rposition(|window| window == last).map(|at| at + n)
        });
        if let Some(at) = found {
            let end = tokens.len().min(at + most as usize);
            draft.tokens.extend_from_slice(&tokens[at..end]);
        }
        draft.tokens.len() as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::Token;
    use crate::sequence::testing::sequence;

    #[test]
    fn the_longest_and_latest_match_is_continued() {
        let draft = |tokens: &[Token], most| {
            let mut seq = sequence(tokens.len() as u32);
            seq.tokens = tokens.to_vec();
            let mut draft = Draft::default();
            let n = PromptLookup::default().draft(&seq, most, &mut draft);
            assert_eq!(n as usize, draft.tokens.len());
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
}
