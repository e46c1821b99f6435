//! The result of the search in the words of a [`TuneResult`]: nothing here runs anything.

use super::question::TuneError;
use super::steady::p_met;
use super::tuning::Tuning;
use crate::knee::verdict;
use crate::knee::{FLOOR, Knee, Probe};
use crate::result::Standing;
use crate::result::pareto;
use crate::result::{
    BOUNDED, Baseline, CurvePoint, Infeasible, Latencies, Operating, Pareto, ParetoPoint, Refusal,
    TuneResult, broke, knobs, margins,
};
use crate::space;
use engine::config::{KvDtype, Policy, QueueOrder};
use loadgen::{Metric, Span};
use std::collections::BTreeMap;

impl Tuning<'_, '_> {
    /// Everything that needs no further run. Losers and totals are the caller's to add.
    pub(super) fn result(&self) -> Result<TuneResult, TuneError> {
        let r = self.question;
        let mut refused = self.field.refused();
        refused.extend(self.refusals());
        let best = self.best.map(|i| self.operating(i));
        let device =
            best.as_ref().map_or_else(|| r.devices[0].info.name.clone(), |b| b.device.clone());
        Ok(TuneResult {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            simulated: r.simulated,
            seed: r.seed,
            workload: r.workload.clone(),
            model: r.model.clone(),
            experts: r.experts,
            notes: r.notes.clone(),
            engine: r.engine.clone(),
            device,
            devices: r.devices.iter().map(|d| d.info.clone()).collect(),
            slo: r.slo.targets().iter().map(ToString::to_string).collect(),
            attainment: r.slo.attainment().map(|a| format!("{a}%")),
            objective: r.objective,
            gpus: r.space.gpus,
            space: r.space.describe(),
            candidates: self.field.candidates,
            engines: Vec::new(),
            reordered: self.reordered.clone(),
            ties: self.ties(),
            infeasible: best.is_none().then(|| self.infeasible(None, &refused)),
            baselines: self.baselines(&refused),
            losers: Vec::new(),
            sensitivity: self.sensitivity.clone(),
            confidence: self.best.and_then(|i| self.trusted.get(&i).cloned()),
            pareto: self.pareto(),
            plans: self.plans()?,
            tiers: Vec::new(),
            chosen: self.chosen(),
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
            if let Standing::Failed(refused) = &entry.standing {
                *reasons.entry(&refused.why).or_default() += 1;
            }
        }
        let refusal = |(reason, count): (&str, usize)| Refusal { reason: reason.to_owned(), count };
        reasons.into_iter().map(refusal).collect()
    }

    pub(super) fn operating(&self, i: usize) -> Operating {
        let entry = &self.found.entries[i];
        let under_test = &self.question.devices[entry.candidate.device];
        let mut whole: Vec<&Probe> =
            entry.probes.iter().filter(|p| p.whole && p.head == self.found.head(i)).collect();
        whole.sort_by_key(|p| p.k);
        let k = self.found.good(i);
        let probe = whole.iter().find(|p| Some(p.k) == k).unwrap_or(&whole[0]);
        let (s, gpus) = (&probe.observation.summary, entry.candidate.config.gpus());
        let candidate = &entry.candidate;
        let tokens = self.field.tokens(candidate.device, &candidate.config) * probe.rate();
        let usd_per_hour =
            under_test.info.price.as_ref().map(|p| p.usd_per_gpu_hour * f64::from(gpus));
        Operating {
            config: knobs(&entry.candidate.config),
            label: space::label(&entry.candidate.config),
            policy: entry.candidate.config.policy().to_string(),
            device: under_test.info.name.clone(),
            gpus,
            requests: probe.head,
            capacity_rps: probe.rate(),
            goodput_rps: s.goodput_rps(),
            p99: Latencies::of(s),
            slo_met: probe.passes(),
            margins: margins(&probe.observation),
            attained: s.verdict.attainment,
            unfit: probe.observation.unfit.clone(),
            output_tokens_per_s: tokens,
            tokens_per_s_per_gpu: tokens / f64::from(gpus),
            tokens_per_s_per_user: per_user(probe),
            usd_per_hour,
            usd_per_million_tokens: usd_per_hour.map(|usd| usd / (tokens * 3600.0) * 1e6),
            work: probe.observation.work(),
            kv: probe.observation.kv(),
            curve: whole.iter().map(|p| CurvePoint::new(p.rate(), &p.observation)).collect(),
        }
    }

    fn baselines(&self, refused: &[Refusal]) -> Vec<Baseline> {
        let mut baselines = Vec::new();
        for (device, under_test) in self.question.devices.iter().enumerate() {
            for (policy, name) in Policy::NAMES.iter().enumerate() {
                let groups = self.groups(device, policy);
                if groups.is_empty() {
                    continue;
                }
                let best = self.best_of(&groups);
                baselines.push(Baseline {
                    policy: (*name).to_owned(),
                    device: under_test.info.name.clone(),
                    best: best.map(|i| self.operating(i)),
                    infeasible: best.is_none().then(|| self.infeasible(Some(&groups), refused)),
                });
            }
        }
        baselines
    }

    /// Why some groups, or all, hold nowhere.
    fn infeasible(&self, groups: Option<&[usize]>, refused: &[Refusal]) -> Infeasible {
        if self.question.watch.cancelled() {
            let reason = "interrupted before any capacity was known".to_owned();
            return Infeasible { reason, ..Infeasible::default() };
        }
        let Some(i) = self.nearest(groups) else {
            let most = refused.iter().max_by_key(|r| r.count);
            let most = most.map_or("none was tried".to_owned(), |most| self.advised(&most.reason));
            let reason = format!("no configuration can run: {most}");
            return Infeasible { reason, ..Infeasible::default() };
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
        let accuracy = self.question.devices[entry.candidate.device].accuracy.as_ref();
        let p_feasible =
            accuracy.filter(|_| !reaches.is_empty()).map(|a| p_met(&reaches, &a.spread));
        let nearest = Some(space::label(&entry.candidate.config));
        Infeasible { reason, nearest, reaches, p_feasible }
    }

    /// A refusal with the advice for a search, which spreads a model by itself over the GPUs that it may use.
    fn advised(&self, reason: &str) -> String {
        let most = self.question.space.most_gpus();
        match reason.rsplit_once("try --tp ") {
            Some((why, ranks)) if ranks.parse().is_ok_and(|ranks: u32| ranks > most) => {
                format!("{why}try --gpus {ranks}")
            }
            _ => reason.to_owned(),
        }
    }

    fn pareto(&self) -> Pareto {
        let mut points = Vec::new();
        for (i, entry) in self.found.entries.iter().enumerate() {
            let device = &self.question.devices[entry.candidate.device];
            let tokens = self.field.tokens(entry.candidate.device, &entry.candidate.config);
            let head = self.found.head(i);
            let whole = entry.probes.iter().filter(|p| p.head == head && p.passes());
            points.extend(whole.map(|p| ParetoPoint {
                label: space::label(&entry.candidate.config),
                policy: entry.candidate.config.policy().to_string(),
                device: device.info.name.clone(),
                gpus: entry.candidate.config.gpus(),
                rate_rps: p.rate(),
                tokens_per_s_per_gpu: tokens * p.rate() / f64::from(entry.candidate.config.gpus()),
                tokens_per_s_per_user: per_user(p),
                goodput_rps: p.observation.summary.goodput_rps(),
                p99: Latencies::of(&p.observation.summary),
            }));
        }
        let low = |x: Option<f64>| x.map_or(f64::NAN, |x| -x);
        let speed: Vec<_> = points
            .iter()
            .map(|p| (p.tokens_per_s_per_gpu, p.tokens_per_s_per_user.unwrap_or(f64::NAN)))
            .collect();
        let each = |p: &ParetoPoint| p.goodput_rps / f64::from(p.gpus);
        let wait: Vec<_> = points.iter().map(|p| (each(p), low(p.p99.get(Metric::Ttft)))).collect();
        let (throughput_interactivity, goodput_ttft) =
            (pareto::front(&speed), pareto::front(&wait));
        Pareto { points, throughput_interactivity, goodput_ttft }
    }

    fn warnings(&self, best: Option<&Operating>) -> Vec<String> {
        let slo = self.question.slo;
        let mut warnings = Vec::new();
        let mut warn = |text: String| warnings.push(text);
        let limits = |span| slo.targets().iter().any(|t| t.metric.span() == span);
        if limits(Span::Start) && !limits(Span::Pace) {
            let itl = best.and_then(|b| b.p99.get(Metric::Itl));
            let shown = itl.map_or(String::new(), |ms| format!(" (p99 ITL here: {ms:.0} ms)"));
            warn(format!(
                "no TPOT or ITL target was given: TTFT alone rewards prefill-first policies, whose users see \
                 pauses{shown}"
            ));
        }
        if let Some(n) = self.question.workload.requests_per_session {
            warn(format!("rates count session starts, each of {n:.1} requests on average"));
        }
        let requests = self.question.workload.requests;
        if requests < 1000 {
            warn(format!(
                "a p99 over {requests} requests rests on the slowest {} of them: use a longer trace",
                requests.div_ceil(100)
            ));
        }
        self.best.into_iter().flat_map(|i| self.doubts(i)).for_each(&mut warn);
        let known = self.best.filter(|_| self.found.interrupted).map(|i| self.found.head(i));
        if let Some(head) = known {
            warn(format!("interrupted: capacities are those known on the first {head} requests"));
        }
        warnings
    }

    /// Reasons to doubt entry `i` as a winner.
    fn doubts(&self, i: usize) -> Vec<String> {
        let mut doubts = Vec::new();
        let mut warn = |text: String| doubts.push(text);
        let entry = &self.found.entries[i];
        let head = self.found.head(i);
        let probe = self.found.good(i).and_then(|k| entry.probe(head, k));
        if let Some(p) = probe.filter(|p| p.observation.unfit.any()) {
            let (unfit, device) = (&p.observation.unfit, entry.candidate.device);
            warn(format!("on {} {unfit}; they fail", self.question.devices[device].info.name));
        }
        let beyond = |p: &&Probe| p.head == head && Some(p.k) > probe.map(|p| p.k);
        if probe.is_some() && entry.probes.iter().filter(beyond).any(Probe::passes) {
            warn(BOUNDED.to_owned());
        }
        if let Some(p) = probe.filter(|p| verdict::short(&p.observation)) {
            warn(format!(
                "a typical request lasts {:.0} % of the run at capacity: the trace is short for a verdict on \
                 sustained load",
                100.0 * p.observation.sustain.request_share
            ));
        }
        let slowest = probe.and_then(|p| p.observation.summary.stats(Metric::Ttft).p999.millis());
        if let (QueueOrder::ShortestPrefill, Some(ms)) = (entry.candidate.config.queue, slowest) {
            warn(format!(
                "shortest-prefill lets long prompts wait for short ones: p99.9 TTFT is {:.2} s",
                ms / 1e3
            ));
        }
        if entry.candidate.config.kv_dtype == KvDtype::Fp8 {
            warn(
                "fp8 KV costs accuracy, which nothing here measures: evaluate it on your task"
                    .to_owned(),
            );
        }
        if entry.candidate.config.dp > 1 {
            warn(format!(
                "no recorded run judges attention split by sequence (dp {}): try it beside --dp 1 before you buy",
                entry.candidate.config.dp
            ));
        }
        let above = match entry.knee {
            Some((_, Knee::Between { hi, .. })) => hi,
            _ => None,
        };
        let failing = above.and_then(|hi| entry.probe(head, hi));
        if failing.is_some_and(|p| verdict::too_short(&p.observation)) {
            warn(
                "capacity is bounded by the length of the trace, not by the targets: use a longer \
                 trace"
                    .to_owned(),
            );
        }
        let has = self.question.workload.requests;
        if self.question.workload.repeats && head > has {
            warn(format!(
                "the trace is too short for such a rate: its {has} requests are replayed until they are {head}, each time \
                 in sessions of their own"
            ));
        }
        if matches!(entry.knee, Some((_, Knee::Between { hi: None, .. }))) {
            warn("the winner held every rate up to its roofline bound".to_owned());
        }
        doubts
    }
}

/// 1 / median TPOT.
fn per_user(probe: &Probe) -> Option<f64> {
    probe
        .observation
        .summary
        .stats(Metric::Tpot)
        .p50
        .millis()
        .filter(|ms| *ms > 0.0)
        .map(|ms| 1e3 / ms)
}
