//! Values of knobs as they are typed.

use std::time::Duration;

pub(super) fn count(text: &str, min: u32, max: u32) -> Result<u32, String> {
    let range = || format!("expected a whole number from {min} to {max}");
    let n = text.parse().map_err(|_| range())?;
    if (min..=max).contains(&n) { Ok(n) } else { Err(range()) }
}

pub(super) fn fraction(text: &str, min: f64, max: f64) -> Result<f64, String> {
    let range = || format!("expected a fraction from {min} to {max}");
    let x = text.parse().map_err(|_| range())?;
    if (min..=max).contains(&x) { Ok(x) } else { Err(range()) }
}

pub(super) fn switch(text: &str) -> Result<bool, String> {
    match text {
        "on" | "true" => Ok(true),
        "off" | "false" => Ok(false),
        _ => Err("expected on or off".to_owned()),
    }
}

pub(super) fn parse_time(text: &str) -> Result<Duration, String> {
    let bad = || "expected a time with its unit: us, ms or s (for example 50ms)".to_owned();
    let split = text.find(|c: char| c.is_ascii_alphabetic()).ok_or_else(bad)?;
    let number: f64 = text[..split].parse().map_err(|_| bad())?;
    let unit = match &text[split..] {
        "us" => 1e-6,
        "ms" => 1e-3,
        "s" => 1.0,
        _ => return Err(bad()),
    };
    Duration::try_from_secs_f64(number * unit).map_err(|_| bad())
}

pub(super) fn format_time(t: Duration) -> String {
    match t.as_micros() {
        us if us % 1_000_000 == 0 => format!("{}s", us / 1_000_000),
        us if us % 1_000 == 0 => format!("{}ms", us / 1_000),
        us => format!("{us}us"),
    }
}
