//! The next token from logits, as each request asks for it.
//!
//! The order is vLLM's: log probabilities are those of the model as it is; then forbidden tokens, penalties, temperature,
//! min-p, top-k, top-p. The random number of a token is a function of the request's seed, its branch and the token's
//! position alone, so what else is in the batch, or a preemption, changes nothing.

mod logprobs;
mod params;

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kernels::cpu::{Isa, argmax};
use kernels::cuda::Draw;

pub use logprobs::{Logprobs, Offer};
pub use params::SamplingParams;

use logprobs::{best_first, log_probabilities, offer};

use crate::exec::Sample;
use crate::request::{RequestId, Token};
use crate::sequence::Sequence;

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
    params.forbid(output, logits);
    penalise(params, prompt, output, logits);
    let token = if params.is_greedy() {
        most_likely(logits)
    } else {
        draw(params, logits, params.chance(output.len(), branch), scratch)
    };
    let report = plain.map(|(of, top)| Logprobs { chosen: of(token), top });
    (token, report)
}

/// The most likely token; of several, the first.
fn most_likely(logits: &[f32]) -> Token {
    argmax(Isa::best(), logits) as Token
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

/// The token at `at` (from 0 to 1) of the distribution that the filters leave.
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

/// The place among `weights` that is at the share `at` of their sum; none if there is none.
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

/// Requests and the way their tokens are chosen. Copies share it: the owner of requests writes it, an executor reads it.
#[derive(Debug, Clone, Default)]
pub struct Sampler {
    shared: Arc<Mutex<Shared>>,
    /// Each copy's own.
    scratch: Scratch,
}

#[derive(Debug, Default)]
struct Shared {
    params: HashMap<RequestId, SamplingParams>,
    reports: HashMap<(RequestId, u16), VecDeque<Logprobs>>,
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

    /// The tokens that may follow a branch computed last, best first; they are handed over once.
    #[must_use]
    pub fn take_offers(&self, request: RequestId, branch: u16) -> Vec<Offer> {
        self.lock().offers.remove(&(request, branch)).unwrap_or_default()
    }

    /// Log probabilities of the token sampled for a branch, the oldest that were not handed over yet, if they were asked
    /// for.
    #[must_use]
    pub fn take_logprobs(&self, request: RequestId, branch: u16) -> Option<Logprobs> {
        let mut shared = self.lock();
        if shared.reports.is_empty() {
            return None;
        }
        shared.reports.get_mut(&(request, branch))?.pop_front()
    }
}

impl Sample for Sampler {
    fn sample(&mut self, seq: &Sequence, drafted: u32, branch: u16, logits: &mut [f32]) -> Token {
        let mut shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(params) = shared.params.get(&seq.request) else { return most_likely(logits) };
        let with_draft: Vec<Token>;
        let tokens = if drafted == 0 {
            &seq.tokens
        } else {
            with_draft = seq.tokens_in(0, seq.len + drafted).collect();
            &with_draft
        };
        let (prompt, output) = tokens.split_at((seq.prompt as usize).min(tokens.len()));
        if let Some(most) = params.offers {
            let offers = offer(params, output, logits, most);
            let best = offers.first().map_or(0, |offer| offer.0);
            shared.offers.insert((seq.request, branch), offers);
            return best;
        }
        let (token, report) = choose(params, prompt, output, branch, logits, &mut self.scratch);
        if let Some(report) = report {
            shared.reports.entry((seq.request, branch)).or_default().push_back(report);
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
