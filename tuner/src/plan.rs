//! The replicas of a deployment that carry a demand, their cost, and the better of two plans.
//!
//! Replicas behind one balancer carry more than as many times what one carries alone: a burst spreads over all of them.
//! So a deployment is simulated with several replicas, and a plan counts on what each of them carried there: with as many
//! of them or more it carries no less.
//!
//! *To allow more GPUs never costs more* is a law over equal service. A plan is the cheapest of the deployments that serve
//! as many of the requests as any deployment found: one that can never serve some of them (prompts beyond its KV memory or
//! context window) is taken only where none serves more. So more GPUs allowed serve no fewer requests; where they serve
//! just as many, they cost no more; and where a larger replica serves requests that no smaller one could, the bill may
//! rise, and the report says that this is the reason ([`Rule::ServesMore`]).

use std::cmp::Ordering;

use crate::subject::unfit::Unfit;
use serde::{Deserialize, Serialize};

/// The price of a GPU-hour, with its source and date.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Price {
    /// US dollars per GPU and hour.
    pub usd_per_gpu_hour: f64,
    /// The source of the figure, and its date.
    pub source: String,
}

/// A deployment as the plan sees it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Unit<'a> {
    /// Device name.
    pub device: &'a str,
    /// Its name for people.
    pub label: &'a str,
    /// Requests/s that all its replicas together carry under the SLO.
    pub capacity_rps: f64,
    /// GPUs of one replica.
    pub gpus: u32,
    /// Its replicas.
    pub replicas: u32,
    /// Output tokens per request, mean.
    pub output_tokens_per_request: f64,
    /// The price of its GPUs, where known.
    pub price: Option<&'a Price>,
}

/// Replicas that carry a demand.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// Device name.
    pub device: String,
    /// Requests/s asked for.
    pub demand_rps: f64,
    /// Share of capacity kept free, as asked for.
    pub headroom: f64,
    /// The deployment, as people call it.
    pub label: String,
    /// Replicas.
    pub deployments: u32,
    /// GPUs in all.
    pub gpus: u32,
    /// Requests/s they carry together.
    pub capacity_rps: f64,
    /// Replicas that were simulated together; where the plan has more, each is taken to carry as much as one of these.
    pub simulated_replicas: u32,
    /// Share of that which the demand leaves free: at least `headroom`.
    pub free: f64,
    /// US dollars per hour, where the price is known.
    pub usd_per_hour: Option<f64>,
    /// US dollars per million output tokens at the demand, where the price is known.
    pub usd_per_million_tokens: Option<f64>,
    /// The GPUs that are enough with iterations as slow as one real engine in ten has them; none if
    /// that is not known.
    pub if_slow: Option<AtPace>,
    /// The same with iterations as fast as one real engine in ten has them. Fewer replicas than were simulated are taken
    /// to carry their part of what those carried.
    #[serde(default)]
    pub if_fast: Option<AtPace>,
    /// Requests that it can never serve; they are part of the demand, and fail.
    #[serde(default)]
    pub unfit: Unfit,
}

/// A plan for the requests of at most so many tokens: what is saved by refusing longer ones.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Tier {
    /// Most tokens of a request, prompt and response together.
    pub context: u32,
    /// Share of the requests that are no longer.
    pub share: f64,
    /// The cheapest plan for their part of the demand; none where nothing holds the targets.
    pub plan: Option<Plan>,
}

/// A plan where iterations are slower than predicted, or faster.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct AtPace {
    /// Requests/s that one deployment then carries; 0 where the targets hold at no rate.
    pub capacity_rps: f64,
    /// GPUs that are then enough; none where no number is.
    pub gpus: Option<u32>,
    /// US dollars per hour, where the price is known.
    pub usd_per_hour: Option<f64>,
}

/// The rule that decided between two plans.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Rule {
    /// It serves more of the requests: fewer of them can never be served.
    ServesMore,
    /// It costs less.
    LeastCost,
    /// It costs the same on fewer GPUs.
    FewerGpus,
    /// It costs the same on as many GPUs, and more of its capacity is free.
    LargerMargin,
    /// None: they are equal in all of this, and it was found first.
    FoundFirst,
}

/// Why a plan was chosen: what decided between it and the next best deployment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Chosen {
    /// The rule.
    pub rule: Rule,
    /// The next best.
    pub instead_of: Plan,
}

/// Orders two plans (less is better) and names the rule that decided: fewest unservable requests, then cost, then GPUs,
/// then free capacity. Plans that are equal in all of it keep the order in which they were found.
#[must_use]
pub fn prefer(a: &Plan, b: &Plan) -> (Ordering, Rule) {
    match a.unfit.requests.cmp(&b.unfit.requests) {
        Ordering::Equal => {}
        order => return (order, Rule::ServesMore),
    }
    let bills = a.usd_per_hour.zip(b.usd_per_hour);
    // Equal bills differ in their last digit.
    let cost = bills.filter(|(a, b)| (a / b - 1.0).abs() > 1e-9).map(|(a, b)| a.total_cmp(&b));
    match (cost, a.gpus.cmp(&b.gpus)) {
        (Some(order), _) => (order, Rule::LeastCost),
        (None, Ordering::Equal) if (a.free - b.free).abs() <= 1e-9 => {
            (Ordering::Equal, Rule::FoundFirst)
        }
        (None, Ordering::Equal) => (b.free.total_cmp(&a.free), Rule::LargerMargin),
        (None, order) => (order, Rule::FewerGpus),
    }
}

/// Why there is no plan.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// A demand that is not a positive number.
    #[error("a demand must be a positive number of requests per second, such as 40rps")]
    Demand,
    /// A headroom outside [0, 1).
    #[error("headroom must be at least 0 and below 100 %, such as 10%")]
    Headroom,
    /// Nothing to multiply.
    #[error(
        "no configuration holds the targets, so no number of replicas does: relax a target or choose another device"
    )]
    NoCapacity,
    /// An absurd number of copies.
    #[error(
        "{demand} requests/s would take more than four thousand million copies: check the demand"
    )]
    TooMany {
        /// The demand, requests/s.
        demand: String,
    },
}

/// The fewest replicas of `unit` that carry `demand` requests/s with `headroom` (a share of capacity) to spare: no fewer
/// than it was simulated with, and of those numbers only ones that `counts`.
pub fn plan(
    unit: &Unit<'_>,
    demand: f64,
    headroom: f64,
    counts: impl Fn(u32) -> bool,
) -> Result<Plan, PlanError> {
    if !(demand.is_finite() && demand > 0.0) {
        return Err(PlanError::Demand);
    }
    if !(0.0..1.0).contains(&headroom) {
        return Err(PlanError::Headroom);
    }
    if !(unit.capacity_rps.is_finite() && unit.capacity_rps > 0.0) {
        return Err(PlanError::NoCapacity);
    }
    let each = unit.capacity_rps / f64::from(unit.replicas);
    // A demand of exactly n usable capacities takes n, whatever the last digit of the division says.
    let enough = (demand / (each * (1.0 - headroom)) * (1.0 - 1e-12)).ceil();
    let too_many = || PlanError::TooMany { demand: format!("{demand:.0}") };
    if enough * f64::from(unit.gpus) > f64::from(u32::MAX) {
        return Err(too_many());
    }
    let first = (enough as u32).max(unit.replicas);
    let mut countable = (first..=u32::MAX).take_while(|n| n.checked_mul(unit.gpus).is_some());
    let replicas = countable.find(|n| counts(*n)).ok_or_else(too_many)?;
    let (gpus, capacity_rps) = (replicas * unit.gpus, each * f64::from(replicas));
    let usd_per_hour = unit.price.map(|p| p.usd_per_gpu_hour * f64::from(gpus));
    let tokens_per_hour = demand * unit.output_tokens_per_request * 3600.0;
    Ok(Plan {
        device: unit.device.to_owned(),
        label: unit.label.to_owned(),
        demand_rps: demand,
        headroom,
        deployments: replicas,
        gpus,
        capacity_rps,
        simulated_replicas: unit.replicas,
        free: 1.0 - demand / capacity_rps,
        usd_per_hour,
        usd_per_million_tokens: usd_per_hour
            .filter(|_| tokens_per_hour > 0.0)
            .map(|usd| usd / tokens_per_hour * 1e6),
        if_slow: None,
        if_fast: None,
        unfit: Unfit::default(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn price() -> Price {
        Price { usd_per_gpu_hour: 2.0, source: "a list of 2025-01-01".to_owned() }
    }

    #[test]
    fn a_plan_takes_whole_replicas_and_headroom() {
        let price = price();
        let unit = Unit {
            device: "h100-sxm",
            label: "chunked",
            capacity_rps: 10.0,
            gpus: 2,
            replicas: 1,
            output_tokens_per_request: 250.0,
            price: Some(&price),
        };
        let p = any(&unit, 40.0, 0.0).unwrap();
        assert_eq!((p.deployments, p.gpus, p.free), (4, 8, 0.0));
        assert_eq!(p.usd_per_hour, Some(16.0));
        // $16 buy 40 x 250 x 3,600 = 36 million tokens.
        assert!((p.usd_per_million_tokens.unwrap() - 16.0 / 36.0).abs() < 1e-12);
        assert_eq!(any(&unit, 40.0, 0.1).unwrap().deployments, 5);
        assert_eq!(any(&unit, -1.0, 0.1), Err(PlanError::Demand));
        assert_eq!(any(&unit, 1.0, 1.0), Err(PlanError::Headroom));
        assert_eq!(any(&Unit { capacity_rps: 0.0, ..unit }, 1.0, 0.1), Err(PlanError::NoCapacity));
        assert!(matches!(any(&unit, 1e30, 0.1), Err(PlanError::TooMany { .. })));
        // Three copies can be counted, but do not count; four have more GPUs than can be counted.
        let large = Unit { gpus: 1 << 30, ..unit };
        assert!(matches!(plan(&large, 30.0, 0.0, |n| n > 3), Err(PlanError::TooMany { .. })));
    }

    fn any(unit: &Unit<'_>, demand: f64, headroom: f64) -> Result<Plan, PlanError> {
        plan(unit, demand, headroom, |_| true)
    }

    #[test]
    fn plans_rank_by_requests_served_then_cost_then_gpus_then_margin() {
        let of = |usd: f64, gpus: u32, capacity_rps: f64| {
            let price = Price { usd_per_gpu_hour: usd / f64::from(gpus), ..price() };
            let (device, label, price) = ("x", "y", Some(&price));
            let output_tokens_per_request = 1.0;
            let unit = Unit {
                device,
                label,
                capacity_rps,
                gpus,
                replicas: 1,
                output_tokens_per_request,
                price,
            };
            any(&unit, 1.0, 0.0).unwrap()
        };
        let best = of(6.0, 2, 3.0);
        let unfit = Unfit { requests: 1, of: 100, ..Unfit::default() };
        let cheaper = Plan { unfit, ..of(1.0, 1, 9.0) };
        for (other, rule) in [
            (cheaper, Rule::ServesMore),
            (of(7.0, 1, 9.0), Rule::LeastCost),
            (of(6.0, 3, 9.0), Rule::FewerGpus),
            (of(6.0, 2, 2.0), Rule::LargerMargin),
        ] {
            assert_eq!(prefer(&best, &other), (Ordering::Less, rule));
            assert_eq!(prefer(&other, &best), (Ordering::Greater, rule));
        }
        assert_eq!(prefer(&best, &of(6.0, 2, 3.0)), (Ordering::Equal, Rule::FoundFirst));
    }

    proptest! {
        #[test]
        fn a_plan_is_enough_and_one_less_is_not(
            demand in 0.01..1e4, capacity in 0.01..1e3, headroom in 0.0..0.9, replicas in 1..9_u32,
        ) {
            let unit = Unit {
                device: "x",
                label: "y",
                capacity_rps: capacity,
                gpus: 1,
                replicas,
                output_tokens_per_request: 1.0,
                price: None,
            };
            let p = any(&unit, demand, headroom).unwrap();
            prop_assert!(p.free >= headroom - 1e-9 && p.deployments >= replicas);
            let each = capacity / f64::from(replicas);
            let fewer = f64::from(p.deployments - 1) * each * (1.0 - headroom);
            prop_assert!(fewer < demand || p.deployments == replicas);
            // A number of replicas that does not count is passed over.
            let more = plan(&unit, demand, headroom, |n| n != p.deployments).unwrap();
            prop_assert_eq!(more.deployments, p.deployments + 1);
        }
    }
}
