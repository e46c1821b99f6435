//! The page of a search on real servers (`knee tune --url` and `--launch`): the highest rate that was held, with which
//! flags, and what became of every other set of them.

use crate::bench;
use crate::compare::{facts, origin};
use crate::contest::{self, Terms};
use crate::figures::capitalised;
use crate::page::{self, Page, Section, Times, code};
use crate::report::ServedReport;
use maud::{Markup, html};
use tuner::result::Contender;

impl ServedReport {
    /// The command that starts a server with a contender's flags, `{port}` still in it; none of a server that was found
    /// running.
    #[must_use]
    pub fn command_of(&self, contender: &Contender) -> Option<String> {
        let flags = contender.flags.as_deref().unwrap_or_default();
        Some(self.command.as_ref()?.replace("{flags}", flags).trim_end().to_owned())
    }

    pub(crate) fn best_command(&self) -> Option<String> {
        self.command_of(self.answer.best()?.0)
    }

    /// The targets as a person says them.
    pub(crate) fn slo_text(&self) -> String {
        page::slo_text(&self.scenario.slo, self.attainment)
    }
}

/// The answer in one sentence.
pub(crate) fn headline(report: &ServedReport) -> String {
    let w = &report.scenario.workload;
    let terms = Terms { unit: w.unit(), workload: &w.name, slo: report.slo_text() };
    contest::headline(&report.answer, &terms)
}

/// The page.
#[must_use]
pub fn served_page(report: &ServedReport) -> String {
    let s = &report.scenario;
    let mut sections = vec![Section::new("answer", "", answer(report))];
    if let Some(best) = &report.best {
        sections.push(Section::new("capacity", "At its capacity", bench::answer(best)));
        sections.extend(bench::seen(best));
    }
    if report.answer.failures().next().is_some() {
        sections.push(Section::new("lost", "Servers that failed", failures(report)));
    }
    let slo = report.slo_text();
    sections.push(page::provenance(&origin(&report.about, s, slo.clone()), Vec::new()));
    Page {
        title: format!("knee tune: {} on {}", s.model, report.answer.source.on),
        headline: headline(report),
        times: Times::of(s.simulated),
        facts: facts(s, slo),
        sections,
        version: &s.version,
    }
    .render()
}

fn answer(report: &ServedReport) -> Markup {
    html! {
        @if let Some(command) = report.best_command() { p.lead { (code(command)) } }
        (contest::section(&report.answer))
    }
}

fn failures(report: &ServedReport) -> Markup {
    html! {
        @for (contender, failure) in report.answer.failures() {
            h3 { (contender.label) }
            p { (capitalised(&failure.why)) "." }
            @if !failure.last_lines.is_empty() {
                pre { (failure.last_lines.join("\n")) }
            }
        }
    }
}
