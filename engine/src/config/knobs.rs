//! The table of knobs.
//!
//! A knob is declared once, as a row of [`KNOBS`]: its name, its text, the values it takes, the configurations in which
//! it does anything, the values that a search tries, how to read and set it. Command-line flags, TOML keys, checks, the
//! tuner's search space, exporters and report headings come from that row.

use super::values::{
    FORMATS, count, format_name, format_time, fraction, parse_format, parse_time, switch,
};
use crate::alike::{meant, near};

use super::{
    AllocatorKind, Config, KvDtype, Policy, PromptKv, QueueOrder, Reserve, RouterKind,
    SchedulerKind, Speculation, Victim,
};

impl Config {
    /// Sets the knob called `name`; the error says what it takes.
    pub fn set(&mut self, name: &str, value: &str) -> Result<(), KnobError> {
        let knob = Knob::named(name).ok_or_else(|| KnobError::Unknown { name: name.to_owned() })?;
        (knob.set)(self, &value.to_ascii_lowercase()).map_err(|reason| KnobError::Value {
            name: knob.name,
            value: value.to_owned(),
            reason,
        })
    }

    /// The knob's value as it would be typed.
    #[must_use]
    pub fn value(&self, knob: &Knob) -> String {
        (knob.get)(self)
    }

    /// The same deployment, written in one way: knobs that do nothing in it are at rest.
    #[must_use]
    pub fn canonical(&self) -> Self {
        let (mut c, rest) = (self.clone(), Self::at_rest());
        for knob in KNOBS.iter().filter(|k| !k.applies(self)) {
            (knob.copy)(&mut c, &rest);
        }
        // No prompt can take more than all of an iteration.
        if c.long_prefill_threshold >= c.max_batch_tokens {
            c.long_prefill_threshold = rest.long_prefill_threshold;
        }
        c
    }

    /// The same deployment, where knobs that are not among `set` and do nothing in it are at rest: an engine's defaults
    /// are of its own way of scheduling.
    #[must_use]
    pub fn settled(mut self, set: &[(String, String)]) -> Self {
        let (own, rest) = (self.clone(), Self::at_rest());
        let idle = |k: &&Knob| !k.applies(&own) && set.iter().all(|(name, _)| name != k.name);
        KNOBS.iter().filter(idle).for_each(|knob| (knob.copy)(&mut self, &rest));
        self
    }

    /// The values of knobs where they do nothing.
    fn at_rest() -> Self {
        // Contiguous memory shares no prefixes.
        Self { prefix_cache: false, ..Self::default() }
    }

    /// Refuses a knob that is set and does nothing.
    ///
    /// # Errors
    /// The first such knob, and what it would need.
    pub fn check_applies(&self) -> Result<(), KnobError> {
        KNOBS.iter().try_for_each(|knob| knob.check_in(std::slice::from_ref(self)))
    }
}

/// The reason why a knob could not be set.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KnobError {
    /// No such knob.
    #[error(
        "unknown knob `{name}`: {}expected one of {}",
        meant(near(name, KNOBS.iter().map(|k| k.name))), KNOBS.iter().map(|k| k.name).collect::<Vec<_>>().join(", ")
    )]
    Unknown {
        /// The name that was asked for.
        name: String,
    },
    /// Set, but without any effect.
    #[error("{name} {value} does nothing without {needs}: leave it at {rest}")]
    Idle {
        /// The knob.
        name: &'static str,
        /// Its value.
        value: String,
        /// The configurations in which it does something.
        needs: String,
        /// Its value everywhere else.
        rest: String,
    },
    /// A value outside the knob's domain.
    #[error("{name} = `{value}`: {reason}")]
    Value {
        /// The knob.
        name: &'static str,
        /// The text that was typed.
        value: String,
        /// The values it takes.
        reason: String,
    },
}

/// The values a knob takes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Domain {
    /// One of these words.
    Choice(&'static [&'static str]),
    /// A whole number in this range; searched in powers of two.
    Count {
        /// Smallest.
        min: u32,
        /// Largest.
        max: u32,
    },
    /// A fraction in this range.
    Fraction {
        /// Smallest.
        min: f64,
        /// Largest.
        max: f64,
    },
    /// `on` or `off`.
    Switch,
    /// A time with its unit, such as `50ms`.
    Time,
    /// Mean tokens a decode brings, by drafted tokens, such as `1.8/2.4`, or `auto`.
    Lengths,
}

/// The values that a search tries by itself.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Tries {
    /// None: only those that are asked for.
    Asked,
    /// These, in every combination with other knobs.
    Grid(&'static [&'static str]),
    /// Powers of two from `2^from` to `2^to`, in every combination with other knobs.
    Powers {
        /// The smallest power.
        from: u32,
        /// The largest power.
        to: u32,
    },
    /// As the number of GPUs allows.
    Layout,
    /// These, one at a time around a configuration that is good already.
    Around(&'static [&'static str]),
}

/// The configurations in which a knob does something, as far as that is not for its schedulers to say
/// ([`super::Traits::knobs`]).
#[derive(Debug)]
struct Needs {
    met: fn(&Config) -> bool,
    /// The same in words.
    text: &'static str,
}

const NOTHING: Needs = Needs { met: |_| true, text: "" };
const CONTIGUOUS: Needs =
    Needs { met: |c| c.allocator == AllocatorKind::Contiguous, text: "the contiguous allocator" };
const PAGED: Needs =
    Needs { met: |c| c.allocator == AllocatorKind::Paged, text: "the paged allocator" };
const GROWTH: Needs = Needs {
    met: |c| c.allocator == AllocatorKind::Paged || c.reserve == Reserve::Doubling,
    text: "KV that grows (the paged allocator, or reserve doubling)",
};
const AHEAD: Needs =
    Needs { met: Config::can_plan_ahead, text: "the continuous or chunked scheduler and pp 1" };
const DRAFTS: Needs =
    Needs { met: Config::speculates, text: "tokens that are drafted (speculation)" };
const REPLICAS: Needs = Needs { met: |c| c.replicas > 1, text: "several replicas" };

/// One row of [`KNOBS`].
#[derive(Debug)]
pub struct Knob {
    /// Its name in flags and files, with dashes.
    pub name: &'static str,
    /// Its effect, in a line.
    pub doc: &'static str,
    /// The change of the result when it is raised, for reports.
    pub moves: &'static str,
    /// The values it takes.
    pub domain: Domain,
    /// The values that a search tries.
    pub tries: Tries,
    needs: Needs,
    get: fn(&Config) -> String,
    set: fn(&mut Config, &str) -> Result<(), String>,
    /// Takes the value that another configuration has.
    copy: fn(&mut Config, &Config),
}

impl Knob {
    /// The knob called `name`.
    #[must_use]
    pub fn named(name: &str) -> Option<&'static Self> {
        KNOBS.iter().find(|k| k.name == name)
    }

    /// False where no value of this knob makes any difference to `config`.
    #[must_use]
    pub fn applies(&self, config: &Config) -> bool {
        let read =
            || SchedulerKind::readers(self.name).is_none_or(|r| r.contains(&config.scheduler));
        (self.needs.met)(config) && read()
    }

    /// The configurations in which it does something, in words that go on after "does nothing without".
    fn needed(&self) -> String {
        let readers = SchedulerKind::readers(self.name).map(|readers| {
            let names: Vec<_> = readers.iter().map(|kind| kind.name()).collect();
            format!("the {} scheduler", names.join(" or "))
        });
        let own = Some(self.needs.text.to_owned()).filter(|text| !text.is_empty());
        own.into_iter().chain(readers).collect::<Vec<_>>().join(" and ")
    }

    /// Refuses a value that does nothing in any of `configs`.
    ///
    /// # Errors
    /// When that is so, with what the knob needs.
    pub fn check_in(&self, configs: &[Config]) -> Result<(), KnobError> {
        let rest = (self.get)(&Config::at_rest());
        let is_idle = |c: &Config| !self.applies(c) && (self.get)(c) != rest;
        match configs.first() {
            Some(first) if configs.iter().all(is_idle) => {
                let (name, value) = (self.name, (self.get)(first));
                Err(KnobError::Idle { name, value, needs: self.needed(), rest })
            }
            _ => Ok(()),
        }
    }

    const fn needs(self, needs: Needs) -> Self {
        Self { needs, ..self }
    }

    const fn tries(self, tries: Tries) -> Self {
        Self { tries, ..self }
    }
}

/// Builds a row whose field is a choice, a count, a fraction, a switch or a time.
macro_rules! knob {
    (choice $name:literal $field:ident: $kind:ident, $doc:literal, $moves:literal) => {
        Knob {
            name: $name,
            doc: $doc,
            moves: $moves,
            domain: Domain::Choice($kind::NAMES),
            tries: Tries::Asked,
            needs: NOTHING,
            copy: |c, from| c.$field = from.$field,
            get: |c| c.$field.to_string(),
            set: |c, v| v.parse().map(|x| c.$field = x),
        }
    };
    (count $name:literal $field:ident: $min:literal..=$max:literal, $doc:literal, $moves:literal) => {
        Knob {
            name: $name,
            doc: $doc,
            moves: $moves,
            domain: Domain::Count { min: $min, max: $max },
            tries: Tries::Asked,
            needs: NOTHING,
            copy: |c, from| c.$field = from.$field,
            get: |c| c.$field.to_string(),
            set: |c, v| count(v, $min, $max).map(|x| c.$field = x),
        }
    };
    (fraction $name:literal $field:ident: $min:literal..=$max:literal, $doc:literal, $moves:literal) => {
        Knob {
            name: $name,
            doc: $doc,
            moves: $moves,
            domain: Domain::Fraction { min: $min, max: $max },
            tries: Tries::Asked,
            needs: NOTHING,
            copy: |c, from| c.$field = from.$field,
            get: |c| c.$field.to_string(),
            set: |c, v| fraction(v, $min, $max).map(|x| c.$field = x),
        }
    };
    (switch $name:literal $field:ident, $doc:literal, $moves:literal) => {
        Knob {
            name: $name,
            doc: $doc,
            moves: $moves,
            domain: Domain::Switch,
            tries: Tries::Asked,
            needs: NOTHING,
            copy: |c, from| c.$field = from.$field,
            get: |c| if c.$field { "on" } else { "off" }.to_owned(),
            set: |c, v| switch(v).map(|x| c.$field = x),
        }
    };
}

/// Every knob, in the order reports show them.
pub static KNOBS: &[Knob] = &[
    Knob {
        name: "policy",
        doc: "scheduler and allocator together, by the name people use",
        moves: "the shape of the whole curve",
        domain: Domain::Choice(Policy::NAMES),
        tries: Tries::Grid(Policy::NAMES),
        needs: NOTHING,
        copy: |c, from| c.set_policy(from.policy()),
        get: |c| c.policy().to_string(),
        set: |c, v| v.parse().map(|p| c.set_policy(p)),
    },
    knob!(choice "scheduler" scheduler: SchedulerKind, "which sequences make up an iteration", "the shape of the whole curve"),
    knob!(choice "allocator" allocator: AllocatorKind, "the layout of keys and values in memory", "the number of sequences that fit"),
    knob!(choice "reserve" reserve: Reserve, "contiguous KV that a sequence reserves", "the number of sequences that fit").needs(CONTIGUOUS),
    knob!(switch "prefix-cache" prefix_cache, "share blocks of equal content between sequences", "TTFT falls where prompts share a beginning").needs(PAGED).tries(Tries::Grid(&["on", "off"])),
    knob!(count "max-seqs" max_seqs: 1..=8192, "sequences that run at once, per worker", "throughput and TPOT rise, queueing falls").tries(Tries::Powers { from: 3, to: 10 }),
    knob!(count "max-batch-tokens" max_batch_tokens: 1..=131_072, "tokens per iteration (the chunk budget)", "TTFT falls, throughput and ITL rise").tries(Tries::Powers { from: 8, to: 14 }),
    knob!(count "long-prefill-threshold" long_prefill_threshold: 0..=131_072, "most tokens one prompt takes of an iteration it shares; 0 = no limit", "short prompts wait less behind long ones").tries(Tries::Around(&["512", "1024", "2048"])),
    knob!(count "block-size" block_size: 1..=1024, "tokens per KV block", "slack per sequence rises, bookkeeping falls").needs(PAGED).tries(Tries::Around(&["8", "32", "64"])),
    knob!(fraction "kv-fraction" kv_fraction: 0.1..=0.99, "share of device memory the engine may use", "more sequences fit").tries(Tries::Around(&["0.85", "0.9", "0.95"])),
    Knob {
        name: "quantization",
        doc: "number format of the weights; auto = as the checkpoint has them",
        moves: "fewer bytes are read, answers are less exact",
        domain: Domain::Choice(&FORMATS),
        tries: Tries::Asked,
        needs: NOTHING,
        copy: |c, from| c.quantization = from.quantization,
        get: |c| format_name(c.quantization).to_owned(),
        set: |c, v| parse_format(v).map(|format| c.quantization = format),
    },
    knob!(choice "kv-dtype" kv_dtype: KvDtype, "number format of cached keys and values", "fp8 holds twice the tokens, less exactly").tries(Tries::Grid(&["bf16", "fp8"])),
    knob!(fraction "watermark" watermark: 0.0..=0.5, "share of KV an admission leaves free while something runs", "fewer preemptions, fewer sequences").tries(Tries::Around(&["0", "0.01", "0.05"])),
    knob!(choice "prompt-kv" prompt_kv: PromptKv, "KV a prompt takes when admitted", "chunk admits more, preempts more").needs(PAGED).tries(Tries::Around(&["whole", "chunk"])),
    knob!(choice "queue" queue: QueueOrder, "the order in which requests are admitted", "the tails").tries(Tries::Around(&["fcfs", "shortest-prefill"])),
    knob!(count "max-queue" max_queue: 0..=1_048_576, "requests that may wait to be started, per replica, before more are refused; 0 = no limit", "requests are lost instead of late"),
    knob!(choice "victim" victim: Victim, "the sequence that gives way when KV runs out", "recomputed work").needs(GROWTH).tries(Tries::Around(&["last", "least-computed"])),
    knob!(count "max-model-len" max_model_len: 0..=4_194_304, "longest prompt + output, tokens; 0 = smallest power of two that holds the workload, within the model's context and KV memory", "the waste of contiguous(max)"),
    knob!(switch "allow-long-context" allow_long_context, "let max-model-len exceed the context window the model was trained for", "longer prompts are taken, answers are worse"),
    knob!(switch "padding" padding, "static batches compute every seat up to the longest", "more computed for nothing"),
    Knob {
        name: "max-wait",
        doc: "time for which an idle static worker waits for a fuller batch",
        moves: "fuller batches, later first tokens",
        domain: Domain::Time,
        tries: Tries::Asked,
        needs: NOTHING,
        copy: |c, from| c.max_wait = from.max_wait,
        get: |c| format_time(c.max_wait),
        set: |c, v| parse_time(v).map(|t| c.max_wait = t),
    },
    knob!(switch "mix" mix, "continuous batching decodes in the iterations that prefill (Orca)", "ITL falls while prompts arrive").tries(Tries::Around(&["off", "on"])),
    knob!(switch "async-scheduling" async_scheduling, "plan each iteration while the one before it runs", "host time hides, newcomers wait an iteration longer").needs(AHEAD),
    knob!(choice "speculation" speculation: Speculation, "the source of drafted tokens (speculative decoding)", "TPOT falls while the GPU waits for memory"),
    knob!(count "draft-tokens" draft_tokens: 1..=16, "tokens drafted after each decode", "more tokens at once, more computed in vain").needs(DRAFTS).tries(Tries::Around(&["1", "2", "3", "4", "5", "7"])),
    Knob {
        name: "acceptance",
        doc: "mean tokens a decode brings with 1/2/3 … drafted ones, in simulation; auto = measured for the model",
        moves: "more tokens at once",
        domain: Domain::Lengths,
        tries: Tries::Asked,
        needs: DRAFTS,
        copy: |c, from| c.acceptance.clone_from(&from.acceptance),
        get: |c| c.acceptance.to_string(),
        set: |c, v| v.parse().map(|x| c.acceptance = x),
    },
    knob!(count "tp" tp: 1..=64, "tensor-parallel ranks per worker", "latency falls, communication rises").tries(Tries::Layout),
    knob!(count "dp" dp: 1..=64, "ranks of attention with sequences and KV of their own, which share the experts", "KV and attention are split by sequence, the slowest rank decides"),
    knob!(count "ep" ep: 1..=64, "ranks of tp x dp that share experts out whole, instead of the width of each", "products of experts are larger, the busiest rank decides"),
    knob!(count "pp" pp: 1..=64, "pipeline stages per worker", "larger models fit, bubbles appear").tries(Tries::Layout),
    knob!(count "replicas" replicas: 1..=4096, "copies of the engine behind the router", "throughput rises in proportion").tries(Tries::Layout),
    knob!(choice "router" router: RouterKind, "the choice of a replica for a request", "the tails, and prefix hits").needs(REPLICAS),
    knob!(count "prefill-workers" prefill_workers: 1..=64, "disaggregated: workers that prefill", "TTFT falls").tries(Tries::Layout),
    knob!(count "decode-workers" decode_workers: 1..=64, "disaggregated: workers that decode", "TPOT falls").tries(Tries::Layout),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_knob_reads_back_what_it_prints() {
        for knob in KNOBS {
            let mut c = Config::default();
            let text = c.value(knob);
            c.set(knob.name, &text).unwrap();
            assert_eq!(c.value(knob), text, "{}", knob.name);
        }
    }

    #[test]
    fn a_value_outside_its_domain_says_what_is_taken() {
        let mut c = Config::default();
        let say = |r: Result<(), KnobError>| r.unwrap_err().to_string();
        assert_eq!(
            say(c.set("max-seqs", "0")),
            "max-seqs = `0`: expected a whole number from 1 to 8192"
        );
        assert_eq!(
            say(c.set("max-wait", "50")),
            "max-wait = `50`: expected a time with its unit: us, ms or s (for example 50ms)"
        );
        assert_eq!(say(c.set("kv-dtype", "int4")), "kv-dtype = `int4`: expected one of bf16, fp8");
        assert!(say(c.set("nope", "1")).starts_with("unknown knob `nope`"));
    }
}
