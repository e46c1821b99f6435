//! Engines as nouns: what each can be told, its defaults, its flags, and its time outside the GPU, by version.
//!
//! An engine is one TOML file (`engines/NAME.toml`), because what `knee calibrate` finds about a user's own engine is
//! such a file as well. Its versions are rows in rising order: what a row does not say is as in the row before. A row
//! is *measured* where it has times of its own; any other version takes those of the measured version before it, or of
//! the one that its row names.
//!
//! A user's own engine is a row over another engine:
//!
//! ```toml
//! like = "vllm@0.15"
//! name = "vllm-here"
//! source = "fitted to last week's requests"
//! [front_end]
//! request_ms = 9.0
//! token_us = 1.5
//! spread = 0.4
//! source = "the same"
//! ```

mod outside;
mod row;
mod told;

use std::collections::BTreeMap;
use std::sync::OnceLock;

use serde::Deserialize;

use crate::config::{Config, Knob, Policy};
use crate::model::{Catalogue, Shipped, SpecError, parse, text_of};
use crate::profile::DeviceProfile;
pub use outside::{FrontEnd, Host, HostTime, Outside, Ranked};
use row::{ByMemory, Row, number};
pub use told::{Told, Words};

macro_rules! shipped {
    ($name:literal, $aliases:expr) => {
        Shipped {
            name: $name,
            aliases: $aliases,
            text: include_str!(concat!("../../engines/", $name, ".toml")),
            sheet: None,
        }
    };
}

const ENGINES: Catalogue = &[
    shipped!("vllm", &[]),
    shipped!("sglang", &[]),
    shipped!("tensorrt-llm", &["trtllm", "trt-llm"]),
    shipped!("knee", &[]),
];

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
    knobs: BTreeMap<String, Told>,
    /// Its defaults besides those of `knobs`: those that depend on the version, by knob.
    defaults: BTreeMap<String, String>,
    by_memory: Vec<ByMemory>,
}

/// A file: an engine and its versions.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    name: String,
    title: String,
    policy: Policy,
    knobs: BTreeMap<String, Told>,
    versions: Vec<Row>,
}

/// A version as `knee engines` lists it.
#[derive(Debug, Clone, PartialEq)]
pub struct Listed {
    /// Its engine, as it is when no version is asked for.
    pub engine: EngineProfile,
    /// The versions that have a row, the oldest first.
    pub versions: Vec<EngineProfile>,
}

impl EngineProfile {
    /// Names of the shipped engines.
    pub fn names() -> impl Iterator<Item = &'static str> {
        ENGINES.iter().map(|engine| engine.name)
    }

    /// The engine that `text` stands for: `NAME`, its newest known version; `NAME@VERSION`; or the path of a TOML file.
    ///
    /// # Errors
    /// An unknown name or version, or a file that cannot be.
    pub fn load(text: &str) -> Result<Self, SpecError> {
        let (name, version) = match text.split_once('@') {
            Some((name, version)) => (name, Some(version)),
            None => (text, None),
        };
        let unknown = |e| match e {
            SpecError::Unknown { name, known, .. } => {
                SpecError::UnknownEngine { name, known }
            }
            other => other,
        };
        let source = text_of("engine", ENGINES, name).map_err(unknown)?;
        let impossible =
            |reason| SpecError::Impossible { what: "engine", name: text.to_owned(), reason };
        if !ENGINES.iter().any(|e| e.text == source) {
            let own: Row = parse("engine", name, &source)?;
            return own.engine().map_err(impossible);
        }
        let file: File = parse("engine", name, &source)?;
        let versions = || file.versions.iter().map(|row| row.version.as_str()).collect::<Vec<_>>();
        let version = match version {
            None => versions().last().copied().unwrap_or_default().to_owned(),
            Some(version) => {
                if number(version).is_none() {
                    return Err(impossible(format!(
                        "`{version}` is no version: expected numbers with dots, such as {} (see `knee engines`)",
                        versions().join(", ")
                    )));
                }
                version.to_owned()
            }
        };
        file.at(&version).map_err(impossible)
    }

    /// The newest known version of a shipped engine.
    ///
    /// # Panics
    /// If no engine ships under that name.
    #[must_use]
    pub fn newest(name: &str) -> &'static Self {
        static ALL: OnceLock<Vec<EngineProfile>> = OnceLock::new();
        let load = |name| EngineProfile::load(name).expect("what ships is well formed");
        let all = ALL.get_or_init(|| EngineProfile::names().map(load).collect());
        all.iter().find(|engine| engine.name == name).expect("it ships")
    }

    /// The shipped engines, each with the versions that it has rows for.
    #[must_use]
    pub fn listed() -> Vec<Listed> {
        let listed = |shipped: &Shipped| {
            let file: File = parse("engine", shipped.name, shipped.text).ok()?;
            let versions = file.versions.iter().filter_map(|row| file.at(&row.version).ok());
            let engine = Self::newest(shipped.name).clone();
            Some(Listed { engine, versions: versions.collect() })
        };
        ENGINES.iter().filter_map(listed).collect()
    }

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
        // What a version changed, an older or a newer one may not know.
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
        let known = self.knobs.iter().filter_map(|(knob, told)| Some((knob, told.default.as_ref()?)));
        let here = self.by_memory.iter().filter(|by| by.holds(device)).flat_map(|by| &by.defaults);
        for (knob, value) in known.chain(&self.defaults).chain(here) {
            config.set(knob, value).expect("checked when it was read");
        }
        config
    }

    /// CPU time of an iteration of `config`. Where it cannot be planned ahead here (static batches, pipelines,
    /// disaggregation), host time hides as by the engine's default.
    #[must_use]
    pub fn host_time(&self, config: &Config) -> HostTime {
        let plans = Knob::named("async-scheduling").is_some_and(|knob| knob.applies(config));
        let usual = self.default_of("async-scheduling") == Some("on");
        let ahead = if plans { config.async_scheduling } else { usual };
        self.outside.host_time(config.tp, ahead)
    }

    /// What is to be said of times that are not its own.
    #[must_use]
    pub fn note(&self) -> Option<String> {
        let of = self.times_of.as_ref()?;
        Some(format!(
            "{} was not measured: its time outside the GPU is taken to be that of {of}, and the interval is wider",
            self.label()
        ))
    }
}

impl File {
    /// The engine at `version`.
    fn at(&self, version: &str) -> Result<EngineProfile, String> {
        let asked = number(version).ok_or_else(|| format!("`{version}` is no version"))?;
        let mut engine = EngineProfile {
            name: self.name.clone(),
            title: self.title.clone(),
            version: version.to_owned(),
            own_name: None,
            policy: self.policy,
            times_of: None,
            sources: Vec::new(),
            outside: Outside::default(),
            knobs: self.knobs.clone(),
            defaults: BTreeMap::new(),
            by_memory: Vec::new(),
        };
        let (mut measured, mut other) = (None, None);
        for row in &self.versions {
            let own = number(&row.version).ok_or_else(|| format!("`{}` is no version", row.version))?;
            if own > asked {
                break;
            }
            row.lay_over(&mut engine)?;
            if row.is_measured() {
                (measured, other) = (Some(own), None);
            } else if row.times_of.is_some() {
                other.clone_from(&row.times_of);
            }
        }
        if engine.sources.is_empty() && measured.is_none() && other.is_none() {
            let first = self.versions.first().map_or("", |row| &row.version);
            return Err(format!("known from version {first} on (see `knee engines`)"));
        }
        if let Some(of) = other {
            let times = if of.contains('@') { EngineProfile::load(&of) } else { Ok(self.at(&of)?) };
            let times = times.map_err(|e| e.to_string())?;
            engine.outside = times.outside.clone();
            engine.times_of = Some(times.label());
        } else if let Some(measured) = measured.filter(|m| !asked.starts_with(m)) {
            let text = measured.iter().map(ToString::to_string).collect::<Vec<_>>().join(".");
            engine.times_of = Some(format!("{}@{text}", self.name));
        }
        engine.check()?;
        Ok(engine)
    }
}

impl EngineProfile {
    /// Refuses knobs that do not exist, values that they do not take, and times that cannot be.
    fn check(&self) -> Result<(), String> {
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

#[cfg(test)]
mod tests;
