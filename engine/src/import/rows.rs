//! Rows as samples of an operator's variables, and where its knots are.

use std::collections::{BTreeMap, BTreeSet};

use super::fit::{Form, Sample};
use super::tables::{Limits, Row, Run};
use crate::profile::{Chunks, Heads, Law, Metric, Roof, heads_metric};
use crate::shape::Shape;

/// Shapes, knots of both variables, metric and prior of a table.
pub(super) type Layout = (Vec<Vec<u32>>, Vec<f64>, Vec<f64>, Metric, [f64; 2]);

pub(super) fn whole<'a>(
    (shapes, x, y, metric, prior): Layout,
    start_us: f64,
    source: String,
    roof: &'a dyn Fn(&[u32]) -> Roof,
    most: u16,
) -> Form<'a> {
    Form { start_us, source, shapes, x, y, metric, roof, most, prior }
}

pub(super) fn sample(shape: &[u32], x: f64, y: f64, seconds: f64) -> Sample {
    Sample { shape: shape.to_vec(), x, y, seconds, weight: 1.0, floor: 0.0 }
}

/// Heads of models, whole or split over ranks: few alone tell of no kernel that matters.
pub(super) fn of_large_models(heads: Heads) -> bool {
    heads.query >= 4 && heads.query.is_multiple_of(heads.kv.max(1))
}

/// Tokens of prompts in a batch; beyond them no engine goes.
const MOST_CHUNK_TOKENS: f64 = 32_768.0;
/// Sequences in a batch: far beyond any.
const MOST_SEQS: f64 = 65_536.0;
/// Tokens of a sequence: beyond any model's context.
const MOST_CONTEXT: f64 = 16_777_216.0;

/// The work of a row of prompt chunks, and of decodes with them, for the device.
pub(super) fn chunk_shape(row: &Row, limits: &Limits) -> Option<Shape> {
    let Run::Attention { heads, chunks, tokens, history, decodes, length, .. } = row.run else {
        return None;
    };
    let batch = chunks.max(decodes) <= MOST_SEQS && chunks * tokens <= MOST_CHUNK_TOKENS;
    let long = history.max(length).max(tokens) <= MOST_CONTEXT;
    if (limits.large && !of_large_models(heads))
        || !batch
        || !long
        || (decodes > 0.0 && length < 1.0)
    {
        return None;
    }
    let mut shape = Shape::default();
    (0..chunks as u32).for_each(|_| shape.add(history as u32, tokens as u32, false, false));
    (0..decodes as u32).for_each(|_| shape.add(length as u32 - 1, 1, true, false));
    Some(shape)
}

/// The same in the variables of its kernel.
pub(super) fn chunk_sample(row: &Row, shape: &Shape, law: Law, limits: &Limits) -> Option<Sample> {
    let Run::Attention { heads, kv, .. } = row.run else { return None };
    let asked = Chunks::new(law, heads, kv, limits.peaks()).asked(shape);
    let sample = sample(&heads.shape(), asked.work, asked.longest, row.seconds);
    Some(Sample { floor: asked.floor, ..sample })
}

/// A row of decodes in the variables of its kernel.
pub(super) fn decode_sample(row: &Row, limits: &Limits) -> Option<Sample> {
    let Run::Attention { heads, decodes, length, .. } = row.run else { return None };
    if limits.large && !of_large_models(heads) {
        return None;
    }
    let kv = f64::from(heads.kv);
    let seen = heads.seen(decodes * length, decodes);
    Some(sample(&heads.shape(), kv * seen, kv * decodes, row.seconds))
}

/// The knots of a table of heads of many sizes and windows, few so that it stays small: at every other octave of the
/// work from `work` on, and at every `every`th octave of the second variable within a range. Beyond, the ends hold.
pub(super) struct Sparse {
    pub(super) work: f64,
    pub(super) every: usize,
    pub(super) range: [f64; 2],
}

/// Knots at every octave of both variables; `fine` halves them.
pub(super) fn grid(samples: &[(Sample, Row)], fine: bool, sparse: &Sparse) -> Layout {
    let shapes = shapes_of(samples);
    let (many, coarse) = (shapes.len() > 16, shapes.len() > 64);
    let knots = |of: &dyn Fn(&Sample) -> f64, every: usize, [from, to]: [f64; 2]| {
        if coarse {
            return thinned(octaves(samples.iter().map(|(s, _)| of(s).clamp(from, to))), every);
        }
        let knots = octaves(samples.iter().map(|(s, _)| of(s)));
        if fine {
            let mut halves: Vec<f64> = knots.iter().flat_map(|x| [*x, 1.5 * x]).collect();
            halves.pop();
            return halves;
        }
        knots
    };
    let x = knots(&|s| s.x, 2, [sparse.work, f64::MAX]);
    let y = knots(&|s| s.y, sparse.every, sparse.range);
    let kept = if many { heads_kept(&shapes) } else { shapes };
    (kept, x, y, heads_metric as Metric, [0.1, 0.05])
}

/// Every `every`th knot, counted from the last.
pub(super) fn thinned(knots: Vec<f64>, every: usize) -> Vec<f64> {
    let last = knots.len().saturating_sub(1);
    let kept = knots.into_iter().enumerate().filter(|(i, _)| (last - i).is_multiple_of(every));
    kept.map(|(_, x)| x).collect()
}

/// Of many heads, those that keep knots: for every size of a head, window and number of query heads to a KV head (the
/// usual ones where there are such, else all) the most heads, and for the commonest kernels the fewest too.
fn heads_kept(shapes: &[Vec<u32>]) -> Vec<Vec<u32>> {
    let mut groups: BTreeMap<[u32; 3], Vec<Vec<u32>>> = BTreeMap::new();
    for s in shapes {
        groups.entry([s[2], s[3], s[0] / s[1]]).or_default().push(s.clone());
    }
    // Windows are of models with few query heads to a KV head.
    let usual =
        |k: [u32; 3]| matches!((k[1] > 0, k[2]), (_, 2 | 4 | 8) | (false, 16)) || k == [128, 0, 1];
    let kinds: BTreeSet<[u32; 2]> =
        groups.keys().filter(|k| usual(**k)).map(|k| [k[0], k[1]]).collect();
    let mut kept = Vec::new();
    for ([dim, window, group], of_group) in groups {
        if !usual([dim, window, group]) && kinds.contains(&[dim, window]) {
            continue;
        }
        kept.extend(of_group.last().cloned());
        if (dim, window) == (128, 0) && matches!(group, 4 | 8) && of_group.len() > 1 {
            kept.extend(of_group.first().cloned());
        }
    }
    kept.sort();
    kept
}

pub(super) fn shapes_of(samples: &[(Sample, Row)]) -> Vec<Vec<u32>> {
    let shapes: BTreeSet<&Vec<u32>> = samples.iter().map(|(s, _)| &s.shape).collect();
    shapes.into_iter().cloned().collect()
}

/// Every x that was measured: for tables that are asked for these only.
pub(super) fn distinct(samples: &[(Sample, Row)]) -> Vec<f64> {
    let mut x: Vec<f64> = samples.iter().map(|(s, _)| s.x).collect();
    x.sort_by(f64::total_cmp);
    x.dedup();
    x
}

/// Powers of two from the least to the greatest.
pub(super) fn octaves(values: impl Iterator<Item = f64> + Clone) -> Vec<f64> {
    let (low, high) =
        values.fold((f64::INFINITY, 1.0_f64), |(low, high), x| (low.min(x), high.max(x)));
    let (low, high) = (low.max(1.0).log2().floor() as i32, high.log2().ceil() as i32);
    (low..=high).map(|e| 2f64.powi(e)).collect()
}

/// The limit on the kernel's shortest time, µs: the time of the quickest twentieth of all rows beyond their rooflines,
/// or the least time of a row which is mostly start.
pub(super) fn starts_us(samples: &[(Sample, Row)], roof: &dyn Fn(&[u32], f64) -> Roof) -> [f64; 2] {
    let beyond = |mostly: f64, quantile: usize| {
        let parts = samples.iter().map(|(s, _)| (s.seconds, roof(&s.shape, 0.0).at(s.x)));
        let mut found: Vec<f64> = parts
            .filter(|(t, roof)| *roof < mostly * t)
            .map(|(t, roof)| t - roof.max(0.0))
            .collect();
        found.sort_by(f64::total_cmp);
        let quick = found.get(found.len() / 20 * quantile).copied().unwrap_or(0.0).max(0.0);
        (quick * 1e8).floor() / 1e2
    };
    [beyond(f64::INFINITY, 1), beyond(0.5, 0)]
}

/// Tokens at which a grid of many shapes has knots, where it has rows of them: octaves, halves of some, and the next
/// after a full tile of rows, where the time jumps.
pub(super) const COARSE_TOKENS: [f64; 21] = [
    1.0, 16.0, 17.0, 32.0, 33.0, 64.0, 65.0, 96.0, 128.0, 129.0, 192.0, 256.0, 257.0, 384.0, 512.0,
    513.0, 1024.0, 1536.0, 2048.0, 4096.0, 8192.0,
];

/// Tokens at which the shapes of a few models have knots. Matrix products compute whole tiles of rows: right after a
/// multiple of a tile's rows their time jumps. If there are rows between two multiples of 64, a jump has a knot on
/// either side.
pub(super) fn fine_tokens(samples: &[(Sample, Row)]) -> Vec<f64> {
    let told = |from: f64| samples.iter().any(|(s, _)| from < s.x && s.x < from + 64.0);
    let mut tokens = vec![1.0, 8.0, 16.0, 17.0, 32.0, 48.0];
    for multiple in (1..=32).map(|i| 64.0 * f64::from(i)) {
        if multiple <= 1024.0 || multiple % 128.0 == 0.0 || told(multiple - 64.0) {
            tokens.push(multiple);
        }
        if told(multiple) {
            tokens.push(multiple + 1.0);
        }
    }
    tokens.extend([3072.0, 4096.0, 6144.0, 8192.0, 12_288.0, 16_384.0]);
    tokens
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_that_rows_show_has_a_knot_on_either_side() {
        let rows = |tokens: &[f64]| -> Vec<(Sample, Row)> {
            let row = |&m: &f64| {
                let run = Run::Gemm { m, n: 512, k: 512, format: crate::format::Format::Bf16 };
                (sample(&[512, 512], m, 0.0, 1e-5), Row { run, seconds: 1e-5 })
            };
            tokens.iter().map(row).collect()
        };
        let within = |from: f64, to: f64, rows: &[(Sample, Row)]| -> Vec<f64> {
            fine_tokens(rows).into_iter().filter(|m| (from..=to).contains(m)).collect()
        };
        let dense: Vec<f64> = (1..=128).map(|i| 16.0 * f64::from(i)).collect();
        assert_eq!(within(256.0, 400.0, &rows(&dense)), [256.0, 257.0, 320.0, 321.0, 384.0, 385.0]);
        assert_eq!(
            within(1856.0, 2048.0, &rows(&dense)),
            [1856.0, 1857.0, 1920.0, 1921.0, 1984.0, 1985.0, 2048.0]
        );
        let octaves: Vec<f64> = (0..12).map(|e| 2f64.powi(e)).collect();
        assert_eq!(within(256.0, 400.0, &rows(&octaves)), [256.0, 320.0, 384.0]);
        assert_eq!(within(1856.0, 2048.0, &rows(&octaves)), [1920.0, 2048.0]);
        assert!(fine_tokens(&rows(&dense)).is_sorted_by(|a, b| a < b));
    }
}
