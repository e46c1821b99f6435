//! A version of an engine, and what is asked of it.

use std::collections::BTreeMap;

use super::outside::{HostTime, Outside};
use super::told::{ByMemory, Told};
use crate::config::{Config, Knob, Policy};
use crate::profile::DeviceProfile;

/// Standard deviation of the logarithm by which iterations are off further, where an engine's version was not measured:
/// that of the mean TPOT of vLLM 0.11's sweeps under 0.15's host time.
pub const VERSION_SIGMA: f64 = 0.06;

/// A version of an engine.
#[derive(Debug, Clone, PartialEq)]
pub struct EngineProfile {
    /// Its name.
    pub name: String,
    /// Its name for people.
    pub title: String,
    /// The version.
    pub version: String,
    /// A user's own name for it, where it comes from a file.
    pub own_name: Option<String>,
    /// The policy that is its own way of scheduling.
    pub policy: Policy,
    /// The engine and version whose times it takes, where its own were not measured.
    pub times_of: Option<String>,
    /// The sources of what is said about it.
    pub sources: Vec<String>,
    /// Its time outside the GPU.
    pub outside: Outside,
    /// Its answer to each knob.
    pub(super) knobs: BTreeMap<String, Told>,
    /// Its defaults besides those of `knobs`: those that depend on the version, by knob.
    pub(super) defaults: BTreeMap<String, String>,
    pub(super) by_memory: Vec<ByMemory>,
}

impl EngineProfile {
    /// Any engine, where none is named: everything can be told to it, and its times are the simulator's own, those of the
    /// newest engine that was measured.
    #[must_use]
    pub fn any() -> Self {
        Self { times_of: None, ..Self::newest("knee").clone() }
    }

    /// No engine around the GPU: what it measures or computes is all there is.
    #[must_use]
    pub fn bare() -> Self {
        let mut engine = Self::any();
        engine.outside = Outside::default();
        engine.knobs.clear();
        engine
    }

    /// The same engine with the times of another.
    #[must_use]
    pub fn with_times(self, outside: Outside) -> Self {
        Self { outside, ..self }
    }

    /// Its name and version: `vllm@0.15`.
    #[must_use]
    pub fn label(&self) -> String {
        match &self.own_name {
            Some(own) => own.clone(),
            None => format!("{}@{}", self.name, self.version),
        }
    }

    /// Its answer to the knob called `knob`, if it has one.
    #[must_use]
    pub fn told(&self, knob: &str) -> Option<&Told> {
        self.knobs.get(knob)
    }

    /// Its own default of a knob, where that is the same on every device.
    #[must_use]
    pub fn default_of(&self, knob: &str) -> Option<&str> {
        let own = self.defaults.get(knob).map(String::as_str);
        own.or_else(|| self.knobs.get(knob)?.default.as_deref())
    }

    /// True where `value` of `knob` is its default, so that it need not be said.
    #[must_use]
    pub fn goes_without_saying(&self, knob: &str, value: &str) -> bool {
        let varies = self.by_memory.iter().any(|by| by.defaults.contains_key(knob));
        let always = self.knobs.get(knob).is_some_and(|told| told.always);
        // A default that a version changed is said: an older or a newer version may have another.
        !varies && !always && self.default_of(knob) == Some(value)
    }

    /// Our name of its flag `theirs`, if it is one of a knob.
    #[must_use]
    pub fn knob_of(&self, theirs: &str) -> Option<&str> {
        let same = |(_, told): &(&String, &Told)| told.flag.as_deref() == Some(theirs);
        self.knobs.iter().find(same).map(|(ours, _)| ours.as_str())
    }

    /// Its defaults on `device`.
    #[must_use]
    pub fn config(&self, device: &DeviceProfile) -> Config {
        let mut config = Config::default();
        config.set_policy(self.policy);
        let known =
            self.knobs.iter().filter_map(|(knob, told)| Some((knob, told.default.as_ref()?)));
        let here = self.by_memory.iter().filter(|by| by.holds(device)).flat_map(|by| &by.defaults);
        for (knob, value) in known.chain(&self.defaults).chain(here) {
            config.set(knob, value).expect("checked when it was read");
        }
        config
    }

    /// CPU time of an iteration of `config` around `device`. A profile that holds its own was measured with it. Where
    /// iterations cannot be planned ahead here (static batches, pipelines, disaggregation), host time hides as by the
    /// engine's default.
    #[must_use]
    pub fn host_time(&self, device: &DeviceProfile, config: &Config) -> HostTime {
        if let Some(own) = &device.host {
            return HostTime::shown(own.step_us, own.seq_us);
        }
        let usual = self.default_of("async-scheduling") == Some("on");
        let ahead = if config.can_plan_ahead() { config.async_scheduling } else { usual };
        self.outside.host_time(config.tp, ahead)
    }

    /// The sentence about times that are not its own.
    #[must_use]
    pub fn note(&self) -> Option<String> {
        let of = self.times_of.as_ref()?;
        Some(format!(
            "{} was not measured: its time outside the GPU is taken to be that of {of}, and the interval is wider",
            self.label()
        ))
    }
}

impl EngineProfile {
    /// Refuses knobs that do not exist, values that they do not take, and times that cannot be.
    pub(super) fn check(&self) -> Result<(), String> {
        let mut config = Config::default();
        let by_memory = self.by_memory.iter().flat_map(|by| &by.defaults);
        let own = self.knobs.iter().filter_map(|(knob, told)| Some((knob, told.default.as_ref()?)));
        for (knob, value) in own.chain(&self.defaults).chain(by_memory) {
            config.set(knob, value).map_err(|e| e.to_string())?;
        }
        for (knob, told) in &self.knobs {
            for value in told.values.iter().flat_map(|values| values.keys()) {
                config.set(knob, value).map_err(|e| e.to_string())?;
            }
            if Knob::named(knob).is_none() {
                return Err(format!("no knob is called {knob}"));
            }
        }
        self.outside.fault().map_or(Ok(()), Err)
    }
}
