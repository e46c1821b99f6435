//! Numbers as they are shown: few significant digits, grouped thousands, a narrow space before the unit.
//!
//! People compare figures at a glance; a fourth digit is noise, a missing unit a trap.

use loadgen::{Latency, Metric};
use tuner::result::{Form, Latencies};

/// Between a number and its unit: narrow, and never broken across lines.
pub(crate) const THIN: char = '\u{202f}';

/// Stands for a value that does not exist.
pub(crate) const NONE: &str = "–";

/// `value` to about `digits` significant digits, thousands grouped, no exponent within reason.
pub(crate) fn sig(value: f64, digits: i32) -> String {
    if !value.is_finite() {
        return if value.is_nan() { NONE.to_owned() } else { "∞".to_owned() };
    }
    if value == 0.0 {
        return "0".to_owned();
    }
    // Of the rounded value: 9.999 is 10.0, not 10.00.
    let rounded = format!("{value:.*e}", (digits - 1).max(0) as usize);
    let magnitude = rounded.split_once('e').map_or(0, |(_, e)| e.parse().unwrap_or(0));
    if !(-6..=14).contains(&magnitude) {
        return rounded;
    }
    let decimals = (digits - 1 - magnitude).max(0) as usize;
    grouped(&format!("{value:.decimals$}"))
}

/// [`sig`] without the zeros that only pad: for ticks and settings.
pub(crate) fn short(value: f64) -> String {
    let text = sig(value, 3);
    match text.split_once('.') {
        Some((_, digits)) if !digits.contains('e') => {
            text.trim_end_matches('0').trim_end_matches('.').to_owned()
        }
        _ => text,
    }
}

/// Thousands of the whole part grouped by a comma.
fn grouped(plain: &str) -> String {
    let (whole, decimals) = plain.split_once('.').map_or((plain, None), |(w, d)| (w, Some(d)));
    let (sign, whole) = whole.strip_prefix('-').map_or(("", whole), |w| ("-", w));
    let mut out = sign.to_owned();
    for (i, digit) in whole.chars().enumerate() {
        if i > 0 && (whole.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    if let Some(decimals) = decimals {
        out.push('.');
        out.push_str(decimals);
    }
    out
}

/// A whole number.
pub(crate) fn count(value: u64) -> String {
    grouped(&value.to_string())
}

/// Requests per second, three digits.
pub(crate) fn rate(rps: f64) -> String {
    sig(rps, 3)
}

/// Milliseconds as ms, or as seconds from one second on.
pub(crate) fn ms(value: f64) -> String {
    if value.abs() >= 999.5 {
        format!("{}{THIN}s", sig(value / 1000.0, 3))
    } else {
        format!("{}{THIN}ms", sig(value, 3))
    }
}

/// A limit as typed, in ms: with as few digits.
pub(crate) fn limit(value: f64) -> String {
    let (value, unit) = if value.abs() >= 999.5 { (value / 1000.0, "s") } else { (value, "ms") };
    format!("{}{THIN}{unit}", short(value))
}

/// Names in a sentence: `a, b and c`.
pub(crate) fn listed<S: AsRef<str>>(names: &[S]) -> String {
    let names: Vec<&str> = names.iter().map(AsRef::as_ref).collect();
    match names.split_last() {
        Some((last, [])) => (*last).to_owned(),
        Some((last, others)) => format!("{} and {last}", others.join(", ")),
        None => String::new(),
    }
}

/// A sentence's first letter large.
pub(crate) fn capitalised(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |c| c.to_uppercase().chain(chars).collect())
}

/// Milliseconds that may not exist: infinitely late and undefined are both null in stored results.
pub(crate) fn opt_ms(value: Option<f64>) -> String {
    value.map_or_else(|| NONE.to_owned(), ms)
}

/// The latencies of which tables and charts have a column or a picture each.
pub(crate) const SHOWN: [Metric; 3] = [Metric::Ttft, Metric::Tpot, Metric::Itl];

/// The headings of their 99th percentiles.
pub(crate) const P99S: [&str; SHOWN.len()] = ["p99 TTFT", "p99 TPOT", "p99 ITL"];

/// Their 99th percentiles.
pub(crate) fn p99s<F: Form<Value = Option<f64>>>(of: &Latencies<F>) -> [String; SHOWN.len()] {
    SHOWN.map(|metric| opt_ms(of.get(metric)))
}

/// A statistic of latencies; `∞` where requests were lost.
pub(crate) fn latency(value: Latency) -> String {
    match value {
        Latency::Infinite => "∞".to_owned(),
        other => opt_ms(other.millis()),
    }
}

pub(crate) fn percent(share: f64) -> String {
    let value = share * 100.0;
    let digits = if value.abs() >= 99.95 || value.abs() < 1.0 { 2 } else { 3 };
    match value {
        v if v.abs() < 0.005 => format!("0{THIN}%"),
        v if v.abs() < 1.0 => format!("{v:.2}{THIN}%"),
        v if v.abs() < 1000.0 => format!("{v:.1}{THIN}%"),
        v => format!("{}{THIN}%", sig(v, digits)),
    }
}

/// Seconds as s, min or h.
pub(crate) fn seconds(s: f64) -> String {
    match s {
        s if s < 1.0 => ms(s * 1000.0),
        s if s < 120.0 => format!("{}{THIN}s", sig(s, 3)),
        s if s < 7200.0 => format!("{}{THIN}min", sig(s / 60.0, 3)),
        s => format!("{}{THIN}h", sig(s / 3600.0, 3)),
    }
}

/// US dollars.
pub(crate) fn usd(value: f64) -> String {
    if value.abs() < 0.995 {
        format!("${}", sig(value, 2))
    } else {
        format!("${}", grouped(&format!("{value:.2}")))
    }
}

/// Dollars per month of 730 hours, at so many per hour.
pub(crate) fn month(usd_per_hour: f64) -> String {
    format!("${}", count((usd_per_hour * 730.0).round().max(0.0) as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_latency_shown_has_its_heading() {
        assert_eq!(SHOWN.map(|metric| format!("p99 {}", metric.label())), P99S);
    }

    #[test]
    fn digits_follow_the_magnitude() {
        let cases = [
            (0.0, "0"),
            (0.012_345, "0.0123"),
            (1.0, "1.00"),
            (21.456, "21.5"),
            (9.999, "10.0"),
            (-1234.5, "-1,234"),
        ];
        for (value, text) in cases {
            assert_eq!(sig(value, 3), text);
        }
        assert_eq!(sig(f64::INFINITY, 3), "∞");
        assert_eq!(sig(f64::NAN, 3), "–");
        assert_eq!(sig(1e300, 3), "1.00e300");
        assert_eq!(
            (short(0.5), short(20.0), short(1e6)),
            ("0.5".into(), "20".into(), "1,000,000".into())
        );
    }

    #[test]
    fn units_change_with_size() {
        assert_eq!(ms(184.2), "184\u{202f}ms");
        assert_eq!(ms(1842.0), "1.84\u{202f}s");
        assert_eq!(ms(999.9), "1.00\u{202f}s");
        assert_eq!((limit(50.0), limit(2500.0)), ("50\u{202f}ms".into(), "2.5\u{202f}s".into()));
        assert_eq!(seconds(300.0), "5.00\u{202f}min");
        assert_eq!(
            (percent(0.961), percent(0.0004)),
            ("96.1\u{202f}%".into(), "0.04\u{202f}%".into())
        );
        assert_eq!((usd(0.1234), usd(12_345.6)), ("$0.12".into(), "$12,345.60".into()));
    }
}
