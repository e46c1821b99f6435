//! `knee profile`: device profiles from published tables, what they hold, and how far they are off.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result, anyhow, bail};
use engine::exec::speed::{Speed, speeds};
use engine::files::{LONGEST_SETTINGS, read_text};
use engine::import::{self, Family, Imported, Point};
use engine::profile::{FitError, import_sheets};
use engine::{Config, DeviceProfile, ModelShape};
use plotters::prelude::*;
use serde_json::{Value, json};

use super::timing::timed;
use super::{check, print, print_json};
use crate::cli;

pub(crate) fn run(args: &cli::Profile) -> Result<ExitCode> {
    match args {
        cli::Profile::Import(args) => import(args),
        cli::Profile::Measure(args) => measure(args),
        cli::Profile::Check(args) => return check::run(args),
        cli::Profile::Show { name, model, print } => show(name, model.as_deref(), print.json),
    }?;
    Ok(ExitCode::SUCCESS)
}

fn import(args: &cli::Import) -> Result<()> {
    let cli::Import { dir, to, all, device, compose, draw } = args;
    if *all {
        return import_all(dir, to);
    }
    let families = compose
        .iter()
        .map(|name| {
            Family::named(name).ok_or_else(|| {
                let known = Family::ALL.map(Family::name).join(", ");
                anyhow!("unknown family `{name}`: expected {known}")
            })
        })
        .collect::<Result<Vec<Family>>>()?;
    let stem = to.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let device = device.as_deref().unwrap_or(&stem);
    let text = match import_sheets().find(|(name, _)| *name == device) {
        Some((_, text)) => text.to_owned(),
        None if device.ends_with(".toml") => read_text(Path::new(device), LONGEST_SETTINGS)
            .with_context(|| format!("cannot read {device}"))?,
        None => {
            let known: Vec<&str> = import_sheets().map(|(name, _)| name).collect();
            bail!(
                "no sheet for `{device}`: --device takes {} or the path of a sheet (.toml)",
                known.join(", ")
            );
        }
    };
    let imported = import::import(dir, (device, &text), &families, import::SEED)?;
    deliver(&imported, to, draw.plot.as_deref(), draw.print.json)
}

/// The profiles of all shipped devices that the tables in `dir` are enough for; those that could not be made are named
/// in the end.
fn import_all(dir: &Path, to: &Path) -> Result<()> {
    std::fs::create_dir_all(to).with_context(|| format!("cannot make {}", to.display()))?;
    let mut missing = Vec::new();
    for (name, text) in import_sheets() {
        match import::import(dir, (name, text), &Family::ALL, import::SEED) {
            Ok(imported) => deliver(&imported, &to.join(format!("{name}.toml")), None, false)?,
            Err(error) => {
                super::tell(&format!("knee: {name}: {error}"));
                missing.push(name);
            }
        }
    }
    if !missing.is_empty() {
        bail!(
            "{} of {} profiles could not be made: {}",
            missing.len(),
            import_sheets().count(),
            missing.join(", ")
        );
    }
    Ok(())
}

/// Times this machine.
fn measure(args: &cli::Measure) -> Result<()> {
    let here = args.computing.load(&args.device, &args.model, &Config::default())?;
    let imported = timed(&here, args.longest)?;
    deliver(&imported, &args.to, args.draw.plot.as_deref(), args.draw.print.json)
}

fn deliver(imported: &Imported, to: &Path, plot: Option<&Path>, json: bool) -> Result<()> {
    std::fs::write(to, &imported.toml).with_context(|| format!("cannot write {}", to.display()))?;
    for note in &imported.notes {
        super::tell(&format!("knee: note: {note}"));
    }
    if let Some(path) = plot {
        let svg = draw(&imported.profile.name, &imported.points)
            .map_err(|e| anyhow!("cannot draw {}: {e}", path.display()))?;
        std::fs::write(path, svg).with_context(|| format!("cannot write {}", path.display()))?;
    }
    if json {
        return print_json(&described(&imported.profile));
    }
    print(&format!("{}\n\n{}", to.display(), errors(&imported.profile)))
}

fn show(name: &str, model: Option<&str>, as_json: bool) -> Result<()> {
    let device = DeviceProfile::load(name)?;
    let model = model.map(ModelShape::load).transpose()?;
    let speed: Vec<Speed> = model
        .iter()
        .flat_map(|m| [1, 2, 4, 8].into_iter().flat_map(|tp| speeds(m, &device, tp)))
        .collect();
    if as_json {
        let mut value = described(&device);
        if let Some(model) = model {
            value["model"] = json!(model.name);
            value["speeds"] = serde_json::to_value(speed)?;
        }
        return print_json(&value);
    }
    let text = match model {
        Some(model) => table(&device, &model, &speed),
        None => format!("{}\n{}\n{}", sheet(&device), covered(&device), errors(&device)),
    };
    print(&text)
}

/// Constants with their sources.
fn constants(d: &DeviceProfile) -> Vec<(String, String, String)> {
    let source = |key: &str| d.sources.get(key).cloned().unwrap_or_default();
    let row = |what: &str, value: String, source: String| (what.to_owned(), value, source);
    let mut rows = vec![
        row("peak compute", format!("{:.0} TFLOP/s", d.peak_flops / 1e12), source("peaks")),
        row(
            "peak in fp8 and fp4",
            format!("{:.0} and {:.0} TFLOP/s", d.peak_fp8_flops / 1e12, d.peak_fp4_flops / 1e12),
            String::new(),
        ),
        row("peak bandwidth", format!("{:.0} GB/s", d.memory_bandwidth / 1e9), source("peaks")),
        row("memory", format!("{:.2} GB", d.memory_bytes as f64 / 1e9), source("memory_bytes")),
        row(
            "runtime memory",
            format!("{:.2} GB", d.runtime_bytes as f64 / 1e9),
            source("runtime_bytes"),
        ),
        row("sustained compute", d.sustained.to_string(), source("sustained")),
        match &d.host {
            None => row("host", "the engine's".to_owned(), "see `knee engines`".to_owned()),
            Some(host) => row(
                "host",
                format!("{} µs a step + {} µs a sequence", host.step_us, host.seq_us),
                host.source.clone(),
            ),
        },
        row(
            "attention",
            format!(
                "{} start {} tokens (idle: {}), decode in a mixed kernel {} rows, skew {}",
                if d.attention.fine_tiles { "row" } else { "tile" },
                d.attention.tile_tokens,
                d.attention.idle_tokens,
                d.attention.decode_rows,
                d.attention.skew
            ),
            d.attention.source.clone(),
        ),
    ];
    if let Some(share) = d.sustained_gemm {
        rows.push(row("sustained GEMM", share.to_string(), source("sustained_gemm")));
    }
    for (what, link) in [("node link", &d.node), ("network link", &d.network)] {
        let value = format!("{} µs + {:.1} GB/s", link.start_us, link.bandwidth / 1e9);
        rows.push(row(what, value, link.source.clone()));
    }
    let price = &d.price;
    let value =
        format!("{:.2} {} a GPU and hour, {}", price.per_gpu_hour, price.currency, price.date);
    rows.push(row("price", value, format!("{:?}: {}", price.basis, price.source).to_lowercase()));
    rows
}

fn sheet(d: &DeviceProfile) -> String {
    let within = |indent: &'static str| {
        textwrap::Options::new(super::terminal().columns)
            .initial_indent(indent)
            .subsequent_indent("      ")
    };
    let mut out = format!("{}\n{}\n\n", d.name, textwrap::fill(&d.provenance, within("  ")));
    for line in &d.composed {
        let _ = writeln!(out, "{}", textwrap::fill(&format!("composed: {line}"), within("  ")));
    }
    for (what, value, source) in constants(d) {
        let _ = writeln!(out, "  {what:<18} {value}");
        if !source.is_empty() {
            let _ = writeln!(out, "{}", textwrap::fill(&source, within("      ")));
        }
    }
    out
}

fn range(axis: &[f64]) -> String {
    match axis {
        [] => "any".to_owned(),
        [first, .., last] => format!("{first:.0} to {last:.0}"),
        [only] => format!("{only:.0}"),
    }
}

/// The source of a table, and the engine it was timed under.
fn from(source: &str, timed_under: &str) -> String {
    let under = if timed_under.is_empty() { "" } else { ", in " };
    format!("{source}{under}{timed_under}")
}

/// The range that each table covers.
fn covered(d: &DeviceProfile) -> String {
    let mut out = format!(
        "  {:<34}{:>7}{:>10}{:>26}{:>16}   {}\n",
        "operator", "shapes", "start µs", "x", "y", "from"
    );
    for (name, t) in d.tables() {
        let _ = writeln!(
            out,
            "  {name:<34}{:>7}{:>10}{:>26}{:>16}   {}",
            t.shapes.len(),
            t.start_us,
            range(&t.x),
            range(&t.y),
            from(&t.source, &t.timed_under)
        );
    }
    for law in &d.all_reduce {
        let name = format!("all_reduce of {}", law.ranks);
        let _ = writeln!(
            out,
            "  {name:<34}{:>7}{:>10}{:>26}{:>16}   {}",
            "",
            law.start_us,
            range(&law.x),
            "",
            from(&law.source, &law.timed_under)
        );
    }
    out
}

fn errors(d: &DeviceProfile) -> String {
    let mut out = format!("  {:<34}{}\n", "error", FitError::COLUMNS);
    for (operator, error) in &d.fit {
        let _ = writeln!(out, "  {operator:<34}{error}");
    }
    out
}

fn described(d: &DeviceProfile) -> Value {
    let tables = d.tables().into_iter().map(|(name, t)| {
        let ends = |axis: &[f64]| json!([axis.first(), axis.last()]);
        let value = json!({ "shapes": t.shapes, "start_us": t.start_us, "source": t.source, "timed_under": t.timed_under,
            "x": ends(&t.x), "y": ends(&t.y) });
        (name, value)
    });
    let fit = d.fit.iter().map(|(operator, e)| {
        let value = json!({ "rows": e.rows, "left_out": e.left_out, "mean": e.mean, "p90": e.p90, "p95": e.p95,
            "unseen": { "median": e.unseen_median, "mean": e.unseen_mean, "p90": e.unseen_p90, "p95": e.unseen_p95 },
            "isotonic": e.isotonic });
        (operator.clone(), value)
    });
    let constants = constants(d)
        .into_iter()
        .map(|(what, value, source)| json!({ "what": what, "value": value, "source": source }));
    json!({
        "name": d.name,
        "provenance": d.provenance,
        "composed": d.composed,
        "date": d.date,
        "constants": constants.collect::<Vec<_>>(),
        "operators": tables.into_iter().collect::<serde_json::Map<_, _>>(),
        "fit": fit.collect::<serde_json::Map<_, _>>(),
    })
}

fn table(d: &DeviceProfile, model: &ModelShape, speeds: &[Speed]) -> String {
    let mut out = format!(
        "{} on {}: one iteration, host included. A prompt is computed whole, alone.\n\n  {:<4}{:<26}{:>10}{:>9}{:>12}\n",
        model.name, d.name, "TP", "iteration", "ms", "FLOPs", "bandwidth"
    );
    for s in speeds {
        let what = if s.prompt {
            format!("TTFT of {} tokens", s.context)
        } else {
            format!("TPOT of {} at {}", s.seqs, s.context)
        };
        let _ = writeln!(
            out,
            "  {:<4}{what:<26}{:>10.2}{:>7.1} %{:>10.1} %",
            s.tp,
            s.ms,
            1e2 * s.flops_use,
            1e2 * s.bandwidth_use
        );
    }
    if speeds.is_empty() {
        out.push_str("  does not fit on up to 8 GPUs\n");
    }
    out
}

/// Predicted against measured, a panel for each operator, logarithmic; a line where they are equal.
fn draw(
    name: &str,
    points: &BTreeMap<String, Vec<Point>>,
) -> Result<String, Box<dyn std::error::Error>> {
    let mut svg = String::new();
    {
        let columns = 3;
        let rows = points.len().div_ceil(columns);
        let root = SVGBackend::with_string(&mut svg, (1080, 340 * rows as u32)).into_drawing_area();
        root.fill(&WHITE)?;
        for (area, (operator, points)) in root.split_evenly((rows, columns)).iter().zip(points) {
            let times = || points.iter().flat_map(|p| [p.measured, p.unseen]);
            let low = times().fold(f64::INFINITY, f64::min).max(1e-9) * 1e6;
            let high = times().fold(0.0, f64::max) * 1e6;
            let title = format!("{name}: {operator}, µs, predicted unseen over measured");
            let mut chart = ChartBuilder::on(area)
                .caption(title, ("sans-serif", 13))
                .margin(10)
                .x_label_area_size(24)
                .y_label_area_size(48)
                .build_cartesian_2d((low..high).log_scale(), (low..high).log_scale())?;
            chart.configure_mesh().x_labels(6).y_labels(6).light_line_style(TRANSPARENT).draw()?;
            // Some thousands show as much as all.
            let step = points.len().div_ceil(3000).max(1);
            chart.draw_series(points.iter().step_by(step).map(|p| {
                let color = RGBColor(0, 90, 160).mix(0.35).filled();
                Circle::new((p.measured * 1e6, p.unseen * 1e6), 1, color)
            }))?;
            chart.draw_series(LineSeries::new([(low, low), (high, high)], BLACK))?;
        }
        root.present()?;
    }
    Ok(svg)
}
