//! The next token from logits, as each request asks for it.
//!
//! The order is vLLM's: log probabilities are those of the model as it is; then forbidden tokens, penalties, temperature,
//! min-p, top-k, top-p. The random number of a token is a function of the request's seed, its branch and the token's
//! position alone, so what else is in the batch, or a preemption, changes nothing.

mod logprobs;

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kernels::cpu::{Isa, argmax};
use kernels::cuda::Draw;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

pub use logprobs::{Logprobs, Offer};
use logprobs::{log_probabilities, offer};

use crate::exec::cpu::Sample;
use crate::request::{RequestId, Token, mix};
use crate::sequence::Sequence;

/// Temperatures below this take the most likely token.
const GREEDY: f32 = 1e-5;

/// How a request's tokens are chosen.
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
    /// Where its random numbers begin.
    pub seed: u64,
    /// Report log probabilities of the chosen token and of so many of the most likely.
    pub logprobs: Option<u32>,
    /// Tokens that may not be chosen before there are `min_tokens` of output.
    pub forbidden: Arc<[Token]>,
    /// See `forbidden`.
    pub min_tokens: u32,
    /// Choose nothing: offer so many of the most likely tokens to whoever does ([`Sampler::take_offers`]).
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
    /// Which value is wrong and what it may be.
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
    /// The token after `output` others as a device draws it; none where that takes more than temperature, top-k and
    /// top-p. The same numbers give the same distribution there, not always the same token: a device does not sort.
    fn on_device(&self, output: usize, branch: u16) -> Option<Draw> {
        let changed = self.repetition_penalty != 1.0
            || self.presence_penalty != 0.0
            || self.frequency_penalty != 0.0
            || self.min_p > 0.0;
        let forbids = (output as u32) < self.min_tokens && !self.forbidden.is_empty();
        if changed || forbids || self.logprobs.is_some() || self.offers.is_some() {
            return None;
        }
        if self.temperature < GREEDY {
            return Some(Draw::GREEDY);
        }
        Some(Draw {
            inverse_temperature: 1.0 / self.temperature,
            top_k: i32::try_from(self.top_k).unwrap_or(0),
            top_p: self.top_p,
            at: chance(self, output, branch) as f32,
        })
    }
}

/// Chooses the token after `prompt` and `output` from `logits` (one per token of the vocabulary), which it changes;
/// `scratch` may hold anything.
fn choose(
    params: &SamplingParams,
    prompt: &[Token],
    output: &[Token],
    branch: u16,
    logits: &mut [f32],
    scratch: &mut Scratch,
) -> (Token, Option<Logprobs>) {
    let plain = params.logprobs.map(|top| log_probabilities(logits, top as usize));
    forbid(params, output, logits);
    penalise(params, prompt, output, logits);
    let token = if params.temperature < GREEDY {
        most_likely(logits)
    } else {
        draw(params, logits, chance(params, output.len(), branch), scratch)
    };
    let report = plain.map(|(of, top)| Logprobs { chosen: of(token), top });
    (token, report)
}

/// Makes impossible what may not come yet.
fn forbid(params: &SamplingParams, output: &[Token], logits: &mut [f32]) {
    if (output.len() as u32) < params.min_tokens {
        for &token in params.forbidden.iter() {
            if let Some(logit) = logits.get_mut(token as usize) {
                *logit = f32::NEG_INFINITY;
            }
        }
    }
}

/// The random number, from 0 to 1, of the token after `output` others.
fn chance(params: &SamplingParams, output: usize, branch: u16) -> f64 {
    let stream = mix(mix(params.seed, u64::from(branch)), output as u64);
    ChaCha8Rng::seed_from_u64(stream).random()
}

/// The most likely token; of several, the first.
fn most_likely(logits: &[f32]) -> Token {
    argmax(Isa::best(), logits) as Token
}

/// Leaves the `most` greatest entries, greatest first; of equals, the first token first.
fn best_first(entries: &mut Vec<(f32, Token)>, most: usize) {
    let order = |a: &(f32, Token), b: &(f32, Token)| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1));
    if most < entries.len() {
        entries.select_nth_unstable_by(most, order);
        entries.truncate(most);
    }
    entries.sort_unstable_by(order);
}

fn penalise(params: &SamplingParams, prompt: &[Token], output: &[Token], logits: &mut [f32]) {
    let SamplingParams { repetition_penalty: repeat, presence_penalty, frequency_penalty, .. } =
        *params;
    if repeat != 1.0 {
        let seen: HashSet<Token> = prompt.iter().chain(output).copied().collect();
        for token in seen {
            if let Some(logit) = logits.get_mut(token as usize) {
                *logit = if *logit > 0.0 { *logit / repeat } else { *logit * repeat };
            }
        }
    }
    if presence_penalty == 0.0 && frequency_penalty == 0.0 {
        return;
    }
    let mut counts: HashMap<Token, f32> = HashMap::new();
    for &token in output {
        *counts.entry(token).or_default() += 1.0;
    }
    for (token, count) in counts {
        if let Some(logit) = logits.get_mut(token as usize) {
            *logit -= presence_penalty + frequency_penalty * count;
        }
    }
}

/// The token at `at` (from 0 to 1) of what the filters leave of the distribution.
fn draw(params: &SamplingParams, logits: &[f32], at: f64, scratch: &mut Scratch) -> Token {
    let Scratch { weights, left } = scratch;
    let best = most_likely(logits);
    let most = logits.get(best as usize).copied().unwrap_or_default();
    let scale = 1.0 / params.temperature;
    weights.clear();
    weights.extend(logits.iter().map(|&logit| exp((logit - most) * scale)));
    let SamplingParams { top_k, top_p, min_p, .. } = *params;
    if top_k == 0 && top_p >= 1.0 && min_p == 0.0 {
        return find(weights, at).unwrap_or(best);
    }
    let total: f64 = weights.chunks(BLOCK).map(sum).sum();
    let nucleus_alone = top_k == 0 && min_p == 0.0;
    // Together, tokens below this hold less than the share that is left out: sorting can do without them.
    let least =
        if nucleus_alone { total * (1.0 - f64::from(top_p)) / weights.len() as f64 } else { 0.0 };
    let floor = (least as f32).max(min_p).max(NOTHING);
    left.clear();
    left.extend(weights.iter().copied().zip(0..).filter(|entry| entry.0 >= floor));
    if top_k > 0 {
        best_first(left, top_k as usize);
    }
    if top_p < 1.0 {
        let total = if nucleus_alone { total } else { left.iter().map(|e| f64::from(e.0)).sum() };
        nucleus(left, f64::from(top_p) * total);
    }
    weights.clear();
    weights.extend(left.iter().map(|entry| entry.0));
    find(weights, at).map_or(best, |at| left[at as usize].1)
}

/// Leaves the fewest of the greatest entries that hold `enough` between them.
fn nucleus(entries: &mut Vec<(f32, Token)>, enough: f64) {
    best_first(entries, usize::MAX);
    let mut sum = 0.0;
    let last = entries.iter().position(|e| {
        sum += f64::from(e.0);
        sum >= enough
    });
    entries.truncate(last.map_or(entries.len(), |at| at + 1));
}

/// Weights up to this are those of tokens that cannot be: [`exp`] of minus infinity.
const NOTHING: f32 = 2e-38;

/// Weights that are summed at once.
const BLOCK: usize = 512;

/// Which of `weights` is at the share `at` of their sum; none if there is none.
fn find(weights: &[f32], at: f64) -> Option<Token> {
    let total: f64 = weights.chunks(BLOCK).map(sum).sum();
    let mut rest = at * total;
    let mut possible = None;
    for (block, chunk) in weights.chunks(BLOCK).enumerate() {
        let whole = sum(chunk);
        if rest >= whole && (block + 1) * BLOCK < weights.len() {
            rest -= whole;
            continue;
        }
        for (i, &weight) in chunk.iter().enumerate().filter(|(_, weight)| **weight > NOTHING) {
            rest -= f64::from(weight);
            // Rounding may leave nothing but the last.
            possible = Some((block * BLOCK + i) as Token);
            if rest < 0.0 {
                return possible;
            }
        }
    }
    possible
}

/// The sum of a block, in lanes that become vectors.
fn sum(weights: &[f32]) -> f64 {
    let (whole, rest) = weights.as_chunks::<16>();
    let mut lanes = [0.0f32; 16];
    for chunk in whole {
        for (lane, weight) in lanes.iter_mut().zip(chunk) {
            *lane += weight;
        }
    }
    lanes.iter().chain(rest).map(|&x| f64::from(x)).sum()
}

/// e to the `x`, for `x` at most 0, within two units of the last place, down to 1e-38. The vocabulary is long and this
/// is most of sampling: unlike the standard library's, it becomes vectors (the polynomial is that of Cephes' `expf`).
fn exp(x: f32) -> f32 {
    // Adding it leaves the nearest whole number in the last bits.
    const ROUND: f32 = 12_582_912.0;
    let x = x.max(-87.0);
    let shifted = x * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = x - n * 0.693_359_4 + n * 2.121_944_4e-4;
    let terms = [1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 0.166_666_65, 0.5];
    let p = terms.iter().fold(1.987_569_1e-4, |p, term| p * r + term);
    let power = shifted.to_bits().wrapping_sub(ROUND.to_bits()).wrapping_add(127) << 23;
    (p * r * r + r + 1.0) * f32::from_bits(power)
}

/// Room to work in.
#[derive(Debug, Clone, Default)]
struct Scratch {
    weights: Vec<f32>,
    left: Vec<(f32, Token)>,
}

/// Requests and how their tokens are chosen. Copies share it: whoever takes requests in writes it, an executor reads it.
#[derive(Debug, Clone, Default)]
pub struct Sampler {
    shared: Arc<Mutex<Shared>>,
    /// Each copy's own.
    scratch: Scratch,
}

#[derive(Debug, Default)]
struct Shared {
    params: HashMap<RequestId, SamplingParams>,
    reports: HashMap<(RequestId, u16), Logprobs>,
    offers: HashMap<(RequestId, u16), Vec<Offer>>,
}

impl Sampler {
    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on the tokens of `request` are chosen by `params`; of others, the most likely is taken.
    pub fn insert(&self, request: RequestId, params: SamplingParams) {
        self.lock().params.insert(request, params);
    }

    /// Forgets `request`.
    pub fn remove(&self, request: RequestId) {
        let mut shared = self.lock();
        shared.params.remove(&request);
        shared.reports.retain(|key, _| key.0 != request);
        shared.offers.retain(|key, _| key.0 != request);
    }

    /// What may follow a branch that was computed last, best first; it is handed over once.
    #[must_use]
    pub fn take_offers(&self, request: RequestId, branch: u16) -> Vec<Offer> {
        self.lock().offers.remove(&(request, branch)).unwrap_or_default()
    }

    /// Log probabilities of the token sampled last for a branch, if they were asked for; they are handed over once.
    #[must_use]
    pub fn take_logprobs(&self, request: RequestId, branch: u16) -> Option<Logprobs> {
        let mut shared = self.lock();
        if shared.reports.is_empty() { None } else { shared.reports.remove(&(request, branch)) }
    }
}

impl Sample for Sampler {
    fn sample(&mut self, seq: &Sequence, branch: u16, logits: &mut [f32]) -> Token {
        let mut shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(params) = shared.params.get(&seq.request) else { return most_likely(logits) };
        let (prompt, output) = seq.tokens.split_at((seq.prompt as usize).min(seq.tokens.len()));
        if let Some(most) = params.offers {
            let offers = offer(params, output, logits, most);
            let best = offers.first().map_or(0, |offer| offer.0);
            shared.offers.insert((seq.request, branch), offers);
            return best;
        }
        let (token, report) = choose(params, prompt, output, branch, logits, &mut self.scratch);
        if let Some(report) = report {
            shared.reports.insert((seq.request, branch), report);
        }
        token
    }

    fn on_device(&mut self, seq: &Sequence, branch: u16) -> Option<Draw> {
        let shared = self.lock();
        let Some(params) = shared.params.get(&seq.request) else { return Some(Draw::GREEDY) };
        let output = seq.tokens.len() - (seq.prompt as usize).min(seq.tokens.len());
        params.on_device(output, branch)
    }
}

#[cfg(test)]
mod tests;
