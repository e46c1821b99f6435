//! An engine that runs models, and its flag or setting for each knob. Several targets may start one engine.

use super::said::{Missing, Said, Say};
use engine::config::AllocatorKind;
use engine::{Config, KNOBS, Knob};

/// An engine, in its own file.
#[derive(Debug)]
pub struct Engine {
    /// Its name, that of its package.
    pub name: &'static str,
    /// The policy that is its own way of scheduling.
    pub(super) policy: &'static str,
    /// knee's name of a knob and the engine's, where both mean the same by the same values.
    pub flags: &'static [(&'static str, &'static str)],
    /// Its answer to a knob that takes more than that.
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

/// Knobs whose default is that of every engine: there they need not be said.
const DEFAULTS: &[&str] = &[
    "long-prefill-threshold",
    "quantization",
    "kv-dtype",
    "watermark",
    "prompt-kv",
    "max-queue",
    "victim",
    "max-model-len",
    "allow-long-context",
    "async-scheduling",
    "tp",
    "dp",
    "ep",
    "pp",
    "replicas",
];

impl Engine {
    /// Its answers to all knobs, in the table's order, those that `first` has none for. The policy is its parts.
    pub(super) fn say(
        &self,
        config: &Config,
        ranks: u32,
        first: impl Fn(&Asked<'_>) -> Option<Say>,
    ) -> Said {
        let (env, flags, comments, missing) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let mut said = Said { env, flags, comments, missing };
        for knob in KNOBS.iter().filter(|k| k.name != "policy") {
            let value = config.value(knob);
            let asked = Asked { knob, value: &value, config, ranks };
            let answer = at_rest(&asked).or_else(|| first(&asked)).or_else(|| (self.own)(&asked));
            match answer.unwrap_or_else(|| self.usual(&asked)) {
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

    /// The answer to a knob that is a flag, or nothing.
    fn usual(&self, asked: &Asked<'_>) -> Say {
        match self.flags.iter().find(|(ours, _)| *ours == asked.knob.name) {
            Some((_, theirs)) => Say::flag(flag(theirs, asked.value)),
            None => Say::Missing(None),
        }
    }
}

/// The answer that all engines share: to knobs that do nothing in this configuration, or nothing but their default, and
/// to the way KV is laid out.
fn at_rest(asked: &Asked<'_>) -> Option<Say> {
    let Asked { knob, config, .. } = asked;
    // An engine that pages all KV shares prefixes unless it is told not to.
    let idle = knob.name != "prefix-cache" && !knob.applies(config);
    let unset = DEFAULTS.contains(&knob.name) && Config::default().value(knob) == asked.value;
    if unset || idle {
        return Some(Say::Implied);
    }
    match knob.name {
        "allocator" if config.allocator == AllocatorKind::Paged => Some(Say::Implied),
        "allocator" | "reserve" => Some(Say::missing("this engine pages its KV")),
        _ => None,
    }
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
