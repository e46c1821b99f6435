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
        let adapted = adapted(engine, &config).and_then(|c| self.candidate(device, c));
        let own = match adapted {
            Some(candidate) if !self.question.watch.cancelled() => {
                let known = self.entry_of(&candidate).filter(|i| self.found.good(*i).is_some());
                let good = self.found.good(best)?;
                known.or_else(|| self.measured(&Rival { candidate, good }))
            }
            _ => None,
        };
        let told = |i: &usize| {
            let c = &self.found.entries[*i].candidate;
            c.device == device && lacks(engine, &c.config).is_empty()
        };
        let bests: Vec<usize> = self.found.bests().filter(told).chain(own).collect();
        self.preferred(bests.into_iter())
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
