//! Measured efficiency of one operator, and the times that follow from it.
//!
//! An operator's time is its roofline (start + the larger of compute and memory time, by the data sheet) divided by an
//! efficiency. Efficiencies vary far less than times, so few knots hold a table of thousands of rows, and a shape that
//! was not measured borrows them from its neighbours. Between two knots *time* is linear, as it is for real kernels;
//! outside them the efficiency of the edge stays, so time keeps the roofline's slope. A chord over a convex roofline
//! lies above it: no prediction is below what the data sheet allows.

use serde::Deserialize;

use super::basis::Basis;

/// Ten seconds, µs: nothing that a GPU or its host does once an iteration takes so long.
pub(crate) const LONGEST_US: f64 = 1e7;

/// Coordinates of a shape in which neighbours have like efficiencies.
pub type Place = [f64; MOST_NUMBERS];

/// Places the shapes of one operator.
pub type Metric = fn(&[u32]) -> Place;

/// Numbers of a shape at most.
pub(super) const MOST_NUMBERS: usize = 6;

/// A place by the logarithms of a shape's numbers, each times its weight; further coordinates are 0.
#[must_use]
pub(super) fn place<const N: usize>(numbers: [f64; N], weights: [f64; N]) -> Place {
    let mut place = [0.0; MOST_NUMBERS];
    for (to, (number, weight)) in place.iter_mut().zip(numbers.into_iter().zip(weights)) {
        // Shapes by hand may hold zeros, and ratios of them.
        let number = if number.is_nan() { 1.0 } else { number.clamp(1e-3, 1e12) };
        *to = weight * number.log2();
    }
    place
}

/// The square of the distance of two places.
#[must_use]
pub fn apart(a: &Place, b: &Place) -> f64 {
    a.iter().zip(b).map(|(a, b)| (a - b).powi(2)).sum()
}

/// For operators of one shape.
pub(crate) fn no_metric(_: &[u32]) -> Place {
    [0.0; MOST_NUMBERS]
}

/// Efficiencies of one operator against its roofline.
///
/// By hand, one knot is enough: `start_us = 4.0`, `per_mille = [[800]]` and a `source`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Table {
    /// Shortest time of the kernel, µs: added to the roofline.
    pub start_us: f64,
    /// The source of the figures.
    pub source: String,
    /// The engine and its version that the kernels were timed in; empty where it is not known.
    #[serde(default)]
    pub timed_under: String,
    /// The shapes that were measured, one per row of `per_mille`; none = one row for all shapes.
    #[serde(default)]
    pub shapes: Vec<Vec<u32>>,
    /// Knots of the operator's first variable, rising; none = one efficiency for all.
    #[serde(default)]
    pub x: Vec<f64>,
    /// Knots of its second variable, rising; none where it has one.
    #[serde(default)]
    pub y: Vec<f64>,
    /// Efficiencies, thousandths: per shape, `x` running fastest.
    pub per_mille: Vec<Vec<u16>>,
}

/// The roofline of an operator in its first variable: start + the larger of compute and memory time, seconds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Roof {
    /// Shortest time.
    pub start: f64,
    /// Compute time per unit.
    pub compute: f64,
    /// Memory time of bytes that are moved for any number of units; below 0 where some need not move.
    pub fixed: f64,
    /// Memory time per unit.
    pub memory: f64,
    /// The units up to which those bytes grow in proportion: experts are read once a token needs them. 0 = they do not
    /// grow.
    pub full: f64,
}

impl Roof {
    /// Its value at `x`.
    #[must_use]
    pub fn at(&self, x: f64) -> f64 {
        let fixed = if x < self.full { self.fixed * (x / self.full) } else { self.fixed };
        self.start + (self.compute * x).max(fixed + self.memory * x)
    }

    /// The point at which compute time overtakes memory time.
    fn ridge(&self) -> Option<f64> {
        let x = self.fixed / (self.compute - self.memory);
        (x.is_finite() && x > self.full).then_some(x)
    }

    /// The same in units of which `per` make one of today's.
    fn scaled(self, per: f64) -> Self {
        let Self { start, compute, fixed, memory, full } = self;
        Self { start, compute: compute / per, fixed, memory: memory / per, full: full * per }
    }
}

/// Shapes that a shape in between takes its efficiency from.
const NEIGHBOURS: usize = 4;

/// Contexts and sequence counts beyond the tables are extended to this.
const FAR: f64 = 2_097_152.0;

impl Table {
    /// One efficiency for all shapes and sizes.
    #[must_use]
    pub fn constant(start_us: f64, efficiency: f64, source: &str) -> Self {
        Self {
            start_us,
            source: source.to_owned(),
            timed_under: String::new(),
            shapes: Vec::new(),
            x: Vec::new(),
            y: Vec::new(),
            per_mille: vec![vec![(efficiency * 1e3).round() as u16]],
        }
    }

    /// The fault in it, if there is one; `most` is the highest efficiency that can be.
    pub(super) fn fault(&self, most: u16) -> Option<String> {
        let rising = |axis: &[f64]| {
            axis.is_sorted_by(|a, b| a < b) && axis.iter().all(|x| x.is_finite() && *x > 0.0)
        };
        let knots = self.x.len().max(1) * self.y.len().max(1);
        let rows = self.shapes.len().max(1);
        if !(self.start_us.is_finite() && self.start_us >= 0.0) {
            Some(format!("start_us = {} must not be negative", self.start_us))
        } else if self.start_us > LONGEST_US {
            Some(format!("start_us = {} is longer than any kernel", self.start_us))
        } else if !rising(&self.x) || !rising(&self.y) {
            Some("x and y must rise and be positive".to_owned())
        } else if self.y.first().is_some_and(|least| *least < 1.0) {
            Some("y counts tokens or sequences: its knots must be at least 1".to_owned())
        } else if self.shapes.iter().any(|s| s.is_empty() || s.len() > MOST_NUMBERS) {
            Some(format!("shapes must have 1 to {MOST_NUMBERS} numbers"))
        } else if self.shapes.iter().any(|s| s[0] == 0) {
            Some("shapes must be positive".to_owned())
        } else if self.per_mille.len() != rows || self.per_mille.iter().any(|r| r.len() != knots) {
            Some(format!("per_mille must have {rows} rows of {knots} knots"))
        } else if self.per_mille.iter().flatten().any(|e| !(1..=most).contains(e)) {
            Some(format!("per_mille must be from 1 to {most}: nothing is faster than its roofline"))
        } else {
            None
        }
    }

    /// Time over roofline at every knot for `shape`: its own where it was measured, else blended from its neighbours
    /// by the inverse square of the distance.
    fn slowdowns(&self, shape: &[u32], metric: Metric) -> (Vec<f64>, Basis) {
        let blend = |weights: &[(usize, f64)]| -> Vec<f64> {
            let total: f64 = weights.iter().map(|(_, w)| w).sum();
            (0..self.per_mille[0].len())
                .map(|k| {
                    let sum: f64 = weights
                        .iter()
                        .map(|(i, w)| w * 1e3 / f64::from(self.per_mille[*i][k]))
                        .sum();
                    sum / total
                })
                .collect()
        };
        if self.shapes.is_empty() {
            return (blend(&[(0, 1.0)]), Basis::Measured);
        }
        // Tables by hand may give fewer numbers of a shape than the operator has: missing ones do not tell shapes
        // apart.
        let said =
            |s: &[u32], other: &[u32]| metric(&[s, other.get(s.len()..).unwrap_or(&[])].concat());
        let here = metric(shape);
        let mut near: Vec<(f64, usize)> = (self.shapes.iter().enumerate())
            .map(|(i, s)| (apart(&here, &said(s, shape)), i))
            .collect();
        near.sort_by(|a, b| a.0.total_cmp(&b.0));
        near.truncate(NEIGHBOURS);
        if near[0].0 < 1e-9 {
            return (blend(&[(near[0].1, 1.0)]), Basis::Measured);
        }
        let weights: Vec<(usize, f64)> = near.iter().map(|(d, i)| (*i, 1.0 / d)).collect();
        (blend(&weights), Basis::Interpolated)
    }

    /// The middle one of its efficiencies: the typical share that the operator reaches.
    #[must_use]
    pub fn middle(&self) -> f64 {
        let mut all: Vec<u16> = self.per_mille.iter().flatten().copied().collect();
        all.sort_unstable();
        f64::from(all[all.len() / 2]) / 1e3
    }

    /// The times of `shape`, whose roofline is `roof`.
    #[must_use]
    pub fn times(&self, shape: &[u32], metric: Metric, roof: Roof) -> Times {
        let (slow, basis) = self.slowdowns(shape, metric);
        let x: Box<[f64]> = if self.x.is_empty() { [1.0].into() } else { self.x.as_slice().into() };
        let t = slow.iter().enumerate().map(|(k, s)| s * roof.at(x[k % x.len()])).collect();
        let mut times = Times { y: self.y.clone(), x, t, roof, octaves: [None, None], basis };
        times.make_monotone();
        times.extend();
        times.octaves = [Octaves::of(&times.x), Octaves::of(&times.y)];
        times
    }
}

/// The time of an operator for one shape: linear between knots, rising in both variables.
#[derive(Debug, Clone, PartialEq)]
pub struct Times {
    x: Box<[f64]>,
    y: Vec<f64>,
    /// Seconds, `x` running fastest.
    t: Vec<f64>,
    roof: Roof,
    /// For each variable, its octaves where they tell the knots apart.
    octaves: [Option<Octaves>; 2],
    basis: Basis,
}

/// An axis whose knots are powers of two, or those and their middles: the high bits of a number give its cell.
#[derive(Debug, Clone, PartialEq)]
struct Octaves {
    /// Low bits of a double that no knot has: 52 where all are powers of two, else 51.
    low: u32,
    /// The high bits of the first knot.
    first: u64,
    /// Knots at or below the end of each octave (or half of one) from the first knot's on.
    below: Box<[u8]>,
}

impl Octaves {
    /// Those of a rising `axis`, if it has them.
    fn of(axis: &[f64]) -> Option<Self> {
        let (first, last) = (*axis.first()?, *axis.last()?);
        let exact = |low: u32| axis.iter().all(|x| x.to_bits() >> low << low == x.to_bits());
        let low = [52, 51].into_iter().find(|low| first > 0.0 && exact(*low))?;
        let key = |x: f64| x.to_bits() >> low;
        let below = |end: u64| axis.iter().filter(|x| key(**x) <= end).count();
        let below = (key(first)..=key(last)).map(|end| u8::try_from(below(end)));
        Some(Self { low, first: key(first), below: below.collect::<Result<_, _>>().ok()? })
    }

    /// True where each octave is halved.
    fn halved(&self, axis: &[f64]) -> bool {
        self.low == 51 && self.below.len() == axis.len()
    }

    /// Knots at or below `at`, which is no less than the first.
    fn knots(&self, at: f64) -> usize {
        let octave = ((at.to_bits() >> self.low) - self.first) as usize;
        usize::from(self.below[octave.min(self.below.len() - 1)])
    }
}

/// The cell of a rising `axis` that holds `at`, and its relative place in it; the ends hold everything beyond.
fn cell(axis: &[f64], octaves: Option<&Octaves>, at: f64) -> (usize, f64) {
    let above = match octaves.filter(|_| at >= axis[0]) {
        Some(octaves) => octaves.knots(at),
        None => axis.partition_point(|knot| *knot <= at),
    };
    if above == 0 {
        (0, 0.0)
    } else if above == axis.len() {
        (above - 1, 0.0)
    } else {
        let (low, high) = (axis[above - 1], axis[above]);
        (above - 1, (at - low) / (high - low))
    }
}

impl Times {
    /// Seconds at `x` and, where the operator has a second variable, `y`.
    #[must_use]
    pub fn at(&self, x: f64, y: f64) -> f64 {
        let (first, last) = (self.x[0], self.x[self.x.len() - 1]);
        let scale = if x > last {
            self.roof.at(x) / self.roof.at(last)
        } else if x < first {
            self.roof.at(x) / self.roof.at(first)
        } else {
            1.0
        };
        let (i, u) = cell(&self.x, self.octaves[0].as_ref(), x);
        let row = |j: usize| {
            let t = &self.t[j * self.x.len()..][..self.x.len()];
            if u > 0.0 { t[i] + u * (t[i + 1] - t[i]) } else { t[i] }
        };
        let (j, v) = cell(&self.y, self.octaves[1].as_ref(), y);
        let low = row(j);
        scale * if v > 0.0 { low + v * (row(j + 1) - low) } else { low }
    }

    /// The evidence for it.
    #[must_use]
    pub fn basis(&self) -> &Basis {
        &self.basis
    }

    /// Seconds that the data sheet sets as the least at `x`.
    #[must_use]
    pub fn roofline(&self, x: f64) -> f64 {
        self.roof.at(x)
    }

    /// The same, said to rest on another operator where `from` names one.
    #[must_use]
    pub fn borrowed(mut self, from: Option<String>) -> Self {
        self.basis = from.map_or(self.basis, Basis::Borrowed);
        self
    }

    /// The same by another measure of the work, of which `per` make one of today's.
    #[must_use]
    pub fn scaled(mut self, per: f64) -> Self {
        self.x.iter_mut().for_each(|x| *x *= per);
        self.roof = self.roof.scaled(per);
        self.octaves[0] = Octaves::of(&self.x);
        self
    }

    /// The points at which its slope in `x` changes, for an operator of one variable.
    pub(crate) fn knots(&self) -> impl Iterator<Item = f64> {
        self.x.iter().copied().chain(self.roof.ridge())
    }

    /// Blending shapes can make a dent where each was monotone: fill it.
    fn make_monotone(&mut self) {
        let width = self.x.len();
        for k in 0..self.t.len() {
            if k % width > 0 {
                self.t[k] = self.t[k].max(self.t[k - 1]);
            }
            if k >= width {
                self.t[k] = self.t[k].max(self.t[k - width]);
            }
        }
    }

    /// Beyond the last `y`, twice as much of both variables takes twice as long. Knots go on as they were spaced, so
    /// that they are still found by their bits.
    fn extend(&mut self) {
        let halved = Octaves::of(&self.y).is_some_and(|octaves| octaves.halved(&self.y));
        while let Some(&last) = self.y.last().filter(|y| self.y.len() > 1 && **y < FAR) {
            let width = self.x.len();
            let whole = last.to_bits().trailing_zeros() >= 52;
            let more = if !halved {
                2.0
            } else if whole {
                1.5
            } else {
                4.0 / 3.0
            };
            let start = (more - 1.0) * self.roof.start;
            let row: Vec<f64> = (self.x.iter())
                .map(|x| self.at(*x, last).max(more * self.at(x / more, last) - start))
                .collect();
            self.y.push((more * last).round());
            self.t.extend(row);
            debug_assert_eq!(self.t.len(), width * self.y.len());
        }
        self.make_monotone();
    }
}

/// Sums of operators of one variable, as one function of tokens: linear between the union of their knots.
#[derive(Debug, Clone, Default)]
pub(crate) struct Line {
    x: Vec<f64>,
    t: Vec<f64>,
}

impl Line {
    /// The function `time`, whose slope changes at `knots` only.
    pub(crate) fn new(mut knots: Vec<f64>, time: impl Fn(f64) -> f64) -> Self {
        knots.retain(|x| x.is_finite() && *x > 1.0);
        knots.push(1.0);
        knots.sort_by(f64::total_cmp);
        knots.dedup();
        knots.push(2.0 * knots[knots.len() - 1]);
        Self { t: knots.iter().map(|x| time(*x)).collect(), x: knots }
    }

    /// Its value at `x` >= 1.
    pub(crate) fn at(&self, x: f64) -> f64 {
        self.on(self.x.partition_point(|knot| *knot <= x).clamp(1, self.x.len() - 1), x)
    }

    fn on(&self, above: usize, x: f64) -> f64 {
        let ((x0, x1), (t0, t1)) =
            ((self.x[above - 1], self.x[above]), (self.t[above - 1], self.t[above]));
        t0 + (x - x0) * ((t1 - t0) / (x1 - x0))
    }

    /// Its values at 0 (nothing to do), 1, 2, ... `last`.
    pub(crate) fn tabulate(&self, last: u32) -> Box<[f64]> {
        let mut above = 1;
        let values = (1..=last).map(|n| {
            let x = f64::from(n);
            while above + 1 < self.x.len() && self.x[above] <= x {
                above += 1;
            }
            self.on(above, x)
        });
        std::iter::once(0.0).chain(values).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn metric(shape: &[u32]) -> Place {
        place([f64::from(shape[0]), f64::from(shape[1])], [1.0, 1.0])
    }

    const ROOF: Roof = Roof { start: 1e-6, compute: 2e-9, fixed: 5e-6, memory: 1e-10, full: 0.0 };

    #[test]
    fn one_knot_is_the_roofline_over_a_constant() {
        let times = Table::constant(1.0, 0.8, "test").times(&[7, 7], metric, ROOF);
        for x in [1.0, 100.0, 2_631.0, 1e6] {
            assert!((times.at(x, 0.0) - ROOF.at(x) / 0.8).abs() < 1e-15, "{x}");
        }
    }

    #[test]
    fn a_shape_of_zeros_has_a_place() {
        let table = Table {
            shapes: vec![vec![1, 0], vec![8, 8]],
            per_mille: vec![vec![500], vec![900]],
            ..Table::constant(1.0, 1.0, "test")
        };
        assert!(place([0.0, f64::NAN, f64::INFINITY], [1.0; 3]).iter().all(|x| x.is_finite()));
        let times = table.times(&[0, 3], metric, ROOF);
        assert!(times.at(10.0, 0.0).is_finite() && *times.basis() == Basis::Interpolated);
    }

    #[test]
    fn octaves_find_the_cell_of_a_number() {
        let octaves: Vec<f64> = (3..20).map(|e| 2f64.powi(e)).collect();
        let halves: Vec<f64> = octaves.iter().flat_map(|x| [*x, 1.5 * x]).collect();
        let is_halved = |axis: &[f64]| Octaves::of(axis).map(|found| found.halved(axis));
        assert_eq!([&octaves, &halves].map(|axis| is_halved(axis)), [Some(false), Some(true)]);
        assert_eq!(is_halved(&[1.0, 2.0, 3.0, 5.0]), None);
        assert_eq!([&[][..], &[-1.0, 1.0], &[1.0, 1e300]].map(is_halved), [None; 3]);
        // Knots may be several octaves apart, and fewer further on.
        let apart = vec![8.0, 64.0, 512.0, 1024.0, 2048.0, 524_288.0];
        let gaps = vec![12.0, 16.0, 48.0, 4096.0];
        for axis in [octaves, halves, apart, gaps] {
            let found = Octaves::of(&axis);
            assert!(found.is_some());
            let at = (0..4000).map(|i| 1.003_f64.powi(i));
            for at in at.chain([0.0, 8.0, 12.0, 16.0, 524_288.0, 1e300, f64::INFINITY]) {
                assert_eq!(cell(&axis, found.as_ref(), at), cell(&axis, None, at), "{at}");
            }
        }
    }

    #[test]
    fn a_line_is_the_sum_it_stands_for() {
        let table = Table {
            x: vec![1.0, 16.0, 300.0],
            per_mille: vec![vec![300, 500, 900]],
            ..Table::constant(1.0, 1.0, "test")
        };
        let (a, b) = (
            table.times(&[1, 1], metric, ROOF),
            Table::constant(1.0, 0.5, "test").times(&[1, 1], metric, ROOF),
        );
        let sum = |x: f64| a.at(x, 0.0) + b.at(x, 0.0);
        let line = Line::new(a.knots().chain(b.knots()).collect(), sum);
        let tabulated = line.tabulate(5000);
        for n in 1..5000_u32 {
            let x = f64::from(n);
            assert!((line.at(x) / sum(x) - 1.0).abs() < 1e-12, "{n}");
            assert_eq!(tabulated[n as usize].to_bits(), line.at(x).to_bits(), "{n}");
        }
        assert!((line.at(1e8) / sum(1e8) - 1.0).abs() < 1e-12);
    }

    #[test]
    fn knots_go_on_as_they_were_spaced_and_far_ones_are_found() {
        for y in [vec![16.0, 32.0, 64.0], vec![16.0, 24.0, 32.0], vec![16.0, 24.0, 32.0, 48.0]] {
            let last = y[y.len() - 1];
            let table = Table {
                x: vec![4.0, 32.0],
                per_mille: vec![vec![800; 2 * y.len()]],
                y,
                ..Table::constant(1.0, 1.0, "test")
            };
            let roof = Roof { fixed: 0.0, start: 0.0, ..ROOF };
            let times = table.times(&[1, 1], metric, roof);
            assert!(times.octaves[1].is_some(), "{:?}", times.y);
            // All knots are as good: there is one roofline, however far.
            for far in [1.0, 1.7, 16.0, 100.0, 1e4] {
                let (near, there) = (times.at(20.0, last), times.at(20.0, far * last));
                assert!((there / near - 1.0).abs() < 1e-9, "{far}: {near} {there}");
            }
        }
    }

    proptest! {
        #[test]
        fn times_rise_and_stay_above_the_roofline(
            per_mille in prop::collection::vec(prop::collection::vec(1_u16..=1000, 12), 5),
            (x, y) in (1.0_f64..1e7, 1.0_f64..1e7), (a, b) in (1_u32..100, 1_u32..100), more in 1.0_f64..8.0,
        ) {
            let table = Table {
                shapes: vec![vec![1, 1], vec![1, 8], vec![64, 1], vec![8, 8], vec![50, 70]],
                x: vec![4.0, 32.0, 1000.0, 100_000.0],
                y: vec![2.0, 64.0, 512.0],
                per_mille,
                ..Table::constant(1.0, 1.0, "test")
            };
            let times = table.times(&[a, b], metric, ROOF);
            let t = times.at(x, y);
            prop_assert!(t >= ROOF.at(x) * (1.0 - 1e-12));
            prop_assert!(times.at(x * more, y) >= t * (1.0 - 1e-12));
            prop_assert!(times.at(x, y * more) >= t * (1.0 - 1e-12));
        }
    }
}
