//! `/metrics`: under vLLM's names, so that its dashboards work, and under our own where vLLM has none.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Metric, Registry};

use crate::engine::Engine;
use crate::event::{Event, Iteration};

/// vLLM's bucket limits, seconds: time to first token.
const FIRST: [f64; 22] = [
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0,
    20.0, 40.0, 80.0, 160.0, 640.0, 2560.0,
];
/// Between two tokens, or per token.
const BETWEEN: [f64; 18] = [
    0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0,
    40.0,
];
/// A whole request, or a part of it.
const WHOLE: [f64; 21] = [
    0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0, 240.0,
    480.0, 960.0, 1920.0, 7680.0,
];
/// Tokens.
const TOKENS: [f64; 18] = [
    1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1e3, 2e3, 5e3, 1e4, 2e4, 5e4, 1e5, 2e5,
    5e5,
];
/// Tokens of an iteration.
const BATCH: [f64; 15] = [
    1.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0, 4096.0, 8192.0, 16_384.0,
    32_768.0, 65_536.0,
];

/// The reason for which a request ended, as a label.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Reason {
    finished_reason: &'static str,
}

/// The fate of a slot, as a label.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Class {
    class: &'static str,
}

type Real = Gauge<f64, AtomicU64>;

/// Everything that is counted. Cloning shares it.
#[derive(Debug, Clone)]
pub struct Metrics {
    registry: Arc<Registry>,
    running: Gauge,
    waiting: Gauge,
    usage: Real,
    slots: Family<Class, Gauge>,
    preemptions: Counter,
    recomputed: Counter,
    queries: Counter,
    hits: Counter,
    prompt_tokens: Counter,
    generation_tokens: Counter,
    iteration_tokens: Histogram,
    ended: Family<Reason, Counter>,
    rejected: Counter,
    first: Histogram,
    between: Histogram,
    per_token: Histogram,
    whole: Histogram,
    queued: Histogram,
    prefill: Histogram,
    decode: Histogram,
    prompt_length: Histogram,
    output_length: Histogram,
}

/// A request that has ended, or was left by its client.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ended {
    /// `stop`, `length` or `abort`.
    pub(super) reason: &'static str,
    /// Prompt tokens.
    pub(super) prompt: u32,
    /// Tokens of all its completions.
    pub(super) output: u32,
    /// Tokens of its first completion, where they came one by one.
    pub(super) paced: u32,
    /// When it was sent in, started, had its first token and its last.
    pub(super) times: Times,
}

/// Times since the engine's start.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Times {
    pub(super) asked: Duration,
    pub(super) admitted: Option<Duration>,
    pub(super) first: Option<Duration>,
    pub(super) last: Option<Duration>,
}

impl Metrics {
    /// Nothing counted yet, for the model called `model`.
    #[must_use]
    pub fn new(model: &str) -> Self {
        let labels = [("model_name", model), ("engine", "0")];
        let labels = labels.map(|(name, value)| (name.into(), value.to_owned().into()));
        let mut registry = Registry::with_labels(labels.into_iter());
        let histogram = |buckets: &[f64]| Histogram::new(buckets.iter().copied());
        let r = &mut registry;
        let metrics = Self {
            running: add(r, "vllm:num_requests_running", "Requests in a batch", Gauge::default()),
            waiting: add(r, "vllm:num_requests_waiting", "Requests in the queue", Gauge::default()),
            usage: add(r, "vllm:kv_cache_usage_perc", "Share of KV slots taken", Real::default()),
            slots: add(r, "knee:kv_slots", "KV slots by their use", Family::default()),
            preemptions: add(
                r,
                "vllm:num_preemptions",
                "Requests that gave way",
                Counter::default(),
            ),
            recomputed: add(
                r,
                "knee:recomputed_tokens",
                "Tokens computed again",
                Counter::default(),
            ),
            queries: add(
                r,
                "vllm:prefix_cache_queries",
                "Prompt tokens looked up",
                Counter::default(),
            ),
            hits: add(r, "vllm:prefix_cache_hits", "Prompt tokens found", Counter::default()),
            prompt_tokens: add(r, "vllm:prompt_tokens", "Prompt tokens", Counter::default()),
            generation_tokens: add(
                r,
                "vllm:generation_tokens",
                "Output tokens",
                Counter::default(),
            ),
            iteration_tokens: add(
                r,
                "vllm:iteration_tokens_total",
                "Tokens of an iteration",
                histogram(&BATCH),
            ),
            ended: add(r, "vllm:request_success", "Requests that ended", Family::default()),
            rejected: add(
                r,
                "vllm:admission_rejections",
                "Requests turned away",
                Counter::default(),
            ),
            first: add(r, "vllm:time_to_first_token_seconds", "TTFT", histogram(&FIRST)),
            between: add(r, "vllm:inter_token_latency_seconds", "ITL", histogram(&BETWEEN)),
            per_token: add(
                r,
                "vllm:request_time_per_output_token_seconds",
                "TPOT",
                histogram(&BETWEEN),
            ),
            whole: add(r, "vllm:e2e_request_latency_seconds", "E2E", histogram(&WHOLE)),
            queued: add(r, "vllm:request_queue_time_seconds", "In the queue", histogram(&WHOLE)),
            prefill: add(
                r,
                "vllm:request_prefill_time_seconds",
                "Start to first token",
                histogram(&WHOLE),
            ),
            decode: add(
                r,
                "vllm:request_decode_time_seconds",
                "First token to last",
                histogram(&WHOLE),
            ),
            prompt_length: add(
                r,
                "vllm:request_prompt_tokens",
                "Prompt length",
                histogram(&TOKENS),
            ),
            output_length: add(
                r,
                "vllm:request_generation_tokens",
                "Output length",
                histogram(&TOKENS),
            ),
            registry: Arc::new(Registry::default()),
        };
        // There from the start, so that a rate has something to start from.
        for finished_reason in ["stop", "length", "abort"] {
            drop(metrics.ended.get_or_create(&Reason { finished_reason }));
        }
        Self { registry: Arc::new(registry), ..metrics }
    }

    /// The observer to give to the live engine, so that it counts here.
    #[must_use]
    pub fn watch(&self) -> crate::live::Watch {
        let metrics = self.clone();
        let mut before = (0, 0);
        Box::new(move |iteration, replicas| {
            metrics.look(replicas, &mut before);
            if let Some(iteration) = iteration {
                metrics.count(iteration);
            }
        })
    }

    fn look(&self, replicas: &[Engine], before: &mut (u64, u64)) {
        let totals = || replicas.iter().map(Engine::totals);
        let after = (totals().map(|t| t.preemptions).sum(), totals().map(|t| t.recomputed).sum());
        self.preemptions.inc_by(after.0 - before.0);
        self.recomputed.inc_by(after.1 - before.1);
        *before = after;
        let workers = replicas.iter().flat_map(|engine| &engine.state.workers);
        self.running.set(workers.map(|w| w.running.len()).sum::<usize>() as i64);
        self.waiting.set(replicas.iter().map(|e| e.state.waiting.len()).sum::<usize>() as i64);
        let mut classes = replicas[0].classes();
        for other in &replicas[1..] {
            classes.iter_mut().zip(other.classes()).for_each(|(sum, class)| sum.1 += class.1);
        }
        let capacity: u64 = classes.iter().map(|c| c.1).sum();
        for (class, slots) in classes {
            self.slots.get_or_create(&Class { class }).set(slots as i64);
        }
        let free: u64 = classes
            .iter()
            .filter(|(class, _)| matches!(*class, "idle" | "cached"))
            .map(|c| c.1)
            .sum();
        self.usage.set((capacity - free) as f64 / capacity.max(1) as f64);
    }

    fn count(&self, iteration: &Iteration) {
        let generated = iteration.emitted.len() as u64 + u64::from(iteration.branch_tokens);
        self.generation_tokens.inc_by(generated);
        self.iteration_tokens.observe(f64::from(iteration.shape.tokens()));
        for event in &iteration.events {
            if let Event::Admitted { hit, .. } = event {
                self.hits.inc_by(u64::from(*hit));
            }
        }
    }

    /// A request of so many prompt tokens was taken in.
    pub(super) fn accepted(&self, prompt: u32) {
        self.queries.inc_by(u64::from(prompt));
        self.prompt_tokens.inc_by(u64::from(prompt));
    }

    /// A request was turned away because the queue was full.
    pub(super) fn turned_away(&self) {
        self.rejected.inc();
    }

    /// A token came out of a beam search, which no iteration told of.
    pub(super) fn found(&self, token: bool) {
        self.generation_tokens.inc_by(u64::from(token));
    }

    /// So long passed between two tokens of one completion.
    pub(super) fn gap(&self, gap: Duration) {
        self.between.observe(gap.as_secs_f64());
    }

    /// A request is over.
    pub(super) fn over(&self, over: Ended) {
        let Ended { reason, prompt, output, paced, times: t } = over;
        self.ended.get_or_create(&Reason { finished_reason: reason }).inc();
        self.prompt_length.observe(f64::from(prompt));
        self.output_length.observe(f64::from(output));
        let span = |into: &Histogram, from: Option<Duration>, to: Option<Duration>| {
            if let (Some(from), Some(to)) = (from, to) {
                into.observe(to.saturating_sub(from).as_secs_f64());
            }
        };
        let asked = Some(t.asked);
        span(&self.queued, asked, t.admitted);
        span(&self.first, asked, t.first);
        span(&self.prefill, t.admitted, t.first);
        span(&self.decode, t.first, t.last);
        if reason == "abort" {
            return;
        }
        span(&self.whole, asked, t.last);
        if let (Some(first), Some(last), 2..) = (t.first, t.last, paced) {
            let per = last.saturating_sub(first).as_secs_f64() / f64::from(paced - 1);
            self.per_token.observe(per);
        }
    }

    /// Everything, in the text form of OpenMetrics.
    pub(super) fn text(&self) -> String {
        let mut out = String::new();
        // Writing to a string does not fail.
        let _ = text::encode(&mut out, &self.registry);
        out
    }
}

fn add<M: Metric + Clone>(registry: &mut Registry, name: &str, help: &str, metric: M) -> M {
    registry.register(name, help, metric.clone());
    metric
}
