//! How many of the found deployment carry a demand, and what that costs.

use crate::unfit::Unfit;
use serde::{Deserialize, Serialize};

/// What a GPU-hour costs, and who said so when.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Price {
    /// US dollars per GPU and hour.
    pub usd_per_gpu_hour: f64,
    /// Where the figure comes from, and its date.
    pub source: String,
}

/// A deployment as the plan sees it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Unit<'a> {
    /// Device name.
    pub device: &'a str,
    /// What people call it.
    pub label: &'a str,
    /// Requests/s it carries under the SLO.
    pub capacity_rps: f64,
    /// GPUs it takes.
    pub gpus: u32,
    /// Output tokens per request, mean.
    pub output_tokens_per_request: f64,
    /// What its GPUs cost, where known.
    pub price: Option<&'a Price>,
}

/// What carries a demand.
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
    /// Copies of the found deployment.
    pub deployments: u32,
    /// GPUs in all.
    pub gpus: u32,
    /// Requests/s they carry together.
    pub capacity_rps: f64,
    /// Share of that which the demand leaves free: at least `headroom`.
    pub free: f64,
    /// US dollars per hour, where the price is known.
    pub usd_per_hour: Option<f64>,
    /// US dollars per million output tokens at the demand, where the price is known.
    pub usd_per_million_tokens: Option<f64>,
    /// What is enough with iterations as slow as one real engine in ten has them; none where nobody knows.
    pub if_slow: Option<IfSlow>,
    /// Requests that it can never serve; they are part of the demand, and fail.
    #[serde(default)]
    pub unfit: Unfit,
}

/// What a plan takes where iterations are slower than predicted.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct IfSlow {
    /// Requests/s that one deployment then carries; 0 where the targets hold at no rate.
    pub capacity_rps: f64,
    /// GPUs that are then enough; none where no number is.
    pub gpus: Option<u32>,
    /// US dollars per hour, where the price is known.
    pub usd_per_hour: Option<f64>,
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

/// The fewest copies of `unit` that carry `demand` requests/s with `headroom` (a share of capacity) to spare. Copies
/// are independent deployments behind a balancer, each with its share of the traffic.
pub fn plan(unit: &Unit<'_>, demand: f64, headroom: f64) -> Result<Plan, PlanError> {
    if !(demand.is_finite() && demand > 0.0) {
        return Err(PlanError::Demand);
    }
    if !(0.0..1.0).contains(&headroom) {
        return Err(PlanError::Headroom);
    }
    if !(unit.capacity_rps.is_finite() && unit.capacity_rps > 0.0) {
        return Err(PlanError::NoCapacity);
    }
    let usable = unit.capacity_rps * (1.0 - headroom);
    // A demand of exactly n usable capacities takes n, whatever the last digit of the division says.
    let copies = (demand / usable * (1.0 - 1e-12)).ceil().max(1.0);
    let gpus = copies * f64::from(unit.gpus);
    if gpus > f64::from(u32::MAX) {
        return Err(PlanError::TooMany { demand: format!("{demand:.0}") });
    }
    let usd_per_hour = unit.price.map(|p| p.usd_per_gpu_hour * gpus);
    let tokens_per_hour = demand * unit.output_tokens_per_request * 3600.0;
    Ok(Plan {
        device: unit.device.to_owned(),
        label: unit.label.to_owned(),
        demand_rps: demand,
        headroom,
        deployments: copies as u32,
        gpus: gpus as u32,
        capacity_rps: unit.capacity_rps * copies,
        free: 1.0 - demand / (unit.capacity_rps * copies),
        usd_per_hour,
        usd_per_million_tokens: usd_per_hour
            .filter(|_| tokens_per_hour > 0.0)
            .map(|usd| usd / tokens_per_hour * 1e6),
        if_slow: None,
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
    fn forty_a_second_on_two_gpus_each() {
        let price = price();
        let unit = Unit {
            device: "h100-sxm",
            label: "chunked",
            capacity_rps: 10.0,
            gpus: 2,
            output_tokens_per_request: 250.0,
            price: Some(&price),
        };
        let p = plan(&unit, 40.0, 0.0).unwrap();
        assert_eq!((p.deployments, p.gpus, p.free), (4, 8, 0.0));
        assert_eq!(p.usd_per_hour, Some(16.0));
        // $16 buy 40 x 250 x 3,600 = 36 million tokens.
        assert!((p.usd_per_million_tokens.unwrap() - 16.0 / 36.0).abs() < 1e-12);
        assert_eq!(plan(&unit, 40.0, 0.1).unwrap().deployments, 5);
        assert_eq!(plan(&unit, -1.0, 0.1), Err(PlanError::Demand));
        assert_eq!(plan(&unit, 1.0, 1.0), Err(PlanError::Headroom));
        assert_eq!(plan(&Unit { capacity_rps: 0.0, ..unit }, 1.0, 0.1), Err(PlanError::NoCapacity));
        assert!(matches!(plan(&unit, 1e30, 0.1), Err(PlanError::TooMany { .. })));
    }

    proptest! {
        #[test]
        fn a_plan_is_enough_and_one_less_is_not(
            demand in 0.01..1e4, capacity in 0.01..1e3, headroom in 0.0..0.9
        ) {
            let unit = Unit {
                device: "x",
                label: "y",
                capacity_rps: capacity,
                gpus: 1,
                output_tokens_per_request: 1.0,
                price: None,
            };
            let p = plan(&unit, demand, headroom).unwrap();
            prop_assert!(p.free >= headroom - 1e-9);
            let fewer = f64::from(p.deployments - 1) * capacity * (1.0 - headroom);
            prop_assert!(fewer < demand);
        }
    }
}
