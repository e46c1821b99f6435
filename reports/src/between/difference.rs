//! The differences between two results: in the question, in the configuration chosen, in every figure.

use super::facts::{Better, Facts, Figure, Unit};
use crate::figures::{self, NONE};
use crate::page::{Page, Row, Section, Times, cell, fitted};
use crate::wrap::{Look, Screen, Terminal};
use maud::{Markup, html};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};

/// The differences from one result to another.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Difference {
    /// The names of the two.
    pub names: (String, String),
    /// The parts of the question that differ.
    pub question: Vec<Changed>,
    /// The knobs that differ.
    pub configuration: Vec<Changed>,
    /// Every figure of either.
    pub figures: Vec<Moved>,
    #[serde(skip)]
    times: Times,
}

/// A text that differs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Changed {
    /// Its name.
    pub what: String,
    /// In the first; none where that has none.
    pub before: Option<String>,
    /// In the second.
    pub after: Option<String>,
}

/// A figure in both.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Moved {
    /// Its name.
    pub what: String,
    /// Its unit.
    pub unit: Unit,
    /// In the first; none where that has none.
    pub before: Option<f64>,
    /// In the second.
    pub after: Option<f64>,
    /// The second over the first, less one; of a share the difference. None where one of them is missing or 0.
    pub change: Option<f64>,
    /// True where it became better, false where worse; none where it is equal, or no direction is better.
    pub better: Option<bool>,
}

impl Difference {
    /// From `first` to `second`, each with its name.
    #[must_use]
    pub fn new(first: (&str, &Facts), second: (&str, &Facts)) -> Self {
        let ((before, a), (after, b)) = (first, second);
        let mut figures: Vec<Moved> =
            a.figures.iter().map(|f| Moved::new(f, b.figure(&f.name))).collect();
        let new = b.figures.iter().filter(|f| a.figure(&f.name).is_none());
        figures.extend(new.map(|f| Moved { before: None, after: f.value, ..Moved::new(f, None) }));
        Self {
            names: (before.to_owned(), after.to_owned()),
            question: changed(&a.question, &b.question),
            configuration: changed(&a.configuration, &b.configuration),
            figures,
            times: match (a.simulated, b.simulated) {
                (Some(a), Some(b)) if a == b => Times::of(a),
                _ => Times::Both,
            },
        }
    }

    /// It in one sentence: the first figure, which is the answer.
    #[must_use]
    pub fn headline(&self) -> String {
        let asked = if self.question.is_empty() { "The same question" } else { "Another question" };
        let Some(first) = self.figures.first() else { return format!("{asked}, and no figures.") };
        let (unit, what) = (first.unit, &first.what);
        let value = |value: Option<f64>| match (value, unit.name()) {
            (None, _) => "nothing".to_owned(),
            (value, "") => unit.shown(value),
            (value, name) => format!("{} {name}", unit.shown(value)),
        };
        let (before, after) = (value(first.before), value(first.after));
        match first.change {
            Some(change) if change != 0.0 => {
                format!("{asked}; {what} went from {before} to {after} ({}).", signed(change))
            }
            _ if first.before == first.after => format!("{asked}; {what} is {after}, as before."),
            _ => format!("{asked}; {what} went from {before} to {after}."),
        }
    }

    /// The summary for a terminal.
    #[must_use]
    pub fn terminal(&self, terminal: Terminal) -> String {
        let mut s = Screen::new(terminal);
        s.say(&self.headline(), 0, Some(Look::Bold));
        s.say(&format!("{} -> {}", self.names.0, self.names.1), 2, Some(Look::Quiet));
        for (name, changes) in
            [("question", &self.question), ("configuration", &self.configuration)]
        {
            if changes.is_empty() {
                s.say(&format!("  {name}: equal"), 4, None);
                continue;
            }
            s.gap();
            let rows: Vec<Vec<String>> = changes.iter().map(|c| c.cells().to_vec()).collect();
            s.table(&[name, "before", "after"], &rows, None);
        }
        s.gap();
        let rows: Vec<Vec<String>> = self.figures.iter().map(|m| m.cells().to_vec()).collect();
        s.table(&HEAD, &rows, None);
        s.text
    }
}

/// The columns of figures.
const HEAD: [&str; 5] = ["figure", "before", "after", "change", ""];

impl Moved {
    fn new(figure: &Figure, after: Option<&Figure>) -> Self {
        let (unit, before, after) = (figure.unit, figure.value, after.and_then(|f| f.value));
        let change = match (before, after) {
            (Some(a), Some(b)) if unit == Unit::Share => Some(b - a),
            (Some(a), Some(b)) if a != 0.0 => Some(b / a - 1.0),
            _ => None,
        };
        let better =
            change.filter(|change| *change != 0.0).and_then(|change| match figure.better {
                Better::Higher => Some(change > 0.0),
                Better::Lower => Some(change < 0.0),
                Better::Neither => None,
            });
        Self { what: figure.name.clone(), unit, before, after, change, better }
    }

    fn cells(&self) -> [String; 5] {
        let change = self.change.map_or_else(
            || NONE.to_owned(),
            |change| match change {
                0.0 => "=".to_owned(),
                change => signed(change),
            },
        );
        let verdict = match self.better {
            Some(true) => "better",
            Some(false) => "worse",
            None => "",
        };
        let what = match self.unit.name() {
            "" => self.what.clone(),
            unit => format!("{}, {unit}", self.what),
        };
        let (before, after) = (self.unit.shown(self.before), self.unit.shown(self.after));
        [what, before, after, change, verdict.to_owned()]
    }
}

impl Changed {
    fn cells(&self) -> [String; 3] {
        let value = |value: &Option<String>| value.clone().unwrap_or_else(|| NONE.to_owned());
        [self.what.clone(), value(&self.before), value(&self.after)]
    }
}

/// A share with its sign.
fn signed(change: f64) -> String {
    format!("{}{}", if change > 0.0 { "+" } else { "" }, figures::percent(change))
}

pub(super) fn changed(a: &BTreeMap<String, String>, b: &BTreeMap<String, String>) -> Vec<Changed> {
    let names: BTreeSet<&String> = a.keys().chain(b.keys()).collect();
    let differ = names.into_iter().filter(|name| a.get(*name) != b.get(*name));
    let changed = |name: &String| Changed {
        what: name.clone(),
        before: a.get(name).cloned(),
        after: b.get(name).cloned(),
    };
    differ.map(changed).collect()
}

/// The page.
#[must_use]
pub fn difference_page(d: &Difference) -> String {
    Page {
        title: format!("knee: {} and {}", d.names.0, d.names.1),
        headline: d.headline(),
        times: d.times,
        facts: vec![format!("before: {}", d.names.0), format!("after: {}", d.names.1)],
        sections: vec![
            Section::new("figures", "", figures_of(d)),
            Section::new("question", "What was asked", texts(&d.question, "The same was asked.")),
            Section::new(
                "configuration",
                "What was chosen",
                texts(&d.configuration, "The same configuration."),
            ),
        ],
        version: env!("CARGO_PKG_VERSION"),
    }
    .render()
}

fn figures_of(d: &Difference) -> Markup {
    let row = |moved: &Moved| -> Row {
        let [what, before, after, change, verdict] = moved.cells();
        let verdict = match moved.better {
            Some(true) => html! { span.met { (verdict) } },
            Some(false) => html! { span.missed { (verdict) } },
            None => html! {},
        };
        let unchanged = if moved.before == moved.after { "off" } else { "" };
        (vec![cell(what), cell(before), cell(after), cell(change), verdict], unchanged)
    };
    let rows: Vec<Row> = d.figures.iter().map(row).collect();
    let [what, before, after, change, verdict] = HEAD;
    html! {
        (fitted(&[(what, false), (before, true), (after, true), (change, true), (verdict, false)], &rows))
        p.quiet { "The change of a margin is a difference of two shares. Latencies at capacity are near their limits, whatever the capacity, so that none of them is called better." }
    }
}

fn texts(changes: &[Changed], equal: &str) -> Markup {
    let rows: Vec<Row> = changes.iter().map(|c| (c.cells().map(cell).to_vec(), "")).collect();
    html! {
        @if rows.is_empty() { p { (equal) } }
        @else { (fitted(&[("", false), ("before", false), ("after", false)], &rows)) }
    }
}
