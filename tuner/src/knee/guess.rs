//! The next rate to try: two ways to guess it.
//!
//! If nothing but "it holds" and "it fails" is known, the search goes in strides and halves. A
//! server under too much load tells more: the rate at which it then finishes requests is the rate
//! at which it stops keeping up. So the rates right beside that *estimate* are tried first.

use super::grid::{STEP, place_of, rate_at};

/// The distance from an estimate at which the rates beside it are tried.
const BESIDE: f64 = 0.01;
/// The largest distance of a bound from an estimate, in grid steps, at which the other bound is
/// looked for right beside the estimate.
const NEAR: i32 = 5;

/// Below a rate that fails, `stride` steps down: half of it, say; less where the server finished less than that.
pub(super) fn below(fails: i32, stride: i32, finished: Option<f64>) -> i32 {
    finished.map_or(fails - stride, |rate| place_of(rate).min(fails - stride))
}

/// Between a rate that holds and one that fails, more than `resolution` apart.
///
/// Beside the estimate; then the last step, taken first where the estimate says that it is the last. (Up, only until a
/// rate above the estimate holds: it was too low then, and every rate that holds costs a whole run.) Else the middle.
pub(super) fn between(lo: i32, hi: i32, resolution: i32, finished: Option<f64>) -> i32 {
    let middle = lo + (hi - lo) / 2;
    let Some(estimate) = finished else { return middle };
    let at = libm::log(estimate) / libm::log(STEP);
    let near = |k: i32| (f64::from(k) - at).abs() < f64::from(NEAR);
    let beside = [1.0 - BESIDE, 1.0 + BESIDE].map(|by| place_of(estimate * by));
    let up = (rate_at(lo) <= estimate && near(lo)).then_some(lo + resolution);
    let down = near(hi).then_some(hi - resolution);
    let mut places = beside.into_iter().chain(up).chain(down);
    places.find(|k| (lo + 1..hi).contains(k)).unwrap_or(middle)
}
