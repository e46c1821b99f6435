//! Who refuses what others on its device serve is no candidate there: a small KV memory wins nothing by refusing.

use crate::evaluate::{Evaluate, Refused, Trial};
use crate::observation::Observation;
use crate::unfit::Unfit;
use engine::Config;

/// A device that runs what serves as many of the requests as can be served there.
pub(super) struct Serving<'a> {
    evaluate: &'a dyn Evaluate,
    /// Requests that no configuration can serve.
    fewest: u64,
}

impl<'a> Serving<'a> {
    /// `evaluate` for those of `configs` that serve the most, and what else serves as many.
    pub(super) fn new(evaluate: &'a dyn Evaluate, configs: &[Config]) -> Self {
        let unfit = configs.iter().filter_map(|c| evaluate.unfit(c).ok());
        Self { evaluate, fewest: unfit.map(|u| u.requests).min().unwrap_or(0) }
    }
}

impl Evaluate for Serving<'_> {
    fn run(&self, trial: &Trial<'_>) -> Result<Observation, Refused> {
        self.evaluate.run(trial)
    }

    fn run_together(&self, trials: &[Trial<'_>]) -> Result<Vec<Observation>, Refused> {
        self.evaluate.run_together(trials)
    }

    fn requests(&self) -> usize {
        self.evaluate.requests()
    }

    fn natural_rate(&self, head: usize) -> f64 {
        self.evaluate.natural_rate(head)
    }

    fn output_tokens_per_request(&self) -> f64 {
        self.evaluate.output_tokens_per_request()
    }

    fn ceiling(&self, config: &Config) -> Result<f64, Refused> {
        if self.unfit(config)?.requests > self.fewest {
            let reason = "its KV memory does not hold prompts that other settings hold";
            return Err(Refused { reason: reason.to_owned() });
        }
        self.evaluate.ceiling(config)
    }

    fn unfit(&self, config: &Config) -> Result<Unfit, Refused> {
        self.evaluate.unfit(config)
    }
}
