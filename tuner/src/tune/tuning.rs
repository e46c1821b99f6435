//! A search whose winners are being examined: everything that is known so far.

use super::field::Field;
use super::question::{Method, Question, TuneError};
use crate::contest::entry::Candidate;
use crate::contest::waves::{self, Contest, Found};
use crate::result::{Confidence, Neighbour, PassedOver, Reordered};
use crate::subject::Subject;
use engine::Config;
use std::collections::{BTreeMap, BTreeSet};

/// Sizes that were searched, by device.
pub(super) type Sizes = BTreeMap<usize, BTreeSet<u32>>;

/// A configuration near the best, and the highest place where it holds.
pub(super) struct Rival {
    pub(super) candidate: Candidate,
    pub(super) good: i32,
}

/// A device's best entry, what one knob more or less than its does, and those of its neighbours that hold anything.
pub(super) struct Refined {
    pub(super) best: usize,
    pub(super) sensitivity: Vec<Neighbour>,
    pub(super) rivals: Vec<Rival>,
}

/// A search whose winners are being examined.
pub(super) struct Tuning<'a, 'r> {
    pub(super) question: &'a Question<'r>,
    pub(super) field: Field<'a>,
    pub(super) found: Found,
    /// Sizes of deployments that were searched for a demand.
    pub(super) searched: Sizes,
    /// The winner.
    pub(super) best: Option<usize>,
    /// The effect of one knob more or less than the winner's.
    pub(super) sensitivity: Vec<Neighbour>,
    /// The capacity of near candidates with slow iterations, requests/s.
    pub(super) when_slow: Vec<(Candidate, f64)>,
    /// By device: the entry that a steadier one was preferred to, that one, and what is to be said of it.
    pub(super) passed_over: BTreeMap<usize, (usize, usize, PassedOver)>,
    /// A queue in another order that carries more than the winner's.
    pub(super) reordered: Option<Reordered>,
    /// The confidence in capacities, by entry.
    pub(super) trusted: BTreeMap<usize, Confidence>,
}

impl<'a, 'r> Tuning<'a, 'r> {
    pub(super) fn new(question: &'a Question<'r>) -> Result<Self, TuneError> {
        Ok(Self {
            question,
            field: Field::new(question)?,
            found: Found::default(),
            searched: Sizes::new(),
            best: None,
            sensitivity: Vec::new(),
            when_slow: Vec::new(),
            passed_over: BTreeMap::new(),
            reordered: None,
            trusted: BTreeMap::new(),
        })
    }

    /// Searches the whole space on every device.
    pub(super) fn grid(&mut self) -> Result<(), TuneError> {
        let devices: Vec<usize> = (0..self.question.devices.len()).collect();
        let candidates = self.field.of(self.question.space, &devices);
        if candidates.is_empty() {
            return Err(self.field.empty());
        }
        self.search(candidates);
        Ok(())
    }

    /// Searches `candidates`, which are of groups of their own.
    pub(super) fn search(&mut self, candidates: Vec<Candidate>) {
        let found = self.contest(candidates, |contest| waves::halving(contest, waves::RUNGS));
        self.found.absorb(found);
    }

    pub(super) fn contest<T>(
        &self,
        candidates: Vec<Candidate>,
        run: impl FnOnce(&Contest<'_>) -> T,
    ) -> T {
        let devices: Vec<&dyn Subject> = self.question.devices.iter().map(|d| d.subject).collect();
        let near = |of: &Candidate| self.field.near(of);
        run(&Contest { devices: &devices, candidates, near: &near, watch: self.question.watch })
    }

    /// Finds every device's best, then the winner among them.
    pub(super) fn settle(&mut self) {
        let devices = 0..self.question.devices.len();
        if self.question.demand.is_some() {
            // A plan is the cheapest of all that was found: nothing is given up for something steadier.
            let bests: Vec<usize> = devices.filter_map(|d| self.leader(d)).collect();
            self.best = self.preferred(bests.into_iter());
            self.sensitivity = self.best.map_or(Vec::new(), |best| self.neighbours(best));
            return;
        }
        let mut refined: Vec<_> = devices.clone().map(|d| self.refine(d)).collect();
        if self.question.method == Method::Exhaustive {
            let found = std::mem::take(&mut self.found);
            self.found = self.contest(Vec::new(), |contest| waves::exhaustive(contest, found));
            refined = devices.map(|d| self.refine(d)).collect();
        }
        let mut bests = Vec::new();
        for refined in refined.into_iter().flatten() {
            bests.push(self.prefer_steady(refined));
        }
        let best = self.preferred(bests.iter().map(|(best, _)| *best));
        let chosen = bests.into_iter().find(|(b, _)| Some(*b) == best);
        (self.best, self.sensitivity) = chosen.map_or((None, Vec::new()), |(b, s)| (Some(b), s));
    }

    /// `config` on a device as a member of its group.
    pub(super) fn candidate(&self, device: usize, config: Config) -> Option<Candidate> {
        self.field.candidate(device, config)
    }
}
