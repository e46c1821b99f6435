//! Which configuration to run next: screening on a part of the trace, racing on more of it, proof on all of it.
//!
//! Capacity costs some ten runs of the trace; a discard costs one run of a part of it. So: *successive halving* over
//! the head of the trace, and on each head a *race*: a candidate is first tried at the rate that the best of its
//! group holds, less a margin that shrinks as heads grow. Failing there ends it. What survives is measured on the
//! next head; on the whole trace the margin is zero and only what beats the best by a grid step is measured fully.
//! A group (policy on a device) races against itself only, so that each policy is known at its best.
//!
//! Work proceeds in waves whose members depend on earlier results only, never on timing, so that every number of
//! threads makes the same runs. [`exhaustive`] measures everything (the oracle for regret), [`random`] what fits in
//! a given amount of work.

use crate::capacity::{Effort, FLOOR, Knee, Probe, Prober, Stop, place_of, rate_at};
use crate::evaluate::{Evaluate, Refused, Relax};
use crate::progress::{Status, Watch};
use crate::{space, verdict};
use engine::Config;
use rayon::prelude::*;

/// A configuration on a device, and what a request/s of it is worth.
#[derive(Debug, Clone, PartialEq)]
pub struct Candidate {
    /// Index into [`Contest::devices`].
    pub device: usize,
    /// The configuration, canonical.
    pub config: Config,
    /// Objective per request/s: score = rate x weight. Positive.
    pub weight: f64,
    /// Candidates race within their group.
    pub group: usize,
}

/// What became of a candidate.
#[derive(Debug, Clone, PartialEq)]
pub enum Standing {
    /// Not reached (interrupted, or the work allowed was spent).
    Untried,
    /// Cannot run.
    Refused(Refused),
    /// Its roofline bound is below what the group's best holds: never run.
    OutOfReach,
    /// Misses the SLO on an empty machine.
    Infeasible,
    /// Missed the SLO at a rate where the best of its group, less the margin, holds it.
    Beaten,
    /// Behaved to the nanosecond as that entry did, at a rate that holds and one that fails: the other one went on.
    Twin(usize),
    /// Went on to the end, or was measured as far as the search came.
    Measured,
}

/// A candidate and everything known about it.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// The candidate.
    pub candidate: Candidate,
    /// What became of it.
    pub standing: Standing,
    /// Everything tried, over all heads.
    pub probes: Vec<Probe>,
    /// Its knee on the largest head where it was bracketed, and that head.
    pub knee: Option<(usize, Knee)>,
}

impl Entry {
    /// The highest passing rate of the whole of `head`, if bracketed there.
    #[must_use]
    pub fn good(&self, head: usize) -> Option<i32> {
        match self.knee {
            Some((h, Knee::Between { lo, .. })) if h == head => Some(lo),
            _ => None,
        }
    }

    /// The probe of `head` at `k`.
    #[must_use]
    pub fn probe(&self, head: usize, k: i32) -> Option<&Probe> {
        self.probes.iter().find(|p| p.head == head && p.k == k)
    }
}

/// What a search found.
#[derive(Debug, Clone, PartialEq)]
pub struct Found {
    /// Every candidate, in the order given.
    pub entries: Vec<Entry>,
    /// The head on which winners are known: the whole trace unless interrupted.
    pub head: usize,
    /// Best of each group, by group; `None` where nothing holds the SLO.
    pub group_best: Vec<Option<usize>>,
    /// Best of all.
    pub best: Option<usize>,
    /// Whether it was told to end before its time.
    pub interrupted: bool,
}

impl Found {
    /// Of everything that missed the SLO on an empty machine, the run that came closest: its candidate, and the run.
    #[must_use]
    pub fn nearest_miss(&self) -> Option<(usize, &Probe)> {
        let floors = self.entries.iter().enumerate().filter_map(|(i, e)| {
            let floor = e.probes.iter().filter(|p| p.k == FLOOR && !p.passes());
            Some((i, floor.max_by_key(|p| p.head)?))
        });
        // Only runs of the same head compare.
        floors.min_by(|a, b| {
            let worst = |p: &Probe| verdict::worst(&p.observation);
            b.1.head.cmp(&a.1.head).then(worst(a.1).total_cmp(&worst(b.1)))
        })
    }

    /// Runs made.
    #[must_use]
    pub fn trials(&self) -> u64 {
        self.entries.iter().map(|e| e.probes.len() as u64).sum()
    }

    /// Requests simulated.
    #[must_use]
    pub fn requests(&self) -> u64 {
        self.entries.iter().flat_map(|e| &e.probes).map(|p| p.observation.summary.requests).sum()
    }
}

/// Who takes part, and where.
pub struct Contest<'a> {
    /// One evaluation per device; all replay the same trace.
    pub devices: &'a [&'a dyn Evaluate],
    /// Who takes part.
    pub candidates: Vec<Candidate>,
    /// Whom to tell, and when to end.
    pub watch: Watch<'a>,
}

/// One head of the halving.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rung {
    /// Share of the trace.
    pub share: f64,
    /// How far below the group's best a survivor may be, grid steps.
    pub margin: i32,
    /// Most survivors per group.
    pub keep: usize,
}

/// Heads shorter than this are not worth a rung: their percentiles say nothing.
const SHORTEST_HEAD: usize = 400;

/// The default schedule. Short heads flatter what fills up slowly (seats, KV), hence wide margins at first.
pub const RUNGS: &[Rung] = &[
    Rung { share: 0.125, margin: 36, keep: 48 },
    Rung { share: 0.25, margin: 22, keep: 24 },
    Rung { share: 0.5, margin: 10, keep: 12 },
    Rung { share: 1.0, margin: 0, keep: usize::MAX },
];

/// Candidates of one group in a wave: with a best to race against, and without.
const WAVE: (usize, usize) = (8, 4);

struct Race<'a, 'c> {
    contest: &'a Contest<'c>,
    entries: Vec<Entry>,
    /// Best of each group at the head being run: entry and place.
    best: Vec<Option<(usize, i32)>>,
    groups: usize,
}

/// What one task of a wave is to do.
#[derive(Debug, Clone, Copy)]
struct Task {
    entry: usize,
    head: usize,
    /// Where to begin if there is nobody to race against.
    start: i32,
    /// The place that must be passed to stay, and the one that beats the best.
    rivals: Option<(i32, i32)>,
    effort: Effort,
}

/// What a task found out: `knee` only where it was bracketed.
struct Report {
    standing: Standing,
    knee: Option<Knee>,
    probes: Vec<Probe>,
}

/// Successive halving over `rungs` with a race on each.
#[must_use]
pub fn halving(contest: &Contest<'_>, rungs: &[Rung]) -> Found {
    Race::new(contest).halve(rungs)
}

/// As [`halving`], where the first candidate is `known` from an earlier search on the same trace.
#[must_use]
pub(crate) fn halving_from(contest: &Contest<'_>, rungs: &[Rung], known: &Entry) -> Found {
    let mut race = Race::new(contest);
    if let Some(first) = race.entries.first_mut() {
        (first.probes, first.knee, first.standing) =
            (known.probes.clone(), known.knee, known.standing.clone());
    }
    race.halve(rungs)
}

/// Measures every candidate on the whole trace.
#[must_use]
pub fn exhaustive(contest: &Contest<'_>) -> Found {
    let order: Vec<usize> = (0..contest.candidates.len()).collect();
    measure_all(contest, &order, u64::MAX)
}

/// Measures candidates drawn uniformly without replacement until `work` requests were simulated.
#[must_use]
pub fn random(contest: &Contest<'_>, seed: u64, work: u64) -> Found {
    let mut order: Vec<usize> = (0..contest.candidates.len()).collect();
    // A hash per candidate is a uniform permutation that needs no state.
    order.sort_by_key(|i| splitmix(seed ^ splitmix(*i as u64)));
    measure_all(contest, &order, work)
}

fn splitmix(mut x: u64) -> u64 {
    x = x.wrapping_add(0x9E37_79B9_7F4A_7C15);
    x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    x ^ (x >> 31)
}

fn measure_all(contest: &Contest<'_>, order: &[usize], work: u64) -> Found {
    let head = contest.devices.first().map_or(0, |d| d.requests());
    let mut race = Race::new(contest);
    let (mut spent, mut done) = (0, 0);
    for wave in order.chunks(WAVE.0) {
        if spent >= work || contest.watch.cancelled() {
            break;
        }
        let tasks: Vec<Task> = wave.iter().map(|i| race.measure(*i, head, Effort::FINAL)).collect();
        spent += race.run(&tasks);
        done += wave.len();
        race.tell("measuring every configuration", head, done, order.len());
    }
    race.finish(head)
}

impl<'a, 'c> Race<'a, 'c> {
    fn new(contest: &'a Contest<'c>) -> Self {
        let groups = contest.candidates.iter().map(|c| c.group + 1).max().unwrap_or(0);
        let entry = |c: &Candidate| Entry {
            candidate: c.clone(),
            standing: Standing::Untried,
            probes: Vec::new(),
            knee: None,
        };
        let entries = contest.candidates.iter().map(entry).collect();
        Self { contest, entries, best: vec![None; groups], groups }
    }

    fn evaluate(&self, entry: usize) -> &'c dyn Evaluate {
        self.contest.devices[self.entries[entry].candidate.device]
    }

    fn halve(mut self, rungs: &[Rung]) -> Found {
        let all = self.contest.devices.first().map_or(0, |d| d.requests());
        let mut head = all;
        for rung in rungs {
            let share = ((all as f64 * rung.share).round() as usize).min(all);
            if share < SHORTEST_HEAD && rung.share < 1.0 {
                continue;
            }
            if self.contest.watch.cancelled() {
                break;
            }
            head = share;
            self.rung(head, rung);
        }
        self.finish(head)
    }

    /// Runs everybody who is left on `head` and thins them out.
    fn rung(&mut self, head: usize, rung: &Rung) {
        let last = rung.margin == 0;
        if last {
            (0..self.groups).for_each(|g| self.revive(g));
        }
        self.best = vec![None; self.groups];
        let mut queues: Vec<Vec<usize>> = (0..self.groups).map(|g| self.queue(g)).collect();
        let total = queues.iter().map(Vec::len).sum();
        let mut done = 0;
        while queues.iter().any(|q| !q.is_empty()) && !self.contest.watch.cancelled() {
            let mut tasks = Vec::new();
            for (group, queue) in queues.iter_mut().enumerate() {
                let n = match self.best[group] {
                    Some(_) => WAVE.0,
                    None if done == 0 => 1,
                    None => WAVE.1,
                };
                let chosen = queue.drain(..n.min(queue.len()));
                tasks.extend(chosen.map(|i| self.task(i, head, rung.margin)));
            }
            self.run(&tasks);
            done += tasks.len();
            if !last && self.head_is_too_short(head) {
                return;
            }
            let phase = if last { "proving on the whole trace" } else { "screening" };
            self.tell(phase, head, done, total);
        }
        if !self.contest.watch.cancelled() {
            (0..self.groups).for_each(|g| self.thin(g, head, rung));
        }
    }

    /// Whether the best so far would go further if only there were more requests: then this head cannot tell them apart.
    fn head_is_too_short(&self, head: usize) -> bool {
        self.best.iter().flatten().any(|(i, _)| {
            let entry = &self.entries[*i];
            let Some((_, Knee::Between { hi: Some(hi), .. })) = entry.knee else { return false };
            entry.probe(head, hi).is_some_and(|p| verdict::too_short(&p.observation))
        })
    }

    /// A short head cannot prove that the whole trace is infeasible: where nobody is left, whoever came closest on an
    /// empty machine is measured on all of it.
    fn revive(&mut self, group: usize) {
        if !self.queue(group).is_empty() {
            return;
        }
        let miss = |i: &usize| {
            let floors = self.entries[*i].probes.iter().filter(|p| p.k == FLOOR);
            floors.map(|p| verdict::worst(&p.observation)).next_back()
        };
        let members = (0..self.entries.len()).filter(|i| {
            let e = &self.entries[*i];
            e.candidate.group == group && e.standing == Standing::Infeasible
        });
        let nearest =
            members.filter_map(|i| Some((i, miss(&i)?))).min_by(|a, b| a.1.total_cmp(&b.1));
        if let Some((i, _)) = nearest {
            self.entries[i].standing = Standing::Untried;
        }
    }

    /// Members of a group that are still in, the most promising first.
    fn queue(&self, group: usize) -> Vec<usize> {
        let alive = |e: &Entry| matches!(e.standing, Standing::Untried | Standing::Measured);
        let mut queue: Vec<usize> = (0..self.entries.len())
            .filter(|i| self.entries[*i].candidate.group == group && alive(&self.entries[*i]))
            .collect();
        queue.sort_by_cached_key(|i| {
            let entry = &self.entries[*i];
            let known = match entry.knee {
                Some((_, Knee::Between { lo, hi })) => (lo, hi.unwrap_or(i32::MAX)),
                _ => (0, 0),
            };
            let score = |k: i32| place_of(rate_at(k) * entry.candidate.weight);
            let prior = (256.0 * habit(&entry.candidate.config)) as i64;
            (std::cmp::Reverse((score(known.0), known.1)), prior, *i)
        });
        queue
    }

    fn task(&self, entry: usize, head: usize, margin: i32) -> Task {
        let e = &self.entries[entry];
        let Some((rival, k)) = self.best[e.candidate.group] else {
            let effort = if margin == 0 { Effort::FINAL } else { Effort::WARM };
            return self.measure(entry, head, effort);
        };
        let beat = beats(k, self.entries[rival].candidate.weight, e.candidate.weight);
        let effort = if margin == 0 { Effort::FINAL } else { Effort::WARM };
        Task { entry, head, start: beat, rivals: Some((beat - margin, beat)), effort }
    }

    /// A task without rivals, starting from the best guess: its own knee, the best of its group or of all, half its
    /// ceiling.
    fn measure(&self, entry: usize, head: usize, effort: Effort) -> Task {
        let e = &self.entries[entry];
        let own = match e.knee {
            Some((_, Knee::Between { lo, .. })) => Some(lo),
            _ => None,
        };
        let group = self.best[e.candidate.group].map(|(_, k)| k);
        let known = own.or(group).or_else(|| self.best.iter().flatten().map(|(_, k)| *k).max());
        let ceiling = || self.evaluate(entry).ceiling(&e.candidate.config).unwrap_or(1.0);
        let (start, stride) = match known {
            Some(k) => (k, effort.stride),
            None => (place_of(ceiling().clamp(1e-3, 1e6) / 2.0), Effort::COLD.stride),
        };
        Task { entry, head, start, rivals: None, effort: Effort { stride, ..effort } }
    }

    /// Runs a wave in parallel and applies what it found in order. Returns the requests simulated.
    fn run(&mut self, tasks: &[Task]) -> u64 {
        let shared = &*self;
        let reports: Vec<Report> =
            tasks.par_iter().with_max_len(1).map(|t| shared.perform(t)).collect();
        let mut work = 0;
        for (task, report) in tasks.iter().zip(reports) {
            let entry = &mut self.entries[task.entry];
            entry.standing = report.standing;
            for probe in report.probes {
                if entry.probe(probe.head, probe.k).is_none() {
                    work += probe.observation.summary.requests;
                    entry.probes.push(probe);
                }
            }
            if let Some(knee) = report.knee {
                entry.knee = Some((task.head, knee));
            }
            if let Some(k) = entry.good(task.head) {
                self.lead(task.entry, k);
            }
        }
        work
    }

    /// Notes that `entry` holds the SLO at `k`.
    fn lead(&mut self, entry: usize, k: i32) {
        let c = &self.entries[entry].candidate;
        let leads = match self.best[c.group] {
            None => true,
            Some((rival, at)) => k >= beats(at, self.entries[rival].candidate.weight, c.weight),
        };
        if leads {
            self.best[c.group] = Some((entry, k));
        }
    }

    fn perform(&self, task: &Task) -> Report {
        let entry = &self.entries[task.entry];
        let prober = Prober::new(
            self.evaluate(task.entry),
            &entry.candidate.config,
            Relax::Nothing,
            task.head,
            self.contest.watch.cancel,
        );
        let mut prober = match prober {
            Ok(prober) => prober.knowing(&entry.probes),
            Err(stop) => return Report::stopped(stop, &entry.standing, Vec::new()),
        };
        match attempt(&mut prober, task) {
            Ok((standing, knee)) => Report { standing, knee, probes: prober.into_probes() },
            Err(stop) => Report::stopped(stop, &entry.standing, prober.into_probes()),
        }
    }

    /// After a rung: drops whoever is known to be below the final best less the margin, then twins, then the tail of
    /// the rest.
    fn thin(&mut self, group: usize, head: usize, rung: &Rung) {
        let Some((rival, k)) = self.best[group] else { return };
        let weight = self.entries[rival].candidate.weight;
        let mut left = self.queue(group);
        left.retain(|i| {
            let entry = &mut self.entries[*i];
            let stay = beats(k, weight, entry.candidate.weight) - rung.margin;
            let beaten = match entry.knee {
                Some((h, Knee::Between { lo, hi })) if h == head => {
                    lo < stay && hi.is_some_and(|hi| hi <= stay) && *i != rival
                }
                _ => false,
            };
            if beaten {
                entry.standing = Standing::Beaten;
            }
            !beaten
        });
        if rung.keep == usize::MAX {
            return;
        }
        let mut kept: Vec<usize> = Vec::new();
        for i in left {
            match kept.iter().find(|k| twins(&self.entries[**k], &self.entries[i], head)) {
                Some(twin) => self.entries[i].standing = Standing::Twin(*twin),
                None => kept.push(i),
            }
        }
        if kept.len() > rung.keep {
            self.rank(&kept, head, rung.margin);
            let ranked = self.queue(group);
            for i in ranked.into_iter().skip(rung.keep) {
                self.entries[i].standing = Standing::Beaten;
            }
        }
    }

    /// Places survivors to within a sixth of the margin, where more are left than go on.
    fn rank(&mut self, left: &[usize], head: usize, margin: i32) {
        let effort = Effort { resolution: (margin + 5) / 6, ..Effort::WARM };
        for wave in left.chunks(4 * WAVE.0) {
            let tasks: Vec<Task> = wave.iter().map(|i| self.measure(*i, head, effort)).collect();
            self.run(&tasks);
        }
    }

    fn tell(&self, phase: &str, head: usize, done: usize, total: usize) {
        let value = |(i, k): &(usize, i32)| rate_at(*k) * self.entries[*i].candidate.weight;
        let best = self.best.iter().flatten().max_by(|a, b| value(a).total_cmp(&value(b)));
        let best =
            best.map(|(i, k)| (rate_at(*k), space::label(&self.entries[*i].candidate.config)));
        let phase = format!("{phase}: {total} configurations, {head} requests");
        self.contest.watch.progress.update(&Status { phase, done, total, best });
    }

    /// Winners by what is known on `head`.
    fn finish(self, head: usize) -> Found {
        let better = |a: usize, b: usize| {
            let value = |i: usize| {
                let e = &self.entries[i];
                let k = e.good(head)?;
                let worst = e.probe(head, k).map_or(0.0, |p| verdict::worst(&p.observation));
                Some((rate_at(k) * e.candidate.weight, worst, e.candidate.config.gpus()))
            };
            match (value(a), value(b)) {
                (Some(x), Some(y)) => {
                    // Scores equal to within rounding are ties: the wider margin wins, then the smaller deployment.
                    let tie = (x.0 / y.0 - 1.0).abs() < 1e-9;
                    if tie { (x.1, x.2) < (y.1, y.2) } else { x.0 > y.0 }
                }
                (x, _) => x.is_some(),
            }
        };
        let best_of = |group: Option<usize>| {
            (0..self.entries.len())
                .filter(|i| group.is_none_or(|g| self.entries[*i].candidate.group == g))
                .filter(|i| self.entries[*i].good(head).is_some())
                .reduce(|a, b| if better(b, a) { b } else { a })
        };
        let group_best = (0..self.groups).map(|g| best_of(Some(g))).collect();
        let best = best_of(None);
        let interrupted = self.contest.watch.cancelled();
        Found { group_best, best, head, interrupted, entries: self.entries }
    }
}

impl Report {
    fn stopped(stop: Stop, before: &Standing, probes: Vec<Probe>) -> Self {
        let standing = match stop {
            Stop::Refused(refused) => Standing::Refused(refused),
            Stop::Cancelled => before.clone(),
        };
        Self { standing, knee: None, probes }
    }
}

/// Races or measures.
fn attempt(prober: &mut Prober<'_>, task: &Task) -> Result<(Standing, Option<Knee>), Stop> {
    if let Some((stay, beat)) = task.rivals {
        if prober.ceiling() < stay {
            return Ok((Standing::OutOfReach, None));
        }
        if !prober.passes(stay)? {
            return Ok((Standing::Beaten, None));
        }
        if stay < beat && !prober.passes(beat)? {
            // Good enough to stay; just where its knee is does not matter yet.
            let effort = Effort { resolution: i32::MAX, ..task.effort };
            return Ok((Standing::Measured, Some(prober.knee(stay, effort)?)));
        }
    }
    match prober.knee(task.start, task.effort)? {
        Knee::Nowhere => Ok((Standing::Infeasible, Some(Knee::Nowhere))),
        knee => Ok((Standing::Measured, Some(knee))),
    }
}

/// Whether two entries gave the same latencies wherever both ran on `head`, at a rate that holds and one that fails:
/// then the knobs in which they differ never took effect.
fn twins(a: &Entry, b: &Entry, head: usize) -> bool {
    if a.candidate.weight != b.candidate.weight {
        return false;
    }
    let (mut held, mut failed) = (false, false);
    for p in a.probes.iter().filter(|p| p.head == head) {
        let Some(q) = b.probe(head, p.k) else { continue };
        if p.observation.summary != q.observation.summary {
            return false;
        }
        held |= p.passes();
        failed |= !p.passes();
    }
    held && failed
}

/// The lowest place at which a rate worth `weight` each is worth more than place `k` at `rival_weight` each.
fn beats(k: i32, rival_weight: f64, weight: f64) -> i32 {
    let same = (weight / rival_weight - 1.0).abs() < 1e-12;
    if same { k + 1 } else { place_of(rate_at(k) * rival_weight / weight) + 1 }
}

/// How far a configuration is from what people start with: seats 256, budget 2,048, one GPU per replica.
fn habit(config: &Config) -> f64 {
    let off = |value: u32, usual: f64| (f64::from(value) / usual).log2().abs();
    off(config.max_seqs, 256.0)
        + off(config.max_batch_tokens, 2048.0)
        + off(config.pp * config.tp, 1.0)
}

#[cfg(test)]
mod tests;
