//! An engine that runs models, and its answer to each knob: its description's, and what takes more than that. Several
//! targets may start one engine.

use super::said::{Missing, Said, Say};
use engine::engines::Words;
use engine::{Config, EngineProfile, KNOBS, Knob};
use std::sync::Arc;

/// An engine, in its own file.
#[derive(Debug)]
pub struct Engine {
    /// Its name, that of its description.
    pub name: &'static str,
    /// Its answer to a knob that takes more than a flag or fixed words.
    pub(super) own: fn(&Asked<'_>) -> Option<Say>,
}

/// A knob of a configuration, asked of an engine or a target.
pub(super) struct Asked<'a> {
    pub(super) knob: &'static Knob,
    pub(super) value: &'a str,
    pub(super) config: &'a Config,
    /// Copies of the engine behind one API server.
    pub(super) ranks: u32,
}

impl Engine {
    /// Its description: `asked`, where that is a version of it, or else its newest known version.
    pub(super) fn profile(&self, asked: Option<&Arc<EngineProfile>>) -> Arc<EngineProfile> {
        match asked.filter(|asked| asked.name == self.name) {
            Some(version) => Arc::clone(version),
            None => Arc::new(EngineProfile::newest(self.name).clone()),
        }
    }

    /// Its answers to all knobs, in the table's order, those that `first` has none for. The policy is its parts.
    pub(super) fn say(
        &self,
        profile: &EngineProfile,
        config: &Config,
        ranks: u32,
        first: impl Fn(&Asked<'_>) -> Option<Say>,
    ) -> Said {
        let (env, flags, comments, missing) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let mut said = Said { env, flags, comments, missing };
        for knob in KNOBS.iter().filter(|k| k.name != "policy") {
            let value = config.value(knob);
            let asked = Asked { knob, value: &value, config, ranks };
            let idle = is_idle(&asked) || profile.goes_without_saying(knob.name, &value);
            let answer = idle.then_some(Say::Implied).or_else(|| first(&asked));
            let answer = answer.or_else(|| (self.own)(&asked));
            match answer.unwrap_or_else(|| described(profile, &asked)) {
                Say::Env(variable) => said.env.push(variable),
                Say::Flags(flags) => said.flags.extend(flags),
                Say::Comment(how) => said.comments.push(format!("{} {value}: {how}", knob.name)),
                Say::Missing(why) => {
                    let knob = knob.name.to_owned();
                    said.missing.push(Missing { knob, value, why });
                }
                Say::Implied | Say::Elsewhere => {}
            }
        }
        said
    }
}

/// The answer of the engine's description.
fn described(profile: &EngineProfile, asked: &Asked<'_>) -> Say {
    match profile.told(asked.knob.name).map(|told| told.words(asked.value)) {
        Some(Words::None) => Say::Implied,
        Some(Words::These(words)) => Say::flag(words),
        Some(Words::Flag(name)) => Say::flag(flag(name, asked.value)),
        Some(Words::Not(why)) => Say::Missing(why.map(str::to_owned)),
        None => Say::Missing(None),
    }
}

/// True of knobs that do nothing in the configuration. An engine that pages all KV shares prefixes unless it is told not
/// to.
fn is_idle(asked: &Asked<'_>) -> bool {
    asked.knob.name != "prefix-cache" && !asked.knob.applies(asked.config)
}

/// A flag as a shell takes it.
#[must_use]
pub fn flag(name: &str, value: &str) -> String {
    match value {
        "on" | "true" => format!("--{name}"),
        "off" | "false" => format!("--no-{name}"),
        _ => format!("--{name} {}", super::said::quoted(value)),
    }
}
