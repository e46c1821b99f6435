//! Cells that a published table has wrong: one time far from those of more and of less work.
//!
//! Time rises with work, so a cell that takes twice as long as the next larger one, and as the next smaller one, is a
//! hiccup of the measurement; so is one that takes half as long as both.

use std::collections::{BTreeMap, BTreeSet};

use super::fit::Sample;

/// The deviation from which on a cell is left out.
const FAR: f64 = 2.0;

/// The places of such cells among `samples`.
pub(super) fn outliers(samples: &[Sample]) -> BTreeSet<usize> {
    let mut lines: BTreeMap<(&[u32], u64), Vec<usize>> = BTreeMap::new();
    for (i, s) in samples.iter().enumerate() {
        lines.entry((&s.shape, s.y.to_bits())).or_default().push(i);
    }
    let mut found = BTreeSet::new();
    for line in lines.values_mut() {
        line.sort_by(|a, b| samples[*a].x.total_cmp(&samples[*b].x));
        // Spikes first: beside one, the next cell would look like a dip.
        let spike = |before: f64, here: f64, after: f64| here > FAR * before.max(after);
        let dip = |before: f64, here: f64, after: f64| FAR * here < before.min(after);
        for off in [&spike as &dyn Fn(f64, f64, f64) -> bool, &dip] {
            let far: Vec<usize> = (line.windows(3))
                .filter(|three| {
                    off(
                        samples[three[0]].seconds,
                        samples[three[1]].seconds,
                        samples[three[2]].seconds,
                    )
                })
                .map(|three| three[1])
                .collect();
            line.retain(|i| !far.contains(i));
            found.extend(far);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hiccup_is_found_and_a_step_is_not() {
        let line = |times: &[f64]| -> Vec<Sample> {
            let sample = |(i, t): (usize, &f64)| Sample {
                shape: vec![64],
                x: (1 << i) as f64,
                y: 0.0,
                seconds: *t,
                floor: 0.0,
                weight: 1.0,
            };
            times.iter().enumerate().map(sample).collect()
        };
        assert!(outliers(&line(&[1.0, 1.0, 1.1, 4.0, 4.1, 9.0])).is_empty());
        assert_eq!(outliers(&line(&[1.0, 1.0, 17.0, 1.2, 1.3])), [2].into());
        assert_eq!(outliers(&line(&[1.0, 1.1, 0.1, 1.2, 1.3])), [2].into());
        assert_eq!(outliers(&line(&[1.0, 17.0, 1.1, 4.0])), [1].into());
        let mut two = line(&[1.0, 9.0]);
        two[1].y = 2.0;
        assert!(outliers(&two).is_empty());
    }
}
