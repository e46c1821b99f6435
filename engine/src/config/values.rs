//! Values of knobs as they are typed.

use std::time::Duration;

use crate::format::Format;

/// The word for the number format that a checkpoint has.
const AUTO: &str = "auto";

/// [`AUTO`] and the names of number formats that can be asked for: not the last, int4 in small groups, which a checkpoint
/// brings.
pub(super) const FORMATS: [&str; Format::NAMES.len()] = {
    assert!(matches!(Format::ALL[Format::NAMES.len() - 1], Format::Int4G32));
    let mut names = [AUTO; Format::NAMES.len()];
    let mut i = 1;
    while i < Format::NAMES.len() {
        names[i] = Format::NAMES[i - 1];
        i += 1;
    }
    names
};

pub(super) fn format_name(format: Option<Format>) -> &'static str {
    format.map_or(AUTO, Format::name)
}

pub(super) fn parse_format(text: &str) -> Result<Option<Format>, String> {
    let expected = |_| format!("expected one of {}", FORMATS.join(", "));
    if text == AUTO { Ok(None) } else { text.parse().map(Some).map_err(expected) }
}

/// A number format, or [`AUTO`], in files.
pub(super) mod or_auto {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    use super::{Format, format_name, parse_format};

    #[allow(clippy::ref_option, reason = "the signature serde calls")]
    pub(crate) fn serialize<S: Serializer>(
        format: &Option<Format>,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        to.serialize_str(format_name(*format))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Option<Format>, D::Error> {
        let text = String::deserialize(from)?;
        parse_format(&text).map_err(D::Error::custom)
    }
}

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

#[cfg(test)]
mod tests {
    use crate::config::Config;
    use crate::format::Format;

    #[test]
    fn a_format_of_weights_reads_back_from_a_file() {
        for quantization in Format::ALL.map(Some).into_iter().chain([None]) {
            let config = Config { quantization, ..Config::default() };
            let text = serde_json::to_value(&config).unwrap();
            assert_eq!(text["quantization"], quantization.map_or("auto", Format::name));
            assert_eq!(serde_json::from_value::<Config>(text).unwrap(), config);
        }
    }
}
