//! The configurations that carry as much as the winner: what decided between them is told, so that nobody reads a rank
//! into a tie.

use super::choice::alike;
use super::tuning::Tuning;
use crate::knee::STEP;
use crate::result::{Tie, Tiebreak, Ties};
use crate::space;

impl Tuning<'_, '_> {
    /// Those of the winner; none where there are none. A plan's are told by its rule.
    pub(super) fn ties(&self) -> Option<Ties> {
        let best = self.best.filter(|_| self.question.demand.is_none())?;
        let tied = |i: &usize| *i != best && self.ties_with(*i, best);
        let mut others: Vec<usize> = (0..self.found.entries.len()).filter(tied).collect();
        others.sort_by(|a, b| self.tiebreak(*a, *b).0);
        let next = *others.first()?;
        let rule = match self.tiebreak(best, next) {
            _ if self.passed_over.values().any(|over| over.1 == best) => Tiebreak::Steadier,
            (order, rule) if order.is_lt() => rule,
            // An equal one takes no leader's place.
            _ => Tiebreak::FoundFirst,
        };
        let step = STEP - 1.0;
        Some(Ties {
            step,
            left: self.left(best),
            others: others.into_iter().map(|i| self.tie(i)).collect(),
            rule,
        })
    }

    /// True where entry `a` is worth exactly as much as `b`, by capacities that were both bracketed.
    pub(super) fn ties_with(&self, a: usize, b: usize) -> bool {
        let known = |i: usize| self.found.good(i).is_some();
        known(a)
            && known(b)
            && alike(self.worth(a), self.worth(b))
            && self.unfit(a).requests == self.unfit(b).requests
    }

    /// Share of entry `i`'s tightest limit that is left at its capacity.
    fn left(&self, i: usize) -> Option<f64> {
        let judged = !self.question.slo.targets().is_empty();
        self.used(i).filter(|_| judged).map(|used| 1.0 - used)
    }

    fn tie(&self, i: usize) -> Tie {
        let candidate = &self.found.entries[i].candidate;
        Tie {
            label: space::label(&candidate.config),
            device: self.question.devices[candidate.device].info.name.clone(),
            gpus: candidate.config.gpus(),
            left: self.left(i),
        }
    }
}
