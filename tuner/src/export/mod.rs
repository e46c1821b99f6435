//! The found configuration in the words of engines that people run: strings only, one file per target.
//!
//! Each target answers for every row of the knob table: a flag, a setting that is the engine's only behaviour anyway,
//! or a comment. A knob without a counterpart is printed as a comment, never dropped in silence.

pub mod kserve;
pub mod llmd;
pub mod sglang;
pub mod trtllm;
pub mod vllm;

use crate::result::{Operating, TuneResult, config_of};
use engine::config::{KnobError, SchedulerKind};
use engine::{Config, KNOBS};
use std::fmt::Write as _;
use std::str::FromStr;

/// What is exported, and where it comes from.
#[derive(Debug, Clone, PartialEq)]
pub struct Found {
    /// Model as the target should load it: a Hugging Face name or a path.
    pub model: String,
    /// The configuration.
    pub config: Config,
    /// Its capacity, requests/s.
    pub capacity_rps: f64,
    /// Targets it holds.
    pub slo: Vec<String>,
    /// Device, workload, version: whether simulated, too.
    pub provenance: String,
}

/// A program that serves models.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// `vllm serve`.
    Vllm,
    /// SGLang's `launch_server`.
    Sglang,
    /// TensorRT-LLM's `trtllm-serve` and its YAML.
    Trtllm,
    /// A KServe `LLMInferenceService`.
    Kserve,
    /// Values of llm-d's modelservice chart.
    Llmd,
}

impl Target {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Vllm, Self::Sglang, Self::Trtllm, Self::Kserve, Self::Llmd];

    /// Its name on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Vllm => "vllm",
            Self::Sglang => "sglang",
            Self::Trtllm => "trtllm",
            Self::Kserve => "kserve",
            Self::Llmd => "llm-d",
        }
    }

    /// The usual name of a file that holds it.
    #[must_use]
    pub fn file(self) -> &'static str {
        match self {
            Self::Vllm => "vllm.sh",
            Self::Sglang => "sglang.sh",
            Self::Trtllm => "trtllm.sh",
            Self::Kserve => "kserve.yaml",
            Self::Llmd => "llm-d-values.yaml",
        }
    }

    /// The configuration for this target: a shell script or YAML, with comments.
    #[must_use]
    pub fn render(self, found: &Found) -> String {
        match self {
            Self::Vllm => vllm::render(found),
            Self::Sglang => sglang::render(found),
            Self::Trtllm => trtllm::render(found),
            Self::Kserve => kserve::render(found),
            Self::Llmd => llmd::render(found),
        }
    }
}

impl FromStr for Target {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, String> {
        let names = || Self::ALL.map(Self::name).join(", ");
        let known = Self::ALL.into_iter().find(|t| t.name() == s);
        known.ok_or_else(|| format!("unknown export target `{s}`: expected one of {}", names()))
    }
}

impl Found {
    /// An operating point of `result`, its winner for instance.
    pub fn of(result: &TuneResult, operating: &Operating) -> Result<Self, KnobError> {
        let how = if result.simulated { "simulated" } else { "measured" };
        Ok(Self {
            model: hub_name(&result.model).to_owned(),
            config: config_of(&operating.config)?,
            capacity_rps: operating.capacity_rps,
            slo: result.slo.clone(),
            provenance: format!(
                "knee {}: {how} on {} x {} with workload {}",
                result.version, operating.gpus, operating.device, result.workload.name
            ),
        })
    }

    /// The comment every export begins with.
    fn heading(&self) -> String {
        let slo =
            if self.slo.is_empty() { "no latency target".to_owned() } else { self.slo.join(" ") };
        format!("# {}\n# holds {slo} up to {:.2} requests/s\n", self.provenance, self.capacity_rps)
    }
}

/// Where the built-in shapes are published; other names are taken as they are.
fn hub_name(model: &str) -> &str {
    match model {
        "llama-3.1-8b" => "meta-llama/Llama-3.1-8B-Instruct",
        "llama-3.1-70b" => "meta-llama/Llama-3.1-70B-Instruct",
        "llama-2-13b" => "meta-llama/Llama-2-13b-chat-hf",
        "opt-13b" => "facebook/opt-13b",
        "mistral-7b" => "mistralai/Mistral-7B-Instruct-v0.3",
        "qwen3-32b" => "Qwen/Qwen3-32B",
        other => other,
    }
}

/// What a target says to one knob.
enum Say {
    /// Flags or settings, `--name value` each.
    Flags(Vec<String>),
    /// The target behaves so without being told.
    Implied,
    /// There is no counterpart; why, or what comes nearest.
    Comment(String),
    /// Said together with another knob.
    Elsewhere,
}

impl Say {
    fn flag(text: impl Into<String>) -> Self {
        Self::Flags(vec![text.into()])
    }

    fn comment(text: impl Into<String>) -> Self {
        Self::Comment(text.into())
    }
}

/// A target's answers to all knobs.
struct Said {
    flags: Vec<String>,
    comments: Vec<String>,
}

/// Asks `say` about every knob, in the table's order. The policy is its parts.
fn ask(config: &Config, say: impl Fn(&str, &str) -> Say) -> Said {
    let mut said = Said { flags: Vec::new(), comments: Vec::new() };
    for knob in KNOBS.iter().filter(|k| k.name != "policy") {
        let value = config.value(knob);
        match say(knob.name, &value) {
            Say::Flags(flags) => said.flags.extend(flags),
            Say::Comment(why) => said.comments.push(format!("# {} {value}: {why}", knob.name)),
            Say::Implied | Say::Elsewhere => {}
        }
    }
    said
}

/// What every target says alike: knobs that do nothing in this configuration, or nothing but its default.
fn common(config: &Config, knob: &str, value: &str) -> Option<Say> {
    let paged = config.allocator == engine::config::AllocatorKind::Paged;
    let is = |kind| config.scheduler == kind;
    let default = engine::Knob::named(knob).is_some_and(|k| Config::default().value(k) == value);
    let idle = match knob {
        "reserve" => paged,
        "block-size" | "prompt-kv" => !paged,
        "padding" | "max-wait" => !is(SchedulerKind::Static),
        "mix" => !is(SchedulerKind::Continuous),
        "prefill-workers" | "decode-workers" => !is(SchedulerKind::Disagg),
        "router" => config.replicas == 1,
        "victim" | "watermark" | "long-prefill-threshold" | "async-scheduling" => default,
        _ => false,
    };
    if idle {
        return Some(Say::Implied);
    }
    match knob {
        "max-model-len" if default => Some(Say::Implied),
        "allocator" | "reserve" if !paged => {
            Some(Say::comment("no counterpart: this engine pages its KV"))
        }
        "allocator" => Some(Say::Implied),
        "padding" | "max-wait" => Some(Say::comment("no counterpart")),
        _ => None,
    }
}

/// A shell command over several lines, or several commands, below heading and comments.
fn script(found: &Found, comments: &[String], commands: &[(String, Vec<String>)]) -> String {
    let mut text = found.heading();
    for comment in comments {
        let _ = writeln!(text, "{comment}");
    }
    for (command, flags) in commands {
        let lines: Vec<&str> =
            std::iter::once(command.as_str()).chain(flags.iter().map(String::as_str)).collect();
        let _ = writeln!(text, "{}", lines.join(" \\\n  "));
    }
    text
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// What the golden tests export.
    pub(crate) fn found(policy: &str, edits: &[(&str, &str)]) -> Found {
        let mut config = Config::default();
        config.set("policy", policy).unwrap();
        edits.iter().for_each(|(k, v)| config.set(k, v).unwrap());
        Found {
            model: hub_name("llama-3.1-8b").to_owned(),
            config,
            capacity_rps: 12.345,
            slo: vec!["ttft:p99=200ms".to_owned()],
            provenance: "knee 0.1.0: simulated on 1 x h100-sxm with workload chat".to_owned(),
        }
    }

    /// Values unlike the default for each knob that matters under some policy.
    const OTHERS: &[(&str, &str, &str)] = &[
        ("chunked", "scheduler", "static"),
        ("chunked", "scheduler", "continuous"),
        ("chunked", "scheduler", "disagg"),
        ("chunked", "allocator", "contiguous"),
        ("continuous", "reserve", "pow2"),
        ("chunked", "prefix-cache", "off"),
        ("chunked", "max-seqs", "48"),
        ("chunked", "max-batch-tokens", "768"),
        ("chunked", "long-prefill-threshold", "512"),
        ("chunked", "block-size", "32"),
        ("chunked", "kv-fraction", "0.83"),
        ("chunked", "kv-dtype", "fp8"),
        ("chunked", "watermark", "0.02"),
        ("chunked", "prompt-kv", "chunk"),
        ("chunked", "queue", "priority"),
        ("chunked", "queue", "shortest-prefill"),
        ("chunked", "queue", "longest-prefix"),
        ("chunked", "victim", "least-computed"),
        ("chunked", "max-model-len", "4096"),
        ("static", "padding", "off"),
        ("static", "max-wait", "50ms"),
        ("paged", "mix", "on"),
        ("chunked", "async-scheduling", "on"),
        ("chunked", "tp", "2"),
        ("chunked", "pp", "2"),
        ("chunked", "replicas", "3"),
        ("disagg", "prefill-workers", "2"),
        ("disagg", "decode-workers", "3"),
    ];

    #[test]
    fn no_knob_is_dropped_in_silence() {
        for target in Target::ALL {
            for (policy, knob, value) in OTHERS {
                let (usual, changed) = (found(policy, &[]), found(policy, &[(knob, value)]));
                assert_ne!(
                    target.render(&usual),
                    target.render(&changed),
                    "{} {knob}",
                    target.name()
                );
            }
            for router in ["round-robin", "prefix-affine"] {
                let usual = target.render(&found("chunked", &[("replicas", "2")]));
                let edits = [("replicas", "2"), ("router", router)];
                assert_ne!(usual, target.render(&found("chunked", &edits)), "{}", target.name());
            }
        }
        let tried: Vec<&str> = OTHERS.iter().map(|o| o.1).collect();
        for knob in KNOBS.iter().filter(|k| !["policy", "router"].contains(&k.name)) {
            assert!(tried.contains(&knob.name), "{} is not exported in any test", knob.name);
        }
    }

    #[test]
    fn a_target_is_found_by_its_name() {
        for target in Target::ALL {
            assert_eq!(target.name().parse(), Ok(target));
        }
        assert_eq!(
            "tgi".parse::<Target>().unwrap_err(),
            "unknown export target `tgi`: expected one of vllm, sglang, trtllm, kserve, llm-d"
        );
    }
}
