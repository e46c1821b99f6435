//! The winner's neighbourhood: what each knob's next value does, and whether one of them wins after all.

use super::tuning::{Refined, Rival, Tuning};
use crate::contest::entry::{Candidate, Entry};
use crate::explain::{self, Case};
use crate::knee::{FLOOR, Probe, Prober, rate_at};
use crate::result::Neighbour;
use crate::subject::{Relax, Stop};
use engine::Config;
use rayon::prelude::*;
use std::sync::atomic::AtomicBool;

/// Times that a device's best gives way to a neighbour, at most.
const PROMOTED: usize = 2;

/// The effect of a knob's other value, and the candidate it belongs to.
struct Examined {
    neighbour: Neighbour,
    candidate: Candidate,
    good: Option<i32>,
}

/// True where `case` does the same as another configuration did in all of `runs`; with the runs made for that.
fn does_the_same(case: &Case<'_>, runs: &[&Probe], cancel: &AtomicBool) -> (bool, Vec<Probe>) {
    let Some(head) = runs.first().map(|run| run.head) else { return (false, Vec::new()) };
    let (subject, config) = (case.subject, case.config);
    let Ok(prober) = Prober::new(subject, config, Relax::Nothing, head, cancel) else {
        return (false, Vec::new());
    };
    let mut prober = prober.knowing(case.known);
    let same = runs.iter().all(|run| {
        let tried = prober.passes(run.k).is_ok();
        let own = prober.probe(run.k).filter(|_| tried);
        own.is_some_and(|own| own.observation.summary == run.observation.summary)
    });
    let mut made = prober.into_probes();
    made.retain(|p| !case.known.iter().any(|k| (k.head, k.k) == (p.head, p.k)));
    (same, made)
}

impl Tuning<'_, '_> {
    /// Measures the neighbours of a device's best; one that is better, of whatever group, takes its place.
    pub(super) fn refine(&mut self, device: usize) -> Option<Refined> {
        for promoted in 0.. {
            let best = self.leader(device)?;
            let examined = self.examine(best);
            if promoted < PROMOTED && self.promote(best, &examined) {
                continue;
            }
            let rival =
                |e: &Examined| Some(Rival { candidate: e.candidate.clone(), good: e.good? });
            let rivals =
                examined.iter().filter(|e| !self.reorders(e, best)).filter_map(rival).collect();
            let sensitivity = examined.into_iter().map(|e| e.neighbour).collect();
            return Some(Refined { best, sensitivity, rivals });
        }
        None
    }

    /// The effects of one knob more or less than entry `best`'s.
    pub(super) fn neighbours(&mut self, best: usize) -> Vec<Neighbour> {
        self.examine(best).into_iter().map(|e| e.neighbour).collect()
    }

    /// Every neighbour of entry `best` on its group's head.
    fn examine(&mut self, best: usize) -> Vec<Examined> {
        let cancel = self.question.watch.cancel;
        let entry = &self.found.entries[best];
        let (device, from) = (entry.candidate.device, &entry.candidate.config);
        let subject = self.question.devices[device].subject;
        let (head, start) = (self.found.head(best), self.found.good(best).unwrap_or(FLOOR));
        let winner = Case { subject, config: from, known: &entry.probes, start };
        let Ok(winner) = explain::measure(&winner, head, cancel) else { return Vec::new() };
        let start = winner.good.unwrap_or(start);
        // Its runs about its knee: where the knobs that matter show.
        let on_head = |p: &&Probe| p.head == head;
        let mut edge: Vec<&Probe> =
            entry.probes.iter().chain(&winner.probes).filter(on_head).collect();
        edge.sort_by_key(|p| (p.k - start).abs());
        edge.truncate(2);
        let near = self.field.space(from).neighbours(from);
        let measured: Vec<_> = near
            .into_par_iter()
            .with_max_len(1)
            .map(|(knob, config)| {
                let same =
                    |e: &&Entry| (e.candidate.device, &e.candidate.config) == (device, &config);
                let known = self.found.entries.iter().find(same);
                let known = known.into_iter().flat_map(|e| &e.probes).filter(|p| p.whole);
                let known: Vec<Probe> = known.cloned().collect();
                let case = Case { subject, config: &config, known: &known, start };
                // A configuration that does the same about the knee has that knee. A search of its own might find another, by other
                // rates: where a lower one may fail, there are several.
                let (idle, made) = does_the_same(&case, &edge, cancel);
                let known = [known.as_slice(), &made].concat();
                let case = Case { known: &known, ..case };
                let measured =
                    if idle { Ok(winner.clone()) } else { explain::measure(&case, head, cancel) };
                (knob, config, measured, idle)
            })
            .collect();
        let least = self.unfit(best).requests;
        let mut examined = Vec::new();
        for (knob, config, measured, idle) in measured {
            let (good, broke) = match measured {
                Ok(m) => (m.good, m.broke),
                Err(Stop::Refused(refused)) => (None, refused.reason),
                Err(Stop::Cancelled | Stop::Gone(_)) => continue,
            };
            let unfit = subject.unfit(&config).unwrap_or_default();
            let broke = if unfit.requests > least { unfit.short() } else { broke };
            let value = |c: &Config| {
                engine::Knob::named(knob).map_or_else(String::new, |knob| c.value(knob))
            };
            let neighbour = Neighbour {
                knob: knob.to_owned(),
                from: value(from),
                to: value(&config),
                capacity_rps: good.map_or(0.0, rate_at),
                winner_rps: winner.rate(),
                idle,
                head,
                broke,
            };
            if let Some(candidate) = self.candidate(device, config) {
                examined.push(Examined { neighbour, candidate, good });
            }
        }
        examined
    }

    /// True of a neighbour of entry `best` whose queue has another order: whether that is worth it is asked in the end
    /// ([`Tuning::reorder`]).
    fn reorders(&self, neighbour: &Examined, best: usize) -> bool {
        let from = &self.found.entries[best].candidate.config;
        neighbour.candidate.config.queue != from.queue
    }

    /// The index of `candidate` among the entries.
    pub(super) fn entry_of(&self, candidate: &Candidate) -> Option<usize> {
        self.found.entries.iter().position(|e| e.candidate == *candidate)
    }

    /// Measures the neighbours that are worth more than entry `best` as winners are measured; whether one of them is worth
    /// more indeed.
    fn promote(&mut self, best: usize, examined: &[Examined]) -> bool {
        let weight = |c: &Candidate| self.field.weight(c.device, &c.config);
        let worth = |e: &Examined| e.good.map_or(0.0, rate_at) * weight(&e.candidate);
        let enough = self.worth(best) * 1.0001;
        let mut better: Vec<&Examined> = examined
            .iter()
            .filter(|e| worth(e) > enough && self.serves_as_many(&e.candidate, best))
            .filter(|e| !self.reorders(e, best))
            .filter(|e| {
                // A neighbour that the search measured has lost already.
                let known = self.entry_of(&e.candidate);
                known.is_none_or(|i| self.found.good(i).is_none())
            })
            .collect();
        better.sort_by(|a, b| worth(b).total_cmp(&worth(a)));
        let rival = |e: &Examined| Some(Rival { candidate: e.candidate.clone(), good: e.good? });
        let rivals: Vec<Rival> = better.into_iter().take(3).filter_map(rival).collect();
        rivals.iter().any(|rival| self.crown(rival, enough).is_some())
    }

    /// Takes what was measured of a candidate into the search's own entries; returns where.
    pub(super) fn adopt(&mut self, measured: Entry) -> usize {
        let at = self.entry_of(&measured.candidate).unwrap_or(self.found.entries.len());
        match self.found.entries.get_mut(at) {
            Some(known) => {
                known.probes.retain(|p| p.whole);
                known.probes.extend(measured.probes);
                (known.knee, known.standing) = (measured.knee, measured.standing);
            }
            None => self.found.entries.push(measured),
        }
        at
    }
}
