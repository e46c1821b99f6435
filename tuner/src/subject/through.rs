//! A subject with something done on the way of every run: it is counted, or remembered.

use super::observation::Observation;
use super::unfit::Unfit;
use super::{Refused, Stop, Subject, Trial};
use engine::Config;

/// `subject`, whose runs all go through `run`.
pub struct Through<S, F> {
    /// The subject behind it.
    pub subject: S,
    /// Makes or remembers a run.
    pub run: F,
}

impl<S, F> Subject for Through<S, F>
where
    S: Subject,
    F: Fn(&S, &Trial<'_>) -> Result<Observation, Stop> + Sync,
{
    fn run(&self, trial: &Trial<'_>) -> Result<Observation, Stop> {
        (self.run)(&self.subject, trial)
    }

    fn requests(&self) -> usize {
        self.subject.requests()
    }

    fn most(&self) -> usize {
        self.subject.most()
    }

    fn natural_rate(&self, head: usize) -> f64 {
        self.subject.natural_rate(head)
    }

    fn output_tokens_per_request(&self) -> f64 {
        self.subject.output_tokens_per_request()
    }

    fn served_tokens_per_request(&self, config: &Config) -> Result<f64, Refused> {
        self.subject.served_tokens_per_request(config)
    }

    fn ceiling(&self, config: &Config) -> Result<f64, Refused> {
        self.subject.ceiling(config)
    }

    fn unfit(&self, config: &Config) -> Result<Unfit, Refused> {
        self.subject.unfit(config)
    }
}
