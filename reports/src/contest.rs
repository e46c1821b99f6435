//! The answer of a contest on a real engine: the rate that each contender carries, its simulated
//! rate, and the fate of the rest.
//!
//! The same words and tables serve this machine, a server, and servers that were started for the search.

use crate::figures::{NONE, capitalised, opt_ms, percent, rate, seconds, sig};
use crate::page::{self, Column, Row, cell, whole};
use loadgen::Metric;
use maud::{Markup, html};
use tuner::contest::turns::flags::DEFAULTS;
use tuner::result::{Answer, Contender, Standing, Tried};

/// The rest of what an answer is about.
pub(crate) struct Terms<'a> {
    /// Of rates: `requests/s`.
    pub(crate) unit: &'a str,
    /// The traffic's name.
    pub(crate) workload: &'a str,
    /// The targets as a person says them.
    pub(crate) slo: String,
}

/// The answer in one sentence; that of a search that was interrupted is unfinished.
pub(crate) fn headline(answer: &Answer, terms: &Terms<'_>) -> String {
    let said = finding(answer, terms);
    if answer.interrupted { format!("Unfinished search: {said}") } else { said }
}

fn finding(answer: &Answer, terms: &Terms<'_>) -> String {
    let (on, Terms { unit, workload, slo }) = (&answer.source.on, terms);
    match answer.best() {
        Some((winner, rps)) => {
            let verb = if winner.label == DEFAULTS { "carry" } else { "carries" };
            let many = answer.contenders.len() > 1;
            let who = if many { format!("{} {verb} ", winner.label) } else { String::new() };
            let aside = aside(answer, winner, rps);
            format!("Measured on {on}: {who}{} {unit} of {workload} with {slo}{aside}.", rate(rps))
        }
        None if answer.contenders.iter().all(|c| matches!(c.standing, Standing::Untried(_))) => {
            format!("Measured on {on}: nothing, as no run was made.")
        }
        None => format!("Measured on {on}: nothing that was tried holds {slo}."),
    }
}

/// The comparison of the winner's capacity: with a prediction, or with the server's own.
fn aside(answer: &Answer, winner: &Contender, rps: f64) -> String {
    let own = answer.contenders.iter().find(|c| c.label == DEFAULTS);
    let others = answer.contenders.iter().any(|c| c.label != DEFAULTS && !c.tried.is_empty());
    match (own.and_then(|c| c.standing.carries()), winner.predicted_rps) {
        (Some(_), _) if winner.label == DEFAULTS && others => {
            "; no other flags that were tried carry more".to_owned()
        }
        (Some(own), _) if winner.label != DEFAULTS => {
            format!(", {}× what {DEFAULTS} carry", sig(rps / own, 3))
        }
        (_, Some(predicted)) => format!(" ({} simulated)", rate(predicted)),
        _ => String::new(),
    }
}

/// The course of the contest, in a few sentences.
pub(crate) fn course(answer: &Answer) -> String {
    let all = answer.contenders.len();
    let started =
        answer.contenders.iter().filter(|c| !matches!(c.standing, Standing::Untried(_))).count();
    let who = match all {
        1 => String::new(),
        _ => format!("{started} of {all} configurations were tried: "),
    };
    let failed = match answer.failures().count() {
        0 => String::new(),
        n => format!(", {n} configurations failed"),
    };
    let slow = match answer.slow_runs() {
        0 => String::new(),
        n => format!(", {n} of them on a machine slower than usual"),
    };
    let runs = if answer.runs == 1 { "run" } else { "runs" };
    let residual = answer.residual.map_or_else(String::new, |x| {
        format!(" What was measured is {} of what was simulated.", percent(x))
    });
    let anew = answer.pace.map_or_else(String::new, |pace| {
        let share = percent(pace);
        format!(" The first runs took {share} of the time that the profile says, so it was simulated anew at that pace.")
    });
    let (even, bound) = match answer.best() {
        Some((winner, _)) => ("", winner.first_to_fail()),
        None => ("Even ", lowest(answer)),
    };
    let bound = bound.filter(|t| !t.held).map_or_else(String::new, |t| {
        let limit = t.limit.map_or_else(String::new, |l| format!("; the limit is {}", l.words()));
        format!(" {even}{} requests/s fail: {}{limit}.", rate(t.rate_rps), t.why)
    });
    let load = seconds(answer.load_s);
    capitalised(&format!(
        "{who}{} {runs} in {load}{slow}{failed}.{bound}{residual}{anew}",
        answer.runs
    ))
}

/// The lowest rate that was tried.
fn lowest(answer: &Answer) -> Option<&Tried> {
    let tried = answer.contenders.iter().flat_map(|c| &c.tried);
    tried.min_by(|a, b| a.rate_rps.total_cmp(&b.rate_rps))
}

/// Columns of the table of contenders; whether they hold numbers.
const COLUMNS: [Column; 7] = [
    ("configuration", false),
    ("simulated /s", true),
    ("measured /s", true),
    ("fails at", true),
    ("p99 TTFT, TPOT", true),
    ("runs", true),
    ("ready after", true),
];

/// The columns of which there is something to say, and the rows under them.
pub(crate) fn contenders<'a>(
    of: impl Iterator<Item = &'a Contender>,
) -> (Vec<Column>, Vec<Vec<String>>) {
    filled(&COLUMNS, &of.map(|c| cells(c).to_vec()).collect::<Vec<_>>())
}

/// Of a table, the columns that are not empty.
fn filled(columns: &[Column], rows: &[Vec<String>]) -> (Vec<Column>, Vec<Vec<String>>) {
    let shown: Vec<usize> =
        (0..columns.len()).filter(|i| *i == 0 || rows.iter().any(|row| row[*i] != NONE)).collect();
    let pick = |row: &Vec<String>| shown.iter().map(|i| row[*i].clone()).collect();
    (shown.iter().map(|i| columns[*i]).collect(), rows.iter().map(pick).collect())
}

fn cells(c: &Contender) -> [String; COLUMNS.len()] {
    let measured = match &c.standing {
        Standing::Carries(rps) => rate(*rps),
        Standing::Beaten(rps) => format!("below {}", rate(*rps)),
        Standing::Nothing => "nothing".to_owned(),
        Standing::Failed(_) => "FAILED".to_owned(),
        Standing::Twin | Standing::Untried(_) => "not tried".to_owned(),
    };
    // A contender that carries no more than it completes with everything offered at once was not
    // tried at that very rate.
    let at = c.standing.carries();
    let there = at.and_then(|at| c.tried.iter().find(|t| t.held && t.rate_rps >= at));
    let there = there.map_or_else(
        || NONE.to_owned(),
        |t| format!("{}, {}", opt_ms(t.p99.get(Metric::Ttft)), opt_ms(t.p99.get(Metric::Tpot))),
    );
    let figure = |x: Option<f64>| x.map_or_else(|| NONE.to_owned(), rate);
    [
        c.label.clone(),
        figure(c.predicted_rps),
        measured,
        figure(c.fails_at_rps),
        there,
        c.tried.len().to_string(),
        c.ready_s.map_or_else(|| NONE.to_owned(), seconds),
    ]
}

/// Columns of the table of rates; whether they hold numbers.
const RATES: [Column; 6] = [
    ("offered /s", false),
    ("for", true),
    ("p99 TTFT", true),
    ("p99 TPOT", true),
    ("finished /s", true),
    ("verdict", false),
];

/// Every rate that was tried, in order: the columns of which there is something to say, and rows. `why` is told of what
/// failed.
pub(crate) fn rates(
    tried: &[Tried],
    why: impl Fn(&Tried) -> &str,
) -> (Vec<Column>, Vec<Vec<String>>) {
    let row = |t: &Tried| {
        let verdict = match (t.held, t.steady) {
            (true, true) => "holds".to_owned(),
            (true, false) => "holds as yet: its requests take longer".to_owned(),
            (false, _) => format!("fails: {}", why(t)),
        };
        vec![
            rate(t.rate_rps),
            t.offered_s.map_or_else(|| NONE.to_owned(), seconds),
            opt_ms(t.p99.get(Metric::Ttft)),
            opt_ms(t.p99.get(Metric::Tpot)),
            t.finished_rps.map_or_else(|| NONE.to_owned(), rate),
            verdict,
        ]
    };
    filled(&RATES, &tried.iter().map(row).collect::<Vec<_>>())
}

/// The section of a page.
pub(crate) fn section(answer: &Answer) -> Markup {
    let row = |(i, (c, cells)): (usize, (&Contender, Vec<String>))| -> Row {
        let look = match &c.standing {
            _ if answer.winner == Some(i) => "chosen",
            Standing::Failed(_) | Standing::Untried(_) => "off",
            _ => "",
        };
        let mut cells = cells.into_iter();
        let label = cells.next().unwrap_or_default();
        let mut row: Vec<Markup> = std::iter::once(whole(label)).chain(cells.map(cell)).collect();
        row.push(cell(match &c.standing {
            Standing::Untried(Some(why)) => why,
            Standing::Failed(failure) => &failure.why,
            _ => "",
        }));
        (row, look)
    };
    let (mut columns, rows) = contenders(answer.contenders.iter());
    columns.push(("", false));
    let rows: Vec<Row> = answer.contenders.iter().zip(rows).enumerate().map(row).collect();
    html! {
        p { (course(answer)) }
        @match &answer.contenders[..] {
            [only] => (offered(&only.tried)),
            _ => (page::table(&columns, &rows)),
        }
        (page::warnings(&doubts(answer)))
    }
}

/// The rates that were tried, as a table.
fn offered(tried: &[Tried]) -> Markup {
    let (columns, rows) = rates(tried, |t| &t.why);
    let look = |t: &Tried| if t.held { "" } else { "off" };
    let rows: Vec<Row> = (tried.iter().zip(rows))
        .map(|(t, row)| (row.into_iter().map(cell).collect(), look(t)))
        .collect();
    html! { @if !rows.is_empty() { (page::table(&columns, &rows)) } }
}

/// The reasons to doubt the answer, as sentences.
pub(crate) fn doubts(answer: &Answer) -> Vec<String> {
    answer.doubts().iter().map(|doubt| format!("{}.", capitalised(doubt))).collect()
}
