//! A result beside its requirements: each is a test that passes or fails, for continuous integration.

use super::difference::{Difference, changed};
use super::facts::{Better, CAPACITY, Facts, GOODPUT, Unit};
use crate::wrap::{Look, Screen, Terminal};
use loadgen::Target;
use serde::Serialize;
use std::fmt::Write as _;

/// The requirements of a result.
#[derive(Debug, Clone, Default)]
pub struct Requirements {
    /// The least rate that holds the targets, requests/s; of a single run the least goodput.
    pub min_rps: Option<f64>,
    /// Limits on latencies of all requests.
    pub max: Vec<Target>,
    /// Share that a figure may be worse than in an earlier result.
    pub tolerance: f64,
}

/// A requirement, and whether it was met.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Checked {
    /// The requirement, such as `capacity >= 7 requests/s`.
    pub name: String,
    /// True where it was met.
    pub passed: bool,
    /// The finding, in a sentence.
    pub found: String,
}

impl Requirements {
    /// The requirements beside `facts`; those on a `baseline` ask for the same question, and for every figure in which a
    /// direction is better.
    ///
    /// # Errors
    /// Names a requirement on a figure that such a result does not have.
    pub fn check(&self, facts: &Facts, baseline: Option<&Facts>) -> Result<Vec<Checked>, String> {
        let mut checked = Vec::new();
        if let Some(least) = self.min_rps {
            checked.push(at_least(facts, least)?);
        }
        for target in &self.max {
            checked.push(at_most(facts, target)?);
        }
        if let Some(baseline) = baseline {
            checked.extend(self.beside(facts, baseline));
        }
        Ok(checked)
    }

    fn beside(&self, facts: &Facts, baseline: &Facts) -> Vec<Checked> {
        let other = changed(&baseline.question, &facts.question);
        let said = other.iter().map(|c| {
            let value = |v: &Option<String>| v.clone().unwrap_or_else(|| "not given".to_owned());
            format!("{} was {}, and is {}", c.what, value(&c.before), value(&c.after))
        });
        let found = said.collect::<Vec<_>>().join("; ");
        let same = other.is_empty();
        let found = if same { "it is the same".to_owned() } else { found };
        let mut checked =
            vec![Checked { name: "the baseline's question".to_owned(), passed: same, found }];
        let watched = baseline.figures.iter().filter(|f| f.better != Better::Neither);
        for before in watched {
            let after = facts.figure(&before.name).and_then(|f| f.value);
            let passed = match (before.value, after, before.better) {
                (None, ..) => true,
                (Some(_), None, _) => false,
                (Some(a), Some(b), Better::Higher) => b >= a * (1.0 - self.tolerance),
                (Some(a), Some(b), _) => b <= a * (1.0 + self.tolerance),
            };
            let change = Difference::new(("", baseline), ("", facts));
            let change =
                change.figures.iter().find(|m| m.what == before.name).and_then(|m| m.change);
            let change = change.map_or_else(String::new, |c| format!(" ({:+.1} %)", 100.0 * c));
            let (unit, percent) = (before.unit, 100.0 * self.tolerance);
            checked.push(Checked {
                name: format!("{} not over {percent} % worse than the baseline's", before.name),
                passed,
                found: format!("{} -> {}{change}", shown(unit, before.value), shown(unit, after)),
            });
        }
        checked
    }
}

fn shown(unit: Unit, value: Option<f64>) -> String {
    let text = unit.shown(value).replace(crate::figures::THIN, " ");
    if unit.name().is_empty() || value.is_none() { text } else { format!("{text} {}", unit.name()) }
}

fn at_least(facts: &Facts, least: f64) -> Result<Checked, String> {
    let figure = facts.figure(CAPACITY).or_else(|| facts.figure(GOODPUT));
    let figure = figure.ok_or(
        "this result has no capacity of its own: check one of `knee tune`, `plan` or `bench`",
    )?;
    Ok(Checked {
        name: format!("{} >= {least} requests/s", figure.name),
        passed: figure.value.is_some_and(|value| value >= least),
        found: format!("{} is {}", figure.name, shown(figure.unit, figure.value)),
    })
}

fn at_most(facts: &Facts, target: &Target) -> Result<Checked, String> {
    let subject = target.subject();
    let known = || {
        let names = facts.figures.iter().filter(|f| f.unit == Unit::Ms).map(|f| f.name.as_str());
        names.collect::<Vec<_>>().join(", ")
    };
    let figure = facts.figure(&subject);
    let figure = figure.ok_or_else(|| format!("{target}: this result has {}", known()))?;
    let most = target.limit.as_secs_f64() * 1e3;
    Ok(Checked {
        name: format!("{subject} <= {}", shown(Unit::Ms, Some(most))),
        passed: figure.value.is_some_and(|value| value <= most),
        found: format!("{subject} is {}", shown(Unit::Ms, figure.value)),
    })
}

/// The requirements as a terminal shows them.
#[must_use]
pub fn checked_lines(checked: &[Checked], terminal: Terminal) -> String {
    let mut s = Screen::new(terminal);
    for c in checked {
        let (word, look) = if c.passed { ("ok    ", Look::Good) } else { ("FAILED", Look::Bad) };
        s.say(&format!("{word}  {}: {}", c.name, c.found), 8, Some(look));
    }
    let failed = checked.iter().filter(|c| !c.passed).count();
    s.say(&format!("{} passed, {failed} failed", checked.len() - failed), 0, Some(Look::Bold));
    s.text
}

/// The requirements as JUnit's XML, a test each.
#[must_use]
pub fn junit(checked: &[Checked], suite: &str) -> String {
    let failed = checked.iter().filter(|c| !c.passed).count();
    let mut xml = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n");
    let (tests, suite) = (checked.len(), escaped(suite));
    let _ = writeln!(xml, "<testsuite name=\"{suite}\" tests=\"{tests}\" failures=\"{failed}\">");
    for c in checked {
        let (name, found) = (escaped(&c.name), escaped(&c.found));
        let inner = match c.passed {
            true => format!("<system-out>{found}</system-out>"),
            false => format!("<failure message=\"{found}\"/>"),
        };
        let _ = writeln!(xml, "  <testcase classname=\"knee\" name=\"{name}\">{inner}</testcase>");
    }
    xml + "</testsuite>\n"
}

/// Text for XML: without control characters, which it cannot hold.
fn escaped(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars().filter(|c| !c.is_control()) {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::super::facts::Figure;
    use super::*;
    use proptest::prelude::*;

    fn facts(figures: &[(&str, Unit, f64, Better)]) -> Facts {
        let figure = |(name, unit, value, better): &(&str, Unit, f64, Better)| Figure {
            name: (*name).to_owned(),
            unit: *unit,
            value: Some(*value),
            better: *better,
        };
        Facts { figures: figures.iter().map(figure).collect(), ..Facts::default() }
    }

    #[test]
    fn requirements_are_met_or_not() {
        let now = facts(&[
            (CAPACITY, Unit::Rps, 6.9, Better::Higher),
            ("ttft:p99", Unit::Ms, 180.0, Better::Neither),
        ]);
        let max = vec!["ttft=200ms".parse().unwrap()];
        let asked = Requirements { min_rps: Some(7.0), max, tolerance: 0.0 };
        let checked = asked.check(&now, None).unwrap();
        insta::assert_snapshot!(checked_lines(&checked, Terminal::default()), @r"
        FAILED  capacity >= 7 requests/s: capacity is 6.90 requests/s
        ok      ttft:p99 <= 200 ms: ttft:p99 is 180 ms
        1 passed, 1 failed
        ");
        insta::assert_snapshot!(junit(&checked, "a<b"), @r#"
        <?xml version="1.0" encoding="UTF-8"?>
        <testsuite name="a&lt;b" tests="2" failures="1">
          <testcase classname="knee" name="capacity &gt;= 7 requests/s"><failure message="capacity is 6.90 requests/s"/></testcase>
          <testcase classname="knee" name="ttft:p99 &lt;= 200 ms"><system-out>ttft:p99 is 180 ms</system-out></testcase>
        </testsuite>
        "#);
        let itl = Requirements { max: vec!["itl:p50=1ms".parse().unwrap()], ..asked };
        assert_eq!(itl.check(&now, None), Err("itl:p50=1ms: this result has ttft:p99".to_owned()));
    }

    #[test]
    fn another_question_is_no_baseline() {
        let mut before = facts(&[(CAPACITY, Unit::Rps, 7.0, Better::Higher)]);
        let after = before.clone();
        before.question.insert("model".to_owned(), "tiny".to_owned());
        let checked = Requirements::default().check(&after, Some(&before)).unwrap();
        assert_eq!(
            (checked[0].passed, checked[0].found.as_str()),
            (false, "model was tiny, and is not given")
        );
        assert!(checked[1].passed);
    }

    proptest! {
        /// A figure passes exactly as far as the tolerance, in the direction that is worse.
        #[test]
        fn tolerance_is_for_the_worse(before in 0.1..1e4_f64, change in -0.9..0.9_f64, tolerance in 0.0..0.5_f64, higher: bool) {
            prop_assume!((change.abs() - tolerance).abs() > 1e-9);
            let better = if higher { Better::Higher } else { Better::Lower };
            let of = |value| facts(&[("x", Unit::Ms, value, better)]);
            let asked = Requirements { tolerance, ..Requirements::default() };
            let checked = asked.check(&of(before * (1.0 + change)), Some(&of(before))).unwrap();
            let worse = if higher { -change } else { change };
            prop_assert_eq!(checked[1].passed, worse <= tolerance, "{}", checked[1].found);
        }
    }
}
