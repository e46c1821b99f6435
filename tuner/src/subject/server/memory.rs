//! Measurements of real servers, written down as they were, so that a search that was broken off
//! goes on from there.
//!
//! A search whose [`Range`](super::Range) has a memory asks the same questions in the same order as
//! the one before it, and is answered by it as far as it goes. A measurement that failed is not
//! remembered: it is tried again.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use loadgen::{Audit, LiveOptions, LiveRun, Part, Worker, merge};
use serde::{Deserialize, Serialize};

use super::held::Held;
use crate::subject::observation::Observation;
use crate::subject::study::{Asked, Runs};

/// One thing that a server was asked.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Measured {
    /// That it takes requests.
    Ready(Ready),
    /// A few requests one after the other: seconds that one takes, and the targets that it misses even so.
    Unhurried(f64, Option<String>),
    /// A rate.
    Offered(Box<Offered>),
}

/// A server that was ready.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Ready {
    /// Its address.
    pub url: String,
    /// The model it serves.
    pub model: String,
    /// The form of its prompts, in words.
    pub prompts: String,
    /// Seconds until it took requests, where it was started for the search.
    pub ready_s: f64,
}

/// A rate that a server was offered.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Offered {
    rate_rps: f64,
    observation: Observation,
    run: Part,
    /// As it was judged then: of a part it is judged anew, in other words.
    audit: Audit,
}

/// Runs of real servers.
pub type LiveStudy = Runs<Measured>;

/// A study's measurements of one server.
pub struct Memory<'a> {
    study: &'a LiveStudy,
    server: String,
    /// The number of times that each rate was asked for in this search.
    asked: Mutex<HashMap<String, u32>>,
}

impl<'a> Memory<'a> {
    /// `server` tells servers of one study apart.
    #[must_use]
    pub fn new(study: &'a LiveStudy, server: &str) -> Self {
        Self { study, server: server.to_owned(), asked: Mutex::default() }
    }

    /// The server as it was found, if it was.
    #[must_use]
    pub fn ready(&self) -> Option<Ready> {
        match self.study.known(&self.key("ready"))? {
            Measured::Ready(ready) => Some(ready),
            _ => None,
        }
    }

    /// Remembers a server.
    pub fn keep_ready(&self, ready: Ready) {
        self.keep("ready", 0.0, &Measured::Ready(ready));
    }

    pub(super) fn unhurried(&self) -> Option<(f64, Option<String>)> {
        match self.study.known(&self.key("unhurried"))? {
            Measured::Unhurried(seconds, misses) => Some((seconds, misses)),
            _ => None,
        }
    }

    pub(super) fn keep_unhurried(&self, (seconds, misses): &(f64, Option<String>)) {
        self.keep("unhurried", 0.0, &Measured::Unhurried(*seconds, misses.clone()));
    }

    /// The name of this try of `rate`, and its earlier result if the study has one. Each call for
    /// the same rate is the next try.
    pub(super) fn offered(
        &self,
        rate: f64,
        time: Duration,
    ) -> (String, Option<(Observation, Held)>) {
        // The rate to the bit: almost the same one is another one.
        let what = format!("{:016x} for {} ns", rate.to_bits(), time.as_nanos());
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        let times = asked.entry(what.clone()).and_modify(|n| *n += 1).or_insert(1);
        let what = format!("{what}, {times}");
        let known = match self.study.known(&self.key(&what)) {
            Some(Measured::Offered(offered)) => offered.held(),
            _ => None,
        };
        (what, known)
    }

    pub(super) fn keep_offered(
        &self,
        what: &str,
        observation: &Observation,
        held: &Held,
        options: &LiveOptions,
    ) {
        let alone = Worker { index: 0, of: 1 };
        let run = Part::new(&held.run, &held.sent, alone, options, BTreeMap::new());
        let (rate_rps, audit) = (held.rate_rps, held.run.audit.clone());
        let offered = Offered { rate_rps, observation: observation.clone(), run, audit };
        self.keep(what, rate_rps, &Measured::Offered(Box::new(offered)));
    }

    fn key(&self, what: &str) -> String {
        format!("{}|{what}", self.server)
    }

    fn keep(&self, what: &str, rate: f64, measured: &Measured) {
        let asked = Asked {
            key: self.key(what),
            device: "a real server".to_owned(),
            config: self.server.clone(),
            relax: what.to_owned(),
            head: 0,
            scale: rate,
        };
        // A measurement that cannot be written down is made again next time.
        let _ = self.study.remember(asked, measured);
    }
}

impl Offered {
    fn held(self) -> Option<(Observation, Held)> {
        let Self { rate_rps, observation, run, audit } = self;
        let (run, sent) = merge(&[run]).ok()?;
        let run = LiveRun { audit, ..run };
        Some((observation, Held { rate_rps, run, sent }))
    }
}
