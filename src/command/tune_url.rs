//! `knee tune --url`: the highest rate at which a server holds its targets.

use std::process::ExitCode;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::{Result, anyhow, bail};
use loadgen::{LiveRun, Slo};
use reports::Report;
use serde_json::json;
use tuner::live::{Effort, Found, Range, Shot, seek};

use super::bench::result;
use super::live::{Measured, find, options, scenario};
use super::{INTERRUPTED, Interrupted, cancel, measure, print};
use crate::cli;
use crate::input;

/// A probe lasts so many unhurried requests, but not less than the least or more than the most.
const LIFETIMES: f64 = 4.0;
const LEAST: Duration = Duration::from_secs(8);
const MOST: Duration = Duration::from_secs(120);

pub(crate) fn run(args: &cli::Tune) -> Result<ExitCode> {
    args.output.check()?;
    if args.knobs.any() {
        bail!("a server has its own configuration: leave the engine's flags out with --url");
    }
    let slo = Slo::parse(&args.scenario.slo, args.scenario.attainment.as_deref())?;
    if slo.targets().is_empty() {
        bail!("a capacity needs a target to hold, such as --slo ttft=200ms");
    }
    let (trace, seed) = input::workload(&args.scenario.workload)?;
    input::need_rate(&trace)?;
    let slo = slo.bind(&trace.classes)?;
    let (live, url) = find(&args.server.reach, args.scenario.model.as_deref())?;
    let options = options(&args.server.reach, &slo);
    let stop = cancel()?;
    let mut go_on = || !stop.load(Ordering::Relaxed);
    let mut range =
        Range { live: &live, trace: &trace, slo: &slo, options, glimpse: Duration::ZERO };
    let (searched, cost) = measure(|| search(args, &mut range, &mut go_on));
    let (found, best) = searched?;
    if stop.load(Ordering::Relaxed) && best.is_none() {
        return Err(Interrupted.into());
    }
    let Some((rate, run)) = best else { return nowhere(args, &found) };
    let cost = (cost.wall_s, cost.cpu_s);
    let measured = Measured {
        run: &run,
        trace: &trace,
        slo: &slo,
        scenario: scenario((&live, &url), &trace, &slo, seed, cost),
        label: said(&found),
        rate_rps: Some(rate),
    };
    let report = measured.report();
    let mut flat = result(&report);
    flat["capacity_rps"] = json!(found.capacity_rps);
    flat["fails_at_rps"] = json!(found.fails_at_rps);
    flat["load_s"] = json!(found.load_s);
    flat["shots"] = json!(found.shots);
    args.output.deliver(&Report::Bench(Box::new(report)), &flat)?;
    Ok(if go_on() { ExitCode::SUCCESS } else { ExitCode::from(INTERRUPTED) })
}

/// The search, and the run at the rate that it found.
fn search(
    args: &cli::Tune,
    range: &mut Range<'_>,
    go_on: &mut dyn FnMut() -> bool,
) -> Result<(Found, Option<(f64, LiveRun)>)> {
    let (unhurried, met) = range.unhurried(go_on).map_err(|e| anyhow!(e))?;
    if !met {
        // What one request at a time cannot have, no rate can.
        return Ok((Found::of(Vec::new()), None));
    }
    let typical = Duration::from_secs_f64(LIFETIMES * unhurried).clamp(LEAST, MOST);
    let effort = Effort {
        probe: args.server.probe.unwrap_or(typical),
        budget: args.server.budget,
        ..Effort::default()
    };
    range.glimpse = effort.glimpse();
    let (mut runs, mut stopped): (Vec<(f64, LiveRun)>, Option<String>) = (Vec::new(), None);
    // An interruption ends the search like an error, and what was found until then is kept in `shots`.
    let mut shots: Vec<Shot> = Vec::new();
    let found = seek(1.0 / unhurried, effort, |rate, time| {
        let (shot, run) = range.shoot(rate, time, go_on).map_err(|e| stopped = Some(e))?;
        if !go_on() {
            return Err(());
        }
        say(args, &shot);
        if shot.passed {
            runs.push((rate, run));
        } else {
            range.recover(unhurried, go_on).map_err(|e| stopped = Some(e))?;
        }
        shots.push(shot.clone());
        Ok(shot)
    });
    let found = match (found, stopped) {
        (Ok(found), _) => found,
        (Err(()), Some(why)) => bail!("{why}"),
        (Err(()), None) => Found::of(shots),
    };
    let best = found.capacity_rps;
    let run = runs.into_iter().rev().find(|(rate, _)| Some(*rate) == best);
    Ok((found, run))
}

fn say(args: &cli::Tune, shot: &Shot) {
    if args.output.json {
        return;
    }
    let verdict = if shot.passed { "holds".to_owned() } else { format!("fails: {}", shot.why) };
    eprintln!("{:>10.2} requests/s for {:>5.1} s: {verdict}", shot.rate_rps, shot.seconds);
}

/// The answer in a line.
fn said(found: &Found) -> String {
    let best = found.capacity_rps.unwrap_or_default();
    let (shots, load) = (found.shots.len(), found.load_s);
    let beyond = match found.fails_at_rps {
        Some(rate) => format!("{rate:.2} fails"),
        None => "no rate tried failed".to_owned(),
    };
    format!(
        "capacity {best:.2} requests/s ({beyond}); {shots} rates tried in {load:.0} s of load; the run below is the one at that rate"
    )
}

fn nowhere(args: &cli::Tune, found: &Found) -> Result<ExitCode> {
    let lowest = found.shots.iter().min_by(|a, b| a.rate_rps.total_cmp(&b.rate_rps));
    let even = lowest.map_or_else(
        || "one request at a time misses them".to_owned(),
        |s| format!("{:.3} requests/s fails ({})", s.rate_rps, s.why),
    );
    if args.output.json {
        super::print_json(
            &json!({ "capacity_rps": null, "shots": found.shots, "load_s": found.load_s }),
        )?;
    } else {
        print(&format!("No rate holds the targets: even {even}.\n"))?;
    }
    Ok(ExitCode::from(2))
}
