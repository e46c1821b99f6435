//! The plots that pages share, each with the sentence that says what to see in it. The sentence comes from the same
//! data as the plot: it can be wrong together with it, never against it.

use crate::figures::{self, ms, percent, rate, seconds, sig};
use crate::plot::{Axis, Figure, Ink, Layer, Mark, Scale, thinned};
use crate::report::Detail;
use loadgen::{Metric, Target};
use tuner::claims::Sweep;
use tuner::observation::{IterationSpan, KvSample, KvShares};

/// A plot and what it shows.
pub(crate) struct Chart {
    /// Its heading.
    pub(crate) title: String,
    /// The drawing.
    pub(crate) figure: Figure,
    /// What to see.
    pub(crate) caption: String,
}

/// Half a page, a third of a page, and the whole width.
pub(crate) const HALF: (u32, u32) = (520, 300);
pub(crate) const THIRD: (u32, u32) = (380, 270);
pub(crate) const WHOLE: (u32, u32) = (1040, 300);

/// A figure of a size.
pub(crate) fn figure(
    size: (u32, u32),
    about: &str,
    x: Axis,
    y: Axis,
    layers: Vec<Layer>,
) -> Figure {
    Figure { width: size.0, height: size.1, about: about.to_owned(), x, y, layers }
}

/// KV classes with their names and values, most useful first: the order of stacking.
pub(crate) fn classes(kv: &KvShares) -> [(&'static str, f64); 6] {
    [
        ("used", kv.used),
        ("reserved", kv.reserved),
        ("internal", kv.internal),
        ("external", kv.external),
        ("cached", kv.cached),
        ("idle", kv.idle),
    ]
}

/// Stacked areas of the KV classes over time, percent of all slots.
pub(crate) fn ledger(samples: &[KvSample], mean: &KvShares) -> Chart {
    let shares = |s: &KvSample| {
        let all: f64 = classes(&s.slots).iter().map(|c| c.1).sum();
        classes(&s.slots).map(|c| if all > 0.0 { 100.0 * c.1 / all } else { 0.0 })
    };
    let rows: Vec<(f64, [f64; 6])> = samples.iter().map(|s| (s.at_s, shares(s))).collect();
    let mut layers = Vec::new();
    for (i, (name, share)) in classes(mean).into_iter().enumerate() {
        let band = rows.iter().map(|(t, v)| {
            let below: f64 = v[..i].iter().sum();
            (*t, below, below + v[i])
        });
        let points: Vec<_> = band.collect();
        if points.iter().any(|p| p.2 > p.1) {
            let label = format!("{name} {}", percent(share));
            layers.push(Layer::Band { points, ink: Ink::Kv(i as u8), label: Some(label) });
        }
    }
    let peak = rows.iter().map(|r| r.1[0]).fold(0.0, f64::max);
    let caption = format!(
        "On average {} of the KV memory holds tokens, at most {}; {} of what is taken is wasted \
         (reserved, internal or external fragmentation).",
        percent(mean.used),
        percent(peak / 100.0),
        percent(mean.waste_percent() / 100.0),
    );
    Chart {
        title: "KV memory over time".to_owned(),
        figure: figure(
            WHOLE,
            "stacked areas of KV memory by class over time",
            Axis::new("time, s", Scale::Linear)
                .within(rows.first().map_or(0.0, |r| r.0), rows.last().map_or(1.0, |r| r.0)),
            Axis::new("KV slots, % of capacity", Scale::FromZero).within(0.0, 100.0),
            layers,
        ),
        caption,
    }
}

/// Running and waiting requests over time.
pub(crate) fn occupancy(samples: &[KvSample]) -> Chart {
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
            "At most {running} sequences run at once and {waiting} requests wait; somebody waits in {} of the samples.",
            percent(still),
        ),
    }
}

/// Output over time.
pub(crate) fn output(detail: &Detail) -> Chart {
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

/// What an iteration did, in the order of [`Ink::Phase`].
const PHASES: [&str; 3] = ["prefill only", "prefill and decode", "decode only"];

fn phase(s: &IterationSpan) -> usize {
    match (s.prefill_tokens > 0, s.decode_seqs > 0) {
        (true, false) => 0,
        (true, true) => 1,
        _ => 2,
    }
}

/// Iterations of a window: one lane per worker, then prompt tokens and decoding sequences of each.
pub(crate) fn timeline(spans: &[IterationSpan]) -> Vec<Chart> {
    let Some(first) = spans.iter().map(|s| s.start_s).min_by(f64::total_cmp) else {
        return Vec::new();
    };
    let last = spans.iter().map(|s| s.start_s + s.length_s).fold(first, f64::max);
    let time = || Axis::new("time, s", Scale::Linear).within(first, last);
    let workers: Vec<u32> = {
        let set: std::collections::BTreeSet<u32> = spans.iter().map(|s| s.worker).collect();
        set.into_iter().take(8).collect()
    };
    let shown: Vec<&IterationSpan> = spans.iter().filter(|s| workers.contains(&s.worker)).collect();
    let steps: Vec<&IterationSpan> =
        shown.iter().filter(|s| s.worker == workers[0]).copied().collect();
    let mut charts = vec![lanes(&shown, &workers, time())];
    let bars = |of: fn(&IterationSpan) -> u32| {
        [0, 1, 2].map(|p| {
            let own = steps.iter().filter(|s| phase(s) == p);
            let boxes =
                own.map(|s| [s.start_s, s.start_s + s.length_s, 0.0, f64::from(of(s))]).collect();
            Layer::Boxes { boxes, ink: Ink::Phase(p as u8), opacity: 0.85 }
        })
    };
    let height = |of: fn(&IterationSpan) -> u32| steps.iter().map(|s| of(s)).max().unwrap_or(0);
    let whose =
        if workers.len() > 1 { format!(" of worker {}", workers[0]) } else { String::new() };
    let (prompt, decode) = (height(|s| s.prefill_tokens), height(|s| s.decode_seqs));
    for (title, axis, of, caption) in [
        (
            format!("Prompt tokens per iteration{whose}"),
            "prompt tokens",
            (|s| s.prefill_tokens) as fn(&IterationSpan) -> u32,
            format!(
                "No iteration takes more than {} prompt tokens.",
                figures::count(prompt.into())
            ),
        ),
        (
            format!("Decoding sequences per iteration{whose}"),
            "sequences",
            |s| s.decode_seqs,
            format!(
                "At most {} sequences decode together; gaps are iterations that only prefill, or idle time.",
                figures::count(decode.into())
            ),
        ),
    ] {
        let layers = bars(of).into_iter().collect();
        let about = format!("{axis} of every iteration over time");
        let y = Axis::new(axis, Scale::FromZero);
        charts.push(Chart {
            title,
            figure: figure((1040, 200), &about, time(), y, layers),
            caption,
        });
    }
    charts
}

fn lanes(spans: &[&IterationSpan], workers: &[u32], time: Axis) -> Chart {
    let lane = |w: u32| workers.iter().rev().position(|x| *x == w).unwrap_or(0) as f64;
    // Neighbours keep a hairline of paper between them.
    let boxes = |p: usize| {
        let own = spans.iter().filter(|s| phase(s) == p);
        own.map(|s| {
            let end = s.start_s + s.length_s * 0.94;
            [s.start_s, end, lane(s.worker) + 0.15, lane(s.worker) + 0.85]
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
    let iterations: u64 = spans.iter().map(|s| u64::from(s.count)).sum();
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
            figures::count(iterations),
            ms(longest * 1e3),
            shares.collect::<Vec<_>>().join(", "),
        ),
    }
}

/// Colours of iterations and what they mean.
pub(crate) fn phases() -> [(Ink, &'static str); 3] {
    [0, 1, 2].map(|p| (Ink::Phase(p), PHASES[usize::from(p)]))
}

/// How a metric is written.
pub(crate) fn metric_name(metric: Metric) -> &'static str {
    match metric {
        Metric::Ttft => "TTFT",
        Metric::Tpot => "TPOT",
        Metric::Itl => "ITL",
        Metric::E2e => "E2E",
    }
}

/// Share of requests up to each latency, with limits.
pub(crate) fn distribution(detail: &Detail, metric: Metric, targets: &[Target]) -> Option<Chart> {
    let points: Vec<(f64, f64)> =
        detail.distribution(metric)?.points.iter().map(|p| (p.0, p.1 * 100.0)).collect();
    let (first, last) = (points.first()?, points.last()?);
    let at = |share: f64| points.iter().find(|p| p.1 >= share).map(|p| p.0);
    let p99 = at(99.0);
    // Steps, not slopes: between two values nothing was measured.
    let mut steps = vec![(first.0, 0.0)];
    for p in &points {
        steps.push((p.0, steps[steps.len() - 1].1));
        steps.push(*p);
    }
    let wide = last.0 > 8.0 * first.0.max(1e-3);
    let mut layers = vec![Layer::Line {
        points: steps,
        ink: Ink::Accent,
        width: 1.75,
        dashed: false,
        label: None,
    }];
    for target in targets.iter().filter(|t| t.metric == metric) {
        let label = format!("limit {}", ms(target.limit.as_secs_f64() * 1e3));
        layers.push(Layer::Upright {
            at: target.limit.as_secs_f64() * 1e3,
            ink: Ink::Limit,
            label,
        });
    }
    if let Some(p99) = p99 {
        let label = Some(format!("p99 {}", ms(p99)));
        layers.push(Layer::Marks {
            points: vec![(p99, 99.0)],
            ink: Ink::Accent,
            mark: Mark::Dot,
            size: 3.5,
            label,
        });
    }
    let name = metric_name(metric);
    let what = if metric == Metric::Itl { "gaps" } else { "requests" };
    let median = at(50.0).map_or_else(|| "∞".to_owned(), ms);
    let caption = match p99 {
        Some(p99) => format!(
            "Half of the {what} are below {median}, 99 % below {}; the slowest measured took {}.",
            ms(p99),
            ms(last.0)
        ),
        None => format!(
            "Half of the {what} are below {median}; only {} of them ended at all.",
            percent(last.1 / 100.0)
        ),
    };
    Some(Chart {
        title: format!("{name} distribution"),
        figure: figure(
            HALF,
            &format!("cumulative distribution of {name}"),
            Axis::new(format!("{name}, ms"), if wide { Scale::Log } else { Scale::Linear }),
            Axis::new(format!("{what} at or below, %"), Scale::FromZero).within(0.0, 102.0),
            layers,
        ),
        caption,
    })
}

/// One value per name as horizontal bars.
pub(crate) fn bars(
    title: &str,
    axis: &str,
    rows: &[(String, Ink, Option<f64>)],
    text: fn(f64) -> String,
) -> Chart {
    let n = rows.len() as f64;
    let most = rows.iter().filter_map(|r| r.2).fold(0.0, f64::max);
    let mut layers = Vec::new();
    for (i, (_, ink, value)) in rows.iter().enumerate() {
        let y = n - i as f64 - 0.5;
        let value_text = value.map_or_else(|| figures::NONE.to_owned(), text);
        let value = value.unwrap_or(0.0);
        layers.push(Layer::Boxes {
            boxes: vec![[0.0, value, y - 0.33, y + 0.33]],
            ink: *ink,
            opacity: 1.0,
        });
        layers.push(Layer::Note { at: (value, y), ink: Ink::Text, text: value_text });
    }
    let names = rows.iter().enumerate().map(|(i, r)| (n - i as f64 - 0.5, r.0.clone())).collect();
    let known = || rows.iter().filter_map(|r| Some((r.0.as_str(), r.2?)));
    let best = known().min_by(|a, b| a.1.total_cmp(&b.1));
    let worst = known().max_by(|a, b| a.1.total_cmp(&b.1));
    let caption = match (best, worst) {
        (Some(least), Some(top)) if least.0 != top.0 => {
            format!("From {} ({}) to {} ({}).", text(least.1), least.0, text(top.1), top.0)
        }
        _ => String::new(),
    };
    Chart {
        title: title.to_owned(),
        figure: figure(
            (THIRD.0, 56 + 27 * rows.len().max(1) as u32),
            &format!("{title} as bars"),
            Axis::new(axis, Scale::FromZero)
                .within(0.0, if most > 0.0 { most * 1.22 } else { 1.0 }),
            Axis::new("", Scale::Linear).within(0.0, n.max(1.0)).named(names),
            layers,
        ),
        caption,
    }
}

/// Lines of a sweep.
pub(crate) fn sweep(sweep: &Sweep) -> Chart {
    let points = || sweep.lines.iter().flat_map(|l| l.1.iter().copied());
    let span = |of: fn(&(f64, f64)) -> f64| {
        let least = points().map(|p| of(&p)).fold(f64::INFINITY, f64::min);
        (least, points().map(|p| of(&p)).fold(f64::NEG_INFINITY, f64::max))
    };
    let (low, high) = span(|p| p.0);
    let scale = if low > 0.0 && high >= 16.0 * low { Scale::Log } else { Scale::Linear };
    let mut layers = Vec::new();
    let mut said = Vec::new();
    for (i, (name, points)) in sweep.lines.iter().enumerate() {
        let ink = Ink::nth(i);
        let label = (sweep.lines.len() > 1).then(|| name.clone());
        layers.push(Layer::Line {
            points: thinned(points, 400),
            ink,
            width: 2.0,
            dashed: false,
            label,
        });
        layers.push(Layer::Marks {
            points: thinned(points, 40),
            ink,
            mark: Mark::Dot,
            size: 2.5,
            label: None,
        });
        if let (Some(first), Some(last)) = (points.first(), points.last()) {
            said.push(format!(
                "{name}: {} at {}, {} at {}",
                sig(first.1, 3),
                figures::short(first.0),
                sig(last.1, 3),
                figures::short(last.0)
            ));
        }
    }
    Chart {
        title: sweep.title.clone(),
        figure: figure(
            HALF,
            &format!("{} against {}", sweep.y, sweep.x),
            Axis::new(sweep.x.clone(), scale),
            Axis::new(sweep.y.clone(), Scale::FromZero),
            layers,
        ),
        caption: format!("{}.", said.join("; ")),
    }
}

/// How long a run of requests lasted, for sentences.
pub(crate) fn spell(rate_rps: Option<f64>, duration_s: f64) -> String {
    match rate_rps {
        Some(rps) => format!("{} requests/s for {}", rate(rps), seconds(duration_s)),
        None => format!("all requests at once, done after {}", seconds(duration_s)),
    }
}
