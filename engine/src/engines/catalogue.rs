//! The engines that ship, a file each, and files of one's own.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use serde::Deserialize;

use super::outside::Outside;
use super::profile::EngineProfile;
use super::row::{Row, number};
use super::told::Told;
use crate::config::Policy;
use crate::model::{Catalogue, Shipped, SpecError, parse, text_of};

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
            SpecError::Unknown { name, known, .. } => SpecError::UnknownEngine { name, known },
            other => other,
        };
        let source = text_of("engine", ENGINES, name).map_err(unknown)?;
        let impossible =
            |reason| SpecError::Impossible { what: "engine", name: text.to_owned(), reason };
        if !ENGINES.iter().any(|e| e.text == source) {
            return own(&parse("engine", name, &source)?).map_err(impossible);
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
        let load = |name| Self::load(name).expect("what ships is well formed");
        let all = ALL.get_or_init(|| Self::names().map(load).collect());
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
            let own =
                number(&row.version).ok_or_else(|| format!("`{}` is no version", row.version))?;
            if own > asked {
                break;
            }
            row.lay_over(&mut engine);
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

/// The engine that a file of its own describes.
fn own(row: &Row) -> Result<EngineProfile, String> {
    let (Some(like), Some(name)) = (&row.like, &row.name) else {
        return Err("an engine's file says like = \"NAME@VERSION\" and name = \"...\"".to_owned());
    };
    if !row.version.is_empty() || row.times_of.is_some() {
        return Err(
            "its version, and the times that it takes, are those of like = \"...\"".to_owned()
        );
    }
    if like.ends_with(".toml") {
        return Err(format!("like = {like:?} must name a shipped engine"));
    }
    let mut engine = EngineProfile::load(like).map_err(|e| e.to_string())?;
    row.lay_over(&mut engine);
    engine.title = format!("{} ({name})", engine.title);
    engine.own_name = Some(name.clone());
    if row.is_measured() {
        engine.times_of = None;
    }
    engine.check()?;
    Ok(engine)
}
