//! `knee trace`: what a trace is like, the same trace in another format, a trace from a description.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use engine::ModelShape;
use tuner::share::percent;
use tuner::subject::unfit::Unfit;
use workloads::{Comparison, Description, Format, QUANTILE_LEVELS, Trace};

use super::{print, print_as_is, print_json};
use crate::cli::{self, Reading};
use crate::input::{self, Loaded};
use crate::shape::shape;

pub(crate) fn run(args: &cli::Trace) -> Result<ExitCode> {
    match args {
        cli::Trace::Inspect { source, model, read, print } => {
            inspect(source, model.as_deref(), read, print.json)
        }
        cli::Trace::Formats => print(&formats()),
        cli::Trace::Convert { file, to, output, read } => {
            let loaded = input::load(&file.to_string_lossy(), read)?;
            write(&loaded.trace, *to, output.as_deref())
        }
        cli::Trace::Synth { source, to, output, seed } => {
            let Some(spec) = input::spec(source)? else {
                bail!(
                    "{source} is neither a preset nor a workload TOML; `knee trace convert` reads trace files"
                );
            };
            write(&workloads::synthesise(&spec, *seed)?, *to, output.as_deref())
        }
    }?;
    Ok(ExitCode::SUCCESS)
}

/// A line for each format.
fn formats() -> String {
    let line = |format: Format| {
        let written = Format::written().any(|other| other == format);
        let ways = if written { "read, written" } else { "read" };
        format!("{format:<14} {ways:<14} {}\n", format.about())
    };
    Format::all().map(line).collect()
}

fn inspect(source: &str, model: Option<&str>, read: &Reading, json: bool) -> Result<()> {
    let loaded = input::load(source, read)?;
    let window = model.map(shape).transpose()?.map(|m| Window::of(&m, &loaded.trace));
    let description = loaded.describe();
    let beside = compared(&loaded, &description);
    if json {
        let mut value = serde_json::to_value(&description)?;
        if let Some(beside) = beside {
            value["reference"] = serde_json::to_value(beside)?;
        }
        if let Some(window) = window {
            value["model"] = serde_json::to_value(window)?;
        }
        return print_json(&value);
    }
    let mut text = table(&description);
    if let Some(window) = window {
        let _ =
            write!(text, "\n{}", textwrap::fill(&window.to_string(), super::terminal().columns));
        text.push('\n');
    }
    if let (Some(reference), Some(beside)) = (&loaded.reference, beside) {
        let _ = writeln!(text, "\nBeside its source: {}", reference.source);
        let _ = writeln!(text, "  {:<28} {:>12} {:>12}", "", "source", "here");
        for row in beside {
            let here = row.here.map_or_else(|| "-".to_owned(), short);
            let _ = writeln!(text, "  {:<28} {:>12} {:>12}", row.figure, short(row.source), here);
        }
    }
    print(&text)
}

/// The part of a trace that fits a model.
#[derive(serde::Serialize)]
struct Window {
    model: String,
    /// Its context window, tokens.
    max_context: u32,
    unfit: Unfit,
}

impl Window {
    fn of(shape: &ModelShape, trace: &Trace) -> Self {
        let (model, max_context) = (shape.name.clone(), shape.max_context);
        Self { model, max_context, unfit: Unfit::beyond_context(max_context, &trace.requests) }
    }
}

impl std::fmt::Display for Window {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { model, max_context, unfit } = self;
        if unfit.any() {
            write!(f, "{model}: {unfit}; --cut {max_context} shortens them")
        } else {
            write!(f, "{model}: every prompt fits its context window of {max_context} tokens")
        }
    }
}

fn compared(loaded: &Loaded, description: &Description) -> Option<Vec<Comparison>> {
    loaded.reference.as_ref().map(|reference| description.beside(reference))
}

fn table(d: &Description) -> String {
    let mut out = String::new();
    let mut row = |name: &str, value: String| {
        let _ = writeln!(out, "  {name:<28} {value}");
    };
    let some = |x: Option<f64>| x.map_or_else(|| "-".to_owned(), short);
    row("requests", d.requests.to_string());
    row("span", format!("{} s", short(d.span_s)));
    row("arrival rate", format!("{} /s", short(d.rate_rps)));
    row("CV of gaps", some(d.interarrival_cv));
    row("Fano factor, 60 s and 1 s", format!("{}, {}", some(d.fano_60s), some(d.fano_1s)));
    for (name, lengths) in [("input tokens", &d.input), ("output tokens", &d.output)] {
        let at = |level: f64| {
            let i = QUANTILE_LEVELS.iter().position(|&l| l == level).unwrap_or(0);
            short(lengths.quantiles[i])
        };
        let quantiles = format!(
            "mean {}  p10 {}  p50 {}  p90 {}  p99 {}  max {}",
            short(lengths.mean),
            at(0.1),
            at(0.5),
            at(0.9),
            at(0.99),
            at(1.0)
        );
        row(name, quantiles);
    }
    row("rank correlation", some(d.spearman));
    row("longest input + output", format!("{} tokens", d.longest));
    if let Some(p) = &d.prefix {
        row("prefix hits, endless cache", format!("{} of prompt tokens", percent(p.hit_rate)));
    }
    if let Some(s) = &d.sessions {
        row("sessions", format!("{} of {} turns on average", s.count, short(s.turns_mean)));
    }
    for (name, count) in &d.classes {
        row("class", format!("{name}: {count} requests"));
    }
    let head = format!("{}\n", d.name);
    let within = textwrap::Options::new(super::terminal().columns)
        .initial_indent("  ")
        .subsequent_indent("    ");
    let from: String = d.provenance.iter().map(|p| textwrap::fill(p, &within) + "\n").collect();
    format!("{head}{out}\nFrom\n{from}")
}

/// Four significant digits.
fn short(x: f64) -> String {
    if x == 0.0 || !x.is_finite() {
        return x.to_string();
    }
    let digits = (3 - x.abs().log10().floor() as i32).max(0) as usize;
    format!("{x:.digits$}")
}

/// Writes all of it or nothing, and then says what the format has no place for.
fn write(trace: &Trace, to: Format, output: Option<&Path>) -> Result<()> {
    let mut bytes = Vec::new();
    workloads::write(trace, to, &mut bytes)?;
    match output {
        Some(path) => std::fs::write(path, bytes)
            .with_context(|| format!("cannot write {}", path.display()))?,
        None => print_as_is(&String::from_utf8_lossy(&bytes))?,
    }
    let lost = workloads::losses(trace, to);
    if !lost.is_empty() {
        let _ = writeln!(
            std::io::stderr(),
            "knee: {} has no place for: {}",
            to.name(),
            lost.join(", ")
        );
    }
    Ok(())
}
