//! `knee plan`: the demand, turned into replicas, GPUs and money.

use std::process::ExitCode;

use anyhow::{Result, bail};
use tuner::plan::Tier;
use tuner::result::{Objective, TuneResult};
use tuner::tune::{Demand, Method};

use super::tune::{Search, deliver, search};
use crate::cli;

pub(crate) fn run(args: &cli::Plan) -> Result<ExitCode> {
    args.output.check()?;
    if args.knobs.pins()?.iter().any(|(knob, _)| knob == "replicas") {
        bail!("replicas are what a plan counts: leave out --replicas");
    }
    let demand = Demand { rps: rate(&args.demand)?, headroom: share(&args.headroom)? };
    let asked = Search {
        scenario: &args.scenario,
        devices: &args.device,
        gpus: args.gpus,
        objective: Objective::Cost,
        method: Method::Halving,
        allow_fp8_kv: false,
        threads: args.work.threads,
        knobs: &args.knobs,
        study: args.output.out.as_deref(),
        demand: Some(demand),
        context: None,
        here: None,
    };
    let mut searched = search(&asked)?;
    searched.result.tiers = tiers(args, &asked, &searched.result)?;
    deliver(&args.output, searched)
}

/// A plan for the requests within each limit of context that was asked for, the largest first.
fn tiers(args: &cli::Plan, asked: &Search<'_>, whole: &TuneResult) -> Result<Vec<Tier>> {
    let mut limits = args.context.clone();
    limits.sort_unstable_by(|a, b| b.cmp(a));
    limits.dedup();
    let all = whole.workload.requests.max(1) as f64;
    limits
        .into_iter()
        .map(|context| {
            // Runs of another trace are no part of this study.
            let study = None;
            let found = search(&Search { context: Some(context), study, ..*asked })?.result;
            let share = found.workload.requests as f64 / all;
            let plan = found.plans.iter().find(|p| p.device == found.device).cloned();
            Ok(Tier { context, share, plan })
        })
        .collect()
}

/// More is no demand but a mistake: the whole world asks for less.
const MOST_RPS: f64 = 1e9;

/// Requests per second: `40rps`, `40/s`, `2400/min`. A bare number could be any of them.
fn rate(text: &str) -> Result<f64> {
    const UNITS: [(&str, f64); 6] = [
        ("rps", 1.0),
        ("req/s", 1.0),
        ("/s", 1.0),
        ("rpm", 60.0),
        ("req/min", 60.0),
        ("/min", 60.0),
    ];
    let found = UNITS.iter().find_map(|&(unit, s)| text.strip_suffix(unit).map(|n| (n.trim(), s)));
    let (number, seconds) = found.unwrap_or((text, 1.0));
    match number.parse::<f64>() {
        Ok(n) if !(n.is_finite() && n > 0.0 && n < MOST_RPS) => {
            bail!("--demand {text}: expected a rate above 0 and below {MOST_RPS}rps")
        }
        Ok(_) if found.is_none() => {
            bail!("--demand {text} has no unit: write {number}rps or {number}rpm")
        }
        Ok(n) => Ok(n / seconds),
        Err(_) => bail!("--demand {text}: expected a rate such as 40rps"),
    }
}

/// A share in percent: `10%`.
fn share(text: &str) -> Result<f64> {
    match text.strip_suffix('%').map(|n| n.trim().parse::<f64>()) {
        Some(Ok(percent)) if (0.0..100.0).contains(&percent) => Ok(percent / 100.0),
        _ => bail!("--headroom {text}: expected a percentage from 0% to below 100%"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_demand_needs_its_unit_of_time() {
        assert!((rate("40rps").unwrap() - 40.0).abs() < 1e-12);
        assert!((rate("2400rpm").unwrap() - 40.0).abs() < 1e-12);
        assert_eq!(
            rate("40").unwrap_err().to_string(),
            "--demand 40 has no unit: write 40rps or 40rpm"
        );
        for wrong in ["-4rps", "0rps", "infrps", "nanrps", "rps", "", "1e300rps", "4rpss", "4 5rps"]
        {
            let said = rate(wrong).unwrap_err().to_string();
            assert!(said.contains("expected a rate"), "{said}");
        }
        assert!((rate("2e1 req/s").unwrap() - 20.0).abs() < 1e-12);
    }

    #[test]
    fn headroom_is_a_percentage() {
        assert!((share("10%").unwrap() - 0.1).abs() < 1e-12);
        assert!(share("10").is_err() && share("100%").is_err() && share("-1%").is_err());
    }
}
