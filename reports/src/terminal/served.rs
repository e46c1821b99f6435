//! The summary of a search on real servers: `knee tune --url` and `--launch`.

use super::figures;
use crate::compare::facts;
use crate::contest;
use crate::figures::capitalised;
use crate::report::ServedReport;
use crate::served::headline;
use crate::wrap::{Look, Screen, Terminal};
use tuner::knee::verdict::Limit;
use tuner::result::{Answer, Standing, Tried};

/// Lines shown of the log of a server that failed.
const LINES: usize = 3;

/// The answer, every configuration, what failed, and the figures of the best.
#[must_use]
pub fn served(report: &ServedReport, terminal: Terminal) -> String {
    let answer = &report.answer;
    let mut s = Screen::new(terminal);
    s.say(&headline(report), 0, Some(Look::Bold));
    s.origin(report.scenario.simulated, &facts(&report.scenario, report.slo_text()));
    if let Some(command) = report.best_command() {
        s.verbatim(&format!("  {command}"));
    }
    s.gap();
    s.contest(answer);
    for (contender, failure) in answer.failures() {
        let label = capitalised(&contender.label);
        s.say(&format!("! {label} FAILED: {}", failure.why), 2, Some(Look::Bad));
        let from = failure.last_lines.len().saturating_sub(LINES);
        for line in &failure.last_lines[from..] {
            s.say(&format!("    {line}"), 6, Some(Look::Quiet));
        }
    }
    if let Some(best) = &report.best {
        figures(&mut s, best);
    }
    s.text
}

impl Screen {
    /// Every contender that was tried (or every rate, if there is one contender), its result, and
    /// the doubts.
    pub(super) fn contest(&mut self, answer: &Answer) {
        let started = || {
            let all = answer.contenders.iter().enumerate();
            all.filter(|(_, c)| !matches!(c.standing, Standing::Untried(_)))
        };
        let ((columns, rows), chosen) = match &answer.contenders[..] {
            [only] => {
                let won = |t: &Tried| t.held && Some(t.rate_rps) == answer.capacity_rps;
                (contest::rates(&only.tried, limit), only.tried.iter().rposition(won))
            }
            _ => {
                let chosen = started().position(|(i, _)| Some(i) == answer.winner);
                (contest::contenders(started().map(|(_, c)| c)), chosen)
            }
        };
        let heads: Vec<&str> = columns.iter().map(|(name, _)| *name).collect();
        if !rows.is_empty() {
            self.table(&heads, &rows, chosen);
        }
        self.say(&format!("  {}", contest::course(answer)), 4, Some(Look::Quiet));
        for (why, count) in answer.untried() {
            self.say(&format!("  {count} not tried: {why}"), 4, Some(Look::Quiet));
        }
        for doubt in contest::doubts(answer) {
            self.say(&format!("! {doubt}"), 2, Some(Look::Bad));
        }
    }
}

/// The kind of a failure, in a word or two.
fn limit(tried: &Tried) -> &str {
    match tried.limit {
        Some(Limit::Latency) | None => "latency",
        Some(Limit::Throughput) => "falls behind",
        Some(Limit::Admission) => "refusals",
        Some(Limit::Failures) => "failures",
        Some(Limit::Unknown) => "not decidable",
    }
}
