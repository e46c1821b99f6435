//! Cells that a published table has wrong: one time far from those of more and of less work.
//!
//! Time rises with work, so a cell that takes twice as long as the next larger one, and as the next smaller one, is a
//! hiccup of the measurement; so is one that takes half as long as both.

use std::collections::{BTreeMap, BTreeSet};

use super::fit::Sample;

/// How far off a cell is that is left out.
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
        for three in line.windows(3) {
            let [before, here, after] = [three[0], three[1], three[2]].map(|i| samples[i].seconds);
            let spike = here > FAR * before.max(after);
            let dip = FAR * here < before.min(after);
            if spike || dip {
                found.insert(three[1]);
            }
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
        let mut two = line(&[1.0, 9.0]);
        two[1].y = 2.0;
        assert!(outliers(&two).is_empty());
    }
}
