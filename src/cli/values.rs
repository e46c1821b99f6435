//! Numbers as they are typed, and the bounds that they keep.

/// More threads than any one machine has.
pub(crate) const MOST_THREADS: u64 = 1024;
/// More GPUs than one deployment is cut from; the ways to cut them grow faster than their number.
pub(crate) const MOST_GPUS: u64 = 1024;

/// A whole number between two bounds.
pub(crate) fn whole<T: TryFrom<u64>, const LEAST: u64, const MOST: u64>(
    text: &str,
) -> Result<T, String> {
    let number = text.parse().ok().filter(|n| (LEAST..=MOST).contains(n));
    number.and_then(|n| T::try_from(n).ok()).ok_or_else(|| match MOST {
        u64::MAX => format!("expected a whole number from {LEAST}"),
        _ => format!("expected a whole number from {LEAST} to {MOST}"),
    })
}

/// A rate or factor.
pub(crate) fn above_zero(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(x) if x.is_finite() && x > 0.0 => Ok(x),
        _ => Err("expected a finite number above 0, such as 2.5".to_owned()),
    }
}
