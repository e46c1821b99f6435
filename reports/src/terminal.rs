//! The answer for a terminal, 100 columns at most, in colour only if the caller knows that somebody sees it.

use crate::bench::doubts;
use crate::figures::{NONE, latency, opt_ms, percent, rate, sig, usd};
use crate::report::{BenchReport, CompareReport, TuneReport};
use crate::{compare as comparing, tuning};
use loadgen::Metric;
use tuner::result::{Infeasible, Operating, TuneResult};
use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

/// Columns.
pub const WIDTH: usize = 100;

#[derive(Clone, Copy)]
enum Look {
    Bold,
    Quiet,
    Good,
    Bad,
}

/// Lines of plain text, wrapped; looks are added last so that they cost no width.
struct Screen {
    text: String,
    colour: bool,
}

impl Screen {
    fn new(colour: bool) -> Self {
        Self { text: String::new(), colour }
    }

    fn look(&self, text: &str, look: Look) -> String {
        if !self.colour {
            return text.to_owned();
        }
        let code = match look {
            Look::Bold => "1",
            Look::Quiet => "2",
            Look::Good => "32",
            Look::Bad => "31",
        };
        format!("\u{1b}[{code}m{text}\u{1b}[0m")
    }

    /// One paragraph, its further lines indented.
    fn say(&mut self, text: &str, indent: usize, look: Option<Look>) {
        for line in wrapped(&plain(text), WIDTH, indent) {
            let line = look.map_or_else(|| line.clone(), |l| self.look(&line, l));
            self.text.push_str(&line);
            self.text.push('\n');
        }
    }

    fn gap(&mut self) {
        self.text.push('\n');
    }

    /// A table; the first column left, the others right. The row numbered `strong` is bold. Columns that do not fit
    /// are left out from the right, names too long are cut.
    fn table(&mut self, head: &[&str], rows: &[Vec<String>], strong: Option<usize>) {
        let clean: Vec<Vec<String>> =
            rows.iter().map(|r| r.iter().map(|c| cut(&plain(c), 40)).collect()).collect();
        let mut widths: Vec<usize> = head.iter().map(|h| h.width()).collect();
        for row in &clean {
            widths.iter_mut().zip(row).for_each(|(w, c)| *w = (*w).max(c.width()));
        }
        let mut shown = widths.len();
        while shown > 1 && 2 + widths[..shown].iter().sum::<usize>() + 2 * (shown - 1) > WIDTH {
            shown -= 1;
        }
        let line = |cells: &[String]| {
            let mut text = String::from("  ");
            for (i, (cell, width)) in cells.iter().zip(&widths).take(shown).enumerate() {
                let pad = " ".repeat(width.saturating_sub(cell.width()));
                let gap = if i == 0 { "" } else { "  " };
                text += &if i == 0 { format!("{cell}{pad}") } else { format!("{gap}{pad}{cell}") };
            }
            text.trim_end().to_owned()
        };
        let heads: Vec<String> = head.iter().map(|h| (*h).to_owned()).collect();
        let top = self.look(&line(&heads), Look::Quiet);
        self.text.push_str(&(top + "\n"));
        for (i, row) in clean.iter().enumerate() {
            let text = line(row);
            let text = if strong == Some(i) { self.look(&text, Look::Bold) } else { text };
            self.text.push_str(&(text + "\n"));
        }
    }

    fn origin(&mut self, simulated: bool, facts: &[String]) {
        let what = if simulated { "SIMULATED" } else { "MEASURED" };
        self.say(&format!("{what}  {}", facts.join(" · ")), 2, Some(Look::Quiet));
    }
}

/// Ordinary spaces for narrow ones, and nothing that could move a cursor.
fn plain(text: &str) -> String {
    let one = |c: char| if c == crate::figures::THIN || c.is_control() { ' ' } else { c };
    text.chars().map(one).collect()
}

fn cut(text: &str, most: usize) -> String {
    if text.width() <= most {
        return text.to_owned();
    }
    let mut used = 0;
    let kept = text.chars().take_while(|c| {
        used += c.width().unwrap_or(0);
        used < most
    });
    kept.collect::<String>() + "…"
}

/// Lines of at most `width` columns; lines after the first are indented. Words longer than a line are broken.
fn wrapped(text: &str, width: usize, indent: usize) -> Vec<String> {
    let (mut lines, mut line) = (Vec::new(), String::new());
    let mut blank = true;
    for word in text.split(' ') {
        let mut word = word.to_owned();
        loop {
            let joint = usize::from(!blank);
            if line.width() + joint + word.width() <= width {
                if joint == 1 {
                    line.push(' ');
                }
                line.push_str(&word);
                blank = false;
                break;
            }
            if blank {
                let room = width - line.width();
                let mut used = 0;
                let at = word.char_indices().find(|(_, c)| {
                    used += c.width().unwrap_or(0);
                    used > room
                });
                let rest = word.split_off(at.map_or(word.len(), |a| a.0));
                line.push_str(&word);
                word = rest;
            }
            lines.push(std::mem::replace(&mut line, " ".repeat(indent)));
            blank = true;
        }
    }
    lines.push(line);
    lines
}

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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn wrapping_keeps_the_words_and_the_width(text in "[a-z界é ]{0,300}", indent in 0usize..8) {
            let lines = wrapped(&text, 40, indent);
            prop_assert!(lines.iter().all(|l| l.width() <= 40), "{lines:?}");
            let letters = |t: &str| t.chars().filter(|c| *c != ' ').collect::<String>();
            prop_assert_eq!(letters(&lines.concat()), letters(&text));
        }

        #[test]
        fn tables_fit(rows in prop::collection::vec(prop::collection::vec(".{0,60}", 9), 0..5)) {
            let mut s = Screen::new(false);
            s.table(&["a", "b", "c", "d", "e", "f", "g", "h", "i"], &rows, Some(0));
            prop_assert!(s.text.lines().all(|l| l.width() <= WIDTH), "{}", s.text);
        }
    }
}
