//! `knee plan`: the demand, turned into replicas, GPUs and money.

use std::process::ExitCode;

use anyhow::{Result, bail};
use tuner::result::Objective;
use tuner::tune::{Demand, Method};

use super::tune::{Search, deliver, search};
use crate::cli;

pub(crate) fn run(args: &cli::Plan) -> Result<ExitCode> {
    args.output.check()?;
    let demand = Demand { rps: rate(&args.demand)?, headroom: share(&args.headroom)? };
    let searched = search(&Search {
        scenario: &args.scenario,
        devices: &args.device,
        gpus: args.gpus,
        objective: Objective::Cost,
        method: Method::Halving,
        allow_fp8_kv: false,
        threads: args.threads,
        knobs: &args.knobs,
        study: args.output.out.as_deref(),
        demand: Some(demand),
    })?;
    deliver(&args.output, searched)
}

/// Requests per second: `40rps`, `40/s`, `2400/min`. A bare number could be any of them.
fn rate(text: &str) -> Result<f64> {
    let split = text.find(|c: char| c.is_ascii_alphabetic() || c == '/').unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let per = match unit.trim() {
        "rps" | "/s" | "req/s" => 1.0,
        "rpm" | "/min" | "req/min" => 1.0 / 60.0,
        _ => bail!("--demand {text}: say per what: {number}rps or {number}rpm"),
    };
    match number.trim().parse::<f64>() {
        Ok(n) if n.is_finite() && n > 0.0 => Ok(n * per),
        _ => bail!("--demand {text}: expected a rate above 0, such as 40rps"),
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
    fn a_demand_says_per_what() {
        assert!((rate("40rps").unwrap() - 40.0).abs() < 1e-12);
        assert!((rate("2400rpm").unwrap() - 40.0).abs() < 1e-12);
        assert_eq!(
            rate("40").unwrap_err().to_string(),
            "--demand 40: say per what: 40rps or 40rpm"
        );
        assert!(rate("-4rps").is_err() && rate("infrps").is_err() && rate("rps").is_err());
    }

    #[test]
    fn headroom_is_a_percentage() {
        assert!((share("10%").unwrap() - 0.1).abs() < 1e-12);
        assert!(share("10").is_err() && share("100%").is_err() && share("-1%").is_err());
    }
}
