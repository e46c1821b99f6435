//! Figures in the words people use: `p99 TTFT 217 ms against 200 ms`.
//!
//! Stored figures keep every digit. A sentence keeps three, or as many as it takes to tell a value from its limit.

use crate::knee::verdict::{self, Doubt, Verdict};
use crate::share::percent;
use crate::subject::observation::{Observation, Outside};
use loadgen::{Attained, Judged, Latency, Summary};
use std::time::Duration;

/// Of a capacity that is bounded by what is completed per second with everything offered at once.
pub(crate) const BOUNDED: &str = "capacity is what it completes per second with all requests at once: at a higher rate \
                                  the targets hold only while this trace lasts";

/// `ttft:p99@chat` as `p99 TTFT of chat`.
#[must_use]
pub fn statistic(measured: &str) -> String {
    let (what, class) = measured.split_once('@').map_or((measured, None), |(w, c)| (w, Some(c)));
    let of = class.map_or_else(String::new, |class| format!(" of {class}"));
    match what.split_once(':') {
        Some((metric, statistic)) => format!("{statistic} {}{of}", metric.to_uppercase()),
        None => format!("{}{of}", what.to_uppercase()),
    }
}

/// The measured value, and its limit.
#[must_use]
pub fn against(t: &Judged) -> String {
    let (what, limit) = (statistic(&t.measured), t.target.limit);
    let value = match t.value {
        Latency::Finite(value) => {
            let digits = (3..12).find(|d| time(value, *d) != time(limit, *d)).unwrap_or(3);
            return format!("{what} {} against {}", time(value, digits), time(limit, digits));
        }
        Latency::Infinite => "infinite, as requests failed,",
        Latency::Undefined => "undefined",
    };
    format!("{what} {value} against {}", time(limit, 3))
}

/// The share of requests that met all targets, and what was asked for: `98 % of requests against 98.5 %`.
#[must_use]
pub fn attained(a: &Attained) -> String {
    let finely = |share: f64| format!("{:.3} %", 100.0 * share);
    let same = percent(a.share) == percent(a.required) && !a.met;
    let say = |share| if same { finely(share) } else { percent(share) };
    format!("{} of requests against {}", say(a.share), say(a.required))
}

/// A time to so many significant digits, without zeros that only pad.
fn time(t: Duration, digits: i32) -> String {
    let ms = t.as_secs_f64() * 1e3;
    let (value, unit) = if ms >= 999.5 { (ms / 1e3, "s") } else { (ms, "ms") };
    if value <= 0.0 {
        return format!("0 {unit}");
    }
    let decimals = (digits - 1 - value.log10().floor() as i32).max(0) as usize;
    let text = format!("{value:.decimals$}");
    let text = if decimals > 0 { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
    format!("{text} {unit}")
}

/// The cause of a run's failure, in a few words.
#[must_use]
pub fn broke(observation: &Observation) -> String {
    let v = &observation.summary.verdict;
    if let Some(outside) = &observation.outside {
        return broke_outside(observation, outside);
    }
    if !v.met && too_many_unfit(observation) {
        return observation.unfit.to_string();
    }
    match verdict::tightest(observation) {
        Some(t) if !v.met && v.attainment.is_none() => against(t),
        _ if !v.met => v.attainment.map_or_else(
            || "requests were lost".to_owned(),
            |a| format!("all targets: {}", attained(&a)),
        ),
        _ if !observation.sustain.sustained => {
            "backlog grew as long as requests came: the rate cannot be sustained".to_owned()
        }
        _ if verdict::too_short(observation) => format!(
            "nothing yet, but at this rate a request lasts {:.0} % of the whole run: use a longer trace",
            100.0 * observation.sustain.request_share
        ),
        _ => "nothing".to_owned(),
    }
}

/// The same of a server's run.
fn broke_outside(observation: &Observation, outside: &Outside) -> String {
    let Observation { summary, sustain, .. } = observation;
    if outside.hopeless || !summary.verdict.met {
        let lost = (!outside.lost.is_empty()).then_some(outside.lost.as_str());
        missed(summary, lost, outside.doubt.as_deref())
    } else if Verdict::of(observation) == Verdict::NotDecidable(Doubt::TooFew) {
        let (requests, s) = (outside.requests, outside.offered_s);
        format!("{requests} requests in {s:.1} s show nothing: give a longer --probe")
    } else {
        sustain.reason.clone()
    }
}

/// The faults of a server's run that misses its targets: first the requests that came to nothing
/// (`lost`, in words), then the targets that the completed requests miss. `doubt` is the reason if
/// the pace of tokens is not known.
#[must_use]
pub fn missed(summary: &Summary, lost: Option<&str>, doubt: Option<&str>) -> String {
    let late = |j: &&Judged| !j.met && (lost.is_none() || j.value.finite().is_some());
    let mut words: Vec<String> = lost.iter().map(|lost| (*lost).to_owned()).collect();
    words.extend(summary.verdict.targets.iter().filter(late).map(|j| match j.value {
        Latency::Finite(_) => format!("{} of {:.1}", j.measured, j.value),
        Latency::Infinite => format!("{} missed by too many requests", j.measured),
        Latency::Undefined => format!("{} is not known: {}", j.measured, doubt.unwrap_or_default()),
    }));
    if words.is_empty() {
        "too many requests missed their targets".to_owned()
    } else {
        words.join(", ")
    }
}

/// True where what can never be served is enough to miss the SLO: its share alone is beyond a percentile's, or a
/// mean's, which allows none.
fn too_many_unfit(observation: &Observation) -> bool {
    let (unfit, v) = (&observation.unfit, &observation.summary.verdict);
    unfit.any()
        && match v.attainment {
            Some(a) => unfit.share() > 1.0 - a.required,
            None => v.targets.iter().any(|t| !t.met && t.value == Latency::Infinite),
        }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(target: &str, value: Latency) -> Judged {
        let target: loadgen::Target = target.parse().unwrap();
        Judged { measured: target.subject(), target, value, margin: None, met: false }
    }

    #[test]
    fn a_share_is_told_from_the_share_asked_for() {
        let say = |share, required| attained(&Attained { share, required, met: share >= required });
        assert_eq!(say(0.98, 0.985), "98.0 % of requests against 98.5 %");
        assert_eq!(say(0.989_96, 0.99), "98.996 % of requests against 99.000 %");
        assert_eq!(say(0.99, 0.99), "99.0 % of requests against 99.0 %");
    }

    #[test]
    fn figures_are_short_but_never_equal_when_they_differ() {
        let ns = |n| Latency::Finite(Duration::from_nanos(n));
        let say = |target, value| against(&judged(target, value));
        assert_eq!(say("ttft=200ms", ns(216_735_001)), "p99 TTFT 217 ms against 200 ms");
        assert_eq!(say("ttft=200ms", ns(200_111_753)), "p99 TTFT 200.1 ms against 200 ms");
        assert_eq!(say("ttft=200ms", ns(200_000_001)), "p99 TTFT 200.000001 ms against 200 ms");
        assert_eq!(say("ttft=2s", ns(2_885_499_368)), "p99 TTFT 2.89 s against 2 s");
        assert_eq!(
            say("itl:mean@chat=50ms", ns(99_960_000)),
            "mean ITL of chat 100 ms against 50 ms"
        );
        assert_eq!(
            say("e2e:p99.9=1s", Latency::Infinite),
            "p99.9 E2E infinite, as requests failed, against 1 s"
        );
    }
}
