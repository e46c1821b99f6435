//! The units of time: nanoseconds inside, decimal seconds in every serialised form.
//!
//! Decimal seconds are read back to the same nanosecond for any time below 2^52 ns (52 days).

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Whole nanoseconds, saturating after 584 years.
pub(crate) fn nanos(time: Duration) -> u64 {
    time.as_secs().saturating_mul(1_000_000_000).saturating_add(u64::from(time.subsec_nanos()))
}

/// Nanoseconds of a unit of time as people write it.
pub(crate) fn unit_nanos(unit: &str) -> Option<f64> {
    Some(match unit {
        "ns" => 1.0,
        "us" | "µs" | "μs" => 1e3,
        "ms" => 1e6,
        "s" => 1e9,
        "min" | "m" => 60e9,
        "h" => 3_600e9,
        _ => return None,
    })
}

/// A time as people write it, such as `50ms` or `0s`.
///
/// # Errors
/// Says what a time looks like.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let split = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let bad = || "write a number and one of ns, us, ms, s, min, h, such as 50ms".to_owned();
    let ns = number.parse::<f64>().ok().zip(unit_nanos(unit)).ok_or_else(bad)?;
    let ns = (ns.0 * ns.1).round();
    if ns <= i64::MAX as f64 { Ok(Duration::from_nanos(ns as u64)) } else { Err(bad()) }
}

/// An instant as machines agree on it: seconds since 1970, or RFC 3339 such as `2026-05-04T12:00:00Z`.
///
/// # Errors
/// Says what an instant looks like.
pub fn parse_instant(text: &str) -> Result<SystemTime, String> {
    let bad = || "write seconds since 1970 or a time such as 2026-05-04T12:00:00Z".to_owned();
    if let Ok(seconds) = text.parse::<f64>() {
        let since = Duration::try_from_secs_f64(seconds).map_err(|_| bad())?;
        return UNIX_EPOCH.checked_add(since).ok_or_else(bad);
    }
    let parsed = time::OffsetDateTime::parse(text, &time::format_description::well_known::Rfc3339);
    parsed.map(SystemTime::from).map_err(|_| bad())
}

/// Serialises a `Duration` as decimal seconds.
pub(crate) mod seconds {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};
    use std::time::Duration;

    pub(crate) fn serialize<S: Serializer>(time: &Duration, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_f64(time.as_secs_f64())
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
        Duration::try_from_secs_f64(f64::deserialize(from)?).map_err(Error::custom)
    }

    /// The same where there may be none.
    pub(crate) mod option {
        use super::{Deserialize, Deserializer, Duration, Error, Serializer};

        pub(crate) fn serialize<S: Serializer>(
            time: &Option<Duration>,
            to: S,
        ) -> Result<S::Ok, S::Error> {
            match time {
                Some(time) => to.serialize_some(&time.as_secs_f64()),
                None => to.serialize_none(),
            }
        }

        pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
            from: D,
        ) -> Result<Option<Duration>, D::Error> {
            Option::<f64>::deserialize(from)?
                .map(|s| Duration::try_from_secs_f64(s).map_err(Error::custom))
                .transpose()
        }
    }
}
