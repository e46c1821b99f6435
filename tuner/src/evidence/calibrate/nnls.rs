//! Least squares with coefficients that must not be negative (Lawson and Hanson's active set), for a handful of them.
//!
//! The rows are rotated into a triangle first (Householder), so that every further step costs what the coefficients
//! cost, and nothing is squared that need not be.

/// Columns that explain less than this share of a column's own length are taken for copies of it.
const DEPENDENT: f64 = 1e-10;

/// Coefficients x ≥ 0 that minimise |A x − b|, and the standard error of each that is not held at zero (none where
/// rows are too few). `rows` are A's rows with b's entry last, all of one length.
#[must_use]
pub fn nnls(rows: &[Vec<f64>]) -> Vec<(f64, Option<f64>)> {
    let Some(width) = rows.first().map(Vec::len) else { return Vec::new() };
    let n = width - 1;
    let scale: Vec<f64> = (0..n).map(|j| length(rows.iter().map(|r| r[j]))).collect();
    let unit = |j: usize| if scale[j] > 0.0 { scale[j] } else { 1.0 };
    let scaled = |r: &Vec<f64>| -> Vec<f64> {
        r.iter().enumerate().map(|(j, x)| if j < n { x / unit(j) } else { *x }).collect()
    };
    let triangle = triangle(rows.iter().map(scaled).collect());
    let mut free = vec![false; n];
    let mut x = vec![0.0; n];
    // Each round frees one coefficient; a set never comes back, for the residual falls.
    for _ in 0..3 * n.max(1) {
        let gradient = gradient(&triangle, &x, n);
        let tolerance = 1e-12 * length(triangle.iter().map(|r| r[n])).max(f64::MIN_POSITIVE);
        let mut order: Vec<usize> =
            (0..n).filter(|&j| !free[j] && gradient[j] > tolerance).collect();
        order.sort_by(|&a, &b| gradient[b].total_cmp(&gradient[a]));
        let Some(next) = order.into_iter().find(|&j| independent(&triangle, &free, j)) else {
            break;
        };
        free[next] = true;
        settle(&triangle, &mut free, &mut x);
    }
    let errors = errors(&triangle, &free, &x, rows.len());
    (0..n).map(|j| (x[j] / unit(j), errors[j].map(|e| e / unit(j)))).collect()
}

fn length(values: impl Iterator<Item = f64>) -> f64 {
    values.map(|x| x * x).sum::<f64>().sqrt()
}

/// The upper triangle that rotations make of `rows`: as many rows as columns at most.
fn triangle(mut rows: Vec<Vec<f64>>) -> Vec<Vec<f64>> {
    let width = rows.first().map_or(0, Vec::len);
    for j in 0..width.min(rows.len()) {
        let norm = length(rows[j..].iter().map(|r| r[j]));
        if norm == 0.0 {
            continue;
        }
        let head = if rows[j][j] > 0.0 { rows[j][j] + norm } else { rows[j][j] - norm };
        let mut v: Vec<f64> = rows[j..].iter().map(|r| r[j]).collect();
        v[0] = head;
        let square: f64 = v.iter().map(|x| x * x).sum();
        for k in j..width {
            let dot: f64 = rows[j..].iter().zip(&v).map(|(r, v)| r[k] * v).sum();
            let times = 2.0 * dot / square;
            rows[j..].iter_mut().zip(&v).for_each(|(r, v)| r[k] -= times * v);
        }
        rows[j + 1..].iter_mut().for_each(|r| r[j] = 0.0);
    }
    rows.truncate(width);
    rows
}

/// Aᵀ(b − A x).
fn gradient(rows: &[Vec<f64>], x: &[f64], n: usize) -> Vec<f64> {
    let residual = |r: &Vec<f64>| r[n] - r[..n].iter().zip(x).map(|(a, x)| a * x).sum::<f64>();
    let residuals: Vec<f64> = rows.iter().map(residual).collect();
    (0..n).map(|j| rows.iter().zip(&residuals).map(|(r, e)| r[j] * e).sum()).collect()
}

fn members(free: &[bool]) -> Vec<usize> {
    (0..free.len()).filter(|&j| free[j]).collect()
}

/// True where column `j` says something that the free ones do not.
fn independent(rows: &[Vec<f64>], free: &[bool], j: usize) -> bool {
    let mut columns = members(free);
    columns.push(j);
    let sub = triangle(rows.iter().map(|r| columns.iter().map(|&c| r[c]).collect()).collect());
    let last = columns.len() - 1;
    let rest = sub.get(last).map_or(0.0, |r| r[last].abs());
    rest > DEPENDENT * length(sub.iter().map(|r| r[last]))
}

/// The unconstrained least squares over the free columns.
fn solve(rows: &[Vec<f64>], free: &[bool]) -> Vec<f64> {
    let (columns, n) = (members(free), free.len());
    let cut = |r: &Vec<f64>| columns.iter().map(|&c| r[c]).chain([r[n]]).collect();
    let sub = triangle(rows.iter().map(cut).collect());
    let (m, mut z) = (columns.len(), vec![0.0; n]);
    for i in (0..m).rev() {
        let known: f64 = (i + 1..m).map(|k| sub[i][k] * z[columns[k]]).sum();
        z[columns[i]] = (sub[i][m] - known) / sub[i][i];
    }
    z
}

/// Moves `x` to the best point of the free columns, holding at zero whatever would turn negative on the way.
fn settle(rows: &[Vec<f64>], free: &mut [bool], x: &mut [f64]) {
    loop {
        let z = solve(rows, free);
        let blocked = members(free).into_iter().filter(|&j| z[j] <= 0.0);
        let step = blocked.map(|j| x[j] / (x[j] - z[j])).fold(f64::INFINITY, f64::min);
        if step == f64::INFINITY {
            x.copy_from_slice(&z);
            return;
        }
        for j in members(free) {
            x[j] += step.clamp(0.0, 1.0) * (z[j] - x[j]);
            if z[j] <= 0.0 && x[j] <= 1e-14 {
                (free[j], x[j]) = (false, 0.0);
            }
        }
    }
}

/// Standard errors from the residual's variance and the free columns' triangle.
fn errors(rows: &[Vec<f64>], free: &[bool], x: &[f64], count: usize) -> Vec<Option<f64>> {
    let (columns, n) = (members(free), free.len());
    let mut out = vec![None; n];
    let m = columns.len();
    if count <= m || m == 0 {
        return out;
    }
    let residual = |r: &Vec<f64>| r[n] - r[..n].iter().zip(x).map(|(a, x)| a * x).sum::<f64>();
    let variance = rows.iter().map(|r| residual(r).powi(2)).sum::<f64>() / (count - m) as f64;
    let sub = triangle(rows.iter().map(|r| columns.iter().map(|&c| r[c]).collect()).collect());
    // Rows of the inverse triangle, by back substitution of unit vectors.
    for (i, &column) in columns.iter().enumerate() {
        let mut row = vec![0.0; m];
        row[i] = 1.0 / sub[i][i];
        for k in i + 1..m {
            let known: f64 = (i..k).map(|l| row[l] * sub[l][k]).sum();
            row[k] = -known / sub[k][k];
        }
        out[column] = Some((variance * row.iter().map(|r| r * r).sum::<f64>()).sqrt());
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn squares(rows: &[Vec<f64>], x: &[f64]) -> f64 {
        let n = x.len();
        rows.iter().map(|r| (r[n] - (0..n).map(|j| r[j] * x[j]).sum::<f64>()).powi(2)).sum()
    }

    /// The oracle: the best among all sets of free columns whose own least squares are not negative.
    fn brute(rows: &[Vec<f64>], n: usize) -> f64 {
        let sets = (0..1u32 << n).map(|set| (0..n).map(|j| set >> j & 1 == 1).collect::<Vec<_>>());
        let points =
            sets.map(|free| if free.contains(&true) { solve(rows, &free) } else { vec![0.0; n] });
        points
            .filter(|x| x.iter().all(|v| v.is_finite() && *v >= 0.0))
            .map(|x| squares(rows, &x))
            .fold(f64::INFINITY, f64::min)
    }

    proptest! {
        #[test]
        fn no_set_of_columns_does_better(
            cells in prop::collection::vec(-3.0..3.0f64, 5 * 12), rows in 6..12usize,
        ) {
            let rows: Vec<Vec<f64>> = cells.chunks(5).take(rows).map(<[f64]>::to_vec).collect();
            let x: Vec<f64> = nnls(&rows).into_iter().map(|c| c.0).collect();
            prop_assert!(x.iter().all(|v| *v >= 0.0));
            let (found, best) = (squares(&rows, &x), brute(&rows, 4));
            prop_assert!(found <= best * (1.0 + 1e-9) + 1e-12, "{found} against {best}");
        }

        #[test]
        fn exact_coefficients_are_found(
            cells in prop::collection::vec(0.1..3.0f64, 4 * 20), x in prop::collection::vec(0.0..5.0f64, 4),
        ) {
            let row = |c: &[f64]| {
                let b = c.iter().zip(&x).map(|(a, x)| a * x).sum();
                c.iter().copied().chain([b]).collect::<Vec<f64>>()
            };
            let rows: Vec<Vec<f64>> = cells.chunks(4).map(row).collect();
            for ((found, _), put) in nnls(&rows).into_iter().zip(&x) {
                prop_assert!((found - put).abs() < 1e-7, "{found} for {put}");
            }
        }
    }

    #[test]
    fn copies_of_a_column_and_empty_ones_take_nothing() {
        let rows: Vec<Vec<f64>> =
            (1..9).map(f64::from).map(|i| vec![i, 2.0 * i, 0.0, 6.0 * i]).collect();
        let x: Vec<f64> = nnls(&rows).into_iter().map(|c| c.0).collect();
        assert!((x[0] + 2.0 * x[1] - 6.0).abs() < 1e-9 && x[2] == 0.0);
        assert!(nnls(&[]).is_empty());
    }

    #[test]
    fn errors_are_those_of_the_textbook() {
        // y = 2 x with residuals +1, −1, +1, −1 over x = 1: variance 4/3, error √(4/3/4).
        let rows: Vec<Vec<f64>> = [3.0, 1.0, 3.0, 1.0].map(|y| vec![1.0, y]).to_vec();
        let (x, error) = nnls(&rows)[0];
        assert!((x - 2.0).abs() < 1e-12);
        assert!((error.unwrap() - (1.0f64 / 3.0).sqrt()).abs() < 1e-12);
    }
}
