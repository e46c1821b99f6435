//! Distributions of lengths, counts and pauses, every one sampled through a standard normal number.
//!
//! One normal number per draw is what lets two lengths be rank-correlated (a Gaussian copula) whatever their
//! distributions are, and what keeps a draw the same when another distribution is changed.

use serde::Deserialize;

/// Levels of quantile tables unless the description has its own `quantile_levels`.
pub(crate) const LEVELS: [f64; 16] =
    [0.0, 0.01, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 0.999, 1.0];

/// A distribution of non-negative numbers, as a description writes it.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(tag = "dist", rename_all = "lowercase", deny_unknown_fields)]
pub(crate) enum Dist {
    /// Always the same.
    Fixed { value: f64 },
    /// Evenly from `min` to `max`.
    Uniform { min: f64, max: f64 },
    /// Log-normal of arithmetic mean `mean`, its logarithm's standard deviation `sigma`; limits clip.
    Lognormal {
        mean: f64,
        sigma: f64,
        #[serde(default)]
        min: f64,
        #[serde(default = "infinite")]
        max: f64,
    },
    /// Measured quantiles at the description's levels, linear in ln(1+x) between them.
    Quantile { values: Vec<f64> },
    /// These values, each as often as its weight.
    Histogram { values: Vec<f64>, weights: Vec<f64> },
}

fn infinite() -> f64 {
    f64::INFINITY
}

impl Dist {
    /// Says what is wrong with it.
    pub(crate) fn check(&self, levels: &[f64]) -> Result<(), String> {
        let fine = |x: f64| x.is_finite() && x >= 0.0;
        match self {
            Self::Fixed { value } if fine(*value) => Ok(()),
            Self::Fixed { .. } => Err("value must be 0 or more".to_owned()),
            Self::Uniform { min, max } if fine(*min) && fine(*max) && min <= max => Ok(()),
            Self::Uniform { .. } => Err("needs 0 <= min <= max".to_owned()),
            Self::Lognormal { mean, sigma, min, max } => {
                let limits = fine(*min) && *max >= *min;
                let shape = fine(*mean) && *mean > 0.0 && fine(*sigma);
                if limits && shape {
                    Ok(())
                } else {
                    Err("needs mean > 0, sigma >= 0 and min <= max".to_owned())
                }
            }
            Self::Quantile { values } if values.len() != levels.len() => {
                Err(format!("{} values for {} quantile_levels", values.len(), levels.len()))
            }
            Self::Quantile { values } if values.is_sorted() && values.iter().all(|&v| fine(v)) => {
                Ok(())
            }
            Self::Quantile { .. } => Err("values must rise and be 0 or more".to_owned()),
            Self::Histogram { values, weights } => {
                let paired =
                    values.len() == weights.len() && values.iter().chain(weights).all(|&x| fine(x));
                let total: f64 = weights.iter().sum();
                if paired && total > 0.0 && total.is_finite() {
                    Ok(())
                } else {
                    Err("needs as many weights as values, none negative, not all 0".to_owned())
                }
            }
        }
    }

    /// The value that a standard normal number stands for.
    pub(crate) fn at(&self, normal: f64, levels: &[f64]) -> f64 {
        match self {
            Self::Fixed { value } => *value,
            Self::Uniform { min, max } => min + (max - min) * share_below(normal),
            Self::Lognormal { mean, sigma, min, max } => {
                (mean.ln() - sigma * sigma / 2.0 + sigma * normal).exp().max(*min).min(*max)
            }
            Self::Quantile { values } => {
                let u = share_below(normal);
                let right = levels.partition_point(|&level| level < u).clamp(1, levels.len() - 1);
                let (low, high) = (values[right - 1].ln_1p(), values[right].ln_1p());
                let part =
                    ((u - levels[right - 1]) / (levels[right] - levels[right - 1])).clamp(0.0, 1.0);
                (low + (high - low) * part).exp_m1()
            }
            Self::Histogram { values, weights } => {
                let mut left = share_below(normal) * weights.iter().sum::<f64>();
                let found = weights.iter().position(|w| {
                    left -= w;
                    left < 0.0
                });
                let last = || weights.iter().rposition(|&w| w > 0.0).unwrap_or(0);
                values[found.unwrap_or_else(last)]
            }
        }
    }

    /// As [`at`](Self::at), in whole tokens or turns.
    pub(crate) fn count(&self, normal: f64, levels: &[f64]) -> u32 {
        self.at(normal, levels).round() as u32
    }
}

/// Probability that a standard normal number is smaller.
fn share_below(normal: f64) -> f64 {
    0.5 * libm::erfc(-normal / std::f64::consts::SQRT_2)
}

/// Correlation of two normal numbers under which what is made of them has this rank correlation.
pub(crate) fn normal_correlation(spearman: f64) -> f64 {
    2.0 * (std::f64::consts::PI * spearman / 6.0).sin()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand::SeedableRng as _;
    use rand_chacha::ChaCha8Rng;
    use rand_distr::{Distribution as _, StandardNormal};

    use super::*;

    fn sample(dist: &Dist, n: usize) -> Vec<f64> {
        dist.check(&LEVELS).unwrap();
        let mut random = ChaCha8Rng::seed_from_u64(7);
        let mut all: Vec<f64> =
            (0..n).map(|_| dist.at(StandardNormal.sample(&mut random), &LEVELS)).collect();
        all.sort_by(f64::total_cmp);
        all
    }

    /// The share of samples at or below a table's value is that value's level, within five standard errors.
    #[test]
    fn quantile_tables_are_reproduced() {
        let values = vec![
            2., 31., 181., 220., 388., 402., 437., 1015., 1068., 1134., 1328., 4074., 4085., 4121.,
            5294., 14050.,
        ];
        let n = 100_000;
        let samples = sample(&Dist::Quantile { values: values.clone() }, n);
        for (value, level) in values.iter().zip(LEVELS) {
            let share = samples.partition_point(|s| s <= value) as f64 / n as f64;
            let error = (level * (1.0 - level) / n as f64).sqrt();
            assert!((share - level).abs() <= 5.0 * error + 1e-9, "{value}: {share} for {level}");
        }
    }

    #[test]
    fn means_and_spreads_are_the_analytic_ones() {
        let mean = |s: &[f64]| s.iter().sum::<f64>() / s.len() as f64;
        let n = 200_000;
        let log =
            sample(&Dist::Lognormal { mean: 161.31, sigma: 1.0, min: 0.0, max: f64::INFINITY }, n);
        assert!((mean(&log) / 161.31 - 1.0).abs() < 0.02, "{}", mean(&log));
        assert!((log[n / 2] / (161.31 * (-0.5_f64).exp()) - 1.0).abs() < 0.02);
        let even = sample(&Dist::Uniform { min: 10.0, max: 30.0 }, n);
        assert!((mean(&even) - 20.0).abs() < 0.1 && even[0] >= 10.0 && even[n - 1] <= 30.0);
        let bars = sample(
            &Dist::Histogram { values: vec![1.0, 5.0, 9.0], weights: vec![3.0, 0.0, 1.0] },
            n,
        );
        assert!((mean(&bars) - 3.0).abs() < 0.05 && !bars.contains(&5.0));
        assert_eq!(sample(&Dist::Fixed { value: 7.0 }, 2), [7.0, 7.0]);
    }

    #[test]
    fn a_gaussian_copula_gives_the_rank_correlation() {
        for wanted in [-0.9_f64, -0.107, 0.0, 0.5, 1.0] {
            let r = normal_correlation(wanted);
            // For a bivariate normal pair the analytic rank correlation is 6/pi asin(r/2).
            assert!((6.0 / std::f64::consts::PI * (r / 2.0).asin() - wanted).abs() < 1e-12);
        }
    }

    proptest! {
        #[test]
        fn larger_normals_never_give_smaller_values(a in -9.0..9.0_f64, b in -9.0..9.0_f64, values in prop::collection::vec(0.0..1e6_f64, 16)) {
            let (low, high) = if a < b { (a, b) } else { (b, a) };
            let mut values = values;
            let weights = values.clone();
            values.sort_by(f64::total_cmp);
            for dist in [Dist::Quantile { values: values.clone() }, Dist::Histogram { values, weights }, Dist::Lognormal { mean: 5.0, sigma: 2.0, min: 1.0, max: 100.0 }] {
                prop_assert!(dist.at(low, &LEVELS) <= dist.at(high, &LEVELS) * (1.0 + 1e-12));
            }
        }
    }
}
