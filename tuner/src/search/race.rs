//! How candidates are run against each other, wave by wave.

use super::{Candidate, Contest, Entry, Found, Rung, Standing};
use crate::capacity::{Effort, FLOOR, Knee, Probe, Prober, Stop, place_of, rate_at};
use crate::evaluate::{Evaluate, Relax};
use crate::progress::Status;
use crate::{space, verdict};
use engine::Config;
use rayon::prelude::*;

/// Heads shorter than this are not worth a rung: their percentiles say nothing.
const SHORTEST_HEAD: usize = 400;

/// Candidates of one group in a wave: with a best to race against, and without.
pub(super) const WAVE: (usize, usize) = (8, 4);

pub(super) struct Race<'a, 'c> {
    contest: &'a Contest<'c>,
    pub(super) entries: Vec<Entry>,
    /// Best of each group at the head being run: entry and place.
    best: Vec<Option<(usize, i32)>>,
    groups: usize,
}

/// What one task of a wave is to do.
#[derive(Debug, Clone, Copy)]
pub(super) struct Task {
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

impl<'a, 'c> Race<'a, 'c> {
    pub(super) fn new(contest: &'a Contest<'c>) -> Self {
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

    pub(super) fn halve(mut self, rungs: &[Rung]) -> Found {
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
    pub(super) fn measure(&self, entry: usize, head: usize, effort: Effort) -> Task {
        let e = &self.entries[entry];
        let own = match e.knee {
            Some((_, Knee::Between { lo, .. })) => Some(lo),
            _ => None,
        };
        let group = self.best[e.candidate.group].map(|(_, k)| k);
        let hopeless = |o: &Entry| {
            o.candidate.group == e.candidate.group && o.standing == Standing::Infeasible
        };
        if own.or(group).is_none() && self.entries.iter().any(hopeless) {
            // Others of its kind failed on an empty machine: ask that first.
            let effort = Effort { stride: Effort::COLD.stride, ..effort };
            return Task { entry, head, start: FLOOR, rivals: None, effort };
        }
        let known = own.or(group).or_else(|| self.best.iter().flatten().map(|(_, k)| *k).max());
        let ceiling = || self.evaluate(entry).ceiling(&e.candidate.config).unwrap_or(1.0);
        let (start, stride) = match known {
            Some(k) => (k, effort.stride),
            None => (place_of(ceiling().clamp(1e-3, 1e6) / 2.0), Effort::COLD.stride),
        };
        Task { entry, head, start, rivals: None, effort: Effort { stride, ..effort } }
    }

    /// Runs a wave in parallel and applies what it found in order. Returns the requests simulated.
    pub(super) fn run(&mut self, tasks: &[Task]) -> u64 {
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

    pub(super) fn tell(&self, phase: &str, head: usize, done: usize, total: usize) {
        let value = |(i, k): &(usize, i32)| rate_at(*k) * self.entries[*i].candidate.weight;
        let best = self.best.iter().flatten().max_by(|a, b| value(a).total_cmp(&value(b)));
        let best =
            best.map(|(i, k)| (rate_at(*k), space::label(&self.entries[*i].candidate.config)));
        let phase = format!("{phase}: {total} configurations, {head} requests");
        self.contest.watch.progress.update(&Status { phase, done, total, best });
    }

    /// Winners by what is known on `head`: who serves the most of the requests, then who is worth most.
    pub(super) fn finish(self, head: usize) -> Found {
        let better = |a: usize, b: usize| {
            let value = |i: usize| {
                let e = &self.entries[i];
                let k = e.good(head)?;
                let worst = e.probe(head, k).map_or(0.0, |p| verdict::worst(&p.observation));
                let gpus = e.candidate.config.gpus();
                Some((rate_at(k) * e.candidate.weight, worst, gpus, e.unfit()))
            };
            match (value(a), value(b)) {
                (Some(x), Some(y)) if x.3 != y.3 => x.3 < y.3,
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
