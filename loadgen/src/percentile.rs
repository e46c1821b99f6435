//! Shares of requests, exact: a percentile is an integer, so that its rank among n values is too.

use std::fmt;

/// A share of requests in thousandths of a percent, so that ranks are exact.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Percentile(u32);

impl Percentile {
    /// 100 %, in thousandths of a percent.
    pub(crate) const WHOLE: u32 = 100_000;
    /// The median, the lowest the grammar takes.
    pub const P50: Self = Self(50_000);
    /// The default of the grammar.
    pub const P99: Self = Self(99_000);
    /// The highest the grammar takes.
    pub const P99_9: Self = Self(99_900);

    /// `thousandths` of a percent; none unless above 0 and at most 100 %.
    #[must_use]
    pub const fn new(thousandths: u32) -> Option<Self> {
        if thousandths >= 1 && thousandths <= Self::WHOLE { Some(Self(thousandths)) } else { None }
    }

    /// Nearest rank: the smallest 1-based rank that covers this share of `count` values; 0 of none.
    #[must_use]
    pub fn rank(self, count: u64) -> u64 {
        (u128::from(count) * u128::from(self.0)).div_ceil(u128::from(Self::WHOLE)) as u64
    }

    /// In (0, 1].
    #[must_use]
    pub fn fraction(self) -> f64 {
        f64::from(self.0) / f64::from(Self::WHOLE)
    }

    /// Reads a plain decimal number of percent with up to three decimals.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (whole, decimals) = text.split_once('.').unwrap_or((text, "0"));
        let digits = |s: &str| (1..=3).contains(&s.len()) && s.bytes().all(|b| b.is_ascii_digit());
        if !digits(whole) || !digits(decimals) {
            return None;
        }
        let thousandths = format!("{decimals:0<3}").parse::<u32>().ok()?;
        Self::new(whole.parse::<u32>().ok()? * 1_000 + thousandths)
    }
}

impl fmt::Display for Percentile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", f64::from(self.0) / 1_000.0)
    }
}

/// The statistic of a metric's distribution that a target limits. Ordered by how far into the tail
/// it looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Statistic {
    /// The arithmetic mean.
    Mean,
    /// Nearest-rank percentile.
    Percentile(Percentile),
}

impl fmt::Display for Statistic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mean => f.write_str("mean"),
            Self::Percentile(p) => write!(f, "p{p}"),
        }
    }
}
