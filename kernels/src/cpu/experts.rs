//! A mixture of experts: the choice of experts for each row, and the sum of what they say.
//!
//! Pairs of a row and an expert are sorted by expert, so that each expert's weights are read once. A row adds up its
//! experts in their order, so its result does not depend on what else is in the batch.

use super::linear::Output;
use super::team::{Scattered, Team};

/// Columns that are summed at once.
const AT_ONCE: usize = 64;

/// The experts of some rows. Kept and filled again.
#[derive(Debug, Default)]
pub struct Routing {
    /// The row of each pair: by expert, then by row.
    rows: Vec<u32>,
    /// Pairs of all experts up to each.
    ends: Vec<u32>,
    /// Experts of a row.
    top_k: usize,
    /// The pairs of each row, `top_k` each, in the order of experts, and their shares.
    pairs: Vec<(u32, f32)>,
    chosen: Vec<(u32, f32)>,
}

impl Routing {
    /// Chooses for each row the `top_k` experts with the largest shares (the first of equals), which are the softmax over
    /// its `logits`, one for each of `experts`; `normalised` scales those chosen to a sum of 1.
    ///
    /// # Panics
    /// When `logits` are not whole rows, or a row cannot have so many experts.
    pub fn choose(&mut self, logits: &[f32], experts: usize, top_k: usize, normalised: bool) {
        assert!((1..=experts).contains(&top_k), "{top_k} of {experts} experts");
        assert!(logits.len().is_multiple_of(experts), "whole rows of {experts}");
        let Self { rows, ends, pairs, chosen, .. } = self;
        self.top_k = top_k;
        chosen.clear();
        ends.clear();
        ends.resize(experts, 0);
        for logits in logits.chunks_exact(experts) {
            let most = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let all: f32 = logits.iter().map(|logit| (logit - most).exp()).sum();
            let first = chosen.len();
            for _ in 0..top_k {
                let taken = &chosen[first..];
                let free = (0..experts).filter(|&e| taken.iter().all(|(t, _)| *t as usize != e));
                let best = free.reduce(|a, b| if logits[b] > logits[a] { b } else { a });
                let best = best.unwrap_or_default();
                chosen.push((best as u32, (logits[best] - most).exp() / all));
            }
            let of_row = &mut chosen[first..];
            if normalised {
                let sum: f32 = of_row.iter().map(|(_, share)| share).sum();
                of_row.iter_mut().for_each(|(_, share)| *share /= sum);
            }
            of_row.sort_unstable_by_key(|(expert, _)| *expert);
            of_row.iter().for_each(|(expert, _)| ends[*expert as usize] += 1);
        }
        let mut end = 0;
        for of_expert in ends.iter_mut() {
            // First where its pairs begin; each that is placed moves it to their end.
            end += std::mem::replace(of_expert, end);
        }
        rows.clear();
        rows.resize(chosen.len(), 0);
        pairs.clear();
        for (i, &(expert, share)) in chosen.iter().enumerate() {
            let at = &mut ends[expert as usize];
            rows[*at as usize] = (i / top_k) as u32;
            pairs.push((*at, share));
            *at += 1;
        }
    }

    /// Pairs of a row and an expert.
    #[must_use]
    pub fn pairs(&self) -> usize {
        self.rows.len()
    }

    /// The experts that some row has chosen: each with its first pair and its rows.
    pub fn experts(&self) -> impl Iterator<Item = (usize, usize, &[u32])> {
        let first = |expert: usize| if expert == 0 { 0 } else { self.ends[expert - 1] as usize };
        let of = move |expert: usize| (expert, first(expert), self.ends[expert] as usize);
        let chosen = (0..self.ends.len()).map(of).filter(|(_, first, end)| first < end);
        chosen.map(|(expert, first, end)| (expert, first, &self.rows[first..end]))
    }

    /// Sums for each row what its experts say, by their shares; `said` are rows of `width`, one for each pair.
    ///
    /// # Panics
    /// When `said` or `to` have other sizes.
    pub fn combine(&self, team: &Team, said: &[f32], width: usize, to: Output<'_>) {
        let (add, to) = match to {
            Output::Store(to) => (false, to),
            Output::Add(to) => (true, to),
        };
        let rows = self.rows.len() / self.top_k.max(1);
        assert_eq!((said.len(), to.len()), (self.rows.len() * width, rows * width), "its rows");
        let to = Scattered::new(to);
        let pieces = rows.min(4 * team.size());
        team.split(pieces, |_, piece| {
            for row in piece * rows / pieces..(piece + 1) * rows / pieces {
                // SAFETY: each piece has its own rows.
                let to = unsafe { to.part(row * width, width) };
                let pairs = &self.pairs[row * self.top_k..][..self.top_k];
                for (at, to) in to.chunks_mut(AT_ONCE).enumerate() {
                    let mut sum = [0.0; AT_ONCE];
                    for &(pair, share) in pairs {
                        let said = &said[pair as usize * width + at * AT_ONCE..][..to.len()];
                        sum.iter_mut().zip(said).for_each(|(sum, said)| *sum += share * said);
                    }
                    // The sum first: one rank of several has no more than that.
                    if add {
                        to.iter_mut().zip(&sum).for_each(|(to, sum)| *to += sum);
                    } else {
                        to.copy_from_slice(&sum[..to.len()]);
                    }
                }
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_go_to_their_likeliest_experts_and_back() {
        let team = Team::new(2);
        let ln = f32::ln;
        // Shares of a half, a quarter, an eighth and an eighth; then equal ones.
        let logits = [ln(0.125), ln(0.5), ln(0.25), ln(0.125), 0.0, 0.0, 0.0, 0.0];
        let mut routing = Routing::default();
        for (normalised, shares) in [(false, [0.5, 0.25]), (true, [2.0 / 3.0, 1.0 / 3.0])] {
            routing.choose(&logits, 4, 2, normalised);
            let experts: Vec<_> =
                routing.experts().map(|(e, first, rows)| (e, first, rows.to_vec())).collect();
            assert_eq!(experts, [(0, 0, vec![1]), (1, 1, vec![0, 1]), (2, 3, vec![0])]);
            // Each pair says its own number.
            let said = [10.0, 20.0, 30.0, 40.0];
            let mut sum = [1.0; 2];
            routing.combine(&team, &said, 1, Output::Store(&mut sum));
            let equal = if normalised { 0.5 } else { 0.25 };
            let want = [20.0 * shares[0] + 40.0 * shares[1], equal * (10.0 + 30.0)];
            assert!(sum.iter().zip(want).all(|(a, b)| (a - b).abs() < 1e-4), "{sum:?} {want:?}");
            routing.combine(&team, &said, 1, Output::Add(&mut sum));
            assert!(sum.iter().zip(want).all(|(a, b)| (a - 2.0 * b).abs() < 1e-4), "{sum:?}");
        }
        routing.choose(&[], 4, 2, true);
        assert_eq!((routing.pairs(), routing.experts().count()), (0, 0));
        routing.combine(&team, &[], 1, Output::Store(&mut []));
    }
}
