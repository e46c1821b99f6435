//! Requests that a deployment can never serve, however empty it is: how many, and what they are too long for.
//!
//! The rule is the engine's ([`Deployment::refuses`]). Each of them is a failed request: no latency, no goodput.

use std::fmt;

use engine::{Bound, Deployment};
use serde::{Deserialize, Serialize};
use workloads::TraceRequest;

use crate::share::small_percent;

/// Requests that can never be served.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unfit {
    /// Their number.
    pub requests: u64,
    /// Of so many.
    pub of: u64,
    /// The bounds that they exceed; empty where all can be served.
    pub beyond: Vec<Beyond>,
}

/// Requests that are too long for one thing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Beyond {
    /// The bound: `context-window` (the model's), `max-model-len` (as typed) or `kv-memory` (of a worker).
    pub bound: String,
    /// Tokens it takes.
    pub tokens: u32,
    /// Requests that are longer.
    pub requests: u64,
    /// The longest of them, prompt and response, tokens.
    pub longest: u32,
}

impl Unfit {
    /// Those of `requests` that `deployment` can never serve.
    #[must_use]
    pub fn of(deployment: &Deployment, requests: &[TraceRequest]) -> Self {
        let mut unfit = Self { of: requests.len() as u64, ..Self::default() };
        for r in requests {
            if let Some((bound, tokens)) = deployment.refuses(r.input, r.output) {
                unfit.count(name(bound), tokens, length(r));
            }
        }
        unfit
    }

    /// The same of requests whose prompt and response are longer than `window` tokens, the model's.
    #[must_use]
    pub fn beyond_context(window: u32, requests: &[TraceRequest]) -> Self {
        let mut unfit = Self { of: requests.len() as u64, ..Self::default() };
        for long in requests.iter().map(length).filter(|&tokens| tokens > window) {
            unfit.count(name(Bound::Context), window, long);
        }
        unfit
    }

    fn count(&mut self, bound: &str, tokens: u32, long: u32) {
        self.requests += 1;
        match self.beyond.iter_mut().find(|b| b.bound == bound) {
            Some(b) => (b.requests, b.longest) = (b.requests + 1, b.longest.max(long)),
            None => {
                let bound = bound.to_owned();
                self.beyond.push(Beyond { bound, tokens, requests: 1, longest: long });
            }
        }
    }

    /// True where there are any.
    #[must_use]
    pub fn any(&self) -> bool {
        self.requests > 0
    }

    /// Their share in a few words: `2 % of the prompts do not fit`.
    #[must_use]
    pub fn short(&self) -> String {
        format!("{} of the prompts do not fit", small_percent(self.share()))
    }

    /// The bounds that they exceed: `KV memory`.
    #[must_use]
    pub fn bounds(&self) -> String {
        let words = |b: &Beyond| match b.bound.as_str() {
            "context-window" => "context window",
            "max-model-len" => "max-model-len",
            _ => "KV memory",
        };
        self.beyond.iter().map(words).collect::<Vec<_>>().join(" or ")
    }

    /// Their share of all requests.
    #[must_use]
    pub fn share(&self) -> f64 {
        self.requests as f64 / self.of.max(1) as f64
    }
}

/// Prompt and response, tokens.
fn length(request: &TraceRequest) -> u32 {
    request.input.saturating_add(request.output)
}

fn name(bound: Bound) -> &'static str {
    match bound {
        Bound::Context => "context-window",
        Bound::MaxModelLen => "max-model-len",
        Bound::KvMemory => "kv-memory",
    }
}

/// `2 % of the prompts do not fit (20 of 1000): up to 100040 tokens with their responses, where KV memory holds 57504`.
impl fmt::Display for Unfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({} of {}): ", self.short(), self.requests, self.of)?;
        for (i, b) in self.beyond.iter().enumerate() {
            let gap = if i > 0 { "; " } else { "" };
            let many =
                if self.beyond.len() > 1 { format!("{} of ", b.requests) } else { String::new() };
            let takes = match b.bound.as_str() {
                "context-window" => "the model's context window is",
                "max-model-len" => "max-model-len is",
                _ => "KV memory holds",
            };
            write!(
                f,
                "{gap}{many}up to {} tokens with their responses, where {takes} {}",
                b.longest, b.tokens
            )?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::subject::Relax;
    use crate::subject::bed::Testbed;
    use engine::{Config, DeviceProfile, ModelShape};
    use loadgen::Slo;
    use proptest::prelude::*;
    use std::sync::Arc;
    use std::time::Duration;
    use workloads::{Arrival, BlockSpan, Trace};

    fn trace(lengths: &[(u32, u32)]) -> Trace {
        let request = |(i, &(input, output)): (usize, &(u32, u32))| TraceRequest {
            arrival: Arrival::At(Duration::from_secs(i as u64)),
            input,
            output,
            blocks: BlockSpan::default(),
            class: 0,
            session: None,
        };
        let requests = lengths.iter().enumerate().map(request).collect();
        Trace { requests, classes: vec!["all".to_owned()], ..Trace::default() }
    }

    fn bed(trace: Trace, model: &str, device: &str) -> Testbed {
        let slo = Slo::parse(&["ttft=1s"], None).unwrap().bind(&trace.classes).unwrap();
        let model = Arc::new(ModelShape::load(model).unwrap());
        Testbed::new(Arc::new(trace), model, Arc::new(DeviceProfile::load(device).unwrap()), slo)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        /// The requests refused beforehand are exactly those that the engine refuses in a run.
        #[test]
        fn requests_that_do_not_fit_are_those_that_a_run_refuses(
            lengths in prop::collection::vec((0..9000_u32, 0..300_u32), 1..12),
            policy in prop::sample::select(vec!["static", "continuous", "paged", "chunked"]),
            reserve in prop::sample::select(vec!["max", "pow2", "oracle", "doubling"]),
            slots in prop::option::of(600..12_000_u32),
            typed in prop::option::of(64..4096_u32),
        ) {
            let sim = bed(trace(&lengths), "llama-2-13b", "h100-sxm");
            let sim = match slots { Some(slots) => sim.with_kv_slots(slots), None => sim };
            let mut config = Config { max_model_len: typed.unwrap_or(0), ..Config::default() };
            config.set("policy", policy).unwrap();
            config.set("reserve", reserve).unwrap();
            let config = config.canonical();
            let Ok(deployment) = sim.deployment(&config, Relax::Nothing) else {
                // An engine whose KV memory does not hold the length it is told to accept does not start.
                prop_assert!(typed.is_some() && slots.is_some());
                return Ok(());
            };
            prop_assert!(deployment.config.max_model_len <= 4096.min(deployment.kv_slots));
            let unfit = Unfit::of(&deployment, &sim.trace().requests);
            let run = sim.observe(&deployment, lengths.len(), 1.0).unwrap();
            prop_assert_eq!(run.summary.rejected, unfit.requests);
            prop_assert_eq!(run.summary.completed + unfit.requests, lengths.len() as u64);
            prop_assert_eq!(run.unfit, unfit);
        }
    }

    #[test]
    fn output_that_is_never_served_is_not_counted() {
        let mut lengths = vec![(500, 100); 98];
        lengths.extend([(5000, 40), (100_000, 40)]);
        let served = |model: &str, device: &str| {
            let sim = bed(trace(&lengths), model, device);
            sim.served_tokens(&sim.deployment(&Config::default(), Relax::Nothing).unwrap())
        };
        assert_eq!(served("llama-3.1-8b", "h100-sxm"), (98 * 100 + 80) as f64 / 100.0);
        assert_eq!(served("llama-3.1-8b", "rtx4090"), (98 * 100 + 40) as f64 / 100.0);
        assert_eq!(served("llama-2-13b", "h100-sxm"), 98.0);
    }

    #[test]
    fn reasons_why_requests_do_not_fit_are_given() {
        let mut lengths = vec![(500, 100); 98];
        lengths.extend([(5000, 40), (100_000, 40)]);
        let say = |model: &str, device: &str, edits: &[(&str, &str)]| {
            let sim = bed(trace(&lengths), model, device);
            let mut config = Config::default();
            edits.iter().for_each(|(k, v)| config.set(k, v).unwrap());
            let deployment = sim.deployment(&config, Relax::Nothing).unwrap();
            Unfit::of(&deployment, &sim.trace().requests).to_string()
        };
        assert_eq!(
            say("llama-3.1-8b", "rtx4090", &[]),
            "1 % of the prompts do not fit (1 of 100): up to 100040 tokens with their responses, where KV memory holds \
             43840"
        );
        assert_eq!(
            say("llama-2-13b", "h100-sxm", &[]),
            "2 % of the prompts do not fit (2 of 100): up to 100040 tokens with their responses, where the model's \
             context window is 4096"
        );
        assert_eq!(
            say("llama-3.1-8b", "h100-sxm", &[("max-model-len", "512")]),
            "100 % of the prompts do not fit (100 of 100): up to 100040 tokens with their responses, where \
             max-model-len is 512"
        );
        assert_eq!(
            (small_percent(0.002), small_percent(0.023_46), small_percent(1.0 / 3e6)),
            ("0.2 %".into(), "2.35 %".into(), "less than 0.0001 %".into())
        );
    }
}
