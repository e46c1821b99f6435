//! Runs are counted where they are asked for, so that none is forgotten.

use crate::subject::observation::Observation;
use crate::subject::wrapper::Wrapper;
use crate::subject::{Stop, Subject, Trial};
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

    /// `subject`, whose runs are counted here.
    pub(super) fn of<'a>(&'a self, subject: &'a dyn Subject) -> Counted<'a> {
        Counted { subject, counts: self }
    }
}

/// A subject whose runs are counted.
pub(super) struct Counted<'a> {
    subject: &'a dyn Subject,
    counts: &'a Counts,
}

impl<'a> Wrapper for Counted<'a> {
    type Inner = dyn Subject + 'a;

    fn inner(&self) -> &Self::Inner {
        self.subject
    }

    fn seen(&self, _: &Trial<'_>, observation: &Observation) -> Result<(), Stop> {
        self.counts.runs.fetch_add(1, Ordering::Relaxed);
        self.counts.requests.fetch_add(observation.summary.requests, Ordering::Relaxed);
        Ok(())
    }
}
