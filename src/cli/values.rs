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

/// A share of a whole.
pub(crate) fn share(text: &str) -> Result<f64, String> {
    let number = text.parse().ok().filter(|x: &f64| (0.0..=1.0).contains(x));
    number.ok_or_else(|| "expected a share from 0 to 1, such as 0.8".to_owned())
}

/// A device and its price.
pub(crate) fn priced(text: &str) -> Result<(String, f64), String> {
    let expected = || "expected DEVICE=USD per GPU and hour, such as h200-sxm=2.80".to_owned();
    let (device, price) = text.split_once('=').ok_or_else(expected)?;
    let price = above_zero(price.trim()).map_err(|_| expected())?;
    Ok((device.trim().to_ascii_lowercase(), price))
}

/// A quantity with its unit, as data sheets have it: bytes (`192GB`, `180GiB`), bytes per second (`5.3TB/s`) or operations
/// per second (`1307TFLOPS`). A bare number has no unit, and is refused.
pub(crate) fn quantity(text: &str) -> Result<f64, String> {
    let expected =
        || "expected a number with its unit, such as 192GB, 5.3TB/s or 1307TFLOPS".to_owned();
    let text = text.trim();
    let end = text.find(|c: char| c.is_ascii_alphabetic()).ok_or_else(expected)?;
    let (number, unit) = (above_zero(text[..end].trim()).map_err(|_| expected())?, &text[end..]);
    let prefix = |power: i32| Some(1e3_f64.powi(power));
    let binary = |power: i32| Some(1024_f64.powi(power));
    let (scale, rest) = match unit.split_at_checked(1) {
        Some(("M", rest)) => (2, rest),
        Some(("G", rest)) => (3, rest),
        Some(("T", rest)) => (4, rest),
        Some(("P", rest)) => (5, rest),
        _ => return Err(expected()),
    };
    let factor = match rest {
        "B" | "B/s" | "FLOPS" | "FLOP/s" => prefix(scale),
        "iB" | "iB/s" => binary(scale),
        _ => None,
    };
    Ok(number * factor.ok_or_else(expected)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_have_their_unit() {
        for (text, value) in [
            ("192GB", 192e9),
            ("180 GiB", 180.0 * 1024.0 * 1024.0 * 1024.0),
            ("5.3TB/s", 5.3e12),
            ("1307TFLOPS", 1307e12),
            ("2.5PFLOP/s", 2.5e15),
        ] {
            assert_eq!(quantity(text), Ok(value), "{text}");
        }
        for text in ["192", "GB", "192Gb", "-1GB", "5.3TB/h", "nan GB", "1e400GB", ""] {
            assert!(quantity(text).is_err(), "{text}");
        }
    }
}
