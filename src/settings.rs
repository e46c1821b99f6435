//! A user's settings: `knee.toml` in the folder of the work or above it, and the user's own. They are defaults of flags:
//! a flag beats the folder's file, which beats the user's.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use anyhow::{Context, Result, anyhow, bail};
use clap::builder::ArgPredicate;
use clap::parser::ValueSource;
use clap::{ArgAction, ArgMatches, Command};
use engine::files::{LONGEST_SETTINGS, read_text};
use loadgen::Slo;
use serde::Serialize;
use toml::{Spanned, Value};

/// The file's name, in whichever folder.
const FILE: &str = "knee.toml";
/// The commands that ask a question, to which settings are defaults.
const COMMANDS: [&str; 4] = ["tune", "compare", "bench", "plan"];

/// A key that may be set.
#[derive(Debug)]
pub(crate) struct Key {
    /// Its name in the file.
    pub(crate) name: &'static str,
    /// The flag that it is the default of.
    pub(crate) flag: &'static str,
    /// One line about it.
    pub(crate) about: &'static str,
}

/// All keys.
pub(crate) const KEYS: &[Key] = &[
    Key { name: "model", flag: "model", about: "the model, not of a server that is measured" },
    Key {
        name: "workload",
        flag: "workload",
        about: "the traffic: a preset, a TOML or a trace file",
    },
    Key { name: "targets", flag: "slo", about: "latency targets, a list" },
    Key {
        name: "devices",
        flag: "device",
        about: "the devices, a list; compare and bench take the first",
    },
    Key {
        name: "engine",
        flag: "engine",
        about: "the engine that is simulated, NAME or NAME@VERSION",
    },
    Key { name: "gpus", flag: "gpus", about: "GPUs that tune and plan may use" },
    Key {
        name: "prices",
        flag: "prices",
        about: "file of prices; its place counts from the settings' folder",
    },
];

/// A line of a file of settings.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Place {
    /// The file, as it may be shown.
    pub(crate) file: String,
    /// Counted from 1.
    pub(crate) line: usize,
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.file, self.line)
    }
}

/// A key that is set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Setting {
    pub(crate) values: Vec<String>,
    pub(crate) place: Place,
    /// The place of the user's own value, where the folder's beats it.
    pub(crate) over: Option<Place>,
}

/// All that is set.
#[derive(Debug, Default)]
pub(crate) struct Settings {
    /// By key.
    pub(crate) set: BTreeMap<&'static str, Setting>,
    /// The files that were looked for, and whether each is there.
    pub(crate) files: Vec<(String, bool)>,
}

/// A setting that stands for a flag which was not typed: `--device h200-sxm`, and where it was set.
#[derive(Debug, Clone)]
pub(crate) struct Used {
    pub(crate) flag: String,
    pub(crate) key: &'static str,
    pub(crate) place: Place,
    values: Vec<String>,
}

static USED: OnceLock<Vec<Used>> = OnceLock::new();

/// The settings that this command line uses.
pub(crate) fn used() -> &'static [Used] {
    USED.get().map_or(&[], Vec::as_slice)
}

impl Settings {
    /// Reads the files that there are.
    ///
    /// # Errors
    /// Says which line of which file is wrong.
    pub(crate) fn read() -> Result<Self> {
        let mut settings = Self::default();
        let here = std::env::current_dir().unwrap_or_default();
        let above = here.ancestors().enumerate();
        let mut above =
            above.map(|(n, dir)| (dir.join(FILE), format!("{}{FILE}", "../".repeat(n))));
        let of_folder = above.find(|(path, _)| path.is_file());
        settings.add(of_folder.unwrap_or_else(|| (here.join(FILE), FILE.to_owned())))?;
        if let Some(own) = of_user() {
            settings.add(own)?;
        }
        Ok(settings)
    }

    /// Adds what the file at `path` sets and no earlier file does.
    fn add(&mut self, (path, shown): (PathBuf, String)) -> Result<()> {
        let is_there = path.is_file();
        self.files.push((shown.clone(), is_there));
        if !is_there {
            return Ok(());
        }
        let text =
            read_text(&path, LONGEST_SETTINGS).with_context(|| format!("cannot read {shown}"))?;
        let folder = path.parent().unwrap_or(Path::new(""));
        for (key, setting) in parse(&text, &shown, folder)? {
            match self.set.get_mut(key) {
                Some(earlier) => earlier.over = Some(setting.place),
                None => drop(self.set.insert(key, setting)),
            }
        }
        Ok(())
    }

    /// The command line with the settings as defaults.
    pub(crate) fn over(&self, command: Command) -> Command {
        COMMANDS.iter().fold(command, |command, name| {
            command.mut_subcommand(name, |command| {
                KEYS.iter().fold(command, |command, key| match self.set.get(key.name) {
                    Some(setting) => with_default(command, key, &setting.values),
                    None => command,
                })
            })
        })
    }

    /// Takes down which settings the command line uses; the first time counts.
    pub(crate) fn note(&self, matches: &ArgMatches) {
        let Some((name, matches)) = matches.subcommand().filter(|(n, _)| COMMANDS.contains(n))
        else {
            return;
        };
        let used = KEYS.iter().filter_map(|key| {
            let setting = self.set.get(key.name)?;
            let is_default = matches.ids().any(|id| id == key.flag)
                && matches.value_source(key.flag) == Some(ValueSource::DefaultValue);
            let values = matches.get_raw(key.flag).filter(|_| is_default)?;
            let values: Vec<_> = values.map(|v| v.to_string_lossy().into_owned()).collect();
            let flag = format!("--{} {}", key.flag, values.join(","));
            Some(Used { flag, key: key.name, place: setting.place.clone(), values })
        });
        let used: Vec<Used> = used.collect();
        for used in &used {
            crate::tell::detail(&format!("{name} takes {} from {}", used.flag, used.place));
        }
        USED.get_or_init(|| used);
    }
}

/// The file in which a value was set that a mistake names; empty if none was.
pub(crate) fn blamed(mistake: &str) -> String {
    let named = |used: &&Used| used.values.iter().any(|value| mistake.contains(value.as_str()));
    let used = used().iter().find(named);
    used.map_or_else(String::new, |used| format!(" ({} is set in {})", used.key, used.place))
}

/// The user's own file, and how it is shown.
fn of_user() -> Option<(PathBuf, String)> {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    if let Some(dir) = set("XDG_CONFIG_HOME") {
        return Some((
            Path::new(&dir).join("knee").join(FILE),
            format!("$XDG_CONFIG_HOME/knee/{FILE}"),
        ));
    }
    let home = set("HOME")?;
    Some((Path::new(&home).join(".config/knee").join(FILE), format!("~/.config/knee/{FILE}")))
}

/// The lines of a file called `shown`, in `folder`.
fn parse(text: &str, shown: &str, folder: &Path) -> Result<Vec<(&'static str, Setting)>> {
    let line = |start: usize| 1 + text[..start].matches('\n').count();
    let table: BTreeMap<Spanned<String>, Spanned<Value>> = toml::from_str(text).map_err(|e| {
        anyhow!("{shown}:{}: {}", line(e.span().map_or(0, |span| span.start)), e.message())
    })?;
    let setting = |(name, value): (Spanned<String>, Spanned<Value>)| {
        let place = Place { file: shown.to_owned(), line: line(name.span().start) };
        let name = name.into_inner();
        let Some(key) = KEYS.iter().find(|key| key.name == name) else {
            let known = KEYS.iter().map(|key| key.name);
            let meant = workloads::meant(&name, known.clone());
            let known = known.collect::<Vec<_>>().join(", ");
            bail!("{place}: unknown key `{name}`: {meant}expected one of {known}");
        };
        let values = values(key, value.into_inner(), folder);
        let values = values.map_err(|why| anyhow!("{place}: {name}: {why}"))?;
        Ok((key.name, Setting { values, place, over: None }))
    };
    table.into_iter().map(setting).collect()
}

/// The values of `key` as they would be typed.
fn values(key: &Key, value: Value, folder: &Path) -> Result<Vec<String>, String> {
    let one = |value: Value| match value {
        Value::String(text) if !text.is_empty() => Ok(text),
        Value::Integer(number) => Ok(number.to_string()),
        other => Err(format!("expected a text or a list of texts, not {other}")),
    };
    let values = match value {
        Value::Array(list) if !list.is_empty() => {
            list.into_iter().map(one).collect::<Result<_, _>>()?
        }
        value => vec![one(value)?],
    };
    match (key.name, &values[..]) {
        ("targets", targets) => drop(Slo::parse(targets, None).map_err(|e| e.to_string())?),
        ("gpus", [number]) => drop(crate::cli::gpus(number)?),
        ("prices", [file]) => {
            let path = folder.join(file);
            let there = path.is_file().then(|| vec![path.display().to_string()]);
            return there.ok_or_else(|| format!("no file `{file}`"));
        }
        ("devices", _) | (_, [_]) => {}
        _ => return Err("expected a single value".to_owned()),
    }
    Ok(values)
}

/// `command` with `values` as the default of a flag, where it has that.
fn with_default(command: Command, key: &Key, values: &[String]) -> Command {
    let Some(arg) = command.get_arguments().find(|arg| arg.get_id() == key.flag) else {
        return command;
    };
    let takes_many = matches!(arg.get_action(), ArgAction::Append);
    let taken = if takes_many { values.to_vec() } else { values[..1].to_vec() };
    let has_url = command.get_arguments().any(|arg| arg.get_id() == "url");
    command.mut_arg(key.flag, |arg| {
        let arg = arg.default_values(taken);
        // A server knows its model.
        match key.name == "model" && has_url {
            true => arg.default_value_if("url", ArgPredicate::IsPresent, None),
            false => arg,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(text: &str) -> String {
        match parse(text, "knee.toml", Path::new("")) {
            Ok(settings) => {
                format!("{:?}", settings.iter().map(|(k, s)| (k, &s.values)).collect::<Vec<_>>())
            }
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn a_mistake_is_told_with_its_line() {
        insta::assert_snapshot!(said("model = 'mistral-7b'\ntargets = ['ttft=1s', 'tpot=30ms']\ngpus = 2\n"), @r#"[("gpus", ["2"]), ("model", ["mistral-7b"]), ("targets", ["ttft=1s", "tpot=30ms"])]"#);
        for (text, says) in [
            (
                "\ndevice = 'b200'\n",
                "knee.toml:2: unknown key `device`: did you mean devices? expected one of model, ",
            ),
            ("gpus = 0", "knee.toml:1: gpus: expected a whole number from 1 to 1024"),
            ("gpus = 1.5", "knee.toml:1: gpus: expected a text or a list of texts, not 1.5"),
            ("model = ['a', 'b']", "knee.toml:1: model: expected a single value"),
            ("# targets\ntargets = ['ttft=0.2']", "knee.toml:2: targets: \"0.2\" has no unit"),
            ("prices = 'nosuch.toml'", "knee.toml:1: prices: no file `nosuch.toml`"),
            ("devices = []", "knee.toml:1: devices: expected a text or a list of texts, not []"),
            ("model = 'a'\nmodel = 'b'", "knee.toml:2: "),
            ("model", "knee.toml:1: "),
        ] {
            assert!(said(text).starts_with(says), "{}", said(text));
        }
    }

    #[test]
    fn every_key_is_the_default_of_a_flag() {
        use clap::CommandFactory;
        let command = crate::cli::Cli::command();
        for key in KEYS {
            let has = |name: &str| {
                let command = command.find_subcommand(name).unwrap();
                command.get_arguments().any(|arg| arg.get_id() == key.flag)
            };
            assert!(COMMANDS.iter().any(|name| has(name)), "{}", key.name);
        }
    }
}
