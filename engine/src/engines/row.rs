//! A row of an engine: what is new in one of its versions, or what a user found about one.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::outside::{FrontEnd, Host};
use super::{EngineProfile, Told};
use crate::config::Policy;
use crate::profile::DeviceProfile;

/// What a version changes.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Row {
    /// The version from which on it holds.
    #[serde(default)]
    pub(super) version: String,
    /// In a file of its own: the engine and version that it changes.
    #[serde(default)]
    like: Option<String>,
    /// In a file of its own: its name.
    #[serde(default)]
    name: Option<String>,
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
    front_end: Option<FrontEnd>,
}

/// Defaults on devices of so much memory.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ByMemory {
    /// Memory at least, GiB.
    gib: u64,
    /// Devices left out, by parts of their names.
    #[serde(default)]
    not: Vec<String>,
    pub(super) defaults: BTreeMap<String, String>,
}

impl ByMemory {
    pub(super) fn holds(&self, device: &DeviceProfile) -> bool {
        let name = device.name.to_ascii_lowercase();
        device.memory_bytes >= self.gib << 30 && !self.not.iter().any(|part| name.contains(part))
    }
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
    pub(super) fn lay_over(&self, engine: &mut EngineProfile) -> Result<(), String> {
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
        if let Some(front_end) = &self.front_end {
            outside.front_end = front_end.clone();
        }
        Ok(())
    }

    /// The engine that a file of its own describes.
    pub(super) fn engine(self) -> Result<EngineProfile, String> {
        let (Some(like), Some(name)) = (&self.like, &self.name) else {
            return Err("an engine's file says like = \"NAME@VERSION\" and name = \"...\"".to_owned());
        };
        if like.ends_with(".toml") {
            return Err(format!("like = {like:?} must name a shipped engine"));
        }
        let mut engine = EngineProfile::load(like).map_err(|e| e.to_string())?;
        self.lay_over(&mut engine)?;
        engine.title = format!("{} ({name})", engine.title);
        engine.own_name = Some(name.clone());
        if self.is_measured() {
            engine.times_of = None;
        }
        engine.check()?;
        Ok(engine)
    }
}
