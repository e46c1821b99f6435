//! Batching: what continuous batching gives over static, and how that grows with the spread of outputs.

use engine::Config;
use engine::config::Policy;
use rayon::prelude::*;
use workloads::Trace;

use super::{Bench, Claim, Claims, Finding, Sweep, one, rate};
use crate::subject::Refused;
use crate::subject::bed::Testbed;
use crate::subject::observation::Observation;

impl Bench<'_> {
    /// Saturated output of static batching with and without padding and of continuous batching, on one allocator.
    fn three(&self, sim: &Testbed) -> Result<[Observation; 3], Refused> {
        let unpadded = Config { padding: false, ..self.policy(Policy::Static) };
        Ok([
            sim.saturated(&self.policy(Policy::Static))?,
            sim.saturated(&unpadded)?,
            sim.saturated(&self.policy(Policy::Continuous))?,
        ])
    }

    pub(super) fn continuous_over_static(&self) -> Result<Claims, Refused> {
        let runs = self.three(&self.on_trace())?;
        let [padded, unpadded, continuous] = runs.each_ref().map(rate);
        let (over_padded, over_unpadded) = (continuous / padded, continuous / unpadded);
        Ok(one(Claim {
            claim: "continuous batching gives 2-8x the throughput of static batching".to_owned(),
            paper: "Orca (OSDI '22) on GPT-3 13B-341B over A100; vLLM's blog on LLaMA-13B, A10G, ShareGPT"
                .to_owned(),
            setup: "all requests at once, contiguous(max) KV of equal size; output tokens/s".to_owned(),
            measured: format!(
                "{over_padded:.2}x over padded batches, {over_unpadded:.2}x over unpadded ({padded:.0}, {unpadded:.0}, \
                 {continuous:.0} tokens/s)"
            ),
            finding: Finding::of(&[over_padded, over_unpadded].map(|x| (2.0..=8.0).contains(&x))),
        }))
    }

    /// Log-normal outputs of one mean and growing spread.
    pub(super) fn spread_of_outputs(&self) -> Result<Claims, Refused> {
        let spreads = [0.0, 0.25, 0.5, 1.0, 1.5, 2.0];
        let points = spreads
            .par_iter()
            .map(|&cv| {
                let sim = self.simulator(with_spread(self.trace, cv));
                let runs = self.three(&sim)?;
                let [padded, unpadded, continuous] = runs.each_ref().map(rate);
                Ok((cv, continuous / padded, continuous / unpadded))
            })
            .collect::<Result<Vec<_>, Refused>>()?;
        let grows = |of: fn(&(f64, f64, f64)) -> f64| {
            let (first, last) = (of(&points[0]), of(&points[points.len() - 1]));
            last > first && points.windows(2).all(|w| of(&w[1]) >= of(&w[0]) * 0.98)
        };
        let (first, last) = (points[0], points[points.len() - 1]);
        let line = |name: &str, of: fn(&(f64, f64, f64)) -> f64| {
            (name.to_owned(), points.iter().map(|p| (p.0, of(p))).collect())
        };
        Ok(Claims {
            claims: vec![Claim {
                claim: "the gain grows with the spread of output lengths".to_owned(),
                paper: "Orca (OSDI '22): early leavers' seats idle until the batch ends".to_owned(),
                setup: "this trace's prompts, log-normal outputs of its mean, coefficient of variation 0 to 2".to_owned(),
                measured: format!(
                    "unpadded {:.2}x at CV 0, {:.2}x at CV {}; padded {:.2}x and {:.2}x",
                    first.2, last.2, last.0, first.1, last.1
                ),
                finding: Finding::of(&[grows(|p| p.1), grows(|p| p.2)]),
            }],
            sweeps: vec![Sweep {
                title: "Continuous over static throughput".to_owned(),
                x: "coefficient of variation of output lengths".to_owned(),
                y: "ratio of output tokens/s".to_owned(),
                lines: vec![
                    line("over padded static", |p| p.1),
                    line("over unpadded static", |p| p.2),
                ],
            }],
        })
    }
}

/// The trace with log-normal outputs of its own mean and coefficient of variation `cv`, by stratified quantiles dealt
/// out in a fixed order: no chance beyond the trace's own.
fn with_spread(trace: &Trace, cv: f64) -> Trace {
    let mut out = trace.clone();
    let n = out.requests.len();
    let mean = trace.requests.iter().map(|r| f64::from(r.output)).sum::<f64>() / n as f64;
    let sigma = (1.0 + cv * cv).ln().sqrt();
    let longest = trace.longest();
    // A stride coprime to n visits every quantile once.
    let stride = (n * 61 / 100..).find(|s| gcd(*s, n) == 1).unwrap_or(1);
    for (i, r) in out.requests.iter_mut().enumerate() {
        let p = ((i * stride % n) as f64 + 0.5) / n as f64;
        let length = mean * (sigma * normal_quantile(p) - sigma * sigma / 2.0).exp();
        r.output = (length.round() as u32).clamp(1, longest.saturating_sub(r.input).max(1));
    }
    out
}

fn gcd(a: usize, b: usize) -> usize {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// Inverse of the standard normal distribution, by bisection.
fn normal_quantile(p: f64) -> f64 {
    let below = |x: f64| 0.5 * libm::erfc(-x / std::f64::consts::SQRT_2);
    let (mut lo, mut hi) = (-9.0, 9.0);
    for _ in 0..60 {
        let mid = 0.5 * (lo + hi);
        if below(mid) < p { lo = mid } else { hi = mid }
    }
    0.5 * (lo + hi)
}

#[cfg(test)]
mod tests {
    use super::super::equal_requests;
    use super::*;

    #[test]
    fn quantiles_invert_the_distribution() {
        for (p, x) in
            [(0.5, 0.0), (0.841_344_746, 1.0), (0.977_249_868, 2.0), (0.001_349_898, -3.0)]
        {
            assert!((normal_quantile(p) - x).abs() < 1e-6, "{p}");
        }
    }

    #[test]
    fn spread_keeps_the_mean_and_reaches_the_variation() {
        let mut trace = equal_requests(5000, 10, 200);
        trace.requests[0].output = 100_000;
        for cv in [0.0, 0.5, 1.0] {
            let out = with_spread(&trace, cv);
            let x: Vec<f64> = out.requests.iter().map(|r| f64::from(r.output)).collect();
            let mean = x.iter().sum::<f64>() / x.len() as f64;
            let var = x.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / x.len() as f64;
            assert!((mean / 220.0 - 1.0).abs() < 0.02, "{mean}");
            assert!((var.sqrt() / mean - cv).abs() < 0.05, "{cv}: {}", var.sqrt() / mean);
        }
    }
}
