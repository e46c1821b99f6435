//! What the papers say, tried on the trace at hand: each claim with its setup, what was measured, and whether it held.
//!
//! A claim is refuted as readily as it is confirmed: it has parts, each a figure or a direction, and is confirmed only
//! if all of them hold. A setup in which it cannot be tried says so.

use std::sync::Arc;
use std::time::Duration;

use engine::config::{Policy, Reserve};
use engine::{Config, DeviceProfile, ModelShape};
use loadgen::{Metric, Slo};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use workloads::{Arrival, BlockSpan, Trace, TraceRequest};

use crate::evaluate::Refused;
use crate::observation::Observation;
use crate::trial::Simulator;

/// One claim and what became of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Claim {
    /// What is said.
    pub claim: String,
    /// Who says it, and on what.
    pub paper: String,
    /// What was run here.
    pub setup: String,
    /// What came out.
    pub measured: String,
    /// Whether it held here.
    pub finding: Finding,
}

/// What became of a claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Finding {
    /// Every part of it held.
    Confirmed,
    /// Some of it held; what was measured says which.
    Partly,
    /// None of it held.
    Refuted,
    /// It could not be tried here.
    Untried,
}

impl Finding {
    /// From the parts of a claim.
    fn of(parts: &[bool]) -> Self {
        match parts.iter().filter(|held| **held).count() {
            all if all == parts.len() => Self::Confirmed,
            0 => Self::Refuted,
            _ => Self::Partly,
        }
    }
}

/// Whether a figure is what "about" it means: within a factor of 1.5.
fn about(measured: f64, claimed: f64) -> bool {
    (claimed / 1.5..=claimed * 1.5).contains(&measured)
}

/// A quantity against another, for a plot.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Sweep {
    /// What is plotted.
    pub title: String,
    /// What the x axis is, with its unit.
    pub x: String,
    /// What the y axis is, with its unit.
    pub y: String,
    /// Lines: name and points.
    pub lines: Vec<(String, Vec<(f64, f64)>)>,
}

/// All claims, and the sweeps behind them.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Claims {
    /// In the order shown.
    pub claims: Vec<Claim>,
    /// For plots.
    pub sweeps: Vec<Sweep>,
}

/// What the experiments run on.
pub struct Bench<'a> {
    /// The trace.
    pub trace: &'a Arc<Trace>,
    /// The model.
    pub model: &'a Arc<ModelShape>,
    /// The device.
    pub device: &'a Arc<DeviceProfile>,
    /// Seats, budget and memory for everybody.
    pub base: &'a Config,
}

impl Bench<'_> {
    fn simulator(&self, trace: Trace) -> Simulator {
        let slo = Slo::default().bind(&trace.classes).expect("no targets, no unknown class");
        Simulator::new(Arc::new(trace), Arc::clone(self.model), Arc::clone(self.device), slo)
    }

    fn on_trace(&self) -> Simulator {
        self.simulator(Trace::clone(self.trace))
    }

    fn policy(&self, policy: Policy) -> Config {
        let mut config = self.base.clone();
        config.set_policy(policy);
        config
    }

    /// Tries every claim.
    ///
    /// # Errors
    /// When a configuration that a claim needs cannot run.
    pub fn claims(&self) -> Result<Claims, Refused> {
        type Experiment<'a> = fn(&Bench<'a>) -> Result<Claims, Refused>;
        let experiments: [Experiment<'_>; 7] = [
            Self::continuous_over_static,
            Self::spread_of_outputs,
            Self::waste,
            Self::prefix_cache,
            Self::long_prompt,
            Self::batch_size,
            Self::parallelism,
        ];
        let parts: Result<Vec<Claims>, Refused> =
            experiments.par_iter().map(|experiment| experiment(self)).collect();
        let mut all = Claims::default();
        for part in parts? {
            all.claims.extend(part.claims);
            all.sweeps.extend(part.sweeps);
        }
        Ok(all)
    }

    /// Saturated output of static batching with and without padding and of continuous batching, on one allocator.
    fn three(&self, sim: &Simulator) -> Result<[Observation; 3], Refused> {
        let unpadded = Config { padding: false, ..self.policy(Policy::Static) };
        Ok([
            sim.saturated(&self.policy(Policy::Static))?,
            sim.saturated(&unpadded)?,
            sim.saturated(&self.policy(Policy::Continuous))?,
        ])
    }

    fn continuous_over_static(&self) -> Result<Claims, Refused> {
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
    fn spread_of_outputs(&self) -> Result<Claims, Refused> {
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

    /// KV waste of every allocator, by block size and by longest length accepted.
    fn waste(&self) -> Result<Claims, Refused> {
        let sim = self.on_trace();
        let of = |config: &Config| Ok(sim.saturated(config)?.kv.waste_percent());
        let contiguous = |reserve, max_model_len| Config {
            reserve,
            max_model_len,
            ..self.policy(Policy::Continuous)
        };
        let paged = |block_size| Config { block_size, ..self.policy(Policy::Paged) };
        let [max, pow2, doubling] = [Reserve::Max, Reserve::Pow2, Reserve::Doubling]
            .map(|reserve| of(&contiguous(reserve, 0)));
        let (max, pow2, doubling, sixteen) = (max?, pow2?, doubling?, of(&paged(16))?);
        let blocks = [1, 8, 16, 32, 64, 128, 256];
        let by_block = blocks
            .par_iter()
            .map(|&b| Ok((f64::from(b), of(&paged(b))?)))
            .collect::<Result<Vec<_>, Refused>>()?;
        let longest = self.trace.longest().max(1).next_power_of_two();
        let by_length = [Reserve::Max, Reserve::Pow2, Reserve::Doubling]
            .par_iter()
            .map(|&reserve| {
                let points = (0..4).map(|k| longest << k).filter_map(|len| {
                    of(&contiguous(reserve, len)).ok().map(|w| (f64::from(len), w))
                });
                (format!("contiguous({reserve})"), points.collect())
            })
            .collect();
        let claim = |claim: &str, measured, finding| Claim {
            claim: claim.to_owned(),
            paper: "PagedAttention (SOSP '23), Fig. 2: OPT-13B on A100-40G, ShareGPT-like lengths"
                .to_owned(),
            setup: format!(
                "all requests at once, longest length accepted {longest}; (reserved + internal + external) / held"
            ),
            measured,
            finding,
        };
        Ok(Claims {
            claims: vec![
                claim(
                    "contiguous allocation wastes 60-80 % of KV memory",
                    format!(
                        "max {max:.1} % ({}), pow2 {pow2:.1} % ({}), doubling {doubling:.1} % ({})",
                        band(max),
                        band(pow2),
                        band(doubling)
                    ),
                    wasteful([max, pow2, doubling]),
                ),
                claim(
                    "paging wastes under 4 %",
                    format!("{sixteen:.2} % at 16 tokens a block"),
                    Finding::of(&[sixteen < 4.0]),
                ),
            ],
            sweeps: vec![
                Sweep {
                    title: "KV waste of paging by block size".to_owned(),
                    x: "tokens per block".to_owned(),
                    y: "waste, %".to_owned(),
                    lines: vec![("paged".to_owned(), by_block)],
                },
                Sweep {
                    title: "KV waste of contiguous allocation by longest length accepted"
                        .to_owned(),
                    x: "max-model-len, tokens".to_owned(),
                    y: "waste, %".to_owned(),
                    lines: by_length,
                },
            ],
        })
    }

    fn prefix_cache(&self) -> Result<Claims, Refused> {
        let sim = self.on_trace();
        let with = self.policy(Policy::Chunked);
        let without = Config { prefix_cache: false, ..self.policy(Policy::Chunked) };
        let (on, off) = (sim.saturated(&with)?, sim.saturated(&without)?);
        let hit = on.work.tokens_cached as f64 / on.work.tokens_looked_up.max(1) as f64;
        let gain = on.summary.request_throughput_rps() / off.summary.request_throughput_rps();
        let shares = self.trace.block_tokens > 0;
        Ok(one(Claim {
            claim: "prefix caching shares pages between prompts that begin alike".to_owned(),
            paper: "PagedAttention (SOSP '23) §4.4; RadixAttention (SGLang, 2024)".to_owned(),
            setup: "chunked policy, all requests at once, prefix cache on against off".to_owned(),
            measured: if shares {
                format!("{:.1} % of prompt tokens hit; {gain:.2}x the requests/s", 100.0 * hit)
            } else {
                "this trace does not say which prompts begin alike".to_owned()
            },
            finding: if shares { Finding::of(&[hit > 0.0, gain > 1.0]) } else { Finding::Untried },
        }))
    }

    /// One prompt of 32k tokens (or the model's limit) among this trace's traffic at half of saturation.
    fn long_prompt(&self) -> Result<Claims, Refused> {
        let quiet = self.on_trace().saturated(&self.policy(Policy::Chunked))?;
        let rate = 0.5 * quiet.summary.request_throughput_rps();
        let tokens = 32_768.min(self.model.max_context.saturating_sub(16));
        let (trace, guest) = with_guest(self.trace, rate, tokens);
        let sim = self.simulator(trace);
        let worst = |policy| {
            let config = Config { prefix_cache: false, ..self.policy(policy) };
            let deployment = sim.deployment(&config, crate::evaluate::Relax::Nothing)?;
            let run = sim.detail(&deployment, 1.0);
            let others = run.records.iter().filter(|r| r.request != guest);
            Ok(others.filter_map(loadgen::Record::max_itl).max().unwrap_or_default())
        };
        let ms = |t: Duration| t.as_secs_f64() * 1e3;
        let (whole, chunked) = (ms(worst(Policy::Paged)?), ms(worst(Policy::Chunked)?));
        Ok(one(Claim {
            claim: "chunked prefill stops one long prompt from spiking everyone's latency"
                .to_owned(),
            paper: "Sarathi-Serve (OSDI '24): Mistral-7B and Yi-34B on A100, arXiv and ShareGPT"
                .to_owned(),
            setup: format!(
                "one prompt of {tokens} tokens in this trace at {rate:.2} requests/s; others' longest gap"
            ),
            measured: format!("{whole:.0} ms with whole prompts, {chunked:.0} ms chunked"),
            finding: Finding::of(&[chunked < 0.5 * whole]),
        }))
    }

    /// Equal requests, as many at once as seats.
    fn batch_size(&self) -> Result<Claims, Refused> {
        let (input, output) = (512, 256);
        let runs = [1u32, 8, 32, 64, 128, 256]
            .par_iter()
            .map(|&seats| {
                let sim = self.simulator(equal_requests(8 * seats, input, output));
                let config = Config { max_seqs: seats, ..self.policy(Policy::Paged) };
                let run = sim.saturated(&config)?;
                let gap = run.summary.stats(Metric::Tpot).mean.millis().unwrap_or(f64::NAN);
                Ok((f64::from(seats), rate(&run), gap))
            })
            .collect::<Result<Vec<_>, Refused>>()?;
        let at = |seats: f64| {
            runs.iter().find(|r| r.0 == seats).map_or((f64::NAN, f64::NAN), |r| (r.1, r.2))
        };
        let (one_seat, mid, high) = (at(1.0), at(32.0), at(128.0));
        let (up, slow) = (mid.0 / one_seat.0, mid.1 / one_seat.1);
        let (up2, slow2) = (high.0 / mid.0, high.1 / mid.1);
        let near = [about(up, 10.0), about(slow, 2.0), about(up2, 2.0), about(slow2, 5.0)];
        Ok(Claims {
            claims: vec![Claim {
                claim:
                    "batch 1 to 32: about 10x throughput at 2x latency; 32 to 128: about 2x at 5x"
                        .to_owned(),
                paper: "rule of thumb; no single paper".to_owned(),
                setup: format!(
                    "equal requests of {input} + {output} tokens, paged, as many at once as seats; mean TPOT"
                ),
                measured: format!(
                    "1 to 32: {up:.1}x throughput at {slow:.2}x TPOT; 32 to 128: {up2:.2}x at {slow2:.2}x; {} of these 4 \
                     within a factor of 1.5",
                    near.iter().filter(|n| **n).count()
                ),
                finding: Finding::of(&near),
            }],
            sweeps: vec![Sweep {
                title: "Throughput and latency by batch size".to_owned(),
                x: "mean TPOT, ms".to_owned(),
                y: "output tokens/s".to_owned(),
                lines: vec![(
                    "seats 1, 8, 32, 64, 128, 256".to_owned(),
                    runs.iter().map(|r| (r.2, r.1)).collect(),
                )],
            }],
        })
    }

    /// Two and four GPUs as tensor ranks or pipeline stages.
    fn parallelism(&self) -> Result<Claims, Refused> {
        let sim = self.on_trace();
        let low = self.simulator(equal_requests(1, 512, 256));
        let try_out = |tp, pp| {
            let mut config = Config { tp, pp, ..self.policy(Policy::Chunked) };
            // Seats and budget grow with the GPUs: stages and ranks are not to starve for want of sequences.
            config.max_seqs *= config.gpus();
            config.max_batch_tokens = config.max_batch_tokens.max(config.max_seqs);
            let alone = low.saturated(&config)?;
            let full = sim.saturated(&config)?;
            let gap = alone.summary.stats(Metric::Tpot).mean.millis().unwrap_or(f64::NAN);
            Ok((gap, rate(&full) / f64::from(config.gpus())))
        };
        let runs = [(1, 1), (2, 1), (4, 1), (1, 2), (1, 4)].map(|(tp, pp)| try_out(tp, pp));
        let [tp1, tp2, tp4, pp2, pp4] = runs;
        let (tp1, tp2, tp4, pp2, pp4) = (tp1?, tp2?, tp4?, pp2?, pp4?);
        Ok(Claims {
            claims: vec![
                Claim {
                    claim: "tensor parallelism buys latency and pays communication".to_owned(),
                    paper: "Megatron-LM (2019); DistServe (OSDI '24) §2.3".to_owned(),
                    setup: "chunked, seats in proportion to GPUs; TPOT of a lone request; output tokens/s per GPU with all requests at once".to_owned(),
                    measured: format!(
                        "TPOT {:.2}, {:.2}, {:.2} ms and {:.0}, {:.0}, {:.0} tokens/s per GPU at tp 1, 2, 4",
                        tp1.0, tp2.0, tp4.0, tp1.1, tp2.1, tp4.1
                    ),
                    finding: Finding::of(&[
                        tp4.0 < tp2.0 && tp2.0 < tp1.0,
                        tp4.1 < tp2.1 && tp2.1 < tp1.1,
                    ]),
                },
                Claim {
                    claim: "pipeline parallelism buys throughput and pays bubbles".to_owned(),
                    paper: "Orca (OSDI '22) §4.2; Sarathi-Serve (OSDI '24) §5.3".to_owned(),
                    setup: "as above".to_owned(),
                    measured: format!(
                        "{:.0}, {:.0} tokens/s per GPU at pp 2, 4, against {:.0}, {:.0} at tp 2, 4 and {:.0} on one GPU; TPOT {:.2}, {:.2} ms",
                        pp2.1, pp4.1, tp2.1, tp4.1, tp1.1, pp2.0, pp4.0
                    ),
                    // More than tensor ranks, less than as many engines apart.
                    finding: Finding::of(&[
                        pp2.1 > tp2.1 && pp4.1 > tp4.1,
                        pp4.1 < pp2.1 && pp2.1 < tp1.1,
                    ]),
                },
            ],
            sweeps: Vec::new(),
        })
    }
}

/// Where a waste stands against the 60 to 80 % of the claim.
fn band(percent: f64) -> &'static str {
    match percent {
        p if p < 60.0 => "less",
        p if p > 80.0 => "more",
        _ => "as claimed",
    }
}

/// The claim is of a band: it holds in part where only some reservations are in it, or one wastes even more.
fn wasteful(percents: [f64; 3]) -> Finding {
    let inside = percents.map(|p| band(p) == "as claimed");
    match Finding::of(&inside) {
        Finding::Refuted if percents.iter().any(|p| band(*p) == "more") => Finding::Partly,
        finding => finding,
    }
}

fn one(claim: Claim) -> Claims {
    Claims { claims: vec![claim], sweeps: Vec::new() }
}

fn rate(o: &Observation) -> f64 {
    o.summary.output_tokens_per_s()
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

/// The trace at `rate` requests/s with one request of `tokens` prompt tokens put into its middle; its index too.
fn with_guest(trace: &Trace, rate: f64, tokens: u32) -> (Trace, u32) {
    let scale = rate / trace.offered_rate();
    let mut out = trace.clone();
    let mut middle = Duration::ZERO;
    for r in &mut out.requests {
        if let Arrival::At(at) = &mut r.arrival {
            *at = at.div_f64(scale);
            middle = middle.max(*at);
        }
    }
    let guest = out.requests.len() as u32;
    out.requests.push(TraceRequest {
        arrival: Arrival::At(middle / 2),
        input: tokens,
        output: 8,
        blocks: BlockSpan::default(),
        class: 0,
        session: None,
    });
    (out, guest)
}

fn equal_requests(n: u32, input: u32, output: u32) -> Trace {
    let request = TraceRequest {
        arrival: Arrival::At(Duration::ZERO),
        input,
        output,
        blocks: BlockSpan::default(),
        class: 0,
        session: None,
    };
    Trace {
        name: format!("{n} equal requests"),
        requests: vec![request; n as usize],
        classes: vec!["default".to_owned()],
        ..Trace::default()
    }
}

#[cfg(test)]
mod tests {
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
    fn a_claim_holds_as_far_as_its_parts_do() {
        assert_eq!(Finding::of(&[true, true]), Finding::Confirmed);
        assert_eq!(Finding::of(&[true, false]), Finding::Partly);
        assert_eq!(Finding::of(&[false, false]), Finding::Refuted);
        assert_eq!(wasteful([79.0, 61.0, 70.0]), Finding::Confirmed);
        assert_eq!(wasteful([91.5, 47.8, 39.1]), Finding::Partly);
        assert_eq!(wasteful([50.0, 47.8, 39.1]), Finding::Refuted);
        assert!(about(14.0, 10.0) && !about(22.4, 10.0) && !about(1.31, 2.0));
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
