//! The part of the winner's capacity that survives the error of predictions, and the rival that keeps more of it.
//!
//! Iterations of real engines take longer or shorter than predicted, by as much as recorded runs have shown. Near a
//! target a little of that decides whether it holds at all, for one configuration sooner than for another. So, of the
//! configurations that are predicted to carry nearly as much as the best, the one that carries most with slow
//! iterations wins; and the winner's capacity comes as an interval, both ends simulated.

use super::tuning::{Refined, Rival, Tuning};
use crate::contest::entry::{Candidate, Entry};
use crate::contest::waves::Group;
use crate::evidence::accuracy::{Accuracy, Spread};
use crate::explain::LOOK;
use crate::knee::{Effort, FLOOR, Knee, Prober, place_above, rate_at};
use crate::result::Standing;
use crate::result::{Confidence, Margin, Neighbour, PassedOver, margins};
use crate::space;
use crate::subject::{Relax, Stop};
use rayon::prelude::*;
use std::sync::atomic::AtomicBool;

/// Share of errors between both ends: one chance in ten beyond either.
const LEVEL: f64 = 0.8;
/// Share of predicted capacity given up for a steadier configuration, at most.
const GIVEN_UP: f64 = 0.03;
/// The least factor by which it must carry more with slow iterations: searches resolve less than that.
const GAIN: f64 = 1.03;
/// Configurations asked.
const RIVALS: usize = 6;

impl Tuning<'_, '_> {
    /// Prefers a rival of a device's best that keeps more. Returns what is the best then, and what one knob more or less
    /// does there.
    pub(super) fn prefer_steady(&mut self, refined: Refined) -> (usize, Vec<Neighbour>) {
        let Refined { best, sensitivity, rivals } = refined;
        match self.steadier(best, rivals) {
            Some(steadier) => (steadier, self.neighbours(steadier)),
            None => (best, sensitivity),
        }
    }

    fn steadier(&mut self, best: usize, rivals: Vec<Rival>) -> Option<usize> {
        let rivals = self.near(best, rivals)?;
        let weight = |c: &Candidate| self.field.weight(c.device, &c.config);
        let own = self.slow(&rivals[0], None)?.ok()?;
        let bar = own * weight(&rivals[0].candidate) * GAIN;
        // Of a rival that carries less than that, nothing more is asked.
        let ask = |r: &Rival| self.slow(r, Some(bar / weight(&r.candidate)));
        let asked: Vec<_> = rivals[1..].par_iter().with_max_len(1).map(ask).collect();
        let mut kept = vec![own];
        for answer in asked {
            kept.push(answer?.ok()?);
        }
        let worth = |i: usize| kept[i] * weight(&rivals[i].candidate);
        let steadiest = (0..rivals.len()).rev().max_by(|a, b| worth(*a).total_cmp(&worth(*b)))?;
        let none = worth(steadiest) < bar || worth(steadiest) <= 0.0;
        let known = rivals.iter().zip(&kept).filter(|(_, kept)| **kept > 0.0);
        self.when_slow.extend(known.map(|(r, kept)| (r.candidate.clone(), *kept)));
        if none {
            return None;
        }
        let over = PassedOver {
            label: space::label(&rivals[0].candidate.config),
            capacity_rps: rate_at(rivals[0].good),
            low_rps: kept[0],
        };
        let enough = self.worth(best) * (1.0 - GIVEN_UP);
        let at = self.crown(&rivals[steadiest], enough)?;
        let device = self.found.entries[best].candidate.device;
        self.passed_over.insert(device, (best, at, over));
        Some(at)
    }

    /// Learns how far the capacities can be trusted that are planned with, and the winner's.
    pub(super) fn trust(&mut self) {
        let devices = 0..self.question.devices.len();
        let planned = devices.filter(|_| self.question.demand.is_some());
        let planned: Vec<usize> = planned.filter_map(|d| self.leader(d)).collect();
        for i in self.best.into_iter().chain(planned) {
            if !self.trusted.contains_key(&i)
                && let Some(confidence) = self.confidence(i)
            {
                self.trusted.insert(i, confidence);
            }
        }
    }

    /// The device's best, then the neighbours and other policies' bests within 3 % of it, highest first.
    fn near(&self, best: usize, mut rivals: Vec<Rival>) -> Option<Vec<Rival>> {
        let known = |i: usize| {
            let candidate = self.found.entries[i].candidate.clone();
            Some(Rival { candidate, good: self.found.good(i)? })
        };
        let own = known(best)?;
        let here = |i: &usize| self.found.entries[*i].candidate.device == own.candidate.device;
        rivals.extend(self.found.bests().filter(here).filter_map(known));
        rivals.retain(|r| self.serves_as_many(&r.candidate, best));
        let weight = |c: &Candidate| self.field.weight(c.device, &c.config);
        let worth = |r: &Rival| rate_at(r.good) * weight(&r.candidate);
        let enough = worth(&own) * (1.0 - GIVEN_UP);
        let mut near = vec![own];
        rivals.sort_by(|a, b| worth(b).total_cmp(&worth(a)));
        for rival in rivals {
            let new = near.iter().all(|known| known.candidate != rival.candidate);
            if near.len() < RIVALS && worth(&rival) >= enough && new {
                near.push(rival);
            }
        }
        Some(near)
    }

    /// The capacity of `rival` with slow iterations, requests/s, or 0 where that is less than `least`; none if it is not
    /// known how slow they may be.
    fn slow(&self, rival: &Rival, least: Option<f64>) -> Option<Result<f64, Stop>> {
        let accuracy = self.accuracy(rival.candidate.device)?;
        let (_, slower) = accuracy.spread.factors(LEVEL);
        Some(self.paced(&rival.candidate, slower, (rival.good, least)))
    }

    fn accuracy(&self, device: usize) -> Option<&Accuracy> {
        self.question.devices[device].accuracy.as_ref()
    }

    /// Requests on which members of a candidate's group are compared.
    fn head_of(&self, of: &Candidate) -> Option<usize> {
        self.found.groups.get(of.group).copied().flatten().map(|g| g.head)
    }

    /// Capacity with iterations of `factor` times the predicted time, looked for from `near` on; 0 where it is less than
    /// `least`.
    fn paced(
        &self,
        of: &Candidate,
        factor: f64,
        (near, least): (i32, Option<f64>),
    ) -> Result<f64, Stop> {
        let subject = self.question.devices[of.device].subject;
        let pace = Relax::Pace((factor * 1e3).round() as u32);
        let cancel: &AtomicBool = self.question.watch.cancel;
        let head = self.head_of(of).unwrap_or_else(|| subject.requests());
        let mut prober = Prober::new(subject, &of.config, pace, head, cancel)?;
        let least = least.filter(|rate| *rate > 0.0).map(place_above);
        if let Some(k) = least
            && !prober.is_up_to(k)?
        {
            return Ok(0.0);
        }
        Ok(match prober.knee(near, LOOK)? {
            Knee::Between { lo, .. } => rate_at(lo),
            Knee::Nowhere => 0.0,
        })
    }

    /// Measures `rival` as winners are measured and makes it the best of its group, if it is worth `enough`; returns where
    /// it is.
    pub(super) fn crown(&mut self, rival: &Rival, enough: f64) -> Option<usize> {
        let at = self.measured(rival)?;
        if self.worth(at) < enough {
            return None;
        }
        let (head, group) = (self.head_of(&rival.candidate)?, rival.candidate.group);
        self.found.groups[group] = Some(Group { head, best: Some(at) });
        Some(at)
    }

    /// Measures `rival` as winners are measured; returns where it is, if it holds the targets at some rate.
    pub(super) fn measured(&mut self, rival: &Rival) -> Option<usize> {
        let Candidate { device, config, .. } = &rival.candidate;
        let subject = self.question.devices[*device].subject;
        let (head, cancel) = (self.head_of(&rival.candidate)?, self.question.watch.cancel);
        let known = self.entry_of(&rival.candidate);
        let mut known = known.map_or(Vec::new(), |i| self.found.entries[i].probes.clone());
        known.retain(|p| p.whole);
        let mut prober =
            Prober::new(subject, config, Relax::Nothing, head, cancel).ok()?.knowing(&known);
        let knee = prober.knee(rival.good, Effort::FINAL).ok()?;
        let Knee::Between { lo, .. } = knee else { return None };
        let mut probes = prober.into_probes();
        probes.retain(|p| !known.iter().any(|k| (k.head, k.k) == (p.head, p.k)));
        let fresh = Entry::new(rival.candidate.clone());
        let (standing, knee) = (Standing::Carries(rate_at(lo)), Some((head, knee)));
        Some(self.adopt(Entry { standing, probes, knee, ..fresh }))
    }

    /// The confidence in the capacity of entry `i`; none where no run of its device was compared, or interrupted.
    pub(super) fn confidence(&self, i: usize) -> Option<Confidence> {
        let entry = &self.found.entries[i];
        let (candidate, good) = (entry.candidate.clone(), self.found.good(i)?);
        let accuracy = self.accuracy(candidate.device)?.clone();
        let (faster, slower) = accuracy.spread.factors(LEVEL);
        let same = |c: &Candidate| (c.device, &c.config) == (candidate.device, &candidate.config);
        let known = self.when_slow.iter().find(|(c, _)| same(c)).map(|(_, rate)| *rate);
        let low_rps =
            known.map_or_else(|| self.paced(&candidate, slower, (good, None)), Ok).ok()?;
        let high_rps = self.paced(&candidate, faster, (good, None)).ok()?;
        let p_feasible = self.on_an_empty_machine(i, &accuracy.spread)?;
        Some(Confidence {
            level: LEVEL,
            faster,
            slower,
            runs: accuracy.spread.runs,
            devices: accuracy.devices,
            low_rps,
            high_rps,
            p_feasible,
            instead_of: self.passed_over.values().find(|p| p.1 == i).map(|p| p.2.clone()),
        })
    }

    /// The probability that entry `i` holds the targets on an empty machine, where every latency is a sum of iterations.
    fn on_an_empty_machine(&self, i: usize, spread: &Spread) -> Option<f64> {
        let (entry, head) = (&self.found.entries[i], self.found.head(i));
        if let Some(floor) = entry.probe(head, FLOOR) {
            return Some(p_met(&margins(&floor.observation), spread));
        }
        let (device, config) = (entry.candidate.device, &entry.candidate.config);
        let subject = self.question.devices[device].subject;
        let cancel = self.question.watch.cancel;
        let mut prober = Prober::new(subject, config, Relax::Nothing, head, cancel).ok()?;
        prober.passes(FLOOR).ok()?;
        let probes = prober.into_probes();
        Some(p_met(&margins(&probes.first()?.observation), spread))
    }
}

/// The probability that all of `margins` are met, where one error of `spread` moves all values alike.
pub(super) fn p_met(margins: &[Margin], spread: &Spread) -> f64 {
    let p = |m: &Margin| match m.value_ms {
        Some(ms) => spread.p_within(ms.max(1e-9), m.limit_ms),
        // Nothing to judge by, or something that never ended.
        None => f64::from(u8::from(m.met)),
    };
    margins.iter().map(p).fold(1.0, f64::min)
}
