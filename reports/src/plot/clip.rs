//! Lines cut at the edge of the unit square, so that nothing is drawn outside its frame.

/// A point in the unit square, or outside of it.
pub(crate) type Point = (f64, f64);

/// The pieces of a line through `points` that lie inside; none of them shorter than two points.
pub(crate) fn polyline(points: &[Point]) -> Vec<Vec<Point>> {
    let mut pieces: Vec<Vec<Point>> = Vec::new();
    let mut open = false;
    for pair in points.windows(2) {
        match segment(pair[0], pair[1]) {
            Some((from, to)) => {
                if !open || from != pair[0] {
                    pieces.push(vec![from]);
                }
                if let Some(piece) = pieces.last_mut() {
                    piece.push(to);
                }
                open = to == pair[1];
            }
            None => open = false,
        }
    }
    pieces
}

/// Liang and Barsky: the part of a segment inside the unit square.
fn segment(a: Point, b: Point) -> Option<(Point, Point)> {
    let (dx, dy) = (b.0 - a.0, b.1 - a.1);
    let (mut enter, mut leave) = (0.0_f64, 1.0_f64);
    for (p, q) in [(-dx, a.0), (dx, 1.0 - a.0), (-dy, a.1), (dy, 1.0 - a.1)] {
        if p == 0.0 {
            if q < 0.0 {
                return None;
            }
        } else if p < 0.0 {
            enter = enter.max(q / p);
        } else {
            leave = leave.min(q / p);
        }
    }
    if enter > leave {
        return None;
    }
    let at = |t: f64| ((a.0 + t * dx).clamp(0.0, 1.0), (a.1 + t * dy).clamp(0.0, 1.0));
    // Ends inside are kept to the bit, so that pieces join.
    Some((if enter == 0.0 { a } else { at(enter) }, if leave == 1.0 { b } else { at(leave) }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_line_that_leaves_and_returns_is_two_pieces() {
        let pieces = polyline(&[(0.0, 0.5), (0.5, 1.5), (1.0, 0.5)]);
        assert_eq!(pieces, [vec![(0.0, 0.5), (0.25, 1.0)], vec![(0.75, 1.0), (1.0, 0.5)]]);
        assert_eq!(polyline(&[(0.1, 0.1), (0.2, 0.2), (0.3, 0.1)]).len(), 1);
        assert!(polyline(&[(2.0, 2.0), (3.0, 2.0)]).is_empty());
    }

    proptest! {
        #[test]
        fn pieces_stay_inside(points in prop::collection::vec((-3.0..4.0, -3.0..4.0), 0..30)) {
            for piece in polyline(&points) {
                prop_assert!(piece.len() >= 2);
                prop_assert!(piece.iter().all(|p| (0.0..=1.0).contains(&p.0) && (0.0..=1.0).contains(&p.1)));
            }
        }
    }
}
