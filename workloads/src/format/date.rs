//! Date-times as files write them, in nanoseconds since 1970.
//!
//! Only differences matter, so one without zone is read as UTC. With slashes, day or month may come first: both
//! readings are given where both are dates.

/// A date-time, and whether it says its zone.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct DateTime {
    pub date: Reading,
    pub zoned: bool,
}

/// The moments that a date-time can mean, nanoseconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Reading {
    /// One.
    Plain(i64),
    /// One with the day first and another with the month first, where these are dates.
    Slashed { day_first: Option<i64>, month_first: Option<i64> },
}

/// True of a `text` that is meant as a date-time rather than as a number.
pub(crate) fn is_date(text: &str) -> bool {
    text.contains([':', '/']) || text.len() >= 8 && text.as_bytes()[4] == b'-'
}

/// `YYYY-MM-DD[T ]HH:MM:SS[.,fraction][ AM|PM][ zone]`, also `YYYY/MM/DD` and `D/M/YYYY`.
pub(crate) fn date_time(text: &str) -> Option<DateTime> {
    let text = text.trim();
    let (date, time) = text.split_once(['T', 't', ' '])?;
    let slashed = date.contains('/');
    let [a, b, c] = three(date, if slashed { '/' } else { '-' })?;
    let (nanos, zone) = clock(time.trim_start(), slashed)?;
    let moment = |year: &str, month: &str, day: &str| {
        let days = days(number(year, 4, 4)?, number(month, 1, 2)?, number(day, 1, 2)?)?;
        (days * 86_400 - zone.unwrap_or(0)).checked_mul(1_000_000_000)?.checked_add(nanos)
    };
    let date = if slashed && a.len() < 4 {
        let (day_first, month_first) = (moment(c, b, a), moment(c, a, b));
        day_first.or(month_first)?;
        Reading::Slashed { day_first, month_first }
    } else if slashed || date.len() == 10 {
        Reading::Plain(moment(a, b, c)?)
    } else {
        return None;
    };
    Some(DateTime { date, zoned: zone.is_some() })
}

/// The three parts of `text`.
fn three(text: &str, between: char) -> Option<[&str; 3]> {
    let (a, rest) = text.split_once(between)?;
    let (b, c) = rest.split_once(between)?;
    Some([a, b, c])
}

fn number(digits: &str, least: usize, most: usize) -> Option<i64> {
    let fits = (least..=most).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_digit());
    if fits { digits.parse().ok() } else { None }
}

/// Nanoseconds since midnight, and the zone's seconds east of Greenwich.
fn clock(text: &str, short_hours: bool) -> Option<(i64, Option<i64>)> {
    let end = text.find(|c: char| !c.is_ascii_digit() && !":.,".contains(c)).unwrap_or(text.len());
    let (time, rest) = text.split_at(end);
    let (whole, fraction) = time.split_once(['.', ',']).unwrap_or((time, "0"));
    let [hour, minute, second] = three(whole, ':')?;
    let mut rest = rest.trim();
    let half = rest.get(..2).map(str::to_ascii_lowercase);
    let half = half.filter(|h| matches!(h.as_str(), "am" | "pm"));
    let short_hours = short_hours || half.is_some();
    let mut hour = number(hour, if short_hours { 1 } else { 2 }, 2)?;
    if let Some(half) = half {
        rest = rest[2..].trim_start();
        if !(1..=12).contains(&hour) {
            return None;
        }
        hour = hour % 12 + if half == "pm" { 12 } else { 0 };
    }
    let (minute, second) = (number(minute, 2, 2)?, number(second, 2, 2)?);
    if hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    if fraction.is_empty() || !fraction.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let digits = fraction.bytes().chain(std::iter::repeat(b'0')).take(9);
    let nanos = digits.fold(0, |n, b| n * 10 + i64::from(b - b'0'));
    Some(((hour * 3_600 + minute * 60 + second) * 1_000_000_000 + nanos, zone(rest)?))
}

/// Seconds east of Greenwich of `Z`, `UTC`, `+02`, `+02:00`, `+0200` or `+0000 UTC`; none where no zone is given.
fn zone(text: &str) -> Option<Option<i64>> {
    let named = |text: &str| ["z", "utc", "gmt"].iter().any(|name| text.eq_ignore_ascii_case(name));
    if text.is_empty() {
        return Some(None);
    }
    if named(text) {
        return Some(Some(0));
    }
    let sign = match text.as_bytes()[0] {
        b'+' => 1,
        b'-' => -1,
        _ => return None,
    };
    let (offset, name) = text[1..].split_once(' ').unwrap_or((&text[1..], ""));
    let digits: String = offset.chars().filter(|&c| c != ':').collect();
    let colon = offset.find(':');
    if !(colon.is_none() || colon == Some(2) && offset.len() == 5) {
        return None;
    }
    let (hours, minutes) = match digits.len() {
        2 => (number(&digits, 2, 2)?, 0),
        4 => (number(digits.get(..2)?, 2, 2)?, number(digits.get(2..)?, 2, 2)?),
        _ => return None,
    };
    let offset = sign * (hours * 3_600 + minutes * 60);
    let fits = hours < 16 && minutes < 60 && (name.is_empty() || offset == 0 && named(name));
    fits.then_some(Some(offset))
}

fn leap(year: i64) -> bool {
    year % 4 == 0 && (year % 100 != 0 || year % 400 == 0)
}

/// Days of a month.
fn length(year: i64, month: i64) -> i64 {
    match month {
        2 if leap(year) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Days since 1970-01-01 in the Gregorian calendar, with years counted from March so that the leap day is last. None
/// where there is no such day, or none before the year 2200.
fn days(year: i64, month: i64, day: i64) -> Option<i64> {
    let fits = (1970..2200).contains(&year) && (1..=12).contains(&month);
    if !fits || !(1..=length(year, month)).contains(&day) {
        return None;
    }
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    Some(year * 365 + year / 4 - year / 100 + year / 400 + (month * 153 + 2) / 5 + day - 719_469)
}

/// The date so many days after 1970-01-01.
pub(crate) fn civil(mut days: i64) -> (i64, i64, i64) {
    let (mut year, mut month) = (1970, 1);
    while days >= 365 + i64::from(leap(year)) {
        days -= 365 + i64::from(leap(year));
        year += 1;
    }
    while days >= length(year, month) {
        days -= length(year, month);
        month += 1;
    }
    (year, month, days + 1)
}

/// A moment since 1970, in nanoseconds, as text. None of one that is not read either.
pub(crate) fn written(nanos: i64) -> Option<String> {
    if !(0..=super::time::LATEST).contains(&nanos) {
        return None;
    }
    let (seconds, nanos) = (nanos / 1_000_000_000, nanos % 1_000_000_000);
    let (year, month, day) = civil(seconds / 86_400);
    let (hour, minute, second) = (seconds / 3_600 % 24, seconds / 60 % 60, seconds % 60);
    Some(format!("{year}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{nanos:09}Z"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ns(text: &str) -> Option<i64> {
        match date_time(text)?.date {
            Reading::Plain(ns) => Some(ns),
            Reading::Slashed { .. } => None,
        }
    }

    #[test]
    fn date_times_agree_with_known_epochs() {
        assert_eq!(ns("1970-01-01 00:00:00"), Some(0));
        assert_eq!(ns("2000-02-29T12:00:00Z"), Some(951_825_600_000_000_000));
        assert_eq!(ns("2023-11-16 18:15:46.6805900"), Some(1_700_158_546_680_590_000));
        assert_eq!(ns("2024-05-10 00:00:00.009930+00:00"), Some(1_715_299_200_009_930_000));
        assert_eq!(ns("2024-05-10 02:30:00+0230"), ns("2024-05-10T00:00:00Z"));
        for wrong in [
            "2023-02-29 00:00:00",
            "2023-13-01 00:00:00",
            "2023-11-16 24:00:00",
            "2023-11-16 1:00:00",
            "2023-11-16 00:00:00 PST",
            "2023-11-16 00:00:00+99:00",
            "2023-11-16",
            "12345-01-01 00:00:00",
            "13/13/2025 10:00:00",
        ] {
            assert_eq!(date_time(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn zones_fractions_and_halves_of_the_day_are_read_as_they_are_written() {
        let noon = ns("2025-06-01T12:00:00.123Z");
        for same in [
            "2025-06-01 12:00:00.123 UTC",
            "2025-06-01 12:00:00,123",
            "2025-06-01 12:00:00.123 +0000 UTC",
            "2025-06-01 14:00:00.123+02",
            "2025-06-01 07:00:00.123 -05:00",
            "2025/06/01 12:00:00.123",
            "2025-06-01 12:00:00.123 PM",
        ] {
            assert_eq!(ns(same), noon, "{same}");
        }
        assert_eq!(ns(&written(noon.unwrap()).unwrap()), noon);
        assert!(date_time("2025-06-01 12:00:00 UTC").unwrap().zoned);
        assert!(!date_time("2025-06-01 12:00:00").unwrap().zoned);
        let eve = date_time("31/12/2025 9:05:00 PM").unwrap().date;
        let day_first = ns("2025-12-31 21:05:00");
        assert_eq!(eve, Reading::Slashed { day_first, month_first: None });
    }

    /// Every day from 1970 to 2199 follows the one before: the calendar formula against counting.
    #[test]
    fn days_count_up_one_by_one() {
        let mut expected = 0;
        for year in 1970..2200 {
            for month in 1..=12 {
                for day in 1..=31 {
                    let Some(here) = days(year, month, day) else { continue };
                    assert_eq!(here, expected, "{year}-{month}-{day}");
                    assert_eq!(civil(here), (year, month, day));
                    expected += 1;
                }
            }
        }
        assert_eq!(expected, 84_006);
    }
}
