//! Latency: long prompts among others, bigger batches, and more GPUs for one model.

use std::time::Duration;

use engine::Config;
use engine::config::Policy;
use loadgen::Metric;
use rayon::prelude::*;
use workloads::{Arrival, BlockSpan, Trace, TraceRequest};

use super::{Bench, Claim, Claims, Finding, Sweep, about, equal_requests, one, rate};
use crate::subject::Refused;

impl Bench<'_> {
    /// One prompt of 32k tokens (or the model's limit) among this trace's traffic at half of saturation.
    pub(super) fn long_prompt(&self) -> Result<Claims, Refused> {
        let quiet = self.on_trace().saturated(&self.policy(Policy::Chunked))?;
        let rate = 0.5 * quiet.summary.request_throughput_rps();
        let tokens = 32_768.min(self.model.max_context.saturating_sub(16));
        let (trace, guest) = with_guest(self.trace, rate, tokens);
        let sim = self.simulator(trace);
        let worst = |policy| {
            let config = Config { prefix_cache: false, ..self.policy(policy) };
            let deployment = sim.deployment(&config, crate::subject::Relax::Nothing)?;
            let run = sim.detail(&deployment, 1.0)?;
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
    pub(super) fn batch_size(&self) -> Result<Claims, Refused> {
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
    pub(super) fn parallelism(&self) -> Result<Claims, Refused> {
        let sim = self.on_trace();
        let low = self.simulator(equal_requests(1, 512, 256));
        let try_out = |tp, pp| {
            let mut config = Config { tp, pp, ..self.policy(Policy::Chunked) }.canonical();
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
