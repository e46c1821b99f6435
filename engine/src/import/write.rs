//! A profile as a file: scalars, then tables, one line for each row of knots.

use std::fmt::Write as _;

use toml::Value;

use super::tables::Fitted;
use crate::profile::FitError;

/// Entries in the order in which people look for them.
const ORDER: [&str; 29] = [
    "name",
    "provenance",
    "composed",
    "date",
    "memory_bytes",
    "peak_flops",
    "peak_fp8_flops",
    "peak_fp4_flops",
    "memory_bandwidth",
    "cache_bytes",
    "multiprocessors",
    "gpus_per_node",
    "runtime_bytes",
    "sustained",
    "sustained_gemm",
    "elementwise_together",
    "sources",
    "host",
    "price",
    "fit",
    "node",
    "network",
    "attention",
    "all_reduce",
    "elementwise",
    "sampler",
    "gemm",
    "prefill_attention",
    "decode_attention",
];

/// The profile of `sheet` with the fitted values.
pub(super) fn profile(sheet: &toml::Table, fitted: &Fitted) -> String {
    let mut entries = sheet.clone();
    for (key, value) in &fitted.entries {
        entries.insert(key.clone(), value.clone());
    }
    if !fitted.composed.is_empty() {
        entries.insert("composed".to_owned(), fitted.composed.clone().into());
    }
    let mut out = "# Written by `knee profile import`; to change a figure, change the sheet it came from and import again.\n".to_owned();
    let place = |key: &str| ORDER.iter().position(|o| *o == key).unwrap_or(ORDER.len());
    let mut keys: Vec<&String> = entries.keys().collect();
    keys.sort_by_key(|key| (place(key), key.as_str()));
    let (tables, scalars): (Vec<_>, Vec<_>) =
        keys.into_iter().partition(|key| is_table(&entries[*key]));
    for key in scalars {
        let _ = writeln!(out, "{key} = {}", inline(&entries[key]));
    }
    for key in tables {
        match &entries[key] {
            Value::Array(list) => {
                for item in list {
                    let _ = write!(out, "\n[[{key}]]\n");
                    section(&mut out, item);
                }
            }
            table => {
                let _ = write!(out, "\n[{key}]\n");
                section(&mut out, table);
            }
        }
    }
    for (kind, variants) in &fitted.operators {
        for (variant, table) in variants {
            let _ = write!(out, "\n[operators.{kind}.{variant}]\n");
            section(&mut out, &Value::Table(table.clone()));
        }
    }
    if !fitted.fit.is_empty() {
        out.push_str("\n# Rows, left out; fitted: mean, p90, p95; unseen: median, mean, p90, p95; isotonic.\n[fit]\n");
        for (operator, error) in &fitted.fit {
            let quote = if operator.contains('.') { "\"" } else { "" };
            let _ = writeln!(out, "{quote}{operator}{quote} = {}", stated(error));
        }
    }
    out
}

fn is_table(value: &Value) -> bool {
    match value {
        Value::Table(_) => true,
        Value::Array(list) => list.iter().any(Value::is_table),
        _ => false,
    }
}

/// A table's entries: scalars, then lists; a list of lists has a line for each.
fn section(out: &mut String, value: &Value) {
    let Value::Table(table) = value else { return };
    let nested =
        |value: &Value| matches!(value, Value::Array(list) if list.iter().any(Value::is_array));
    for (key, value) in table.iter().filter(|(_, v)| !nested(v)) {
        let _ = writeln!(out, "{key} = {}", inline(value));
    }
    for (key, value) in table.iter().filter(|(_, v)| nested(v)) {
        let Value::Array(list) = value else { continue };
        if key == "shapes" {
            let _ = writeln!(out, "{key} = {}", inline(value));
            continue;
        }
        let _ = writeln!(out, "{key} = [");
        for row in list {
            let _ = writeln!(out, "{},", inline(row));
        }
        out.push_str("]\n");
    }
}

fn inline(value: &Value) -> String {
    match value {
        Value::Array(list) => {
            format!("[{}]", list.iter().map(inline).collect::<Vec<_>>().join(","))
        }
        Value::Float(x) if x.fract() == 0.0 && x.abs() < 1e9 => format!("{x:.1}"),
        Value::Float(x) if x.abs() >= 1e9 => format!("{x:e}"),
        other => other.to_string(),
    }
}

/// The numbers of a fit's error, in the order of its fields.
fn stated(e: &FitError) -> String {
    let shares = [
        e.mean,
        e.p90,
        e.p95,
        e.unseen_median,
        e.unseen_mean,
        e.unseen_p90,
        e.unseen_p95,
        e.isotonic,
    ];
    let shares: Vec<String> = shares.iter().map(|x| format!("{x:.3}")).collect();
    format!("[{},{},{}]", e.rows, e.left_out, shares.join(","))
}
