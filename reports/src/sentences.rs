//! Sentences about a tuning run, the same on the page and in a terminal.

use crate::figures::{THIN, capitalised, limit, listed, ms, percent, rate, short, sig};
use crate::page;
use loadgen::{Metric, Statistic, Target};
use tuner::result::{
    Infeasible, Margin, Objective, Operating, Tie, Tiebreak, TuneResult, departures, statistic,
};

/// The targets as a person says them.
pub(crate) fn slo_text(r: &TuneResult) -> String {
    page::slo_text(&r.slo, r.attainment.as_deref().and_then(page::share))
}

/// The question in words: what was looked for, on what, for whom, within which limits.
pub(crate) fn question(r: &TuneResult) -> String {
    let devices: Vec<&str> = r.devices.iter().map(|d| d.name.as_str()).collect();
    let gpus = if r.gpus == 1 { "one GPU".to_owned() } else { format!("up to {} GPUs", r.gpus) };
    let w = &r.workload;
    let prompt = w
        .prompt_tokens_per_request
        .map_or_else(String::new, |tokens| format!("{} prompt tokens and ", sig(tokens, 3)));
    let each = if w.requests_per_session.is_some() { "session" } else { "request" };
    let traffic = format!(
        "{} (on average {prompt}{} response tokens per {each})",
        w.name,
        sig(w.output_tokens_per_request, 3)
    );
    let wanted = match r.plans.first() {
        Some(plan) => format!(
            "the least cost of {} {} with {} of capacity kept free, replicas of {gpus}",
            short(plan.demand_rps),
            w.unit(),
            percent(plan.headroom)
        ),
        None => format!(
            "the configuration of {gpus} with the most {}",
            match r.objective {
                Objective::Rps => w.unit(),
                Objective::TokensPerGpu => "output tokens/s per GPU",
                Objective::Cost => "output tokens per dollar",
            }
        ),
    };
    let limits = match spelt(r) {
        limits if limits.is_empty() => "without a latency target".to_owned(),
        limits => format!("with {}", listed(&limits)),
    };
    format!("Asked: {wanted} for {} on {}, serving {traffic}, {limits}.", r.model, listed(&devices))
}

/// A latency's name in full.
fn words(metric: Metric) -> &'static str {
    match metric {
        Metric::Ttft => "time to first token",
        Metric::Tpot => "time per output token",
        Metric::Itl => "time between tokens",
        Metric::E2e => "time to the last token",
    }
}

/// Each target in full words.
fn spelt(r: &TuneResult) -> Vec<String> {
    let share = r.attainment.as_deref().and_then(page::share);
    let of = |t: &Target| {
        let who = t.class.as_ref().map_or_else(String::new, |class| format!(" of {class}"));
        let most = limit(t.limit.as_secs_f64() * 1e3);
        let what = words(t.metric);
        match (share, t.statistic) {
            (Some(_), _) => format!("{what}{who} within {most}"),
            (None, Statistic::Mean) => format!("a mean {what}{who} within {most}"),
            (None, Statistic::Percentile(p)) => {
                format!(
                    "{what}{who} within {most} for {}{THIN}% of {}",
                    p,
                    if t.metric.per_request() { "requests" } else { "gaps" }
                )
            }
        }
    };
    let mut all: Vec<String> = page::targets(&r.slo).iter().map(of).collect();
    if let (Some(share), Some(last)) = (share, all.last_mut()) {
        *last += &format!(", all of them for {}{THIN}% of requests", short(100.0 * share));
    }
    all
}

/// The configuration as a sentence: whatever neither the policy's name nor the defaults say is in it.
pub(crate) fn sentence(b: &Operating) -> String {
    let knob = |name: &str| b.config.get(name).map_or("?", String::as_str);
    let policy = if knob("scheduler") == b.policy {
        format!("Use {} scheduling", b.policy)
    } else {
        format!("Use the {} policy: {} scheduling", b.policy, knob("scheduler"))
    };
    // Whole prompts are run there, and the budget bounds how many share an iteration.
    let whole =
        if knob("scheduler") == "continuous" { " (a longer prompt runs alone)" } else { "" };
    let mut said = vec![format!(
        "{policy}, at most {} sequences and {} tokens per iteration{whole}",
        knob("max-seqs"),
        knob("max-batch-tokens")
    )];
    said.push(match knob("allocator") {
        "paged" => {
            let cache = if knob("prefix-cache") == "on" { "with" } else { "without" };
            format!("paged KV in blocks of {} {cache} prefix cache", knob("block-size"))
        }
        other => format!("{other} KV, reserved by {}", knob("reserve")),
    });
    if knob("scheduler") == "disagg" {
        let (prefill, decode) = (knob("prefill-workers"), knob("decode-workers"));
        said.push(format!("{prefill} prefill and {decode} decode workers"));
    }
    said.extend(departures(&b.config).iter().filter_map(|(name, value)| phrase(name, value)));
    format!("{}.", said.join(", "))
}

/// A knob's value in words; none where the sentence has it already.
fn phrase(knob: &str, value: &str) -> Option<String> {
    Some(match (knob, value) {
        (
            "scheduler" | "allocator" | "reserve" | "prefix-cache" | "block-size" | "max-seqs"
            | "max-batch-tokens" | "prefill-workers" | "decode-workers",
            _,
        ) => return None,
        ("queue", "shortest-prefill") => "shortest prompts first in the queue".to_owned(),
        ("queue", "longest-prefix") => "longest cached prefix first in the queue".to_owned(),
        ("queue", "priority") => "the queue by priority".to_owned(),
        ("mix", "on") => "decodes mixed into prefill iterations".to_owned(),
        ("quantization", format) => format!("{format} weights"),
        ("kv-dtype", format) => format!("{format} KV"),
        ("kv-fraction", share) => format!("{share} of the device's memory"),
        ("watermark", share) => format!("{share} of the KV kept free"),
        ("prompt-kv", "chunk") => "KV taken chunk by chunk".to_owned(),
        ("long-prefill-threshold", n) => format!("at most {n} tokens of one prompt per iteration"),
        ("victim", who) => format!("{who} preempted first"),
        ("max-model-len", n) => format!("up to {n} tokens per request"),
        ("padding", "off") => "no padding".to_owned(),
        ("max-wait", time) => format!("waiting up to {time} for a fuller batch"),
        ("tp", n) => format!("{n} tensor-parallel ranks"),
        ("dp", n) => format!("{n} ranks of attention"),
        ("ep", n) => format!("experts over {n} ranks"),
        ("pp", n) => format!("{n} pipeline stages"),
        ("replicas", n) => format!("{n} replicas"),
        (name, value) => format!("{name} {value}"),
    })
}

/// The trust that the capacity deserves, in sentences; none if it is not known.
pub(crate) fn trust(r: &TuneResult) -> Vec<String> {
    let Some(c) = &r.confidence else { return Vec::new() };
    let chances = short(c.level * 10.0);
    let low = if c.low_rps > 0.0 { rate(c.low_rps) } else { "nothing".to_owned() };
    let mut said = vec![format!(
        "Capacity is {low} to {} {} with {chances} chances in 10: iterations of real engines take {} to {} times the \
         predicted time ({} recorded runs on {}). The targets hold at some rate with a probability of {}.",
        rate(c.high_rps),
        r.workload.unit(),
        sig(c.faster, 2),
        sig(c.slower, 3),
        c.runs,
        listed(&c.devices),
        probability(c.p_feasible)
    )];
    if let Some(other) = &c.instead_of {
        said.push(format!(
            "Preferred to {}, which is predicted to carry {} but carries {} with slow iterations.",
            other.label,
            rate(other.capacity_rps),
            if other.low_rps > 0.0 { rate(other.low_rps) } else { "nothing".to_owned() }
        ));
    }
    said
}

/// The configurations that carry as much as the winner, and why it is the one; none where there are none.
pub(crate) fn ties(r: &TuneResult) -> Option<String> {
    let ties = r.ties.as_ref()?;
    let next = ties.others.first()?;
    let several = r.devices.len() > 1;
    let name = |t: &Tie| match several {
        true => format!("{} on {}", t.label, t.device),
        false => t.label.clone(),
    };
    let mut named: Vec<String> = ties.others.iter().take(NAMED).map(name).collect();
    let more = ties.others.len() - named.len();
    if more > 0 {
        named.push(format!("{more} more"));
    }
    let carry = if ties.others.len() == 1 { "carries" } else { "carry" };
    let why = match (ties.rule, ties.left, next.left) {
        (Tiebreak::Steadier, ..) => {
            "This one was chosen because it carries more where iterations are slow".to_owned()
        }
        (Tiebreak::WiderMargin, Some(own), Some(other)) if percent(own) != percent(other) => {
            format!(
                "This one was chosen for its wider margin: {} of its tightest limit is left, {} at the next",
                percent(own),
                percent(other)
            )
        }
        (Tiebreak::WiderMargin, ..) => {
            "This one was chosen for its margin, which is wider by a hair".to_owned()
        }
        (Tiebreak::FewerGpus, ..) => "This one was chosen because it takes fewer GPUs".to_owned(),
        (Tiebreak::FoundFirst, own, other) if own < other => {
            "This one was found first, and only one that carries more takes its place".to_owned()
        }
        (Tiebreak::FoundFirst, ..) => {
            "This one was found first, and nothing that was measured speaks for another".to_owned()
        }
    };
    Some(format!(
        "Equal: {} {carry} as much, to within the {} from one rate tried to the next. {why}.",
        listed(&named),
        percent(ties.step)
    ))
}

/// Equal configurations that are named; others are counted.
const NAMED: usize = 3;

/// Whole percents: the last of them are never certain.
fn probability(p: f64) -> String {
    match p * 100.0 {
        p if p >= 99.0 => "over 99 %".to_owned(),
        p if p < 1.0 => "under 1 %".to_owned(),
        p => format!("{p:.0} %"),
    }
}

/// The reason why nothing holds, in a sentence: the nearest miss, and its distance.
pub(crate) fn nowhere(why: &Infeasible) -> String {
    match (&why.nearest, all_missed(why)) {
        (Some(nearest), Some(missed)) => format!(
            "Even on an empty machine the nearest configuration, {nearest}, reaches {}.{}",
            listed(&missed),
            why.p_feasible.map_or_else(String::new, |p| format!(
                " That real iterations are short enough for the targets has a probability of {}.",
                probability(p)
            ))
        ),
        _ => format!("{}.", capitalised(&why.reason)),
    }
}

/// The nearest miss where nothing holds the targets, against the target.
pub(crate) fn at_best(why: &Infeasible) -> String {
    all_missed(why).map_or_else(|| why.reason.clone(), |m| format!("at best {}", listed(&m)))
}

/// The nearest miss; none where that says less than the reason: requests failed, or the share that
/// meets all targets decides.
fn all_missed(why: &Infeasible) -> Option<Vec<String>> {
    let missed: Vec<&Margin> = why.reaches.iter().filter(|m| !m.met).collect();
    let told = !missed.is_empty() && missed.iter().all(|m| m.value_ms.is_some());
    told.then(|| missed.into_iter().map(self::missed).collect())
}

/// Targets as typed that some rate can hold: a tenth above what was reached, where that is not enough already. None
/// where something has no finite value.
pub(crate) fn holdable(why: &Infeasible) -> Option<String> {
    let target = |m: &Margin| match (m.met, m.target.rsplit_once('='), m.value_ms) {
        (true, ..) => Some(format!("--slo {}", m.target)),
        (false, Some((subject, _)), Some(ms)) => {
            Some(format!("--slo {subject}={:.0}ms", (ms * 1.1).ceil()))
        }
        _ => None,
    };
    let targets: Option<Vec<String>> = why.reaches.iter().map(target).collect();
    targets.map(|t| t.join(" ")).filter(|t| !t.is_empty())
}

/// The value reached, against its target.
fn missed(m: &Margin) -> String {
    let value = m.value_ms.map_or_else(|| "∞".to_owned(), ms);
    format!("{} {value} against {}", statistic(&m.measured), limit(m.limit_ms))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn margin(target: &str, value_ms: Option<f64>, met: bool) -> Margin {
        let measured = target.split('=').next().unwrap_or_default().to_owned();
        Margin { target: target.to_owned(), measured, value_ms, limit_ms: 50.0, margin: None, met }
    }

    fn nearest(reaches: Vec<Margin>) -> Infeasible {
        let (reason, nearest) = ("even so".to_owned(), Some("paged max-seqs 8".to_owned()));
        Infeasible { reason, nearest, reaches, p_feasible: None }
    }

    #[test]
    fn the_nearest_feasible_targets_can_be_typed() {
        let slow = margin("ttft:p99=50ms", Some(112.9), false);
        let fast = margin("tpot:p99=50ms", Some(7.0), true);
        let why = nearest(vec![slow, fast]);
        assert_eq!(holdable(&why).unwrap(), "--slo ttft:p99=125ms --slo tpot:p99=50ms");
        assert_eq!(
            nowhere(&why).replace(crate::figures::THIN, " "),
            "Even on an empty machine the nearest configuration, paged max-seqs 8, reaches p99 TTFT 113 ms against 50 ms."
        );
        assert_eq!(holdable(&nearest(vec![margin("ttft:p99=50ms", None, false)])), None);
    }

    #[test]
    fn every_knob_that_differs_has_a_phrase() {
        // The policy's own parts are in the sentence already; everything else is said.
        assert_eq!(phrase("scheduler", "static"), None);
        for (knob, value) in [("queue", "priority"), ("kv-dtype", "fp8"), ("router", "round-robin")]
        {
            assert!(phrase(knob, value).is_some(), "{knob}");
        }
        assert_eq!(phrase("some-later-knob", "3").unwrap(), "some-later-knob 3");
    }
}
