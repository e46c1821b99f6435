//! The race of a decision: who leads, who meets whom at which rate, and what is known when it ends.

use std::cmp::Ordering;
use std::time::{Duration, Instant};

use engine::Config;
use loadgen::Metric;

use super::{Decision, Finalist, FinalistOutcome, SLACK, Tried, finalists};
use crate::capacity::{Effort, FLOOR, Knee, Probe, Prober, Stop, place_of, rate_at};
use crate::evaluate::{Evaluate, Relax, Trial};
use crate::pace::Paces;
use crate::progress::{Status, Watch};
use crate::result::TuneResult;
use crate::verdict;

/// Meetings at one rate, at most, while nobody holds and the machine is slower than usual.
const MEETINGS: usize = 5;

/// A finalist, and its runs, by rate and in order.
struct Contender {
    config: Config,
    finalist: Finalist,
    probes: Vec<Probe>,
}

/// Who may still win, on one machine.
pub(super) struct Race<'a> {
    real: &'a dyn Evaluate,
    watch: &'a Watch<'a>,
    /// For runs.
    budget: Duration,
    /// What of it is spent.
    took: Duration,
    out_of_time: bool,
    contenders: Vec<Contender>,
    /// Those that nobody has beaten, most promising first.
    standing: Vec<usize>,
    /// Who led last, and the place where he failed.
    led: Option<(usize, i32)>,
    /// Who holds the highest rate, and its place.
    best: Option<(usize, i32)>,
    paces: Paces,
    /// Of the simulation, where it is not the profile's.
    pace: Option<f64>,
}

impl<'a> Race<'a> {
    pub(super) fn new(real: &'a dyn Evaluate, budget: Duration, watch: &'a Watch<'a>) -> Self {
        Self {
            real,
            watch,
            budget,
            took: Duration::ZERO,
            out_of_time: false,
            contenders: Vec::new(),
            standing: Vec::new(),
            led: None,
            best: None,
            paces: Paces::default(),
            pace: None,
        }
    }

    /// Goes on with what `screened` recommends, simulated at `pace`; to the end, or until the machine turns out to have
    /// another pace than its profile: that. What is known when the time is up, or nobody wants to wait, is kept.
    pub(super) fn run(
        &mut self,
        screened: &TuneResult,
        pace: Option<f64>,
    ) -> Result<Option<f64>, Stop> {
        self.pace = pace;
        self.enter(screened);
        let began = Instant::now();
        let ended = self.race(began + self.budget.saturating_sub(self.took));
        self.took += began.elapsed();
        self.out_of_time = ended == Err(Stop::Cancelled) && !self.watch.cancelled();
        match ended {
            Err(Stop::Cancelled) if self.out_of_time || self.best.is_some() => Ok(None),
            ended => ended,
        }
    }

    /// What `screened` recommends stands, and who leads, if he holds anything.
    fn enter(&mut self, screened: &TuneResult) {
        self.led = self.led.filter(|_| self.best.is_some());
        self.contenders.iter_mut().for_each(|c| c.finalist.predicted_rps = None);
        for (config, finalist) in finalists(screened) {
            match self.contenders.iter_mut().find(|c| c.config == config) {
                Some(known) => known.finalist = finalist,
                None => self.contenders.push(Contender { config, finalist, probes: Vec::new() }),
            }
        }
        let predicted = |i: usize| self.contenders[i].finalist.predicted_rps;
        let all = 0..self.contenders.len();
        let first = all.clone().filter_map(predicted).fold(0.0, f64::max);
        let promising = |i: &usize| predicted(*i).is_some_and(|rps| rps * SLACK >= first);
        let leads = |i: &usize| self.led.is_some_and(|(leader, _)| leader == *i);
        self.standing = all.filter(|i| promising(i) || leads(i)).collect();
        self.standing.sort_by(|a, b| self.contenders[*a].more_promising(&self.contenders[*b]));
    }

    /// Leads and meetings in turn, until nobody is left to meet.
    fn race(&mut self, until: Instant) -> Result<Option<f64>, Stop> {
        while let Some(&first) = self.standing.first()
            && self.led.is_none_or(|(leader, _)| self.standing != [leader])
        {
            let (leader, start) = match self.led {
                None => {
                    let predicted = self.contenders[first].finalist.predicted_rps;
                    let start = predicted.map_or(FLOOR, place_of);
                    if self.pace.is_none() {
                        // It is the first run of the search, too.
                        let (holds, _) = self.ask(&[first], start, until)?;
                        self.best = holds.first().map(|i| (*i, start));
                        if let Some(pace) = self.misjudged() {
                            return Ok(Some(pace));
                        }
                    }
                    (first, start)
                }
                Some((_, bound)) => {
                    self.standing = self.meet(bound, until)?;
                    let Some(&first) = self.standing.first() else { break };
                    self.best = Some((first, bound));
                    (first, bound)
                }
            };
            let bound = match self.lead(leader, start, until)? {
                Knee::Between { hi: None, .. } => break,
                Knee::Between { hi: Some(hi), .. } => hi,
                Knee::Nowhere => FLOOR,
            };
            let first = self.led.replace((leader, bound)).is_none();
            if let Some(pace) = self.misjudged().filter(|_| first) {
                return Ok(Some(pace));
            }
        }
        Ok(None)
    }

    /// The pace of the machine, where it is not what was simulated.
    fn misjudged(&self) -> Option<f64> {
        let usual = self.paces.usual();
        (self.pace.is_none() && !(1.0 / SLACK..=SLACK).contains(&usual)).then_some(usual)
    }

    /// Searches the knee of `leader` from `start`.
    fn lead(&mut self, leader: usize, start: i32, until: Instant) -> Result<Knee, Stop> {
        self.tell();
        let Contender { config, probes, .. } = &self.contenders[leader];
        let (requests, cancel) = (self.real.requests(), self.watch.cancel);
        let prober = Prober::new(self.real, config, Relax::Nothing, requests, cancel)?;
        let prober = prober.knowing(probes).on_machine(self.paces.clone());
        let mut prober = prober.until(until);
        let knee = prober.knee(start, Effort::REAL);
        // What holds, holds, whether or not the search came to its end.
        let holds = prober.highest_good().map(|k| (leader, k));
        self.best =
            holds.filter(|(_, k)| self.best.is_none_or(|(_, best)| *k >= best)).or(self.best);
        self.paces = prober.paces().clone();
        self.contenders[leader].probes = prober.into_probes();
        knee
    }

    /// All who stand are tried at `k` in the same minutes: who holds.
    fn meet(&mut self, k: i32, until: Instant) -> Result<Vec<usize>, Stop> {
        let standing = self.standing.clone();
        for _ in 0..MEETINGS {
            let (holders, slow) = self.ask(&standing, k, until)?;
            if !holders.is_empty() || !slow {
                return Ok(holders);
            }
        }
        Ok(Vec::new())
    }

    /// One run of each of `who` at `k`: who holds, and whether the machine was slower than usual.
    fn ask(&mut self, who: &[usize], k: i32, until: Instant) -> Result<(Vec<usize>, bool), Stop> {
        self.tell();
        if self.watch.cancelled() || Instant::now() >= until {
            return Err(Stop::Cancelled);
        }
        let head = self.real.requests();
        let scale = rate_at(k) / self.real.natural_rate(head);
        let trial = |i: &usize| {
            let config = &self.contenders[*i].config;
            Trial { config, relax: Relax::Nothing, head, scale }
        };
        let trials: Vec<Trial<'_>> = who.iter().map(trial).collect();
        let seen = self.real.run_together(&trials).map_err(Stop::Refused)?;
        seen.iter().for_each(|observation| self.paces.note(observation.work.pace));
        let slow = seen.iter().any(|observation| self.paces.is_slow(observation.work.pace));
        let mut holders = Vec::new();
        for (&i, observation) in who.iter().zip(seen) {
            let probe = Probe { k, head, observation };
            if probe.passes() {
                holders.push(i);
            }
            self.contenders[i].probes.push(probe);
        }
        Ok((holders, slow))
    }

    fn tell(&self) {
        let label = |i: usize| self.contenders[i].finalist.label.clone();
        let best = self.best.map(|(i, k)| (rate_at(k), label(i)));
        let total = self.contenders.len();
        let phase = "deciding on this machine".to_owned();
        let done = total - self.standing.len();
        self.watch.progress.update(&Status { phase, done, total, best });
    }

    pub(super) fn decision(self) -> Decision {
        let Self { contenders, best, paces, .. } = self;
        // Of what only the first simulation recommended, none but its leader was tried.
        let known = |c: &Contender| c.finalist.predicted_rps.is_some() || !c.probes.is_empty();
        let mut order: Vec<usize> =
            (0..contenders.len()).filter(|i| known(&contenders[*i])).collect();
        order.sort_by(|a, b| contenders[*a].more_promising(&contenders[*b]));
        let finished = |&i: &usize| {
            let Contender { finalist, probes, .. } = &contenders[i];
            let mut probes: Vec<&Probe> = probes.iter().collect();
            probes.sort_by_key(|probe| probe.k);
            let outcome = outcome(i, &probes, best);
            let tried = probes.iter().map(|probe| Tried::of(probe, &paces)).collect();
            Finalist { outcome, tried, ..finalist.clone() }
        };
        let finalists: Vec<Finalist> = order.iter().map(finished).collect();
        let residual = |(i, k): (usize, i32)| {
            contenders[i].finalist.predicted_rps.map(|predicted| rate_at(k) / predicted)
        };
        let fails_at =
            best.zip(self.led).filter(|((winner, k), (led, at))| winner == led && at > k);
        Decision {
            fails_at_rps: fails_at.map(|(_, (_, at))| rate_at(at)),
            residual: best.and_then(residual),
            winner: best.and_then(|(winner, _)| order.iter().position(|i| *i == winner)),
            runs: finalists.iter().map(|f| f.tried.len() as u64).sum(),
            took_s: self.took.as_secs_f64(),
            out_of_time: self.out_of_time,
            pace: self.pace,
            finalists,
        }
    }
}

impl Contender {
    /// The order of predictions, best first; what is recommended no more comes last.
    fn more_promising(&self, other: &Self) -> Ordering {
        let predicted = |c: &Self| c.finalist.predicted_rps.unwrap_or(0.0);
        predicted(other).total_cmp(&predicted(self))
    }
}

/// What became of finalist `i`, whose runs were `probes`, by rate and in order: of several at one rate the last counts,
/// and what failed below a rate that held met a slow machine.
fn outcome(i: usize, probes: &[&Probe], best: Option<(usize, i32)>) -> FinalistOutcome {
    let places = probes.chunk_by(|a, b| a.k == b.k).filter_map(|tries| tries.last());
    let above = places.rev().take_while(|probe| !probe.passes()).last();
    match (best, probes.last()) {
        (_, None) => FinalistOutcome::Untried,
        (None, _) => FinalistOutcome::Nothing,
        (Some((winner, k)), _) if winner == i => FinalistOutcome::Carries(rate_at(k)),
        (_, Some(last)) => above.map_or_else(
            || FinalistOutcome::Carries(last.rate()),
            |probe| FinalistOutcome::Beaten(probe.rate()),
        ),
    }
}

impl Tried {
    fn of(probe: &Probe, paces: &Paces) -> Self {
        let s = &probe.observation.summary;
        Self {
            rate_rps: probe.rate(),
            held: probe.passes(),
            ttft_p99_ms: s.stats(Metric::Ttft).p99.millis(),
            tpot_p99_ms: s.stats(Metric::Tpot).p99.millis(),
            too_few: verdict::too_short(&probe.observation),
            pace: probe.observation.work.pace,
            slow_machine: paces.is_slow(probe.observation.work.pace),
        }
    }
}
