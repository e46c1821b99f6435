//! The race of a group's candidates against each other, wave by wave.

use super::contenders::{Contest, Group, Rung};
use super::tally::Tally;
use crate::contest::entry::{Candidate, Entry};
use crate::knee::verdict;
use crate::knee::{Effort, FLOOR, Knee, Probe, Prober, place_of, rate_at};
use crate::result::{Failure, Standing};
use crate::subject::unfit::Unfit;
use crate::subject::{Refused, Relax, Stop, Subject};
use engine::Config;
use rayon::prelude::*;

/// Heads shorter than this are not worth a rung: their percentiles say nothing.
const SHORTEST_HEAD: usize = 400;

/// Candidates in a wave: with a best to race against, and without.
const WAVE: (usize, usize) = (8, 4);

/// Times that whatever leads is polished, at most.
const POLISHED: usize = 8;

pub(super) struct Race<'a, 'c> {
    contest: &'a Contest<'c>,
    tally: &'a Tally<'a>,
    entries: Vec<Entry>,
    /// Requests that each entry can never serve; none where it cannot run at all.
    unfit: Vec<Option<Unfit>>,
    /// The fewest of them. A configuration that refuses more is no candidate: a small KV memory wins nothing by
    /// refusing.
    least_unfit: u64,
    /// Best at the head being run: entry and place.
    best: Option<(usize, i32)>,
    /// The head being run.
    head: usize,
    /// Entries of which the tally knows.
    told: usize,
}

/// One task of a wave.
#[derive(Debug, Clone, Copy)]
struct Task {
    entry: usize,
    /// The place to begin at without a rival.
    start: i32,
    /// The place that must be passed to stay, and the one that beats the best.
    rivals: Option<(i32, i32)>,
    effort: Effort,
}

/// The result of a task; `knee` only if it was bracketed.
struct Report {
    standing: Standing,
    knee: Option<Knee>,
    probes: Vec<Probe>,
}

impl<'a, 'c> Race<'a, 'c> {
    /// A race of `entries`, which are of one group, and known on `head` if any were raced before.
    pub(super) fn new(
        contest: &'a Contest<'c>,
        tally: &'a Tally<'a>,
        entries: Vec<Entry>,
        head: Option<usize>,
    ) -> Self {
        let unfit: Vec<_> = entries.iter().map(|e| unfit(contest, &e.candidate)).collect();
        let least_unfit = unfit.iter().flatten().map(|u| u.requests).min().unwrap_or(0);
        let (best, told) = (None, 0);
        let mut race = Self { contest, tally, entries, unfit, least_unfit, best, head: 0, told };
        race.head = head.unwrap_or_else(|| race.whole());
        race.lead_again();
        race
    }

    /// Requests of the trace as it is, and as long as it can be made.
    fn lengths(&self) -> (usize, usize) {
        let device = self.entries.first().map(|e| self.contest.devices[e.candidate.device]);
        device.map_or((0, 0), |d| (d.requests(), d.most()))
    }

    fn whole(&self) -> usize {
        self.lengths().0
    }

    fn subject(&self, entry: usize) -> &'c dyn Subject {
        self.contest.devices[self.entries[entry].candidate.device]
    }

    /// Screens, proves and polishes, on a trace as long as that takes.
    pub(super) fn halve(&mut self, rungs: &[Rung]) {
        let (all, most) = self.lengths();
        let (mut whole, mut least) = (all, SHORTEST_HEAD);
        'longer: loop {
            for rung in rungs {
                let head = ((whole as f64 * rung.share).round() as usize).min(whole);
                let last = rung.margin == 0;
                if head < least && !last {
                    continue;
                }
                if self.contest.watch.cancelled() {
                    return;
                }
                let before: Vec<Standing> =
                    self.entries.iter().map(|e| e.standing.clone()).collect();
                let known = (self.head, self.best);
                self.rung(head, rung);
                if self.best.is_none() && self.contest.watch.cancelled() {
                    // Earlier results are better than nothing.
                    (self.head, self.best) = known;
                    return;
                }
                let factor = if last { self.wanted() } else { self.needed() };
                if factor == 1 || (last && whole == most) {
                    if last {
                        self.polish();
                    }
                    continue;
                }
                // Candidates that lost here may have lost to the head's shortness.
                for (entry, before) in self.entries.iter_mut().zip(before) {
                    if matches!(entry.standing, Standing::Beaten(_) | Standing::Twin) {
                        entry.standing = before;
                    }
                }
                least = head + 1;
                whole = whole.max((factor * head).min(most));
                continue 'longer;
            }
            return;
        }
    }

    /// Measures in full whatever was not, then polishes again.
    pub(super) fn measure_the_rest(&mut self) {
        let mut known = (self.head, self.best);
        loop {
            let open = |e: &Entry| e.good(self.head).is_none() && e.standing != Standing::Nothing;
            let rest: Vec<usize> =
                (0..self.entries.len()).filter(|i| open(&self.entries[*i])).collect();
            self.measure(&rest, u64::MAX);
            self.polish();
            if self.best.is_none() {
                (self.head, self.best) = known;
                return;
            }
            known = (self.head, self.best);
            let longer = (self.wanted() * self.head).min(self.lengths().1);
            if self.contest.watch.cancelled() || longer == self.head {
                return;
            }
            (self.best, self.head) = (None, longer);
        }
    }

    /// Measures entries in their order until `work` requests were simulated.
    pub(super) fn measure_some(&mut self, work: u64) {
        let all: Vec<usize> = (0..self.entries.len()).collect();
        self.measure(&all, work);
    }

    fn measure(&mut self, entries: &[usize], work: u64) {
        let mut spent = 0;
        for wave in entries.chunks(WAVE.0) {
            if spent >= work || self.contest.watch.cancelled() {
                break;
            }
            let tasks: Vec<Task> = wave.iter().map(|i| self.alone(*i, Effort::FINAL)).collect();
            spent += self.run(&tasks);
            self.tell();
        }
    }

    /// Runs all that are left on `head` and thins them out.
    fn rung(&mut self, head: usize, rung: &Rung) {
        let last = rung.margin == 0;
        if last {
            self.revive();
        }
        (self.best, self.head) = (None, head);
        let mut queue = self.queue();
        let mut first = true;
        while !queue.is_empty() && !self.contest.watch.cancelled() {
            let n = match self.best {
                Some(_) => WAVE.0,
                None if first => 1,
                None => WAVE.1,
            };
            first = false;
            let chosen = queue.drain(..n.min(queue.len()));
            let tasks: Vec<Task> = chosen.map(|i| self.task(i, rung.margin)).collect();
            self.run(&tasks);
            self.tell();
            if self.needed() > 1 {
                return;
            }
        }
        if !self.contest.watch.cancelled() {
            self.thin(rung);
        }
    }

    /// The factor by which the trace must be longer for this head to tell candidates apart. It is 1
    /// unless the best so far would go further if only there were more requests.
    fn needed(&self) -> usize {
        let Some((i, _)) = self.best else { return 1 };
        let entry = &self.entries[i];
        let Some((_, Knee::Between { hi: Some(hi), .. })) = entry.knee else { return 1 };
        verdict::longer(None, entry.probe(self.head, hi).map(|p| &p.observation))
    }

    /// The same for a head that decides: long enough for the best, at what it holds, to be a verdict on load that
    /// goes on.
    fn wanted(&self) -> usize {
        let held = self.best.and_then(|(i, k)| self.entries[i].probe(self.head, k));
        verdict::longer(held.map(|p| &p.observation), None).max(self.needed())
    }

    /// A short head cannot prove that the whole trace is infeasible. If no candidate is left, the
    /// one that came closest on an empty machine is measured on all of it.
    fn revive(&mut self) {
        if !self.queue().is_empty() {
            return;
        }
        let miss = |e: &Entry| {
            let floors = e.probes.iter().filter(|p| p.k == FLOOR);
            floors.map(|p| verdict::worst(&p.observation)).next_back()
        };
        let failed = self.entries.iter_mut().filter(|e| e.standing == Standing::Nothing);
        let failed = failed.filter_map(|e| Some((miss(e)?, e)));
        if let Some((_, nearest)) = failed.min_by(|a, b| a.0.total_cmp(&b.0)) {
            nearest.standing = Standing::Untried(None);
        }
    }

    /// Members that are still in, the most promising first.
    fn queue(&self) -> Vec<usize> {
        let alive =
            |e: &Entry| matches!(e.standing, Standing::Untried(None) | Standing::Carries(_));
        let mut queue: Vec<usize> =
            (0..self.entries.len()).filter(|i| alive(&self.entries[*i])).collect();
        queue.sort_by_cached_key(|i| {
            let entry = &self.entries[*i];
            let known = match entry.knee {
                Some((_, Knee::Between { lo, hi })) => (lo, hi.unwrap_or(i32::MAX)),
                _ => (i32::MIN, 0),
            };
            let prior = (256.0 * habit(&entry.candidate.config)) as i64;
            (std::cmp::Reverse(known), prior, *i)
        });
        queue
    }

    /// The task of an entry that may be `margin` below the best to stay.
    fn task(&self, entry: usize, margin: i32) -> Task {
        let effort = if margin == 0 { Effort::FINAL } else { Effort::WARM };
        let Some((_, k)) = self.best else { return self.alone(entry, effort) };
        let beat = k + 1;
        Task { entry, start: beat, rivals: Some((beat - margin, beat)), effort }
    }

    /// A task without rivals, starting from the best guess: its own knee, the best so far, half its ceiling.
    fn alone(&self, entry: usize, effort: Effort) -> Task {
        let e = &self.entries[entry];
        let own = match e.knee {
            Some((_, Knee::Between { lo, .. })) => Some(lo),
            _ => None,
        };
        let known = own.or(self.best.map(|(_, k)| k));
        if known.is_none() && self.entries.iter().any(|o| o.standing == Standing::Nothing) {
            // Others of its kind failed on an empty machine: ask that first.
            let effort = Effort { stride: Effort::COLD.stride, ..effort };
            return Task { entry, start: FLOOR, rivals: None, effort };
        }
        let ceiling = || self.subject(entry).ceiling(&e.candidate.config).unwrap_or(1.0);
        let (start, stride) = match known {
            Some(k) => (k, effort.stride),
            None => (place_of(ceiling().clamp(1e-3, 1e6) / 2.0), Effort::COLD.stride),
        };
        Task { entry, start, rivals: None, effort: Effort { stride, ..effort } }
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
                entry.knee = Some((self.head, knee));
            }
            self.lead(task.entry);
        }
        work
    }

    /// Notes what `entry` holds.
    fn lead(&mut self, entry: usize) {
        if let Some(k) = self.entries[entry].good(self.head)
            && self.best.is_none_or(|(_, at)| k > at)
        {
            self.best = Some((entry, k));
        }
    }

    fn lead_again(&mut self) {
        (0..self.entries.len()).for_each(|i| self.lead(i));
    }

    fn perform(&self, task: &Task) -> Report {
        let entry = &self.entries[task.entry];
        let more = |unfit: &&Unfit| unfit.requests > self.least_unfit;
        if let Some(unfit) = self.unfit[task.entry].as_ref().filter(more) {
            let bounds = unfit.bounds();
            let reason = format!("its {bounds} does not hold prompts that other settings hold");
            return Report::stopped(Stop::Refused(Refused { reason }), &entry.standing, Vec::new());
        }
        let prober = Prober::new(
            self.subject(task.entry),
            &entry.candidate.config,
            Relax::Nothing,
            self.head,
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

    /// After a rung: drops the candidates that are known to be below the final best less the
    /// margin, then twins, then the tail of the rest.
    fn thin(&mut self, rung: &Rung) {
        let Some((rival, k)) = self.best else { return };
        let stay = k + 1 - rung.margin;
        let mut left = self.queue();
        left.retain(|i| {
            let entry = &mut self.entries[*i];
            let beaten = match entry.knee {
                Some((h, Knee::Between { lo, hi })) if h == self.head => {
                    lo < stay && hi.is_some_and(|hi| hi <= stay) && *i != rival
                }
                _ => false,
            };
            if beaten {
                entry.standing = Standing::Beaten(rate_at(stay));
            }
            !beaten
        });
        if rung.keep == usize::MAX {
            return;
        }
        let mut kept: Vec<usize> = Vec::new();
        for i in left {
            if kept.iter().any(|k| twins(&self.entries[*k], &self.entries[i], self.head)) {
                self.entries[i].standing = Standing::Twin;
            } else {
                kept.push(i);
            }
        }
        if kept.len() > rung.keep {
            self.rank(&kept, rung.margin);
            for i in self.queue().into_iter().skip(rung.keep) {
                self.entries[i].standing = Standing::Beaten(rate_at(k));
            }
        }
    }

    /// Places survivors to within a sixth of the margin, where more are left than go on.
    fn rank(&mut self, left: &[usize], margin: i32) {
        let effort = Effort { resolution: (margin + 5) / 6, ..Effort::WARM };
        for wave in left.chunks(4 * WAVE.0) {
            let tasks: Vec<Task> = wave.iter().map(|i| self.alone(*i, effort)).collect();
            self.run(&tasks);
        }
    }

    /// Races the neighbours of the best against it, then those of whichever won, until none does.
    fn polish(&mut self) {
        for _ in 0..POLISHED {
            let Some((best, _)) = self.best else { return };
            let near = (self.contest.near)(&self.entries[best].candidate);
            let mut fresh = Vec::new();
            for candidate in near {
                if candidate.group != self.entries[best].candidate.group {
                    continue;
                }
                let known = self.entries.iter().position(|e| e.candidate == candidate);
                let i = known.unwrap_or(self.entries.len());
                if known.is_none() {
                    self.unfit.push(unfit(self.contest, &candidate));
                    self.entries.push(Entry::new(candidate));
                }
                // A candidate that was tried on this head has lost already.
                if self.entries[i].probes.iter().all(|p| p.head != self.head) {
                    fresh.push(i);
                }
            }
            for wave in fresh.chunks(WAVE.0) {
                if self.contest.watch.cancelled() {
                    return;
                }
                let tasks: Vec<Task> = wave.iter().map(|i| self.task(*i, 0)).collect();
                self.run(&tasks);
            }
            if self.best.is_none_or(|(now, _)| now == best) {
                return;
            }
        }
    }

    /// Reports progress.
    fn tell(&mut self) {
        let done = (self.entries.len() - self.queue().len()).max(self.told);
        let best = self.best.map(|(i, k)| (rate_at(k), self.entries[i].label()));
        self.tally.note(done - self.told, best);
        self.told = done;
    }

    /// The entries, and the winner by what is known on the last head.
    pub(super) fn finish(self) -> (Vec<Entry>, Group) {
        let value = |i: usize| {
            let e = &self.entries[i];
            let k = e.good(self.head)?;
            let worst = e.probe(self.head, k).map_or(0.0, |p| verdict::worst(&p.observation));
            Some((k, worst))
        };
        let better = |a: usize, b: usize| match (value(a), value(b)) {
            // Of equal capacities the wider margin wins.
            (Some(x), Some(y)) => x.0 > y.0 || (x.0 == y.0 && x.1 < y.1),
            (x, _) => x.is_some(),
        };
        let best = (0..self.entries.len())
            .filter(|i| value(*i).is_some())
            .reduce(|a, b| if better(b, a) { b } else { a });
        let head = self.head;
        (self.entries, Group { head, best })
    }
}

/// Requests that `candidate` can never serve; none where it cannot run at all.
fn unfit(contest: &Contest<'_>, candidate: &Candidate) -> Option<Unfit> {
    contest.devices[candidate.device].unfit(&candidate.config).ok()
}

impl Report {
    fn stopped(stop: Stop, before: &Standing, probes: Vec<Probe>) -> Self {
        let standing = match stop {
            Stop::Refused(refused) => Standing::Failed(Failure::of(refused.reason)),
            Stop::Cancelled | Stop::Gone(_) => before.clone(),
        };
        Self { standing, knee: None, probes }
    }
}

/// Races or measures.
fn attempt(prober: &mut Prober<'_>, task: &Task) -> Result<(Standing, Option<Knee>), Stop> {
    if let Some((stay, beat)) = task.rivals {
        if prober.ceiling() < stay {
            let why = "by its roofline it carries less than the best of its kind holds";
            return Ok((Standing::Untried(Some(why.to_owned())), None));
        }
        if !prober.passes(stay)? {
            return Ok((Standing::Beaten(rate_at(stay)), None));
        }
        if stay < beat && !prober.passes(beat)? {
            // Good enough to stay; just where its knee is does not matter yet.
            let effort = Effort { resolution: i32::MAX, ..task.effort };
            let knee = prober.knee(stay, effort)?;
            return Ok((fate(&knee), Some(knee)));
        }
    }
    let knee = prober.knee(task.start, task.effort)?;
    Ok((fate(&knee), Some(knee)))
}

/// The standing of what was measured as far as `knee` says.
fn fate(knee: &Knee) -> Standing {
    match knee {
        Knee::Nowhere => Standing::Nothing,
        Knee::Between { lo, .. } => Standing::Carries(rate_at(*lo)),
    }
}

/// True where two entries gave the same latencies wherever both ran on `head`, at a rate that holds and one that fails:
/// then the knobs in which they differ never took effect.
fn twins(a: &Entry, b: &Entry, head: usize) -> bool {
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

/// The distance of a configuration from the usual first choice: seats 256, budget 2,048, one GPU
/// per replica.
fn habit(config: &Config) -> f64 {
    let off = |value: u32, usual: f64| (f64::from(value) / usual).log2().abs();
    off(config.max_seqs, 256.0)
        + off(config.max_batch_tokens, 2048.0)
        + off(config.pp * config.tp, 1.0)
}
