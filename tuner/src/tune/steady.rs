//! What of the winner's capacity survives the error of predictions, and who keeps more of it.
//!
//! Iterations of real engines take longer or shorter than predicted, by as much as recorded runs have shown. Near a
//! target a little of that decides whether it holds at all, for one configuration sooner than for another. So, of the
//! configurations that are predicted to carry nearly as much as the best, the one that carries most with slow
//! iterations wins; and the winner's capacity comes as an interval, both ends simulated.

use super::{Tuning, candidate};
use crate::accuracy::{Accuracy, Spread};
use crate::capacity::{Effort, FLOOR, Knee, Probe, Prober, Stop, rate_at};
use crate::evaluate::Relax;
use crate::result::{Confidence, Margin, PassedOver, margins};
use crate::search::{Candidate, Entry, Standing};
use crate::space;
use crate::why::LOOK;
use rayon::prelude::*;
use std::sync::atomic::AtomicBool;

/// Share of errors between both ends: one chance in ten beyond either.
const LEVEL: f64 = 0.8;
/// Share of predicted capacity given up for a steadier configuration, at most.
const GIVEN_UP: f64 = 0.05;
/// How much more it must carry with slow iterations, at least: what searches resolve is below that.
const GAIN: f64 = 1.03;
/// Configurations asked.
const RIVALS: usize = 6;

/// A configuration near the best, and the highest place where it holds.
pub(super) struct Rival {
    pub(super) candidate: Candidate,
    pub(super) good: i32,
}

impl Rival {
    fn worth(&self) -> f64 {
        rate_at(self.good) * self.candidate.weight
    }
}

impl Tuning<'_, '_> {
    /// Prefers a rival of the winner that keeps more; returns what it was preferred to, and its capacity then.
    pub(super) fn prefer_steady(&mut self, rivals: Vec<Rival>) -> Option<PassedOver> {
        let best = self.found.best?;
        let rivals = self.near(best, rivals)?;
        let asked: Vec<_> = rivals.par_iter().with_max_len(1).map(|r| self.slow(r)).collect();
        let mut kept = Vec::new();
        for answer in asked {
            let (rate, probes) = answer?.ok()?;
            self.extra.extend(probes);
            kept.push(rate);
        }
        self.when_slow =
            rivals.iter().map(|r| r.candidate.clone()).zip(kept.iter().copied()).collect();
        let worth = |i: usize| kept[i] * rivals[i].candidate.weight;
        let steadiest = (0..rivals.len()).rev().max_by(|a, b| worth(*a).total_cmp(&worth(*b)))?;
        if worth(steadiest) < worth(0) * GAIN || worth(steadiest) <= 0.0 {
            return None;
        }
        let over = PassedOver {
            label: space::label(&rivals[0].candidate.config),
            capacity_rps: rate_at(rivals[0].good),
            low_rps: kept[0],
        };
        let enough = rivals[0].worth() * (1.0 - GIVEN_UP);
        let crowned = self.crown(&rivals[steadiest], enough);
        self.passed_over = crowned.then_some(best);
        crowned.then_some(over)
    }

    /// Learns how far the capacities that are planned with can be trusted: the winner's and, where there is a demand, of
    /// each other device's best.
    pub(super) fn trust(&mut self) {
        let devices = 0..self.request.devices.len();
        let planned = devices.filter(|_| self.request.demand.is_some());
        let planned: Vec<usize> = planned.filter_map(|d| self.device_best(d)).collect();
        for i in self.found.best.into_iter().chain(planned) {
            if !self.trusted.contains_key(&i)
                && let Some(confidence) = self.confidence(i)
            {
                self.trusted.insert(i, confidence);
            }
        }
    }

    /// The winner first, then who is predicted to carry nearly as much on the whole trace, the best first.
    fn near(&self, best: usize, mut rivals: Vec<Rival>) -> Option<Vec<Rival>> {
        let winner = &self.found.entries[best];
        let own =
            Rival { candidate: winner.candidate.clone(), good: winner.good(self.found.head)? };
        let measured = self.found.entries.iter().filter(|e| e.unfit() <= winner.unfit());
        let measured = measured.filter_map(|e| {
            Some(Rival { candidate: e.candidate.clone(), good: e.good(self.found.head)? })
        });
        rivals.extend(measured);
        let enough = own.worth() * (1.0 - GIVEN_UP);
        let mut near = vec![own];
        rivals.sort_by(|a, b| b.worth().total_cmp(&a.worth()));
        for rival in rivals.into_iter().filter(|r| r.worth() >= enough) {
            let of = |r: &Rival| (r.candidate.device, r.candidate.config.clone());
            if near.len() < RIVALS && near.iter().all(|known| of(known) != of(&rival)) {
                near.push(rival);
            }
        }
        Some(near)
    }

    /// What `rival` carries with slow iterations, requests/s; none where nobody knows how slow they may be.
    fn slow(&self, rival: &Rival) -> Option<Result<(f64, Vec<Probe>), Stop>> {
        let accuracy = self.accuracy(rival.candidate.device)?;
        let (_, slower) = accuracy.spread.factors(LEVEL);
        Some(self.paced(&rival.candidate, slower, rival.good))
    }

    fn accuracy(&self, device: usize) -> Option<&Accuracy> {
        self.request.devices[device].accuracy.as_ref()
    }

    /// Capacity with iterations of `factor` times the predicted time.
    fn paced(&self, of: &Candidate, factor: f64, near: i32) -> Result<(f64, Vec<Probe>), Stop> {
        let evaluate = self.request.devices[of.device].evaluate;
        let pace = Relax::Pace((factor * 1e3).round() as u32);
        let cancel: &AtomicBool = self.request.watch.cancel;
        let mut prober = Prober::new(evaluate, &of.config, pace, self.head, cancel)?;
        let rate = match prober.knee(near, LOOK)? {
            Knee::Between { lo, .. } => rate_at(lo),
            Knee::Nowhere => 0.0,
        };
        Ok((rate, prober.into_probes()))
    }

    /// Measures `rival` as winners are measured and makes it the winner, if it is still worth `enough`; whether it is.
    fn crown(&mut self, rival: &Rival, enough: f64) -> bool {
        let Candidate { device, config, .. } = &rival.candidate;
        let evaluate = self.request.devices[*device].evaluate;
        let cancel = self.request.watch.cancel;
        let known = self.entry_of(*device, config).map_or(Vec::new(), |e| e.probes.clone());
        let Ok(prober) = Prober::new(evaluate, config, Relax::Nothing, self.head, cancel) else {
            return false;
        };
        let mut prober = prober.knowing(&known);
        let Ok(knee @ Knee::Between { lo, .. }) = prober.knee(rival.good, Effort::FINAL) else {
            return false;
        };
        if rate_at(lo) * rival.candidate.weight < enough {
            return false;
        }
        let (Ok(candidate), knee) =
            (candidate(self.request, *device, config.clone()), Some((self.head, knee)))
        else {
            return false;
        };
        let mut probes = prober.into_probes();
        probes.retain(|p| !known.iter().any(|k| (k.head, k.k) == (p.head, p.k)));
        let measured = Entry { candidate, standing: Standing::Measured, probes, knee };
        let Some(at) = self.adopt(measured) else { return false };
        let group = self.found.entries[at].candidate.group;
        (self.found.best, self.found.group_best[group]) = (Some(at), Some(at));
        true
    }

    /// How far the capacity of entry `i` can be trusted; none where no run of its device was compared, or interrupted.
    pub(super) fn confidence(&mut self, i: usize) -> Option<Confidence> {
        let entry = &self.found.entries[i];
        let (candidate, good) = (entry.candidate.clone(), entry.good(self.found.head)?);
        let accuracy = self.accuracy(candidate.device)?.clone();
        let (faster, slower) = accuracy.spread.factors(LEVEL);
        let same = |c: &Candidate| (c.device, &c.config) == (candidate.device, &candidate.config);
        let known =
            self.when_slow.iter().find(|(c, _)| same(c)).map(|(_, rate)| (*rate, Vec::new()));
        let (low_rps, slow) =
            known.map_or_else(|| self.paced(&candidate, slower, good), Ok).ok()?;
        let (high_rps, fast) = self.paced(&candidate, faster, good).ok()?;
        let p_feasible = self.on_an_empty_machine(i, &accuracy.spread)?;
        self.extra.extend(slow.into_iter().chain(fast));
        Some(Confidence {
            level: LEVEL,
            faster,
            slower,
            runs: accuracy.spread.runs,
            devices: accuracy.devices,
            low_rps,
            high_rps,
            p_feasible,
            instead_of: None,
        })
    }

    /// The probability that entry `i` holds the targets on an empty machine, where every latency is a sum of iterations.
    fn on_an_empty_machine(&mut self, i: usize, spread: &Spread) -> Option<f64> {
        let entry = &self.found.entries[i];
        if let Some(floor) = entry.probe(self.head, FLOOR) {
            return Some(p_met(&margins(&floor.observation), spread));
        }
        let (device, config) = (entry.candidate.device, &entry.candidate.config);
        let evaluate = self.request.devices[device].evaluate;
        let cancel = self.request.watch.cancel;
        let mut prober = Prober::new(evaluate, config, Relax::Nothing, self.head, cancel).ok()?;
        prober.passes(FLOOR).ok()?;
        let probes = prober.into_probes();
        let p = p_met(&margins(&probes.first()?.observation), spread);
        self.extra.extend(probes);
        Some(p)
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
