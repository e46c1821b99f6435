//! The winner's neighbourhood: what each knob's next value does, and whether one of them wins after all.

use super::steady::Rival;
use super::{Method, Tuning, candidate};
use crate::capacity::{FLOOR, Probe, Prober, Stop, rate_at};
use crate::evaluate::{Evaluate, Relax};
use crate::result::Neighbour;
use crate::search::{self, Candidate, Contest, Entry, Rung};
use crate::why::{self, Subject};
use engine::Config;
use rayon::prelude::*;
use std::sync::atomic::AtomicBool;

/// What a knob's other value does, and the candidate it belongs to.
struct Examined {
    neighbour: Neighbour,
    candidate: Candidate,
    good: Option<i32>,
}

/// Whether `subject` does the same as another configuration did in all of `runs`; and what it was run for that.
fn does_the_same(
    subject: &Subject<'_>,
    runs: &[&Probe],
    cancel: &AtomicBool,
) -> (bool, Vec<Probe>) {
    let Some(head) = runs.first().map(|run| run.head) else { return (false, Vec::new()) };
    let (evaluate, config) = (subject.evaluate, subject.config);
    let Ok(prober) = Prober::new(evaluate, config, Relax::Nothing, head, cancel) else {
        return (false, Vec::new());
    };
    let mut prober = prober.knowing(subject.known);
    let same = runs.iter().all(|run| {
        let tried = prober.passes(run.k).is_ok();
        let own = prober.probe(run.k).filter(|_| tried);
        own.is_some_and(|own| own.observation.summary == run.observation.summary)
    });
    let mut made = prober.into_probes();
    made.retain(|p| !subject.known.iter().any(|k| (k.head, k.k) == (p.head, p.k)));
    (same, made)
}

impl Tuning<'_, '_> {
    /// Measures the winner's neighbours; one that is better on the whole trace becomes the winner, once. Returns the
    /// last winner's, and those of them that hold anything.
    pub(super) fn refine(&mut self) -> (Vec<Neighbour>, Vec<Rival>) {
        let mut seen = (Vec::new(), Vec::new());
        for last in [self.request.method != Method::Halving, true] {
            let Some(best) = self.found.best else { return seen };
            let examined = self.examine(best);
            let promising = self.promising(best, &examined);
            let rival =
                |e: &Examined| Some(Rival { candidate: e.candidate.clone(), good: e.good? });
            let rivals = examined.iter().filter_map(rival).collect();
            seen = (examined.into_iter().map(|e| e.neighbour).collect(), rivals);
            if last || !self.promote(best, promising) {
                break;
            }
        }
        seen
    }

    /// What one knob more or less than entry `best`'s does.
    pub(super) fn neighbours(&mut self, best: usize) -> Vec<Neighbour> {
        self.examine(best).into_iter().map(|e| e.neighbour).collect()
    }

    /// Every neighbour of entry `best` on the examination head.
    fn examine(&mut self, best: usize) -> Vec<Examined> {
        let cancel = self.request.watch.cancel;
        let entry = &self.found.entries[best];
        let (device, from) = (entry.candidate.device, &entry.candidate.config);
        let evaluate = self.request.devices[device].evaluate;
        let start = entry.good(self.found.head).unwrap_or(FLOOR);
        let winner = Subject { evaluate, config: from, known: &entry.probes, start };
        let Ok(winner) = why::measure(&winner, self.head, cancel) else { return Vec::new() };
        let start = winner.good.unwrap_or(start);
        // Its runs about its knee: where the knobs that matter show.
        let on_head = |p: &&Probe| p.head == self.head;
        let mut edge: Vec<&Probe> =
            entry.probes.iter().chain(&winner.probes).filter(on_head).collect();
        edge.sort_by_key(|p| (p.k - start).abs());
        edge.truncate(2);
        let near = self.request.space.neighbours(from);
        let measured: Vec<_> = near
            .into_par_iter()
            .with_max_len(1)
            .map(|(knob, config)| {
                let known: &[Probe] =
                    self.entry_of(device, &config).map_or(&[], |e| e.probes.as_slice());
                let subject = Subject { evaluate, config: &config, known, start };
                // What does the same about the knee has that knee. A search of its own might find another, by other
                // rates: where a lower one may fail, there are several.
                let (idle, made) = does_the_same(&subject, &edge, cancel);
                let known = [known, &made].concat();
                let subject = Subject { known: &known, ..subject };
                let measured = if idle {
                    Ok(winner.again())
                } else {
                    why::measure(&subject, self.head, cancel)
                };
                let measured = measured.map(|m| m.after(made));
                (knob, config, measured, idle)
            })
            .collect();
        let mut examined = Vec::new();
        let mut probes = winner.probes.clone();
        for (knob, config, measured, idle) in measured {
            let (good, broke) = match measured {
                Ok(m) => {
                    probes.extend(m.probes);
                    (m.good, m.broke)
                }
                Err(Stop::Refused(refused)) => (None, refused.reason),
                Err(Stop::Cancelled) => continue,
            };
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
                head: self.head,
                broke,
            };
            // Same objective and device as the winner: its price is known.
            if let Ok(candidate) = candidate(self.request, device, config) {
                examined.push(Examined { neighbour, candidate, good });
            }
        }
        self.extra.extend(probes);
        examined
    }

    pub(super) fn entry_of(&self, device: usize, config: &Config) -> Option<&Entry> {
        let same = |e: &&Entry| e.candidate.device == device && e.candidate.config == *config;
        self.found.entries.iter().find(same)
    }

    /// Neighbours worth more than the winner on the examination head, the best first.
    fn promising(&self, best: usize, examined: &[Examined]) -> Vec<Candidate> {
        let weight = self.found.entries[best].candidate.weight;
        let worth = |e: &Examined| e.good.map_or(0.0, |k| rate_at(k) * e.candidate.weight);
        let mut better: Vec<&Examined> = examined
            .iter()
            .filter(|e| worth(e) > e.neighbour.winner_rps * weight * 1.0001)
            .filter(|e| {
                // What the search tried on the whole trace has lost already.
                let known = self.entry_of(e.candidate.device, &e.candidate.config);
                known.is_none_or(|e| e.probes.iter().all(|p| p.head != self.found.head))
            })
            .collect();
        better.sort_by(|a, b| worth(b).total_cmp(&worth(a)));
        better.into_iter().take(6).map(|e| e.candidate.clone()).collect()
    }

    /// Races `candidates` against entry `best` on the whole trace; whether the winner changed.
    pub(super) fn promote(&mut self, best: usize, mut candidates: Vec<Candidate>) -> bool {
        if candidates.is_empty() || self.request.watch.cancelled() {
            return false;
        }
        let own = self.found.entries[best].candidate.clone();
        candidates.insert(0, own);
        candidates.iter_mut().for_each(|c| c.group = 0);
        let evaluators: Vec<&dyn Evaluate> =
            self.request.devices.iter().map(|d| d.evaluate).collect();
        let contest = Contest { devices: &evaluators, candidates, watch: self.request.watch };
        let final_only = [Rung { share: 1.0, margin: 0, keep: usize::MAX }];
        let raced = search::halving_from(&contest, &final_only, &self.found.entries[best]);
        let winner = raced.best.filter(|b| *b != 0 && !raced.interrupted);
        for (i, raced) in raced.entries.into_iter().enumerate().skip(1) {
            let at = self.adopt(raced);
            if let Some(at) = at.filter(|_| winner == Some(i)) {
                let group = self.found.entries[at].candidate.group;
                self.found.best = Some(at);
                self.found.group_best[group] = Some(at);
            }
        }
        winner.is_some()
    }

    /// Takes what a race found about a candidate into the search's own entries; returns where.
    pub(super) fn adopt(&mut self, mut raced: Entry) -> Option<usize> {
        let Candidate { device, config, .. } = raced.candidate;
        raced.candidate = candidate(self.request, device, config).ok()?;
        let same = |e: &Entry| {
            (e.candidate.device, &e.candidate.config) == (device, &raced.candidate.config)
        };
        let at = self.found.entries.iter().position(same).unwrap_or(self.found.entries.len());
        match self.found.entries.get_mut(at) {
            Some(known) => {
                known.probes.extend(raced.probes);
                (known.knee, known.standing) = (raced.knee, raced.standing);
            }
            None => self.found.entries.push(raced),
        }
        let groups = self.found.entries[at].candidate.group + 1;
        self.found.group_best.resize(self.found.group_best.len().max(groups), None);
        Some(at)
    }
}
