//! The words of text prompts: each is one token, beside any other word.
//!
//! Without a tokenizer these are common words, and how many tokens they are is the server's to say. With one, only
//! words are used that it keeps apart in every pair, so that n words are n tokens and no text has to be tokenised
//! while a run goes on.

use std::fmt;
use std::sync::Arc;

use crate::error::Error;

/// Words that common vocabularies hold as one token each.
const WORDS: &str = "time year people way day man thing woman life child world school state family student group \
    country problem hand part place case week company system program question work government number night point home \
    water room mother area money story fact month lot right study book eye job word business issue side kind head house \
    service friend father power hour game line end member law";
/// For vocabularies without words, such as bytes.
const LETTERS: &str = "a b c d e f g h i j k l m n o p q r s t u v w x y z";
/// Fewer words than this make prompts that are too much alike.
const FEWEST: usize = 16;

type Count = dyn Fn(&str) -> Option<usize> + Send + Sync;

/// Counts the tokens of a text, without those that a model wants around every text.
#[derive(Clone)]
pub struct Tokens(Arc<Count>);

impl Tokens {
    /// Counted by `count`; none where the text cannot be tokenised.
    pub fn new(count: impl Fn(&str) -> Option<usize> + Send + Sync + 'static) -> Self {
        Self(Arc::new(count))
    }

    /// The number of tokens of `text`.
    #[must_use]
    pub fn count(&self, text: &str) -> Option<usize> {
        (self.0)(text)
    }
}

impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tokens")
    }
}

/// The words that prompts are made of.
#[derive(Debug, Clone)]
pub(super) struct Vocabulary {
    words: Vec<&'static str>,
    /// The separator between two words.
    pub(super) gap: &'static str,
}

impl Default for Vocabulary {
    fn default() -> Self {
        Self { words: WORDS.split(' ').collect(), gap: " " }
    }
}

impl Vocabulary {
    /// Words that are a token each by `tokens`.
    ///
    /// # Errors
    /// When there are too few.
    pub(super) fn of(tokens: &Tokens) -> Result<Self, Error> {
        for (words, gap) in [(WORDS, " "), (LETTERS, "")] {
            let single = |word: &&str| {
                let twice = format!("{word}{gap}{word}");
                tokens.count(word) == Some(1) && tokens.count(&twice) == Some(2)
            };
            let found = Self { words: words.split(' ').filter(single).collect(), gap };
            if found.words.len() >= FEWEST && found.keeps_apart(tokens) {
                return Ok(found);
            }
        }
        Err(Error::Endpoint(
            "this tokenizer merges too many of the words that prompts are made of: leave --tokenizer out".to_owned(),
        ))
    }

    /// True where every word stays one token beside every other.
    fn keeps_apart(&self, tokens: &Tokens) -> bool {
        let pairs = self.words.iter().flat_map(|a| self.words.iter().flat_map(|b| [*a, *b]));
        let text: Vec<&str> = pairs.collect();
        tokens.count(&text.join(self.gap)) == Some(text.len())
    }

    /// The word that a random number stands for.
    pub(super) fn word(&self, random: u64) -> &'static str {
        self.words[((u128::from(random) * self.words.len() as u128) >> 64) as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_where_they_are_tokens_else_letters_else_none() {
        let by_space = Tokens::new(|text| Some(text.split(' ').count()));
        let found = Vocabulary::of(&by_space).unwrap();
        assert_eq!((found.words.len(), found.gap), (64, " "));
        assert_eq!((found.word(0), found.word(u64::MAX)), ("time", "law"));
        let bytes = Tokens::new(|text| Some(text.len()));
        let found = Vocabulary::of(&bytes).unwrap();
        assert_eq!((found.words.len(), found.gap), (26, ""));
        // "lot" is two tokens, and "hour" followed by "game" one.
        let merging = Tokens::new(|text| {
            Some(
                text.split(' ').count() + text.matches("lot").count()
                    - text.matches("hour game").count(),
            )
        });
        assert!(Vocabulary::of(&merging).unwrap_err().to_string().contains("merges too many"));
        let odd = Tokens::new(|text| Some(text.split(' ').count() + text.matches("lot").count()));
        let found = Vocabulary::of(&odd).unwrap();
        assert!(found.words.len() == 63 && !found.words.contains(&"lot"));
        assert!(Vocabulary::of(&Tokens::new(|_| None)).is_err());
    }
}
