//! Flags for the engine's knobs, made from the one table that declares them, and knobs from a TOML file.

use crate::cli::headings;
use anyhow::{Context, Result, anyhow, bail};
use clap::{Arg, ArgMatches, Args, Command, Error, FromArgMatches};
use engine::config::Domain;
use engine::files::{LONGEST_SETTINGS, read_text};
use engine::{Config, KNOBS};

/// Knobs set on the command line or in a file, in the order they apply.
#[derive(Debug, Clone, Default)]
pub(crate) struct Knobs {
    set: Vec<(String, String)>,
    file: Option<std::path::PathBuf>,
}

impl Knobs {
    /// True if any was set.
    pub(crate) fn any(&self) -> bool {
        self.file.is_some() || !self.set.is_empty()
    }

    /// Every knob the user set, by name.
    pub(crate) fn pins(&self) -> Result<Vec<(String, String)>> {
        let mut pins = match &self.file {
            Some(path) => read(path)?,
            None => Vec::new(),
        };
        pins.extend(self.set.iter().cloned());
        Ok(pins)
    }

    /// The default configuration with these knobs set.
    pub(crate) fn config(&self) -> Result<Config> {
        self.over(Config::default())
    }

    /// `config` with these knobs set.
    pub(crate) fn over(&self, mut config: Config) -> Result<Config> {
        for (name, value) in self.pins()? {
            config.set(&name, &value)?;
        }
        Ok(config)
    }
}

/// `name = value` lines of a TOML file.
fn read(path: &std::path::Path) -> Result<Vec<(String, String)>> {
    let shown = path.display();
    let text = read_text(path, LONGEST_SETTINGS).with_context(|| format!("cannot read {shown}"))?;
    let table: toml::Table = toml::from_str(&text).map_err(|e| {
        let before = e.span().map_or("", |span| &text[..span.start]);
        anyhow!("{shown}:{}: {}", 1 + before.matches('\n').count(), e.message())
    })?;
    let mut pins = Vec::new();
    for (name, value) in table {
        let value = match value {
            toml::Value::String(s) => s,
            toml::Value::Boolean(on) => if on { "on" } else { "off" }.to_owned(),
            toml::Value::Integer(n) => n.to_string(),
            toml::Value::Float(x) => x.to_string(),
            _ => bail!("{shown}: {name} must be a single value: a text, a number or true or false"),
        };
        // A knob is wrong by itself here; what it does together with others is judged with all of them.
        Config::default().set(&name, &value).with_context(|| shown.to_string())?;
        pins.push((name, value));
    }
    // A policy sets several knobs at once: it goes first, so that the others refine it.
    pins.sort_by_key(|(name, _)| name != "policy");
    Ok(pins)
}

impl FromArgMatches for Knobs {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, Error> {
        let mut knobs = Self::default();
        knobs.update_from_arg_matches(matches)?;
        Ok(knobs)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), Error> {
        for knob in KNOBS {
            if let Ok(Some(value)) = matches.try_get_one::<String>(knob.name) {
                self.set.push((knob.name.to_owned(), value.clone()));
            }
        }
        self.file = matches.get_one("config").cloned();
        Ok(())
    }
}

impl Args for Knobs {
    fn augment_args(command: Command) -> Command {
        let config = Arg::new("config")
            .long("config")
            .value_name("FILE")
            .value_parser(clap::value_parser!(std::path::PathBuf))
            .help_heading(headings::KNOBS)
            .help("TOML file of knobs, one `name = value` a line; flags override it");
        // A command that has its own flag of that name keeps it (`compare --policy a,b`).
        let own: Vec<String> = command.get_arguments().map(|a| a.get_id().to_string()).collect();
        let knobs = KNOBS.iter().filter(|k| !own.iter().any(|o| o == k.name));
        knobs.fold(command.arg(config), |command, knob| command.arg(flag(knob)))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

fn flag(knob: &'static engine::Knob) -> Arg {
    let value = match knob.domain {
        Domain::Choice(words) => words.join("|"),
        Domain::Count { .. } => "N".to_owned(),
        Domain::Fraction { .. } => "0..1".to_owned(),
        Domain::Switch => "on|off".to_owned(),
        Domain::Time => "TIME".to_owned(),
        Domain::Lengths => "A/B/…".to_owned(),
    };
    let arg = Arg::new(knob.name)
        .long(knob.name)
        .value_name(value)
        .help(sentence(knob.doc))
        .help_heading(headings::KNOBS);
    // A switch that is named without a value is on.
    if knob.domain == Domain::Switch {
        arg.num_args(0..=1).default_missing_value("on")
    } else {
        arg
    }
}

/// Like the help of other flags, which begins as sentences do.
fn sentence(doc: &str) -> String {
    let mut letters = doc.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}
