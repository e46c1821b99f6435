//! The best that each engine can be told, beside the winner.
//!
//! That is the winner where the engine can be told all of it; else the best of what was found and of the winner with
//! what the engine lacks left out.

use super::tuning::{Rival, Tuning};
use crate::contest::entry::Candidate;
use crate::export::{TARGETS, Target, lacks};
use crate::result::EngineBest;
use crate::space::canonical;
use engine::{Config, EngineProfile};

impl Tuning<'_, '_> {
    /// One for each engine that is wanted, on the winner's device; none without a winner.
    pub(super) fn of_engines(&mut self) -> Vec<EngineBest> {
        let Some(best) = self.best else { return Vec::new() };
        let engines = self.question.engines.clone();
        let found = engines.iter().map(|engine| {
            let at = self.best_told_to(engine, best);
            EngineBest {
                engine: engine.name.clone(),
                title: engine.title.clone(),
                best: at.map(|i| self.operating(i)),
            }
        });
        found.collect()
    }

    fn best_told_to(&mut self, engine: &EngineProfile, best: usize) -> Option<usize> {
        let Candidate { device, config, .. } = self.found.entries[best].candidate.clone();
        if lacks(engine, &config).is_empty() {
            return Some(best);
        }
        let told = |tuning: &Self, i: &usize| {
            let c = &tuning.found.entries[*i].candidate;
            c.device == device
                && tuning.found.good(*i).is_some()
                && lacks(engine, &c.config).is_empty()
        };
        let bests =
            self.found.bests().filter(|i| self.found.entries[*i].candidate.device == device);
        let of_policy =
            |i: &usize| self.found.entries[*i].candidate.config.policy() == engine.policy;
        let own: Vec<usize> = bests.filter(of_policy).collect();
        // Measured beforehand: what stands for the engine's own way of scheduling, or else the winner.
        for i in if own.is_empty() { vec![best] } else { own } {
            if !told(self, &i) && !self.question.watch.cancelled() {
                self.measure_adapted(engine, i);
            }
        }
        let found = (0..self.found.entries.len()).filter(|i| told(self, i)).collect::<Vec<_>>();
        self.preferred(found.into_iter())
    }

    /// Measures entry `i` with what `engine` lacks left out.
    fn measure_adapted(&mut self, engine: &EngineProfile, i: usize) {
        let Candidate { device, config, .. } = self.found.entries[i].candidate.clone();
        let candidate = adapted(engine, &config).and_then(|c| self.candidate(device, c));
        let (Some(candidate), Some(good)) = (candidate, self.found.good(i)) else { return };
        let known = self.entry_of(&candidate).filter(|i| self.found.good(*i).is_some());
        if known.is_none() {
            self.measured(&Rival { candidate, good });
        }
    }
}

/// `config` with the parts left out that `engine` lacks.
fn adapted(engine: &EngineProfile, config: &Config) -> Option<Config> {
    let target: &Target = TARGETS.iter().find(|t| t.engine.name == engine.name)?;
    let (mut adapted, pins) = (config.clone(), target.pins(config));
    // The policy first: it sets other knobs.
    for (knob, value) in pins.iter().filter(|p| p.0 == "policy").chain(&pins) {
        adapted.set(knob, value).ok()?;
    }
    let adapted = canonical(&adapted);
    lacks(engine, &adapted).is_empty().then_some(adapted)
}
