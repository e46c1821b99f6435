//! Why the best of every other policy, on every device, lost to the winner.

use super::tuning::Tuning;
use crate::contest::entry::Entry;
use crate::contest::progress::Status;
use crate::explain::{self, Case, Measured};
use crate::knee::FLOOR;
use crate::knee::verdict;
use crate::result::Loser;
use crate::space;
use engine::Config;
use engine::config::Policy;
use rayon::prelude::*;

impl Tuning<'_, '_> {
    /// Why the best of every other policy and device lost.
    pub(super) fn losers(&self) -> Vec<Loser> {
        let Some(best) = self.best else { return Vec::new() };
        let winner = self.measure(best);
        let others = self.representatives();
        let others: Vec<usize> = others
            .into_iter()
            .filter(|i| {
                // An entry that gave way to a steadier one did not lose by capacity, nor did an equal one.
                let gave_way = self.passed_over.values().any(|over| over.0 == *i);
                !gave_way && !self.same_row(*i, best) && !self.ties_with(*i, best)
            })
            .collect();
        let status = |done| Status {
            phase: "asking why the others lost".to_owned(),
            done,
            total: others.len(),
            best: None,
        };
        self.question.watch.progress.update(&status(0));
        let winner_rps = winner.as_ref().map_or(0.0, |m| m.rate());
        let config = &self.found.entries[best].candidate.config;
        let told: Vec<_> =
            others.par_iter().with_max_len(1).map(|i| self.loss(*i, config, winner_rps)).collect();
        self.question.watch.progress.update(&status(others.len()));
        told.into_iter().flatten().collect()
    }

    /// The entry that stands for each policy on each device: its best, else the one that came
    /// nearest on an empty machine.
    fn representatives(&self) -> Vec<usize> {
        let policies = 0..Policy::NAMES.len();
        let rows =
            (0..self.question.devices.len()).flat_map(|d| policies.clone().map(move |p| (d, p)));
        let stands = |(device, policy)| {
            let groups = self.groups(device, policy);
            self.best_of(&groups).or_else(|| self.nearest(Some(&groups)))
        };
        rows.filter_map(stands).collect()
    }

    fn same_row(&self, a: usize, b: usize) -> bool {
        let row = |i: usize| {
            let c = &self.found.entries[i].candidate;
            (c.device, c.config.policy())
        };
        row(a) == row(b)
    }

    /// The best entry of several groups.
    pub(super) fn best_of(&self, groups: &[usize]) -> Option<usize> {
        self.preferred(groups.iter().filter_map(|g| self.found.groups[*g]?.best))
    }

    /// Of some groups (or all), the entry that came nearest to the SLO on an empty machine, on the
    /// longest head tried.
    pub(super) fn nearest(&self, groups: Option<&[usize]>) -> Option<usize> {
        let key = |e: &Entry| {
            let floor = e.probes.iter().filter(|p| p.k == FLOOR).max_by_key(|p| p.head)?;
            Some((floor.head, verdict::worst(&floor.observation)))
        };
        let members = self.found.entries.iter().enumerate();
        members
            .filter(|(_, e)| groups.is_none_or(|g| g.contains(&e.candidate.group)))
            .filter_map(|(i, e)| Some((i, key(e)?)))
            .min_by(|(_, a), (_, b)| b.0.cmp(&a.0).then(a.1.total_cmp(&b.1)))
            .map(|(i, _)| i)
    }

    fn case(&self, i: usize) -> Case<'_> {
        let e = &self.found.entries[i];
        let subject = self.question.devices[e.candidate.device].subject;
        let start = self.found.good(i).unwrap_or(FLOOR);
        Case { subject, config: &e.candidate.config, known: &e.probes, start }
    }

    fn measure(&self, i: usize) -> Option<explain::Measured> {
        explain::measure(&self.case(i), self.found.head(i), self.question.watch.cancel).ok()
    }

    fn loss(&self, i: usize, winner: &Config, winner_rps: f64) -> Option<Loser> {
        let measured = self.measure(i)?;
        let (own, best) = (self.unfit(i), self.best.map(|b| self.unfit(b)));
        if best.is_some_and(|best| own.requests > best.requests) {
            let cause = Some("prompts that do not fit".to_owned());
            let broke = own.to_string();
            return Some(Loser { cause, broke, ..self.loser(i, winner, winner_rps, &measured) });
        }
        let (cancel, head) = (self.question.watch.cancel, self.found.head(i));
        let gpus = self.field.space(&self.found.entries[i].candidate.config).gpus;
        let case = self.case(i);
        let checked = explain::attribute(&case, &measured, winner, head, gpus, cancel);
        let cause = checked.first().filter(|a| a.confirmed).map(|a| a.cause.clone());
        Some(Loser { cause, checked, ..self.loser(i, winner, winner_rps, &measured) })
    }

    /// Entry `i` as a loser, its cause not yet asked for.
    fn loser(&self, i: usize, winner: &Config, winner_rps: f64, measured: &Measured) -> Loser {
        let candidate = &self.found.entries[i].candidate;
        Loser {
            policy: candidate.config.policy().to_string(),
            label: space::label(&candidate.config),
            device: self.question.devices[candidate.device].info.name.clone(),
            capacity_rps: measured.rate(),
            winner_rps,
            gpus: candidate.config.gpus(),
            winner_gpus: winner.gpus(),
            head: self.found.head(i),
            broke: measured.broke.clone(),
            cause: None,
            checked: Vec::new(),
        }
    }
}
