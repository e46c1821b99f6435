//! The page of `knee tune`: the answer first, then what to doubt, then what speaks for it.

use crate::charts;
use crate::figures::{NONE, count, ms, opt_ms, percent, rate, sig, usd};
use crate::latency::{self, At, Curve};
use crate::over_time;
use crate::page::{self, Origin, Page, Row, Section, cell, code, pairs, table, tile};
use crate::plot::Ink;
use crate::report::{About, Detail, Export, TuneReport};
use crate::{policies, tradeoffs};
use maud::{Markup, html};
use std::collections::BTreeMap;
use tuner::compare::PolicyResult;
use tuner::export;
use tuner::result::{Baseline, Infeasible, Objective, Operating, TuneResult};

impl TuneReport {
    /// The report of a result: exports are derived from it. `policies` (at equal rates) may be empty, `detail` is the
    /// winner's run at its capacity.
    #[must_use]
    pub fn new(
        about: About,
        result: TuneResult,
        policies: Vec<PolicyResult>,
        detail: Option<Detail>,
    ) -> Self {
        // A winner whose knobs this version does not know cannot be exported: it is shown without.
        let found = result.best.as_ref().and_then(|best| export::Found::of(&result, best).ok());
        let export = |t: export::Target| {
            Some(Export { name: called(t).to_owned(), text: t.render(found.as_ref()?) })
        };
        let exports = export::Target::ALL.into_iter().filter_map(export).collect();
        Self { about, result, exports, policies, detail }
    }
}

/// What people call a serving system.
fn called(target: export::Target) -> &'static str {
    match target {
        export::Target::Vllm => "vLLM",
        export::Target::Sglang => "SGLang",
        export::Target::Trtllm => "TensorRT-LLM",
        export::Target::Kserve => "KServe",
        export::Target::Llmd => "llm-d",
    }
}

/// The page.
#[must_use]
pub fn tune_page(report: &TuneReport) -> String {
    let r = &report.result;
    let mut sections = vec![Section::new("answer", "", answer(report))];
    sections.push(Section::new("latency", "Latency against rate", latency_curves(r)));
    sections.push(Section::new("pareto", "What it trades", tradeoffs::pareto(r)));
    sections.push(Section::new("policies", "Policies compared", compared(report)));
    sections.push(Section::new("kv", "KV memory", memory(report)));
    if let Some(detail) = &report.detail {
        sections.push(Section::new("timeline", "Iterations", timeline(detail)));
    }
    sections.push(Section::new("sensitivity", "If one knob moves", tradeoffs::sensitivity(r)));
    sections.push(Section::new("losers", "Why the others lost", losers(r)));
    sections.push(Section::new("plan", "Capacity plan", plan(r)));
    sections.push(provenance(report));
    Page {
        title: format!("knee: {} on {}", r.model, r.device),
        headline: headline(r),
        simulated: r.simulated,
        facts: vec![
            r.model.clone(),
            r.device.clone(),
            format!("workload {}", r.workload.name),
            page::slo_text(&r.slo),
        ],
        sections,
        version: &r.version,
    }
    .render()
}

/// The answer in one sentence.
pub(crate) fn headline(r: &TuneResult) -> String {
    let gpus =
        |n: u32| if n == 1 { format!("one {}", r.device) } else { format!("{n} {}", r.device) };
    match &r.best {
        Some(b) => format!(
            "{} carries {} requests/s of {} with {}.",
            capitalised(&gpus(b.gpus)),
            rate(b.capacity_rps),
            r.workload.name,
            page::slo_text(&r.slo)
        ),
        None => format!("Nothing tried on {} holds {}.", r.device, page::slo_text(&r.slo)),
    }
}

fn capitalised(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |c| c.to_uppercase().chain(chars).collect())
}

/// The configuration as a sentence.
pub(crate) fn sentence(b: &Operating) -> String {
    let knob = |name: &str| b.config.get(name).map_or("?", String::as_str);
    let allocator = match (knob("allocator"), knob("prefix-cache")) {
        ("paged", "on") => {
            format!("paged KV in blocks of {} with prefix cache", knob("block-size"))
        }
        ("paged", _) => format!("paged KV in blocks of {}", knob("block-size")),
        (other, _) => format!("{other} KV reserved by {}", knob("reserve")),
    };
    let mut layout = Vec::new();
    for (name, text) in
        [("tp", "tensor-parallel"), ("pp", "pipeline stages"), ("replicas", "replicas")]
    {
        if knob(name) != "1" && knob(name) != "?" {
            layout.push(format!("{text} {}", knob(name)));
        }
    }
    let layout = if layout.is_empty() { String::new() } else { format!(", {}", layout.join(", ")) };
    format!(
        "Use the {} policy: {} scheduling, at most {} sequences and {} tokens per iteration, {allocator}{layout}.",
        b.policy,
        knob("scheduler"),
        knob("max-seqs"),
        knob("max-batch-tokens")
    )
}

fn answer(report: &TuneReport) -> Markup {
    let r = &report.result;
    html! {
        @match &r.best {
            Some(b) => {
                p.lead { (sentence(b)) }
                (tiles(r, b))
                (margins(b))
                (warnings(r))
                (exports(&report.exports))
                details { summary { "Every knob" } (knobs(&b.config)) }
            }
            None => { (infeasible(r.infeasible.as_ref())) (warnings(r)) }
        }
    }
}

fn tiles(r: &TuneResult, b: &Operating) -> Markup {
    let none = || html! {};
    let per_user = b.tokens_per_s_per_user;
    html! {
        div.tiles {
            (tile(true, &rate(b.capacity_rps), "capacity, requests/s", &html! { (sig(b.goodput_rps, 3)) " meet every target" }))
            (tile(false, &opt_ms(b.ttft_p99_ms), "p99 TTFT", &none()))
            (tile(false, &opt_ms(b.itl_p99_ms), "p99 ITL", &html! { "p99 TPOT " (opt_ms(b.tpot_p99_ms)) }))
            (tile(false, &sig(b.tokens_per_s_per_gpu, 3), "output tokens/s per GPU", &html! {
                @if let Some(user) = per_user { (sig(user, 3)) " tokens/s per user" }
            }))
            @if let Some(cost) = b.usd_per_million_tokens {
                (tile(false, &usd(cost), "per million output tokens", &html! {
                    @if let Some(hour) = b.usd_per_hour { (usd(hour)) " per hour, " } (b.gpus) " GPU" @if b.gpus != 1 { "s" }
                }))
            }
        }
        @if r.objective != Objective::Rps {
            p.quiet { "Chosen for " @if r.objective == Objective::Cost { "cost per token" } @else { "tokens/s per GPU" } ", not for requests/s." }
        }
    }
}

fn margins(b: &Operating) -> Markup {
    let row = |m: &tuner::result::Margin| {
        let left = match m.margin {
            Some(share) if share >= 0.0 => format!("{} of the limit left", percent(share)),
            Some(share) => format!("{} beyond the limit", percent(-share)),
            None => NONE.to_owned(),
        };
        let verdict = if m.met {
            html! { span.met { "held" } }
        } else {
            html! { span.missed { "missed" } }
        };
        (
            vec![
                code(&m.target),
                cell(opt_ms(m.value_ms)),
                cell(ms(m.limit_ms)),
                cell(left),
                verdict,
            ],
            "",
        )
    };
    let rows: Vec<Row> = b.margins.iter().map(row).collect();
    let columns =
        [("target", false), ("at capacity", true), ("limit", true), ("margin", true), ("", false)];
    html! { @if !rows.is_empty() { (page::fitted(&columns, &rows)) } }
}

fn exports(exports: &[Export]) -> Markup {
    let Some((first, rest)) = exports.split_first() else { return html! {} };
    html! {
        h3 { "To run it with " (first.name) }
        pre { code { (first.text) } }
        @if !rest.is_empty() {
            details {
                summary { "The same for " (rest.iter().map(|e| e.name.as_str()).collect::<Vec<_>>().join(", ")) }
                @for e in rest { h3 { (e.name) } pre { code { (e.text) } } }
            }
        }
    }
}

fn warnings(r: &TuneResult) -> Markup {
    let mut all = r.warnings.clone();
    if r.interrupted {
        all.push("The search was interrupted: this is the best of what it had tried.".to_owned());
    }
    page::warnings(&all)
}

fn knobs(config: &BTreeMap<String, String>) -> Markup {
    let rows = config.iter().map(|(k, v)| (k.clone(), code(v)));
    pairs(rows)
}

fn infeasible(why: Option<&Infeasible>) -> Markup {
    let Some(why) = why else { return html! { p.lead { "No configuration was found." } } };
    let reached = |m: &tuner::result::Margin| {
        (
            vec![
                code(&m.target),
                cell(&m.measured),
                cell(opt_ms(m.value_ms)),
                cell(ms(m.limit_ms)),
            ],
            "",
        )
    };
    let rows: Vec<Row> = why.reaches.iter().map(reached).collect();
    html! {
        p.lead { (why.reason) }
        @if let Some(nearest) = &why.nearest {
            p { "Nearest, on an empty machine: " (code(nearest)) ". Targets of the values it reaches can be held at some rate:" }
            (table(&[("target", false), ("measured", false), ("reaches", true), ("limit", true)], &rows))
        }
    }
}

/// The winner first, then the best of each policy on the winner's device that is another configuration.
fn shown(r: &TuneResult) -> Vec<(&Operating, Ink, bool)> {
    let own: Vec<&Operating> = r
        .baselines
        .iter()
        .filter(|b| b.device == r.device)
        .filter_map(|b| b.best.as_ref())
        .filter(|o| r.best.as_ref().is_none_or(|b| b.config != o.config || b.device != o.device))
        .collect();
    let others = own.into_iter().enumerate().map(|(i, o)| (o, Ink::policy(&o.policy, i), false));
    r.best.iter().map(|b| (b, Ink::policy(&b.policy, 0), true)).chain(others).collect()
}

fn curve((o, ink, chosen): (&Operating, Ink, bool)) -> Curve {
    let at = |p: &tuner::result::CurvePoint| At {
        rate: p.rate_rps,
        latencies: [p.ttft_ms, p.tpot_ms, p.itl_ms],
    };
    Curve {
        name: if chosen { format!("{} (best)", o.policy) } else { o.policy.clone() },
        ink,
        chosen,
        knee: Some(o.capacity_rps),
        points: o.curve.iter().map(at).collect(),
    }
}

fn latency_curves(r: &TuneResult) -> Markup {
    let curves: Vec<Curve> = shown(r).into_iter().map(curve).collect();
    if curves.is_empty() {
        return html! {};
    }
    html! {
        p { "Each policy at its best configuration, on the whole trace replayed faster and faster. The ringed dot is a knee: "
            "the highest rate up to which every rate tried holds the targets and could go on for ever." }
        (page::charts(&latency::charts(&curves, &page::targets(&r.slo)), ""))
    }
}

fn compared(report: &TuneReport) -> Markup {
    let r = &report.result;
    if r.baselines.is_empty() && report.policies.is_empty() {
        return html! {};
    }
    let best = r.best.as_ref();
    html! {
        p { "Each policy at the best configuration found for it, under the same targets." }
        (table(
            &[("policy", false), ("device", false), ("capacity, req/s", true), ("of the best", true), ("p99 TTFT", true),
              ("p99 TPOT", true), ("p99 ITL", true), ("tokens/s/GPU", true), ("KV waste", true), ("max-seqs", true), ("budget", true)],
            &r.baselines.iter().map(|b| baseline(b, best)).collect::<Vec<_>>(),
        ))
        @if !report.policies.is_empty() {
            h3 { "At equal rates" }
            (policies::at_equal_rates(&report.policies))
        }
    }
}

fn baseline(b: &Baseline, best: Option<&Operating>) -> Row {
    let Some(o) = &b.best else {
        let why = b
            .infeasible
            .as_ref()
            .map_or("does not hold the targets at any rate", |i| i.reason.as_str());
        let mut cells =
            vec![cell(&b.policy), cell(&b.device), html! { span.missed { "infeasible" } }];
        cells.push(html! { span title=(why) { (NONE) } });
        cells.extend((0..7).map(|_| cell(NONE)));
        return (cells, "off");
    };
    let share =
        best.map_or_else(|| NONE.to_owned(), |best| percent(o.capacity_rps / best.capacity_rps));
    let knob = |name: &str| o.config.get(name).map_or(NONE, String::as_str);
    let cells = vec![
        cell(&b.policy),
        cell(&b.device),
        cell(rate(o.capacity_rps)),
        cell(share),
        cell(opt_ms(o.ttft_p99_ms)),
        cell(opt_ms(o.tpot_p99_ms)),
        cell(opt_ms(o.itl_p99_ms)),
        cell(sig(o.tokens_per_s_per_gpu, 3)),
        cell(percent(o.kv.waste_percent() / 100.0)),
        code(knob("max-seqs")),
        code(knob("max-batch-tokens")),
    ];
    let chosen = best.is_some_and(|w| w.config == o.config && w.device == o.device);
    (cells, if chosen { "chosen" } else { "" })
}

fn memory(report: &TuneReport) -> Markup {
    let r = &report.result;
    let Some(best) = &r.best else { return html! {} };
    let rows: Vec<Row> = shown(r)
        .into_iter()
        .map(|(o, _, chosen)| {
            let mut cells =
                vec![cell(if chosen { format!("{} (best)", o.policy) } else { o.policy.clone() })];
            cells.extend(charts::classes(&o.kv).iter().map(|c| cell(percent(c.1))));
            cells.push(cell(percent(o.kv.waste_percent() / 100.0)));
            (cells, if chosen { "chosen" } else { "" })
        })
        .collect();
    let mut columns = vec![("at capacity, share of all slots", false)];
    columns.extend(charts::classes(&best.kv).map(|c| (c.0, true)));
    columns.push(("wasted of taken", true));
    html! {
        @if let Some(detail) = report.detail.as_ref().filter(|d| d.kv.len() > 1) {
            (page::charts(&[over_time::ledger(&detail.kv, &best.kv)], "one"))
        }
        (table(&columns, &rows))
    }
}

fn timeline(detail: &Detail) -> Markup {
    let lanes = over_time::timeline(&detail.window);
    html! {
        @if !lanes.is_empty() {
            (page::key(over_time::phases()))
            (page::charts(&lanes, "one"))
        }
    }
}

fn losers(r: &TuneResult) -> Markup {
    if r.losers.is_empty() {
        return html! {};
    }
    let mut rows: Vec<Row> = Vec::new();
    for l in &r.losers {
        let head = html! { b { (l.policy) } br; span.quiet { (l.label) } };
        let held = html! { (rate(l.capacity_rps)) " of " (rate(l.winner_rps)) };
        let cause = html! { @match &l.cause { Some(c) => { b { (c) } } None => { "unexplained" } } br; span.quiet { "broke first: " (l.broke) } };
        let checks = html! {
            @for a in &l.checked {
                div class=[(!a.confirmed).then_some("quiet")] {
                    (a.relaxed.replace(" -> ", " to ")) ": " (rate(a.before_rps)) " → " (rate(a.after_rps))
                    @if a.confirmed { span.met { " confirmed" } } @else { " no rise" }
                    " " span.quiet { "(suspected: " (a.evidence) ")" }
                }
            }
        };
        rows.push((vec![head, held, cause, checks], ""));
    }
    let head = r.losers.first().map_or(0, |l| l.head);
    html! {
        p { "A cause counts only if taking it away makes capacity rise by at least 3 %. Capacities here are on the first "
            (count(head as u64)) " requests, in requests/s." }
        (table(&[("best of", false), ("holds", true), ("lost by", false), ("checked by taking it away", false)], &rows))
    }
}

fn plan(r: &TuneResult) -> Markup {
    if r.plans.is_empty() {
        return html! {};
    }
    let row = |p: &tuner::plan::Plan| {
        (
            vec![
                cell(&p.device),
                cell(rate(p.demand_rps)),
                cell(count(p.deployments.into())),
                cell(count(p.gpus.into())),
                cell(rate(p.capacity_rps)),
                cell(percent(p.free)),
                cell(p.usd_per_hour.map_or(NONE.to_owned(), usd)),
                cell(p.usd_per_million_tokens.map_or(NONE.to_owned(), usd)),
            ],
            "",
        )
    };
    let cheapest = r
        .plans
        .iter()
        .filter(|p| p.usd_per_hour.is_some())
        .min_by(|a, b| a.usd_per_hour.unwrap_or(0.0).total_cmp(&b.usd_per_hour.unwrap_or(0.0)));
    html! {
        @if let Some(p) = cheapest {
            p { "For " (rate(p.demand_rps)) " requests/s with " (percent(p.headroom)) " headroom, " (count(p.gpus.into()))
                " × " (p.device) " at " (usd(p.usd_per_hour.unwrap_or(0.0))) " per hour"
                @if r.plans.len() > 1 { " is cheapest" } "." }
        }
        (table(
            &[("device", false), ("demand, req/s", true), ("replicas", true), ("GPUs", true), ("capacity, req/s", true),
              ("free", true), ("per hour", true), ("per million tokens", true)],
            &r.plans.iter().map(row).collect::<Vec<_>>(),
        ))
    }
}

fn provenance(report: &TuneReport) -> Section {
    let r = &report.result;
    let refused: usize = r.refused.iter().map(|x| x.count).sum();
    let search = html! {
        (count(r.candidates as u64)) " configurations, " (count(r.trials)) " runs, "
        (count(r.simulated_requests)) " requests; " (count(refused as u64)) " combinations refused without a run"
        @for line in &r.space { br; span.quiet { (line) } }
    };
    page::provenance(
        &Origin {
            about: &report.about,
            version: &r.version,
            simulated: r.simulated,
            seed: r.seed,
            workload: &r.workload,
            model: &r.model,
            devices: r.devices.iter().collect(),
            slo: &r.slo,
            wall_s: r.wall_s,
            cpu_s: r.cpu_s,
            host: &r.host,
        },
        vec![("Search".to_owned(), search)],
    )
}
