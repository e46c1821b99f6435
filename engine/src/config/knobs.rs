//! The table of knobs.
//!
//! A knob is declared once, as a row of [`KNOBS`]: its name, what it does, which values it takes, how to read and set
//! it. Command-line flags, TOML keys, the tuner's search space, exporters and report headings come from that row.

use std::time::Duration;

use super::{
    AllocatorKind, Config, KvDtype, Policy, PromptKv, QueueOrder, Reserve, RouterKind,
    SchedulerKind, Victim,
};

impl Config {
    /// Sets the knob called `name`; the error says what it takes.
    pub fn set(&mut self, name: &str, value: &str) -> Result<(), KnobError> {
        let knob = Knob::named(name).ok_or_else(|| KnobError::Unknown { name: name.to_owned() })?;
        (knob.set)(self, value).map_err(|reason| KnobError::Value {
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
}

/// Why a knob could not be set.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KnobError {
    /// No such knob.
    #[error("unknown knob `{name}`: expected one of {}", KNOBS.iter().map(|k| k.name).collect::<Vec<_>>().join(", "))]
    Unknown {
        /// What was asked for.
        name: String,
    },
    /// A value outside the knob's domain.
    #[error("{name} = `{value}`: {reason}")]
    Value {
        /// The knob.
        name: &'static str,
        /// What was typed.
        value: String,
        /// What it takes.
        reason: String,
    },
}

/// Which values a knob takes.
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
}

/// One row of [`KNOBS`].
#[derive(Debug)]
pub struct Knob {
    /// Its name in flags and files, with dashes.
    pub name: &'static str,
    /// What it does, in a line.
    pub doc: &'static str,
    /// Which way it moves the result when raised, for reports.
    pub moves: &'static str,
    /// The values it takes.
    pub domain: Domain,
    get: fn(&Config) -> String,
    set: fn(&mut Config, &str) -> Result<(), String>,
}

impl Knob {
    /// The knob called `name`.
    #[must_use]
    pub fn named(name: &str) -> Option<&'static Self> {
        KNOBS.iter().find(|k| k.name == name)
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
        get: |c| c.policy().to_string(),
        set: |c, v| v.parse().map(|p| c.set_policy(p)),
    },
    knob!(choice "scheduler" scheduler: SchedulerKind, "which sequences make up an iteration", "the shape of the whole curve"),
    knob!(choice "allocator" allocator: AllocatorKind, "where keys and values live", "how many sequences fit"),
    knob!(choice "reserve" reserve: Reserve, "how much contiguous KV a sequence reserves", "how many sequences fit"),
    knob!(switch "prefix-cache" prefix_cache, "share blocks of equal content between sequences", "TTFT falls where prompts share a beginning"),
    knob!(count "max-seqs" max_seqs: 1..=8192, "sequences that run at once, per worker", "throughput and TPOT rise, queueing falls"),
    knob!(count "max-batch-tokens" max_batch_tokens: 1..=131_072, "tokens per iteration (the chunk budget)", "TTFT falls, throughput and ITL rise"),
    knob!(count "long-prefill-threshold" long_prefill_threshold: 0..=131_072, "most tokens one prompt takes of an iteration it shares; 0 = no limit", "short prompts wait less behind long ones"),
    knob!(count "block-size" block_size: 1..=1024, "tokens per KV block", "slack per sequence rises, bookkeeping falls"),
    knob!(fraction "kv-fraction" kv_fraction: 0.1..=0.99, "share of device memory the engine may use", "more sequences fit"),
    knob!(choice "kv-dtype" kv_dtype: KvDtype, "number format of cached keys and values", "fp8 holds twice the tokens, less exactly"),
    knob!(fraction "watermark" watermark: 0.0..=0.5, "share of KV an admission leaves free while something runs", "fewer preemptions, fewer sequences"),
    knob!(choice "prompt-kv" prompt_kv: PromptKv, "KV a prompt takes when admitted", "chunk admits more, preempts more"),
    knob!(choice "queue" queue: QueueOrder, "who is admitted next", "the tails"),
    knob!(choice "victim" victim: Victim, "who gives way when KV runs out", "recomputed work"),
    knob!(count "max-model-len" max_model_len: 0..=4_194_304, "longest prompt + output, tokens; 0 = smallest power of two that holds the workload, within the model's context and KV memory", "what contiguous(max) wastes"),
    knob!(switch "allow-long-context" allow_long_context, "let max-model-len exceed the context window the model was trained for", "longer prompts are taken, answers are worse"),
    knob!(switch "padding" padding, "static batches compute every seat up to the longest", "more computed for nothing"),
    Knob {
        name: "max-wait",
        doc: "how long an idle static worker waits for a fuller batch",
        moves: "fuller batches, later first tokens",
        domain: Domain::Time,
        get: |c| format_time(c.max_wait),
        set: |c, v| parse_time(v).map(|t| c.max_wait = t),
    },
    knob!(switch "mix" mix, "continuous batching decodes in the iterations that prefill (Orca)", "ITL falls while prompts arrive"),
    knob!(switch "async-scheduling" async_scheduling, "plan each iteration while the one before it runs", "host time hides, newcomers wait an iteration longer"),
    knob!(count "tp" tp: 1..=64, "tensor-parallel ranks per worker", "latency falls, communication rises"),
    knob!(count "pp" pp: 1..=64, "pipeline stages per worker", "larger models fit, bubbles appear"),
    knob!(count "replicas" replicas: 1..=4096, "copies of the engine behind the router", "throughput rises in proportion"),
    knob!(choice "router" router: RouterKind, "which replica a request goes to", "the tails, and prefix hits"),
    knob!(count "prefill-workers" prefill_workers: 1..=64, "disaggregated: workers that prefill", "TTFT falls"),
    knob!(count "decode-workers" decode_workers: 1..=64, "disaggregated: workers that decode", "TPOT falls"),
];

fn count(text: &str, min: u32, max: u32) -> Result<u32, String> {
    let range = || format!("expected a whole number from {min} to {max}");
    let n = text.parse().map_err(|_| range())?;
    if (min..=max).contains(&n) { Ok(n) } else { Err(range()) }
}

fn fraction(text: &str, min: f64, max: f64) -> Result<f64, String> {
    let range = || format!("expected a fraction from {min} to {max}");
    let x = text.parse().map_err(|_| range())?;
    if (min..=max).contains(&x) { Ok(x) } else { Err(range()) }
}

fn switch(text: &str) -> Result<bool, String> {
    match text {
        "on" | "true" => Ok(true),
        "off" | "false" => Ok(false),
        _ => Err("expected on or off".to_owned()),
    }
}

fn parse_time(text: &str) -> Result<Duration, String> {
    let bad = || "expected a time with its unit: us, ms or s (for example 50ms)".to_owned();
    let split = text.find(|c: char| c.is_ascii_alphabetic()).ok_or_else(bad)?;
    let number: f64 = text[..split].parse().map_err(|_| bad())?;
    let unit = match &text[split..] {
        "us" => 1e-6,
        "ms" => 1e-3,
        "s" => 1.0,
        _ => return Err(bad()),
    };
    Duration::try_from_secs_f64(number * unit).map_err(|_| bad())
}

fn format_time(t: Duration) -> String {
    match t.as_micros() {
        us if us % 1_000_000 == 0 => format!("{}s", us / 1_000_000),
        us if us % 1_000 == 0 => format!("{}ms", us / 1_000),
        us => format!("{us}us"),
    }
}

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

    #[test]
    fn a_policy_name_is_its_scheduler_and_allocator() {
        for name in Policy::NAMES {
            let mut c = Config::default();
            c.set("policy", name).unwrap();
            assert_eq!(c.policy().name(), *name);
        }
    }
}
