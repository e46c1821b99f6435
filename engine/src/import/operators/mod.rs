//! The rows that an operator's table is fitted to, and the values that fill the gaps: a file for each operator.
//!
//! An operator names its own rows, their values in the variables of its table ([`Sample`]), its roofline and the places
//! of its knots ([`Layout`]). The rest is the same for all: doubtful rows are left out, the start and the knots are
//! fitted, and the error is found on rows that the fit had not seen.

mod attention;
mod collective;
mod delta;
mod experts;
mod gemm;
mod latent;
mod moved;

use std::collections::BTreeSet;

use super::fit::{Form, Sample, error, ratios, spread, unseen};
use super::outliers::outliers;
use super::rows::{Layout, starts_us, whole};
use super::tables::{Family, Fitted, ImportError, Part, Point, Row, Run, Sheet, Tables};
use crate::profile::{MOST_OF_WORK, Roof, Table};

/// The source of the rows that are fitted.
struct Origin<'a> {
    part: &'a Part,
    composed: bool,
}

impl Origin<'_> {
    fn source(&self) -> String {
        let Tables { family, system, links, of, .. } = &self.part.from;
        let links = links.as_ref().map_or_else(String::new, |l| format!(", {l}"));
        let of = of.as_ref().map_or_else(String::new, |of| format!("; efficiencies of {of}"));
        let composed = if self.composed { "composed: " } else { "" };
        format!("{composed}{}, {system}{links}{of}", family.name())
    }
}

/// The roofline of a shape, by its numbers and the start in seconds.
type Roofline<'a> = &'a dyn Fn(&[u32], f64) -> Roof;

/// Rows of one table in its variables.
struct Rows {
    samples: Vec<(Sample, Row)>,
    left_out: usize,
}

impl Rows {
    /// The rows of an operator that are wanted, and how many are not.
    fn select(
        part: &Part,
        of_operator: impl Fn(&Run) -> bool,
        wanted: impl Fn(&Row) -> Option<Sample>,
    ) -> Self {
        let mut rows = Self { samples: Vec::new(), left_out: 0 };
        for row in part.rows.iter().filter(|row| of_operator(&row.run)) {
            match wanted(row) {
                Some(sample) => rows.samples.push((sample, *row)),
                None => rows.left_out += 1,
            }
        }
        rows
    }
}

pub(super) fn fit_all(sheet: &Sheet, parts: &[Part], seed: u64) -> Result<Fitted, ImportError> {
    let mut fitted = Fitted::default();
    let mut work = Work { sheet, parts, seed, fitted: &mut fitted };
    work.gemm()?;
    work.prefill_attention()?;
    work.decode_attention()?;
    work.experts()?;
    work.latent()?;
    work.delta()?;
    work.moved("elementwise", |run| match run {
        Run::Move { bytes } => Some(*bytes),
        _ => None,
    })?;
    work.moved("sampler", |run| match run {
        Run::Choose { bytes } => Some(*bytes),
        _ => None,
    })?;
    work.all_reduce()?;
    work.collectives()?;
    work.link("node", false)?;
    work.link("network", true)?;
    Ok(fitted)
}

struct Work<'a> {
    sheet: &'a Sheet,
    parts: &'a [Part],
    seed: u64,
    fitted: &'a mut Fitted,
}

impl<'a> Work<'a> {
    /// The first family that has rows of `operator`. None where a constant of the sheet stands in.
    fn origin(
        &mut self,
        operator: &str,
        has: impl Fn(&Run) -> bool,
    ) -> Result<Option<Origin<'a>>, ImportError> {
        for (i, part) in self.parts.iter().enumerate() {
            let asked =
                part.from.operators.is_empty() || part.from.operators.iter().any(|o| o == operator);
            if asked && part.rows.iter().any(|row| has(&row.run)) {
                let origin = Origin { part, composed: i > 0 };
                if i > 0 {
                    self.fitted.composed.push(format!("{operator}: {}", origin.source()));
                    self.fitted.notes.push(format!("{operator} is {}", origin.source()));
                }
                return Ok(Some(origin));
            }
        }
        let constant = self.sheet.rest.get(operator);
        if let Some(source) = constant.and_then(|c| c.get("source")).and_then(|s| s.as_str()) {
            self.fitted.notes.push(format!("{operator} is a constant of the sheet: {source}"));
            return Ok(None);
        }
        let tables = &self.sheet.tables;
        let other = tables.compose.iter().find(|t| t.operators.iter().any(|o| o == operator));
        Err(ImportError::Missing {
            operator: operator.to_owned(),
            family: tables.family.name(),
            system: tables.system.clone(),
            compose: other.map(|t| t.family.name()),
        })
    }

    /// The device's own rows of an operator that need not be there.
    fn own(&self, operator: &str, has: impl Fn(&Run) -> bool) -> Option<Origin<'a>> {
        let part = self.parts.first()?;
        let asked =
            part.from.operators.is_empty() || part.from.operators.iter().any(|o| o == operator);
        let found = asked && part.rows.iter().any(|row| has(&row.run));
        found.then_some(Origin { part, composed: false })
    }

    fn state(&mut self, operator: &str, points: Vec<Point>, left_out: usize, isotonic: f64) {
        let seen: Vec<f64> = points.iter().map(|p| p.fitted / p.measured).collect();
        let unseen: Vec<f64> = points.iter().map(|p| p.unseen / p.measured).collect();
        self.fitted.fit.insert(operator.to_owned(), error(&seen, &unseen, left_out, isotonic));
        self.fitted.points.insert(operator.to_owned(), points);
    }

    /// Fits the table of an operator, and enters it: `kind` alone where the profile has a field for it, else in
    /// `variant` of it.
    fn table(
        &mut self,
        (kind, variant): (&str, Option<&str>),
        origin: &Origin<'_>,
        layout: Layout,
        roof: Roofline<'_>,
        rows: Rows,
    ) -> Result<(), ImportError> {
        let name = variant.map_or_else(|| kind.to_owned(), |variant| format!("{kind}.{variant}"));
        let table = match self.fit(&name, origin, layout, roof, rows) {
            // A table of a further format without usable rows is left out; its times are borrowed.
            Err(ImportError::Unusable { rows, .. }) if variant.is_some() => {
                self.fitted
                    .notes
                    .push(format!("{name} is left out: none of its {rows} rows can be used"));
                return Ok(());
            }
            fitted => fitted?,
        };
        let entry = entry(table, origin.part.timed.get(kind));
        match variant {
            None => {
                self.fitted.entries.insert(kind.to_owned(), entry.into());
            }
            Some(variant) => {
                let of_kind = self.fitted.operators.entry(kind.to_owned()).or_default();
                of_kind.insert(variant.to_owned(), entry);
            }
        }
        Ok(())
    }

    fn fit(
        &mut self,
        operator: &str,
        origin: &Origin<'_>,
        layout: Layout,
        roof: Roofline<'_>,
        rows: Rows,
    ) -> Result<Table, ImportError> {
        let Rows { samples, left_out } = rows;
        usable(operator, &samples, left_out)?;
        let plain: Vec<Sample> = samples.iter().map(|(s, _)| s.clone()).collect();
        let most = if operator.starts_with("prefill_attention") { MOST_OF_WORK } else { 1000 };
        let loss = |start: f64| {
            let at_start = move |shape: &[u32]| roof(shape, start * 1e-6);
            let form = whole(layout.clone(), start, String::new(), &at_start, most);
            spread(&ratios(&form.fit(&plain).0, &form, &plain))[0]
        };
        let [a, b] = starts_us(&samples, roof);
        let start = if a == b || loss(a) <= loss(b) { a } else { b };
        let at_start = move |shape: &[u32]| roof(shape, start * 1e-6);
        let form = whole(layout, start, origin.source(), &at_start, most);
        let job = Job { operator, form, samples, left_out };
        job.doubts(origin)?;
        // Faster than memory allows: served from the cache, which in a model other layers have flushed.
        let anyhow = operator.starts_with("prefill_attention")
            || matches!(operator, "elementwise" | "sampler")
            || operator.starts_with("all_reduce");
        let cached = |s: &Sample| !anyhow && s.seconds < at_start(&s.shape).at(s.x) - start * 1e-6;
        let grids = matches!(origin.part.from.family, Family::AiSimulate);
        let alone = if grids { outliers(&plain) } else { BTreeSet::new() };
        let kept: Vec<usize> =
            (0..plain.len()).filter(|i| !cached(&plain[*i]) && !alone.contains(i)).collect();
        let dropped = plain.len() - kept.len();
        let samples: Vec<Sample> = kept.iter().map(|i| plain[*i].clone()).collect();
        usable(operator, &samples, job.left_out + dropped)?;
        let (table, isotonic) = job.form.fit(&samples);
        let seen = ratios(&table, &job.form, &samples);
        let unseen = unseen(&job.form, &samples, self.seed);
        let points: Vec<Point> = (kept.iter().zip(&samples).zip(seen.iter().zip(&unseen)))
            .map(|((i, s), (seen, unseen))| Point {
                run: job.samples[*i].1.run,
                measured: s.seconds,
                fitted: seen * s.seconds,
                unseen: unseen * s.seconds,
            })
            .collect();
        self.state(operator, points, job.left_out + dropped, isotonic);
        Ok(table)
    }
}

/// A table as an entry of a profile.
fn entry(table: Table, timed_under: Option<&String>) -> toml::Table {
    let mut entry = toml::Table::new();
    entry.insert("start_us".to_owned(), table.start_us.into());
    entry.insert("source".to_owned(), table.source.into());
    if let Some(version) = timed_under {
        entry.insert("timed_under".to_owned(), version.clone().into());
    }
    for (key, axis) in [("x", table.x), ("y", table.y)] {
        if !axis.is_empty() {
            entry.insert(key.to_owned(), axis.into());
        }
    }
    let whole = |row: &Vec<u32>| row.iter().map(|n| i64::from(*n)).collect::<Vec<_>>();
    if !table.shapes.is_empty() {
        let shapes: Vec<Vec<i64>> = table.shapes.iter().map(whole).collect();
        entry.insert("shapes".to_owned(), shapes.into());
    }
    let knots: Vec<Vec<i64>> =
        table.per_mille.iter().map(|r| r.iter().map(|e| i64::from(*e)).collect()).collect();
    entry.insert("per_mille".to_owned(), knots.into());
    entry
}

/// Refuses an operator of which no row can be fitted to.
fn usable<T>(operator: &str, samples: &[T], left_out: usize) -> Result<(), ImportError> {
    if samples.is_empty() {
        return Err(ImportError::Unusable { operator: operator.to_owned(), rows: left_out });
    }
    Ok(())
}

/// Rows of one operator, ready to fit.
struct Job<'a> {
    operator: &'a str,
    form: Form<'a>,
    samples: Vec<(Sample, Row)>,
    left_out: usize,
}

impl Job<'_> {
    /// Refuses times that no hardware shows.
    fn doubts(&self, origin: &Origin<'_>) -> Result<(), ImportError> {
        let roof = |s: &Sample| (self.form.roof)(&s.shape).at(s.x) - self.form.start_us * 1e-6;
        let middle = |of: &dyn Fn(&Sample) -> bool| {
            let mut found: Vec<f64> = (self.samples.iter())
                .filter(|(s, _)| of(s))
                .map(|(s, _)| s.seconds / roof(s))
                .collect();
            found.sort_by(f64::total_cmp);
            found.get(found.len() / 2).copied()
        };
        let quick = middle(&|_| true).filter(|ratio| *ratio < 0.2);
        // Starting does not count in work of a tenth of a millisecond or more.
        let slow = middle(&|s| roof(s) > 1e-4).filter(|ratio| *ratio > 100.0);
        match quick.or(slow) {
            Some(ratio) => Err(ImportError::Units {
                operator: self.operator.to_owned(),
                family: origin.part.from.family.name(),
                system: origin.part.from.system.clone(),
                ratio,
            }),
            None => Ok(()),
        }
    }
}
