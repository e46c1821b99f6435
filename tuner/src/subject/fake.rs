//! An analytic server for tests: closed formulas with the trade-offs of a real one, so that optima are known by
//! computing every point.
//!
//! An iteration takes `base + per_seq * running + per_token * (prompt tokens in it)`; running follows from Little's
//! law; TTFT is the prompt's iterations times an M/M/1-like queue; a seat or KV limit below the running that the
//! rate needs makes it unsustainable. Short heads see less queueing (as real ones do), and a jitter that depends on
//! configuration and rate makes percentiles non-monotone.

use crate::space;
use crate::subject::observation::{Inside, KvShares, Observation, Work};
use crate::subject::unfit::{Beyond, Unfit};
use crate::subject::{Refused, Relax, Stop, Subject, Trial};
use engine::Config;
use engine::config::{AllocatorKind, QueueOrder};
use loadgen::{BoundSlo, Record, Recording, Slo, Summary, Sustain};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

pub(crate) struct Fake {
    pub(crate) slo: BoundSlo,
    pub(crate) requests: usize,
    /// Requests that it can be made longer to.
    pub(crate) most: usize,
    /// Seconds that a request lasts; 0 = hardly any of the span.
    pub(crate) lasts_s: f64,
    /// Relative jitter of latencies.
    pub(crate) jitter: f64,
    /// The share of queueing that a short head does not see, in [0, 1].
    pub(crate) bias: f64,
    pub(crate) prompt: f64,
    pub(crate) output: f64,
    pub(crate) kv_slots: f64,
    pub(crate) seed: u64,
    /// The time of an iteration as a factor on its usual time.
    pub(crate) pace: f64,
    /// Where shortest prompts go first: the factor on the time of an iteration, and the TTFT of the slowest two of a
    /// thousand requests, s (0 = that of the others).
    pub(crate) shortest_first: (f64, f64),
    /// The number of requests that a configuration can never serve.
    pub(crate) too_long: fn(&Config) -> u64,
    /// Runs made.
    pub(crate) runs: AtomicU64,
    /// Of these, with everything offered at once.
    pub(crate) at_once: AtomicU64,
    /// Set to stop after so many runs, by raising the panic of a killed process.
    pub(crate) log: Mutex<Vec<String>>,
}

impl Fake {
    pub(crate) fn new(slo: &[&str]) -> Self {
        Self {
            slo: Slo::parse(slo, None).unwrap().bind(&["all".to_owned()]).unwrap(),
            requests: 8000,
            most: 8000,
            lasts_s: 0.0,
            jitter: 0.0,
            bias: 0.0,
            prompt: 800.0,
            output: 250.0,
            kv_slots: 400_000.0,
            seed: 1,
            pace: 1.0,
            shortest_first: (1.0, 0.0),
            too_long: |_| 0,
            runs: AtomicU64::new(0),
            at_once: AtomicU64::new(0),
            log: Mutex::new(Vec::new()),
        }
    }

    /// (TTFT, TPOT) in seconds and whether the rate can be sustained.
    fn latencies(&self, trial: &Trial<'_>, rate: f64) -> (f64, f64, bool, Work) {
        let c = trial.config;
        let doubled = |relax: Relax| if trial.relax == relax { 2.0 } else { 1.0 };
        let per_worker = rate / f64::from(c.replicas);
        let tp = f64::from(c.tp);
        let comms = 0.001 * (tp - 1.0) / doubled(Relax::Interconnect);
        let slower = if let Relax::Pace(p) = trial.relax { f64::from(p) / 1e3 } else { 1.0 };
        let first =
            if c.queue == QueueOrder::ShortestPrefill { self.shortest_first.0 } else { 1.0 };
        let pace = self.pace * slower * first;
        let base = pace * (0.006 / doubled(Relax::Host) + comms);
        let per_seq = pace * 60e-6 / tp / doubled(Relax::Bandwidth);
        let per_token = pace * 25e-6 / tp / doubled(Relax::Compute);
        let traits = c.scheduler.traits();
        let (per_token, per_seq) = if traits.closes_batches {
            (per_token * 1.2, per_seq * 2.5) // padding
        } else {
            (per_token, per_seq)
        };
        let prompt = self.prompt * if c.prefix_cache { 0.8 } else { 1.0 };
        // Prompt tokens per second are computed whatever the order; what is left of time decodes.
        let prefill_share = per_worker * prompt * per_token;
        let decode_rate = per_worker * self.output;
        let left = 1.0 - prefill_share - decode_rate * per_seq;
        let running = decode_rate * base / left.max(1e-9);
        let waste = if c.allocator == AllocatorKind::Contiguous { 3.0 } else { 1.05 };
        let slots = self.kv_slots * doubled(Relax::KvMemory) * c.kv_fraction / 0.9;
        let fits = slots / ((self.prompt + self.output) * waste);
        let seats = f64::from(c.max_seqs).min(fits);
        let budget = f64::from(c.max_batch_tokens);
        let chunk = if traits.mixes { budget } else { budget.max(self.prompt) };
        let step = base + per_seq * running.min(seats);
        // A step with a full chunk stalls every decode; the share of such steps grows with the load.
        let stall = (chunk.min(4.0 * self.prompt)) * per_token;
        let tpot = step + stall * (prefill_share / left.max(1e-3)).min(1.0);
        let chunks = (prompt / (budget - running.min(seats)).max(1.0)).ceil();
        let busy = (running / seats).max(1.0 - left);
        let share = (trial.head(self) as f64 / self.requests as f64).min(1.0);
        let flatter = 1.0 - self.bias * (1.0 - share);
        let queue = flatter * step * 4.0 * busy.powi(8) / (1.0 - busy).max(1e-3);
        let hold = if traits.closes_batches { 200.0 * tpot } else { 0.0 };
        let ttft = chunks * (step + prompt.min(budget) * per_token) + queue + hold;
        let ok = busy < 1.0 && left > 0.0;
        let refused = |limit: f64| (running / limit).min(1.0).powi(8);
        let work = Work {
            refused_seats: refused(f64::from(c.max_seqs)),
            refused_kv: refused(fits),
            busy: busy.min(1.0),
            kv_slots: slots as u64,
            mean_batch: running,
            ..Work::default()
        };
        (ttft, tpot, ok, work)
    }

    /// The highest rate that can be sustained.
    fn most(&self, trial: &Trial<'_>) -> f64 {
        let (mut low, mut high) = (0.0, 1e6);
        for _ in 0..60 {
            let middle = 0.5 * (low + high);
            if self.latencies(trial, middle).2 {
                low = middle;
            } else {
                high = middle;
            }
        }
        low
    }

    fn noise(&self, trial: &Trial<'_>, rate: f64) -> f64 {
        let mut h = self.seed ^ 0xcbf2_9ce4_8422_2325;
        let text = format!("{} {} {rate:.6}", space::key(trial.config), trial.head(self));
        text.bytes().for_each(|b| h = (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3));
        h ^= h >> 32;
        1.0 + self.jitter * ((h % 2001) as f64 / 1000.0 - 1.0)
    }
}

impl Subject for Fake {
    fn run(&self, trial: &Trial<'_>) -> Result<Observation, Stop> {
        self.runs.fetch_add(1, Ordering::Relaxed);
        let at_once = trial.scale.is_infinite();
        self.at_once.fetch_add(u64::from(at_once), Ordering::Relaxed);
        let rate = if at_once {
            self.most(trial)
        } else {
            trial.scale * self.natural_rate(trial.head(self))
        };
        self.log.lock().unwrap().push(format!(
            "{} {} {rate}",
            space::key(trial.config),
            trial.head(self)
        ));
        let (ttft, tpot, sustainable, work) = self.latencies(trial, rate);
        let noise = self.noise(trial, rate);
        let first = Duration::from_secs_f64((ttft * noise).min(1e6));
        let last = first + Duration::from_secs_f64((tpot * noise).min(1e4) * 100.0);
        let due = Record::due(0, Duration::ZERO, self.prompt as u32);
        let record = Record {
            admitted: Some(Duration::ZERO),
            max_itl_ns: (tpot * 2e9) as u64,
            ..due.answered(first, last, 101)
        };
        let slowest = Duration::from_secs_f64(self.shortest_first.1);
        let mut records = vec![record];
        if trial.config.queue == QueueOrder::ShortestPrefill && slowest > first {
            records = vec![record; 998];
            let slow = Record { admitted: Some(Duration::ZERO), ..due };
            let end = slowest + (last - first);
            records.extend([slow; 2].map(|slow| slow.answered(slowest, end, 101)));
        }
        let run = Recording { records, itl: vec![loadgen::Histogram::new()] };
        let mut summary = Summary::new(&run, &self.slo);
        summary.requests = trial.head(self) as u64;
        summary.completed = summary.requests;
        summary.output_tokens = (self.output * trial.head(self) as f64) as u64;
        if at_once {
            summary.duration_s = summary.requests as f64 / rate;
        }
        let (mut sustain, unfit) = (sustain(sustainable), self.unfit(trial.config)?);
        sustain.request_share = (self.lasts_s * rate / trial.head(self) as f64).max(0.001);
        let inside = Some(Inside { work, kv: KvShares::default() });
        Ok(Observation { summary, sustain, inside, outside: None, unfit })
    }

    fn requests(&self) -> usize {
        self.requests
    }

    fn most(&self) -> usize {
        self.most
    }

    fn natural_rate(&self, head: usize) -> f64 {
        // Traces drift.
        3.0 + head as f64 / self.requests as f64
    }

    fn output_tokens_per_request(&self) -> f64 {
        self.output
    }

    fn served_tokens_per_request(&self, config: &Config) -> Result<f64, Refused> {
        Ok(self.output * (1.0 - self.unfit(config)?.share()))
    }

    fn ceiling(&self, config: &Config) -> Result<f64, Refused> {
        if config.kv_fraction < 0.2 {
            return Err(Refused { reason: "weights need 20 % of memory".to_owned() });
        }
        let cost = self.output * 60e-6 + 0.8 * self.prompt * 25e-6;
        Ok(f64::from(config.tp * config.replicas)
            / (self.pace * self.shortest_first.0.min(1.0) * cost))
    }

    fn unfit(&self, config: &Config) -> Result<Unfit, Refused> {
        let requests = (self.too_long)(config);
        let of = self.requests as u64;
        let bound = "kv-memory".to_owned();
        let beyond = vec![Beyond { bound, tokens: 0, requests, longest: 0 }];
        let beyond = if requests > 0 { beyond } else { Vec::new() };
        Ok(Unfit { requests, of, beyond })
    }
}

/// A server on a machine that others use too. `run` makes an observation of a trial, given how
/// often the machine was asked before.
pub(crate) struct Shared<F> {
    pub(crate) fake: Fake,
    pub(crate) asked: AtomicU64,
    run: F,
}

impl<F: Fn(&Fake, &Trial<'_>, u64) -> Observation> Shared<F> {
    pub(crate) fn new(fake: Fake, run: F) -> Self {
        Self { fake, asked: AtomicU64::new(0), run }
    }
}

impl<F: Fn(&Fake, &Trial<'_>, u64) -> Observation + Sync> Subject for Shared<F> {
    fn run(&self, trial: &Trial<'_>) -> Result<Observation, Stop> {
        Ok(self.run_together(std::slice::from_ref(trial))?.remove(0))
    }
    fn run_together(&self, trials: &[Trial<'_>]) -> Result<Vec<Observation>, Stop> {
        let n = self.asked.fetch_add(1, Ordering::Relaxed);
        Ok(trials.iter().map(|trial| (self.run)(&self.fake, trial, n)).collect())
    }
    fn requests(&self) -> usize {
        self.fake.requests()
    }
    fn natural_rate(&self, head: usize) -> f64 {
        self.fake.natural_rate(head)
    }
    fn output_tokens_per_request(&self) -> f64 {
        self.fake.output_tokens_per_request()
    }
    fn served_tokens_per_request(&self, config: &Config) -> Result<f64, Refused> {
        self.fake.served_tokens_per_request(config)
    }
    fn ceiling(&self, config: &Config) -> Result<f64, Refused> {
        // The limit of a machine is not known before it was tried.
        self.fake.ceiling(config).map(|_| f64::INFINITY)
    }
    fn unfit(&self, config: &Config) -> Result<Unfit, Refused> {
        self.fake.unfit(config)
    }
}

/// A verdict on sustainability.
pub(crate) fn sustain(sustained: bool) -> Sustain {
    let late = if sustained { 0.0 } else { 1.0 };
    Sustain {
        sustained,
        overdue: late,
        limit: 0.03,
        growth: late,
        backlog: late,
        span_s: 1000.0,
        drain_s: Some(1.0),
        request_share: 0.001,
        reason: String::new(),
    }
}
