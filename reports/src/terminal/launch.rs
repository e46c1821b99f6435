//! The summary of `knee tune --launch`.

use super::figures;
use crate::compare::facts;
use crate::figures::capitalised;
use crate::launched::{COLUMNS, cells, headline, notes, sentence};
use crate::report::LaunchReport;
use crate::wrap::{Look, Screen};
use tuner::contest::turns::Outcome;

/// Lines shown of the log of a server that failed.
const LINES: usize = 3;

/// The answer, every configuration, what failed, and the figures of the best.
#[must_use]
pub fn launch(report: &LaunchReport, colour: bool) -> String {
    let mut s = Screen::new(colour);
    s.say(&headline(report), 0, Some(Look::Bold));
    s.origin(report.scenario.simulated, &facts(&report.scenario, report.slo_text()));
    if let Some((trial, _)) = report.race.best() {
        s.verbatim(&format!("  {}", report.command_of(&trial.candidate)));
    }
    s.gap();
    let heads: Vec<&str> = COLUMNS.iter().map(|(name, _)| *name).collect();
    let trials = report.race.trials.iter().enumerate();
    let started: Vec<_> =
        trials.filter(|(_, t)| !matches!(t.outcome, Outcome::Untried(_))).collect();
    let rows: Vec<Vec<String>> = started.iter().map(|(_, t)| cells(t).to_vec()).collect();
    s.table(&heads, &rows, started.iter().position(|(i, _)| Some(*i) == report.race.winner));
    s.say(&format!("  {}", sentence(report)), 4, Some(Look::Quiet));
    if report.race.interrupted {
        s.say(
            "! The search was interrupted: what it had found by then is shown.",
            2,
            Some(Look::Bad),
        );
    }
    for note in notes(report) {
        s.say(&format!("! {note}"), 2, Some(Look::Bad));
    }
    for (trial, failure) in report.failures() {
        let label = &trial.candidate.label;
        s.say(&format!("! {} FAILED: {}", capitalised(label), failure.why), 2, Some(Look::Bad));
        let from = failure.last_lines.len().saturating_sub(LINES);
        for line in &failure.last_lines[from..] {
            s.say(&format!("    {line}"), 6, Some(Look::Quiet));
        }
    }
    for (why, count) in report.untried() {
        s.say(&format!("  {count} not tried: {why}"), 4, Some(Look::Quiet));
    }
    if let Some(best) = &report.best {
        figures(&mut s, best);
    }
    s.text
}
