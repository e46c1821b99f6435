//! A trace in the figures that decide how a server copes with it; and the same figures of a real source
//! beside those of what was synthesised after it.

use std::collections::{BTreeMap, HashMap};

use serde::{Deserialize, Serialize};

use crate::length::LEVELS;
use crate::{Arrival, Trace, TraceRequest};

/// Figures of a trace. Rates and gaps are of open-loop arrivals: of sessions, where turns wait for each other.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Description {
    /// The trace's name.
    pub name: String,
    /// Number of requests.
    pub requests: usize,
    /// From the first to the last open-loop arrival, s.
    pub span_s: f64,
    /// Arrivals per second over the span.
    pub rate_rps: f64,
    /// Standard deviation of the gaps between arrivals over their mean.
    pub interarrival_cv: Option<f64>,
    /// Variance over mean of arrivals per 60 s: 1 for Poisson at an even rate. None below two windows.
    pub fano_60s: Option<f64>,
    /// The same per second.
    pub fano_1s: Option<f64>,
    /// Prompts, tokens.
    pub input: Lengths,
    /// Responses, tokens.
    pub output: Lengths,
    /// Rank correlation of prompt and response length.
    pub spearman: Option<f64>,
    /// Longest prompt and response together, tokens.
    pub longest: u32,
    /// Share of requests that end at the prompt.
    pub output_zero_share: f64,
    /// Share of requests with a single token of response.
    pub output_one_share: f64,
    /// The facts about prefixes.
    pub prefix: Option<PrefixHits>,
    /// The facts about sessions.
    pub sessions: Option<SessionFigures>,
    /// Requests by class, where there are several.
    pub classes: BTreeMap<String, usize>,
    /// Its origin.
    pub provenance: Vec<String>,
}

/// Mean and quantiles of a length, tokens.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Lengths {
    /// Arithmetic mean.
    pub mean: f64,
    /// Values at [`QUANTILE_LEVELS`], linear between neighbouring samples.
    pub quantiles: [f64; QUANTILE_LEVELS.len()],
}

/// Levels of [`Lengths::quantiles`].
pub const QUANTILE_LEVELS: [f64; 16] = LEVELS;

/// Share of prompt tokens that a cache which never forgets would hold already, requests taken in their order.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct PrefixHits {
    /// Tokens per block identity.
    pub block_tokens: u32,
    /// If prompts are cached: the figure usually published.
    pub hit_rate: f64,
    /// If prompts are cached and only found again within their session.
    pub in_session_hit_rate: Option<f64>,
    /// If responses are cached too.
    pub with_outputs_hit_rate: f64,
}

/// Sessions and their turns.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct SessionFigures {
    /// Number of sessions.
    pub count: usize,
    /// Mean number of requests of one.
    pub turns_mean: f64,
    /// Largest number of requests of one.
    pub turns_max: usize,
    /// Share of requests that wait for another's response.
    pub closed_loop_share: f64,
    /// Median pause between response and next request, s.
    pub think_median_s: Option<f64>,
}

/// Figures of the real source a description was fitted to: `[reference]` of a workload.
#[derive(Debug, Clone, PartialEq, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Reference {
    /// The data that was measured, and the amount of it.
    pub source: String,
    /// Arrivals per second.
    pub rate_rps: Option<f64>,
    /// As [`Description::interarrival_cv`].
    pub interarrival_cv: Option<f64>,
    /// As [`Description::fano_60s`].
    pub fano_60s: Option<f64>,
    /// As [`Description::fano_1s`].
    pub fano_1s: Option<f64>,
    /// Mean prompt, tokens.
    pub input_mean: Option<f64>,
    /// Prompts at [`QUANTILE_LEVELS`].
    pub input_quantiles: Option<[f64; QUANTILE_LEVELS.len()]>,
    /// Mean response, tokens.
    pub output_mean: Option<f64>,
    /// Responses at [`QUANTILE_LEVELS`].
    pub output_quantiles: Option<[f64; QUANTILE_LEVELS.len()]>,
    /// As [`Description::spearman`].
    pub spearman: Option<f64>,
    /// As [`PrefixHits::hit_rate`].
    pub prefix_hit_rate: Option<f64>,
    /// As [`PrefixHits::in_session_hit_rate`].
    pub in_session_hit_rate: Option<f64>,
    /// As [`SessionFigures::turns_mean`].
    pub turns_mean: Option<f64>,
}

/// One figure of the source and of a trace.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Comparison {
    /// The figure.
    pub figure: String,
    /// In the real source.
    pub source: f64,
    /// In this trace; none where it is too short to say.
    pub here: Option<f64>,
}

/// The figures of `trace`.
#[must_use]
pub fn describe(trace: &Trace) -> Description {
    let requests = &trace.requests;
    let arrivals: Vec<f64> = requests.iter().filter_map(arrival).collect();
    let lengths = |of: fn(&TraceRequest) -> u32| {
        Lengths::of(requests.iter().map(|r| f64::from(of(r))).collect())
    };
    let share = |output: u32| {
        requests.iter().filter(|r| r.output == output).count() as f64 / requests.len().max(1) as f64
    };
    let mut classes = BTreeMap::new();
    if trace.classes.len() > 1 {
        for request in requests {
            let name = trace.classes.get(usize::from(request.class)).cloned().unwrap_or_default();
            *classes.entry(name).or_default() += 1;
        }
    }
    Description {
        name: trace.name.clone(),
        requests: requests.len(),
        span_s: trace.span().as_secs_f64(),
        rate_rps: trace.offered_rate(),
        interarrival_cv: interarrival_cv(&arrivals),
        fano_60s: fano(&arrivals, 60.0),
        fano_1s: fano(&arrivals, 1.0),
        input: lengths(|r| r.input),
        output: lengths(|r| r.output),
        spearman: spearman(requests),
        longest: trace.longest(),
        output_zero_share: share(0),
        output_one_share: share(1),
        prefix: prefix_hits(trace),
        sessions: sessions(trace),
        classes,
        provenance: trace.provenance.clone(),
    }
}

impl Description {
    /// The source's figures beside these, in the order in which they are shown.
    #[must_use]
    pub fn beside(&self, reference: &Reference) -> Vec<Comparison> {
        let mut all = Vec::new();
        let mut add = |figure: &str, source: Option<f64>, here: Option<f64>| {
            all.extend(source.map(|source| Comparison { figure: figure.to_owned(), source, here }));
        };
        add("rate, 1/s", reference.rate_rps, Some(self.rate_rps));
        add("CV of gaps", reference.interarrival_cv, self.interarrival_cv);
        add("Fano factor, 60 s", reference.fano_60s, self.fano_60s);
        add("Fano factor, 1 s", reference.fano_1s, self.fano_1s);
        let lengths = [
            ("input", reference.input_mean, reference.input_quantiles, &self.input),
            ("output", reference.output_mean, reference.output_quantiles, &self.output),
        ];
        for (name, mean, quantiles, here) in lengths {
            add(&format!("{name} mean"), mean, Some(here.mean));
            for (index, level) in QUANTILE_LEVELS.iter().enumerate() {
                if [0.1, 0.5, 0.9, 0.99].contains(level) {
                    let figure = format!("{name} p{}", (level * 100.0).round());
                    add(&figure, quantiles.map(|q| q[index]), Some(here.quantiles[index]));
                }
            }
        }
        add("rank correlation", reference.spearman, self.spearman);
        add("prefix-hit rate", reference.prefix_hit_rate, self.prefix.map(|p| p.hit_rate));
        let in_session = self.prefix.and_then(|p| p.in_session_hit_rate);
        add("prefix-hit rate in session", reference.in_session_hit_rate, in_session);
        add("turns per session", reference.turns_mean, self.sessions.map(|s| s.turns_mean));
        all
    }
}

impl Lengths {
    fn of(mut samples: Vec<f64>) -> Self {
        samples.sort_by(f64::total_cmp);
        let mean = samples.iter().sum::<f64>() / samples.len().max(1) as f64;
        Self { mean, quantiles: QUANTILE_LEVELS.map(|level| quantile(&samples, level)) }
    }
}

/// Linear between the two nearest of sorted samples.
fn quantile(sorted: &[f64], level: f64) -> f64 {
    let Some(last) = sorted.len().checked_sub(1) else { return 0.0 };
    let place = level * last as f64;
    let low = place.floor() as usize;
    let high = (low + 1).min(last);
    sorted[low] + (sorted[high] - sorted[low]) * (place - low as f64)
}

fn arrival(request: &TraceRequest) -> Option<f64> {
    match request.arrival {
        Arrival::At(at) => Some(at.as_secs_f64()),
        Arrival::After { .. } => None,
    }
}

fn interarrival_cv(arrivals: &[f64]) -> Option<f64> {
    let gaps: Vec<f64> = arrivals.windows(2).map(|w| w[1] - w[0]).collect();
    let (mean, variance) = mean_and_variance(&gaps)?;
    (mean > 0.0).then(|| variance.sqrt() / mean)
}

fn mean_and_variance(samples: &[f64]) -> Option<(f64, f64)> {
    let n = samples.len() as f64;
    let mean = samples.iter().sum::<f64>() / n;
    let variance = samples.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / (n - 1.0);
    (samples.len() > 1).then_some((mean, variance))
}

/// Variance over mean of counts per window. A last window that is at least half there counts as a whole one.
fn fano(arrivals: &[f64], window_s: f64) -> Option<f64> {
    let windows = (arrivals.last()? / window_s).round();
    // A second-by-second count over months is not worth its memory.
    if !(2.0..1e7).contains(&windows) {
        return None;
    }
    let mut counts = vec![0.0; windows as usize];
    for at in arrivals {
        if let Some(count) = counts.get_mut((at / window_s) as usize) {
            *count += 1.0;
        }
    }
    let (mean, variance) = mean_and_variance(&counts)?;
    (mean > 0.0).then(|| variance / mean)
}

/// Pearson's correlation of ranks, ties sharing their mean rank.
fn spearman(requests: &[TraceRequest]) -> Option<f64> {
    let ranks = |of: fn(&TraceRequest) -> u32| {
        let mut order: Vec<usize> = (0..requests.len()).collect();
        order.sort_by_key(|&i| of(&requests[i]));
        let mut ranks = vec![0.0; order.len()];
        let mut start = 0;
        for tied in order.chunk_by(|&a, &b| of(&requests[a]) == of(&requests[b])) {
            let rank = start as f64 + (tied.len() as f64 - 1.0) / 2.0;
            tied.iter().for_each(|&i| ranks[i] = rank);
            start += tied.len();
        }
        ranks
    };
    let (a, b) = (ranks(|r| r.input), ranks(|r| r.output));
    let ((mean_a, var_a), (mean_b, var_b)) = (mean_and_variance(&a)?, mean_and_variance(&b)?);
    let covariance = a.iter().zip(&b).map(|(x, y)| (x - mean_a) * (y - mean_b)).sum::<f64>()
        / (a.len() as f64 - 1.0);
    (var_a > 0.0 && var_b > 0.0).then(|| covariance / (var_a * var_b).sqrt())
}

fn prefix_hits(trace: &Trace) -> Option<PrefixHits> {
    if trace.block_tokens == 0 || trace.block_ids.is_empty() {
        return None;
    }
    let prompt = |r: &TraceRequest| r.input;
    let has_sessions = trace.requests.iter().any(|r| r.session.is_some());
    Some(PrefixHits {
        block_tokens: trace.block_tokens,
        hit_rate: hit_rate(trace, prompt, false),
        in_session_hit_rate: has_sessions.then(|| hit_rate(trace, prompt, true)),
        with_outputs_hit_rate: hit_rate(trace, |r| r.input.saturating_add(r.output), false),
    })
}

/// Token-weighted, over the prompts of which something is known. `cached` is how much of a request stays in the cache. A block that was only filled in part when it
/// was seen gives that part.
fn hit_rate(trace: &Trace, cached: impl Fn(&TraceRequest) -> u32, in_session: bool) -> f64 {
    let size = u64::from(trace.block_tokens);
    // Tokens known of a block, by its identity, and by session if found again only there.
    let mut known: HashMap<(Option<u32>, u64), u64> = HashMap::new();
    let (mut hits, mut total) = (0, 0);
    for request in &trace.requests {
        let scope = request.session.filter(|_| in_session);
        let ids = trace.blocks_of(request);
        if ids.is_empty() {
            continue;
        }
        let mut hit = 0;
        for (start, id) in (0..).step_by(size as usize).zip(ids) {
            let filled = known.get(&(scope, *id)).copied().unwrap_or(0);
            hit = start + filled;
            if filled < size {
                break;
            }
        }
        hits += hit.min(u64::from(request.input));
        total += u64::from(request.input);
        let reach = u64::from(cached(request));
        for (start, id) in (0..reach).step_by(size as usize).zip(ids) {
            let filled = known.entry((scope, *id)).or_default();
            *filled = (*filled).max(size.min(reach - start));
        }
    }
    hits as f64 / (total as f64).max(1.0)
}

fn sessions(trace: &Trace) -> Option<SessionFigures> {
    let mut turns: HashMap<u32, usize> = HashMap::new();
    let mut thinks = Vec::new();
    for request in &trace.requests {
        if let Some(session) = request.session {
            *turns.entry(session).or_default() += 1;
        }
        if let Arrival::After { think, .. } = request.arrival {
            thinks.push(think.as_secs_f64());
        }
    }
    let count = turns.len();
    thinks.sort_by(f64::total_cmp);
    (count > 0).then(|| SessionFigures {
        count,
        turns_mean: turns.values().sum::<usize>() as f64 / count as f64,
        turns_max: turns.values().copied().max().unwrap_or(0),
        closed_loop_share: thinks.len() as f64 / trace.requests.len() as f64,
        think_median_s: (!thinks.is_empty()).then(|| quantile(&thinks, 0.5)),
    })
}
