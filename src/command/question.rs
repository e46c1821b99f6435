//! The question that a command asks: everything typed or defaulted that its answer depends on. A folder of results
//! remembers its question, so that the same one goes on there and no other overwrites it.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use anyhow::{Context, Result, bail};
use clap::ArgMatches;
use clap::parser::ValueSource;
use engine::files::{LONGEST_SETTINGS, read_text};
use serde::{Deserialize, Serialize};
use tuner::subject::study::{digest, digest_of};

use super::secrets;
use crate::cli::SERVED;
use crate::computing::is_here;

/// The file in which a folder remembers it.
const STORED: &str = "question.json";
/// Files that a folder of results has.
const RESULTS: [&str; 2] = ["result.json", "report.json"];
/// Flags that change no answer, but its form, its cost or how long it is looked for; and those that hold secrets.
const ASIDE: [&str; 17] = [
    "out",
    "json",
    "quiet",
    "verbose",
    "plot",
    "export",
    "steps",
    "threads",
    "budget",
    "tries",
    "ready_timeout",
    "api_key",
    "ca_cert",
    "client_cert",
    "client_key",
    "salt",
    "start_at",
];
/// Most values of a flag that a folder's name repeats, letters.
const LONGEST_PART: usize = 32;

/// A question.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Question {
    /// The command.
    command: String,
    /// Its flags by name, with values.
    asked: BTreeMap<String, String>,
    /// Files among the values, by their content.
    files: BTreeMap<String, String>,
    /// The flags that nobody typed.
    #[serde(skip)]
    defaulted: BTreeSet<String>,
}

static QUESTION: OnceLock<Question> = OnceLock::new();

/// Takes down what was typed; the first time counts.
pub(crate) fn ask(matches: &ArgMatches) {
    QUESTION.get_or_init(|| Question::of(matches));
}

/// The question of this command line.
pub(crate) fn asked() -> &'static Question {
    QUESTION.get_or_init(Question::default)
}

impl Question {
    fn of(matches: &ArgMatches) -> Self {
        let (mut command, mut inner) = (Vec::new(), matches);
        while let Some((name, matches)) = inner.subcommand() {
            command.push(name.to_owned());
            inner = matches;
        }
        let mut question = Self { command: command.join(" "), ..Self::default() };
        // Groups of flags have capitals, but for one.
        let is_flag = |id: &&str| {
            !id.starts_with(|c: char| c.is_ascii_uppercase())
                && *id != SERVED
                && !ASIDE.contains(id)
        };
        for id in inner.ids().map(clap::Id::as_str).filter(is_flag) {
            let Some(values) = inner.get_raw(id) else { continue };
            let values: Vec<_> = values.map(|value| value.to_string_lossy()).collect();
            for value in values.iter().flat_map(|value| value.split(',')) {
                if let Ok(content) = digest_of(Path::new(value)) {
                    question.files.insert(value.to_owned(), content);
                }
            }
            let name = id.replace('_', "-");
            if inner.value_source(id) == Some(ValueSource::DefaultValue) {
                question.defaulted.insert(name.clone());
            }
            let value = match id {
                "header" => {
                    secrets::headers(&values.iter().filter_map(|v| header(v)).collect::<Vec<_>>())
                }
                _ => secrets::words(values.into_iter().map(Cow::into_owned)).join(","),
            };
            question.asked.insert(name, value);
        }
        question
    }

    /// True where an answer comes from a machine or a server, which may behave otherwise the next time.
    fn measures(&self) -> bool {
        let device = self.asked.get("device").is_some_and(|d| is_here(d));
        ["url", "launch"].iter().any(|flag| self.asked.contains_key(*flag)) || device
    }

    /// The folder below `parent` that is this question's own: a measurement, which is not repeatable, has another each
    /// time.
    pub(crate) fn folder(&self, parent: &Path) -> PathBuf {
        let text = format!("{} {:?} {:?}", self.command, self.asked, self.files);
        let part = |flag: &str| {
            let value = self.asked.get(flag)?;
            let name = value.rsplit('/').find(|part| !part.is_empty())?;
            let name = name.trim_end_matches(".toml").to_ascii_lowercase();
            let plain = |c: char| if c.is_ascii_alphanumeric() || c == '.' { c } else { '-' };
            Some(name.chars().map(plain).take(LONGEST_PART).collect::<String>())
        };
        let parts = ["model", "workload"].into_iter().filter_map(part);
        let parts = std::iter::once(self.command.replace(' ', "-")).chain(parts);
        let hash = digest(&text);
        let name = parts.chain([hash[..8].to_owned()]).collect::<Vec<_>>().join("-");
        let mut numbered = (1..).map(|n| match n {
            1 => parent.join(&name),
            n => parent.join(format!("{name}-{n}")),
        });
        let free = |folder: &PathBuf| !self.measures() || !has_results(folder);
        numbered.find(free).unwrap_or_else(|| parent.join(&name))
    }

    /// Fails where `folder` holds the results of another question.
    ///
    /// # Errors
    /// Says what differs, and what to do.
    pub(crate) fn check(&self, folder: &Path) -> Result<()> {
        let (path, shown) = (folder.join(STORED), folder.display());
        if !has_results(folder) {
            return Ok(());
        }
        if !path.exists() {
            bail!("{shown} holds results that do not say what was asked: give another --out");
        }
        let text = read_text(&path, LONGEST_SETTINGS)
            .with_context(|| format!("cannot read {}", path.display()))?;
        let Ok(theirs) = serde_json::from_str::<Self>(&text) else {
            bail!(
                "{}: not the question of a folder of results: give another --out",
                path.display()
            );
        };
        match self.other_than(&theirs) {
            None => Ok(()),
            Some(what) => bail!("{shown} answers another question: {what}; give another --out"),
        }
    }

    /// The first difference to an earlier question. A flag that is newer than that one may have its default.
    fn other_than(&self, theirs: &Self) -> Option<String> {
        if theirs.command != self.command {
            return Some(format!("knee {}, and this is knee {}", theirs.command, self.command));
        }
        let names: BTreeSet<&String> = theirs.asked.keys().chain(self.asked.keys()).collect();
        for name in names {
            let (old, new) = (theirs.asked.get(name), self.asked.get(name));
            if old != new && !(old.is_none() && self.defaulted.contains(name)) {
                let said =
                    |value: Option<&String>| value.map_or("not given".to_owned(), Clone::clone);
                return Some(format!("--{name} was {}, and is {}", said(old), said(new)));
            }
        }
        let changed =
            self.files.iter().find(|(file, content)| theirs.files.get(*file) != Some(content));
        changed.map(|(file, _)| format!("{file} has changed since"))
    }

    /// Leaves the question beside its results in `folder`.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(crate) fn store(&self, folder: &Path) -> Result<()> {
        let text = serde_json::to_string_pretty(self)? + "\n";
        reports::write_file(folder, STORED, text.as_bytes())?;
        Ok(())
    }
}

/// A header as it is typed: `NAME:VALUE`.
fn header(typed: &str) -> Option<(String, String)> {
    let (name, value) = typed.split_once(':')?;
    Some((name.trim().to_owned(), value.trim().to_owned()))
}

fn has_results(folder: &Path) -> bool {
    RESULTS.iter().any(|name| folder.join(name).is_file())
}
