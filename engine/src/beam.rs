//! Beam search: every continuation of every beam is weighed, and the likeliest go on.
//!
//! The rules are vLLM's, so that the same request means the same: a beam offers its likeliest tokens, twice as many as
//! there are beams; one that ends it makes it an answer; of the others, the best by log probability so far are the next
//! beams. At the end the best by log probability over length (the prompt's included, the end token's not) to the power
//! of the length penalty are the answers. The search stops where no beam can become one of them any more, which vLLM's
//! does not; the answers are the same.

use std::sync::Arc;

use crate::request::Token;
use crate::sample::{Logprobs, Offer};

/// The form of a search.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BeamSearch {
    /// Beams that go on side by side, and most answers.
    pub width: u16,
    /// Above 0 longer answers gain, below 0 shorter ones.
    pub length_penalty: f64,
}

/// An answer, or the beginning of one.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Beam {
    /// Its tokens after the prompt, with the one that ended it.
    pub tokens: Vec<Token>,
    /// Log probabilities of each of them and of the likeliest that were offered, if they are wanted.
    pub logprobs: Vec<Logprobs>,
    /// The log probability of all of it.
    pub sum: f64,
}

/// A search under way: beam `n` is branch `n` of its request.
#[derive(Debug, Clone)]
pub struct Search {
    how: BeamSearch,
    prompt: usize,
    limit: usize,
    ends: Arc<[Token]>,
    logprobs: Option<u32>,
    /// Best first.
    beams: Vec<Beam>,
    /// Answers that ended, best first.
    done: Vec<Beam>,
}

impl Search {
    /// A search from a prompt of so many tokens for `limit` more at most, which each of `ends` ends. Its answers tell
    /// so many log probabilities of each token, if any.
    #[must_use]
    pub fn new(
        how: BeamSearch,
        prompt: u32,
        limit: u32,
        ends: Arc<[Token]>,
        logprobs: Option<u32>,
    ) -> Self {
        let (prompt, limit) = (prompt as usize, limit as usize);
        let how = BeamSearch { width: how.width.max(1), ..how };
        Self { how, prompt, limit, ends, logprobs, beams: vec![Beam::default()], done: Vec::new() }
    }

    /// Tokens that each beam has to offer: enough for all to go on although some of them end it.
    #[must_use]
    pub fn offers(&self) -> u32 {
        let width = u32::from(self.how.width);
        (2 * width).max(width + self.ends.len() as u32)
    }

    /// Goes on by the likely tokens after each beam, best first. Returns the next beams, best first: the beam that each
    /// continues, and its next token; none when the search is over.
    pub fn advance(&mut self, mut offers: impl FnMut(u16) -> Vec<Offer>) -> Vec<(u16, Token)> {
        let beams = std::mem::take(&mut self.beams);
        let offers: Vec<Vec<Offer>> = (0u16..).zip(&beams).map(|(n, _)| offers(n)).collect();
        let mut next: Vec<(f64, u16, Offer)> = Vec::new();
        for ((branch, beam), offers) in (0u16..).zip(&beams).zip(&offers) {
            for &offer in offers {
                let sum = beam.sum + f64::from(offer.1);
                if !self.ends.contains(&offer.0) {
                    next.push((sum, branch, offer));
                } else if self.wins(sum, beam.tokens.len()) {
                    self.done.push(beam.grown(offer, offers, self.logprobs));
                    let done = std::mem::take(&mut self.done);
                    self.done = self.ranked(done);
                }
            }
        }
        // The order among equals stays.
        next.sort_by(|a, b| b.0.total_cmp(&a.0));
        next.truncate(usize::from(self.how.width));
        let grown = |&(_, branch, offer): &(f64, u16, Offer)| {
            let at = usize::from(branch);
            beams[at].grown(offer, &offers[at], self.logprobs)
        };
        self.beams = next.iter().map(grown).collect();
        if self.is_over() {
            return Vec::new();
        }
        next.iter().map(|&(_, branch, (token, _))| (branch, token)).collect()
    }

    /// True where an answer of so many tokens before its end is one of the best so far.
    fn wins(&self, sum: f64, output: usize) -> bool {
        let last = self.done.get(usize::from(self.how.width) - 1);
        last.is_none_or(|last| self.scored(sum, output) > self.score(last))
    }

    /// The answers among `beams`, best first.
    fn ranked(&self, mut beams: Vec<Beam>) -> Vec<Beam> {
        beams.sort_by(|a, b| self.score(b).total_cmp(&self.score(a)));
        beams.truncate(usize::from(self.how.width));
        beams
    }

    fn score(&self, beam: &Beam) -> f64 {
        let ended = beam.tokens.last().is_some_and(|last| self.ends.contains(last));
        self.scored(beam.sum, beam.tokens.len() - usize::from(ended))
    }

    fn scored(&self, sum: f64, output: usize) -> f64 {
        sum / ((self.prompt + output) as f64).powf(self.how.length_penalty)
    }

    /// True where no continuation of the beams can be better than the answers that have ended.
    fn is_over(&self) -> bool {
        let Some(best) = self.beams.first() else { return true };
        let length = best.tokens.len();
        if length >= self.limit {
            return true;
        }
        // From here on no beam gets likelier; its length may still make it better.
        let length = if self.how.length_penalty > 0.0 { self.limit } else { length };
        let hope = self.scored(best.sum, length);
        let last = self.done.get(usize::from(self.how.width) - 1);
        last.is_some_and(|last| self.score(last) >= hope)
    }

    /// The answers, best first.
    #[must_use]
    pub fn answers(mut self) -> Vec<Beam> {
        let mut all = std::mem::take(&mut self.done);
        all.append(&mut self.beams);
        self.ranked(all)
    }
}

impl Beam {
    fn grown(&self, offer: Offer, all: &[Offer], logprobs: Option<u32>) -> Self {
        let mut grown = self.clone();
        grown.tokens.push(offer.0);
        grown.sum += f64::from(offer.1);
        if let Some(top) = logprobs {
            let top = all[..all.len().min(top as usize)].to_vec();
            grown.logprobs.push(Logprobs { chosen: offer.1, top });
        }
        grown
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::mix;
    use proptest::prelude::*;

    /// Log probabilities of a language of so many words: a function of the context, with ties.
    fn language(context: &[Token], words: u32) -> Vec<f64> {
        let seed = context.iter().fold(7, |h, &t| mix(h, u64::from(t)));
        let weights: Vec<f64> =
            (0..words).map(|w| (1 + mix(seed, u64::from(w)) % 6) as f64).collect();
        let sum: f64 = weights.iter().sum();
        weights.iter().map(|w| f64::from((w / sum).ln() as f32)).collect()
    }

    fn best_first(words: &[f64], most: usize) -> Vec<Offer> {
        let mut offers: Vec<Offer> = (0..).zip(words.iter().map(|&w| w as f32)).collect();
        offers.sort_by(|a, b| b.1.total_cmp(&a.1));
        offers.truncate(most);
        offers
    }

    /// The answers of [`Search`], and the steps it took.
    fn searched(mut search: Search, words: u32) -> (Vec<(Vec<Token>, f64)>, usize) {
        let most = search.offers() as usize;
        let (mut beams, mut steps) = (vec![Vec::new()], 0);
        loop {
            steps += 1;
            let next = search
                .advance(|branch| best_first(&language(&beams[usize::from(branch)], words), most));
            if next.is_empty() {
                let answers = search.answers();
                return (answers.into_iter().map(|b| (b.tokens, b.sum)).collect(), steps);
            }
            let grown = |&(from, token): &(u16, Token)| {
                let from: &Vec<Token> = &beams[usize::from(from)];
                [from.as_slice(), &[token]].concat()
            };
            beams = next.iter().map(grown).collect();
        }
    }

    /// The same as vLLM states it, to the last step, without a thought for cost.
    fn stated(how: BeamSearch, prompt: u32, limit: u32, words: u32) -> Vec<(Vec<Token>, f64)> {
        let width = usize::from(how.width);
        let (mut live, mut done) = (vec![(Vec::new(), 0.0)], Vec::new());
        for _ in 0..limit {
            let mut next = Vec::new();
            for (tokens, sum) in &live {
                for (token, logprob) in best_first(&language(tokens, words), 2 * width) {
                    let tokens: Vec<Token> = tokens.iter().copied().chain([token]).collect();
                    let all = if token == 0 { &mut done } else { &mut next };
                    all.push((tokens, sum + f64::from(logprob)));
                }
            }
            next.sort_by(|a, b| b.1.total_cmp(&a.1));
            next.truncate(width);
            live = next;
        }
        done.append(&mut live);
        let score = |(tokens, sum): &(Vec<Token>, f64)| {
            let ended = tokens.last() == Some(&0);
            sum / f64::from(prompt + tokens.len() as u32 - u32::from(ended))
                .powf(how.length_penalty)
        };
        done.sort_by(|a, b| score(b).total_cmp(&score(a)));
        done.truncate(width);
        done
    }

    proptest! {
        #[test]
        fn answers_are_those_of_the_rules(
            width in 1u16..6, penalty in -20i32..30, prompt in 1u32..20, limit in 1u32..9, words in 2u32..12,
        ) {
            let how = BeamSearch { width, length_penalty: f64::from(penalty) / 10.0 };
            let search = Search::new(how, prompt, limit, Arc::new([0]), None);
            let (answers, steps) = searched(search, words);
            prop_assert_eq!(answers, stated(how, prompt, limit, words));
            prop_assert!(steps <= limit as usize);
        }

        /// With room for every continuation, a search is the exhaustive one: the likeliest texts of all.
        #[test]
        fn with_room_for_all_it_misses_nothing(limit in 1u32..5, words in 1u32..4) {
            let width = words.pow(limit) as u16;
            let how = BeamSearch { width, length_penalty: 0.0 };
            let (answers, _) = searched(Search::new(how, 3, limit, Arc::new([]), None), words);
            let mut all = vec![(Vec::new(), 0.0)];
            for _ in 0..limit {
                let grown = |(tokens, sum): &(Vec<Token>, f64)| {
                    let more = |(t, l): (u32, f64)| ([tokens.as_slice(), &[t]].concat(), sum + l);
                    (0..).zip(language(tokens, words)).map(more).collect::<Vec<_>>()
                };
                all = all.iter().flat_map(grown).collect();
            }
            all.sort_by(|a, b| b.1.total_cmp(&a.1));
            let sums = |texts: &[(Vec<Token>, f64)]| -> Vec<f64> { texts.iter().map(|t| t.1).collect() };
            prop_assert_eq!(sums(&answers), sums(&all));
        }

        #[test]
        fn one_beam_that_nothing_ends_is_greedy(limit in 1u32..30, words in 1u32..12) {
            let how = BeamSearch { width: 1, length_penalty: 1.0 };
            let (answers, _) = searched(Search::new(how, 1, limit, Arc::new([]), None), words);
            let mut greedy = Vec::new();
            for _ in 0..limit {
                greedy.push(best_first(&language(&greedy, words), 1)[0].0);
            }
            prop_assert_eq!(&answers[0].0, &greedy);
        }
    }

    /// The search stops as soon as its answer is certain.
    #[test]
    fn it_stops_when_nothing_better_can_come() {
        let how = BeamSearch { width: 2, length_penalty: 0.0 };
        let mut search = Search::new(how, 5, 1000, Arc::new([0]), Some(1));
        let even = vec![(0, -0.7), (1, -0.71), (2, -9.0), (3, -9.0)];
        assert_eq!(search.advance(|_| even.clone()), [(0, 1), (0, 2)]);
        assert_eq!(search.advance(|_| even.clone()), []);
        let answers = search.answers();
        let tokens: Vec<_> = answers.iter().map(|a| a.tokens.clone()).collect();
        assert_eq!(tokens, [vec![0], vec![1, 0]]);
        let told = Logprobs { chosen: -0.71, top: vec![(0, -0.7)] };
        assert_eq!(answers[1].logprobs[0], told);
    }
}
