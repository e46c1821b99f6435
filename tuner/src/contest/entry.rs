//! A contender while a contest goes on: what it is, and everything known about it.

use crate::knee::{Knee, Probe, rate_at};
use crate::result::{Contender, Standing, Tried, knobs};
use crate::space;
use engine::Config;

/// A configuration on a device.
#[derive(Debug, Clone, PartialEq)]
pub struct Candidate {
    /// Index into the devices of the contest.
    pub device: usize,
    /// The configuration, canonical.
    pub config: Config,
    /// Candidates race within their group: equal device and GPUs.
    pub group: usize,
}

/// A candidate and everything known about it.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// The candidate.
    pub candidate: Candidate,
    /// Capacity by simulation before it is measured, requests/s.
    pub predicted_rps: Option<f64>,
    /// Its fate.
    pub standing: Standing,
    /// Everything tried, over all heads.
    pub probes: Vec<Probe>,
    /// Its knee on the largest head where it was bracketed, and that head.
    pub knee: Option<(usize, Knee)>,
}

impl Entry {
    /// Nothing is known of `candidate`.
    #[must_use]
    pub fn new(candidate: Candidate) -> Self {
        let (standing, predicted_rps) = (Standing::Untried(None), None);
        Self { candidate, predicted_rps, standing, probes: Vec::new(), knee: None }
    }

    /// The highest passing rate of the whole of `head`, if bracketed there.
    #[must_use]
    pub fn good(&self, head: usize) -> Option<i32> {
        match self.knee {
            Some((h, Knee::Between { lo, .. })) if h == head => Some(lo),
            _ => None,
        }
    }

    /// The probe of `head` at `k`, if it was played to its end.
    #[must_use]
    pub fn probe(&self, head: usize, k: i32) -> Option<&Probe> {
        self.probes.iter().find(|p| p.whole && p.head == head && p.k == k)
    }

    /// Its name for people.
    #[must_use]
    pub fn label(&self) -> String {
        space::label(&self.candidate.config)
    }

    /// The same as an answer tells it: every run by rate, each as `tell` has it.
    #[must_use]
    pub fn contender(&self, tell: impl Fn(&Probe) -> Tried) -> Contender {
        let mut probes: Vec<&Probe> = self.probes.iter().collect();
        probes.sort_by_key(|probe| probe.k);
        // Of several tries at one rate the last counts.
        let failed = probes.chunk_by(|a, b| a.k == b.k).filter_map(|tries| tries.last());
        let fails_at = failed.filter(|probe| !probe.passes()).map(|probe| probe.k).min();
        Contender {
            gpus: Some(self.candidate.config.gpus()),
            predicted_rps: self.predicted_rps,
            standing: self.standing.clone(),
            fails_at_rps: fails_at.map(rate_at),
            tried: probes.into_iter().map(tell).collect(),
            ..Contender::new(self.label(), knobs(&self.candidate.config))
        }
    }
}

/// Why what is expected to carry so little is not tried.
pub(super) fn expected_too_little(rps: f64) -> String {
    format!("expected to carry {rps:.2} requests/s, too little")
}
