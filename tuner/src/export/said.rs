//! The configuration to export, the answers to its knobs, and the frame of a script around them.

use crate::result::{Operating, TuneResult, config_of};
use engine::config::KnobError;
use engine::{Config, EngineProfile};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::fmt::Write as _;
use std::sync::Arc;

/// The configuration to export, and its origin.
#[derive(Debug, Clone, PartialEq)]
pub struct Found {
    /// Model as the target should load it: a Hugging Face name or a path.
    pub model: String,
    /// True if the model has experts, which ranks of one engine share.
    pub experts: bool,
    /// The engine that it was found for, where one was named.
    pub engine: Option<Arc<EngineProfile>>,
    /// The configuration.
    pub config: Config,
    /// Its capacity, requests/s.
    pub capacity_rps: f64,
    /// Targets it holds.
    pub slo: Vec<String>,
    /// Device, workload, version; simulated or measured.
    pub provenance: String,
}

/// A knob's value that a target has no counterpart for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Missing {
    /// The knob.
    pub knob: String,
    /// The value it was found to want.
    pub value: String,
    /// The target's own way, where there is more to say.
    pub why: Option<String>,
}

impl Missing {
    /// True if the knob decides what is served when, so that the capacity found says nothing without it.
    #[must_use]
    pub fn decides(&self) -> bool {
        ["scheduler", "allocator", "mix", "queue"].contains(&self.knob.as_str())
    }
}

impl Found {
    /// An operating point of `result`, its winner for instance.
    pub fn of(result: &TuneResult, operating: &Operating) -> Result<Self, KnobError> {
        let how = if result.simulated { "simulated" } else { "measured" };
        let mut config = config_of(&operating.config)?;
        // Engines take the model's whole context window by default, and do not start if KV memory
        // holds less.
        config.max_model_len = config.max_model_len.max(operating.work.max_model_len);
        Ok(Self {
            model: hub_name(&result.model).to_owned(),
            experts: result.experts,
            engine: result
                .engine
                .as_ref()
                .and_then(|e| Some(Arc::new(EngineProfile::load(e).ok()?))),
            config,
            capacity_rps: operating.capacity_rps,
            slo: slo(result),
            provenance: format!(
                "knee {}: {how} on {} x {} with workload {}",
                result.version, operating.gpus, operating.device, result.workload.name
            ),
        })
    }

    /// The comments every export begins with.
    pub(super) fn heading(&self, said: &Said) -> String {
        let slo =
            if self.slo.is_empty() { "no latency target".to_owned() } else { self.slo.join(" ") };
        let but =
            if said.missing.is_empty() { "" } else { ", but only with what this engine lacks:" };
        let mut lines = vec![
            self.provenance.clone(),
            format!("holds {slo} up to {:.2} requests/s{but}", self.capacity_rps),
        ];
        for Missing { knob, value, why } in &said.missing {
            let why = why.as_ref().map_or_else(String::new, |why| format!(": {why}"));
            lines.push(format!("  {knob} {value}{why}"));
        }
        lines.extend(said.comments.iter().cloned());
        // A name with a line break in it must not end the comment.
        let comment = |line: &String| format!("# {}\n", line.replace(char::is_control, " "));
        lines.iter().map(comment).collect()
    }
}

/// The targets as typed; where a share of requests must meet them all, that instead of their percentiles.
fn slo(result: &TuneResult) -> Vec<String> {
    let Some(share) = &result.attainment else { return result.slo.clone() };
    let plain = |target: &String| match target.split_once(':') {
        Some((metric, rest)) => {
            format!("{metric}{}", &rest[rest.find(['@', '=']).unwrap_or(rest.len())..])
        }
        None => target.clone(),
    };
    result.slo.iter().map(plain).chain([format!("for {share} of requests")]).collect()
}

/// The hub's name of a built-in shape; other names are taken as they are.
pub(super) fn hub_name(model: &str) -> &str {
    match model {
        "llama-3.1-8b" => "meta-llama/Llama-3.1-8B-Instruct",
        "llama-3.1-70b" => "meta-llama/Llama-3.1-70B-Instruct",
        "llama-2-13b" => "meta-llama/Llama-2-13b-chat-hf",
        "llama-2-70b" => "meta-llama/Llama-2-70b-chat-hf",
        "opt-13b" => "facebook/opt-13b",
        "mistral-7b" => "mistralai/Mistral-7B-Instruct-v0.3",
        "qwen3-32b" => "Qwen/Qwen3-32B",
        other => other,
    }
}

/// The number format of weights, of engines that quantise bf16 weights to FP8 themselves.
pub(super) fn weights(value: &str) -> Say {
    if value == "fp8" { Say::flag("--quantization fp8") } else { checkpoint(value) }
}

/// The number format of weights, of engines that take them as a checkpoint has them.
pub(super) fn checkpoint(value: &str) -> Say {
    match value {
        "auto" => Say::Implied,
        other => Say::comment(format!("serve a checkpoint whose weights are in {other}")),
    }
}

/// `text` as one word of a shell: in quotes where it needs them.
#[must_use]
pub fn quoted(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=,@%+".contains(c);
    let text = text.replace('\0', "");
    if !text.is_empty() && text.chars().all(plain) {
        return text;
    }
    shlex::try_quote(&text).map_or_else(|_| String::new(), Cow::into_owned)
}

/// An answer to one knob.
#[derive(Debug)]
pub(super) enum Say {
    /// A variable of the environment, `NAME=VALUE`.
    Env(&'static str),
    /// Flags or settings, `--name value` each.
    Flags(Vec<String>),
    /// The target behaves so without being told.
    Implied,
    /// Done by hand or elsewhere: how.
    Comment(String),
    /// There is no counterpart; what the target does instead, where there is more to say.
    Missing(Option<String>),
    /// Said together with another knob.
    Elsewhere,
}

impl Say {
    pub(super) fn flag(text: impl Into<String>) -> Self {
        Self::Flags(vec![text.into()])
    }

    pub(super) fn comment(text: impl Into<String>) -> Self {
        Self::Comment(text.into())
    }

    pub(super) fn missing(why: impl Into<String>) -> Self {
        Self::Missing(Some(why.into()))
    }
}

/// The acceptance of drafted tokens that a result expects: no engine is told it.
pub(super) fn acceptance() -> Say {
    Say::comment("expected; compare it with the mean acceptance length that the engine logs")
}

/// A target's answers to all knobs.
#[derive(Debug)]
pub(super) struct Said {
    pub(super) env: Vec<&'static str>,
    pub(super) flags: Vec<String>,
    pub(super) comments: Vec<String>,
    pub(super) missing: Vec<Missing>,
}

/// `program` in the environment it needs, with the model as its last word.
pub(super) fn start(said: &Said, program: &str, model: &str) -> String {
    let words = said.env.iter().copied().chain([program]);
    words.map(|word| format!("{word} ")).collect::<String>() + &quoted(model)
}

/// A shell command over several lines, or several commands, below the heading.
pub(super) fn script(found: &Found, said: &Said, commands: &[(String, Vec<String>)]) -> String {
    let mut text = found.heading(said);
    for (command, flags) in commands {
        let lines: Vec<&str> =
            std::iter::once(command.as_str()).chain(flags.iter().map(String::as_str)).collect();
        let _ = writeln!(text, "{}", lines.join(" \\\n  "));
    }
    text
}
