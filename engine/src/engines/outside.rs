//! An engine's time outside the GPU: before a request reaches the scheduler, and between iterations.

use std::f64::consts::TAU;
use std::time::Duration;

use serde::Deserialize;

use crate::request::mix;

/// A minute, µs: beyond any of these times.
const LONGEST_US: f64 = 6e7;
/// More spread is no distribution of service times.
const MOST_SPREAD: f64 = 3.0;

/// All of it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Outside {
    /// CPU time of an iteration.
    pub host: Host,
    /// The part of it that asynchronous scheduling cannot hide behind the GPU.
    pub unhidden: Host,
    /// The way in which it launches kernels.
    pub launch: Launch,
    /// Time of a request before the scheduler sees it.
    pub front_end: FrontEnd,
}

/// CPU time of an iteration, by tensor-parallel ranks.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Host {
    /// By rising numbers of ranks.
    pub ranks: Vec<Ranked>,
    /// Where the figures come from.
    pub source: String,
}

/// CPU time of an iteration on so many ranks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ranked {
    /// Tensor-parallel ranks.
    pub tp: u32,
    /// Per iteration, µs.
    pub step_us: f64,
    /// Per sequence in it, µs.
    pub seq_us: f64,
}

/// The way in which kernels are launched: one by one, or from CUDA graphs. An iteration takes no less than launching its
/// kernels does.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Launch {
    /// CPU time of a kernel that is no part of a graph, µs.
    pub kernel_us: f64,
    /// Tokens of the largest batch that is replayed from graphs.
    pub graph_tokens: u32,
    /// True where batches with prompts are replayed as well, but for their attention; else decodes alone are.
    pub pieces: bool,
    /// Where the figures come from.
    pub source: String,
}

/// The same of one deployment.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct LaunchTime {
    /// A kernel, ns.
    pub kernel: f64,
    /// Tokens of the largest batch that is replayed from graphs.
    pub graph_tokens: u32,
    /// True where batches with prompts are replayed as well, but for their attention.
    pub pieces: bool,
}

/// Time of a request before the scheduler sees it: HTTP, template, tokenizer. A log-normal distribution over requests.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FrontEnd {
    /// Median per request, ms.
    pub request_ms: f64,
    /// Median per prompt token, µs.
    pub token_us: f64,
    /// Standard deviation of its logarithm.
    pub spread: f64,
    /// Where the figures come from.
    pub source: String,
}

/// CPU time of the iterations of one deployment, ns: `max(GPU, launching, hidden) + shown`; the last two each per
/// iteration and per sequence.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct HostTime {
    /// The part that runs while the GPU does.
    pub hidden: [f64; 2],
    /// The part during which the GPU waits.
    pub shown: [f64; 2],
    /// Launching kernels.
    pub launch: LaunchTime,
}

impl Host {
    /// Per iteration and per sequence on `tp` ranks, µs: those of the most ranks measured that are not more, or of the
    /// fewest.
    #[must_use]
    pub fn at(&self, tp: u32) -> [f64; 2] {
        let i = self.ranks.partition_point(|r| r.tp <= tp).saturating_sub(1);
        self.ranks.get(i).map_or([0.0; 2], |r| [r.step_us, r.seq_us])
    }
}

impl Outside {
    /// CPU time on `tp` ranks; `ahead` where iterations are planned while the one before runs.
    #[must_use]
    pub fn host_time(&self, tp: u32, ahead: bool) -> HostTime {
        let ns = |us: [f64; 2]| us.map(|us| us * 1e3);
        let all = ns(self.host.at(tp));
        let Launch { kernel_us, graph_tokens, pieces, .. } = self.launch;
        let launch = LaunchTime { kernel: kernel_us * 1e3, graph_tokens, pieces };
        if !ahead {
            return HostTime { hidden: [0.0; 2], shown: all, launch };
        }
        let shown = ns(self.unhidden.at(tp));
        HostTime { hidden: [0, 1].map(|i| (all[i] - shown[i]).max(0.0)), shown, launch }
    }

    /// The same with CPU times at `factor`.
    #[must_use]
    pub fn with_host_times(&self, factor: f64) -> Self {
        let scaled = |host: &Host| {
            let times = |r: &Ranked| Ranked {
                step_us: r.step_us * factor,
                seq_us: r.seq_us * factor,
                ..*r
            };
            Host { ranks: host.ranks.iter().map(times).collect(), ..host.clone() }
        };
        let (host, unhidden) = (scaled(&self.host), scaled(&self.unhidden));
        let launch = Launch { kernel_us: self.launch.kernel_us * factor, ..self.launch.clone() };
        Self { host, unhidden, launch, front_end: self.front_end.clone() }
    }

    /// The first figure that cannot be.
    pub(super) fn fault(&self) -> Option<String> {
        for (name, host) in [("host", &self.host), ("unhidden", &self.unhidden)] {
            if !host.ranks.is_sorted_by(|a, b| a.tp < b.tp) {
                return Some(format!("{name}.ranks must list rising numbers of ranks"));
            }
            let mut all = host.ranks.iter().flat_map(|r| [r.step_us, r.seq_us]);
            if let Some(us) = all.find(|us| !(0.0..=LONGEST_US).contains(us)) {
                return Some(format!("{name}: {us} µs: expected a time from 0 to {LONGEST_US} µs"));
            }
        }
        if !(0.0..=LONGEST_US).contains(&self.launch.kernel_us) {
            let us = self.launch.kernel_us;
            return Some(format!("launch.kernel_us: {us} µs: expected 0 to {LONGEST_US} µs"));
        }
        let f = &self.front_end;
        let mut times = [("request_ms", f.request_ms * 1e3), ("token_us", f.token_us)].into_iter();
        if let Some((name, us)) = times.find(|(_, us)| !(0.0..=LONGEST_US).contains(us)) {
            return Some(format!(
                "front_end.{name}: {us} µs: expected a time from 0 to {LONGEST_US} µs"
            ));
        }
        if !(0.0..=MOST_SPREAD).contains(&f.spread) {
            return Some(format!("front_end.spread = {}: expected 0 to {MOST_SPREAD}", f.spread));
        }
        None
    }
}

impl HostTime {
    /// Nothing is hidden, and each iteration takes `step_us` and `seq_us` for each sequence in it.
    #[must_use]
    pub fn shown(step_us: f64, seq_us: f64) -> Self {
        Self { shown: [step_us * 1e3, seq_us * 1e3], ..Self::default() }
    }

    /// An iteration of `seqs` sequences that takes the GPU, or launching on it, `gpu` ns, ns.
    #[must_use]
    pub fn around(&self, gpu: f64, seqs: f64) -> f64 {
        let of = |[step, seq]: [f64; 2]| step + seq * seqs;
        gpu.max(of(self.hidden)) + of(self.shown)
    }
}

impl FrontEnd {
    /// True where it takes no time.
    #[must_use]
    pub fn is_nothing(&self) -> bool {
        self.request_ms == 0.0 && self.token_us == 0.0
    }

    /// Time of request `index` with `input` prompt tokens: the same for the same index.
    #[must_use]
    pub fn time(&self, index: u32, input: u32) -> Duration {
        if self.is_nothing() {
            return Duration::ZERO;
        }
        let median_us = self.request_ms * 1e3 + self.token_us * f64::from(input);
        let us = median_us * (self.spread * normal(u64::from(index))).exp();
        Duration::from_nanos((us * 1e3).round() as u64)
    }
}

/// A draw of the standard normal distribution, by Box and Muller.
fn normal(index: u64) -> f64 {
    const SEED: u64 = 0x6672_6f6e_7465_6e64;
    let unit = |salt: u64| ((mix(SEED ^ salt, index) >> 11) as f64 + 0.5) / (1u64 << 53) as f64;
    (-2.0 * unit(1).ln()).sqrt() * (TAU * unit(2)).cos()
}
