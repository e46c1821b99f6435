//! The rule of a group: its candidates race against each other wave by wave, on longer and longer heads.

use super::contenders::{Contest, Group, Rung};
use super::tally::Tally;
use crate::contest::entry::{Candidate, Entry};
use crate::contest::race::{Race, Task};
use crate::knee::verdict;
use crate::knee::{Effort, FLOOR, Knee, place_of, rate_at};
use crate::result::{Failure, Standing};
use crate::subject::unfit::Unfit;
use engine::Config;

/// Heads shorter than this are not worth a rung: their percentiles say nothing.
const SHORTEST_HEAD: usize = 400;

/// Candidates in a wave: with a best to race against, and without.
const WAVE: (usize, usize) = (8, 4);

/// Times that whatever leads is polished, at most.
const POLISHED: usize = 8;

/// The screening of a group under way.
pub(super) struct Halving<'a, 'c> {
    contest: &'a Contest<'c>,
    tally: &'a Tally<'a>,
    race: Race<'c>,
    /// Requests that each entry can never serve; none where it cannot run at all.
    unfit: Vec<Option<Unfit>>,
    /// The fewest of them. A configuration that refuses more is no candidate: a small KV memory wins nothing by
    /// refusing.
    least_unfit: u64,
    /// Entries of which the tally knows.
    told: usize,
}

impl<'a, 'c> Halving<'a, 'c> {
    /// A race of `entries`, which are of one group, and known on `head` if any were raced before.
    pub(super) fn new(
        contest: &'a Contest<'c>,
        tally: &'a Tally<'a>,
        entries: Vec<Entry>,
        head: Option<usize>,
    ) -> Self {
        let unfit: Vec<_> = entries.iter().map(|e| unfit(contest, &e.candidate)).collect();
        let least_unfit = unfit.iter().flatten().map(|u| u.requests).min().unwrap_or(0);
        let race = Race::new(contest.devices, entries, contest.watch);
        let mut halving = Self { contest, tally, race, unfit, least_unfit, told: 0 };
        halving.race.head = head.unwrap_or(halving.race.head);
        (0..halving.race.entries.len()).for_each(|i| halving.race.lead(i));
        halving
    }

    /// Requests of the trace as it is, and as long as it can be made.
    fn lengths(&self) -> (usize, usize) {
        let device = self.race.entries.first().map(|e| self.contest.devices[e.candidate.device]);
        device.map_or((0, 0), |d| (d.requests(), d.most()))
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
                if self.race.watch.cancelled() {
                    return;
                }
                let before: Vec<Standing> =
                    self.race.entries.iter().map(|e| e.standing.clone()).collect();
                let known = (self.race.head, self.race.best);
                self.rung(head, rung);
                if self.race.best.is_none() && self.race.watch.cancelled() {
                    // Earlier results are better than nothing.
                    (self.race.head, self.race.best) = known;
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
                for (entry, before) in self.race.entries.iter_mut().zip(before) {
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
        let mut known = (self.race.head, self.race.best);
        loop {
            let open =
                |e: &Entry| e.good(self.race.head).is_none() && e.standing != Standing::Nothing;
            let rest: Vec<usize> =
                (0..self.race.entries.len()).filter(|i| open(&self.race.entries[*i])).collect();
            self.measure(&rest, u64::MAX);
            self.polish();
            if self.race.best.is_none() {
                (self.race.head, self.race.best) = known;
                return;
            }
            known = (self.race.head, self.race.best);
            let longer = (self.wanted() * self.race.head).min(self.lengths().1);
            if self.race.watch.cancelled() || longer == self.race.head {
                return;
            }
            (self.race.best, self.race.head) = (None, longer);
        }
    }

    /// Measures entries in their order until `work` requests were simulated.
    pub(super) fn measure_some(&mut self, work: u64) {
        let all: Vec<usize> = (0..self.race.entries.len()).collect();
        self.measure(&all, work);
    }

    fn measure(&mut self, entries: &[usize], work: u64) {
        let mut spent = 0;
        for wave in entries.chunks(WAVE.0) {
            if spent >= work || self.race.watch.cancelled() {
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
        (self.race.best, self.race.head) = (None, head);
        let mut queue = self.queue();
        let mut first = true;
        while !queue.is_empty() && !self.race.watch.cancelled() {
            let n = match self.race.best {
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
        if !self.race.watch.cancelled() {
            self.thin(rung);
        }
    }

    /// The factor by which the trace must be longer for this head to tell candidates apart. It is 1
    /// unless the best so far would go further if only there were more requests.
    fn needed(&self) -> usize {
        let Some((i, _)) = self.race.best else { return 1 };
        let entry = &self.race.entries[i];
        let Some((_, Knee::Between { hi: Some(hi), .. })) = entry.knee else { return 1 };
        verdict::longer(None, entry.probe(self.race.head, hi).map(|p| &p.observation))
    }

    /// The same for a head that decides: long enough for the best, at what it holds, to be a verdict on load that
    /// goes on.
    fn wanted(&self) -> usize {
        let held = self.race.best.and_then(|(i, k)| self.race.entries[i].probe(self.race.head, k));
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
        let failed = self.race.entries.iter_mut().filter(|e| e.standing == Standing::Nothing);
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
            (0..self.race.entries.len()).filter(|i| alive(&self.race.entries[*i])).collect();
        queue.sort_by_cached_key(|i| {
            let entry = &self.race.entries[*i];
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
        let Some((_, k)) = self.race.best else { return self.alone(entry, effort) };
        let beat = k + 1;
        Task { entry, start: beat, rivals: Some((beat - margin, beat)), effort }
    }

    /// A task without rivals, starting from the best guess: its own knee, the best so far, half its ceiling.
    fn alone(&self, entry: usize, effort: Effort) -> Task {
        let e = &self.race.entries[entry];
        let own = match e.knee {
            Some((_, Knee::Between { lo, .. })) => Some(lo),
            _ => None,
        };
        let known = own.or(self.race.best.map(|(_, k)| k));
        if known.is_none() && self.race.entries.iter().any(|o| o.standing == Standing::Nothing) {
            // Others of its kind failed on an empty machine: ask that first.
            let effort = Effort { stride: Effort::COLD.stride, ..effort };
            return Task { entry, start: FLOOR, rivals: None, effort };
        }
        let ceiling = || self.race.subject(entry).ceiling(&e.candidate.config).unwrap_or(1.0);
        let (start, stride) = match known {
            Some(k) => (k, effort.stride),
            None => (place_of(ceiling().clamp(1e-3, 1e6) / 2.0), Effort::COLD.stride),
        };
        Task { entry, start, rivals: None, effort: Effort { stride, ..effort } }
    }

    /// Runs a wave. Returns the requests simulated.
    fn run(&mut self, tasks: &[Task]) -> u64 {
        let mut fit = Vec::new();
        for task in tasks {
            match self.refusal(task.entry) {
                Some(why) => {
                    self.race.entries[task.entry].standing = Standing::Failed(Failure::of(why));
                }
                None => fit.push(*task),
            }
        }
        self.race.apart(&fit).iter().map(|report| report.work).sum()
    }

    /// Why `entry` is no candidate, where others serve more.
    fn refusal(&self, entry: usize) -> Option<String> {
        let unfit = self.unfit[entry].as_ref().filter(|u| u.requests > self.least_unfit)?;
        Some(format!("its {} does not hold prompts that other settings hold", unfit.bounds()))
    }

    /// After a rung: drops the candidates that are known to be below the final best less the
    /// margin, then twins, then the tail of the rest.
    fn thin(&mut self, rung: &Rung) {
        let Some((rival, k)) = self.race.best else { return };
        let stay = k + 1 - rung.margin;
        let mut left = self.queue();
        left.retain(|i| {
            let entry = &mut self.race.entries[*i];
            let beaten = match entry.knee {
                Some((h, Knee::Between { lo, hi })) if h == self.race.head => {
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
            if kept
                .iter()
                .any(|k| twins(&self.race.entries[*k], &self.race.entries[i], self.race.head))
            {
                self.race.entries[i].standing = Standing::Twin;
            } else {
                kept.push(i);
            }
        }
        if kept.len() > rung.keep {
            self.rank(&kept, rung.margin);
            for i in self.queue().into_iter().skip(rung.keep) {
                self.race.entries[i].standing = Standing::Beaten(rate_at(k));
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
            let Some((best, _)) = self.race.best else { return };
            let near = (self.contest.near)(&self.race.entries[best].candidate);
            let mut fresh = Vec::new();
            for candidate in near {
                if candidate.group != self.race.entries[best].candidate.group {
                    continue;
                }
                let known = self.race.entries.iter().position(|e| e.candidate == candidate);
                let i = known.unwrap_or(self.race.entries.len());
                if known.is_none() {
                    self.unfit.push(unfit(self.contest, &candidate));
                    self.race.entries.push(Entry::new(candidate));
                }
                // A candidate that was tried on this head has lost already.
                if self.race.entries[i].probes.iter().all(|p| p.head != self.race.head) {
                    fresh.push(i);
                }
            }
            for wave in fresh.chunks(WAVE.0) {
                if self.race.watch.cancelled() {
                    return;
                }
                let tasks: Vec<Task> = wave.iter().map(|i| self.task(*i, 0)).collect();
                self.run(&tasks);
            }
            if self.race.best.is_none_or(|(now, _)| now == best) {
                return;
            }
        }
    }

    /// Reports progress.
    fn tell(&mut self) {
        let done = (self.race.entries.len() - self.queue().len()).max(self.told);
        self.tally.note(done - self.told, self.race.leader());
        self.told = done;
    }

    /// The entries, and the winner by what is known on the last head.
    pub(super) fn finish(self) -> (Vec<Entry>, Group) {
        let value = |i: usize| {
            let e = &self.race.entries[i];
            let k = e.good(self.race.head)?;
            let worst = e.probe(self.race.head, k).map_or(0.0, |p| verdict::worst(&p.observation));
            Some((k, worst))
        };
        let better = |a: usize, b: usize| match (value(a), value(b)) {
            // Of equal capacities the wider margin wins.
            (Some(x), Some(y)) => x.0 > y.0 || (x.0 == y.0 && x.1 < y.1),
            (x, _) => x.is_some(),
        };
        let best = (0..self.race.entries.len())
            .filter(|i| value(*i).is_some())
            .reduce(|a, b| if better(b, a) { b } else { a });
        let head = self.race.head;
        (self.race.entries, Group { head, best })
    }
}

/// Requests that `candidate` can never serve; none where it cannot run at all.
fn unfit(contest: &Contest<'_>, candidate: &Candidate) -> Option<Unfit> {
    contest.devices[candidate.device].unfit(&candidate.config).ok()
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
