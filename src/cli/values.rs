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

/// A rate of requests: per second as a bare number or as `8rps`, per minute as `480rpm`.
pub(crate) fn rate(text: &str) -> Result<f64, String> {
    let typed = text.trim().to_ascii_lowercase();
    let (number, seconds) = match (typed.strip_suffix("rps"), typed.strip_suffix("rpm")) {
        (Some(number), _) => (number, 1.0),
        (_, Some(number)) => (number, 60.0),
        _ => (typed.as_str(), 1.0),
    };
    let expected = || "expected requests/s above 0, such as 2.5, 2.5rps or 150rpm".to_owned();
    above_zero(number.trim()).map(|n| n / seconds).map_err(|_| expected())
}

/// A number of tokens, in the units of context windows: `16k` is 16,384, `1M` is 1,048,576.
pub(crate) fn tokens(text: &str) -> Result<u32, String> {
    let (number, scale) = match text.split_at_checked(text.len().saturating_sub(1)) {
        Some((number, "k" | "K")) => (number, 1 << 10),
        Some((number, "m" | "M")) => (number, 1 << 20),
        _ => (text, 1),
    };
    let tokens = number.parse::<u32>().ok().and_then(|n| n.checked_mul(scale)).filter(|n| *n > 1);
    tokens.ok_or_else(|| "expected a number of tokens above 1, such as 16k, 65536 or 1M".to_owned())
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
    fn rates_are_per_second_or_per_minute() {
        for text in ["8", "8rps", "480rpm", " 8 RPS"] {
            assert_eq!(rate(text), Ok(8.0), "{text}");
        }
        for text in ["", "rps", "0", "-1rpm", "8rph", "inf", "8rps2"] {
            assert!(rate(text).is_err(), "{text}");
        }
    }

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
