//! The page of `knee tune` and `knee plan`: the answer first, then what to doubt, then what speaks for it.

use crate::charts;
use crate::contest::Terms;
use crate::figures::{NONE, P99S, count, p99s, percent, rate, sig};
use crate::latency::{self, At, Curve};
use crate::page::{self, Origin, Page, Row, Section, Times, cell, code, table, whole};
use crate::plot::Ink;
use crate::report::{About, Detail, TuneReport};
use crate::sentences::{self, slo_text};
use crate::{contest, exports, losers, over_time, planned, policies, tradeoffs, what_if, winner};
use maud::{Markup, html};
use tuner::compare::PolicyResult;
use tuner::result::{Answer, Baseline, Operating, TuneResult};

impl TuneReport {
    /// The report of a result: exports are derived from it. `measured` is the real engine's answer, where one was asked;
    /// `policies` (at equal rates) may be empty, `detail` is the winner's run at its capacity.
    #[must_use]
    pub fn new(
        about: About,
        result: TuneResult,
        measured: Option<Answer>,
        policies: Vec<PolicyResult>,
        detail: Option<Detail>,
    ) -> Self {
        let exports = exports::of(&result);
        Self { about, result, measured, exports, policies, detail }
    }
}

/// The page.
#[must_use]
pub fn tune_page(report: &TuneReport) -> String {
    let r = &report.result;
    let mut sections = Vec::new();
    let decided = report.measured.as_ref();
    if let Some(answer) = decided {
        sections.push(Section::new("measured", "", measured(answer)));
    }
    let simulated = if decided.is_some() { "By simulation" } else { "" };
    sections.push(Section::new("answer", simulated, winner::winner(report)));
    sections.push(Section::new(page::SCRIPTED, "What if", what_if::panel(r)));
    sections.push(Section::new("latency", "Latency against rate", latency_curves(r)));
    sections.push(Section::new("pareto", "What it trades", tradeoffs::pareto(r)));
    sections.push(Section::new("policies", "Policies compared", compared(report)));
    sections.push(Section::new("kv", "KV memory", memory(report)));
    if let Some(detail) = &report.detail {
        sections.push(Section::new("timeline", "Iterations", over_time::iterations(detail)));
    }
    sections.push(Section::new("sensitivity", "If one knob moves", tradeoffs::sensitivity(r)));
    sections.push(Section::new("losers", "Why the others lost", losers::losers(r)));
    sections.push(provenance(report));
    Page {
        title: format!("knee: {} on {}", r.model, r.device),
        headline: headline(report),
        times: if decided.is_some() { Times::Both } else { Times::of(r.simulated) },
        facts: vec![
            r.model.clone(),
            r.device.clone(),
            format!("workload {}", r.workload.name),
            slo_text(r),
        ],
        sections,
        version: &r.version,
    }
    .render()
}

/// The real engine's answer.
fn measured(answer: &Answer) -> Markup {
    html! {
        (contest::section(answer))
        p { "Everything else on this page is simulated." }
    }
}

/// The answer in one sentence; that of a search that was interrupted is unfinished.
pub(crate) fn headline(report: &TuneReport) -> String {
    let said = answer(report);
    if report.result.interrupted && report.measured.is_none() {
        format!("Unfinished search: {said}")
    } else {
        said
    }
}

fn answer(report: &TuneReport) -> String {
    let (r, slo) = (&report.result, slo_text(&report.result));
    if let Some(answer) = &report.measured {
        let terms = Terms { unit: r.workload.unit(), workload: &r.workload.name, slo };
        return contest::headline(answer, &terms);
    }
    if let Some(first) = planned::headline(r) {
        return first;
    }
    match &r.best {
        Some(b) => {
            let carry = if b.gpus == 1 {
                format!("One {} carries", b.device)
            } else {
                format!("{} × {} carry", b.gpus, b.device)
            };
            let likely = r.confidence.as_ref().map_or_else(String::new, |c| {
                format!(" (likely {} to {})", rate(c.low_rps), rate(c.high_rps))
            });
            format!(
                "{carry} {} {}{likely} of {} with {slo}.",
                rate(b.capacity_rps),
                r.workload.unit(),
                r.workload.name
            )
        }
        None => format!("Nothing tried on {} holds {slo}.", devices(r)),
    }
}

fn devices(r: &TuneResult) -> String {
    let names: Vec<&str> = r.devices.iter().map(|d| d.name.as_str()).collect();
    if names.is_empty() { r.device.clone() } else { crate::figures::listed(&names) }
}

/// True if the best of policies take different numbers of GPUs, so that only rates per GPU compare.
pub(crate) fn mixes_gpus(r: &TuneResult) -> bool {
    let bests = || r.baselines.iter().filter_map(|b| b.best.as_ref()).chain(&r.best);
    bests().any(|o| bests().any(|p| p.gpus != o.gpus))
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

/// `gpus` says how many GPUs each takes, where they differ.
fn curve((o, ink, chosen): (&Operating, Ink, bool), gpus: bool) -> Curve {
    let at =
        |p: &tuner::result::CurvePoint| At { rate: p.rate_rps, latencies: p.latencies.clone() };
    Curve {
        name: match (chosen, gpus) {
            (true, false) => format!("{} (best)", o.policy),
            (true, true) => format!("{} (best, {} GPUs)", o.policy, o.gpus),
            (false, true) => format!("{} ({} GPUs)", o.policy, o.gpus),
            (false, false) => o.policy.clone(),
        },
        ink,
        chosen,
        knee: Some(o.capacity_rps),
        points: o.curve.iter().map(at).collect(),
    }
}

/// The rates between which the winner's capacity lies with eight chances in ten.
fn likely(r: &TuneResult) -> Option<(f64, f64)> {
    r.confidence.as_ref().map(|c| (c.low_rps, c.high_rps)).filter(|_| r.best.is_some())
}

fn latency_curves(r: &TuneResult) -> Markup {
    let curves: Vec<Curve> = {
        let gpus = mixes_gpus(r);
        shown(r).into_iter().map(|one| curve(one, gpus)).collect()
    };
    if curves.is_empty() {
        return html! {};
    }
    html! {
        p { "Each policy at its best configuration, on the whole trace replayed faster and faster. The ringed dot is a knee: "
            "the highest rate up to which every rate tried holds the targets and could go on for ever."
            @if likely(r).is_some() { " The chosen one's knee is within the shaded rates with 8 chances in 10." } }
        (page::charts(&latency::charts(&curves, &page::targets(&r.slo), likely(r)), ""))
    }
}

fn compared(report: &TuneReport) -> Markup {
    let r = &report.result;
    if r.baselines.is_empty() && report.policies.is_empty() {
        return html! {};
    }
    let best = r.best.as_ref();
    let numbers =
        |names: &[&'static str]| names.iter().map(|name| (*name, true)).collect::<Vec<_>>();
    let columns = [
        vec![("policy", false), ("device", false)],
        numbers(&["capacity, req/s", "GPUs", "req/s per GPU", "of the chosen's"]),
        numbers(&P99S),
        numbers(&["tokens/s/GPU", "KV waste", "max-seqs", "budget"]),
    ]
    .concat();
    html! {
        @if r.baselines.iter().any(|b| b.best.is_some()) {
            p { "Each policy at the best configuration found for it, under the same targets; compared per GPU." }
            (table(&columns, &r.baselines.iter().map(|b| baseline(b, best)).collect::<Vec<_>>()))
        }
        (infeasible(r))
        @if !report.policies.is_empty() {
            h3 { "At equal rates" }
            (policies::at_equal_rates(&report.policies))
        }
    }
}

/// The nearest misses of policies that hold nowhere.
fn infeasible(r: &TuneResult) -> Markup {
    let row = |b: &Baseline| {
        let why = b.infeasible.as_ref()?;
        let nearest = why.nearest.as_deref().unwrap_or(NONE);
        let cells =
            vec![cell(&b.policy), whole(&b.device), code(nearest), cell(sentences::at_best(why))];
        Some((cells, ""))
    };
    let rows: Vec<Row> = r.baselines.iter().filter_map(row).collect();
    let columns = [
        ("infeasible", false),
        ("device", false),
        ("nearest", false),
        ("on an empty machine", false),
    ];
    html! { @if !rows.is_empty() { (table(&columns, &rows)) } }
}

fn baseline(b: &Baseline, best: Option<&Operating>) -> Row {
    let Some(o) = &b.best else {
        let mut cells = vec![cell(&b.policy), whole(&b.device)];
        cells.push(html! { span.missed { "infeasible" } });
        cells.extend((0..7 + P99S.len()).map(|_| cell(NONE)));
        return (cells, "off");
    };
    let each = |o: &Operating| o.capacity_rps / f64::from(o.gpus);
    let share = best.map_or_else(|| NONE.to_owned(), |best| percent(each(o) / each(best)));
    let knob = |name: &str| o.config.get(name).map_or(NONE, String::as_str);
    let mut cells = vec![
        cell(&b.policy),
        whole(&b.device),
        cell(rate(o.capacity_rps)),
        cell(o.gpus.to_string()),
        cell(rate(each(o))),
        cell(share),
    ];
    cells.extend(p99s(&o.p99).map(cell));
    cells.extend([
        cell(sig(o.tokens_per_s_per_gpu, 3)),
        cell(percent(o.kv.waste_percent() / 100.0)),
        code(knob("max-seqs")),
        code(knob("max-batch-tokens")),
    ]);
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
        @if let Some(detail) = &report.detail { (over_time::memory(detail, &best.kv)) }
        (table(&columns, &rows))
    }
}

fn provenance(report: &TuneReport) -> Section {
    let r = &report.result;
    let refused = r.refused.iter().map(|x| x.count).fold(0, usize::saturating_add);
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
            notes: &r.notes,
            devices: r.devices.iter().collect(),
            slo: slo_text(r),
            wall_s: r.wall_s,
            cpu_s: r.cpu_s,
            host: &r.host,
        },
        vec![("Search".to_owned(), search)],
    )
}
