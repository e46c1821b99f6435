//! `knee report`: the page of an earlier run, drawn again from what was stored; or of several workers' runs, as one.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use loadgen::{Part, Slo, merge};
use reports::Report;

use super::bench::result;
use super::live::{Measured, PART};
use super::output::typed;
use super::{print, print_as_is, print_json, terminal};
use crate::cli;

pub(crate) fn run(args: &cli::Report) -> Result<ExitCode> {
    let [dir] = &args.dirs[..] else { return together(args) };
    if args.output.out.is_some() {
        bail!("a report of one folder is written to that folder: leave --out out");
    }
    let report = reports::load(dir)?;
    report.write(dir)?;
    if args.output.json {
        print_json(&report)?;
        return Ok(ExitCode::SUCCESS);
    }
    print_as_is(&report.terminal(terminal()))?;
    print(&format!("\nReport: {}\n", dir.join(reports::PAGE).display()))?;
    Ok(ExitCode::SUCCESS)
}

/// Puts the parts of several workers together.
fn together(args: &cli::Report) -> Result<ExitCode> {
    let output = &args.output;
    output.check()?;
    let parts = args.dirs.iter().map(|dir| part(dir)).collect::<Result<Vec<Part>>>()?;
    let (run, sent) = merge(&parts)?;
    let first: &PathBuf = &args.dirs[0];
    let Report::Bench(mut whole) = reports::load(first)? else {
        bail!("{}: not a measurement of knee bench --url", first.display());
    };
    whole.about.command = typed();
    let attained = whole.summary.verdict.attainment.map(|a| format!("{}%", 100.0 * a.required));
    let slo = Slo::parse(&whole.scenario.slo, attained.as_deref())?.bind(&sent.classes)?;
    let requests = run.recording.records.len();
    let load = whole.label.split("; ").take(2).collect::<Vec<_>>().join("; ");
    let measured = Measured {
        run: &run,
        sent: &sent,
        slo: &slo,
        scenario: whole.scenario.clone(),
        label: format!("{} workers; {load}; {requests} requests counted", parts.len()),
        rate_rps: whole.rate_rps,
    };
    let report = measured.report();
    let flat = result(&report);
    let more = |dir: &Path| super::bench_url::records(dir, &run, std::time::SystemTime::now());
    output.deliver_with(&Report::Bench(Box::new(report)), &flat, more)?;
    Ok(ExitCode::SUCCESS)
}

/// Bytes of a part: some millions of requests.
const LONGEST: u64 = 2 << 30;

/// The record that a worker left in its folder.
fn part(dir: &Path) -> Result<Part> {
    let path = dir.join(PART);
    let shown = path.display();
    let text = engine::files::read_text(&path, LONGEST)
        .with_context(|| format!("cannot read {shown}: is it the folder of a --worker?"))?;
    Part::read(&text).with_context(|| shown.to_string())
}
