//! The results of a search on real servers, delivered: `knee tune --url` and `--launch`.

use std::process::ExitCode;

use anyhow::Result;
use engine::EngineProfile;
use reports::{Report, ServedReport};
use serde_json::{Value, json};
use tuner::result::{Answer, Tried};
use tuner::subject::server::Held;

use super::bench::result;
use super::live::{Measured, Place, scenario};
use super::output::about;
use super::{Cost, INTERRUPTED};
use crate::cli::Output;
use crate::input::Prepared;

/// The run at the best rate of the best configuration, and the server it was made on.
pub(crate) struct Best {
    pub(crate) held: Held,
    pub(crate) place: Place,
}

/// Prints and writes `answer`; `command` is the one that started the servers, and `place` the server that was found
/// running.
pub(crate) fn deliver(
    output: &Output,
    prepared: &Prepared,
    (command, place): (Option<String>, Option<Place>),
    (answer, best): (Answer, Option<Best>),
    cost: &Cost,
) -> (Result<()>, ExitCode) {
    let (trace, slo, seed) = (&*prepared.trace, &prepared.slo, prepared.seed);
    let place = best.as_ref().map(|best| best.place.clone()).or(place);
    let mut scenario = scenario(place.as_ref(), trace, slo, seed, (cost.wall_s, cost.cpu_s));
    scenario.device.name.clone_from(&answer.source.on);
    if scenario.model.is_empty() {
        scenario.model = "model unknown".to_owned();
    }
    let code = match (&best, answer.interrupted) {
        (_, true) => ExitCode::from(INTERRUPTED),
        (None, false) => ExitCode::from(2),
        (Some(_), false) => ExitCode::SUCCESS,
    };
    let report = ServedReport {
        about: about(&[], &EngineProfile::bare()),
        command,
        attainment: slo.slo().attainment().map(|share| share.fraction()),
        best: best.map(|Best { held, .. }| {
            let label = answer.best().map_or_else(String::new, |(best, _)| best.label.clone());
            let (run, sent, rate_rps) = (&held.run, &held.sent, Some(held.rate_rps));
            Measured { run, sent, slo, scenario: scenario.clone(), label, rate_rps }.report()
        }),
        scenario,
        answer,
    };
    let told = told(&report);
    (output.deliver(&Report::Served(Box::new(report)), &told), code)
}

/// The result for scripts: the answer, and the figures at the best rate, as of any measurement.
fn told(report: &ServedReport) -> Value {
    let s = &report.scenario;
    let mut told = report.best.as_ref().map_or_else(
        || {
            json!({
                "version": s.version,
                "simulated": s.simulated,
                "seed": s.seed,
                "workload": s.workload,
                "model": s.model,
                "device": s.device.name,
                "slo": s.slo,
                "wall_s": s.wall_s,
                "cpu_s": s.cpu_s,
                "host": s.host,
            })
        },
        result,
    );
    let answer = &report.answer;
    told["answer"] = json!(answer);
    told["capacity_rps"] = json!(answer.capacity_rps);
    told["fails_at_rps"] = json!(answer.fails_at_rps);
    told["interrupted"] = json!(answer.interrupted);
    if let Some(launch) = &report.command {
        told["launch"] = json!(launch);
        let best = answer.best();
        told["command"] = json!(best.and_then(|(best, _)| report.command_of(best)));
    }
    told
}

/// A rate tried, in a line.
pub(crate) fn line(tried: &Tried) -> String {
    let verdict = match (tried.held, tried.steady) {
        (true, true) => "holds".to_owned(),
        (true, false) => "holds as yet: its requests take longer".to_owned(),
        (false, _) => format!("fails: {}", tried.why),
    };
    let offered_s = tried.offered_s.unwrap_or_default();
    format!("{:>10.2} requests/s for {offered_s:>5.1} s: {verdict}", tried.rate_rps)
}
