//! Log probabilities of tokens under the model as it is: clients may ask to see them, and a beam search goes by them.

use std::sync::Arc;

use super::params::SamplingParams;
use crate::request::Token;

/// A token that may come next, and its log probability under the model as it is.
pub type Offer = (Token, f32);

/// Log probabilities at one position, under the model as it is.
#[derive(Debug, Clone, PartialEq)]
pub struct Logprobs {
    /// Of the chosen token.
    pub chosen: f32,
    /// The most likely tokens, best first.
    pub top: Vec<Offer>,
}

/// The `most` likely tokens after `output` that may come, best first; of equals, the first token first.
pub(super) fn offer(
    params: &SamplingParams,
    output: &[Token],
    logits: &mut [f32],
    most: u32,
) -> Vec<Offer> {
    let whole = log_sum(logits);
    params.forbid(output, logits);
    let mut order: Vec<(f32, Token)> = logits.iter().copied().zip(0..).collect();
    best_first(&mut order, most as usize);
    order.retain(|entry| entry.0 > f32::NEG_INFINITY);
    order.iter().map(|&(logit, token)| (token, (f64::from(logit) - whole) as f32)).collect()
}

/// Leaves the `most` greatest entries, greatest first; of equals, the first token first.
pub(super) fn best_first(entries: &mut Vec<(f32, Token)>, most: usize) {
    let order = |a: &(f32, Token), b: &(f32, Token)| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1));
    if most < entries.len() {
        entries.select_nth_unstable_by(most, order);
        entries.truncate(most);
    }
    entries.sort_unstable_by(order);
}

/// The logarithm of the sum of the weights that logits stand for.
fn log_sum(logits: &[f32]) -> f64 {
    let most = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|&l| f64::from(l - most).exp()).sum();
    f64::from(most) + sum.ln()
}

/// The log probability of any token, and of the `top` most likely ones.
pub(super) fn log_probabilities(
    logits: &[f32],
    top: usize,
) -> (impl Fn(Token) -> f32 + use<>, Vec<(Token, f32)>) {
    let whole = log_sum(logits);
    let of = |logit: f32| (f64::from(logit) - whole) as f32;
    let mut order: Vec<(f32, Token)> = logits.iter().copied().zip(0..).collect();
    best_first(&mut order, top);
    let best = order.iter().map(|&(logit, token)| (token, of(logit))).collect();
    let all: Arc<[f32]> = logits.into();
    let chosen = move |token: Token| (f64::from(all[token as usize]) - whole) as f32;
    (chosen, best)
}
