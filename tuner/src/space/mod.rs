//! The configurations worth trying: the knobs that are searched, their values, and the ones the user fixed.
//!
//! Two levels keep the space rich and small. The *grid* is a cartesian product over the knobs that shape the curve
//! (policy, seats, token budget, prefix cache, KV format, layout over GPUs); the search covers it and exhaustive
//! search can list it. The *polish* knobs (block size, queue order, …) move the answer by little and are tried one
//! at a time around the winner. The values of both stand in the table of knobs ([`engine::config::Tries`]).
//! Combinations that mean the same thing are one configuration ([`canonical`]), and those that cannot work are refused
//! here with their reason counted, before anything is simulated.

mod ranks;

use crate::export;
use engine::config::{Policy, Tries};
use engine::{Config, EngineProfile, KNOBS, Knob, KnobError};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// The search space as asked for.
#[derive(Debug, Clone, PartialEq)]
pub struct Space {
    base: Config,
    pins: Vec<(String, String)>,
    values: BTreeMap<&'static str, Vec<String>>,
    /// Those of `values` that the user asked for.
    asked: BTreeMap<&'static str, Vec<String>>,
    scope: Scope,
    /// Most GPUs a configuration may take.
    pub gpus: u32,
    /// Most GPUs of one replica, where a configuration takes exactly `gpus`.
    per_replica: Option<u32>,
    /// The engine that it must be told to, where one is named.
    engine: Option<Arc<EngineProfile>>,
}

/// The result of enumeration.
#[derive(Debug, Clone, PartialEq)]
pub struct Enumerated {
    /// Every configuration once, in an order that depends on the space alone.
    pub configs: Vec<Config>,
    /// Reasons for refusal and how many combinations each cost.
    pub refused: Vec<(String, usize)>,
}

/// The facts that decide the default values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scope {
    /// Most GPUs a configuration may take.
    pub gpus: u32,
    /// True if fewer GPUs than that may win (tokens per GPU, cost) or not (requests/s).
    pub fewer_gpus: bool,
    /// True if prompts of the trace share beginnings that it identifies.
    pub shared_prefixes: bool,
    /// True if the user accepts KV formats that cost accuracy.
    pub allow_lossy_kv: bool,
    /// True if the model has experts, which ranks may share in several ways.
    pub experts: bool,
}

/// The knobs of the grid besides the layout, in the order they vary (the last fastest): all rows that are tried so.
const GRID: &[&str] = &["policy", "kv-dtype", "prefix-cache", "max-batch-tokens", "max-seqs"];

fn powers(from: u32, to: u32, step: usize) -> Vec<String> {
    (from..=to).step_by(step).map(|p| (1_u32 << p).to_string()).collect()
}

fn words(values: &[&str]) -> Vec<String> {
    values.iter().map(|value| (*value).to_owned()).collect()
}

impl Space {
    /// The default space for `scope`, nothing pinned.
    #[must_use]
    pub fn new(scope: Scope) -> Self {
        let mut values = BTreeMap::new();
        for knob in KNOBS {
            let tried = match knob.tries {
                Tries::Grid(values) => words(values),
                // Several GPUs multiply the grid by their layouts: coarser steps keep it at some hundreds.
                Tries::Powers { from, to } if scope.gpus > 1 => powers(from + 1, to, 2),
                Tries::Powers { from, to } => powers(from, to, 1),
                Tries::Asked | Tries::Layout | Tries::Around(_) => continue,
            };
            values.insert(knob.name, tried);
        }
        if scope.gpus == 1
            && let Some(policies) = values.get_mut("policy")
        {
            let split = |p: &Policy| p.scheduler().traits().disaggregates;
            policies.retain(|policy| !policy.parse().is_ok_and(|p| split(&p)));
        }
        if !scope.shared_prefixes {
            values.remove("prefix-cache");
        }
        if !scope.allow_lossy_kv {
            values.remove("kv-dtype");
        }
        if scope.fewer_gpus {
            values.insert("replicas", words(&["1"]));
        }
        let (base, pins, asked, gpus) =
            (Config::default(), Vec::new(), BTreeMap::new(), scope.gpus);
        Self { base, pins, values, asked, scope, gpus, per_replica: None, engine: None }
    }

    /// The same space from other defaults than those of [`Config`].
    #[must_use]
    pub fn from(self, base: Config) -> Self {
        Self { base, ..self }
    }

    /// The same space without what `engine` cannot be told.
    #[must_use]
    pub fn told_to(mut self, engine: Arc<EngineProfile>) -> Self {
        let base = self.base.clone();
        for (knob, values) in &mut self.values {
            values.retain(|value| {
                let mut config = base.clone();
                config.set(knob, value).is_ok()
                    && export::lacks(&engine, &canonical(&config)).is_empty()
            });
        }
        self.values.retain(|_, values| !values.is_empty());
        self.engine = Some(engine);
        self
    }

    /// Why `config` is not worth running whatever the model and device, if so.
    fn refuse(&self, config: &Config) -> Option<String> {
        refuse(config, self.gpus).or_else(|| {
            let engine = self.engine.as_ref()?;
            let missing = export::lacks(engine, config).into_iter().next()?;
            Some(format!("{} cannot be told {} {}", engine.title, missing.knob, missing.value))
        })
    }

    /// The same space of deployments that take exactly `gpus`: as many replicas as that makes, each
    /// of no more GPUs than this space allows. The bound on GPUs limits only the sizes of its
    /// replicas.
    #[must_use]
    pub fn sized(&self, gpus: u32) -> Self {
        let mut sized =
            Self::new(Scope { gpus, fewer_gpus: false, ..self.scope }).from(self.base.clone());
        if let Some(engine) = &self.engine {
            sized = sized.told_to(Arc::clone(engine));
        }
        sized.values.extend(self.asked.clone());
        let (base, pins, asked) = (self.base.clone(), self.pins.clone(), self.asked.clone());
        Self { base, pins, asked, per_replica: Some(self.gpus), ..sized }
    }

    /// Fixes a knob. Pinning `policy` fixes scheduler, allocator and (unless searched or pinned too) prefix cache.
    pub fn pin(&mut self, knob: &str, value: &str) -> Result<(), KnobError> {
        self.base.set(knob, value)?;
        self.pins.retain(|(k, _)| k != knob);
        self.pins.push((knob.to_owned(), value.to_owned()));
        Ok(())
    }

    /// Searches a knob over exactly these values.
    pub fn search(&mut self, knob: &str, values: &[&str]) -> Result<(), KnobError> {
        let known =
            Knob::named(knob).ok_or_else(|| KnobError::Unknown { name: knob.to_owned() })?;
        values.iter().try_for_each(|v| self.base.clone().set(knob, v))?;
        let values: Vec<String> = values.iter().map(|v| (*v).to_owned()).collect();
        self.asked.insert(known.name, values.clone());
        self.values.insert(known.name, values);
        Ok(())
    }

    /// Refuses a knob that the user fixed and that does nothing in any configuration of the space: it would be dropped.
    ///
    /// # Errors
    /// The first such knob.
    pub fn check(&self) -> Result<(), KnobError> {
        let configs = self.combinations();
        let mut pinned = self.pins.iter().filter_map(|(name, _)| Knob::named(name));
        pinned.try_for_each(|knob| knob.check_in(&configs))
    }

    /// True if the user fixed `knob`.
    #[must_use]
    pub fn pinned(&self, knob: &str) -> bool {
        self.pins.iter().any(|(k, _)| k == knob)
    }

    /// `knob = value, value, …` for each searched knob, then the pins: how a result describes its space.
    #[must_use]
    pub fn describe(&self) -> Vec<String> {
        let searched = self.values.iter().filter(|(k, _)| !self.pinned(k));
        searched
            .map(|(k, v)| format!("{k} in {}", v.join(", ")))
            .chain(self.pins.iter().map(|(k, v)| format!("{k} = {v} (pinned)")))
            .collect()
    }

    /// Every combination of values, as they are typed.
    fn combinations(&self) -> Vec<Config> {
        let mut configs = vec![self.base.clone()];
        for name in GRID {
            configs = self.vary(configs, name);
            if *name == "policy" {
                configs = configs.iter().flat_map(|c| self.layouts(c)).collect();
            }
        }
        // Knobs searched by request only, after the grid's own.
        let own = |name: &str| GRID.contains(&name) || layout().any(|knob| knob.name == name);
        for name in self.values.keys().filter(|name| !own(name)) {
            configs = self.vary(configs, name);
        }
        configs
    }

    /// The grid: every feasible configuration once.
    #[must_use]
    pub fn enumerate(&self) -> Enumerated {
        let mut configs = self.combinations();
        let mut seen = BTreeSet::new();
        let mut refused: BTreeMap<String, usize> = BTreeMap::new();
        configs.retain_mut(|c| {
            *c = canonical(c);
            if !seen.insert(key(c)) {
                return false;
            }
            let reason = self.refuse(c);
            let keep = reason.is_none();
            reason.into_iter().for_each(|r| *refused.entry(r).or_default() += 1);
            keep
        });
        Enumerated { configs, refused: refused.into_iter().collect() }
    }

    /// Feasible configurations that differ from `config` in one knob: the next lower and higher grid value (any other
    /// one for a choice), and the polish values; of a model with experts also other ways for the same ranks to share it.
    /// With the knob's name.
    #[must_use]
    pub fn neighbours(&self, config: &Config) -> Vec<(&'static str, Config)> {
        let mut seen = BTreeSet::from([key(config)]);
        let mut found = Vec::new();
        if self.scope.experts {
            let free = |(knob, c): &(&'static str, Config)| {
                let kept = |own: u32, other: u32, name| own == other || !self.fixed(name);
                !self.fixed(knob) && kept(config.tp, c.tp, "tp") && kept(config.ep, c.ep, "ep")
            };
            let moves = ranks::moves(config).into_iter().filter(free);
            let told = moves.filter(|(_, c)| self.refuse(c).is_none());
            found.extend(told.filter(|(_, c)| seen.insert(key(c))));
        }
        for knob in KNOBS.iter().filter(|k| !self.fixed(k.name)) {
            for value in self.nearby(config, knob) {
                let mut c = config.clone();
                let set = c.set(knob.name, &value);
                if knob.name == "policy" {
                    self.wake(&mut c, config);
                    self.repin(&mut c);
                }
                let c = canonical(&c);
                if set.is_ok() && self.refuse(&c).is_none() && seen.insert(key(&c)) {
                    found.push((knob.name, c));
                }
            }
        }
        found
    }

    /// A pinned knob is fixed, and a pinned policy fixes its parts.
    fn fixed(&self, knob: &str) -> bool {
        self.pinned(knob) || (self.pinned("policy") && ["scheduler", "allocator"].contains(&knob))
    }

    /// Values of `knob` next to the one `config` has.
    fn nearby(&self, config: &Config, knob: &Knob) -> Vec<String> {
        let current = config.value(knob);
        let asked = self.asked.contains_key(knob.name);
        let values = match (knob.tries, self.values.get(knob.name)) {
            // The grid takes every other power, so the powers between are near as well.
            (Tries::Powers { from, to }, _) if !asked => powers(from, to, 1),
            (_, Some(values)) => values.clone(),
            (Tries::Around(values), None) => words(values),
            (_, None) => return Vec::new(),
        };
        match (values.iter().position(|v| *v == current), knob.domain) {
            (Some(i), engine::config::Domain::Count { .. }) => {
                let around = [i.checked_sub(1), Some(i + 1)];
                around.into_iter().flatten().filter_map(|i| values.get(i).cloned()).collect()
            }
            _ => values.into_iter().filter(|v| *v != current).collect(),
        }
    }

    /// `configs` times the values of `knob`, unless it is fixed or not searched.
    fn vary(&self, configs: Vec<Config>, knob: &str) -> Vec<Config> {
        let Some(values) = self.values.get(knob).filter(|_| !self.fixed(knob)) else {
            return configs;
        };
        let with = |c: &Config, v: &String| {
            let mut c = c.clone();
            // Values were checked when they entered the space.
            c.set(knob, v).ok()?;
            if knob == "policy" {
                self.repin(&mut c);
            }
            Some(c)
        };
        configs.iter().flat_map(|c| values.iter().filter_map(|v| with(c, v))).collect()
    }

    /// Knobs that did nothing in `from` and do something in `config` take their defaults; the policy has set its own.
    fn wake(&self, config: &mut Config, from: &Config) {
        let own = ["scheduler", "allocator", "reserve", "prefix-cache"];
        let idle = KNOBS.iter().filter(|k| !k.applies(from) && !own.contains(&k.name));
        for knob in idle.filter(|k| k.applies(config)).collect::<Vec<_>>() {
            // Defaults are values of their knobs.
            let _ = config.set(knob.name, &self.base.value(knob));
        }
    }

    /// A policy sets several knobs; those the user fixed keep their values.
    fn repin(&self, config: &mut Config) {
        for (knob, value) in self.pins.iter().filter(|(k, _)| k != "policy") {
            // Checked when pinned.
            let _ = config.set(knob, value);
        }
    }

    /// `config` spread over the GPUs in every sensible way: TP and PP in powers of two, of a model with experts also
    /// attention by sequence over all ranks, as many replicas as fit (and one, where fewer GPUs may win), prefill : decode
    /// splits from 1:3 to 3:1.
    fn layouts(&self, config: &Config) -> Vec<Config> {
        let most = self.replica();
        let powers = || (0..).map(|p| 1_u32 << p).take_while(|n| *n <= most);
        let degree = |knob: &'static str, own: u32| -> Vec<u32> {
            let listed = self.values.get(knob).map(|v| v.iter().flat_map(|s| s.parse()).collect());
            if self.pinned(knob) { vec![own] } else { listed.unwrap_or_else(|| powers().collect()) }
        };
        let asked = |knob: &&str| self.pinned(knob) || self.values.contains_key(knob);
        let own_ranks = self.scope.experts && !["tp", "dp", "ep"].iter().any(asked);
        let mut found = Vec::new();
        for tp in degree("tp", config.tp) {
            for pp in degree("pp", config.pp) {
                let by_heads = Config { tp, pp, ..config.clone() };
                let by_sequence = ranks::by_sequence(&by_heads).filter(|_| own_ranks);
                for c in std::iter::once(by_heads).chain(by_sequence) {
                    found.extend(self.splits(&c).into_iter().flat_map(|c| self.copies(c)));
                }
            }
        }
        if self.per_replica.is_some() {
            found.retain(|c| c.gpus() == self.gpus && c.gpus() / c.replicas <= most);
            return found;
        }
        // A request of the user is refused with its reason; the rest is just not proposed.
        let asked = layout().any(|knob| self.pinned(knob.name));
        found.retain(|c| asked || c.gpus() <= self.gpus);
        found
    }

    /// Most GPUs of a deployment.
    #[must_use]
    pub fn most_gpus(&self) -> u32 {
        self.gpus
    }

    /// Most GPUs of one replica.
    fn replica(&self) -> u32 {
        self.per_replica.map_or(self.gpus, |most| most.min(self.gpus))
    }

    /// Prefill : decode splits of a disaggregated replica.
    fn splits(&self, config: &Config) -> Vec<Config> {
        if !config.scheduler.traits().disaggregates {
            return vec![config.clone()];
        }
        let workers = self.replica() / (config.tp * config.pp);
        let total = if workers >= 4 { vec![2, workers] } else { vec![workers.max(2)] };
        let mut splits = BTreeSet::new();
        for n in total {
            let quarter = |q: u32| (n * q / 4).clamp(1, n - 1);
            splits.extend([1, 2, 3].map(|q| (quarter(q), n - quarter(q))));
        }
        let pinned = |knob, own, value| if self.pinned(knob) { own } else { value };
        let with = |(p, d)| Config {
            prefill_workers: pinned("prefill-workers", config.prefill_workers, p),
            decode_workers: pinned("decode-workers", config.decode_workers, d),
            ..config.clone()
        };
        splits.into_iter().map(with).collect()
    }

    /// As many replicas as the GPUs allow, and the numbers asked for.
    fn copies(&self, config: Config) -> Vec<Config> {
        if self.pinned("replicas") {
            return vec![config];
        }
        let replica = config.gpus() / config.replicas;
        let most = (self.gpus / replica).max(1);
        let listed = self.values.get("replicas").into_iter().flatten();
        let counts: BTreeSet<u32> =
            listed.flat_map(|s| s.parse()).filter(|n| *n <= most).chain([most]).collect();
        counts.into_iter().map(|replicas| Config { replicas, ..config.clone() }).collect()
    }
}

/// The knobs that spread a configuration over GPUs.
fn layout() -> impl Iterator<Item = &'static Knob> {
    KNOBS.iter().filter(|knob| knob.tries == Tries::Layout)
}

/// The same configuration with every knob that does nothing in it at rest, so that equal ones are equal.
#[must_use]
pub fn canonical(config: &Config) -> Config {
    config.canonical()
}

/// The identity of a configuration for ever: its knobs that differ from their defaults, as they would be typed.
#[must_use]
pub fn key(config: &Config) -> String {
    let d = Config::default();
    let differ = |k: &&Knob| k.name != "policy" && config.value(k) != d.value(k);
    let parts = KNOBS.iter().filter(differ).map(|k| format!("{}={}", k.name, config.value(k)));
    parts.collect::<Vec<_>>().join(" ")
}

/// Its name among people: its policy and the knobs that matter most.
#[must_use]
pub fn label(config: &Config) -> String {
    let always = ["max-seqs", "max-batch-tokens"];
    // Planning ahead is what engines do.
    let d = Config { async_scheduling: true, ..Config::default() };
    let mut preset = d.clone();
    preset.set_policy(config.policy());
    let mut text = config.policy().to_string();
    for knob in KNOBS.iter().filter(|k| k.name != "policy") {
        let value = config.value(knob);
        let parts = ["scheduler", "allocator", "reserve", "prefix-cache"];
        let usual = if parts.contains(&knob.name) { preset.value(knob) } else { d.value(knob) };
        let idle = knob.name == "async-scheduling" && !knob.applies(config);
        if always.contains(&knob.name) || (value != usual && !idle) {
            text.push_str(&format!(" {} {value}", knob.name));
        }
    }
    text
}

/// The reason why a configuration is not worth running whatever the model and device, if so.
#[must_use]
pub fn refuse(config: &Config, gpus: u32) -> Option<String> {
    if config.gpus() > gpus {
        let takes = config.gpus();
        return Some(format!("it takes {takes} GPUs, and {gpus} may be used: try --gpus {takes}"));
    }
    if config.max_batch_tokens < config.max_seqs {
        let reason = "max-batch-tokens below max-seqs: not every running sequence could decode";
        return Some(reason.to_owned());
    }
    None
}

#[cfg(test)]
mod tests;
