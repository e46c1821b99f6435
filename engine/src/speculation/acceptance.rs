//! The share of drafted tokens that is right, where tokens are not real.

use std::fmt;
use std::str::FromStr;

use super::Drafter;
use crate::request::mix;
use crate::sequence::{Draft, Sequence};

/// Mean tokens that a decode brings with 1, 2, 3 … drafted tokens (the acceptance length, as vLLM and SGLang report it);
/// empty where that is for the model to say.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Acceptance {
    lengths: Vec<f64>,
}

/// The word for the model's own.
const AUTO: &str = "auto";

impl Acceptance {
    /// Such lengths.
    ///
    /// # Errors
    /// When no drafts can have them.
    pub fn new(lengths: Vec<f64>) -> Result<Self, String> {
        let (mut before, mut gain) = (1.0, 1.0);
        for (k, &length) in (1..).zip(&lengths) {
            let more = length - before;
            if !(more >= 0.0 && more <= gain + 1e-9) {
                return Err(format!(
                    "a mean of {length} tokens with {k} drafted ones cannot be: after {before} with {}, it is from \
                     {before} to {}",
                    k - 1,
                    round(before + gain)
                ));
            }
            (before, gain) = (length, more);
        }
        Ok(Self { lengths })
    }

    /// The same, from lengths that were measured one by one and so are not quite a curve: no drafted token is right more
    /// often than the one before it.
    #[must_use]
    pub fn measured(lengths: &[f64]) -> Self {
        let (mut before, mut gain, mut sum) = (1.0, 1.0_f64, 1.0);
        let length = |&length: &f64| {
            gain = gain.min((length - before).max(0.0));
            before = length;
            sum += gain;
            sum
        };
        Self { lengths: lengths.iter().map(length).collect() }
    }

    /// True where it is for the model to say.
    #[must_use]
    pub fn is_auto(&self) -> bool {
        self.lengths.is_empty()
    }

    /// The chance that a drafted token is right where all before it were, by place in the draft; the last counts for all
    /// further ones.
    #[must_use]
    pub fn chances(&self) -> Vec<f64> {
        let (mut before, mut gain) = (1.0, 1.0);
        let chance = |&length: &f64| {
            let more = length - before;
            let chance = if gain > 0.0 { (more / gain).clamp(0.0, 1.0) } else { 0.0 };
            (before, gain) = (length, more);
            chance
        };
        self.lengths.iter().map(chance).collect()
    }
}

/// Hundredths.
fn round(x: f64) -> f64 {
    (x * 100.0).round() / 100.0
}

impl fmt::Display for Acceptance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_auto() {
            return f.pad(AUTO);
        }
        let lengths: Vec<String> = self.lengths.iter().map(f64::to_string).collect();
        f.pad(&lengths.join("/"))
    }
}

impl FromStr for Acceptance {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == AUTO {
            return Ok(Self::default());
        }
        let bad = || {
            "expected mean tokens a decode brings with 1, 2, 3 … drafted tokens, such as 1.8/2.4/2.8, or auto"
                .to_owned()
        };
        let lengths: Result<Vec<f64>, _> =
            text.split('/').map(|part| part.trim().parse()).collect();
        Self::new(lengths.map_err(|_| bad())?)
    }
}

impl serde::Serialize for Acceptance {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for Acceptance {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        String::deserialize(from)?.parse().map_err(serde::de::Error::custom)
    }
}

/// Drafts whose tokens are not real: so many are right as a curve says, by chance that depends on the request and the
/// place alone.
#[derive(Debug, Clone)]
pub struct Expected {
    chances: Vec<f64>,
    seed: u64,
}

impl Expected {
    /// As `acceptance` has it; `seed` changes all chance.
    #[must_use]
    pub fn new(acceptance: &Acceptance, seed: u64) -> Self {
        Self { chances: acceptance.chances(), seed }
    }

    fn chance(&self, place: u32) -> f64 {
        let last = self.chances.len().saturating_sub(1);
        self.chances.get((place as usize).min(last)).copied().unwrap_or(0.0)
    }

    /// Mean tokens that a decode brings with `n` drafted: at least 1.
    #[must_use]
    pub fn mean(&self, n: u32) -> f64 {
        let mut all = 1.0;
        let further = (0..n).map(|place| {
            all *= self.chance(place);
            all
        });
        1.0 + further.sum::<f64>()
    }
}

impl Drafter for Expected {
    fn draft(&mut self, seq: &Sequence, most: u32, draft: &mut Draft) -> u32 {
        let own = mix(u64::from(seq.request) << 16 | u64::from(seq.branch), self.seed);
        let wrong = |place: &u32| {
            let word = mix(own, u64::from(seq.len + place));
            (word >> 11) as f64 / (1_u64 << 53) as f64 >= self.chance(*place)
        };
        draft.right = (0..most).find(wrong).unwrap_or(most);
        most
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sequence::testing::sequence;

    #[test]
    fn lengths_are_those_of_drafts() {
        let of = |text: &str| text.parse::<Acceptance>();
        assert_eq!(of("1.8/2.4/2.4").unwrap().to_string(), "1.8/2.4/2.4");
        assert_eq!(of("auto").unwrap(), Acceptance::default());
        for text in ["2.1", "0.9", "1.5/2.1", "1.8/1.7", "1.8/", "x", "", "nan"] {
            assert!(of(text).is_err(), "{text}");
        }
        let told = of("1.5/2.1").unwrap_err();
        assert_eq!(
            told,
            "a mean of 2.1 tokens with 2 drafted ones cannot be: after 1.5 with 1, it is from 1.5 to 2"
        );
        let close = |a: f64, b: f64| (a - b).abs() < 1e-9;
        let [first, second, ..] = of("1.8/2.4").unwrap().chances()[..] else { panic!() };
        assert!(close(first, 0.8) && close(second, 0.75));
        // Beyond what is known, the last chance stays.
        let one = Expected::new(&of("1.5").unwrap(), 0);
        assert!([(0, 1.0), (1, 1.5), (2, 1.75)].iter().all(|&(n, mean)| close(one.mean(n), mean)));
        let measured = Acceptance::measured(&[1.8, 2.5, 2.4, 2.6]);
        assert!(Acceptance::new(measured.lengths.clone()).is_ok(), "{measured}");
    }

    #[test]
    fn as_many_are_right_as_the_curve_says() {
        let mut drafter = Expected::new(&"1.8/2.2".parse().unwrap(), 1);
        let (mut right, mut again) = (Vec::new(), Vec::new());
        for request in 0..20_000 {
            let mut seq = sequence(100);
            seq.request = request;
            for all in [&mut right, &mut again] {
                let mut draft = Draft::default();
                assert_eq!(drafter.draft(&seq, 3, &mut draft), 3);
                all.push(draft.right);
            }
        }
        assert_eq!(right, again, "chance depends on the request and the place alone");
        let mean = 1.0 + right.iter().map(|&n| f64::from(n)).sum::<f64>() / right.len() as f64;
        assert!((mean - drafter.mean(3)).abs() < 0.02, "{mean} {}", drafter.mean(3));
        let share = right.iter().filter(|&&n| n >= 1).count() as f64 / right.len() as f64;
        assert!((share - 0.8).abs() < 0.01, "{share}");
    }
}
