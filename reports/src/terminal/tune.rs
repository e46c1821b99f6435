//! The summary of `knee tune` and `knee plan`: the answer, what it leaves of the targets, what to paste, what to doubt,
//! how the policies compare and why they lost.

use crate::figures::{
    NONE, P99S, SHOWN, capitalised, limit, opt_ms, p99s, percent, rate, sig, usd,
};
use crate::report::TuneReport;
use crate::wrap::{Look, Screen, Terminal};
use crate::{engines, exports, planned, sentences, tuning};
use std::collections::BTreeSet;
use tuner::result::{Infeasible, Loser, Operating, TuneResult, statistic};

/// The summary of `knee tune` and `knee plan`.
#[must_use]
pub fn tune(report: &TuneReport, terminal: Terminal) -> String {
    let r = &report.result;
    let mut s = Screen::new(terminal);
    s.say(&tuning::headline(report), 0, Some(Look::Bold));
    s.origin(
        r.simulated && report.measured.is_none(),
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
    decided(&mut s, report);
    plan(&mut s, r);
    match &r.best {
        Some(best) => winner(&mut s, r, best),
        None => nowhere(&mut s, r.infeasible.as_ref()),
    }
    if r.best.is_some() {
        paste(&mut s, report);
        beside(&mut s, r);
    }
    warnings(&mut s, r);
    policies(&mut s, r);
    why(&mut s, r);
    s.text
}

fn decided(s: &mut Screen, report: &TuneReport) {
    let Some(answer) = &report.measured else { return };
    s.contest(answer);
    s.gap();
    s.say("By simulation:", 0, Some(Look::Bold));
}

fn plan(s: &mut Screen, r: &TuneResult) {
    if r.plans.is_empty() {
        return;
    }
    let head = planned::COLUMNS.map(|c| c.0);
    let rows: Vec<Vec<String>> = r.plans.iter().map(|p| planned::cells(r, p).to_vec()).collect();
    let chosen = r.plans.iter().position(|p| p.device == r.device);
    s.table(&head, &rows, chosen);
    if let Some(rule) = planned::rule(r) {
        s.say(&format!("  {rule}"), 4, None);
    }
    if let Some(means) = planned::likely_means(r) {
        s.say(&format!("  {means}"), 4, Some(Look::Quiet));
    }
    // Of the device chosen it is a warning of the answer.
    for said in planned::unfit(r).iter().filter(|said| !r.warnings.contains(said)) {
        s.say(&format!("! {}", capitalised(said)), 2, Some(Look::Bad));
    }
    for (device, why) in planned::infeasible(r) {
        s.say(&format!("  {device}: infeasible, {why}"), 4, Some(Look::Bad));
    }
    let tiers = planned::tiers(r);
    if !tiers.is_empty() {
        s.gap();
        let rows: Vec<Vec<String>> = tiers.iter().map(|row| row.to_vec()).collect();
        s.table(&planned::TIERS.map(|c| c.0), &rows, None);
    }
    s.gap();
    s.say(&format!("{}:", planned::heading(r)), 0, Some(Look::Bold));
}

fn winner(s: &mut Screen, r: &TuneResult, best: &Operating) {
    s.say(&sentences::sentence(best), 0, None);
    s.gap();
    if !r.plans.is_empty() {
        s.say(&format!("  capacity {} {}", rate(best.capacity_rps), r.workload.unit()), 4, None);
    }
    for m in &best.margins {
        let look = if m.met { Look::Good } else { Look::Bad };
        let (name, value) = (statistic(&m.measured), opt_ms(m.value_ms));
        let side = if m.met { "below" } else { "above" };
        let margin = m.margin.map_or_else(|| NONE.to_owned(), |share| percent(share.abs()));
        let most = limit(m.limit_ms);
        let text = format!("  {name} {value} at capacity, {margin} {side} the limit of {most}");
        s.say(&text, 4, Some(look));
    }
    if let Some(a) = &best.attained {
        let (met, word) = if a.met { (Look::Good, "held") } else { (Look::Bad, "missed") };
        s.say(&format!("  all targets: {}: {word}", tuner::result::attained(a)), 4, Some(met));
    }
    let p99 = SHOWN.map(|m| format!("{} {}", m.label(), opt_ms(best.p99.get(m))));
    let cost = best
        .usd_per_million_tokens
        .map_or_else(String::new, |c| format!(", {} per million", usd(c)));
    s.say(
        &format!(
            "  p99 {}; {} output tokens/s per GPU{cost}",
            p99.join(", "),
            sig(best.tokens_per_s_per_gpu, 3)
        ),
        4,
        None,
    );
    for said in sentences::trust(r).into_iter().chain(sentences::ties(r)) {
        s.gap();
        s.say(&said, 0, None);
    }
}

/// The command of the most faithful system, and what vLLM lacks where that is another.
fn paste(s: &mut Screen, report: &TuneReport) {
    let Some(first) = report.exports.first() else { return };
    s.gap();
    s.say(&format!("To run it with {}:", first.name), 0, Some(Look::Bold));
    let asked = report.result.engine.is_some();
    let others = report.exports.iter().skip(1).filter(|e| e.name == "vLLM" && !asked);
    for line in exports::packed(&first.text, s.columns() - 2) {
        s.verbatim(&format!("  {line}"));
    }
    for export in std::iter::once(first).chain(others) {
        let Some(caveat) = exports::caveat(report, export) else { continue };
        let more = if caveat.command.is_some() { " To tune for what it can do:" } else { "" };
        s.say(&format!("! {}{more}", caveat.text), 2, Some(Look::Bad));
        if let Some(command) = caveat.command {
            for line in exports::packed(&command.replace(" --", " \\\n  --"), s.columns() - 4) {
                s.verbatim(&format!("    {line}"));
            }
        }
    }
}

/// The best that each engine can be told, and a queue in another order.
fn beside(s: &mut Screen, r: &TuneResult) {
    if !r.engines.is_empty() {
        s.gap();
        s.say(
            "The best that each engine can be told, in requests/s (commands are in the report):",
            0,
            None,
        );
        for [engine, rps, label] in engines::rows(r) {
            s.say(&format!("  {engine} {rps}: {label}"), 4, None);
        }
    }
    if let Some(said) = engines::reordered(r) {
        s.gap();
        s.say(&said, 0, None);
    }
}

fn warnings(s: &mut Screen, r: &TuneResult) {
    if r.warnings.is_empty() && !r.interrupted {
        return;
    }
    s.gap();
    for w in &r.warnings {
        s.say(&format!("! {}", capitalised(w)), 2, Some(Look::Bad));
    }
    if r.interrupted {
        s.say("! Interrupted: the best of what had been tried", 2, Some(Look::Bad));
    }
}

fn nowhere(s: &mut Screen, why: Option<&Infeasible>) {
    let Some(why) = why else { return };
    s.say(&sentences::nowhere(why), 0, Some(Look::Bad));
    if let Some(slo) = sentences::holdable(why) {
        s.say(&format!("Some rate can be held with {slo}"), 0, None);
    }
}

fn policies(s: &mut Screen, r: &TuneResult) {
    if r.baselines.iter().all(|b| b.best.is_none()) {
        return;
    }
    s.gap();
    let several = r.baselines.iter().any(|b| b.device != r.device);
    let mixed = tuning::mixes_gpus(r);
    let row = |b: &tuner::result::Baseline| {
        let name = if several { format!("{} on {}", b.policy, b.device) } else { b.policy.clone() };
        let mut cells = vec![name];
        match &b.best {
            Some(o) => {
                cells.push(rate(o.capacity_rps));
                if mixed {
                    cells.extend([o.gpus.to_string(), rate(o.capacity_rps / f64::from(o.gpus))]);
                }
                cells.extend(p99s(&o.p99));
                cells.extend([
                    sig(o.tokens_per_s_per_gpu, 3),
                    percent(o.kv.waste_percent() / 100.0),
                    o.config.get("max-seqs").cloned().unwrap_or_default(),
                    o.config.get("max-batch-tokens").cloned().unwrap_or_default(),
                ]);
            }
            None => {
                cells.push("infeasible".to_owned());
                cells.extend(std::iter::repeat_n(
                    NONE.to_owned(),
                    4 + P99S.len() + if mixed { 2 } else { 0 },
                ));
            }
        }
        cells
    };
    let rows: Vec<Vec<String>> = r.baselines.iter().map(row).collect();
    let is_best = |b: &tuner::result::Baseline| match (&b.best, &r.best) {
        (Some(o), Some(best)) => o.config == best.config && o.device == best.device,
        _ => false,
    };
    let mut head = vec!["best of policy", "req/s"];
    if mixed {
        head.extend(["GPUs", "req/s/GPU"]);
    }
    head.extend(P99S);
    head.extend(["tok/s/GPU", "KV waste", "seqs", "budget"]);
    s.table(&head, &rows, r.baselines.iter().position(is_best));
}

/// The reasons why others lost: on the winner's device all of them, elsewhere the one that held most.
fn why(s: &mut Screen, r: &TuneResult) {
    let mut told: Vec<&Loser> = r.losers.iter().filter(|l| l.device == r.device).collect();
    let others: BTreeSet<&str> =
        r.losers.iter().map(|l| l.device.as_str()).filter(|d| *d != r.device).collect();
    for device in others {
        let there = r.losers.iter().filter(|l| l.device == device);
        let each = |l: &Loser| l.capacity_rps / f64::from(l.gpus);
        told.extend(there.max_by(|a, b| each(a).total_cmp(&each(b))));
    }
    if told.is_empty() {
        return;
    }
    s.gap();
    for l in told {
        s.say(&format!("  {}", loss(l, r)), 6, None);
    }
}

fn loss(l: &Loser, r: &TuneResult) -> String {
    let who = if l.device == r.device {
        l.policy.clone()
    } else {
        format!("{} on {}", l.policy, l.device)
    };
    let confirmed = l.checked.iter().find(|a| a.confirmed && Some(&a.cause) == l.cause.as_ref());
    match (&l.cause, confirmed) {
        (Some(cause), Some(a)) => format!(
            "{who} lost by {cause}: {} lifts {} to {} requests/s",
            a.relaxed,
            rate(a.before_rps),
            rate(a.after_rps)
        ),
        (Some(cause), None) => format!("{who} lost by {cause}"),
        (None, _) => format!("{who}: unexplained; broke first: {}", l.broke),
    }
}
