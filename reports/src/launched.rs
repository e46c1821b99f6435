//! The page of `knee tune --launch`: which flags a server carries most with, and what became of every other set of them.

use crate::compare::{facts, origin};
use crate::figures::{NONE, rate, seconds, sig};
use crate::page::{self, Column, Page, Row, Section, Times, cell, code, table, whole};
use crate::report::LaunchReport;
use crate::{bench, figures};
use maud::{Markup, html};
use std::collections::BTreeMap;
use tuner::contest::turns::flags::defaults;
use tuner::contest::turns::{Candidate, Failure, Outcome, Trial};

/// Columns of the table; whether they hold numbers.
pub(crate) const COLUMNS: [Column; 5] = [
    ("configuration", false),
    ("simulated /s", true),
    ("measured /s", true),
    ("fails at", true),
    ("ready after", true),
];

impl LaunchReport {
    /// The command that starts a server with a candidate's flags, `{port}` still in it.
    #[must_use]
    pub fn command_of(&self, candidate: &Candidate) -> String {
        let command = self.command.replace("{flags}", &candidate.flags);
        command.trim_end().to_owned()
    }

    /// The targets as a person says them.
    pub(crate) fn slo_text(&self) -> String {
        page::slo_text(&self.scenario.slo, self.attainment)
    }

    /// The reasons for which configurations were not tried, and the number that each kept out.
    pub(crate) fn untried(&self) -> BTreeMap<&str, usize> {
        let mut reasons = BTreeMap::new();
        for trial in &self.race.trials {
            if let Outcome::Untried(why) = &trial.outcome {
                *reasons.entry(why.as_str()).or_default() += 1;
            }
        }
        reasons
    }

    /// Trials that failed, and how.
    pub(crate) fn failures(&self) -> impl Iterator<Item = (&Trial, &Failure)> {
        self.race.trials.iter().filter_map(|t| match &t.outcome {
            Outcome::Failed(failure) => Some((t, failure)),
            _ => None,
        })
    }
}

/// The answer in one sentence.
pub(crate) fn headline(report: &LaunchReport) -> String {
    let (s, slo) = (&report.scenario, report.slo_text());
    let (unit, workload) = (s.workload.unit(), &s.workload.name);
    let Some((trial, rps)) = report.race.best() else {
        return format!("No configuration that was tried holds {slo}.");
    };
    let own = report.race.trials.iter().find(|t| t.candidate.knobs.is_empty());
    let beside = match own.map(|t| &t.outcome) {
        Some(Outcome::Carries(_)) if trial.candidate.knobs.is_empty() => {
            "; no other flags that were tried carry more".to_owned()
        }
        Some(Outcome::Carries(own)) => {
            format!(", {}× what {} carry", sig(rps / own, 3), defaults().label)
        }
        _ => String::new(),
    };
    let who = figures::capitalised(&trial.candidate.label);
    format!("{who}: {} {unit} of {workload} with {slo}{beside}.", rate(rps))
}

/// The course of the race, in a sentence.
pub(crate) fn sentence(report: &LaunchReport) -> String {
    let race = &report.race;
    let untried = report.untried().values().copied().fold(0, usize::saturating_add);
    let failed = match report.failures().count() {
        0 => String::new(),
        n => format!(", {n} of them failed"),
    };
    let residual = race.residual.map_or_else(String::new, |x| {
        format!("; servers carry {} of what is simulated", figures::percent(x))
    });
    format!(
        "{} servers were started{failed}, {untried} configurations were not; {} of load{residual}.",
        race.trials.len() - untried,
        seconds(race.load_s)
    )
}

/// A trial under [`COLUMNS`].
pub(crate) fn cells(t: &Trial) -> [String; 5] {
    let measured = match &t.outcome {
        Outcome::Carries(rps) => rate(*rps),
        Outcome::Beaten(rps) => format!("below {}", rate(*rps)),
        Outcome::Nothing => "nothing".to_owned(),
        Outcome::Failed(_) => "FAILED".to_owned(),
        Outcome::Untried(_) => "not tried".to_owned(),
    };
    let figure = |x: Option<f64>| x.map_or_else(|| NONE.to_owned(), rate);
    let ready = t.ready_s.map_or_else(|| NONE.to_owned(), seconds);
    let label = t.candidate.label.clone();
    [label, figure(t.candidate.predicted_rps), measured, figure(t.fails_at_rps), ready]
}

/// Searches that ended before they were done, and why.
pub(crate) fn notes(report: &LaunchReport) -> impl Iterator<Item = String> {
    let noted = |t: &Trial| Some((figures::capitalised(&t.candidate.label), t.note.clone()?));
    let noted = report.race.trials.iter().filter_map(noted);
    noted.map(|(label, note)| format!("{label}: the search ended early: {note}"))
}

/// The page.
#[must_use]
pub fn launch_page(report: &LaunchReport) -> String {
    let s = &report.scenario;
    let mut sections = vec![Section::new("configurations", "", configurations(report))];
    if let Some(best) = &report.best {
        sections.push(Section::new("answer", "The best one at its capacity", bench::answer(best)));
        sections.extend(bench::seen(best));
    }
    sections.push(Section::new("lost", "Servers that failed", failures(report)));
    let slo = report.slo_text();
    sections.push(page::provenance(&origin(&report.about, s, slo.clone()), Vec::new()));
    Page {
        title: format!("knee tune --launch: {}", s.model),
        headline: headline(report),
        times: Times::of(s.simulated),
        facts: facts(s, slo),
        sections,
        version: &s.version,
    }
    .render()
}

fn configurations(report: &LaunchReport) -> Markup {
    let row = |(i, t): (usize, &Trial)| -> Row {
        let look = match &t.outcome {
            _ if report.race.winner == Some(i) => "chosen",
            Outcome::Failed(_) | Outcome::Untried(_) => "off",
            _ => "",
        };
        let [label, numbers @ ..] = cells(t);
        let mut row: Vec<Markup> = std::iter::once(whole(label)).chain(numbers.map(cell)).collect();
        row.push(cell(match &t.outcome {
            Outcome::Untried(why) => why,
            Outcome::Failed(failure) => &failure.why,
            _ => "",
        }));
        (row, look)
    };
    let rows: Vec<Row> = report.race.trials.iter().enumerate().map(row).collect();
    let columns = [&COLUMNS[..], &[("", false)]].concat();
    html! {
        @if let Some((trial, _)) = report.race.best() {
            p.lead { (code(report.command_of(&trial.candidate))) }
        }
        p { (sentence(report)) }
        @if report.race.interrupted {
            (page::warnings(&["The search was interrupted: what it had found by then is shown."]))
        }
        (table(&columns, &rows))
        (page::warnings(&notes(report).collect::<Vec<_>>()))
    }
}

fn failures(report: &LaunchReport) -> Markup {
    html! {
        @for (trial, failure) in report.failures() {
            h3 { (trial.candidate.label) }
            p { (figures::capitalised(&failure.why)) "." }
            @if !failure.last_lines.is_empty() {
                pre { (failure.last_lines.join("\n")) }
            }
        }
    }
}
