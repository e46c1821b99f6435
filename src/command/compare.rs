//! `knee compare`: policies side by side, and the claims of papers about them.

use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Result, bail};
use reports::{CompareReport, Report};
use tuner::claims::{Bench, Claims};
use tuner::compare::{CompareResult, Comparison, compare, policies};
use tuner::export::lacks;
use tuner::subject::Relax;

use super::output::about;
use super::{Common, cancel, measure};
use crate::cli;
use crate::computing::is_here;
use crate::devices;
use crate::input;

pub(crate) fn run(args: &cli::Compare) -> Result<ExitCode> {
    args.output.check()?;
    let prepared = input::prepare(&args.scenario)?;
    let by = &args.scenario.instead.by;
    let sim = if is_here(&args.on.device) {
        by.none_beside("this machine")?;
        prepared.here(&args.on.device, &args.scenario, &args.computing, &args.knobs.config()?)?
    } else {
        prepared
            .on(devices::hardware(&args.on.device, None, &args.scenario.instead)?, &args.scenario)?
    };
    // Claims are tried by simulation, on profiles as they are.
    let claimed = !args.no_claims && sim.is_simulated() && sim.correction().is_none();
    let trace = Arc::clone(&prepared.trace);
    let base = by.config(sim.engine(), sim.device(), &args.knobs)?;
    input::need_rate(&trace)?;
    for &rate in &args.rates {
        input::scale(&trace, rate)?;
    }
    let defaults = sim.engine().config(sim.device());
    let mut entries = policies(&defaults, &args.knobs.pins()?, &args.policy)?;
    if by.engine.is_some() {
        entries.retain(|(_, config)| lacks(sim.engine(), config).is_empty());
        if entries.is_empty() {
            bail!("{} runs none of these policies: {}", sim.engine().title, args.policy.join(", "));
        }
    }
    let kv_slots = match entries.first() {
        Some((_, config)) => u64::from(sim.deployment(config, Relax::Nothing)?.kv_slots),
        None => 0,
    };
    let comparison = Comparison { entries, rates: args.rates.clone() };
    let cancel = cancel()?;
    let (outcome, cost) = measure(|| -> Result<_> {
        let policies = compare(&sim, &comparison, cancel)?;
        let claims = if claimed {
            Bench { trace: &trace, model: sim.model(), device: sim.device(), base: &base }
                .claims()?
        } else {
            Claims::default()
        };
        Ok((policies, claims))
    });
    let (policies, claims) = outcome?;
    let common = Common::new(prepared.seed, &sim);
    let result = CompareResult {
        version: common.version,
        simulated: common.simulated,
        seed: common.seed,
        workload: common.workload,
        model: sim.model().name.clone(),
        notes: prepared.notes(),
        device: common.device,
        kv_slots,
        slo: common.slo,
        order: policies.iter().map(|p| p.name.clone()).collect(),
        policies: policies.into_iter().map(|p| (p.name.clone(), p)).collect(),
        claims,
        wall_s: cost.wall_s,
        cpu_s: cost.cpu_s,
        host: common.host,
    };
    let report = CompareReport {
        about: about(&[sim.device()], sim.engine()),
        scenario: Common::new(prepared.seed, &sim).scenario(
            &sim.model().name,
            prepared.notes(),
            &cost,
        ),
        policies: result.order.iter().filter_map(|n| result.policies.get(n).cloned()).collect(),
        claims: result.claims.clone(),
    };
    args.output.deliver(&Report::Compare(Box::new(report)), &result)?;
    Ok(ExitCode::SUCCESS)
}
