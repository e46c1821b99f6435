//! The capacity plan: the GPUs that carry the demand on each device, their cost, and the cheapest of them.

use crate::figures::{NONE, capitalised, count, month, percent, rate, short, usd};
use crate::page::{Row, cell, table, whole};
use crate::sentences::{self, slo_text};
use maud::{Markup, html};
use tuner::plan::{Plan, Rule};
use tuner::result::{Infeasible, TuneResult};
use tuner::subject::unfit::Unfit;

/// The plan of the winner's device, which was chosen.
pub(crate) fn chosen(r: &TuneResult) -> Option<&Plan> {
    r.plans.iter().find(|p| p.device == r.device)
}

fn is_chosen(r: &TuneResult, plan: &Plan) -> bool {
    chosen(r).is_some_and(|c| c.device == plan.device)
}

/// The rule that decided for the plan chosen, and whether any other serves all requests, in words; none where nothing
/// else was found.
pub(crate) fn rule(r: &TuneResult) -> Option<String> {
    let (own, why) = (chosen(r)?, r.chosen.as_ref()?);
    let next = &why.instead_of;
    let gpus = |p: &Plan| match p.gpus {
        1 => format!("1 {}", p.device),
        n => format!("{} × {}", count(n.into()), p.device),
    };
    let bill =
        |p: &Plan| p.usd_per_hour.map_or(String::new(), |c| format!(" for {} per hour", usd(c)));
    let other = format!("{} ({}){}", gpus(next), next.label, bill(next));
    let decided = match why.rule {
        Rule::ServesMore => format!(
            "Chosen because it serves more of the requests: of the next best of all deployments found, {other}, {}.",
            next.unfit.short()
        ),
        Rule::LeastCost => format!(
            "Chosen because it costs the least: the next best of all deployments found is {other}."
        ),
        Rule::FewerGpus => format!(
            "Chosen for its fewer GPUs: the next best of all deployments found, {other}, costs the same."
        ),
        Rule::FoundFirst => format!(
            "The next best of all deployments found, {other}, is equal: it costs the same, on as many GPUs, with as much of \
             its capacity free. This one was found first."
        ),
        Rule::LargerMargin => format!(
            "Chosen for its larger margin, {} of its capacity free: the next best of all deployments found, {other}, costs \
             the same and has {}.",
            percent(own.free),
            percent(next.free)
        ),
    };
    let none = if own.unfit.any() { " No deployment found serves all requests." } else { "" };
    Some(decided + none)
}

/// The winner beside its plan: the heading of what follows.
pub(crate) fn heading(r: &TuneResult) -> String {
    let Some(plan) = chosen(r) else { return String::new() };
    match plan.simulated_replicas {
        1 if plan.deployments > 1 => format!("One of the replicas on {}", r.device),
        n if n < plan.deployments => {
            format!("{n} of the replicas on {}, simulated together", r.device)
        }
        1 => format!("The replica on {}", r.device),
        n => format!("The {n} replicas on {} together", r.device),
    }
}

/// The GPUs that carry the demand, in one sentence; none where no demand was given.
pub(crate) fn headline(r: &TuneResult) -> Option<String> {
    let plan = chosen(r).or(r.plans.first())?;
    let bills = likely_month(plan).map_or_else(String::new, |bills| format!(" (likely {bills})"));
    let cost = plan.usd_per_hour.map_or_else(String::new, |c| {
        format!(" for {} per hour, {} per month{bills}", usd(c), month(c))
    });
    let own = count(plan.gpus.into());
    let gpus = likely(plan).filter(|gpus| *gpus != own);
    let gpus = gpus.map_or_else(String::new, |gpus| format!(" (likely {gpus})"));
    let carry = if plan.gpus == 1 { "carries" } else { "carry" };
    Some(format!(
        "{own} × {}{gpus} {carry} {} {} of {} with {}{cost}.",
        plan.device,
        short(plan.demand_rps),
        r.workload.unit(),
        r.workload.name,
        slo_text(r)
    ))
}

/// The GPUs that are enough with fast iterations and with slow ones; none where that is not known.
fn likely(plan: &Plan) -> Option<String> {
    let (fast, slow) = (plan.if_fast?, plan.if_slow?);
    let fewest = fast.gpus.unwrap_or(plan.gpus).min(plan.gpus);
    Some(match slow.gpus.map(|most| most.max(plan.gpus)) {
        Some(most) if most == fewest => count(most.into()),
        Some(most) => format!("{} to {}", count(fewest.into()), count(most.into())),
        None => format!("{} or more", count(fewest.into())),
    })
}

/// The same in money per month.
fn likely_month(plan: &Plan) -> Option<String> {
    let own = plan.usd_per_hour?;
    let fewest = plan.if_fast?.usd_per_hour.unwrap_or(own).min(own);
    match plan.if_slow?.usd_per_hour.map(|most| most.max(own)) {
        Some(most) if most > fewest => Some(format!("{} to {}", month(fewest), month(most))),
        Some(_) => None,
        None => Some(format!("{} or more", month(fewest))),
    }
}

/// Requests that plans cannot serve however many GPUs they take, and why.
pub(crate) fn unfit(r: &TuneResult) -> Vec<String> {
    let short = r.plans.iter().filter(|p| p.unfit.any());
    short.map(|p| format!("on {} {}; they fail", p.device, p.unfit)).collect()
}

/// Devices without a plan, and why.
pub(crate) fn infeasible(r: &TuneResult) -> Vec<(&str, String)> {
    let planned = |device: &str| r.plans.iter().any(|p| p.device == device);
    let without = r.devices.iter().filter(|d| !planned(&d.name));
    without.map(|d| (d.name.as_str(), why_not(r, &d.name))).collect()
}

fn why_not(r: &TuneResult, device: &str) -> String {
    let here = r.baselines.iter().filter(|b| b.device == device);
    let beyond = |i: &&Infeasible| {
        let over = |m: &tuner::result::Margin| m.value_ms.unwrap_or(f64::INFINITY) / m.limit_ms;
        i.reaches.iter().map(over).fold(f64::NEG_INFINITY, f64::max)
    };
    let nearest = here.filter_map(|b| b.infeasible.as_ref()).min_by(|a, b| {
        a.reaches.is_empty().cmp(&b.reaches.is_empty()).then(beyond(a).total_cmp(&beyond(b)))
    });
    nearest.map_or_else(|| "nothing was tried".to_owned(), sentences::at_best)
}

/// The meaning of the column of likely GPUs, where any plan has them.
pub(crate) fn likely_means(r: &TuneResult) -> Option<&'static str> {
    r.plans.iter().any(|p| likely(p).is_some()).then_some(
        "Likely: the GPUs that are enough with iterations as fast, and as slow, as one real engine in ten has them.",
    )
}

/// Columns of the plan, on the page and in a terminal.
pub(crate) const COLUMNS: [(&str, bool); 9] = [
    ("device", false),
    ("replicas", true),
    ("GPUs", true),
    ("likely", true),
    ("$/hour", true),
    ("$/M output tokens", true),
    ("req/s", true),
    ("headroom", true),
    ("", false),
];

/// A plan under [`COLUMNS`].
pub(crate) fn cells(r: &TuneResult, p: &Plan) -> [String; 9] {
    [
        p.device.clone(),
        count(p.deployments.into()),
        count(p.gpus.into()),
        likely(p).unwrap_or_else(|| NONE.to_owned()),
        p.usd_per_hour.map_or(NONE.to_owned(), usd),
        p.usd_per_million_tokens.map_or(NONE.to_owned(), usd),
        rate(p.capacity_rps),
        percent(p.free),
        remarks(is_chosen(r, p), &p.unfit),
    ]
}

/// Remarks on a plan: that it was chosen, and the share of prompts that it does not serve.
fn remarks(chosen: bool, unfit: &Unfit) -> String {
    let refused = unfit.any().then(|| format!("{} do not fit", percent(unfit.share())));
    let chosen = chosen.then(|| "chosen".to_owned());
    chosen.into_iter().chain(refused).collect::<Vec<_>>().join("; ")
}

/// The plan of every device; nothing where no demand was given.
pub(crate) fn plans(r: &TuneResult) -> Markup {
    let Some(first) = r.plans.first() else { return html! {} };
    let mut columns = COLUMNS.to_vec();
    columns.push(("each replica", false));
    let mut rows: Vec<Row> = Vec::new();
    for p in &r.plans {
        let mut row: Vec<Markup> = cells(r, p).iter().map(cell).collect();
        row[0] = whole(&p.device);
        row[8] = html! { b.met[!p.unfit.any()].missed[p.unfit.any()] { (cells(r, p)[8]) } };
        row.push(html! { span.quiet.roomy { (p.label) @if p.unfit.any() { ": " (p.unfit) } } });
        rows.push((row, if is_chosen(r, p) { "chosen" } else { "" }));
    }
    for (device, why) in infeasible(r) {
        let mut row = vec![whole(device)];
        row.extend((0..7).map(|_| cell(NONE)));
        row.push(html! { span.missed { "infeasible" } });
        row.push(html! { span.quiet { (capitalised(&why)) } });
        rows.push((row, "off"));
    }
    html! {
        (table(&columns, &rows))
        @if let Some(rule) = rule(r) { p { (rule) } }
        p.quiet {
            "Replicas share one balancer, which sends each request to the one with the least to do: together they carry more than as \
             many times one alone. "
            "At least " (short(first.headroom * 100.0)) " % of capacity is kept free. Dollars per million output tokens are at the demand, not at capacity."
            @if let Some(means) = likely_means(r) { " " (means) }
        }
        (by_context(r))
    }
}

/// Columns of the plans by context.
pub(crate) const TIERS: [(&str, bool); 6] = [
    ("context at most", true),
    ("of the requests", true),
    ("device", false),
    ("GPUs", true),
    ("fewer", true),
    ("$/hour", true),
];

/// The chosen plan without a limit, then one for each limit of context, under [`TIERS`].
pub(crate) fn tiers(r: &TuneResult) -> Vec<[String; 6]> {
    if r.tiers.is_empty() {
        return Vec::new();
    }
    let whole = chosen(r);
    let row = |context: String, share: f64, plan: Option<&Plan>| {
        let fewer =
            whole.zip(plan).map(|(whole, plan)| i64::from(whole.gpus) - i64::from(plan.gpus));
        [
            context,
            percent(share),
            plan.map_or_else(|| "nothing holds".to_owned(), |p| p.device.clone()),
            plan.map_or_else(|| NONE.to_owned(), |p| count(p.gpus.into())),
            fewer.map_or_else(|| NONE.to_owned(), |n| n.to_string()),
            plan.and_then(|p| p.usd_per_hour).map_or_else(|| NONE.to_owned(), usd),
        ]
    };
    let mut rows = vec![row("any".to_owned(), 1.0, whole)];
    rows.extend(r.tiers.iter().map(|t| row(count(t.context.into()), t.share, t.plan.as_ref())));
    rows
}

/// The section of a page.
fn by_context(r: &TuneResult) -> Markup {
    let rows: Vec<Row> =
        tiers(r).iter().map(|cells| (cells.iter().map(cell).collect(), "")).collect();
    html! {
        @if !rows.is_empty() {
            h3 { "If longer requests were refused" }
            (table(&TIERS, &rows))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tuner::plan::AtPace;

    #[test]
    fn likely_gpus_and_bills_span_fast_and_slow_iterations() {
        let unit = tuner::plan::Unit {
            device: "x",
            label: "y",
            capacity_rps: 10.0,
            gpus: 1,
            replicas: 1,
            output_tokens_per_request: 1.0,
            price: Some(&tuner::plan::Price { usd_per_gpu_hour: 1.0, source: String::new() }),
        };
        let plan = tuner::plan::plan(&unit, 40.0, 0.0, |_| true).unwrap();
        let at = |gpus: Option<u32>| {
            Some(AtPace { capacity_rps: 0.0, gpus, usd_per_hour: gpus.map(f64::from) })
        };
        let told = |fast: u32, slow: Option<u32>| {
            let plan = Plan { if_fast: at(Some(fast)), if_slow: at(slow), ..plan.clone() };
            (likely(&plan).unwrap(), likely_month(&plan))
        };
        let both = |gpus: &str, bills: &str| (gpus.to_owned(), Some(bills.to_owned()));
        assert_eq!((likely(&plan), likely_month(&plan)), (None, None));
        assert_eq!(told(3, Some(6)), both("3 to 6", "$2,190 to $4,380"));
        assert_eq!(told(3, None), both("3 or more", "$2,190 or more"));
        assert_eq!(told(4, Some(4)), ("4".to_owned(), None));
        // Neither end excludes the plan itself.
        assert_eq!(told(5, Some(3)), ("4".to_owned(), None));
    }

    #[test]
    fn a_chosen_plan_that_refuses_prompts_says_both() {
        let unfit = Unfit { requests: 1, of: 50, ..Unfit::default() };
        let refused = format!("{} do not fit", percent(0.02));
        assert_eq!(remarks(true, &unfit), format!("chosen; {refused}"));
        assert_eq!(remarks(false, &unfit), refused);
        assert_eq!(remarks(true, &Unfit::default()), "chosen");
        assert_eq!(remarks(false, &Unfit::default()), "");
    }
}
