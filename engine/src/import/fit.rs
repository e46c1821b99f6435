//! Knots of efficiency fitted to rows.
//!
//! Predicted time is linear in the knots' slowdowns (time over roofline), so the fit is linear least squares of
//! relative errors. A weak prior asks neighbouring knots, and the same knot of neighbouring shapes, to be alike: rows
//! are noisy by several percent, and neighbours know more about a row than the few rows next to it do. Then knots are
//! made to rise where time must (pool adjacent violators), and no knot may beat the roofline.

use std::collections::BTreeMap;

use crate::profile::{FitError, Metric, Place, Roof, Table, apart};

/// A measurement of one operator.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Sample {
    /// The numbers that [`Table::shapes`] holds for this operator.
    pub(super) shape: Vec<u32>,
    /// The table's first variable.
    pub(super) x: f64,
    /// The table's second variable.
    pub(super) y: f64,
    /// Measured time.
    pub(super) seconds: f64,
    /// The lower bound of its time besides the table, seconds.
    pub(super) floor: f64,
    /// Its weight beside others.
    pub(super) weight: f64,
}

/// The form of a table before its efficiencies are known.
#[derive(Clone)]
pub(super) struct Form<'a> {
    pub(super) start_us: f64,
    pub(super) source: String,
    pub(super) shapes: Vec<Vec<u32>>,
    pub(super) x: Vec<f64>,
    pub(super) y: Vec<f64>,
    pub(super) metric: Metric,
    pub(super) roof: &'a dyn Fn(&[u32]) -> Roof,
    /// Highest efficiency, thousandths.
    pub(super) most: u16,
    /// Weight of the prior between neighbouring shapes, and between neighbouring knots, an octave apart.
    pub(super) prior: [f64; 2],
}

/// A sparse row of the least-squares problem: the unknowns' coefficients, and their sum.
struct Equation {
    terms: Vec<(usize, f64)>,
    value: f64,
}

impl Equation {
    /// Weighs a prediction above the measured time like one as many times below it, by the prediction of `solution`:
    /// least squares alone would sooner be too low.
    fn even_out(&mut self, solution: &[f64]) {
        let predicted: f64 = self.terms.iter().map(|(k, c)| c * solution[*k]).sum();
        let scale = (self.value / predicted).clamp(0.25, 4.0).sqrt();
        self.value *= scale;
        self.terms.iter_mut().for_each(|(_, c)| *c *= scale);
    }
}

impl Form<'_> {
    fn knots(&self) -> usize {
        self.x.len() * self.y.len().max(1)
    }

    /// The table that fits `samples` best, and the mean relative change that made it monotone.
    pub(super) fn fit(&self, samples: &[Sample]) -> (Table, f64) {
        let at: BTreeMap<&[u32], usize> =
            self.shapes.iter().enumerate().map(|(i, s)| (s.as_slice(), i)).collect();
        let mut equations: Vec<Equation> =
            samples.iter().filter_map(|sample| self.observation(&at, sample)).collect();
        let knots = self.knots();
        // The evidence of the rows for each knot, by the roofline's share in them: a knot far above its roofline has
        // the noisiest rows and gives way; so does one without evidence.
        let mut told = vec![1e-6; self.shapes.len() * knots];
        for (k, c) in equations.iter().flat_map(|e| &e.terms) {
            told[*k] += c * c;
        }
        let rows = equations.len();
        let mut slow = vec![1.25; told.len()];
        // Both errors and prior are ratios, relative to the knots of the round before: so there are two rounds.
        for _ in 0..2 {
            equations.truncate(rows);
            self.priors(&slow, &mut equations);
            slow = solve(&equations, slow);
            equations[..rows].iter_mut().for_each(|e| e.even_out(&slow));
        }
        let (mut change, mut weight) = (0.0, 0.0);
        let parts = slow.chunks_mut(knots).zip(told.chunks(knots));
        for (shape, (slow, told)) in self.shapes.iter().zip(parts) {
            change += self.make_monotone((self.roof)(shape), slow, told);
            weight += told.iter().sum::<f64>();
        }
        let mille = |s: &f64| (1e3 / s).round().clamp(1.0, f64::from(self.most)) as u16;
        let one_for_all = self.shapes.as_slice() == [[1]];
        let table = Table {
            start_us: self.start_us,
            source: self.source.clone(),
            timed_under: String::new(),
            shapes: if one_for_all { Vec::new() } else { self.shapes.clone() },
            x: self.x.clone(),
            y: self.y.clone(),
            per_mille: slow.chunks(knots).map(|s| s.iter().map(mille).collect()).collect(),
        };
        (table, change / weight)
    }

    /// The evidence of a sample for the four knots around it; nothing where its shape has no row, or where something
    /// else bounds its time.
    fn observation(&self, at: &BTreeMap<&[u32], usize>, sample: &Sample) -> Option<Equation> {
        if sample.floor >= sample.seconds {
            return None;
        }
        let shape = *at.get(sample.shape.as_slice())?;
        let roof = (self.roof)(&sample.shape);
        let (i, u) = bracket(&self.x, sample.x);
        let (j, v) = bracket(&self.y, sample.y);
        let mut terms = Vec::with_capacity(4);
        for (i, u) in [(i, 1.0 - u), (i + 1, u)] {
            for (j, v) in [(j, 1.0 - v), (j + 1, v)] {
                if u * v > 0.0 {
                    // Beyond the ends the roofline's slope goes on.
                    let at = if sample.x < self.x[0] || sample.x > self.x[self.x.len() - 1] {
                        sample.x
                    } else {
                        self.x[i]
                    };
                    let time = u * v * roof.at(at) / sample.seconds;
                    let knot = shape * self.knots() + j * self.x.len() + i;
                    terms.push((knot, sample.weight * time));
                }
            }
        }
        Some(Equation { terms, value: sample.weight })
    }

    /// Asks neighbours to be alike, relative to their values `slow`.
    fn priors(&self, slow: &[f64], equations: &mut Vec<Equation>) {
        let [between_shapes, between_knots] = self.prior;
        let (knots, width) = (self.knots(), self.x.len());
        let mut alike = |a: usize, b: usize, weight: f64| {
            let weight = weight * 2.0 / (slow[a].max(1.0) + slow[b].max(1.0));
            equations.push(Equation { terms: vec![(a, weight), (b, -weight)], value: 0.0 });
        };
        let octaves = |axis: &[f64], i: usize| (axis[i + 1] / axis[i]).log2().max(0.1);
        for s in 0..self.shapes.len() {
            for k in 0..knots {
                let (i, j) = (k % width, k / width);
                if i + 1 < width {
                    alike(s * knots + k, s * knots + k + 1, between_knots / octaves(&self.x, i));
                }
                if j + 1 < self.y.len() {
                    let weight = between_knots / octaves(&self.y, j);
                    alike(s * knots + k, s * knots + k + width, weight);
                }
            }
        }
        for (a, b, squared) in self.neighbours() {
            let weight = between_shapes / squared.max(0.25);
            for k in 0..knots {
                alike(a * knots + k, b * knots + k, weight);
            }
        }
    }

    /// Pairs of shapes of which one is among the four nearest of the other, with the square of their distance.
    fn neighbours(&self) -> Vec<(usize, usize, f64)> {
        let at: Vec<Place> = self.shapes.iter().map(|s| (self.metric)(s)).collect();
        let mut pairs = Vec::new();
        for (a, here) in at.iter().enumerate() {
            let mut near: Vec<(f64, usize)> = (at.iter().enumerate())
                .filter(|(b, _)| *b != a)
                .map(|(b, there)| (apart(here, there), b))
                .collect();
            near.sort_by(|p, q| p.0.total_cmp(&q.0));
            pairs.extend(near.iter().take(4).map(|(d, b)| (a.min(*b), a.max(*b), *d)));
        }
        pairs.sort_by_key(|p| (p.0, p.1));
        pairs.dedup_by_key(|p| (p.0, p.1));
        pairs
    }

    /// Makes one shape's times rise in both variables and keeps them above the roofline; returns the sum of relative
    /// changes, each weighted by the evidence `told` for its knot.
    fn make_monotone(&self, roof: Roof, slow: &mut [f64], told: &[f64]) -> f64 {
        let (width, height) = (self.x.len(), self.y.len().max(1));
        let least = 1e3 / f64::from(self.most);
        let base: Vec<f64> = (0..slow.len()).map(|k| roof.at(self.x[k % width])).collect();
        let mut times: Vec<f64> = slow.iter().zip(&base).map(|(s, b)| s.max(least) * b).collect();
        let before = times.clone();
        for _ in 0..50 {
            for j in 0..height {
                let row = j * width..(j + 1) * width;
                isotonic(&mut times[row.clone()], &told[row], 1);
            }
            for i in 0..width {
                isotonic(&mut times[i..], &told[i..], width);
            }
        }
        for ((s, t), b) in slow.iter_mut().zip(&times).zip(&base) {
            *s = (t / b).max(least);
        }
        let changes = times.iter().zip(&before).map(|(after, before)| (after / before - 1.0).abs());
        changes.zip(told).map(|(change, told)| change * told).sum()
    }
}

/// The interval of `axis` that holds `at`, and its relative place in it; the ends hold everything beyond.
fn bracket(axis: &[f64], at: f64) -> (usize, f64) {
    let above = axis.partition_point(|knot| *knot <= at);
    if above == 0 {
        (0, 0.0)
    } else if above == axis.len() {
        (above - 1, 0.0)
    } else {
        (above - 1, (at - axis[above - 1]) / (axis[above] - axis[above - 1]))
    }
}

/// Pool adjacent violators on every `stride`-th value, in logarithms: the nearest rising sequence by `weights`.
fn isotonic(values: &mut [f64], weights: &[f64], stride: usize) {
    let mut pools: Vec<(f64, f64, usize)> = Vec::new();
    for (value, weight) in values.iter().zip(weights).step_by(stride) {
        let mut pool = (value.ln(), *weight, 1);
        while let Some(last) = pools.last().filter(|last| last.0 > pool.0).copied() {
            let weight = last.1 + pool.1;
            pool = ((last.0 * last.1 + pool.0 * pool.1) / weight, weight, last.2 + pool.2);
            pools.pop();
        }
        pools.push(pool);
    }
    let rising = pools.iter().flat_map(|(mean, _, count)| std::iter::repeat_n(mean.exp(), *count));
    for (value, new) in values.iter_mut().step_by(stride).zip(rising) {
        if (new / *value - 1.0).abs() > 1e-12 {
            *value = new;
        }
    }
}

/// Least squares by conjugate gradients on the normal equations, from `solution`.
fn solve(equations: &[Equation], mut solution: Vec<f64>) -> Vec<f64> {
    let unknowns = solution.len();
    let apply = |x: &[f64]| -> Vec<f64> {
        equations.iter().map(|e| e.terms.iter().map(|(k, c)| c * x[*k]).sum()).collect()
    };
    let transposed = |r: &[f64]| -> Vec<f64> {
        let mut g = vec![0.0; unknowns];
        for (e, r) in equations.iter().zip(r) {
            e.terms.iter().for_each(|(k, c)| g[*k] += c * r);
        }
        g
    };
    let dot = |v: &[f64]| -> f64 { v.iter().map(|a| a * a).sum() };
    let mut residual: Vec<f64> =
        apply(&solution).iter().zip(equations).map(|(p, e)| e.value - p).collect();
    let mut gradient = transposed(&residual);
    let mut direction = gradient.clone();
    let mut size = dot(&gradient);
    let enough = size * 1e-14;
    for _ in 0..400 {
        if size <= enough {
            break;
        }
        let change = apply(&direction);
        let step = size / dot(&change);
        solution.iter_mut().zip(&direction).for_each(|(s, d)| *s += step * d);
        residual.iter_mut().zip(&change).for_each(|(r, c)| *r -= step * c);
        gradient = transposed(&residual);
        let next = dot(&gradient);
        let ratio = next / size;
        direction.iter_mut().zip(&gradient).for_each(|(d, g)| *d = g + ratio * *d);
        size = next;
    }
    solution
}

/// The table's time for each sample over the measured time.
pub(super) fn ratios(table: &Table, form: &Form<'_>, samples: &[Sample]) -> Vec<f64> {
    let mut times = BTreeMap::new();
    let mut found = Vec::with_capacity(samples.len());
    for s in samples {
        let of = || table.times(&s.shape, form.metric, (form.roof)(&s.shape));
        let times = times.entry(s.shape.as_slice()).or_insert_with(of);
        found.push(times.at(s.x, s.y).max(s.floor) / s.seconds);
    }
    found
}

/// Folds of the cross-validation.
pub(super) const FOLDS: u64 = 5;

/// The fold of the `i`-th sample: a seeded hash, so that no pattern of a grid falls together.
pub(super) fn fold(i: usize, seed: u64) -> u64 {
    let mut z = (i as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ seed;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (z ^ (z >> 31)) % FOLDS
}

/// For each sample, the prediction of a fit to the other folds over the measured time.
pub(super) fn unseen(form: &Form<'_>, samples: &[Sample], seed: u64) -> Vec<f64> {
    let mut found = vec![f64::NAN; samples.len()];
    for out in 0..FOLDS {
        let (mut kept, mut held) = (Vec::new(), Vec::new());
        for (i, sample) in samples.iter().enumerate() {
            if fold(i, seed) == out {
                held.push((i, sample.clone()));
            } else {
                kept.push(sample.clone());
            }
        }
        let table = form.fit(&kept).0;
        let left: Vec<Sample> = held.iter().map(|(_, s)| s.clone()).collect();
        for ((i, _), ratio) in held.iter().zip(ratios(&table, form, &left)) {
            found[*i] = ratio;
        }
    }
    found
}

/// |ratio − 1|, the least first.
fn errors(ratios: &[f64]) -> Vec<f64> {
    let mut errors: Vec<f64> = ratios.iter().map(|r| (r - 1.0).abs()).collect();
    errors.sort_by(f64::total_cmp);
    errors
}

/// Mean, 90th and 95th percentile of |ratio − 1|.
#[must_use]
pub fn spread(ratios: &[f64]) -> [f64; 3] {
    let errors = errors(ratios);
    let at = |q: f64| errors[((errors.len() - 1) as f64 * q).round() as usize];
    [errors.iter().sum::<f64>() / errors.len() as f64, at(0.9), at(0.95)]
}

/// The stated error of a fit.
pub(super) fn error(seen: &[f64], unseen: &[f64], left_out: usize, isotonic: f64) -> FitError {
    let ([mean, p90, p95], [unseen_mean, unseen_p90, unseen_p95]) = (spread(seen), spread(unseen));
    let unseen_median = errors(unseen)[(unseen.len() - 1) / 2];
    let rows = seen.len();
    FitError {
        rows,
        left_out,
        mean,
        p90,
        p95,
        unseen_median,
        unseen_mean,
        unseen_p90,
        unseen_p95,
        isotonic,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOF: Roof = Roof { start: 1e-6, compute: 0.0, fixed: 0.0, memory: 1e-9, full: 0.0 };

    fn form() -> Form<'static> {
        Form {
            start_us: 1.0,
            source: "test".to_owned(),
            shapes: vec![vec![1]],
            x: vec![1e3, 1e4, 1e5],
            y: Vec::new(),
            metric: crate::profile::no_metric,
            roof: &|_| ROOF,
            most: 1000,
            prior: [0.0, 1e-6],
        }
    }

    fn sample(x: f64, seconds: f64) -> Sample {
        Sample { shape: vec![1], x, y: 0.0, seconds, floor: 0.0, weight: 1.0 }
    }

    #[test]
    fn knots_that_made_the_rows_are_found_again() {
        let table = Table {
            x: form().x,
            per_mille: vec![vec![400, 500, 800]],
            ..Table::constant(1.0, 1.0, "test")
        };
        let times = table.times(&[1], form().metric, ROOF);
        let samples: Vec<Sample> =
            (1..300).map(|i| f64::from(i) * 500.0).map(|x| sample(x, times.at(x, 0.0))).collect();
        let (found, isotonic) = form().fit(&samples);
        assert_eq!((found, isotonic), (table, 0.0));
        assert!(spread(&unseen(&form(), &samples, 1))[2] < 1e-3);
    }

    #[test]
    fn a_dip_is_pooled_and_told() {
        let samples = [sample(1e3, 50e-6), sample(1e4, 400e-6), sample(1e5, 200e-6)];
        let (table, isotonic) = form().fit(&samples);
        assert!(isotonic > 1e-3, "{isotonic}");
        let times = table.times(&[1], form().metric, ROOF);
        assert!(times.at(1e5, 0.0) >= times.at(1e4, 0.0));
        let (table, _) = form().fit(&[sample(1e3, 5e-6), sample(1e5, 20e-6)]);
        assert_eq!(table.per_mille[0][2], 1000, "nothing beats the roofline of 101 µs");
    }

    #[test]
    fn isotonic_regression_is_that_of_the_textbook() {
        let mut values = [1.0, 4.0, 2.0, 2.0, 8.0];
        isotonic(&mut values, &[1.0; 5], 1);
        let mean = (16.0_f64).powf(1.0 / 3.0);
        for (value, expected) in values.iter().zip([1.0, mean, mean, mean, 8.0]) {
            assert!((value - expected).abs() < 1e-12, "{values:?}");
        }
    }

    #[test]
    fn folds_are_even() {
        let mut counts = [0; FOLDS as usize];
        (0..10_000).for_each(|i| counts[fold(i, 7) as usize] += 1);
        assert!(counts.iter().all(|c| (1800..2200).contains(c)), "{counts:?}");
    }
}
