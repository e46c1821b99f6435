//! Times as files write them: decimal numbers in a known unit, or date-times. All become nanoseconds.
//!
//! Only differences matter, so a date-time without zone is read as UTC. Numbers are parsed as decimals, not as
//! floats: microseconds since 1970 leave a float no digits for the fraction.

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
        match s {
            "s" => Ok(Self::Seconds),
            "ms" => Ok(Self::Milliseconds),
            "us" => Ok(Self::Microseconds),
            "ns" => Ok(Self::Nanoseconds),
            other => Err(format!("unknown time unit {other:?}: use s, ms, us or ns")),
        }
    }
}

/// Latest moment accepted: the year 2200, in nanoseconds since 1970. Beyond it a unit was mistaken.
pub(crate) const LATEST: i64 = 7_258_118_400_000_000_000;

/// A time in nanoseconds: a date-time whatever the unit, or a number of `unit`. `Err` says what is wrong.
pub(crate) fn nanoseconds(text: &str, unit: Option<TimeUnit>) -> Result<i64, String> {
    let text = text.trim();
    if text.len() > 10 && text.as_bytes()[4] == b'-' {
        return date_time(text.as_bytes()).ok_or_else(|| {
            format!("{text:?} is not a date-time such as 2023-11-16 18:15:46.6805900")
        });
    }
    let Some(unit) = unit else {
        return Err(format!(
            "the unit of time {text:?} cannot be known; name it with --time-unit s, ms, us or ns"
        ));
    };
    let time = decimal(text, unit.nanos()).ok_or_else(|| {
        format!("time {text:?} is not a number within range; correct or delete the line")
    })?;
    match time {
        ..0 => Err(format!("time {text} is negative; times count up from the start of the trace")),
        0..=LATEST => Ok(time),
        _ => Err(format!("time {text} is after the year 2200; is --time-unit right?")),
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

/// `YYYY-MM-DD[T ]HH:MM:SS[.fraction][Z|±HH:MM]`.
fn date_time(text: &[u8]) -> Option<i64> {
    let number = |from: usize, to: usize| -> Option<i64> {
        let digits = text.get(from..to)?;
        digits
            .iter()
            .all(u8::is_ascii_digit)
            .then(|| digits.iter().fold(0, |n, b| n * 10 + i64::from(b - b'0')))
    };
    let is = |at: usize, any: &[u8]| text.get(at).is_some_and(|b| any.contains(b));
    if !(is(4, b"-") && is(7, b"-") && is(10, b"T ") && is(13, b":") && is(16, b":")) {
        return None;
    }
    let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
    let (hour, minute, second) = (number(11, 13)?, number(14, 16)?, number(17, 19)?);
    let month_days = [31, if leap(year) { 29 } else { 28 }, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let last = *month_days.get(usize::try_from(month - 1).ok()?)?;
    if !(1970..2200).contains(&year)
        || !(1..=last).contains(&day)
        || hour > 23
        || minute > 59
        || second > 60
    {
        return None;
    }
    let mut rest = &text[19..];
    let mut nanos = 0;
    if let [b'.', more @ ..] = rest {
        let end = more.iter().position(|b| !b.is_ascii_digit()).unwrap_or(more.len());
        let mut unit = 1_000_000_000;
        for b in &more[..end] {
            unit /= 10;
            nanos += i64::from(b - b'0') * unit;
        }
        rest = &more[end..];
    }
    let days = days_from_civil(year, month, day);
    let seconds = days * 86_400 + hour * 3_600 + minute * 60 + second - zone(rest)?;
    seconds.checked_mul(1_000_000_000)?.checked_add(nanos)
}

/// Offset from UTC in seconds.
fn zone(text: &[u8]) -> Option<i64> {
    let (sign, digits) = match text {
        [] | [b'Z'] => return Some(0),
        [b'+', rest @ ..] => (1, rest),
        [b'-', rest @ ..] => (-1, rest),
        _ => return None,
    };
    let (hours, minutes) = match *digits {
        [a, b] => ([a, b], [b'0', b'0']),
        [a, b, c, d] | [a, b, b':', c, d] => ([a, b], [c, d]),
        _ => return None,
    };
    let two = |d: [u8; 2]| {
        d.iter()
            .all(u8::is_ascii_digit)
            .then(|| i64::from(d[0] - b'0') * 10 + i64::from(d[1] - b'0'))
    };
    Some(sign * (two(hours)? * 3_600 + two(minutes)? * 60))
}

fn leap(year: i64) -> bool {
    year % 4 == 0 && (year % 100 != 0 || year % 400 == 0)
}

/// Days since 1970-01-01 in the Gregorian calendar, with years counted from March so that the leap day is last.
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    year * 365 + year / 4 - year / 100 + year / 400 + (month * 153 + 2) / 5 + day - 719_469
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn date_times_agree_with_known_epochs() {
        let ns = |s| nanoseconds(s, None);
        assert_eq!(ns("1970-01-01 00:00:00"), Ok(0));
        assert_eq!(ns("2000-02-29T12:00:00Z"), Ok(951_825_600_000_000_000));
        assert_eq!(ns("2023-11-16 18:15:46.6805900"), Ok(1_700_158_546_680_590_000));
        assert_eq!(ns("2024-05-10 00:00:00.009930+00:00"), Ok(1_715_299_200_009_930_000));
        assert_eq!(ns("2024-05-10 02:30:00+0230"), ns("2024-05-10T00:00:00Z"));
        for wrong in [
            "2023-02-29 00:00:00",
            "2023-13-01 00:00:00",
            "2023-11-16 24:00:00",
            "2023-11-16 1:00:00",
            "2023-11-16 00:00:00 PST",
            "2023-11-16",
            "12345-01-01 00:00:00",
        ] {
            assert!(ns(wrong).is_err(), "{wrong}");
        }
    }

    /// Every day from 1970 to 2199 follows the one before: the calendar formula against counting.
    #[test]
    fn days_count_up_one_by_one() {
        let mut expected = 0;
        for year in 1970..2200 {
            for (month, days) in (1..).zip([
                31,
                if leap(year) { 29 } else { 28 },
                31,
                30,
                31,
                30,
                31,
                31,
                30,
                31,
                30,
                31,
            ]) {
                for day in 1..=days {
                    assert_eq!(days_from_civil(year, month, day), expected, "{year}-{month}-{day}");
                    expected += 1;
                }
            }
        }
    }

    #[test]
    fn decimals_are_exact() {
        let s = |t| nanoseconds(t, Some(TimeUnit::Seconds));
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
        assert!(nanoseconds("5", None).unwrap_err().contains("--time-unit"));
    }
}
