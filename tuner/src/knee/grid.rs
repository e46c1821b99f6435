//! The one grid of rates, so that any two configurations are compared at the very same rates.

/// Ratio of neighbouring rates of the grid: the relative tolerance of every capacity.
pub const STEP: f64 = 1.01;

/// Lowest rate tried: one request in a thousand seconds. There requests meet only if the trace sends them at once.
pub const FLOOR: i32 = -694;

/// The rate of a place on the grid, requests/s; the same to the bit on every machine.
#[must_use]
pub fn rate_at(k: i32) -> f64 {
    libm::pow(STEP, f64::from(k))
}

/// The highest place on the grid whose rate is at most `rate`, which is positive.
#[must_use]
pub fn place_of(rate: f64) -> i32 {
    let k = (libm::log(rate) / libm::log(STEP)).floor() as i32;
    // The logarithm may be off by one in its last digit.
    if rate_at(k + 1) <= rate { k + 1 } else { k - i32::from(rate_at(k) > rate) }
}

/// The lowest place on the grid whose rate is at least `rate`, which is positive.
#[must_use]
pub fn place_above(rate: f64) -> i32 {
    let k = place_of(rate);
    k + i32::from(rate_at(k) < rate)
}
