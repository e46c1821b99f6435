//! The faults that the mock commits on purpose, each for a share of requests.

use std::fmt;
use std::str::FromStr;

use crate::error::Error;

/// One kind of misbehaviour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Answers with this status; 429 and 503 with `Retry-After`.
    Status(u16),
    /// Closes the connection half-way through the tokens.
    Cut,
    /// Reads the request and never answers.
    Hang,
    /// Sends its answer one byte per second.
    Drip,
    /// Answers 200 with a page of HTML.
    NotSse,
    /// Leaves the count of tokens out of the stream.
    NoUsage,
}

/// A fault and the share of requests it befalls, in (0, 1].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct FaultShare {
    /// The fault.
    pub fault: Fault,
    /// The share of requests that it befalls.
    pub share: f64,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Status(status) => write!(f, "{status}"),
            Self::Cut => f.write_str("cut"),
            Self::Hang => f.write_str("hang"),
            Self::Drip => f.write_str("drip"),
            Self::NotSse => f.write_str("not-sse"),
            Self::NoUsage => f.write_str("no-usage"),
        }
    }
}

impl FromStr for FaultShare {
    type Err = Error;

    /// `KIND` or `KIND=SHARE`: `429=5%`, `cut=0.01`, `no-usage`.
    fn from_str(text: &str) -> Result<Self, Error> {
        let bad = || Error::Fault(text.to_owned());
        let (kind, share) = text.split_once('=').unwrap_or((text, "100%"));
        let fault = match kind.to_ascii_lowercase().as_str() {
            "cut" => Fault::Cut,
            "hang" => Fault::Hang,
            "drip" => Fault::Drip,
            "not-sse" => Fault::NotSse,
            "no-usage" => Fault::NoUsage,
            status => {
                let status = status.parse().ok().filter(|s| (400..600).contains(s));
                Fault::Status(status.ok_or_else(bad)?)
            }
        };
        let number = |text: &str| text.trim().parse::<f64>().map_err(|_| bad());
        let share = match share.strip_suffix('%') {
            Some(percent) => number(percent)? / 100.0,
            None => number(share)?,
        };
        if share > 0.0 && share <= 1.0 { Ok(Self { fault, share }) } else { Err(bad()) }
    }
}

/// The fault that befalls request `index`, the same in every run of one seed.
pub(super) fn draw(faults: &[FaultShare], seed: u64, index: u64) -> Option<Fault> {
    if faults.is_empty() {
        return None;
    }
    // SplitMix64 of (seed, index), its upper 53 bits as a number in [0, 1).
    let mut z =
        (seed ^ index.wrapping_mul(0x9E37_79B9_7F4A_7C15)).wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    let mut u = ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64;
    faults.iter().find_map(|f| {
        u -= f.share;
        (u < 0.0).then_some(f.fault)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_grammar() {
        let parse = |text: &str| text.parse::<FaultShare>();
        assert_eq!(parse("429=5%").unwrap(), FaultShare { fault: Fault::Status(429), share: 0.05 });
        assert_eq!(parse("cut=0.5").unwrap(), FaultShare { fault: Fault::Cut, share: 0.5 });
        assert_eq!(parse("no-usage").unwrap(), FaultShare { fault: Fault::NoUsage, share: 1.0 });
        for bad in ["", "200", "429=0", "429=101%", "cut=x", "slow", "429=NaN"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn shares_are_kept() {
        let of = |text: &str| text.parse::<FaultShare>().unwrap();
        let faults = [of("429=5%"), of("cut=20%")];
        let drawn = |fault| {
            (0..100_000).filter(|&i| draw(&faults, 7, i) == Some(fault)).count() as f64 / 100_000.0
        };
        assert!((drawn(Fault::Status(429)) - 0.05).abs() < 0.003);
        assert!((drawn(Fault::Cut) - 0.20).abs() < 0.006);
    }
}
