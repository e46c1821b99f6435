//! From values to the unit interval, and the round values worth a tick.

use crate::figures::{short, sig};

/// The spacing of values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scale {
    /// Evenly.
    Linear,
    /// Evenly from zero on (or from the least value, where that is below).
    FromZero,
    /// By ratio; values not above zero have no place.
    Log,
}

/// A scale with its ends: `lo < hi`, both finite, positive where logarithmic.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Span {
    scale: Scale,
    pub(crate) lo: f64,
    pub(crate) hi: f64,
}

impl Span {
    /// Holds every finite `value` with a little room, within `bounds` where given.
    pub(crate) fn around(
        scale: Scale,
        values: impl Iterator<Item = f64>,
        bounds: Option<(f64, f64)>,
    ) -> Self {
        let usable = |v: &f64| v.is_finite() && (scale != Scale::Log || *v > 0.0);
        let (mut lo, mut hi) = (f64::INFINITY, f64::NEG_INFINITY);
        for v in values.filter(usable) {
            (lo, hi) = (lo.min(v), hi.max(v));
        }
        if lo > hi {
            (lo, hi) = if scale == Scale::Log { (1.0, 10.0) } else { (0.0, 1.0) };
        }
        if scale == Scale::FromZero {
            (lo, hi) = (lo.min(0.0), hi.max(0.0));
        }
        (lo, hi) = match scale {
            Scale::Log => ((lo / 1.15).max(f64::MIN_POSITIVE), (hi * 1.15).min(f64::MAX)),
            _ => {
                let room = (hi / 25.0 - lo / 25.0).max(hi.abs().max(lo.abs()) * 1e-9);
                let below = if scale == Scale::FromZero && lo == 0.0 { 0.0 } else { room };
                ((lo - below).max(f64::MIN), (hi + room).min(f64::MAX))
            }
        };
        // A bound that has no place on the scale is none: gaps of zero on a logarithmic one.
        if let Some((least, most)) = bounds {
            (lo, hi) =
                (Some(least).filter(usable).unwrap_or(lo), Some(most).filter(usable).unwrap_or(hi));
        }
        if lo >= hi {
            hi = if scale == Scale::Log { lo * 10.0 } else { lo + lo.abs().max(1.0) };
            (lo, hi) = if hi.is_finite() { (lo, hi) } else { (lo / 2.0, lo) };
        }
        Self { scale, lo, hi }
    }

    /// Place of `value` where `lo` is 0 and `hi` is 1; beyond them outside; none where it has no place.
    pub(crate) fn place(&self, value: f64) -> Option<f64> {
        let place = match self.scale {
            Scale::Log if value > 0.0 => {
                (value.ln() - self.lo.ln()) / (self.hi.ln() - self.lo.ln())
            }
            Scale::Log => return None,
            // Halves, because the difference of two large values may not be a number.
            _ => (value / 2.0 - self.lo / 2.0) / (self.hi / 2.0 - self.lo / 2.0),
        };
        place.is_finite().then_some(place)
    }

    /// Round values inside with their labels, about `wanted` of them.
    pub(crate) fn ticks(&self, wanted: usize) -> Vec<(f64, String)> {
        let values = match self.scale {
            Scale::Log => self.log_ticks(wanted),
            _ => self.linear_ticks(wanted),
        };
        let step = values.windows(2).map(|w| w[1] - w[0]).fold(f64::INFINITY, f64::min);
        values.into_iter().map(|v| (v, label(v, step))).collect()
    }

    fn linear_ticks(&self, wanted: usize) -> Vec<f64> {
        let raw = (self.hi / wanted as f64) - (self.lo / wanted as f64);
        let power = 10f64.powf(raw.log10().floor());
        let step = [1.0, 2.0, 5.0, 10.0].map(|m| m * power).into_iter().find(|s| *s >= raw * 0.999);
        let step = step.unwrap_or(raw);
        if !(step.is_finite() && step > 0.0) {
            return vec![self.lo, self.hi];
        }
        let first = (self.lo / step).ceil();
        let inside = |v: &f64| v.is_finite() && (*v <= self.hi * (1.0 + 1e-12) || *v <= self.hi);
        (0..20).map(|i| (first + f64::from(i)) * step).take_while(inside).map(|v| v + 0.0).collect()
    }

    fn log_ticks(&self, wanted: usize) -> Vec<f64> {
        let (from, to) = (self.lo.log10().floor() as i32, self.hi.log10().ceil() as i32);
        let inside = |v: &f64| v.is_finite() && *v >= self.lo && *v <= self.hi;
        let of = |digits: &[f64]| -> Vec<f64> {
            (from..=to)
                .flat_map(|p| digits.iter().map(move |d| d * 10f64.powi(p)))
                .filter(inside)
                .collect()
        };
        // The densest row that is not too dense; over many decades, every nth power.
        let rows = [&[1.0, 2.0, 5.0][..], &[1.0, 3.0], &[1.0]];
        if let Some(ticks) =
            rows.iter().map(|r| of(r)).find(|t| (3..=wanted + 1).contains(&t.len()))
        {
            return ticks;
        }
        let powers = of(&[1.0]);
        if powers.len() > wanted {
            return powers.iter().copied().step_by(powers.len().div_ceil(wanted)).collect();
        }
        // Less than a decade: as if linear.
        self.linear_ticks(wanted.min(4))
    }
}

/// A tick's label, precise enough to differ from its neighbours `step` away.
fn label(value: f64, step: f64) -> String {
    if !(1e-9..=1e12).contains(&step) || value.abs() > 1e15 {
        return short(value);
    }
    let digits =
        if value == 0.0 { 0.0 } else { value.abs().log10().floor() - step.log10().floor() };
    // One more for steps such as 2.5 is not needed: steps are 1, 2 or 5 times a power of ten.
    let text = sig(value, (digits as i32 + 1).max(1));
    if text.contains('.') {
        return text.trim_end_matches('0').trim_end_matches('.').to_owned();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn labels(scale: Scale, lo: f64, hi: f64) -> Vec<String> {
        let span = Span::around(scale, [].into_iter(), Some((lo, hi)));
        span.ticks(5).into_iter().map(|t| t.1).collect()
    }

    /// The tick after the last that a number can hold is none.
    #[test]
    fn the_largest_numbers_have_finite_ticks() {
        let span = Span::around(Scale::Linear, [1.746303435703553e308, 0.0].into_iter(), None);
        assert!(span.ticks(5).iter().all(|(v, _)| v.is_finite()), "{:?}", span.ticks(5));
    }

    #[test]
    fn ticks_are_round() {
        assert_eq!(labels(Scale::Linear, 0.0, 23.0), ["0", "5", "10", "15", "20"]);
        assert_eq!(labels(Scale::Log, 1.0, 1000.0), ["1", "10", "100", "1,000"]);
        assert_eq!(labels(Scale::Log, 8.0, 120.0), ["10", "20", "50", "100"]);
        assert_eq!(labels(Scale::Linear, 392.1, 395.2), ["393", "394", "395"]);
        assert_eq!(labels(Scale::Linear, 1392.1, 1393.2), ["1,392.5", "1,393"]);
        assert_eq!(labels(Scale::Log, 20.0, 24.0), ["20", "21", "22", "23", "24"]);
    }

    proptest! {
        #[test]
        fn ticks_are_few_and_inside_any_bounds(
            values in prop::collection::vec(any::<f64>(), 0..5), log in any::<bool>(),
            least in prop_oneof![any::<f64>(), Just(0.0)], most in prop_oneof![any::<f64>(), Just(0.0)],
        ) {
            let scale = if log { Scale::Log } else { Scale::Linear };
            let span = Span::around(scale, values.into_iter(), Some((least, most)));
            prop_assert!(span.lo < span.hi && span.lo.is_finite() && span.hi.is_finite(), "{span:?}");
            prop_assert!(!log || span.lo > 0.0, "{span:?}");
            prop_assert!(span.ticks(5).len() <= 20);
        }

        #[test]
        fn every_value_has_a_place_inside(values in prop::collection::vec(any::<f64>(), 0..20), log in any::<bool>()) {
            let scale = if log { Scale::Log } else { Scale::Linear };
            let span = Span::around(scale, values.iter().copied(), None);
            prop_assert!(span.lo < span.hi && span.lo.is_finite() && span.hi.is_finite());
            for v in values.into_iter().filter(|v| v.is_finite() && (!log || *v >= f64::MIN_POSITIVE)) {
                let place = span.place(v);
                prop_assert!(place.is_some_and(|p| (-1e-9..=1.0 + 1e-9).contains(&p)), "{v} {span:?} {place:?}");
            }
            let ticks = span.ticks(5);
            prop_assert!(ticks.len() <= 20);
            for (v, _) in ticks {
                prop_assert!(span.place(v).is_some_and(|p| (-1e-6..=1.0 + 1e-6).contains(&p)), "{v} {span:?}");
            }
        }
    }
}
