//! The operating points that no other point beats on both axes at once.

/// Indices of `points` (x, y), both better when higher, that no other point dominates, by falling x. A point dominates
/// another when it is at least as good on both axes and better on one; of equal points the first is kept. Points
/// that are not finite are left out. O(n log n).
#[must_use]
pub fn front(points: &[(f64, f64)]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..points.len())
        .filter(|i| points[*i].0.is_finite() && points[*i].1.is_finite())
        .collect();
    order.sort_by(|&a, &b| {
        let ((xa, ya), (xb, yb)) = (points[a], points[b]);
        xb.total_cmp(&xa).then(yb.total_cmp(&ya)).then(a.cmp(&b))
    });
    // Everything before is at least as far right: a point survives if it is higher than all of it.
    let mut highest = f64::NEG_INFINITY;
    order.retain(|&i| {
        let survives = points[i].1 > highest;
        highest = highest.max(points[i].1);
        survives
    });
    order
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The definition, pair by pair.
    fn brute(points: &[(f64, f64)]) -> Vec<usize> {
        let beaten = |i: usize| {
            let (x, y) = points[i];
            points.iter().enumerate().any(|(j, &(a, b))| {
                (a >= x && b >= y && (a > x || b > y)) || (j < i && a == x && b == y)
            })
        };
        (0..points.len()).filter(|i| !beaten(*i)).collect()
    }

    proptest! {
        #[test]
        fn the_front_agrees_with_its_definition(
            cells in proptest::collection::vec((0..12_u8, 0..12_u8), 0..60)
        ) {
            let points: Vec<_> = cells.iter().map(|c| (f64::from(c.0), f64::from(c.1))).collect();
            let mut found = front(&points);
            prop_assert!(found.windows(2).all(|w| points[w[0]].0 > points[w[1]].0));
            found.sort_unstable();
            prop_assert_eq!(found, brute(&points));
        }
    }

    #[test]
    fn points_that_are_no_numbers_are_left_out() {
        assert_eq!(front(&[(1.0, f64::NAN), (f64::INFINITY, 1.0), (1.0, 1.0)]), vec![2]);
        assert!(front(&[]).is_empty());
    }
}
