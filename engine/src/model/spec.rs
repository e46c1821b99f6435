//! Specifications that ship with the program or come from a file: models and devices.

use std::borrow::Cow;
use std::path::Path;

use serde::de::DeserializeOwned;

use crate::alike::{meant, near};
use crate::files::{self, LONGEST_SETTINGS};

/// The reasons for which a model shape or a device profile cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SpecError {
    /// A name that is not in the catalogue.
    #[error(
        "unknown {what} `{name}`: {}expected {} or the path of a .toml file",
        meant(near(name, known.iter().copied())), known.join(", ")
    )]
    Unknown {
        /// `device`.
        what: &'static str,
        /// The name that was asked for.
        name: String,
        /// The names that would do.
        known: Vec<&'static str>,
    },
    /// A model's name that is not in the catalogue.
    #[error(
        "unknown model `{name}`: {}`knee models` lists the known ones; a folder, a config.json, hf:ORG/NAME or a .toml \
         file will do as well",
        meant(alike)
    )]
    UnknownModel {
        /// The name that was asked for.
        name: String,
        /// The names it may have stood for.
        alike: Vec<String>,
    },
    /// An engine's name that is not in the catalogue.
    #[error(
        "unknown engine `{name}`: {}expected {}, with or without @VERSION, or the path of a .toml file",
        meant(near(name, known.iter().copied())), known.join(", ")
    )]
    UnknownEngine {
        /// The name that was asked for.
        name: String,
        /// The names that would do.
        known: Vec<&'static str>,
    },
    /// A file that cannot be read.
    #[error("cannot read {what} file {path}: {source}")]
    Read {
        /// `model` or `device`.
        what: &'static str,
        /// The file.
        path: String,
        /// The cause.
        source: std::io::Error,
    },
    /// A file that is not a specification of this kind.
    #[error("{path}:{line}: not {} {what}: {reason}", article(what))]
    Parse {
        /// `model` or `device`.
        what: &'static str,
        /// The file.
        path: String,
        /// Counted from 1.
        line: usize,
        /// The cause.
        reason: String,
    },
    /// Figures that cannot be.
    #[error("{what} {name}: {reason}")]
    Impossible {
        /// `model` or `device`.
        what: &'static str,
        /// Its name.
        name: String,
        /// The fault, and the values that are expected.
        reason: String,
    },
    /// A model that the hub does not give.
    #[error("{0}")]
    Hub(String),
}

fn article(noun: &str) -> &'static str {
    if noun.starts_with(['a', 'e', 'i', 'o', 'u']) { "an" } else { "a" }
}

/// A specification that ships with the program.
pub(crate) struct Shipped {
    pub(crate) name: &'static str,
    pub(crate) aliases: &'static [&'static str],
    pub(crate) text: &'static str,
    /// The sheet that its figures were made by, where there is one.
    pub(crate) sheet: Option<&'static str>,
}

pub(crate) type Catalogue = &'static [Shipped];

/// The text that `name` stands for: that of an entry of the catalogue or one of its aliases, else that of a file.
pub(crate) fn text_of(
    what: &'static str,
    catalogue: Catalogue,
    name: &str,
) -> Result<Cow<'static, str>, SpecError> {
    let wanted = name.to_ascii_lowercase();
    let named = |s: &&Shipped| s.name == wanted || s.aliases.contains(&wanted.as_str());
    if let Some(shipped) = catalogue.iter().find(named) {
        return Ok(Cow::Borrowed(shipped.text));
    }
    let is_path = Path::new(name).extension().is_some_and(|e| e.eq_ignore_ascii_case("toml"));
    if !is_path {
        let known = catalogue.iter().map(|shipped| shipped.name).collect();
        return Err(SpecError::Unknown { what, name: name.to_owned(), known });
    }
    read(what, name).map(Cow::Owned)
}

/// The text of a settings file.
pub(super) fn read(what: &'static str, path: &str) -> Result<String, SpecError> {
    files::read_text(Path::new(path), LONGEST_SETTINGS).map_err(|source| SpecError::Read {
        what,
        path: path.to_owned(),
        source,
    })
}

/// A TOML text as a `T`.
pub(crate) fn parse<T: DeserializeOwned>(
    what: &'static str,
    path: &str,
    text: &str,
) -> Result<T, SpecError> {
    toml::from_str(text).map_err(|e| SpecError::Parse {
        what,
        path: path.to_owned(),
        line: 1 + e.span().map_or("", |span| &text[..span.start]).matches('\n').count(),
        reason: e.message().to_owned(),
    })
}
