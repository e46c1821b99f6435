//! The words of an answer. They differ, for proxies break off an answer that repeats itself, and the same request gets
//! the same ones. All are of one length, so that an event once rendered takes any of them.

use std::hash::{DefaultHasher, Hasher as _};

/// Words there are: three letters.
const COUNT: u64 = 26 * 26 * 26;
/// Bytes of a word: a blank and its letters, which the mock counts as a token.
pub(super) const TEXT: usize = 4;
/// The lowest token id, of as many digits as the highest.
const LOWEST: u64 = 10_000;
/// Digits of a token id.
pub(super) const DIGITS: usize = 5;

/// The words of one answer: none of [`COUNT`] in a row is there twice.
#[derive(Debug, Clone, Copy)]
pub(super) struct Words {
    first: u64,
    step: u64,
}

impl Words {
    /// Words of the answer to a request with that body.
    pub(super) fn of(body: &[u8]) -> Self {
        let mut hasher = DefaultHasher::new();
        hasher.write(body);
        let hash = hasher.finish();
        // A step that has no divisor in common with their count leads past all of them.
        let step = ((hash >> 32) % COUNT) | 1;
        let step = if step.is_multiple_of(13) { step + 2 } else { step };
        Self { first: hash % COUNT, step }
    }

    fn number(self, place: u32) -> u64 {
        (self.first + self.step * u64::from(place)) % COUNT
    }

    /// The text of the token at `place`, from 0.
    pub(super) fn text(self, place: u32) -> [u8; TEXT] {
        let number = self.number(place);
        let letter = |place: u64| b'a' + (number / place % 26) as u8;
        [b' ', letter(26 * 26), letter(26), letter(1)]
    }

    /// The id of the token at `place`.
    pub(super) fn id(self, place: u32) -> u64 {
        LOWEST + self.number(place)
    }

    /// The text of the first `count` tokens.
    pub(super) fn texts(self, count: u32) -> String {
        (0..count).flat_map(|place| self.text(place)).map(char::from).collect()
    }

    /// The ids of the first `count` tokens.
    pub(super) fn ids(self, count: u32) -> Vec<u64> {
        (0..count).map(|place| self.id(place)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_word_comes_before_any_repeats(body in prop::collection::vec(any::<u8>(), 0..40)) {
            let words = Words::of(&body);
            let mut ids = words.ids(COUNT as u32);
            prop_assert!(ids.iter().all(|id| id.to_string().len() == DIGITS));
            ids.sort_unstable();
            ids.dedup();
            prop_assert_eq!(ids.len() as u64, COUNT);
            prop_assert_eq!(words.texts(9).len(), 9 * TEXT);
            prop_assert_eq!(words.texts(9), Words::of(&body).texts(9));
        }
    }
}
