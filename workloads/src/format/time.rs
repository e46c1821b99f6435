//! Times as decimal numbers of a unit. All become nanoseconds.
//!
//! Numbers are parsed as decimals, not as floats: microseconds since 1970 leave a float no digits for the fraction.

use std::str::FromStr;

/// Unit of a column of times.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TimeUnit {
    /// s
    Seconds,
    /// ms
    Milliseconds,
    /// us
    Microseconds,
    /// ns
    Nanoseconds,
}

impl TimeUnit {
    pub(crate) fn nanos(self) -> i64 {
        match self {
            Self::Seconds => 1_000_000_000,
            Self::Milliseconds => 1_000_000,
            Self::Microseconds => 1_000,
            Self::Nanoseconds => 1,
        }
    }
}

impl FromStr for TimeUnit {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        match s.to_ascii_lowercase().as_str() {
            "s" => Ok(Self::Seconds),
            "ms" => Ok(Self::Milliseconds),
            "us" => Ok(Self::Microseconds),
            "ns" => Ok(Self::Nanoseconds),
            _ => Err(format!("unknown time unit {s:?}: use s, ms, us or ns")),
        }
    }
}

/// Latest moment accepted: the year 2200, in nanoseconds since 1970. Beyond it a unit was mistaken.
pub(crate) const LATEST: i64 = 7_258_118_400_000_000_000;

/// `text` as a number of `unit`, in nanoseconds. `Err` says what is wrong.
pub(crate) fn nanoseconds(text: &str, unit: TimeUnit) -> Result<i64, String> {
    let time = decimal(text.trim(), unit.nanos()).ok_or_else(|| {
        format!("time {text:?} is not a number within range; correct or delete the line")
    })?;
    match time {
        ..0 => Err(format!("time {text} is negative; times count up from the start of the trace")),
        0..=LATEST => Ok(time),
        _ => Err(format!("time {text} is after the year 2200; is its unit right (--time-unit)?")),
    }
}

/// `text` times `scale`, exactly where it is written without exponent; digits below 1 are dropped.
fn decimal(text: &str, scale: i64) -> Option<i64> {
    let (negative, digits) = match text.as_bytes() {
        [b'-', rest @ ..] => (true, rest),
        [b'+', rest @ ..] => (false, rest),
        all => (false, all),
    };
    if digits.is_empty() || !digits.iter().all(|b| b.is_ascii_digit() || *b == b'.') {
        let value = text.parse::<f64>().ok()? * scale as f64;
        return (value.abs() < 9e18).then_some(value.round() as i64);
    }
    let point = digits.iter().position(|&b| b == b'.').unwrap_or(digits.len());
    let whole = digits[..point].iter().try_fold(0_i64, |n, &b| push(n, b))?.checked_mul(scale)?;
    let fraction = digits.get(point + 1..).unwrap_or_default();
    if fraction.contains(&b'.') || digits.len() == 1 && point == 0 {
        return None;
    }
    let mut unit = scale;
    let mut rest = 0;
    for &b in fraction {
        unit /= 10;
        rest += i64::from(b - b'0') * unit;
    }
    let value = whole.checked_add(rest)?;
    Some(if negative { -value } else { value })
}

fn push(n: i64, digit: u8) -> Option<i64> {
    n.checked_mul(10)?.checked_add(i64::from(digit - b'0'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decimals_are_exact() {
        let s = |t| nanoseconds(t, TimeUnit::Seconds);
        assert_eq!(s("1760428258.635837123"), Ok(1_760_428_258_635_837_123));
        assert_eq!(s("0.1"), Ok(100_000_000));
        assert_eq!(s("1.5e3"), Ok(1_500_000_000_000));
        assert_eq!(s("5."), Ok(5_000_000_000));
        for wrong in [
            "",
            ".",
            "-1",
            "1.2.3",
            "nan",
            "inf",
            "1e300",
            "99999999999999999999",
            "7300000000",
            "x",
        ] {
            assert!(s(wrong).is_err(), "{wrong:?}");
        }
    }
}
