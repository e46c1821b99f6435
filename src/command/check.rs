//! `knee profile check`: this machine's engine beside its simulation.

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use anyhow::Result;
use engine::{Config, DeviceProfile};
use reports::{FidelityReport, Report};
use serde_json::json;
use tuner::contest::progress::{Progress, Status};
use tuner::evidence::fidelity::{Fidelity, Played, compare, knees, play};
use tuner::result::knobs;
use tuner::subject::Stop;
use tuner::subject::bed::Testbed;
use tuner::subject::{Relax, Subject};

use super::output::about;
use super::progress::Bar;
use super::timing::timings;
use super::{Common, INTERRUPTED, cancel};
use crate::cli;
use crate::computing::Here;
use crate::input::{self, Prepared};

pub(crate) fn run(args: &cli::Check) -> Result<ExitCode> {
    args.output.check()?;
    args.scenario.instead.by.none_beside("this machine")?;
    let prepared = input::prepare(&args.scenario)?;
    let config = args.knobs.config()?;
    // Whole, whatever the configuration: a split one is refused with the reason.
    let whole = Config { tp: 1, pp: 1, ..config.clone() };
    let here = args.computing.load(&args.device, args.scenario.model(), &whole)?;
    let (fidelity, sim) = check(args, &prepared, &here, &config)?;
    let common = Common::new(prepared.seed, &sim);
    let report = FidelityReport {
        about: about(&[sim.device()], sim.engine()),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        model: sim.model().name.clone(),
        device: here.name,
        host: common.host,
        profile: match &args.cpu_profile {
            Some(path) => format!("the profile {}", path.display()),
            None => "a profile measured before each run".to_owned(),
        },
        workload: sim.trace().name.clone(),
        targets: args.scenario.slo.join(", "),
        seed: prepared.seed,
        config: knobs(&config),
        fidelity: fidelity.clone(),
    };
    let result = json!({
        "model": report.model,
        "device": report.device,
        "host": report.host,
        "workload": report.workload,
        "seed": report.seed,
        "config": report.config,
        "repeats": fidelity.repeats,
        "requests": fidelity.requests,
        "rate_rps": fidelity.rate_rps,
        "figures": fidelity.figures.iter().map(|f| json!({
            "name": f.name,
            "measured": f.measured,
            "median": f.median,
            "spread_percent": f.spread,
            "predicted": f.predicted,
            "error_percent": f.error,
            "aim_percent": f.aim,
            "good_enough": f.holds(),
        })).collect::<Vec<_>>(),
        "steps": fidelity.steps,
        "capacity": fidelity.capacity.map(|c| json!({
            "measured_rps": c.measured_rps,
            "predicted_rps": c.predicted_rps,
            "error_percent": c.error(),
            "runs": c.runs,
        })),
        "version": report.version,
    });
    args.output.deliver(&Report::Fidelity(Box::new(report.thinned())), &result)?;
    let interrupted = cancel()?.load(Ordering::Relaxed);
    Ok(if interrupted { ExitCode::from(INTERRUPTED) } else { ExitCode::SUCCESS })
}

/// Real runs, then the simulation. An interruption keeps the runs that are over.
fn check(
    args: &cli::Check,
    prepared: &Prepared,
    here: &Here,
    config: &Config,
) -> Result<(Fidelity, Testbed)> {
    let limits = here.machine.limits(&here.name)?;
    let real = prepared.like(here, limits)?.computed(Arc::clone(&here.machine));
    let scale = match args.rate {
        Some(rate) => input::scale(real.trace(), rate)?,
        None => 1.0,
    };
    let (repeats, profile) = repeats(args, here, &real, config, scale)?;
    let sim = prepared.like(here, profile)?;
    let predicted = sim.deployment(config, Relax::Nothing)?;
    let rate = scale * sim.natural_rate(sim.requests());
    let mut fidelity = compare(&repeats, &sim.detail(&predicted, scale)?, &predicted, rate);
    if args.capacity {
        input::need_rate(&prepared.trace)?;
        fidelity.capacity = match knees(&sim, &real, config, cancel()?) {
            Ok(knees) => Some(knees),
            Err(Stop::Cancelled | Stop::Gone(_)) => None,
            Err(stop) => return Err(stop.into()),
        };
    }
    Ok((fidelity, sim))
}

/// The workload on `real`, and a profile of the machine: each run after the machine was timed (unless a profile is
/// given), so that both worlds see the same moods of a machine that others share.
fn repeats(
    args: &cli::Check,
    here: &Here,
    real: &Testbed,
    config: &Config,
    scale: f64,
) -> Result<(Vec<Played>, DeviceProfile)> {
    let given = match &args.cpu_profile {
        Some(path) => Some(DeviceProfile::load(&path.display().to_string())?),
        None => None,
    };
    let deployment = real.deployment(config, Relax::Nothing)?;
    let (stop, bar, total) = (cancel()?, Bar::new(), args.repeats as usize);
    let (mut rounds, mut repeats) = (Vec::new(), Vec::new());
    while repeats.len() < total && !stop.load(Ordering::Relaxed) {
        if given.is_none() {
            rounds.push(timings(here, real.trace().longest().min(here.shape.max_context))?);
        }
        let phase = "running for real".to_owned();
        bar.update(&Status { phase, done: repeats.len(), total, best: None });
        repeats.push(play(real, &deployment, scale)?);
    }
    bar.finish();
    if repeats.is_empty() {
        return Err(Stop::Cancelled.into());
    }
    let profile = match given {
        Some(profile) => profile,
        None => here.machine.profile(&here.name, &rounds)?.profile,
    };
    Ok((repeats, profile))
}
