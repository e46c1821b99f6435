//! Choosing the answer among several entries: first what serves the most of the requests, then what carries the demand
//! for the least, or is worth most by the objective.

use super::tuning::Tuning;
use crate::contest::entry::Candidate;
use crate::knee::verdict;
use crate::plan::prefer;
use crate::result::Tiebreak;
use crate::subject::unfit::Unfit;
use std::cmp::Ordering;

/// True of two worths that are equal to within rounding.
pub(super) fn alike(x: f64, y: f64) -> bool {
    (x - y).abs() <= 1e-9 * x.max(y)
}

impl Tuning<'_, '_> {
    /// The objective's value of entry `i`.
    pub(super) fn worth(&self, i: usize) -> f64 {
        let c = &self.found.entries[i].candidate;
        self.found.rate(i) * self.field.weight(c.device, &c.config)
    }

    /// Requests that entry `i` can never serve.
    pub(super) fn unfit(&self, i: usize) -> Unfit {
        self.unfit_of(&self.found.entries[i].candidate)
    }

    /// The same of any candidate.
    pub(super) fn unfit_of(&self, candidate: &Candidate) -> Unfit {
        let subject = self.question.devices[candidate.device].subject;
        // A configuration that cannot run was refused before.
        subject.unfit(&candidate.config).unwrap_or_default()
    }

    /// True where `candidate` can serve at least as many requests as entry `best`: to refuse more wins nothing.
    pub(super) fn serves_as_many(&self, candidate: &Candidate, best: usize) -> bool {
        self.unfit_of(candidate).requests <= self.unfit(best).requests
    }

    pub(super) fn preferred(&self, entries: impl Iterator<Item = usize>) -> Option<usize> {
        entries.reduce(|a, b| if self.above(b, a) { b } else { a })
    }

    /// True where entry `a` is preferred to `b`.
    fn above(&self, a: usize, b: usize) -> bool {
        if self.question.demand.is_some() {
            return match (self.plan(a), self.plan(b)) {
                (Some(Ok(a)), Some(Ok(b))) => prefer(&a, &b).0.is_lt(),
                (a, _) => a.is_some_and(|a| a.is_ok()),
            };
        }
        let (refused, others) = (self.unfit(a).requests, self.unfit(b).requests);
        if refused != others {
            return refused < others;
        }
        let (x, y) = (self.worth(a), self.worth(b));
        if !alike(x, y) {
            return x > y;
        }
        self.tiebreak(a, b).0.is_lt()
    }

    /// The rule between two entries of the same worth (less is better): the wider margin, then the fewer GPUs, then
    /// nothing but the order in which they were found.
    pub(super) fn tiebreak(&self, a: usize, b: usize) -> (Ordering, Tiebreak) {
        let used = |i: usize| self.used(i).unwrap_or(0.0);
        let gpus = |i: usize| self.found.entries[i].candidate.config.gpus();
        let (margin, fewer) = (used(a).total_cmp(&used(b)), gpus(a).cmp(&gpus(b)));
        match (margin, fewer) {
            (Ordering::Equal, Ordering::Equal) => (Ordering::Equal, Tiebreak::FoundFirst),
            (Ordering::Equal, order) => (order, Tiebreak::FewerGpus),
            (order, _) => (order, Tiebreak::WiderMargin),
        }
    }

    /// Share of its tightest limit that entry `i` uses at its capacity.
    pub(super) fn used(&self, i: usize) -> Option<f64> {
        let probe = self.found.entries[i].probe(self.found.head(i), self.found.good(i)?)?;
        Some(verdict::worst(&probe.observation))
    }

    /// The best entry of a device by all that was found.
    pub(super) fn leader(&self, device: usize) -> Option<usize> {
        let here = |i: &usize| self.found.entries[*i].candidate.device == device;
        self.preferred(self.found.bests().filter(here))
    }

    pub(super) fn groups(&self, device: usize, policy: usize) -> Vec<usize> {
        let kinds = self.field.kinds().iter().enumerate();
        let own = kinds.filter(|(_, k)| (k.device, k.policy) == (device, policy));
        own.map(|(group, _)| group).collect()
    }
}
