//! Why a configuration holds no more than it does, checked: a cause counts only if taking it away raises capacity.
//!
//! The run just above the knee says what gave way (a target, or the backlog) and what was scarce meanwhile (seats,
//! KV, the token budget, …). Each suspicion names a change that removes it: another value of a knob, or a
//! [`Relax`]ed device. The change is run: first at a rate 3 % above the old capacity, then, if that holds, to its
//! new knee. Hardware is suspected only where no choice of configuration explains anything, because a faster device
//! always helps. If nothing helps, the answer is "unexplained".

use crate::knee::verdict;
use crate::knee::{Effort, FLOOR, Knee, Probe, Prober, rate_at};
use crate::result::{self, Attribution, broke};
use crate::share::percent;
use crate::space;
use crate::subject::observation::Observation;
use crate::subject::{Relax, Stop, Subject};
use engine::Config;
use engine::config::{AllocatorKind, Reserve, SchedulerKind};
use loadgen::{Judged, Span};
use rayon::prelude::*;
use std::sync::atomic::AtomicBool;

/// A capacity must rise by so many grid steps (3 %) for a cause to count.
pub const RISE: i32 = 3;

/// The precision of attributions and sensitivities: 2 % of the rate.
pub const LOOK: Effort = Effort { resolution: 2, stride: 16, ..Effort::COLD };

/// A configuration, where it runs, and what is known of it there.
#[derive(Clone, Copy)]
pub struct Case<'a> {
    /// Runs it.
    pub subject: &'a dyn Subject,
    /// The configuration.
    pub config: &'a Config,
    /// Runs made of it; those of another head are ignored.
    pub known: &'a [Probe],
    /// A place to begin looking for its knee.
    pub start: i32,
}

/// The knee of a case on one head, and what gave way above it.
#[derive(Debug, Clone)]
pub struct Measured {
    /// Highest place that holds; none if nowhere.
    pub good: Option<i32>,
    /// The target that gave way at the lowest failure, or the backlog.
    pub broke: String,
    /// New runs made.
    pub probes: Vec<Probe>,
    failing: Option<Observation>,
}

impl Measured {
    /// Requests/s; 0 if nowhere.
    #[must_use]
    pub fn rate(&self) -> f64 {
        self.good.map_or(0.0, rate_at)
    }
}

/// Finds the knee of `case` on the first `head` requests.
pub fn measure(case: &Case<'_>, head: usize, cancel: &AtomicBool) -> Result<Measured, Stop> {
    let prober = Prober::new(case.subject, case.config, Relax::Nothing, head, cancel)?;
    let mut prober = prober.knowing(case.known);
    let knee = prober.knee(case.start, LOOK)?;
    let mut probes = prober.into_probes();
    let good = match knee {
        Knee::Between { lo, .. } => Some(lo),
        Knee::Nowhere => None,
    };
    let failing = probes.iter().find(|p| !p.passes()).map(|p| p.observation.clone());
    let broke = failing.as_ref().map_or_else(|| "nothing, up to its ceiling".to_owned(), broke);
    probes.retain(|p| !case.known.iter().any(|k| (k.head, k.k) == (p.head, p.k)));
    Ok(Measured { good, broke, probes, failing })
}

/// The way to take a suspected cause away.
#[derive(Debug, Clone, PartialEq)]
enum Change {
    Config(Config),
    Device(Relax),
}

/// A cause that may explain a knee.
#[derive(Debug, Clone, PartialEq)]
struct Suspicion {
    cause: &'static str,
    evidence: String,
    change: Change,
}

/// Checks every suspicion about `case`, whose knee on `head` is `measured`; the most telling first. `winner` is what
/// it lost to, `gpus` bounds what changes may take.
pub fn attribute(
    case: &Case<'_>,
    measured: &Measured,
    winner: &Config,
    head: usize,
    gpus: u32,
    cancel: &AtomicBool,
) -> Vec<Attribution> {
    let Some(failing) = &measured.failing else { return Vec::new() };
    let mut checked = Vec::new();
    let choices = choices(case.config, failing, winner, gpus);
    for suspicions in [choices, hardware(case.config, failing)] {
        let check = |s: &Suspicion| check(s, case, measured.good, head, cancel);
        let found: Vec<_> = suspicions.par_iter().map(check).collect();
        checked.extend(found.into_iter().flatten());
        if checked.iter().any(|a: &Attribution| a.confirmed) {
            break;
        }
    }
    // Stable: of equal gains the better evidence stays first.
    checked.sort_by(|a, b| b.after_rps.total_cmp(&a.after_rps));
    checked
}

/// Runs the change. None if it cannot run, or the search was cancelled: then nothing is claimed.
fn check(
    suspicion: &Suspicion,
    case: &Case<'_>,
    good: Option<i32>,
    head: usize,
    cancel: &AtomicBool,
) -> Option<Attribution> {
    let (config, relax, relaxed) = match &suspicion.change {
        Change::Config(c) => (c, Relax::Nothing, differences(case.config, c)),
        Change::Device(r) => (case.config, *r, format!("{} doubled", r.name())),
    };
    let mut prober = Prober::new(case.subject, config, relax, head, cancel).ok()?;
    let bar = good.map_or(FLOOR, |k| k + RISE);
    let after = match prober.is_up_to(bar).ok()? {
        false => good,
        true => match prober.knee(bar, LOOK).ok()? {
            Knee::Between { lo, .. } => Some(lo),
            Knee::Nowhere => good,
        },
    };
    let confirmed = after > good;
    let rate = |k: Option<i32>| k.map_or(0.0, rate_at);
    Some(Attribution {
        cause: suspicion.cause.to_owned(),
        evidence: suspicion.evidence.clone(),
        relaxed,
        before_rps: rate(good),
        after_rps: rate(if confirmed { after } else { good }),
        confirmed,
    })
}

/// `knob a to b` for every knob that differs.
fn differences(from: &Config, to: &Config) -> String {
    let differ = |k: &&engine::Knob| k.name != "policy" && from.value(k) != to.value(k);
    let knobs = engine::KNOBS.iter().filter(differ);
    let text = knobs.map(|k| format!("{} {} to {}", k.name, from.value(k), to.value(k)));
    text.collect::<Vec<_>>().join(", ")
}

/// Collects suspicions about one configuration.
struct Suspicions<'a> {
    config: &'a Config,
    failing: &'a Observation,
    winner: &'a Config,
    gpus: u32,
    found: Vec<Suspicion>,
}

/// The causes that another configuration could take away, judging by a failing run.
fn choices(config: &Config, failing: &Observation, winner: &Config, gpus: u32) -> Vec<Suspicion> {
    let mut all = Suspicions { config, failing, winner, gpus, found: Vec::new() };
    all.batches();
    all.seats_and_memory();
    all.budget();
    all.interference();
    all.layout();
    all.found
}

impl Suspicions<'_> {
    /// Suspects `cause`, taken away by another configuration; not if that is none, or cannot be.
    fn suspect(&mut self, cause: &'static str, evidence: String, edit: impl FnOnce(&mut Config)) {
        let mut c = self.config.clone();
        edit(&mut c);
        let c = space::canonical(&c);
        let possible = space::refuse(&c, self.gpus).is_none() && result::settable(&c);
        if c != *self.config && possible {
            self.found.push(Suspicion { cause, evidence, change: Change::Config(c) });
        }
    }

    /// The first target that broke, of those on latencies whose span is one of `of`.
    fn broken(&self, of: fn(Span) -> bool) -> Option<String> {
        let targets = &self.failing.summary.verdict.targets;
        let broke = |t: &&Judged| of(t.target.metric.span()) && verdict::used(t) > 1.0;
        targets.iter().find(broke).map(result::against)
    }

    fn batches(&mut self) {
        if !self.config.scheduler.traits().closes_batches {
            return;
        }
        let evidence = "newcomers wait until the last member of the batch ends".to_owned();
        self.suspect("batch formation", evidence, |c| c.scheduler = SchedulerKind::Continuous);
        let w = &self.failing.work();
        let padded = w.tokens_padded as f64 / w.tokens_executed.max(1) as f64;
        if self.config.padding && padded > 0.01 {
            let evidence = format!("{} of the tokens computed are padding", percent(padded));
            self.suspect("padding", evidence, |c| c.padding = false);
        }
    }

    fn seats_and_memory(&mut self) {
        let w = self.failing.work();
        if w.refused_seats > 0.005 {
            let evidence =
                format!("the queue's head lacked a seat {} of the time", percent(w.refused_seats));
            self.suspect("queueing for a seat", evidence, |c| {
                c.max_seqs *= 2;
                c.max_batch_tokens = c.max_batch_tokens.max(c.max_seqs);
            });
        }
        if w.refused_kv > 0.005 || w.preemptions > 0 {
            let evidence = format!(
                "the queue's head lacked KV memory {} of the time, {} preemptions",
                percent(w.refused_kv),
                w.preemptions
            );
            let config = self.config;
            if config.allocator == AllocatorKind::Contiguous && config.reserve != Reserve::Oracle {
                let waste = self.failing.kv().waste_percent();
                let evidence = format!("{evidence}, {waste:.0} % of the KV taken is waste");
                self.suspect("KV reservation", evidence, |c| c.allocator = AllocatorKind::Paged);
            }
            let change = Change::Device(Relax::KvMemory);
            self.found.push(Suspicion { cause: "KV memory", evidence, change });
        }
        if self.config.allocator == AllocatorKind::Paged && !self.config.prefix_cache {
            let evidence = "shared beginnings of prompts are computed again".to_owned();
            self.suspect("no prefix cache", evidence, |c| c.prefix_cache = true);
        }
    }

    fn budget(&mut self) {
        let full = self.failing.work().full_budget;
        if full > 0.02 || self.broken(|span| span == Span::Start).is_some() {
            let evidence =
                format!("{} of busy time in iterations that fill the budget", percent(full));
            self.suspect("token budget too small", evidence, |c| c.max_batch_tokens *= 2);
        }
        let best = self.winner.max_batch_tokens;
        if best < self.config.max_batch_tokens {
            let lower = |c: &mut Config| c.max_batch_tokens = best.max(c.max_seqs);
            self.suspect("token budget too large", broke(self.failing), lower);
        }
    }

    fn interference(&mut self) {
        if let Some(said) = self.broken(|span| span != Span::Start) {
            let cause = "prefill interference";
            let traits = self.config.scheduler.traits();
            if traits.mixes {
                self.suspect(cause, said.clone(), |c| c.max_batch_tokens /= 2);
            } else if !traits.chunks_prompts && !traits.closes_batches {
                let chunked = |c: &mut Config| c.scheduler = SchedulerKind::Chunked;
                self.suspect(cause, said.clone(), chunked);
            }
            self.suspect("too many sequences at once", said, |c| c.max_seqs /= 2);
        }
        let ttft = self.broken(|span| span == Span::Start);
        if let Some(said) = ttft.filter(|_| self.config.scheduler.traits().mixes) {
            let winner = self.winner;
            self.suspect("prompts wait behind decodes", said, |c| {
                c.scheduler = SchedulerKind::Continuous;
                // Whole prompts want another budget than chunks do: the winner's, where it runs them.
                if winner.scheduler == c.scheduler {
                    c.max_batch_tokens = winner.max_batch_tokens.max(c.max_seqs);
                }
            });
        }
    }

    fn layout(&mut self) {
        let (config, winner) = (self.config, self.winner);
        let evidence = broke(self.failing);
        let split = |c: &Config| c.scheduler.traits().disaggregates;
        if !split(config) && !split(winner) && (config.tp, config.pp) != (winner.tp, winner.pp) {
            self.suspect("layout over GPUs", evidence.clone(), |c| {
                (c.tp, c.pp, c.replicas) = (winner.tp, winner.pp, winner.replicas);
            });
        }
        if split(config) {
            let (workers, prefill) = (config.workers(), config.prefill_workers);
            for (cause, prefill) in
                [("too few decode workers", prefill - 1), ("too few prefill workers", prefill + 1)]
            {
                if (1..workers).contains(&prefill) {
                    self.suspect(cause, evidence.clone(), |c| {
                        (c.prefill_workers, c.decode_workers) = (prefill, workers - prefill);
                    });
                }
            }
        }
    }
}

/// The causes that a faster device could take away.
fn hardware(config: &Config, failing: &Observation) -> Vec<Suspicion> {
    let busy = format!("workers busy {} of the time", percent(failing.work().busy));
    let suspect =
        |cause, relax| Suspicion { cause, evidence: busy.clone(), change: Change::Device(relax) };
    let mut found = vec![
        suspect("memory bandwidth", Relax::Bandwidth),
        suspect("compute", Relax::Compute),
        suspect("host overhead", Relax::Host),
    ];
    if config.gpus() > config.replicas {
        found.insert(0, suspect("communication between GPUs", Relax::Interconnect));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::subject::fake::Fake;

    static GO_ON: AtomicBool = AtomicBool::new(false);

    fn why(fake: &Fake, config: &Config) -> (Measured, Vec<Attribution>) {
        let config = space::canonical(config);
        let case = Case { subject: fake, config: &config, known: &[], start: 200 };
        let measured = measure(&case, fake.requests, &GO_ON).unwrap();
        let checked = attribute(&case, &measured, &config, fake.requests, 8, &GO_ON);
        (measured, checked)
    }

    fn first(checked: &[Attribution]) -> Option<&str> {
        checked.first().filter(|a| a.confirmed).map(|a| a.cause.as_str())
    }

    #[test]
    fn too_few_seats_are_named_and_more_of_them_help() {
        let fake = Fake::new(&["ttft=1s"]);
        let config = Config { max_seqs: 8, max_batch_tokens: 8192, ..Config::default() };
        let (measured, checked) = why(&fake, &config);
        assert_eq!(first(&checked), Some("queueing for a seat"));
        assert!(checked[0].after_rps > 1.5 * measured.rate());
        assert!(checked[0].relaxed.starts_with("max-seqs 8 to 16"), "{}", checked[0].relaxed);
    }

    #[test]
    fn reserved_kv_is_told_from_too_little_kv() {
        let fake = Fake { kv_slots: 30_000.0, ..Fake::new(&["ttft=1s"]) };
        let mut config = Config { max_seqs: 256, max_batch_tokens: 8192, ..Config::default() };
        config.set("policy", "continuous").unwrap();
        assert_eq!(first(&why(&fake, &config).1), Some("KV reservation"));
        config.set("policy", "paged").unwrap();
        assert_eq!(first(&why(&fake, &config).1), Some("KV memory"));
    }

    #[test]
    fn a_suspicion_that_does_not_help_is_not_confirmed() {
        // Bound by bandwidth alone: doubling seats or budget changes nothing.
        let fake = Fake { kv_slots: 4e7, ..Fake::new(&[]) };
        let config = Config { max_seqs: 8192, max_batch_tokens: 16384, ..Config::default() };
        let (measured, checked) = why(&fake, &config);
        for a in &checked {
            assert_eq!(a.confirmed, a.after_rps > 1.02 * measured.rate(), "{a:?}");
        }
        assert!(matches!(first(&checked), Some("memory bandwidth" | "compute")), "{checked:?}");
    }
}
