//! From a request to a [`TuneResult`]: search, refine the winner, ask why the others lost, say what it costs.

use crate::capacity::{FLOOR, Knee, Probe, Stop, rate_at};
use crate::evaluate::Evaluate;
use crate::pareto;
use crate::plan::{Plan, PlanError, Unit, plan};
use crate::progress::{Status, Watch};
use crate::result::{
    Baseline, CurvePoint, DeviceInfo, Infeasible, Loser, Neighbour, Objective, Operating, Pareto,
    ParetoPoint, Refusal, TuneResult, WorkloadInfo, broke, knobs, margins,
};
use crate::search::{self, Candidate, Contest, Entry, Found, Rung, Standing};
use crate::space::{self, Space};
use crate::verdict;
use crate::why::{self, Subject};
use engine::Config;
use engine::config::{KvDtype, Policy, QueueOrder};
use loadgen::{Metric, Slo};
use rayon::prelude::*;
use std::collections::BTreeMap;
use std::time::Instant;

/// A device and what runs configurations on it.
#[derive(Clone)]
pub struct DeviceUnderTest<'a> {
    /// Name, provenance, price.
    pub info: DeviceInfo,
    /// Runs configurations on it; all devices replay the same trace.
    pub evaluate: &'a dyn Evaluate,
}

/// How to cover the space.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// Successive halving with races, then one knob at a time around the winner.
    Halving,
    /// Every configuration on the whole trace.
    Exhaustive,
    /// Configurations drawn uniformly until so many requests were simulated.
    Random {
        /// Requests.
        work: u64,
    },
}

/// A demand to plan for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Demand {
    /// Requests/s.
    pub rps: f64,
    /// Share of capacity to keep free.
    pub headroom: f64,
}

/// What to tune.
#[derive(Clone)]
pub struct Request<'a> {
    /// Devices to choose from, at least one.
    pub devices: Vec<DeviceUnderTest<'a>>,
    /// Where to look.
    pub space: &'a Space,
    /// The targets that the evaluations judge by.
    pub slo: &'a Slo,
    /// What to maximise.
    pub objective: Objective,
    /// The traffic.
    pub workload: WorkloadInfo,
    /// Model name.
    pub model: String,
    /// Seed of the run.
    pub seed: u64,
    /// Whether times are predicted.
    pub simulated: bool,
    /// How to look.
    pub method: Method,
    /// What to plan for, if anything.
    pub demand: Option<Demand>,
    /// Whom to tell, and when to end.
    pub watch: Watch<'a>,
}

/// Why there is nothing to tune.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum TuneError {
    /// No device.
    #[error("no device to tune for: name at least one")]
    NoDevice,
    /// No requests.
    #[error("the workload has no requests: nothing can be measured with it")]
    NoRequests,
    /// A trace without a rate to scale.
    #[error(
        "the workload has no rate to scale (one request, or all at one instant): use a longer trace"
    )]
    NoRate,
    /// The pins exclude each other.
    #[error("no configuration is possible within the pinned knobs: {0}")]
    EmptySpace(String),
    /// Cost without a price.
    #[error("device {0} has no price: add one to its profile or choose another objective")]
    NoPrice(String),
    /// The plan.
    #[error(transparent)]
    Plan(#[from] PlanError),
}

/// Share of the trace on which losses and knobs are examined; heads below [`EXAMINED`] requests are not used.
const EXAMINE: f64 = 0.5;
/// Fewest requests for that, where the trace has as many.
const EXAMINED: usize = 1000;

/// Tunes.
pub fn tune(request: &Request<'_>) -> Result<TuneResult, TuneError> {
    let began = Instant::now();
    let (candidates, refused) = field(request)?;
    let all = request.workload.requests;
    let evaluators: Vec<&dyn Evaluate> = request.devices.iter().map(|d| d.evaluate).collect();
    let contest = Contest { devices: &evaluators, candidates, watch: request.watch };
    let found = match request.method {
        Method::Halving => search::halving(&contest, search::RUNGS),
        Method::Exhaustive => search::exhaustive(&contest),
        Method::Random { work } => search::random(&contest, request.seed, work),
    };
    let head = ((all as f64 * EXAMINE) as usize).max(EXAMINED).min(all);
    let mut tuning = Tuning { request, found, head, extra: Vec::new() };
    let sensitivity = tuning.refine();
    let losers = tuning.losers();
    let mut result = tuning.result(refused, contest.candidates.len())?;
    (result.sensitivity, result.losers) = (sensitivity, losers);
    result.interrupted = request.watch.cancelled();
    result.trials = tuning.found.trials() + tuning.extra.len() as u64;
    let extra: u64 = tuning.extra.iter().map(|p| p.observation.summary.requests).sum();
    result.simulated_requests = tuning.found.requests() + extra;
    result.wall_s = began.elapsed().as_secs_f64();
    Ok(result)
}

/// Every configuration on every device, and what was refused.
fn field(request: &Request<'_>) -> Result<(Vec<Candidate>, Vec<Refusal>), TuneError> {
    let device = request.devices.first().ok_or(TuneError::NoDevice)?;
    if device.evaluate.requests() == 0 {
        return Err(TuneError::NoRequests);
    }
    let natural = device.evaluate.natural_rate(device.evaluate.requests());
    if !(natural.is_finite() && natural > 0.0) {
        return Err(TuneError::NoRate);
    }
    let grid = request.space.enumerate();
    if grid.configs.is_empty() {
        let reasons: Vec<_> = grid.refused.iter().map(|(r, n)| format!("{r} ({n})")).collect();
        return Err(TuneError::EmptySpace(reasons.join("; ")));
    }
    let mut candidates = Vec::new();
    for device in 0..request.devices.len() {
        for config in &grid.configs {
            candidates.push(candidate(request, device, config.clone())?);
        }
    }
    let refusal = |(reason, count)| Refusal { reason, count };
    Ok((candidates, grid.refused.into_iter().map(refusal).collect()))
}

/// `config` on a device as a candidate, with its weight under the objective and its group: device x policy.
fn candidate(request: &Request<'_>, device: usize, config: Config) -> Result<Candidate, TuneError> {
    let under_test = &request.devices[device];
    let tokens = under_test.evaluate.output_tokens_per_request().max(1e-9);
    let gpus = f64::from(config.gpus());
    let weight = match request.objective {
        Objective::Rps => 1.0,
        Objective::TokensPerGpu => tokens / gpus,
        Objective::Cost => {
            let price = under_test.info.price.as_ref();
            let price = price.ok_or_else(|| TuneError::NoPrice(under_test.info.name.clone()))?;
            tokens * 3600.0 / (gpus * price.usd_per_gpu_hour)
        }
    };
    let group = device * Policy::NAMES.len() + config.policy() as usize;
    Ok(Candidate { device, config, weight, group })
}

/// A search whose winner is being examined.
struct Tuning<'a, 'r> {
    request: &'a Request<'r>,
    found: Found,
    /// Requests used for examination.
    head: usize,
    /// Runs beyond the search's own.
    extra: Vec<Probe>,
}

/// What a knob's other value does, and the candidate it belongs to.
struct Examined {
    neighbour: Neighbour,
    candidate: Candidate,
    good: Option<i32>,
}

impl Tuning<'_, '_> {
    /// Measures the winner's neighbours; one that is better on the whole trace becomes the winner, once.
    fn refine(&mut self) -> Vec<Neighbour> {
        let mut seen = Vec::new();
        for last in [self.request.method != Method::Halving, true] {
            let Some(best) = self.found.best else { return Vec::new() };
            let examined = self.examine(best);
            let promising = self.promising(best, &examined);
            seen = examined.into_iter().map(|e| e.neighbour).collect();
            if last || !self.promote(best, promising) {
                break;
            }
        }
        seen
    }

    /// Every neighbour of entry `best` on the examination head.
    fn examine(&mut self, best: usize) -> Vec<Examined> {
        let cancel = self.request.watch.cancel;
        let entry = &self.found.entries[best];
        let (device, from) = (entry.candidate.device, &entry.candidate.config);
        let evaluate = self.request.devices[device].evaluate;
        let start = entry.good(self.found.head).unwrap_or(FLOOR);
        let winner = Subject { evaluate, config: from, known: &entry.probes, start };
        let Ok(winner) = why::measure(&winner, self.head, cancel) else { return Vec::new() };
        let start = winner.good.unwrap_or(start);
        let near = self.request.space.neighbours(from);
        let measured: Vec<_> = near
            .into_par_iter()
            .with_max_len(1)
            .map(|(knob, config)| {
                let known: &[Probe] =
                    self.entry_of(device, &config).map_or(&[], |e| e.probes.as_slice());
                let subject = Subject { evaluate, config: &config, known, start };
                let measured = why::measure(&subject, self.head, cancel);
                (knob, config, measured)
            })
            .collect();
        let mut examined = Vec::new();
        let mut probes = winner.probes.clone();
        for (knob, config, measured) in measured {
            let (good, broke) = match measured {
                Ok(m) => {
                    probes.extend(m.probes);
                    (m.good, m.broke)
                }
                Err(Stop::Refused(refused)) => (None, refused.reason),
                Err(Stop::Cancelled) => continue,
            };
            let value = |c: &Config| {
                engine::Knob::named(knob).map_or_else(String::new, |knob| c.value(knob))
            };
            let neighbour = Neighbour {
                knob: knob.to_owned(),
                from: value(from),
                to: value(&config),
                capacity_rps: good.map_or(0.0, rate_at),
                winner_rps: winner.rate(),
                head: self.head,
                broke,
            };
            // Same objective and device as the winner: its price is known.
            if let Ok(candidate) = candidate(self.request, device, config) {
                examined.push(Examined { neighbour, candidate, good });
            }
        }
        self.extra.extend(probes);
        examined
    }

    fn entry_of(&self, device: usize, config: &Config) -> Option<&Entry> {
        let same = |e: &&Entry| e.candidate.device == device && e.candidate.config == *config;
        self.found.entries.iter().find(same)
    }

    /// Neighbours worth more than the winner on the examination head, the best first.
    fn promising(&self, best: usize, examined: &[Examined]) -> Vec<Candidate> {
        let weight = self.found.entries[best].candidate.weight;
        let worth = |e: &Examined| e.good.map_or(0.0, |k| rate_at(k) * e.candidate.weight);
        let mut better: Vec<&Examined> = examined
            .iter()
            .filter(|e| worth(e) > e.neighbour.winner_rps * weight * 1.0001)
            .filter(|e| {
                // What the search tried on the whole trace has lost already.
                let known = self.entry_of(e.candidate.device, &e.candidate.config);
                known.is_none_or(|e| e.probes.iter().all(|p| p.head != self.found.head))
            })
            .collect();
        better.sort_by(|a, b| worth(b).total_cmp(&worth(a)));
        better.into_iter().take(6).map(|e| e.candidate.clone()).collect()
    }

    /// Races `candidates` against entry `best` on the whole trace; whether the winner changed.
    fn promote(&mut self, best: usize, mut candidates: Vec<Candidate>) -> bool {
        if candidates.is_empty() || self.request.watch.cancelled() {
            return false;
        }
        let own = self.found.entries[best].candidate.clone();
        candidates.insert(0, own);
        candidates.iter_mut().for_each(|c| c.group = 0);
        let evaluators: Vec<&dyn Evaluate> =
            self.request.devices.iter().map(|d| d.evaluate).collect();
        let contest = Contest { devices: &evaluators, candidates, watch: self.request.watch };
        let final_only = [Rung { share: 1.0, margin: 0, keep: usize::MAX }];
        let raced = search::halving_from(&contest, &final_only, &self.found.entries[best]);
        let winner = raced.best.filter(|b| *b != 0 && !raced.interrupted);
        for (i, raced) in raced.entries.into_iter().enumerate().skip(1) {
            let at = self.adopt(raced);
            if let Some(at) = at.filter(|_| winner == Some(i)) {
                let group = self.found.entries[at].candidate.group;
                self.found.best = Some(at);
                self.found.group_best[group] = Some(at);
            }
        }
        winner.is_some()
    }

    /// Takes what a race found about a candidate into the search's own entries; returns where.
    fn adopt(&mut self, mut raced: Entry) -> Option<usize> {
        let Candidate { device, config, .. } = raced.candidate;
        raced.candidate = candidate(self.request, device, config).ok()?;
        let same = |e: &Entry| {
            (e.candidate.device, &e.candidate.config) == (device, &raced.candidate.config)
        };
        let at = self.found.entries.iter().position(same).unwrap_or(self.found.entries.len());
        match self.found.entries.get_mut(at) {
            Some(known) => {
                known.probes.extend(raced.probes);
                (known.knee, known.standing) = (raced.knee, raced.standing);
            }
            None => self.found.entries.push(raced),
        }
        let groups = self.found.entries[at].candidate.group + 1;
        self.found.group_best.resize(self.found.group_best.len().max(groups), None);
        Some(at)
    }

    /// Why the best of every other policy and device lost.
    fn losers(&mut self) -> Vec<Loser> {
        let Some(best) = self.found.best else { return Vec::new() };
        let winner = self.measure(best);
        let others = self.representatives();
        let others: Vec<usize> = others
            .into_iter()
            .filter(|i| {
                self.found.entries[*i].candidate.group != self.found.entries[best].candidate.group
            })
            .collect();
        let status = |done| Status {
            phase: "asking why the others lost".to_owned(),
            done,
            total: others.len(),
            best: None,
        };
        self.request.watch.progress.update(&status(0));
        let this = &*self;
        let winner_rps = winner.as_ref().map_or(0.0, |m| m.rate());
        let config = &this.found.entries[best].candidate.config;
        let told: Vec<_> =
            others.par_iter().with_max_len(1).map(|i| this.loss(*i, config, winner_rps)).collect();
        self.request.watch.progress.update(&status(others.len()));
        self.extra.extend(winner.into_iter().flat_map(|m| m.probes));
        let mut losers = Vec::new();
        for (loser, probes) in told.into_iter().flatten() {
            losers.push(loser);
            self.extra.extend(probes);
        }
        losers
    }

    /// The entry that stands for each group: its best, else whoever came nearest on an empty machine.
    fn representatives(&self) -> Vec<usize> {
        (0..self.found.group_best.len())
            .filter_map(|g| self.found.group_best[g].or_else(|| self.nearest(Some(g))))
            .collect()
    }

    /// Of a group (or all): who came nearest to the SLO on an empty machine, on the longest head tried.
    fn nearest(&self, group: Option<usize>) -> Option<usize> {
        let key = |e: &Entry| {
            let floor = e.probes.iter().filter(|p| p.k == FLOOR).max_by_key(|p| p.head)?;
            Some((floor.head, verdict::worst(&floor.observation)))
        };
        let members = self.found.entries.iter().enumerate();
        members
            .filter(|(_, e)| group.is_none_or(|g| e.candidate.group == g))
            .filter_map(|(i, e)| Some((i, key(e)?)))
            .min_by(|(_, a), (_, b)| b.0.cmp(&a.0).then(a.1.total_cmp(&b.1)))
            .map(|(i, _)| i)
    }

    fn subject(&self, i: usize) -> Subject<'_> {
        let e = &self.found.entries[i];
        let evaluate = self.request.devices[e.candidate.device].evaluate;
        let start = e.good(self.found.head).unwrap_or(FLOOR);
        Subject { evaluate, config: &e.candidate.config, known: &e.probes, start }
    }

    fn measure(&self, i: usize) -> Option<why::Measured> {
        why::measure(&self.subject(i), self.head, self.request.watch.cancel).ok()
    }

    fn loss(&self, i: usize, winner: &Config, winner_rps: f64) -> Option<(Loser, Vec<Probe>)> {
        let measured = self.measure(i)?;
        let (cancel, gpus) = (self.request.watch.cancel, self.request.space.gpus);
        let subject = self.subject(i);
        let (checked, mut probes) =
            why::attribute(&subject, &measured, winner, self.head, gpus, cancel);
        let candidate = &self.found.entries[i].candidate;
        let loser = Loser {
            policy: candidate.config.policy().to_string(),
            label: space::label(&candidate.config),
            device: self.request.devices[candidate.device].info.name.clone(),
            capacity_rps: measured.rate(),
            winner_rps,
            head: self.head,
            broke: measured.broke.clone(),
            cause: checked.first().filter(|a| a.confirmed).map(|a| a.cause.clone()),
            checked,
        };
        probes.extend(measured.probes);
        Some((loser, probes))
    }

    /// Everything that needs no further run. Sensitivity, losers and totals are the caller's to add.
    fn result(
        &self,
        mut refused: Vec<Refusal>,
        candidates: usize,
    ) -> Result<TuneResult, TuneError> {
        let r = self.request;
        refused.extend(self.refusals());
        let best = self.found.best.map(|i| self.operating(i));
        let device =
            best.as_ref().map_or_else(|| r.devices[0].info.name.clone(), |b| b.device.clone());
        Ok(TuneResult {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            simulated: r.simulated,
            seed: r.seed,
            workload: r.workload.clone(),
            model: r.model.clone(),
            device,
            devices: r.devices.iter().map(|d| d.info.clone()).collect(),
            slo: r.slo.targets().iter().map(ToString::to_string).collect(),
            attainment: r.slo.attainment().map(|a| format!("{a}%")),
            objective: r.objective,
            gpus: r.space.gpus,
            space: r.space.describe(),
            candidates,
            infeasible: best.is_none().then(|| self.infeasible(None, &refused)),
            baselines: self.baselines(&refused),
            losers: Vec::new(),
            sensitivity: Vec::new(),
            pareto: self.pareto(),
            plans: self.plans()?,
            warnings: self.warnings(best.as_ref()),
            refused,
            best,
            interrupted: false,
            trials: 0,
            simulated_requests: 0,
            wall_s: 0.0,
            cpu_s: 0.0,
            host: String::new(),
        })
    }

    /// Refusals of the device: memory, parallelism.
    fn refusals(&self) -> Vec<Refusal> {
        let mut reasons: BTreeMap<&str, usize> = BTreeMap::new();
        for entry in &self.found.entries {
            if let Standing::Refused(refused) = &entry.standing {
                *reasons.entry(&refused.reason).or_default() += 1;
            }
        }
        let refusal = |(reason, count): (&str, usize)| Refusal { reason: reason.to_owned(), count };
        reasons.into_iter().map(refusal).collect()
    }

    fn operating(&self, i: usize) -> Operating {
        let entry = &self.found.entries[i];
        let under_test = &self.request.devices[entry.candidate.device];
        let mut whole: Vec<&Probe> =
            entry.probes.iter().filter(|p| p.head == self.found.head).collect();
        whole.sort_by_key(|p| p.k);
        let k = entry.good(self.found.head);
        let probe = whole.iter().find(|p| Some(p.k) == k).unwrap_or(&whole[0]);
        let (s, gpus) = (&probe.observation.summary, entry.candidate.config.gpus());
        let tokens = under_test.evaluate.output_tokens_per_request() * probe.rate();
        let usd_per_hour =
            under_test.info.price.as_ref().map(|p| p.usd_per_gpu_hour * f64::from(gpus));
        Operating {
            config: knobs(&entry.candidate.config),
            label: space::label(&entry.candidate.config),
            policy: entry.candidate.config.policy().to_string(),
            device: under_test.info.name.clone(),
            gpus,
            capacity_rps: probe.rate(),
            goodput_rps: s.goodput_rps(),
            ttft_p99_ms: s.ttft.p99.millis(),
            tpot_p99_ms: s.tpot.p99.millis(),
            itl_p99_ms: s.itl.p99.millis(),
            e2e_p99_ms: s.e2e.p99.millis(),
            slo_met: probe.passes(),
            margins: margins(&probe.observation),
            output_tokens_per_s: tokens,
            tokens_per_s_per_gpu: tokens / f64::from(gpus),
            tokens_per_s_per_user: per_user(probe),
            usd_per_hour,
            usd_per_million_tokens: usd_per_hour.map(|usd| usd / (tokens * 3600.0) * 1e6),
            work: probe.observation.work,
            kv: probe.observation.kv,
            curve: whole.iter().map(|p| CurvePoint::new(p.rate(), &p.observation)).collect(),
        }
    }

    fn baselines(&self, refused: &[Refusal]) -> Vec<Baseline> {
        let mut baselines = Vec::new();
        for (device, under_test) in self.request.devices.iter().enumerate() {
            for (policy, name) in Policy::NAMES.iter().enumerate() {
                let group = device * Policy::NAMES.len() + policy;
                if !self.found.entries.iter().any(|e| e.candidate.group == group) {
                    continue;
                }
                let best = self.found.group_best.get(group).copied().flatten();
                baselines.push(Baseline {
                    policy: (*name).to_owned(),
                    device: under_test.info.name.clone(),
                    best: best.map(|i| self.operating(i)),
                    infeasible: best.is_none().then(|| self.infeasible(Some(group), refused)),
                });
            }
        }
        baselines
    }

    /// Why a group, or all, hold nowhere.
    fn infeasible(&self, group: Option<usize>, refused: &[Refusal]) -> Infeasible {
        if self.request.watch.cancelled() {
            let reason = "interrupted before any capacity was known".to_owned();
            return Infeasible { reason, nearest: None, reaches: Vec::new() };
        }
        let Some(i) = self.nearest(group) else {
            let most = refused.iter().max_by_key(|r| r.count).map(|r| r.reason.as_str());
            let reason = format!("no configuration can run: {}", most.unwrap_or("none was tried"));
            return Infeasible { reason, nearest: None, reaches: Vec::new() };
        };
        let entry = &self.found.entries[i];
        let floor = entry.probes.iter().filter(|p| p.k == FLOOR).max_by_key(|p| p.head);
        let (reason, reaches) = floor.map_or_else(
            || ("nothing was measured".to_owned(), Vec::new()),
            |p| {
                let broke = broke(&p.observation);
                (format!("even on an empty machine {broke}"), margins(&p.observation))
            },
        );
        Infeasible { reason, nearest: Some(space::label(&entry.candidate.config)), reaches }
    }

    fn pareto(&self) -> Pareto {
        let mut points = Vec::new();
        for entry in &self.found.entries {
            let device = &self.request.devices[entry.candidate.device];
            let tokens = device.evaluate.output_tokens_per_request();
            let whole = entry.probes.iter().filter(|p| p.head == self.found.head && p.passes());
            points.extend(whole.map(|p| ParetoPoint {
                label: space::label(&entry.candidate.config),
                policy: entry.candidate.config.policy().to_string(),
                device: device.info.name.clone(),
                rate_rps: p.rate(),
                tokens_per_s_per_gpu: tokens * p.rate() / f64::from(entry.candidate.config.gpus()),
                tokens_per_s_per_user: per_user(p),
                goodput_rps: p.observation.summary.goodput_rps(),
                ttft_p99_ms: p.observation.summary.ttft.p99.millis(),
            }));
        }
        let low = |x: Option<f64>| x.map_or(f64::NAN, |x| -x);
        let speed: Vec<_> = points
            .iter()
            .map(|p| (p.tokens_per_s_per_gpu, p.tokens_per_s_per_user.unwrap_or(f64::NAN)))
            .collect();
        let wait: Vec<_> = points.iter().map(|p| (p.goodput_rps, low(p.ttft_p99_ms))).collect();
        let (throughput_interactivity, goodput_ttft) =
            (pareto::front(&speed), pareto::front(&wait));
        Pareto { points, throughput_interactivity, goodput_ttft }
    }

    /// One plan per device that has a winner.
    fn plans(&self) -> Result<Vec<Plan>, TuneError> {
        let Some(demand) = self.request.demand else { return Ok(Vec::new()) };
        let mut plans = Vec::new();
        for (device, under_test) in self.request.devices.iter().enumerate() {
            let value = |i: &usize| {
                let e = &self.found.entries[*i];
                e.good(self.found.head).map_or(0.0, |k| rate_at(k) * e.candidate.weight)
            };
            let here = self.found.group_best.iter().flatten().copied();
            let best = here
                .filter(|i| self.found.entries[*i].candidate.device == device)
                .max_by(|a, b| value(a).total_cmp(&value(b)));
            let Some(best) = best else { continue };
            let entry = &self.found.entries[best];
            let unit = Unit {
                device: &under_test.info.name,
                capacity_rps: entry.good(self.found.head).map_or(0.0, rate_at),
                gpus: entry.candidate.config.gpus(),
                output_tokens_per_request: under_test.evaluate.output_tokens_per_request(),
                price: under_test.info.price.as_ref(),
            };
            plans.push(plan(&unit, demand.rps, demand.headroom)?);
        }
        if plans.is_empty() && !self.request.watch.cancelled() {
            return Err(PlanError::NoCapacity.into());
        }
        Ok(plans)
    }

    fn warnings(&self, best: Option<&Operating>) -> Vec<String> {
        let slo = self.request.slo;
        let mut warnings = Vec::new();
        let mut warn = |text: String| warnings.push(text);
        if slo.limits(Metric::Ttft) && !slo.limits(Metric::Tpot) && !slo.limits(Metric::Itl) {
            let itl = best.and_then(|b| b.itl_p99_ms);
            let shown = itl.map_or(String::new(), |ms| format!(" (p99 ITL here: {ms:.0} ms)"));
            warn(format!(
                "no TPOT or ITL target was given: TTFT alone rewards prefill-first policies, whose users see \
                 pauses{shown}"
            ));
        }
        let requests = self.request.workload.requests;
        if requests < 1000 {
            warn(format!(
                "a p99 over {requests} requests rests on the slowest {} of them: use a longer trace",
                requests.div_ceil(100)
            ));
        }
        if let Some(i) = self.found.best {
            let entry = &self.found.entries[i];
            let probe = entry.good(self.found.head).and_then(|k| entry.probe(self.found.head, k));
            if let Some(p) = probe.filter(|p| p.observation.sustain.request_share > 0.05) {
                warn(format!(
                    "a typical request lasts {:.0} % of the run at capacity: the trace is short for a verdict on \
                     sustained load",
                    100.0 * p.observation.sustain.request_share
                ));
            }
            let slowest = probe.and_then(|p| p.observation.summary.ttft.p999.millis());
            if let (QueueOrder::ShortestPrefill, Some(ms)) = (entry.candidate.config.queue, slowest)
            {
                warn(format!(
                    "shortest-prefill lets long prompts wait for short ones: p99.9 TTFT is {ms:.0} ms"
                ));
            }
            if entry.candidate.config.kv_dtype == KvDtype::Fp8 {
                warn(
                    "fp8 KV costs accuracy, which nothing here measures: evaluate it on your task"
                        .to_owned(),
                );
            }
            let above = match entry.knee {
                Some((_, Knee::Between { hi, .. })) => hi,
                _ => None,
            };
            let failing = above.and_then(|hi| entry.probe(self.found.head, hi));
            if failing.is_some_and(|p| verdict::too_short(&p.observation)) {
                warn(
                    "capacity is bounded by the length of the trace, not by the targets: use a longer \
                     trace"
                        .to_owned(),
                );
            }
            if matches!(entry.knee, Some((_, Knee::Between { hi: None, .. }))) {
                warn("the winner held every rate up to its roofline bound".to_owned());
            }
        }
        if self.found.interrupted {
            warn(format!(
                "interrupted: capacities are those known on the first {} requests",
                self.found.head
            ));
        }
        warnings
    }
}

/// 1 / median TPOT.
fn per_user(probe: &Probe) -> Option<f64> {
    probe.observation.summary.tpot.p50.millis().filter(|ms| *ms > 0.0).map(|ms| 1e3 / ms)
}

#[cfg(test)]
mod tests;
