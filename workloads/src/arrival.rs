//! The arrivals of requests or sessions: a renewal process at an even rate, bent by how the rate moves.
//!
//! Gaps are drawn for a rate of one and then run through the rate's integral. So the gaps of one seed are the same at
//! every rate, and the coefficient of variation is that within a stretch of even rate.

use rand::SeedableRng as _;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution as _, Exp1, Gamma, Weibull};
use serde::Deserialize;

/// `[arrival]` of a description: of requests, or of sessions where there is a `[session]`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ArrivalSpec {
    process: Process,
    /// Long-run mean per second, where the shape's factors have mean 1.
    pub rate_rps: f64,
    /// Coefficient of variation of gamma gaps.
    cv: Option<f64>,
    /// Weibull's shape parameter.
    shape: Option<f64>,
    /// Arrivals are put back to multiples of this, s.
    #[serde(default)]
    pub quantize_s: f64,
    /// Closed loop: at most so many sessions open at once.
    pub max_concurrent_sessions: Option<u32>,
    envelope: Option<Envelope>,
    on_off: Option<OnOff>,
    ramp: Option<Ramp>,
    burst: Option<Burst>,
}

/// Periods that a gap goes through one by one.
const MOST_PERIODS: f64 = 1e4;

/// Distribution of the gaps.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Process {
    Constant,
    Poisson,
    Gamma,
    Weibull,
}

/// Factors of the rate, slot after slot, from the first again after the last.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Envelope {
    slot_s: f64,
    factors: Vec<f64>,
}

/// Silence between bursts, periods gamma-distributed. The rate while on is such that `rate_rps` is the mean.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
struct OnOff {
    on_mean_s: f64,
    on_cv: f64,
    off_mean_s: f64,
    off_cv: f64,
}

/// The rate's factor moves evenly from one to another and stays there.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Ramp {
    from: f64,
    to: f64,
    over_s: f64,
}

/// Every so often the rate is `factor` times as high for a while; the burst ends each period.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Burst {
    factor: f64,
    every_s: f64,
    length_s: f64,
}

impl ArrivalSpec {
    /// Says what is wrong with it.
    pub(crate) fn check(&self) -> Result<(), String> {
        let over = |x: f64| x.is_finite() && x > 0.0;
        let from = |x: f64| x.is_finite() && x >= 0.0;
        let need = |fine: bool, what: &str| {
            if fine { Ok(()) } else { Err(format!("[arrival] needs {what}")) }
        };
        need((1e-6..=1e6).contains(&self.rate_rps), "rate_rps between 1e-6 and 1e6")?;
        need(from(self.quantize_s), "quantize_s of 0 or more")?;
        need(
            (self.process == Process::Gamma) == self.cv.is_some(),
            "cv with process gamma, and only there",
        )?;
        need(
            (self.process == Process::Weibull) == self.shape.is_some(),
            "shape with process weibull, and only there",
        )?;
        need(self.cv.is_none_or(|cv| (0.01..=100.0).contains(&cv)), "cv between 0.01 and 100")?;
        need(self.shape.is_none_or(|k| (0.05..=100.0).contains(&k)), "shape between 0.05 and 100")?;
        let shapes = [
            self.envelope.is_some(),
            self.on_off.is_some(),
            self.ramp.is_some(),
            self.burst.is_some(),
        ];
        need(
            shapes.iter().filter(|s| **s).count() <= 1,
            "at most one of envelope, on_off, ramp and burst",
        )?;
        if let Some(e) = &self.envelope {
            need(
                e.slot_s >= 1e-3 && e.slot_s.is_finite() && e.factors.iter().all(|&f| from(f)),
                "envelope slot_s of 1 ms or more and factors >= 0",
            )?;
            need(e.factors.iter().any(|&f| f > 1e-6), "an envelope factor above 0")?;
        }
        if let Some(o) = &self.on_off {
            let cvs = [o.on_cv, o.off_cv].iter().all(|cv| (0.01..=100.0).contains(cv));
            let means = [o.on_mean_s, o.off_mean_s].iter().all(|m| (1e-3..=1e9).contains(m));
            need(means && cvs, "on_off means between 1 ms and 1e9 s, cvs between 0.01 and 100")?;
        }
        let stretches = self.envelope.as_ref().map_or(2.0, |e| e.factors.len() as f64);
        let often = |(_, work): (f64, f64)| work * self.rate_rps < 0.01 * stretches;
        need(
            !self.period().is_some_and(often),
            "slots or periods that hold 0.01 arrivals on average: shorter ones make no difference",
        )?;
        if let Some(r) = &self.ramp {
            need(
                from(r.from) && over(r.to) && over(r.over_s),
                "ramp from >= 0, to > 0 and over_s > 0",
            )?;
        }
        if let Some(b) = &self.burst {
            need(
                from(b.factor) && b.length_s >= 1e-3 && b.length_s < b.every_s,
                "burst factor >= 0 and 1 ms <= length_s < every_s",
            )?;
        }
        Ok(())
    }

    /// Arrival times in seconds, without end; gaps and rate shape come from streams of their own.
    pub(crate) fn times(
        &self,
        gaps: ChaCha8Rng,
        mut shape: ChaCha8Rng,
    ) -> impl Iterator<Item = f64> {
        let gap = Gap::new(self);
        let rate = self.rate_rps;
        let mut gaps = gaps;
        let mut index = 0_u64;
        let mut segment = self.segment(0, &mut shape);
        let period = self.period();
        let (mut began, mut done) = (0.0, 0.0);
        std::iter::from_fn(move || {
            // Work is what the rate's factor sums up to; each gap asks for some more of it.
            done += gap.draw(&mut gaps) / rate;
            // A gap of very many periods passes them at once, in the same place of the last.
            if let Some((seconds, work)) = period.filter(|(_, work)| done > MOST_PERIODS * work) {
                let whole = (done / work).floor() - 1.0;
                began += whole * seconds;
                done = (done - whole * work).max(0.0);
            }
            while done > segment.work() {
                done -= segment.work();
                began += segment.seconds;
                index += 1;
                segment = self.segment(index, &mut shape);
            }
            Some(began + segment.when(done))
        })
    }

    /// Seconds and work of the stretches that come again and again, on average.
    fn period(&self) -> Option<(f64, f64)> {
        if let Some(e) = &self.envelope {
            let slots = e.factors.len() as f64;
            return Some((slots * e.slot_s, e.slot_s * e.factors.iter().sum::<f64>()));
        }
        if let Some(o) = &self.on_off {
            let seconds = o.on_mean_s + o.off_mean_s;
            return Some((seconds, seconds));
        }
        let b = self.burst.as_ref()?;
        Some((b.every_s, b.every_s - b.length_s + b.length_s * b.factor))
    }

    /// The next stretch of even or evenly moving rate.
    fn segment(&self, index: u64, random: &mut ChaCha8Rng) -> Segment {
        let even = |seconds, factor| Segment { seconds, from: factor, to: factor };
        if let Some(e) = &self.envelope {
            return even(e.slot_s, e.factors[(index % e.factors.len() as u64) as usize]);
        }
        if let Some(o) = &self.on_off {
            let on = index.is_multiple_of(2);
            let (mean, cv) = if on { (o.on_mean_s, o.on_cv) } else { (o.off_mean_s, o.off_cv) };
            let factor = if on { (o.on_mean_s + o.off_mean_s) / o.on_mean_s } else { 0.0 };
            return even(mean * unit_gamma(cv).sample(random), factor);
        }
        match (&self.ramp, &self.burst) {
            (Some(r), _) if index == 0 => Segment { seconds: r.over_s, from: r.from, to: r.to },
            (Some(r), _) => even(f64::INFINITY, r.to),
            (_, Some(b)) if index.is_multiple_of(2) => even(b.every_s - b.length_s, 1.0),
            (_, Some(b)) => even(b.length_s, b.factor),
            (None, None) => even(f64::INFINITY, 1.0),
        }
    }
}

/// A stretch of time over which the rate's factor moves evenly.
struct Segment {
    seconds: f64,
    from: f64,
    to: f64,
}

impl Segment {
    fn work(&self) -> f64 {
        if self.from + self.to == 0.0 { 0.0 } else { (self.from + self.to) / 2.0 * self.seconds }
    }

    /// The moment at which so much work is done: the root of `from x + (to-from)/(2 seconds) x² = work`, in its stable
    /// form.
    fn when(&self, work: f64) -> f64 {
        let slope = (self.to - self.from) / self.seconds;
        let root = (self.from * self.from + 2.0 * slope * work).max(0.0).sqrt();
        if self.from + root > 0.0 { 2.0 * work / (self.from + root) } else { 0.0 }
    }
}

/// Gaps of mean 1.
enum Gap {
    Constant,
    Poisson,
    Gamma(Gamma<f64>),
    Weibull(Weibull<f64>),
}

impl Gap {
    fn new(spec: &ArrivalSpec) -> Self {
        match spec.process {
            Process::Constant => Self::Constant,
            Process::Poisson => Self::Poisson,
            Process::Gamma => Self::Gamma(unit_gamma(spec.cv.unwrap_or(1.0))),
            Process::Weibull => {
                let shape = spec.shape.unwrap_or(1.0);
                let scale = 1.0 / libm::tgamma(1.0 + 1.0 / shape);
                Self::Weibull(Weibull::new(scale, shape).expect("checked: both are positive"))
            }
        }
    }

    fn draw(&self, random: &mut ChaCha8Rng) -> f64 {
        match self {
            Self::Constant => 1.0,
            Self::Poisson => Exp1.sample(random),
            Self::Gamma(gamma) => gamma.sample(random),
            Self::Weibull(weibull) => weibull.sample(random),
        }
    }
}

/// Gamma of mean 1 and this coefficient of variation.
fn unit_gamma(cv: f64) -> Gamma<f64> {
    Gamma::new(1.0 / (cv * cv), cv * cv).expect("checked: the coefficient of variation is positive")
}

/// A stream of random numbers that no other part of a description draws from.
pub(crate) fn stream(seed: u64, number: u64) -> ChaCha8Rng {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    random.set_stream(number);
    random
}

#[cfg(test)]
mod tests {
    use super::*;

    fn times(toml: &str, n: usize) -> Vec<f64> {
        let spec: ArrivalSpec = toml::from_str(toml).unwrap();
        spec.check().unwrap();
        spec.times(stream(3, 0), stream(3, 1)).take(n).collect()
    }

    fn mean_and_cv(times: &[f64]) -> (f64, f64) {
        let gaps: Vec<f64> = times.windows(2).map(|w| w[1] - w[0]).collect();
        let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
        let variance = gaps.iter().map(|g| (g - mean).powi(2)).sum::<f64>() / gaps.len() as f64;
        (mean, variance.sqrt() / mean)
    }

    #[test]
    fn gaps_have_the_mean_and_spread_asked_for() {
        // A Weibull of shape k has cv² = Γ(1+2/k)/Γ(1+1/k)² − 1; for 0.5 that is √5.
        for (process, cv) in [
            ("constant\"", 0.0),
            ("poisson\"", 1.0),
            ("gamma\"\ncv = 0.5", 0.5),
            ("gamma\"\ncv = 3", 3.0),
            ("weibull\"\nshape = 0.5", 5.0_f64.sqrt()),
        ] {
            let (mean, got) =
                mean_and_cv(&times(&format!("rate_rps = 4.0\nprocess = \"{process}"), 200_000));
            assert!((mean * 4.0 - 1.0).abs() < 0.03, "{process}: mean {mean}");
            assert!((got - cv).abs() <= 0.04 * cv + 1e-6, "{process}: cv {got}");
        }
    }

    #[test]
    fn shapes_move_the_rate_as_they_say() {
        let count = |times: &[f64], from: f64, to: f64| {
            times.iter().filter(|&&t| t >= from && t < to).count() as f64
        };
        let even = "rate_rps = 100.0\nprocess = \"constant\"\n";
        let t =
            times(&format!("{even}[envelope]\nslot_s = 10.0\nfactors = [0.5, 0.0, 2.5]"), 6_000);
        for (from, expected) in
            [(0.0, 500.0), (10.0, 0.0), (20.0, 2500.0), (30.0, 500.0), (50.0, 2500.0)]
        {
            assert!((count(&t, from, from + 10.0) - expected).abs() <= 1.0, "{from}");
        }
        // The integral of a rate rising from 0 to 200/s in 10 s is 10 t².
        let t = times(&format!("{even}[ramp]\nfrom = 0.0\nto = 2.0\nover_s = 10.0"), 3_000);
        for at in [1.0, 5.0, 9.0] {
            assert!((count(&t, 0.0, at) - 10.0 * at * at).abs() <= 1.0, "{at}");
        }
        assert!((count(&t, 10.0, 15.0) - 1000.0).abs() <= 1.0);
        let t =
            times(&format!("{even}[burst]\nfactor = 10.0\nevery_s = 5.0\nlength_s = 1.0"), 5_000);
        assert!(
            (count(&t, 4.0, 5.0) - 1000.0).abs() <= 1.0
                && (count(&t, 5.0, 9.0) - 400.0).abs() <= 1.0
        );
        let t = times(
            &format!(
                "{even}[on_off]\non_mean_s = 2.0\non_cv = 0.5\noff_mean_s = 6.0\noff_cv = 1.0"
            ),
            400_000,
        );
        assert!((t.len() as f64 / t[t.len() - 1] / 100.0 - 1.0).abs() < 0.1, "the mean is kept");
        assert!(t.windows(2).filter(|w| w[1] - w[0] > 0.5).count() > 300, "there are silences");
    }

    #[test]
    fn the_same_gaps_at_every_rate() {
        let slow = times("rate_rps = 1.0\nprocess = \"gamma\"\ncv = 2", 1000);
        let fast = times("rate_rps = 8.0\nprocess = \"gamma\"\ncv = 2", 1000);
        assert!(slow.iter().zip(&fast).all(|(s, f)| (s / 8.0 - f).abs() < 1e-9));
    }
}
