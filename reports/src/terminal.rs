//! The answer for a terminal, 100 columns at most, in colour only if the caller knows that somebody sees it.

use crate::bench::doubts;
use crate::figures::{NONE, latency, opt_ms, percent, rate, sig, usd};
use crate::report::{BenchReport, CompareReport, TuneReport};
use crate::screen::{Look, Screen};
use crate::{compare as comparing, tuning};
use loadgen::Metric;
use tuner::result::{Infeasible, Operating, TuneResult};

pub use crate::screen::WIDTH;

/// The summary of `knee tune`.
#[must_use]
pub fn tune(report: &TuneReport, colour: bool) -> String {
    let r = &report.result;
    let mut s = Screen::new(colour);
    s.say(&tuning::headline(r), 0, Some(Look::Bold));
    s.origin(
        r.simulated,
        &[
            r.model.clone(),
            r.device.clone(),
            r.workload.name.clone(),
            format!(
                "{} runs of {} configurations in {}",
                r.trials,
                r.candidates,
                crate::figures::seconds(r.wall_s)
            ),
        ],
    );
    s.gap();
    match &r.best {
        Some(best) => winner(&mut s, r, best),
        None => nowhere(&mut s, r.infeasible.as_ref()),
    }
    for w in &r.warnings {
        s.say(&format!("! {w}"), 2, Some(Look::Bad));
    }
    if r.interrupted {
        s.say("! interrupted: the best of what had been tried", 2, Some(Look::Bad));
    }
    policies(&mut s, r);
    why(&mut s, r);
    for p in &r.plans {
        s.gap();
        let cost = p.usd_per_hour.map_or_else(String::new, |c| format!(", {} per hour", usd(c)));
        s.say(
            &format!(
                "{} requests/s take {} × {} ({} of capacity free{cost})",
                rate(p.demand_rps),
                p.gpus,
                p.device,
                percent(p.free)
            ),
            2,
            None,
        );
    }
    s.text
}

fn winner(s: &mut Screen, r: &TuneResult, best: &Operating) {
    s.say(&tuning::sentence(best), 0, None);
    s.gap();
    for m in &best.margins {
        let margin = m.margin.map_or_else(|| NONE.to_owned(), percent);
        let look = if m.met { Look::Good } else { Look::Bad };
        s.say(
            &format!(
                "  {}: {} at capacity, {margin} of the limit left",
                m.target,
                opt_ms(m.value_ms)
            ),
            4,
            Some(look),
        );
    }
    let cost = best
        .usd_per_million_tokens
        .map_or_else(String::new, |c| format!(", {} per million tokens", usd(c)));
    s.say(
        &format!(
            "  p99 TTFT {}, TPOT {}, ITL {}; {} output tokens/s per GPU{cost}",
            opt_ms(best.ttft_p99_ms),
            opt_ms(best.tpot_p99_ms),
            opt_ms(best.itl_p99_ms),
            sig(best.tokens_per_s_per_gpu, 3)
        ),
        4,
        None,
    );
    if r.warnings.is_empty() && !r.interrupted {
        return;
    }
    s.gap();
}

fn nowhere(s: &mut Screen, why: Option<&Infeasible>) {
    let Some(why) = why else { return };
    s.say(&why.reason, 0, Some(Look::Bad));
    if let Some(nearest) = &why.nearest {
        s.say(&format!("nearest: {nearest}"), 2, None);
        for m in &why.reaches {
            s.say(
                &format!(
                    "  {}: {} against {}",
                    m.target,
                    opt_ms(m.value_ms),
                    crate::figures::ms(m.limit_ms)
                ),
                4,
                None,
            );
        }
    }
}

fn policies(s: &mut Screen, r: &TuneResult) {
    if r.baselines.is_empty() {
        return;
    }
    s.gap();
    let several = r.baselines.iter().any(|b| b.device != r.device);
    let row = |b: &tuner::result::Baseline| {
        let name = if several { format!("{} on {}", b.policy, b.device) } else { b.policy.clone() };
        let mut cells = vec![name];
        match &b.best {
            Some(o) => cells.extend([
                rate(o.capacity_rps),
                opt_ms(o.ttft_p99_ms),
                opt_ms(o.tpot_p99_ms),
                opt_ms(o.itl_p99_ms),
                sig(o.tokens_per_s_per_gpu, 3),
                percent(o.kv.waste_percent() / 100.0),
                o.config.get("max-seqs").cloned().unwrap_or_default(),
                o.config.get("max-batch-tokens").cloned().unwrap_or_default(),
            ]),
            None => cells.extend(
                ["infeasible", NONE, NONE, NONE, NONE, NONE, NONE, NONE].map(str::to_owned),
            ),
        }
        cells
    };
    let rows: Vec<Vec<String>> = r.baselines.iter().map(row).collect();
    let is_best = |b: &tuner::result::Baseline| match (&b.best, &r.best) {
        (Some(o), Some(best)) => o.config == best.config && o.device == best.device,
        _ => false,
    };
    let head = [
        "best of policy",
        "req/s",
        "p99 TTFT",
        "p99 TPOT",
        "p99 ITL",
        "tok/s/GPU",
        "KV waste",
        "seqs",
        "budget",
    ];
    s.table(&head, &rows, r.baselines.iter().position(is_best));
}

fn why(s: &mut Screen, r: &TuneResult) {
    if r.losers.is_empty() {
        return;
    }
    s.gap();
    for l in &r.losers {
        let confirmed =
            l.checked.iter().find(|a| a.confirmed && Some(&a.cause) == l.cause.as_ref());
        let text = match (&l.cause, confirmed) {
            (Some(cause), Some(a)) => format!(
                "{}: lost by {cause} ({}: {} → {} requests/s)",
                l.policy,
                a.relaxed,
                rate(a.before_rps),
                rate(a.after_rps)
            ),
            (Some(cause), None) => format!("{}: lost by {cause}", l.policy),
            (None, _) => format!("{}: unexplained; broke first: {}", l.policy, l.broke),
        };
        s.say(&format!("  {text}"), 6, None);
    }
}

/// The summary of `knee compare`.
#[must_use]
pub fn compare(report: &CompareReport, colour: bool) -> String {
    let mut s = Screen::new(colour);
    s.say(&comparing::headline(report), 0, Some(Look::Bold));
    s.origin(report.scenario.simulated, &comparing::facts(&report.scenario));
    s.gap();
    let row = |p: &tuner::compare::PolicyResult| {
        vec![
            p.name.clone(),
            sig(p.saturated_output_tokens_per_s, 3),
            p.capacity_rps.map_or_else(|| "infeasible".to_owned(), rate),
            opt_ms(p.p99_ttft_ms),
            opt_ms(p.p99_itl_ms),
            percent(p.kv_waste_percent / 100.0),
            sig(p.mean_batch, 3),
        ]
    };
    let rows: Vec<Vec<String>> = report.policies.iter().map(row).collect();
    s.table(
        &[
            "policy",
            "tok/s saturated",
            "capacity req/s",
            "p99 TTFT",
            "p99 ITL",
            "KV waste",
            "mean batch",
        ],
        &rows,
        None,
    );
    if let Some(at) = report.policies.first().and_then(|p| p.at.first()) {
        s.say(
            &format!(
                "  latencies at {} requests/s; waste and batch with all requests at once",
                rate(at.rate_rps)
            ),
            4,
            Some(Look::Quiet),
        );
    }
    for c in &report.claims.claims {
        s.gap();
        let (verdict, look) = match c.confirmed {
            Some(true) => ("confirmed", Look::Good),
            Some(false) => ("refuted", Look::Bad),
            None => ("not tried", Look::Quiet),
        };
        s.say(&format!("{verdict}: {}", c.claim), 2, Some(look));
        s.say(&format!("  {}", c.measured), 4, None);
    }
    s.text
}

/// The summary of `knee bench`.
#[must_use]
pub fn bench(report: &BenchReport, colour: bool) -> String {
    let mut s = Screen::new(colour);
    let (o, sum) = (&report.observation, &report.observation.summary);
    s.say(&crate::bench::headline(report), 0, Some(Look::Bold));
    s.origin(report.scenario.simulated, &comparing::facts(&report.scenario));
    s.gap();
    let row = |m: Metric| {
        let x = sum.stats(m);
        let values = [x.mean, x.p50, x.p90, x.p99, x.max].map(latency);
        [crate::charts::metric_name(m).to_owned()].into_iter().chain(values).collect()
    };
    let rows: Vec<Vec<String>> = Metric::ALL.into_iter().map(row).collect();
    s.table(&["latency", "mean", "p50", "p90", "p99", "max"], &rows, None);
    s.gap();
    let w = &o.work;
    s.say(&format!(
        "  {} of {} requests completed, {} good/s; {} iterations, mean batch {}, {} preemptions, busy {}",
        sum.completed, sum.requests, rate(sum.goodput_rps()), w.iterations, sig(w.mean_batch, 3), w.preemptions, percent(w.busy)
    ), 4, None);
    let kv: Vec<String> = crate::charts::classes(&o.kv)
        .iter()
        .map(|(name, share)| format!("{name} {}", percent(*share)))
        .collect();
    s.say(&format!("  KV memory: {}", kv.join(", ")), 4, None);
    for t in &sum.verdict.targets {
        let (word, look) = if t.met { ("held", Look::Good) } else { ("missed", Look::Bad) };
        s.say(&format!("  {}: {word} at {}", t.target, latency(t.value)), 4, Some(look));
    }
    for d in doubts(report) {
        s.say(&format!("! {d}"), 2, Some(Look::Bad));
    }
    s.text
}
