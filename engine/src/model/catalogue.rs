//! The models that ship, and every other way to name one.
//!
//! The catalogue is in the words of published configurations and is read as they are.

use std::path::Path;
use std::sync::OnceLock;

use serde_json::{Map, Value};

use super::configuration::{CONFIG, of_value};
use super::dense::DenseShape;
use super::{ModelShape, SpecError, hub, spec};

const TEXT: &str = include_str!("../../models/catalogue.toml");

/// A model that ships.
#[derive(Debug)]
pub struct Entry {
    /// Its name: the hub's own, in most cases.
    pub name: String,
    /// Other names.
    pub aliases: Vec<String>,
    source: String,
    config: Value,
}

/// The fields of an entry that are not its configuration.
const OWN: [&str; 4] = ["name", "aliases", "source", "like"];

fn text(table: &Map<String, Value>, key: &str) -> Option<String> {
    table.get(key).and_then(Value::as_str).map(str::to_owned)
}

impl Entry {
    /// All of them.
    #[must_use]
    pub fn all() -> &'static [Self] {
        static ALL: OnceLock<Vec<Entry>> = OnceLock::new();
        ALL.get_or_init(|| {
            let whole: Value = toml::from_str(TEXT).expect("the catalogue is tested");
            let mut all: Vec<Self> = Vec::new();
            for table in
                whole["model"].as_array().into_iter().flatten().filter_map(Value::as_object)
            {
                let name = text(table, "name").expect("an entry has a name");
                let base = text(table, "like").map(|like| {
                    all.iter()
                        .find(|e| e.name == like)
                        .expect("what an entry is like comes before it")
                });
                let mut config = base.map_or_else(Map::new, |base| {
                    base.config.as_object().cloned().unwrap_or_default()
                });
                let own = table.iter().filter(|(key, _)| !OWN.contains(&key.as_str()));
                config.extend(own.map(|(key, value)| (key.clone(), value.clone())));
                let aliases = table.get("aliases").and_then(Value::as_array);
                let aliases = aliases.into_iter().flatten().filter_map(Value::as_str);
                all.push(Self {
                    aliases: aliases.map(str::to_owned).collect(),
                    source: text(table, "source")
                        .unwrap_or_else(|| format!("config.json of {name}")),
                    config: Value::Object(config),
                    name,
                });
            }
            all
        })
    }

    /// The one that is called `name`: by its whole name, by an alias, or without its publisher.
    fn named(name: &str) -> Option<&'static Self> {
        let same = |other: &str| other.eq_ignore_ascii_case(name);
        let whole = |e: &&Self| same(&e.name) || e.aliases.iter().any(|a| same(a));
        let short = |e: &&Self| e.names().any(|n| n.rsplit('/').next().is_some_and(same));
        Self::all().iter().find(whole).or_else(|| Self::all().iter().find(short))
    }

    fn names(&self) -> impl Iterator<Item = &str> {
        std::iter::once(self.name.as_str()).chain(self.aliases.iter().map(String::as_str))
    }

    /// Its shape.
    ///
    /// # Errors
    /// None, as tests show.
    pub fn shape(&self) -> Result<ModelShape, SpecError> {
        let impossible =
            |reason| SpecError::Impossible { what: "model", name: self.name.clone(), reason };
        let shape = of_value(&self.config, None, &self.name).map_err(impossible)?;
        Ok(ModelShape { source: self.source.clone(), ..shape })
    }
}

impl ModelShape {
    /// Names of the embedded models.
    pub fn names() -> impl Iterator<Item = &'static str> {
        Entry::all().iter().map(|entry| entry.name.as_str())
    }

    /// The model that `name` stands for: an embedded one, a folder with a `config.json`, such a file, `hf:ORG/NAME`, or
    /// a TOML file, flat or in the words of a `config.json`.
    ///
    /// # Errors
    /// When there is no such model, or its layers are of a kind that is not known.
    pub fn load(name: &str) -> Result<Self, SpecError> {
        if let Some(entry) = Entry::named(name) {
            return entry.shape();
        }
        let path = Path::new(name);
        let is =
            |extension: &str| path.extension().is_some_and(|e| e.eq_ignore_ascii_case(extension));
        if let Some(id) = name.strip_prefix(hub::PREFIX) {
            let dir = hub::configuration(id).map_err(|e| SpecError::Hub(e.to_string()))?;
            let shape = Self::of_config(&dir.join(CONFIG), id)?;
            return Ok(Self { source: format!("{CONFIG} of {id}"), ..shape });
        }
        if path.is_dir() {
            return Self::of_config(&path.join(CONFIG), &called(path));
        }
        if is("json") {
            return Self::of_config(path, &called(path));
        }
        if !is("toml") {
            return Err(SpecError::UnknownModel { name: name.to_owned(), alike: alike(name) });
        }
        let text = spec::read("model", name)?;
        let fields: Value = spec::parse("model", name, &text)?;
        if !fields["model_type"].is_null() {
            let impossible =
                |reason| SpecError::Impossible { what: "model", name: name.to_owned(), reason };
            let shape = of_value(&fields, None, &called(path)).map_err(impossible)?;
            shape.check()?;
            return Ok(shape);
        }
        let dense: DenseShape = spec::parse("model", name, &text)?;
        match dense.fault() {
            Some(reason) => Err(SpecError::Impossible { what: "model", name: dense.name, reason }),
            None => Ok(dense.into()),
        }
    }
}

/// The name of a model by its folder or its file.
fn called(path: &Path) -> String {
    // A configuration says nothing of its name; its folder may.
    let place = if path.ends_with(CONFIG) { path.parent().unwrap_or(path) } else { path };
    let name = if place.is_dir() {
        place.canonicalize().ok().and_then(|full| Some(full.file_name()?.to_owned()))
    } else {
        place.file_stem().map(std::ffi::OsStr::to_owned)
    };
    name.map_or_else(|| path.display().to_string(), |name| name.to_string_lossy().into_owned())
}

/// Letters and digits of a name without its publisher.
fn plain(name: &str) -> String {
    let base = name.rsplit('/').next().unwrap_or(name);
    base.chars()
        .filter(char::is_ascii_alphanumeric)
        .map(|c| c.to_ascii_lowercase())
        .take(64)
        .collect()
}

/// Up to three known names that `name` may have been meant for.
fn alike(name: &str) -> Vec<String> {
    let wanted = plain(name);
    let close = |entry: &'static Entry| {
        let changes = entry.names().map(|known| {
            let known = plain(known);
            let part = wanted.len() >= 4 && (known.contains(&wanted) || wanted.contains(&known));
            if part { 0 } else { strsim::levenshtein(&wanted, &known) }
        });
        (changes.min().unwrap_or(usize::MAX), entry)
    };
    let mut found: Vec<_> = Entry::all().iter().map(close).collect();
    found.sort_by_key(|(changes, _)| *changes);
    let near = found.into_iter().filter(|(changes, _)| *changes * 4 <= wanted.len());
    near.take(3).map(|(_, entry)| entry.name.clone()).collect()
}
