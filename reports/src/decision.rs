//! The real engine's answer to a simulation's recommendations: measured and simulated side by side, each named so.

use crate::figures::{NONE, opt_ms, percent, rate, sig};
use crate::page::{self, Row, cell, whole};
use crate::sentences::slo_text;
use maud::{Markup, html};
use tuner::result::TuneResult;
use tuner::result::{Decision, Finalist, FinalistOutcome};

/// The answer in one sentence, where a real engine was asked.
pub(crate) fn headline(r: &TuneResult) -> Option<String> {
    let decision = r.decision.as_ref()?;
    let (unit, workload, slo) = (r.workload.unit(), &r.workload.name, slo_text(r));
    Some(match decision.best() {
        Some((finalist, rps)) => {
            let simulated = |rps| format!(" ({} simulated)", rate(rps));
            let simulated = finalist.predicted_rps.map_or_else(String::new, simulated);
            let rps = rate(rps);
            format!(
                "Measured: {} carries {rps} {unit} of {workload} with {slo}{simulated}.",
                r.device
            )
        }
        None if decision.runs == 0 => {
            format!("Measured: nothing; no run was made on {}.", r.device)
        }
        None => format!("Measured: nothing tried on {} holds {slo}.", r.device),
    })
}

/// The course of the decision, in one sentence.
pub(crate) fn sentence(decision: &Decision) -> String {
    let tried = decision.finalists.iter().filter(|f| !f.tried.is_empty()).count();
    let residual = decision.residual.map_or_else(String::new, |x| {
        format!("; the machine carries {} of what is simulated", percent(x))
    });
    let slow = match decision.slow_runs() {
        0 => String::new(),
        n => format!(" ({n} of them on a machine slower than usual)"),
    };
    let anew = decision.pace.map_or_else(String::new, |pace| {
        let share = percent(pace);
        format!(" The first runs took {share} of the time that the profile says, so it was simulated anew at that pace.")
    });
    let choice = decision.best().map_or_else(String::new, |(f, _)| format!("Use {}. ", f.label));
    format!(
        "{choice}Simulation recommended {} candidates; {tried} of them were run for real, {} runs in {} s{slow}{residual}.{anew}",
        decision.finalists.len(),
        decision.runs,
        sig(decision.took_s, 3)
    )
}

/// Columns of the table; whether they hold numbers.
pub(crate) const COLUMNS: [(&str, bool); 5] = [
    ("configuration", false),
    ("simulated /s", true),
    ("measured /s", true),
    ("p99 TTFT, TPOT", true),
    ("runs", true),
];

/// A finalist under [`COLUMNS`].
pub(crate) fn cells(f: &Finalist) -> [String; 5] {
    let (measured, at) = match f.outcome {
        FinalistOutcome::Carries(rps) => (rate(rps), Some(rps)),
        FinalistOutcome::Beaten(rps) => (format!("below {}", rate(rps)), None),
        FinalistOutcome::Nothing => ("nothing".to_owned(), None),
        FinalistOutcome::Untried => ("not tried".to_owned(), None),
    };
    // Where it carries no more than it completes with everything offered at once, that rate itself was not tried.
    let there = at.and_then(|at| f.tried.iter().find(|t| t.held && t.rate_rps >= at));
    let there = there.map_or_else(
        || NONE.to_owned(),
        |t| format!("{}, {}", opt_ms(t.ttft_p99_ms), opt_ms(t.tpot_p99_ms)),
    );
    let simulated = f.predicted_rps.map_or_else(|| NONE.to_owned(), rate);
    [f.label.clone(), simulated, measured, there, f.tried.len().to_string()]
}

/// The section of a page.
pub(crate) fn section(r: &TuneResult) -> Markup {
    let Some(decision) = &r.decision else { return html! {} };
    let row = |(i, f): (usize, &Finalist)| -> Row {
        let look = if decision.winner == Some(i) { "chosen" } else { "" };
        let [label, numbers @ ..] = cells(f);
        (std::iter::once(whole(label)).chain(numbers.map(cell)).collect(), look)
    };
    let rows = decision.finalists.iter().enumerate().map(row).collect::<Vec<_>>();
    html! {
        p { (sentence(decision)) " Everything else on this page is simulated." }
        (page::table(&COLUMNS, &rows))
    }
}
