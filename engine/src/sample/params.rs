//! A request's wishes for its tokens: temperature, filters, penalties, seed.

use std::sync::Arc;

use kernels::cuda::Draw;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::request::{Token, mix};

/// Temperatures below this take the most likely token.
const GREEDY: f32 = 1e-5;

/// The way a request's tokens are chosen.
#[derive(Debug, Clone, PartialEq)]
pub struct SamplingParams {
    /// Logits are divided by it; 0 = always the most likely token.
    pub temperature: f32,
    /// Only so many of the most likely tokens; 0 = all.
    pub top_k: u32,
    /// Only the most likely tokens whose probabilities reach this sum; 1 = all.
    pub top_p: f32,
    /// Only tokens at least so many times as likely as the most likely one; 0 = all.
    pub min_p: f32,
    /// Positive logits of tokens in prompt or output are divided by it, negative ones multiplied; 1 = none.
    pub repetition_penalty: f32,
    /// Taken from the logits of tokens in the output.
    pub presence_penalty: f32,
    /// Taken from them for each time they are there.
    pub frequency_penalty: f32,
    /// The beginning of its random numbers.
    pub seed: u64,
    /// Report log probabilities of the chosen token and of so many of the most likely.
    pub logprobs: Option<u32>,
    /// Tokens that may not be chosen before there are `min_tokens` of output.
    pub forbidden: Arc<[Token]>,
    /// See `forbidden`.
    pub min_tokens: u32,
    /// Choose nothing: offer so many of the most likely tokens to a search
    /// ([`Sampler::take_offers`](super::Sampler::take_offers)).
    pub offers: Option<u32>,
}

impl Default for SamplingParams {
    /// The most likely token, always.
    fn default() -> Self {
        Self {
            temperature: 0.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            seed: 0,
            logprobs: None,
            forbidden: Arc::new([]),
            min_tokens: 0,
            offers: None,
        }
    }
}

impl SamplingParams {
    /// Refuses values outside the ranges above.
    ///
    /// # Errors
    /// The value that is wrong, and the range it may have.
    pub fn check(&self) -> Result<(), String> {
        let within = |name: &str, value: f32, from: f32, to: f32| {
            if value >= from && value <= to {
                return Ok(());
            }
            Err(format!("{name} = {value} must be between {from} and {to}"))
        };
        within("temperature", self.temperature, 0.0, 100.0)?;
        within("top_p", self.top_p, f32::MIN_POSITIVE, 1.0)
            .map_err(|_| format!("top_p = {} must be above 0 and at most 1", self.top_p))?;
        within("min_p", self.min_p, 0.0, 1.0)?;
        within("repetition_penalty", self.repetition_penalty, 0.01, 100.0)?;
        within("presence_penalty", self.presence_penalty, -2.0, 2.0)?;
        within("frequency_penalty", self.frequency_penalty, -2.0, 2.0)
    }
}

impl SamplingParams {
    /// True if the most likely token is taken.
    pub(super) fn is_greedy(&self) -> bool {
        self.temperature < GREEDY
    }

    /// The token after `output` others as a device draws it; none where that takes more than temperature, top-k and
    /// top-p. The same numbers give the same distribution there, not always the same token: a device does not sort.
    pub(super) fn on_device(&self, output: usize, branch: u16) -> Option<Draw> {
        let changed = self.repetition_penalty != 1.0
            || self.presence_penalty != 0.0
            || self.frequency_penalty != 0.0
            || self.min_p > 0.0;
        let forbids = (output as u32) < self.min_tokens && !self.forbidden.is_empty();
        if changed || forbids || self.logprobs.is_some() || self.offers.is_some() {
            return None;
        }
        if self.is_greedy() {
            return Some(Draw::GREEDY);
        }
        Some(Draw {
            inverse_temperature: 1.0 / self.temperature,
            top_k: i32::try_from(self.top_k).unwrap_or(0),
            top_p: self.top_p,
            at: self.chance(output, branch) as f32,
        })
    }

    /// Makes the tokens impossible that may not come after `output` yet.
    pub(super) fn forbid(&self, output: &[Token], logits: &mut [f32]) {
        if (output.len() as u32) < self.min_tokens {
            for &token in self.forbidden.iter() {
                if let Some(logit) = logits.get_mut(token as usize) {
                    *logit = f32::NEG_INFINITY;
                }
            }
        }
    }

    /// The random number, from 0 to 1, of the token after `output` others.
    pub(super) fn chance(&self, output: usize, branch: u16) -> f64 {
        let stream = mix(mix(self.seed, u64::from(branch)), output as u64);
        ChaCha8Rng::seed_from_u64(stream).random()
    }
}
