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
    let demand = Demand { rps: args.demand, headroom: args.headroom };
    let folder = args.output.folder();
    let asked = Search {
        scenario: &args.scenario,
        devices: &args.device,
        gpus: args.gpus,
        objective: Objective::Cost,
        method: Method::Halving,
        allow_fp8_kv: false,
        threads: args.work.threads,
        knobs: &args.knobs,
        study: folder.as_deref(),
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
