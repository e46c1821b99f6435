//! `knee models`: the models that ship, and what a model is made of.

use std::fmt::Write as _;
use std::process::ExitCode;

use anyhow::Result;
use engine::config::KvDtype;
use engine::memory::KvLayout;
use engine::model::Entry;
use engine::{Config, ModelShape};
use serde_json::{Value, json};

use super::{print, print_json};
use crate::cli;
use crate::shape::shape;

/// Lengths at which the memory of a sequence is shown, tokens.
const LENGTHS: [u32; 2] = [1024, 131_072];
/// Tensor-parallel ranks whose memory is shown.
const RANKS: [u32; 4] = [1, 2, 4, 8];

pub(crate) fn run(args: &cli::Models) -> Result<ExitCode> {
    match &args.name {
        None => list(args.print.json),
        Some(name) => {
            let model = shape(name)?;
            let model = match args.quantization {
                Some(format) => model.quantised(format),
                None => model,
            };
            show(&model, args.print.json)
        }
    }?;
    Ok(ExitCode::SUCCESS)
}

fn list(as_json: bool) -> Result<()> {
    let models = Entry::all().iter().map(Entry::shape).collect::<Result<Vec<_>, _>>()?;
    if as_json {
        let rows: Vec<Value> = Entry::all()
            .iter()
            .zip(&models)
            .map(|(entry, model)| {
                let mut row = described(model);
                row["aliases"] = json!(entry.aliases);
                row
            })
            .collect();
        return print_json(&json!(rows));
    }
    let mut out = format!(
        "{:<48}{:>8}{:>8}{:>9}{:>9}{:>9}   {}\n{:<48}{:>8}{:>8}{:>9}{:>9}\n",
        "model",
        "B",
        "active",
        "KV/token",
        "KV/token",
        "context",
        "formats",
        "",
        "",
        "",
        "at 1k",
        "at 128k"
    );
    for model in &models {
        let [short, long] = per_token(model);
        let _ = writeln!(
            out,
            "{:<48}{:>8.1}{:>8.1}{short:>9.0}{long:>9.0}{:>9}   {}",
            model.name,
            billions(model.parameters()),
            billions(model.active_parameters()),
            model.max_context,
            formats(model).join(", ")
        );
    }
    let told = "KV/token: bytes of the bf16 pages that a sequence of this length holds while it decodes, those of \
                windows and of linear layers' states included, for each of its tokens.";
    let _ = writeln!(out, "\n{}", textwrap::fill(told, super::terminal().columns));
    print(&out)
}

fn billions(parameters: u64) -> f64 {
    parameters as f64 / 1e9
}

fn formats(model: &ModelShape) -> Vec<&'static str> {
    model.formats().iter().map(|format| format.name()).collect()
}

/// The layout of KV memory in a usual configuration.
fn layout(model: &ModelShape) -> KvLayout {
    KvLayout::new(model, &Config::default())
}

/// Bytes that a sequence holds for each of its tokens, on one rank, at each of [`LENGTHS`].
fn per_token(model: &ModelShape) -> [f64; 2] {
    LENGTHS.map(|n| layout(model).sequence_bytes(model, n) as f64 / f64::from(n))
}

/// Ranks that can share the heads.
fn ranks(model: &ModelShape) -> impl Iterator<Item = u32> {
    RANKS.into_iter().filter(|tp| engine::memory::divides(model, *tp))
}

fn show(model: &ModelShape, as_json: bool) -> Result<()> {
    if as_json {
        return print_json(&described(model));
    }
    let width = super::terminal().columns;
    let mut out = format!("{}\n  {}\n\n", model.name, model.source);
    let mut row = |what: &str, value: String| {
        let _ = writeln!(out, "  {what:<18} {value}");
    };
    row("parameters", format!("{:.2} billion", billions(model.parameters())));
    row("active", format!("{:.2} billion a token", billions(model.active_parameters())));
    row("width", format!("{}, {} rows of vocabulary", model.hidden, model.vocab));
    row("context", format!("{} tokens", model.max_context));
    row("formats", formats(model).join(", "));
    let [short, long] = per_token(model);
    row("KV bytes a token", format!("{short:.0} at 1k, {long:.0} at 128k (bf16)"));
    out.push_str("\n  layers\n");
    let indented = |line: &str| {
        let within =
            textwrap::Options::new(width).initial_indent("  ").subsequent_indent("         ");
        textwrap::fill(line, within) + "\n"
    };
    for (count, layer) in model.layers.groups() {
        out.push_str(&indented(&format!("{count:>4} x {}", layer.describe())));
    }
    let groups = layout(model).describe();
    if !groups.is_empty() {
        out.push_str("\n  groups of KV pages (TP 1, bf16, blocks of 16)\n");
        groups.iter().for_each(|group| out.push_str(&indented(&format!("  {group}"))));
    }
    let _ = writeln!(
        out,
        "\n  {:<4}{:>16}{:>22}{:>22}{:>22}",
        "TP", "weights GB/GPU", "KV bytes/token bf16", "KV bytes/token fp8", "state KB/sequence"
    );
    for tp in ranks(model) {
        let kv = |kv| model.kv_bytes_per_token(kv, tp);
        let _ = writeln!(
            out,
            "  {tp:<4}{:>16.1}{:>22}{:>22}{:>22.0}",
            model.rank_weight_bytes(tp, 1, 0) as f64 / 1e9,
            kv(KvDtype::Bf16),
            kv(KvDtype::Fp8),
            model.stage_state_bytes(tp, 1, 0) as f64 / 1e3
        );
    }
    for note in &model.notes {
        let within = textwrap::Options::new(width).initial_indent("  ").subsequent_indent("    ");
        let _ = write!(out, "\n{}", textwrap::fill(&format!("note: {note}"), within));
    }
    print(&(out + "\n"))
}

fn described(model: &ModelShape) -> Value {
    let [short, long] = per_token(model);
    let layers = model.layers.groups().map(|(count, layer)| {
        json!({ "count": count, "what": layer.describe(), "formats": layer.formats })
    });
    let memory = ranks(model).map(|tp| {
        json!({
            "tp": tp,
            "weight_bytes": model.rank_weight_bytes(tp, 1, 0),
            "kv_bytes_per_token": model.kv_bytes_per_token(KvDtype::Bf16, tp),
            "kv_bytes_per_token_fp8": model.kv_bytes_per_token(KvDtype::Fp8, tp),
            "state_bytes_per_sequence": model.stage_state_bytes(tp, 1, 0),
        })
    });
    json!({
        "name": model.name,
        "source": model.source,
        "parameters": model.parameters(),
        "active_parameters": model.active_parameters(),
        "hidden": model.hidden,
        "vocab": model.vocab,
        "max_context": model.max_context,
        "formats": formats(model),
        "kv_bytes_per_token_at_1k": short,
        "kv_bytes_per_token_at_128k": long,
        "layers": layers.collect::<Vec<_>>(),
        "kv_groups": layout(model).describe(),
        "memory": memory.collect::<Vec<_>>(),
        "notes": model.notes,
    })
}
