//! A row of an engine: what is new in one of its versions, or what a user found about one.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::outside::{FrontEnd, Host, Launch};
use super::profile::EngineProfile;
use super::told::{ByMemory, Told};
use crate::config::Policy;

/// The changes of a version.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Row {
    /// The version from which on it holds.
    #[serde(default)]
    pub(super) version: String,
    /// In a file of its own: the engine and version that it changes.
    #[serde(default)]
    pub(super) like: Option<String>,
    /// In a file of its own: its name.
    #[serde(default)]
    pub(super) name: Option<String>,
    #[serde(default)]
    source: Option<String>,
    #[serde(default)]
    policy: Option<Policy>,
    #[serde(default)]
    defaults: BTreeMap<String, String>,
    #[serde(default)]
    by_memory: Vec<ByMemory>,
    #[serde(default)]
    knobs: BTreeMap<String, Told>,
    /// The version, or engine and version, whose times it takes.
    #[serde(default)]
    pub(super) times_of: Option<String>,
    #[serde(default)]
    host: Option<Host>,
    #[serde(default)]
    unhidden: Option<Host>,
    #[serde(default)]
    launch: Option<Launch>,
    #[serde(default)]
    front_end: Option<FrontEnd>,
}

/// A version as numbers that compare; none if it is not made of them.
pub(super) fn number(version: &str) -> Option<Vec<u32>> {
    version.trim_start_matches('v').split('.').map(|part| part.parse().ok()).collect()
}

impl Row {
    /// True where it has times of its own.
    pub(super) fn is_measured(&self) -> bool {
        self.host.is_some() || self.unhidden.is_some() || self.front_end.is_some()
    }

    /// Brings `engine` from the version before to this one.
    pub(super) fn lay_over(&self, engine: &mut EngineProfile) {
        engine.policy = self.policy.unwrap_or(engine.policy);
        engine.defaults.extend(self.defaults.clone());
        if !self.by_memory.is_empty() {
            engine.by_memory.clone_from(&self.by_memory);
        }
        engine.knobs.extend(self.knobs.clone());
        engine.sources.extend(self.source.clone());
        let outside = &mut engine.outside;
        if let Some(host) = &self.host {
            outside.host = host.clone();
            // Nothing of it is hidden, unless the row says more.
            outside.unhidden = host.clone();
        }
        if let Some(unhidden) = &self.unhidden {
            outside.unhidden = unhidden.clone();
        }
        if let Some(launch) = &self.launch {
            outside.launch = launch.clone();
        }
        if let Some(front_end) = &self.front_end {
            outside.front_end = front_end.clone();
        }
    }
}
