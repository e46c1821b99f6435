//! Runs are counted where they are asked for, so that none is forgotten.

use crate::subject::observation::Observation;
use crate::subject::unfit::Unfit;
use crate::subject::{Evaluate, Refused, Stop, Trial};
use engine::Config;
use std::sync::atomic::{AtomicU64, Ordering};

/// Runs made, and requests offered in them.
#[derive(Default)]
pub(super) struct Counts {
    runs: AtomicU64,
    requests: AtomicU64,
}

impl Counts {
    pub(super) fn runs(&self) -> u64 {
        self.runs.load(Ordering::Relaxed)
    }

    pub(super) fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    fn note(&self, observation: &Observation) {
        self.runs.fetch_add(1, Ordering::Relaxed);
        self.requests.fetch_add(observation.summary.requests, Ordering::Relaxed);
    }
}

/// An evaluation whose runs are counted.
pub(super) struct Counted<'a> {
    pub(super) evaluate: &'a dyn Evaluate,
    pub(super) counts: &'a Counts,
}

impl Evaluate for Counted<'_> {
    fn run(&self, trial: &Trial<'_>) -> Result<Observation, Stop> {
        let observation = self.evaluate.run(trial)?;
        self.counts.note(&observation);
        Ok(observation)
    }

    fn run_together(&self, trials: &[Trial<'_>]) -> Result<Vec<Observation>, Stop> {
        let seen = self.evaluate.run_together(trials)?;
        seen.iter().for_each(|observation| self.counts.note(observation));
        Ok(seen)
    }

    fn requests(&self) -> usize {
        self.evaluate.requests()
    }

    fn most(&self) -> usize {
        self.evaluate.most()
    }

    fn natural_rate(&self, head: usize) -> f64 {
        self.evaluate.natural_rate(head)
    }

    fn output_tokens_per_request(&self) -> f64 {
        self.evaluate.output_tokens_per_request()
    }

    fn served_tokens_per_request(&self, config: &Config) -> Result<f64, Refused> {
        self.evaluate.served_tokens_per_request(config)
    }

    fn ceiling(&self, config: &Config) -> Result<f64, Refused> {
        self.evaluate.ceiling(config)
    }

    fn unfit(&self, config: &Config) -> Result<Unfit, Refused> {
        self.evaluate.unfit(config)
    }
}
