//! The GPUs that carry a demand: deployments of one GPU, two, four and so on, each at its best, until more GPUs than the
//! cheapest plan takes cannot make a cheaper one.
//!
//! Groups of equal size are raced by themselves, so what is found of a size does not depend on what else is allowed; and
//! a plan is the cheapest of everything found that serves as many requests. So to allow more never costs more, unless it
//! serves requests that could not be served before: the law of [`crate::plan`].

use super::question::Demand;
use super::tuning::Tuning;
use crate::plan::{AtPace, Chosen, Plan, PlanError, Unit, plan, prefer};
use crate::result::Confidence;
use crate::space;
use engine::Config;
use std::collections::{BTreeMap, BTreeSet};

/// Replicas simulated together, at most: each of more than that carries hardly more.
const TOGETHER: u32 = 8;

impl Tuning<'_, '_> {
    /// Searches every size that may carry the demand for less.
    pub(super) fn sizes(&mut self) {
        let allowed = self.question.space.gpus;
        let most = TOGETHER.max(allowed);
        let mut sizes: BTreeSet<u32> = (0..32).map(|p| 1 << p).take_while(|s| *s <= most).collect();
        sizes.insert(allowed);
        for size in sizes {
            let open = |d: &usize| match self.cheapest(*d) {
                // Larger replicas may serve requests that cannot be served yet.
                Some((_, plan)) => plan.gpus >= size || (plan.unfit.any() && size <= allowed),
                None => size <= allowed,
            };
            let open: Vec<usize> = (0..self.question.devices.len()).filter(open).collect();
            self.size(size, &open);
        }
        // A plan stands on a deployment of its own size where one can be simulated, and on no smaller one being enough.
        while !self.question.watch.cancelled() {
            let mut guessed: BTreeMap<u32, Vec<usize>> = BTreeMap::new();
            for device in 0..self.question.devices.len() {
                let Some((_, plan)) = self.cheapest(device) else { continue };
                if let Some(size) = self.next(device, &plan).filter(|_| plan.gpus <= most) {
                    guessed.entry(size).or_default().push(device);
                }
            }
            if guessed.is_empty() {
                return;
            }
            for (size, devices) in guessed {
                self.size(size, &devices);
            }
        }
    }

    /// The size to try before `plan` is believed: its own, or a smaller one that would be enough if each GPU carried there
    /// what it carries in the plan.
    fn next(&self, device: usize, plan: &Plan) -> Option<u32> {
        let each = plan.capacity_rps / f64::from(plan.gpus) * (1.0 - plan.headroom);
        let enough = |size: &u32| each * f64::from(*size) >= plan.demand_rps;
        let sizes = (1..plan.gpus).rev().take_while(enough);
        std::iter::once(plan.gpus).chain(sizes).find(|size| !self.searched(device, *size))
    }

    /// Searches deployments of `size` GPUs on `devices`.
    fn size(&mut self, size: u32, devices: &[usize]) {
        if devices.is_empty() || self.question.watch.cancelled() {
            return;
        }
        let mut candidates = self.field.of(&self.question.space.sized(size), devices);
        for more in self.multiplied(size, devices) {
            if candidates.iter().all(|c| (c.device, &c.config) != (more.0, &more.1)) {
                candidates.push(self.field.enter(more.0, more.1));
            }
        }
        self.search(candidates);
        for device in devices {
            self.searched.entry(*device).or_default().insert(size);
        }
    }

    /// The best of smaller sizes, in as many replicas as take `size` GPUs.
    fn multiplied(&self, size: u32, devices: &[usize]) -> Vec<(usize, Config)> {
        let best = |i: usize| {
            let c = &self.found.entries[i].candidate;
            let one = c.config.gpus() / c.config.replicas;
            let config = Config { replicas: size / one, ..c.config.clone() };
            let fits = size.is_multiple_of(one) && devices.contains(&c.device);
            fits.then(|| (c.device, space::canonical(&config)))
        };
        self.found.bests().filter_map(best).collect()
    }

    fn searched(&self, device: usize, size: u32) -> bool {
        self.searched.get(&device).is_some_and(|sizes| sizes.contains(&size))
    }

    /// The leader of `device`, which carries the demand for the least, and its plan.
    pub(super) fn cheapest(&self, device: usize) -> Option<(usize, Plan)> {
        let i = self.leader(device)?;
        Some((i, self.plan(i)?.ok()?))
    }

    /// The plan of entry `i` for the demand; none without a demand, or where it holds nothing.
    pub(super) fn plan(&self, i: usize) -> Option<Result<Plan, PlanError>> {
        let demand = self.question.demand?;
        let (unit, label) = self.unit(i, self.found.rate(i));
        let unit = Unit { label: &label, ..unit };
        let (device, own) = (self.found.entries[i].candidate.device, unit.replicas);
        // A size that was simulated speaks for itself.
        let counts =
            |replicas: u32| replicas == own || !self.searched(device, replicas * unit.gpus);
        let unfit = || self.unfit(i);
        (unit.capacity_rps > 0.0).then(|| {
            let plan = plan(&unit, demand.rps, demand.headroom, counts)?;
            Ok(Plan { unfit: unfit(), ..plan })
        })
    }

    /// Entry `i`, which carries `capacity_rps`, as plans see it, and what people call one replica of it.
    fn unit(&self, i: usize, capacity_rps: f64) -> (Unit<'_>, String) {
        let candidate = &self.found.entries[i].candidate;
        let (device, replicas) =
            (&self.question.devices[candidate.device], candidate.config.replicas);
        let one = space::canonical(&Config { replicas: 1, ..candidate.config.clone() });
        let unit = Unit {
            device: &device.info.name,
            label: "",
            capacity_rps,
            gpus: one.gpus(),
            replicas,
            output_tokens_per_request: self.field.tokens(candidate.device, &candidate.config),
            price: device.info.price.as_ref(),
        };
        (unit, space::label(&one))
    }

    /// One plan per device that has a winner; where none has, the result says what came nearest, as without a demand.
    ///
    /// # Errors
    /// If the demand takes more than can be counted.
    pub(super) fn plans(&self) -> Result<Vec<Plan>, PlanError> {
        let Some(demand) = self.question.demand else { return Ok(Vec::new()) };
        let mut plans = Vec::new();
        for device in 0..self.question.devices.len() {
            let Some((i, mut plan)) = self.cheapest(device) else { continue };
            if let Some(c) = self.trusted.get(&i) {
                let (slow, fast) = self.paced_plans(i, c, demand);
                (plan.if_slow, plan.if_fast) = (Some(slow), Some(fast));
            }
            plans.push(plan);
        }
        if plans.is_empty() {
            // A demand beyond counting is a mistake to be told, not a device that holds nothing.
            self.found.bests().find_map(|i| self.plan(i)?.err()).map_or(Ok(()), Err)?;
        }
        Ok(plans)
    }

    /// The plans of entry `i` at both ends of the confidence in its capacity: with slow iterations, and with fast ones.
    fn paced_plans(&self, i: usize, c: &Confidence, demand: Demand) -> (AtPace, AtPace) {
        let at = |capacity_rps: f64, unit: &Unit<'_>| {
            let found = plan(unit, demand.rps, demand.headroom, |_| true).ok();
            AtPace {
                capacity_rps,
                gpus: found.as_ref().map(|p| p.gpus),
                usd_per_hour: found.and_then(|p| p.usd_per_hour),
            }
        };
        let (slow, _) = self.unit(i, c.low_rps);
        let (fast, _) = self.unit(i, c.high_rps);
        // One of the replicas, with its part of what all carried.
        let each = fast.capacity_rps / f64::from(fast.replicas);
        let fast = Unit { capacity_rps: each, replicas: 1, ..fast };
        (at(c.low_rps, &slow), at(c.high_rps, &fast))
    }

    /// Why the winner was chosen: against the next best of all groups.
    pub(super) fn chosen(&self) -> Option<Chosen> {
        let best = self.best?;
        let own = self.plan(best)?.ok()?;
        let others = self.found.bests().filter(|i| *i != best);
        let next = others.filter_map(|i| self.plan(i)?.ok());
        let instead_of = next.reduce(|a, b| if prefer(&b, &a).0.is_lt() { b } else { a })?;
        Some(Chosen { rule: prefer(&own, &instead_of).1, instead_of })
    }
}
