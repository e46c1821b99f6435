//! The answer for a terminal, 100 columns at most, in colour only if it shows colours.

mod served;
mod tune;

use crate::bench::doubts;
use crate::compare as comparing;
use crate::figures::{THIN, capitalised, latency, ms, opt_ms, percent, rate, sig};
use crate::measured::millis;
use crate::report::{BenchReport, CompareReport, Inside, LiveSide};
use crate::wrap::{Look, Screen};
use loadgen::{Metric, Trust};
use std::time::Duration;
use tuner::claims::Finding;

pub use crate::wrap::{Terminal, WIDTH};
pub use served::served;
pub use tune::tune;

/// A latency in ms, or in seconds from one on, to three digits.
#[must_use]
pub fn time(time: Duration) -> String {
    ms(time.as_secs_f64() * 1e3).replace(THIN, " ")
}

/// The summary of `knee compare`.
#[must_use]
pub fn compare(report: &CompareReport, terminal: Terminal) -> String {
    let mut s = Screen::new(terminal);
    s.say(&comparing::headline(report), 0, Some(Look::Bold));
    if let Some(said) = comparing::capacities(report) {
        s.say(&said, 0, Some(Look::Bold));
    }
    let slo = comparing::slo_text(report);
    s.origin(report.scenario.simulated, &comparing::facts(&report.scenario, slo));
    s.gap();
    let mixed = comparing::mixes_gpus(report);
    let (by, _) = comparing::share(report);
    let row = |p: &tuner::compare::PolicyResult| {
        let name = if mixed { format!("{} ({} GPUs)", p.name, p.gpus) } else { p.name.clone() };
        vec![
            name.replace("(1 GPUs)", "(1 GPU)"),
            sig(p.saturated_output_tokens_per_s / by(p), 3),
            p.capacity_rps.map_or_else(|| "infeasible".to_owned(), |c| rate(c / by(p))),
            opt_ms(p.p99.get(Metric::Ttft)),
            opt_ms(p.p99.get(Metric::Itl)),
            percent(p.kv_waste_percent / 100.0),
            sig(p.mean_batch, 3),
        ]
    };
    let rows: Vec<Vec<String>> = report.policies.iter().map(row).collect();
    s.table(
        &[
            "policy",
            if mixed { "tok/s/GPU saturated" } else { "tok/s saturated" },
            if mixed { "capacity req/s/GPU" } else { "capacity req/s" },
            "p99 TTFT",
            "p99 ITL",
            "KV waste",
            "mean batch",
        ],
        &rows,
        None,
    );
    if let Some(first) = report.policies.first() {
        s.say(
            &format!(
                "  latencies at {} requests/s; waste and batch with all requests at once",
                rate(first.rate_rps)
            ),
            4,
            Some(Look::Quiet),
        );
    }
    for said in comparing::unfit(report) {
        s.say(&format!("! {said}"), 2, Some(Look::Bad));
    }
    for c in &report.claims.claims {
        s.gap();
        let look = match c.finding {
            Finding::Confirmed => Look::Good,
            Finding::Partly => Look::Bold,
            Finding::Refuted => Look::Bad,
            Finding::Untried => Look::Quiet,
        };
        let finding = comparing::finding(c.finding);
        s.say(&format!("{finding}: {}", c.claim), 2, Some(look));
        s.say(&format!("  {}", c.measured), 4, None);
    }
    s.text
}

/// The summary of `knee bench`.
#[must_use]
pub fn bench(report: &BenchReport, terminal: Terminal) -> String {
    let mut s = Screen::new(terminal);
    s.say(&crate::bench::headline(report), 0, Some(Look::Bold));
    let slo = crate::bench::slo_text(report);
    s.origin(report.scenario.simulated, &comparing::facts(&report.scenario, slo));
    s.say(&format!("  {}", report.label), 4, None);
    figures(&mut s, report);
    s.text
}

/// The figures of a run, what became of its targets, and what to doubt.
fn figures(s: &mut Screen, report: &BenchReport) {
    let sum = &report.summary;
    s.gap();
    let row = |m: Metric| {
        let x = sum.stats(m);
        let values = [x.mean, x.p50, x.p90, x.p99, x.max].map(latency);
        [m.label().to_owned()].into_iter().chain(values).collect()
    };
    let rows: Vec<Vec<String>> = Metric::ALL.into_iter().map(row).collect();
    s.table(&["latency", "mean", "p50", "p90", "p99", "max"], &rows, None);
    s.gap();
    let good = match sum.verdict.targets.is_empty() {
        true => format!("{} per second", rate(sum.request_throughput_rps())),
        false => format!("{} good ones per second", rate(sum.goodput_rps())),
    };
    let done = format!("  {} of {} requests completed, {good}", sum.completed, sum.requests);
    match &report.inside {
        None => s.say(&done, 4, None),
        Some(Inside { work: w, kv }) => {
            s.say(
                &format!(
                    "{done}; {} iterations, mean batch {}, {} preemptions, busy {}",
                    w.iterations,
                    sig(w.mean_batch, 3),
                    w.preemptions,
                    percent(w.busy)
                ),
                4,
                None,
            );
            let kv: Vec<String> = crate::charts::classes(kv)
                .iter()
                .map(|(name, share)| format!("{name} {}", percent(*share)))
                .collect();
            s.say(&format!("  KV memory: {}", kv.join(", ")), 4, None);
            if w.tokens_drafted > 0 {
                let kept = w.tokens_accepted as f64 / w.tokens_drafted as f64;
                let drafted = crate::figures::count(w.tokens_drafted);
                s.say(&format!("  {drafted} tokens drafted, {} accepted", percent(kept)), 4, None);
            }
        }
    }
    if let Some(live) = &report.live {
        audited(s, live);
    }
    for t in &sum.verdict.targets {
        let (word, look) = if t.met { ("held", Look::Good) } else { ("missed", Look::Bad) };
        let most = crate::figures::limit(t.target.limit.as_secs_f64() * 1e3);
        let name = tuner::result::statistic(&t.measured);
        let said = match crate::bench::without_value(report, t) {
            None => format!("  {name} {} against {most}: {word}", latency(t.value)),
            Some(why) => format!("  {name} against {most}: {word}, as {why}"),
        };
        s.say(&said, 4, Some(look));
    }
    if let Some((said, met)) = crate::bench::attained(&sum.verdict) {
        s.say(&format!("  {said}"), 4, Some(if met { Look::Good } else { Look::Bad }));
    }
    for d in doubts(report) {
        s.say(&format!("! {}", capitalised(&d)), 2, Some(Look::Bad));
    }
}

/// The client's account of itself in a line or two.
fn audited(s: &mut Screen, live: &LiveSide) {
    let a = &live.audit;
    let ttft = |x: &loadgen::Stats| format!("{} / {}", latency(x.p50), latency(x.p99));
    s.say(
        &format!(
            "  counted from the send: TTFT p50 / p99 {}",
            ttft(&live.from_send.stats(Metric::Ttft))
        ),
        4,
        None,
    );
    if !live.precision.is_empty() {
        s.say(&format!("  {}", crate::measured::sure(live)), 4, None);
    }
    let look = if a.verdict == Trust::Valid { Look::Good } else { Look::Bad };
    s.say(
        &format!(
            "  {}: sends {} late at p99 (at most {}), times of tokens at most {} off at p99, client {} of a core",
            a.verdict,
            millis(a.send_lateness_p99_ms),
            millis(a.send_lateness_max_ms),
            millis(a.stamp_error_p99_ms),
            percent(a.cpu_share)
        ),
        4,
        Some(look),
    );
}
