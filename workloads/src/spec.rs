//! A workload's description in TOML, `schema = "knee.workload/1"`, and the presets that ship.
//!
//! A description is checked once, in [`Spec::parse`]; the generator then cannot fail on it. A key that is not
//! known is refused, for a misspelt `spearman` would otherwise be a workload without correlation.

use serde::Deserialize;

use crate::TraceError;
use crate::arrival::ArrivalSpec;
use crate::describe::Reference;
use crate::length::{Dist, LEVELS};

const SCHEMA: &str = "knee.workload/1";

/// Most requests a description may ask for.
pub(crate) const MOST_REQUESTS: u32 = 10_000_000;

/// A checked description of a workload, ready for [`synthesise`](crate::synthesise).
#[derive(Debug, Clone, PartialEq)]
pub struct Spec(pub(crate) Written);

/// The description as it is written.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Written {
    schema: String,
    pub name: String,
    description: String,
    pub provenance: Vec<String>,
    pub seed: u64,
    #[serde(default = "levels")]
    pub quantile_levels: Vec<f64>,
    pub size: Size,
    pub arrival: ArrivalSpec,
    pub lengths: Lengths,
    pub session: Option<Session>,
    pub prefix: Option<Prefix>,
    reference: Option<Reference>,
}

fn levels() -> Vec<f64> {
    LEVELS.to_vec()
}

/// Its end: the first of both that is reached.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Size {
    pub requests: Option<u32>,
    /// Arrivals (closed loop: of sessions) before this many seconds.
    pub duration_s: Option<f64>,
}

/// `[lengths]`, tokens.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Lengths {
    /// Prompts; where there are sessions, these say what a prompt is.
    pub input: Option<Dist>,
    pub output: Dist,
    /// Rank correlation of prompt and response.
    #[serde(default)]
    pub spearman: f64,
    /// No prompt and response together are longer.
    pub max_total_tokens: Option<u32>,
}

/// The way the turns of a session follow each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Mode {
    /// So long after the turn before was sent. Sessions are whole: longer ones start earlier within the duration.
    Open,
    /// So long after the turn before was answered.
    Closed,
}

/// `[session]`: arrivals are those of sessions, each of some turns.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Session {
    pub mode: Mode,
    pub turns: Dist,
    /// First prompt, tokens.
    pub first_input: Dist,
    /// Tokens that a turn adds to the prompt and response before it.
    pub new_input_per_turn: Option<Dist>,
    /// Or: tokens by which its prompt is longer than the prompt before, the response included.
    pub growth_per_turn: Option<Dist>,
    /// The same of the first turns, where a session grows by what it reads to begin with.
    pub opening: Option<Opening>,
    /// Share of turns that go on where the one before ended; others share the root only.
    #[serde(default = "one")]
    pub extend_prob: f64,
    /// Share of turns that start afresh (context compaction).
    #[serde(default)]
    pub shrink_prob: f64,
    /// Open: from arrival to arrival, s.
    pub turn_gap_s: Option<Dist>,
    /// Closed: from response to request, s.
    pub think_time_s: Option<Dist>,
    #[serde(default = "infinite")]
    pub think_time_cap_s: f64,
    /// Prompt of a turn after compaction; `first_input` where none is given.
    pub compacted_input: Option<Dist>,
    /// A turn whose prompt and response would not fit is compacted.
    pub max_total_tokens: Option<u32>,
}

/// `[session] opening`: the turns after the first one.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Opening {
    /// Their number.
    pub turns: u32,
    /// Growth of each, tokens.
    pub growth: Dist,
}

fn one() -> f64 {
    1.0
}

fn infinite() -> f64 {
    f64::INFINITY
}

/// `[prefix]`: which prompts begin alike.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Prefix {
    /// Granularity of block identities.
    pub block_tokens: u32,
    /// Tokens at the start of a session (or request) that are the same in all, as far as each goes.
    pub shared_root: Option<Dist>,
}

impl Spec {
    /// Independent requests of one size, as `vllm bench serve --dataset-name random` makes them: prompts and responses of
    /// `least` times to once the given numbers of tokens, evenly. They arrive at random, one per second.
    ///
    /// # Errors
    /// Lengths that no request has.
    pub fn random(input: u32, output: u32, least: f64, requests: u32) -> Result<Self, TraceError> {
        let name = format!("random-{input}-{output}");
        let dist = |tokens: u32| {
            let min = (f64::from(tokens) * least).round().max(1.0);
            format!(r#"{{ dist = "uniform", min = {min:?}, max = {tokens} }}"#)
        };
        let toml = format!(
            r#"
            schema = "{SCHEMA}"
            name = "{name}"
            description = "independent requests of one size"
            provenance = ["lengths given: prompts of {input} tokens, responses of {output}, at least {least} of that"]
            seed = 1
            size = {{ requests = {requests} }}
            arrival = {{ process = "poisson", rate_rps = 1.0 }}
            lengths = {{ input = {}, output = {} }}
            "#,
            dist(input),
            dist(output)
        );
        Self::parse(&name, &toml)
    }

    /// Reads a description; `name` is the file's, for messages.
    ///
    /// # Errors
    /// Says which key is wrong, with its line where the TOML itself is.
    pub fn parse(name: &str, toml: &str) -> Result<Self, TraceError> {
        let written: Written = toml::from_str(toml).map_err(|e| {
            let line =
                e.span().map_or(1, |span| 1 + toml[..span.start].matches('\n').count() as u64);
            TraceError::line(name, line, e.message())
        })?;
        written.check().map_err(|problem| TraceError::spec(name, problem))?;
        Ok(Self(written))
    }

    /// The seed used unless another is given.
    #[must_use]
    pub fn seed(&self) -> u64 {
        self.0.seed
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// A description, in a line.
    #[must_use]
    pub fn description(&self) -> &str {
        &self.0.description
    }

    /// The real source's figures, if the description has them.
    #[must_use]
    pub fn reference(&self) -> Option<&Reference> {
        self.0.reference.as_ref()
    }
}

impl Written {
    fn check(&self) -> Result<(), String> {
        let need = |fine: bool, what: &str| if fine { Ok(()) } else { Err(what.to_owned()) };
        need(self.schema == SCHEMA, "schema must be \"knee.workload/1\"")?;
        let levels = &self.quantile_levels;
        let ends = levels.first() == Some(&0.0) && levels.last() == Some(&1.0);
        need(
            ends && levels.windows(2).all(|w| w[0] < w[1]),
            "quantile_levels must rise from 0 to 1",
        )?;
        self.arrival.check()?;
        for (key, dist) in self.dists() {
            dist.check(levels).map_err(|problem| format!("{key}: {problem}"))?;
        }
        let size = &self.size;
        need(
            size.requests.is_some() || size.duration_s.is_some(),
            "[size] needs requests, duration_s or both, so that it ends",
        )?;
        need(
            size.requests.is_none_or(|n| (1..=MOST_REQUESTS).contains(&n)),
            "[size] requests must be 1 to 10 million",
        )?;
        need(
            size.duration_s.is_none_or(|s| s > 0.0 && s <= 1e9),
            "[size] duration_s must be above 0 and at most 1e9",
        )?;
        let expected = size.duration_s.unwrap_or(0.0) * self.arrival.rate_rps;
        need(
            size.requests.is_some() || expected <= f64::from(MOST_REQUESTS),
            "duration_s x rate_rps is over 10 million; give [size] requests",
        )?;
        need((-1.0..=1.0).contains(&self.lengths.spearman), "spearman must be -1 to 1")?;
        need(self.lengths.max_total_tokens != Some(0), "max_total_tokens must be at least 1")?;
        need(
            self.lengths.input.is_some() == self.session.is_none(),
            "needs either [lengths] input or a [session] with first_input",
        )?;
        if let Some(prefix) = &self.prefix {
            need(prefix.block_tokens > 0, "[prefix] block_tokens must be at least 1")?;
        }
        let Some(s) = &self.session else { return Ok(()) };
        need(
            s.new_input_per_turn.is_some() != s.growth_per_turn.is_some(),
            "[session] needs one of new_input_per_turn and growth_per_turn",
        )?;
        need(
            s.opening.is_none() || s.growth_per_turn.is_some(),
            "[session] opening goes with growth_per_turn, and only with it",
        )?;
        need(
            s.turn_gap_s.is_some() == (s.mode == Mode::Open),
            "[session] turn_gap_s goes with mode open, and only with it",
        )?;
        need(
            s.think_time_s.is_some() == (s.mode == Mode::Closed),
            "[session] think_time_s goes with mode closed, and only with it",
        )?;
        need(
            s.mode == Mode::Closed || size.duration_s.is_some(),
            "[size] needs duration_s for sessions of mode open",
        )?;
        need(
            [s.extend_prob, s.shrink_prob].iter().all(|p| (0.0..=1.0).contains(p)),
            "[session] probabilities must be 0 to 1",
        )?;
        need(s.think_time_cap_s >= 0.0, "[session] think_time_cap_s must be 0 or more")?;
        need(s.max_total_tokens != Some(0), "[session] max_total_tokens must be at least 1")?;
        need(
            self.lengths.spearman == 0.0 && self.lengths.max_total_tokens.is_none(),
            "spearman and [lengths] max_total_tokens do not apply to a [session]",
        )
    }

    /// All distributions with the key they are under.
    fn dists(&self) -> impl Iterator<Item = (&'static str, &Dist)> {
        let session = self.session.as_ref();
        [
            ("[lengths] input", self.lengths.input.as_ref()),
            ("[lengths] output", Some(&self.lengths.output)),
            ("[session] turns", session.map(|s| &s.turns)),
            ("[session] first_input", session.map(|s| &s.first_input)),
            ("[session] new_input_per_turn", session.and_then(|s| s.new_input_per_turn.as_ref())),
            ("[session] growth_per_turn", session.and_then(|s| s.growth_per_turn.as_ref())),
            ("[session] opening", session.and_then(|s| s.opening.as_ref()).map(|o| &o.growth)),
            ("[session] compacted_input", session.and_then(|s| s.compacted_input.as_ref())),
            ("[session] turn_gap_s", session.and_then(|s| s.turn_gap_s.as_ref())),
            ("[session] think_time_s", session.and_then(|s| s.think_time_s.as_ref())),
            ("[prefix] shared_root", self.prefix.as_ref().and_then(|p| p.shared_root.as_ref())),
        ]
        .into_iter()
        .filter_map(|(key, dist)| Some((key, dist?)))
    }
}

const PRESETS: [(&str, &str); 6] = [
    ("chat", include_str!("../presets/chat.toml")),
    ("code", include_str!("../presets/code.toml")),
    ("summarization", include_str!("../presets/summarization.toml")),
    ("rag-long", include_str!("../presets/rag-long.toml")),
    ("agentic", include_str!("../presets/agentic.toml")),
    ("reasoning", include_str!("../presets/reasoning.toml")),
];

/// Name and description of every preset.
#[must_use]
pub fn presets() -> Vec<(String, String)> {
    PRESETS
        .iter()
        .filter_map(|(name, _)| preset(name))
        .map(|s| (s.0.name, s.0.description))
        .collect()
}

/// The preset of that name.
#[must_use]
pub fn preset(name: &str) -> Option<Spec> {
    let (name, toml) = PRESETS.iter().find(|(n, _)| n.eq_ignore_ascii_case(name))?;
    // A test parses each of them; they are part of the program.
    Spec::parse(name, toml).ok()
}
