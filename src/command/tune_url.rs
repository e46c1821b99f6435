//! `knee tune --url`: the highest rate at which a server holds its targets.

use std::process::ExitCode;
use std::sync::atomic::Ordering;

use anyhow::{Result, anyhow, bail};
use loadgen::Slo;
use reports::Report;
use serde_json::{Value, json};
use tuner::subject::Stop;
use tuner::subject::server::{Aim, Found, Memory, Range, Searched, Shot};

use super::bench::result;
use super::live::{Measured, Place, find, options, scenario, study};
use super::output::all;
use super::{INTERRUPTED, cancel, measure, print, secrets};
use crate::cli;
use crate::input;

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
    let (live, url) = find(&args.server.reach, args.scenario.model.as_deref(), &trace)?;
    let options = options(&args.server.reach, &slo);
    let stop = cancel()?;
    let mut go_on = || !stop.load(Ordering::Relaxed);
    let study = study(args, ("server", secrets::url(&url)), &trace, &slo)?;
    let memory = study.as_ref().map(|study| Memory::new(study, live.model()));
    let mut range = Range::new(&live, &trace, &slo, options).remembering(memory);
    let (probe, budget) = (args.server.probe, args.server.budget());
    let aim = Aim { probe, budget, beat: None, expected: None };
    let mut say = |shot: &Shot| {
        if !args.output.json {
            super::tell(&line(shot));
        }
    };
    let (searched, cost) = measure(|| range.search(&aim, &mut say, &mut go_on));
    drop(range);
    // Whatever comes of the study: what was found is shown first.
    let close = || study.map_or(Ok(()), |study| study.close().map_err(anyhow::Error::from));
    let nothing = searched.as_ref().map_or(true, |searched| searched.best.is_none());
    if stop.load(Ordering::Relaxed) && nothing {
        close()?;
        return Err(Stop::Cancelled.into());
    }
    let Searched { found, best } = match searched {
        Ok(searched) => searched,
        Err(why) => return all([Err(anyhow!(why)), close()]).map(|()| ExitCode::FAILURE),
    };
    let Some(held) = best else {
        let code = nowhere(args, &found);
        close()?;
        return code;
    };
    let cost = (cost.wall_s, cost.cpu_s);
    let place = Place::of(&live, &url);
    let measured = Measured {
        run: &held.run,
        sent: &held.sent,
        slo: &slo,
        scenario: scenario(Some(&place), &trace, &slo, seed, cost),
        label: said(&found),
        rate_rps: Some(held.rate_rps),
    };
    let report = measured.report();
    let mut flat = result(&report);
    put(&mut flat, &found);
    let delivered = args.output.deliver(&Report::Bench(Box::new(report)), &flat);
    all([delivered, close()])?;
    Ok(if go_on() { ExitCode::SUCCESS } else { ExitCode::from(INTERRUPTED) })
}

/// The figures of a search, for scripts.
fn put(flat: &mut Value, found: &Found) {
    let first = found.first_to_fail();
    flat["capacity_rps"] = json!(found.capacity_rps);
    flat["fails_at_rps"] = json!(found.fails_at_rps);
    flat["fails_by"] = json!(first.map(|s| &s.why));
    flat["limited_by"] = json!(first.and_then(|s| s.limit));
    flat["note"] = json!(found.note);
    flat["load_s"] = json!(found.load_s);
    flat["shots"] = json!(found.shots);
}

/// A rate tried, in a line.
pub(crate) fn line(shot: &Shot) -> String {
    let verdict = match (shot.passed, shot.steady) {
        (true, true) => "holds".to_owned(),
        (true, false) => "holds as yet: its requests take longer".to_owned(),
        (false, _) => format!("fails: {}", shot.why),
    };
    format!("{:>10.2} requests/s for {:>5.1} s: {verdict}", shot.rate_rps, shot.offered_s)
}

/// The answer in a line.
fn said(found: &Found) -> String {
    let best = found.capacity_rps.unwrap_or_default();
    let (shots, load) = (found.shots.len(), found.load_s);
    let beyond = match found.first_to_fail() {
        Some(shot) => {
            let limit =
                shot.limit.map_or_else(String::new, |l| format!("; the limit is {}", l.words()));
            format!("{:.2} fails by {}{limit}", shot.rate_rps, shot.why)
        }
        None => "no rate tried failed".to_owned(),
    };
    let note =
        found.note.as_ref().map_or_else(String::new, |n| format!("; the search ended early: {n}"));
    format!(
        "capacity {best:.2} requests/s ({beyond}); {shots} rates tried in {load:.0} s of load; the run below is the one at that rate{note}"
    )
}

fn nowhere(args: &cli::Tune, found: &Found) -> Result<ExitCode> {
    let lowest = found.shots.iter().min_by(|a, b| a.rate_rps.total_cmp(&b.rate_rps));
    let even = lowest.map(|s| format!("even {:.3} requests/s fails ({})", s.rate_rps, s.why));
    if args.output.json {
        let mut flat = json!({});
        put(&mut flat, found);
        super::print_json(&flat)?;
    } else {
        let why: Vec<String> = even.into_iter().chain(found.note.clone()).collect();
        print(&format!("No rate holds the targets: {}.\n", why.join("; ")))?;
    }
    Ok(ExitCode::from(2))
}
