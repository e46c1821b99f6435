//! Servers of known capacity and arrivals of known burstiness: the oracle for the test of sustainability.
//!
//! The load is exact, not expected: arrivals are stretched so that the work really offered takes `load` times
//! their span at full speed. Random fluctuation of the offered work is then no part of the question.

use loadgen::Record;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, Exp1, Gamma, LogNormal};
use std::collections::VecDeque;
use std::time::Duration;
use workloads::{Arrival, BlockSpan, Trace, TraceRequest};

/// The spread of arrivals over time.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Arrivals {
    Poisson,
    /// Gamma gaps with this coefficient of variation.
    Gamma(f64),
    /// Poisson at three times the mean rate for a third of each period; this many periods.
    OnOff(u32),
    /// Poisson, the second half 35 % faster than the first, rising linearly.
    Drift,
}

/// A server that works as fast as it can.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Server {
    /// One request after another, at so many tokens per second.
    Fifo(f64),
    /// All requests at once, sharing so many tokens per second.
    Shared(f64),
    /// Iterations over at most `seats` requests, each taking `fixed` + `seat` x requests + `token`
    /// x prompt tokens seconds, prompts in chunks of 2,048 tokens in all; first come, first served.
    /// Language models work like this.
    Batch { seats: usize, fixed: f64, seat: f64, token: f64 },
}

impl Server {
    /// Seconds to serve everything if it always had enough to do.
    pub(crate) fn least_time(self, lengths: &[(u32, u32)]) -> f64 {
        let sum = |f: fn(&(u32, u32)) -> u32| lengths.iter().map(|l| f64::from(f(l))).sum::<f64>();
        let (input, output) = (sum(|l| l.0), sum(|l| l.1));
        match self {
            Self::Fifo(rate) | Self::Shared(rate) => (input + output) / rate,
            Self::Batch { seats, fixed, seat, token } => {
                input * token + (output - lengths.len() as f64) * (fixed / seats as f64 + seat)
            }
        }
    }

    /// First and last token of each request, seconds.
    pub(crate) fn serve(self, arrivals: &[f64], lengths: &[(u32, u32)]) -> Vec<(f64, f64)> {
        match self {
            Self::Fifo(rate) => {
                let mut free = 0f64;
                let serve = |(&at, &(input, output)): (&f64, &(u32, u32))| {
                    let first = free.max(at) + f64::from(input + 1) / rate;
                    free = first + f64::from(output - 1) / rate;
                    (first, free)
                };
                arrivals.iter().zip(lengths).map(serve).collect()
            }
            Self::Shared(rate) => share(rate, arrivals, lengths),
            Self::Batch { seats, fixed, seat, token } => {
                batch(seats, [fixed, seat, token], arrivals, lengths)
            }
        }
    }
}

/// Processor sharing by attained service: everyone present has its level raised at rate / present.
fn share(rate: f64, arrivals: &[f64], lengths: &[(u32, u32)]) -> Vec<(f64, f64)> {
    // A request ends at the level its arrival found plus its work; the first token comes after its prompt.
    let mut ends = vec![(0.0, 0.0); arrivals.len()];
    let mut marks: Vec<(f64, usize, bool)> = vec![];
    let (mut now, mut level, mut present, mut next) = (0.0, 0.0, 0u32, 0);
    loop {
        let mark =
            marks.iter().enumerate().min_by(|a, b| a.1.0.total_cmp(&b.1.0)).map(|(i, m)| (i, *m));
        let ending = mark.map(|(_, m)| now + (m.0 - level) * f64::from(present) / rate);
        let arrival = arrivals.get(next).copied();
        let Some(at) = [ending, arrival].into_iter().flatten().min_by(f64::total_cmp) else {
            break;
        };
        if present > 0 {
            level += (at - now) * rate / f64::from(present);
        }
        now = at;
        if arrival == Some(at) {
            let (input, output) = lengths[next];
            marks.push((level + f64::from(input + 1), next, false));
            marks.push((level + f64::from(input + output), next, true));
            (present, next) = (present + 1, next + 1);
        } else if let Some((i, (_, request, last))) = mark {
            marks.swap_remove(i);
            if last {
                ends[request].1 = now;
                present -= 1;
            } else {
                ends[request].0 = now;
            }
        }
    }
    ends
}

fn batch(
    seats: usize,
    [fixed, seat, token]: [f64; 3],
    arrivals: &[f64],
    lengths: &[(u32, u32)],
) -> Vec<(f64, f64)> {
    let mut ends = vec![(0.0, 0.0); arrivals.len()];
    let mut waiting: VecDeque<usize> = VecDeque::new();
    // (request, prompt tokens to do, output tokens to do)
    let mut running: Vec<(usize, u32, u32)> = vec![];
    let (mut now, mut next) = (0f64, 0);
    while next < arrivals.len() || !waiting.is_empty() || !running.is_empty() {
        if waiting.is_empty() && running.is_empty() {
            now = now.max(arrivals[next]);
        }
        while next < arrivals.len() && arrivals[next] <= now {
            waiting.push_back(next);
            next += 1;
        }
        while running.len() < seats
            && let Some(request) = waiting.pop_front()
        {
            running.push((request, lengths[request].0, lengths[request].1));
        }
        let (mut budget, mut decoding) = (2_048, 0);
        for (_, prompt, output) in &mut running {
            if *prompt == 0 {
                decoding += 1;
                *output -= 1;
            } else {
                let chunk = budget.min(*prompt);
                (*prompt, budget) = (*prompt - chunk, budget - chunk);
                *output -= u32::from(*prompt == 0);
            }
        }
        now += fixed + seat * f64::from(decoding) + token * f64::from(2_048 - budget);
        running.retain(|&(request, prompt, output)| {
            if prompt == 0 && ends[request].0 == 0.0 {
                ends[request].0 = now;
            }
            if output == 0 && prompt == 0 {
                ends[request].1 = now;
            }
            output > 0 || prompt > 0
        });
    }
    ends
}

/// Arrival times in [0, 1], the first at 0, the last at 1.
fn pattern(arrivals: Arrivals, n: usize, rng: &mut impl Rng) -> Vec<f64> {
    let exponential = |rng: &mut _| -> f64 { Exp1.sample(rng) };
    let mut clock = 0.0;
    let mut times: Vec<f64> = (0..n)
        .map(|_| {
            clock += match arrivals {
                Arrivals::Gamma(cv) => Gamma::new(1.0 / (cv * cv), cv * cv).unwrap().sample(rng),
                _ => exponential(rng),
            };
            clock
        })
        .collect();
    let (first, span) = (times[0], times[n - 1] - times[0]);
    for t in &mut times {
        // Operational time (share of requests so far) to real time.
        let u = (*t - first) / span;
        *t = match arrivals {
            Arrivals::Poisson | Arrivals::Gamma(_) => u,
            Arrivals::OnOff(periods) => {
                let u = u * f64::from(periods);
                (u.floor() + u.fract() / 3.0) / (f64::from(periods) - 2.0 / 3.0)
            }
            Arrivals::Drift => {
                // Rate 1 + a(2t - 1) with a such that the halves are as 1 : 1.35; its integral inverted.
                let a: f64 = 2.0 * 0.35 / 2.35;
                (((1.0 - a).powi(2) + 4.0 * a * u).sqrt() - (1.0 - a)) / (2.0 * a)
            }
        };
    }
    let last = times[n - 1];
    times.iter().map(|t| t / last).collect()
}

/// One run: the trace offered at `load` times the server's capacity, and what became of it.
pub(crate) fn run(
    server: Server,
    arrivals: Arrivals,
    n: usize,
    load: f64,
    seed: u64,
) -> (Trace, Vec<Record>) {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let (input, output) = (LogNormal::new(6.4, 1.0).unwrap(), LogNormal::new(4.8, 0.9).unwrap());
    let mut length = |d: &LogNormal<f64>, most: f64| d.sample(&mut rng).clamp(1.0, most) as u32;
    let lengths: Vec<_> =
        (0..n).map(|_| (length(&input, 8_000.0), length(&output, 2_000.0))).collect();
    let span = server.least_time(&lengths) / load;
    let times: Vec<f64> = pattern(arrivals, n, &mut rng).into_iter().map(|t| t * span).collect();
    let ends = server.serve(&times, &lengths);
    record(&times, &lengths, &ends)
}

/// Trace and records of requests served.
pub(crate) fn record(
    times: &[f64],
    lengths: &[(u32, u32)],
    ends: &[(f64, f64)],
) -> (Trace, Vec<Record>) {
    let at = Duration::from_secs_f64;
    let requests = times.iter().zip(lengths).map(|(&time, &(input, output))| TraceRequest {
        arrival: Arrival::At(at(time)),
        input,
        output,
        blocks: BlockSpan::default(),
        class: 0,
        session: None,
    });
    let trace =
        Trace { requests: requests.collect(), classes: vec!["all".to_owned()], ..Trace::default() };
    let records = (0..).zip(&trace.requests).zip(ends).map(|((request, r), &(first, last))| {
        let due = Record::due(request, at(times[request as usize]), r.input);
        due.answered(at(first), at(last), r.output)
    });
    let records = records.collect();
    (trace, records)
}
