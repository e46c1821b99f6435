//! The configurations that are searched, and the groups in which they race against each other.

use super::question::{Question, TuneError};
use crate::contest::entry::Candidate;
use crate::result::{Objective, Refusal};
use crate::space::Space;
use engine::Config;
use std::collections::BTreeMap;

/// The properties that the members of a group have in common. Between equal numbers of GPUs on a
/// device, more requests/s are better for every objective. For a plan the size of a replica counts
/// too: then the results for one size do not depend on how large replicas may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Kind {
    pub(super) device: usize,
    pub(super) policy: usize,
    gpus: u32,
    replicas: u32,
}

/// Everything that has been enumerated.
pub(super) struct Field<'r> {
    question: &'r Question<'r>,
    kinds: Vec<Kind>,
    numbers: BTreeMap<Kind, usize>,
    refused: BTreeMap<String, usize>,
    /// Configurations, over all devices.
    pub(super) candidates: usize,
}

impl<'r> Field<'r> {
    /// Nothing yet.
    ///
    /// # Errors
    /// If nothing could be searched.
    pub(super) fn new(question: &'r Question<'r>) -> Result<Self, TuneError> {
        let device = question.devices.first().ok_or(TuneError::NoDevice)?;
        if device.subject.requests() == 0 {
            return Err(TuneError::NoRequests);
        }
        let natural = device.subject.natural_rate(device.subject.requests());
        if !(natural.is_finite() && natural > 0.0) {
            return Err(TuneError::NoRate);
        }
        let priceless = question.devices.iter().find(|d| d.info.price.is_none());
        if let (Objective::Cost, Some(device)) = (question.objective, priceless) {
            return Err(TuneError::NoPrice(device.info.name.clone()));
        }
        let (kinds, numbers, refused) = (Vec::new(), BTreeMap::new(), BTreeMap::new());
        Ok(Self { question, kinds, numbers, refused, candidates: 0 })
    }

    /// Every configuration of `space` on each of `devices`.
    pub(super) fn of(&mut self, space: &Space, devices: &[usize]) -> Vec<Candidate> {
        let grid = space.enumerate();
        for (reason, count) in grid.refused {
            *self.refused.entry(reason).or_default() += count;
        }
        let mut candidates = Vec::new();
        for device in devices {
            candidates.extend(grid.configs.iter().map(|c| self.enter(*device, c.clone())));
        }
        candidates
    }

    /// `config` on a device, in a group of its kind.
    pub(super) fn enter(&mut self, device: usize, config: Config) -> Candidate {
        let kind = self.kind(device, &config);
        let next = self.kinds.len();
        let group = *self.numbers.entry(kind).or_insert(next);
        if group == next {
            self.kinds.push(kind);
        }
        self.candidates += 1;
        Candidate { device, config, group }
    }

    /// The error for an empty enumeration: the refusals, each with its reason.
    pub(super) fn empty(&self) -> TuneError {
        let reasons: Vec<_> = self.refused.iter().map(|(r, n)| format!("{r} ({n})")).collect();
        TuneError::EmptySpace(reasons.join("; "))
    }

    /// The configurations that were refused without a run.
    pub(super) fn refused(&self) -> Vec<Refusal> {
        let refusal =
            |(reason, count): (&String, &usize)| Refusal { reason: reason.clone(), count: *count };
        self.refused.iter().map(refusal).collect()
    }

    fn kind(&self, device: usize, config: &Config) -> Kind {
        let replicas = if self.question.demand.is_some() { config.replicas } else { 0 };
        Kind { device, policy: config.policy() as usize, gpus: config.gpus(), replicas }
    }

    /// Every group's members.
    pub(super) fn kinds(&self) -> &[Kind] {
        &self.kinds
    }

    /// `config` on a device, if a group for it is searched.
    pub(super) fn candidate(&self, device: usize, config: Config) -> Option<Candidate> {
        let group = *self.numbers.get(&self.kind(device, &config))?;
        Some(Candidate { device, config, group })
    }

    /// The space around `config`.
    pub(super) fn space(&self, config: &Config) -> Space {
        match self.question.demand {
            Some(_) => self.question.space.sized(config.gpus()),
            None => self.question.space.clone(),
        }
    }

    /// One knob more or less than `of` has, its queue's order left alone: whether another is worth it is asked in the end.
    pub(super) fn near(&self, of: &Candidate) -> Vec<Candidate> {
        let near = self.space(&of.config).neighbours(&of.config);
        let kept = near.into_iter().filter(|(_, config)| config.queue == of.config.queue);
        kept.filter_map(|(_, config)| self.candidate(of.device, config)).collect()
    }

    /// Output tokens per request (or session) offered, of what `config` serves.
    pub(super) fn tokens(&self, device: usize, config: &Config) -> f64 {
        let subject = self.question.devices[device].subject;
        // A configuration that cannot run was refused before.
        subject.served_tokens_per_request(config).unwrap_or(0.0)
    }

    /// The objective per request/s of `config`: what it is worth is its rate times that.
    pub(super) fn weight(&self, device: usize, config: &Config) -> f64 {
        let under_test = &self.question.devices[device];
        let tokens = || self.tokens(device, config).max(1e-9);
        let gpus = f64::from(config.gpus());
        match (self.question.objective, &under_test.info.price) {
            (Objective::Rps, _) => 1.0,
            (Objective::Cost, Some(price)) => tokens() * 3600.0 / (gpus * price.usd_per_gpu_hour),
            (Objective::TokensPerGpu | Objective::Cost, _) => tokens() / gpus,
        }
    }
}
