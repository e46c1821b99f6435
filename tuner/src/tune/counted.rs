//! Runs are counted where they are asked for, so that none is forgotten.

use crate::subject::observation::Observation;
use crate::subject::through::Through;
use crate::subject::{Subject, Trial};
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

    /// `subject`, whose runs are counted here.
    pub(super) fn of<'a>(&'a self, subject: &'a dyn Subject) -> impl Subject + 'a {
        let run = |subject: &&dyn Subject, trial: &Trial<'_>| {
            let observation = subject.run(trial)?;
            self.note(&observation);
            Ok(observation)
        };
        Through { subject, run }
    }
}
