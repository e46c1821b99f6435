//! Fused experts, by format.
//!
//! Only rows of even routing count: with skewed routing and the experts spread over ranks, the tables hold one lucky
//! rank. A device without rows of even routing takes the mildest skew on a rank that holds all experts. What uneven
//! routing costs is found on ranks that hold all experts, from the rows of both kinds.

use std::collections::{BTreeMap, BTreeSet};

use super::{Origin, Rows, Work};
use crate::format::Format;
use crate::import::fit::Sample;
use crate::import::rows::{Layout, sample, shapes_of};
use crate::import::tables::{ImportError, Row, Run};
use crate::profile::operators::experts::{Experts, experts_metric};
use crate::profile::{Metric, Roof};

/// Load from which every expert is awake, however its tokens were dealt.
const ALL_AWAKE: f64 = 2.0;

/// True for rows in a format.
fn experts_in(run: &Run, wanted: Format) -> bool {
    matches!(run, Run::Experts { format, .. } if *format == wanted)
}

impl Work<'_> {
    pub(super) fn experts(&mut self) -> Result<(), ImportError> {
        for format in Format::ALL {
            if let Some(origin) = self.own("experts", |run| experts_in(run, format)) {
                self.experts_of(&origin, format)?;
            }
        }
        if let Some(origin) = self.own("experts", |run| matches!(run, Run::Experts { .. })) {
            self.routing(&origin);
        }
        Ok(())
    }

    /// Enters the factors of uneven routing, where there are rows of both kinds.
    fn routing(&mut self, origin: &Origin<'_>) {
        let by_format: BTreeMap<Format, Vec<(f64, f64)>> = Format::ALL
            .into_iter()
            .map(|format| (format, uneven(&origin.part.rows, format)))
            .filter(|(_, factors)| !factors.is_empty())
            .collect();
        let loads = by_format.values().flatten().map(|(load, _)| load.log2().round() as i32);
        let loads: BTreeSet<i32> = loads.collect();
        if loads.is_empty() {
            return;
        }
        let x: Vec<f64> = loads.iter().map(|octave| 2f64.powi(*octave)).collect();
        // Where a format lacks a load, that of its nearest holds.
        let filled = |factors: &Vec<(f64, f64)>| -> Vec<i64> {
            let apart = |load: f64, x: f64| (load / x).log2().abs();
            let nearest = |x: &f64| {
                let closest =
                    |a: &&(f64, f64), b: &&(f64, f64)| apart(a.0, *x).total_cmp(&apart(b.0, *x));
                factors.iter().min_by(closest).map_or(1000, |f| (f.1 * 1e3).round() as i64)
            };
            x.iter().map(nearest).collect()
        };
        let per_mille: toml::Table = by_format
            .iter()
            .map(|(f, found)| (f.name().to_owned(), filled(found).into()))
            .collect();
        let mut entry = toml::Table::new();
        entry.insert("source".to_owned(), origin.source().into());
        entry.insert("x".to_owned(), x.into());
        entry.insert("per_mille".to_owned(), per_mille.into());
        self.fitted.entries.insert("routing".to_owned(), entry.into());
    }

    fn experts_of(&mut self, origin: &Origin<'_>, format: Format) -> Result<(), ImportError> {
        let peaks = origin.part.limits.peaks();
        // A table does not say whether its experts have gates; those that have none move less.
        let gated: BTreeMap<Vec<u32>, bool> = (origin.part.rows.iter())
            .filter_map(|row| match row.run {
                Run::Experts { experts, .. } => Some((experts.shape().to_vec(), experts.gated)),
                _ => None,
            })
            .collect();
        let roof = move |shape: &[u32], start: f64| {
            let [hidden, inter, held, total, top_k] = [0, 1, 2, 3, 4].map(|i| shape[i]);
            let gated = gated.get(shape).copied().unwrap_or(true);
            let experts = Experts { hidden, inter, held, total, top_k, gated };
            Roof { start, ..experts.roof(&peaks, format) }
        };
        let even =
            (origin.part.rows.iter()).any(|row| matches!(row.run, Run::Experts { even: true, .. }));
        let wanted = |row: &Row| match row.run {
            Run::Experts { experts, even: e, tokens, .. }
                if e || (!even && experts.held == experts.total) =>
            {
                let load = tokens / experts.tokens_per_load();
                Some(sample(&experts.shape(), load, 0.0, row.seconds))
            }
            _ => None,
        };
        let mut rows = Rows::select(origin.part, |run| experts_in(run, format), wanted);
        let asleep = asleep(&rows.samples, &roof);
        let before = rows.samples.len();
        rows.samples.retain(|(s, _)| !asleep.contains(&s.shape));
        rows.left_out += before - rows.samples.len();
        if !asleep.is_empty() {
            self.fitted.notes.push(format!(
                "experts in {format}: {} shapes are left out, faster than memory allows: not all of their experts \
                 were awake",
                asleep.len()
            ));
        }
        let layout = layout(&rows.samples);
        self.table(("experts", Some(format.name())), origin, layout, &roof, rows)
    }
}

/// Rows of an octave of the load from which a factor is taken.
const LEAST_ROWS: usize = 3;

/// The factor of uneven routing on the time of tokens that choose at random, by load: the median over all shapes, in
/// octaves of the load.
fn uneven(rows: &[Row], wanted: Format) -> Vec<(f64, f64)> {
    let mut times: BTreeMap<(Vec<u32>, u64), [Option<f64>; 2]> = BTreeMap::new();
    for row in rows {
        if let Run::Experts { experts, format, tokens, even } = row.run
            && format == wanted
            && experts.held == experts.total
        {
            let key = (experts.shape().to_vec(), tokens as u64);
            times.entry(key).or_default()[usize::from(even)] = Some(row.seconds);
        }
    }
    let mut factors: BTreeMap<i32, Vec<f64>> = BTreeMap::new();
    for ((shape, tokens), both) in &times {
        let [Some(uneven), Some(even)] = both else { continue };
        let Some([_, Some(one)]) = times.get(&(shape.clone(), 1)) else { continue };
        let [hidden, inter, held, total, top_k] = [0, 1, 2, 3, 4].map(|i| shape[i]);
        let experts = Experts { hidden, inter, held, total, top_k, gated: true };
        let tokens = *tokens as f64;
        let random = one + (even - one).max(0.0) * experts.share_at_random(tokens);
        let octave = (tokens / experts.tokens_per_load()).log2().round() as i32;
        factors.entry(octave).or_default().push(uneven / random);
    }
    factors.retain(|_, found| found.len() >= LEAST_ROWS);
    let middle = |mut found: Vec<f64>| {
        found.sort_by(f64::total_cmp);
        found[found.len() / 2]
    };
    factors.into_iter().map(|(octave, found)| (2f64.powi(octave), middle(found))).collect()
}

/// Shapes whose rows are faster than memory allows where every expert should be awake: their router chose among a part
/// of them.
fn asleep(samples: &[(Sample, Row)], roof: &dyn Fn(&[u32], f64) -> Roof) -> BTreeSet<Vec<u32>> {
    let awake = samples.iter().filter(|(s, _)| (ALL_AWAKE..2.0 * ALL_AWAKE).contains(&s.x));
    awake
        .filter(|(s, _)| s.seconds < roof(&s.shape, 0.0).at(s.x))
        .map(|(s, _)| s.shape.clone())
        .collect()
}

/// Knots at octaves of the load, so that one is at 1, where the last expert wakes; shapes: a layer whole, split into
/// quarters of its experts' width, and over 4, 16 and 64 ranks by its experts. Other splits are predicted from these.
fn layout(samples: &[(Sample, Row)]) -> Layout {
    let mut shapes = shapes_of(samples);
    let mut widest: BTreeMap<[u32; 4], u32> = BTreeMap::new();
    for s in &shapes {
        let width = widest.entry([s[0], s[2], s[3], s[4]]).or_default();
        *width = s[1].max(*width);
    }
    shapes.retain(|s| match s[3] / s[2].max(1) {
        1 => matches!(widest[&[s[0], s[2], s[3], s[4]]] / s[1], 1 | 4),
        ranks => matches!(ranks, 4 | 16 | 64),
    });
    let x = loads(samples);
    (shapes, x, Vec::new(), experts_metric as Metric, [0.1, 0.02])
}

/// Octaves of the load; beyond them the ends hold.
fn loads(samples: &[(Sample, Row)]) -> Vec<f64> {
    let most = samples.iter().map(|(s, _)| s.x).fold(1.0, f64::max);
    let loads = (-6..=10).map(|e| 2f64.powi(e));
    loads.filter(|load| *load <= most).collect()
}
