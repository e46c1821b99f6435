//! A run over time: the use of KV memory, the requests served, and the iterations one by one. Pages place what
//! [`memory`], [`course`] and [`iterations`] draw of a run; a further chart is a function here and its line in one of them.

use crate::charts::{Chart, HALF, WHOLE, classes, figure};
use crate::figures::{count, ms, percent, sig};
use crate::page;
use crate::plot::{Axis, Ink, Layer, Scale};
use crate::report::Detail;
use maud::{Markup, html};
use std::collections::BTreeSet;
use tuner::subject::observation::{IterationSpan, KvSample, KvShares};

/// KV memory of a run; nothing where it was not looked into. `mean` are the shares of the whole run.
pub(crate) fn memory(detail: &Detail, mean: &KvShares) -> Markup {
    let ledger = (detail.kv.len() > 1).then(|| ledger(&detail.kv, mean));
    page::charts(ledger.as_slice(), "one")
}

/// Its output and its requests.
pub(crate) fn course(detail: &Detail) -> Markup {
    let output = (detail.output.len() > 1).then(|| output(detail));
    let occupancy = (detail.kv.len() > 1).then(|| occupancy(&detail.kv));
    let charts: Vec<Chart> = [output, occupancy].into_iter().flatten().collect();
    page::charts(&charts, "two")
}

/// Its iterations at its busiest time.
pub(crate) fn iterations(detail: &Detail) -> Markup {
    let lanes = timeline(&detail.window);
    html! {
        @if !lanes.is_empty() {
            (page::key((0..3).map(|p| (Ink::Phase(p), PHASES[usize::from(p)]))))
            (page::charts(&lanes, "one"))
        }
    }
}

/// Stacked areas of the KV classes over time, percent of all slots.
fn ledger(samples: &[KvSample], mean: &KvShares) -> Chart {
    let shares = |s: &KvSample| {
        let all: f64 = classes(&s.slots).iter().map(|c| c.1).sum();
        classes(&s.slots).map(|c| if all > 0.0 { 100.0 * c.1 / all } else { 0.0 })
    };
    let rows: Vec<(f64, [f64; 6])> = samples.iter().map(|s| (s.at_s, shares(s))).collect();
    let taken = rows.iter().map(|r| r.1[..5].iter().sum::<f64>()).fold(0.0, f64::max);
    // A nearly empty memory is drawn from below only, large enough to see.
    let top = if taken < 50.0 { (taken * 1.25).max(1.0) } else { 100.0 };
    let mut layers = Vec::new();
    for (i, (name, share)) in classes(mean).into_iter().enumerate() {
        let band = rows.iter().map(|(t, v)| {
            let below: f64 = v[..i].iter().sum();
            (*t, below, below + v[i])
        });
        let points: Vec<_> = band.collect();
        if points.iter().any(|p| p.2 - p.1 > top / 250.0) {
            let label = Some(format!("{name} {}", percent(share)));
            layers.push(Layer::Band { points, ink: Ink::Kv(i as u8), label });
        }
    }
    let peak = rows.iter().map(|r| r.1[0]).fold(0.0, f64::max);
    let cut = if top < 100.0 { " The axis ends above the peak; the rest is idle." } else { "" };
    let caption = format!(
        "On average {} of the KV memory holds tokens, at most {}; {} of what is taken is wasted \
         (reserved, internal or external fragmentation).{cut}",
        percent(mean.used),
        percent(peak / 100.0),
        percent(mean.waste_percent() / 100.0),
    );
    let ends = (rows.first().map_or(0.0, |r| r.0), rows.last().map_or(1.0, |r| r.0));
    Chart {
        title: "KV memory over time".to_owned(),
        figure: figure(
            WHOLE,
            "stacked areas of KV memory by class over time",
            Axis::new("time, s", Scale::Linear).within(ends.0, ends.1),
            Axis::new("KV slots, % of capacity", Scale::FromZero).within(0.0, top),
            layers,
        ),
        caption,
    }
}

/// Running and waiting requests over time.
fn occupancy(samples: &[KvSample]) -> Chart {
    let line =
        |of: fn(&KvSample) -> u32| samples.iter().map(|s| (s.at_s, f64::from(of(s)))).collect();
    let most = |of: fn(&KvSample) -> u32| samples.iter().map(of).max().unwrap_or(0);
    let (running, waiting) = (most(|s| s.running), most(|s| s.waiting));
    let still =
        samples.iter().filter(|s| s.waiting > 0).count() as f64 / samples.len().max(1) as f64;
    let layer = |points, ink, name: &str| Layer::Line {
        points,
        ink,
        width: 1.5,
        dashed: false,
        label: Some(name.to_owned()),
    };
    Chart {
        title: "Requests in the engine".to_owned(),
        figure: figure(
            HALF,
            "sequences running and requests waiting over time",
            Axis::new("time, s", Scale::Linear),
            Axis::new("sequences", Scale::FromZero),
            vec![
                layer(line(|s| s.waiting), Ink::Line(1), "waiting"),
                layer(line(|s| s.running), Ink::Line(3), "running"),
            ],
        ),
        caption: format!(
            "At most {running} sequences run at once and {waiting} requests wait; requests wait in {} of the samples.",
            percent(still),
        ),
    }
}

/// Output over time.
fn output(detail: &Detail) -> Chart {
    let points: Vec<_> = detail.output.iter().map(|o| (o.at_s, o.tokens_per_s)).collect();
    let most = points.iter().map(|p| p.1).fold(0.0, f64::max);
    let mean = points.iter().map(|p| p.1).sum::<f64>() / points.len().max(1) as f64;
    Chart {
        title: "Output over time".to_owned(),
        figure: figure(
            HALF,
            "output tokens per second over time",
            Axis::new("time, s", Scale::Linear),
            Axis::new("output tokens/s", Scale::FromZero),
            vec![Layer::Line { points, ink: Ink::Accent, width: 1.5, dashed: false, label: None }],
        ),
        caption: format!(
            "{} tokens/s on average, {} in the busiest stretch (each request's tokens spread evenly over its decoding).",
            sig(mean, 3),
            sig(most, 3),
        ),
    }
}

/// The kinds of iteration, in the order of [`Ink::Phase`].
const PHASES: [&str; 3] = ["prefill only", "prefill and decode", "decode only"];

fn phase(s: &IterationSpan) -> usize {
    match (s.prefill_tokens > 0, s.decode_seqs > 0) {
        (true, false) => 0,
        (true, true) => 1,
        _ => 2,
    }
}

/// Iterations of a window: one lane per worker, then prompt tokens and decoding sequences of each.
fn timeline(spans: &[IterationSpan]) -> Vec<Chart> {
    let Some(first) = spans.iter().map(|s| s.start_s).min_by(f64::total_cmp) else {
        return Vec::new();
    };
    let last = spans.iter().map(|s| s.start_s + s.length_s).fold(first, f64::max);
    let time = || Axis::new("time, s", Scale::Linear).within(first, last);
    let all: BTreeSet<u32> = spans.iter().map(|s| s.worker).collect();
    let workers: Vec<u32> = all.into_iter().take(8).collect();
    let shown: Vec<&IterationSpan> = spans.iter().filter(|s| workers.contains(&s.worker)).collect();
    let steps: Vec<&IterationSpan> =
        shown.iter().filter(|s| s.worker == workers[0]).copied().collect();
    let whose =
        if workers.len() > 1 { format!(" of worker {}", workers[0]) } else { String::new() };
    let mut charts = vec![
        lanes(&shown, &workers, time()),
        heights(
            &steps,
            &format!("Prompt tokens per iteration{whose}"),
            "prompt tokens",
            time(),
            |s| s.prefill_tokens,
        ),
        heights(
            &steps,
            &format!("Decoding sequences per iteration{whose}"),
            "sequences",
            time(),
            |s| s.decode_seqs,
        ),
    ];
    // One above another, their times must line up.
    charts.iter_mut().for_each(|c| c.figure.left = 54.0);
    charts
}

/// A figure of every iteration as a box as wide as it took.
fn heights(
    steps: &[&IterationSpan],
    title: &str,
    axis: &str,
    time: Axis,
    of: fn(&IterationSpan) -> u32,
) -> Chart {
    let layers = (0..3).map(|p| {
        let own = steps.iter().filter(|s| phase(s) == p);
        let end = |s: &IterationSpan| s.start_s + s.length_s;
        let boxes = own.map(|s| [s.start_s, end(s), 0.0, f64::from(of(s))]).collect();
        Layer::Boxes { boxes, ink: Ink::Phase(p as u8), opacity: 0.85 }
    });
    let most = steps.iter().map(|s| of(s)).max().unwrap_or(0);
    let busy: f64 = steps.iter().map(|s| s.length_s).sum();
    let with: f64 = steps.iter().filter(|s| of(s) > 0).map(|s| s.length_s).sum();
    Chart {
        title: title.to_owned(),
        figure: figure(
            (1040, 190),
            &format!("{axis} of every iteration over time"),
            time,
            Axis::new(axis, Scale::FromZero),
            layers.collect(),
        ),
        caption: format!(
            "At most {} {axis} in one iteration; iterations with any take {} of the busy time.",
            count(most.into()),
            percent(with / busy.max(f64::MIN_POSITIVE))
        ),
    }
}

/// Iterations drawn one by one, at most; beyond, stretches of equal ones are drawn as one.
const SINGLE: u64 = 1500;

fn lanes(spans: &[&IterationSpan], workers: &[u32], time: Axis) -> Chart {
    let lane = |w: u32| workers.iter().rev().position(|x| *x == w).unwrap_or(0) as f64;
    let iterations: u64 = spans.iter().map(|s| u64::from(s.count)).sum();
    let boxes = |p: usize| {
        let own = spans.iter().filter(|s| phase(s) == p);
        own.flat_map(|s| {
            let parts = if iterations <= SINGLE { s.count.max(1) } else { 1 };
            let (step, low) = (s.length_s / f64::from(parts), lane(s.worker) + 0.15);
            (0..parts).map(move |k| {
                let from = s.start_s + f64::from(k) * step;
                // Neighbours keep a hairline of paper between them.
                [from, from + 0.88 * step, low, low + 0.7]
            })
        })
        .collect()
    };
    let layers = (0..3)
        .map(|p| Layer::Boxes { boxes: boxes(p), ink: Ink::Phase(p as u8), opacity: 1.0 })
        .collect();
    let names = workers.iter().map(|w| (lane(*w) + 0.5, format!("worker {w}"))).collect();
    let time_of =
        |p: usize| spans.iter().filter(|s| phase(s) == p).map(|s| s.length_s).sum::<f64>();
    let all = (time_of(0) + time_of(1) + time_of(2)).max(f64::MIN_POSITIVE);
    let longest = spans.iter().map(|s| s.length_s / f64::from(s.count.max(1))).fold(0.0, f64::max);
    let shares = (0..3).map(|p| format!("{} {}", PHASES[p], percent(time_of(p) / all)));
    Chart {
        title: "Iterations at the busiest time".to_owned(),
        figure: figure(
            (1040, 60 + 34 * workers.len() as u32),
            "iterations of each worker as boxes over time",
            time,
            Axis::new("", Scale::Linear).within(0.0, workers.len() as f64).named(names),
            layers,
        ),
        caption: format!(
            "{} iterations, the longest {}; of the busy time {}.",
            count(iterations),
            ms(longest * 1e3),
            shares.collect::<Vec<_>>().join(", "),
        ),
    }
}
