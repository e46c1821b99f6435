//! From lists of values to configurations in a server's own words.
//!
//! A knob may be named as the server names it or as knee does; it is shown and passed as the server names it. A name that
//! neither knows is passed on all the same: servers have more flags than any table.

use std::collections::BTreeMap;
use std::str::FromStr;

use engine::{Config, EngineProfile, Knob};

use crate::export::{flag, quoted};
use crate::result::Contender;

/// The server whose flags are spoken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// vLLM's: `--max-num-seqs 64`, `--enable-prefix-caching`, `--no-enable-prefix-caching`.
    Vllm,
    /// Those of `knee serve`: `--max-seqs 64`, `--prefix-cache on`.
    Knee,
}

/// A knob and the values to try, as typed: `max-num-seqs=16,64,256`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Values {
    /// The knob's name.
    pub name: String,
    /// Its values, in the order to try them in.
    pub values: Vec<String>,
}

impl FromStr for Values {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || "expected NAME=VALUE,VALUE,... such as max-num-seqs=16,64,256".to_owned();
        let (name, values) = text.split_once('=').ok_or_else(bad)?;
        let name = name.trim().trim_start_matches('-').replace('_', "-");
        let values: Vec<String> = values.split(',').map(|v| v.trim().to_owned()).collect();
        let word = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
        if name.is_empty() || !name.chars().all(word) || values.iter().any(String::is_empty) {
            return Err(bad());
        }
        Ok(Self { name, values })
    }
}

impl FromStr for Dialect {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.to_ascii_lowercase().as_str() {
            "vllm" => Ok(Self::Vllm),
            "knee" => Ok(Self::Knee),
            _ => Err("expected vllm or knee".to_owned()),
        }
    }
}

impl Dialect {
    /// The default search: the two knobs that decide most about any engine's batches.
    #[must_use]
    pub fn usual(self) -> Vec<Values> {
        let (seqs, tokens) = match self {
            Self::Vllm => ("max-num-seqs=16,64,256", "max-num-batched-tokens=512,2048,8192"),
            Self::Knee => ("max-seqs=16,64,256", "max-batch-tokens=512,2048,8192"),
        };
        [seqs, tokens].iter().filter_map(|text| text.parse().ok()).collect()
    }

    /// The server's name of a knob.
    fn name(self, knob: &str) -> &str {
        match self {
            Self::Vllm => {
                let told = EngineProfile::newest("vllm").told(knob);
                told.and_then(|told| told.flag.as_deref()).unwrap_or(knob)
            }
            Self::Knee => ours(knob),
        }
    }

    /// A flag as a shell takes it.
    fn flag(self, name: &str, value: &str) -> String {
        match self {
            Self::Vllm => flag(name, value),
            Self::Knee => format!("--{name} {}", quoted(value)),
        }
    }

    /// The configuration that the engine's simulation would run, and the names that mean nothing to it.
    ///
    /// # Errors
    /// A value that the engine does not take, or a combination that it refuses.
    pub fn config(self, knobs: &BTreeMap<String, String>) -> Result<(Config, Vec<String>), String> {
        let (mut config, mut strange) = (Config::default(), Vec::new());
        for (name, value) in knobs {
            let ours = ours(name);
            let value = match value.as_str() {
                "true" => "on",
                "false" => "off",
                other => other,
            };
            match Knob::named(ours) {
                Some(_) => config.set(ours, value).map_err(|e| e.to_string())?,
                None => strange.push(name.clone()),
            }
        }
        engine::deployment::check(&config).map_err(|e| e.to_string())?;
        Ok((config, strange))
    }

    /// Every combination of `values`, the last knob varying fastest.
    ///
    /// # Errors
    /// A knob named twice; in knee's dialect also one that it does not have, or a value that it does not take.
    pub fn contenders(self, values: &[Values]) -> Result<Vec<Contender>, String> {
        let mut all: Vec<Vec<(&str, &str)>> = vec![Vec::new()];
        let mut named: Vec<&str> = Vec::new();
        for knob in values {
            let name = self.name(&knob.name);
            if named.contains(&name) {
                return Err(format!("{name} is listed twice: give all its values at once"));
            }
            named.push(name);
            if self == Self::Knee {
                for value in &knob.values {
                    Config::default().set(name, value).map_err(|e| e.to_string())?;
                }
            }
            let with = |set: &Vec<(_, _)>, value| [&set[..], &[(name, value)]].concat();
            let each = |set| knob.values.iter().map(move |v: &String| with(set, v.as_str()));
            all = all.iter().flat_map(each).collect();
        }
        Ok(all.iter().map(|set| self.contender(set)).collect())
    }

    fn contender(self, set: &[(&str, &str)]) -> Contender {
        let flags: Vec<String> = set.iter().map(|(n, v)| self.flag(n, v)).collect();
        let said: Vec<String> = set.iter().map(|(n, v)| format!("{n} {v}")).collect();
        let config = set.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
        Contender { flags: Some(flags.join(" ")), ..Contender::new(said.join(", "), config) }
    }
}

/// knee's name of a knob that vLLM may name otherwise.
fn ours(name: &str) -> &str {
    EngineProfile::newest("vllm").knob_of(name).unwrap_or(name)
}

/// The label of a server without any of our flags.
pub const DEFAULTS: &str = "the server's own defaults";

/// A server without any of our flags.
#[must_use]
pub fn defaults() -> Contender {
    let own = Contender::new(DEFAULTS.to_owned(), BTreeMap::new());
    Contender { flags: Some(String::new()), ..own }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(texts: &[&str]) -> Vec<Values> {
        texts.iter().map(|t| t.parse().unwrap()).collect()
    }

    #[test]
    fn every_combination_in_the_servers_words() {
        let asked = values(&["--max-seqs=16, 64", "prefix-cache=on,off", "swap_space=4"]);
        let all = Dialect::Vllm.contenders(&asked).unwrap();
        let flags: Vec<&str> = all.iter().filter_map(|c| c.flags.as_deref()).collect();
        assert_eq!(
            flags,
            [
                "--max-num-seqs 16 --enable-prefix-caching --swap-space 4",
                "--max-num-seqs 16 --no-enable-prefix-caching --swap-space 4",
                "--max-num-seqs 64 --enable-prefix-caching --swap-space 4",
                "--max-num-seqs 64 --no-enable-prefix-caching --swap-space 4",
            ]
        );
        assert_eq!(all[1].label, "max-num-seqs 16, enable-prefix-caching off, swap-space 4");
        let (config, strange) = Dialect::Vllm.config(&all[1].config).unwrap();
        assert_eq!((config.max_seqs, config.prefix_cache), (16, false));
        assert_eq!(strange, ["swap-space"]);
        let own =
            Dialect::Knee.contenders(&values(&["max-num-seqs=8", "prefix-cache=off"])).unwrap();
        assert_eq!(own[0].flags.as_deref().unwrap(), "--max-seqs 8 --prefix-cache off");
    }

    #[test]
    fn mistakes_are_said() {
        let said = |texts: &[&str]| Dialect::Knee.contenders(&values(texts)).unwrap_err();
        assert!(said(&["max-seqs=8", "max-num-seqs=16"]).contains("listed twice"));
        assert!(said(&["sulk=8"]).contains("sulk"));
        assert!(said(&["max-seqs=many"]).contains("many"));
        for bad in ["max-seqs", "max-seqs=", "=3", "max-seqs=1,,2", "a b=1", "$(x)=1"] {
            assert!(bad.parse::<Values>().is_err(), "{bad}");
        }
        let few = BTreeMap::from([("max-num-batched-tokens".to_owned(), "64".to_owned())]);
        assert!(Dialect::Vllm.config(&few).is_err(), "fewer tokens than seats");
    }

    #[test]
    fn the_usual_values_are_configurations_of_the_engine() {
        for dialect in [Dialect::Vllm, Dialect::Knee] {
            let all = dialect.contenders(&dialect.usual()).unwrap();
            assert_eq!(all.len(), 9);
            for candidate in all {
                let (_, strange) = dialect.config(&candidate.config).unwrap();
                assert!(strange.is_empty(), "{strange:?}");
            }
        }
    }

    #[test]
    fn any_value_is_quoted_as_one_word() {
        let evil = r#"it's; rm "$HOME" `x`"#;
        let line = format!("printf %s {}", quoted(evil));
        let output = std::process::Command::new("sh").args(["-c", &line]).output().unwrap();
        assert_eq!(String::from_utf8(output.stdout).unwrap(), evil);
        assert_eq!((quoted("0.9").as_str(), quoted("").as_str()), ("0.9", "''"));
    }
}
