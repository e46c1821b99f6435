//! `knee config`: the settings in force, and where each comes from.

use std::fmt::Write as _;
use std::process::ExitCode;

use anyhow::Result;
use serde_json::{Value, json};

use super::{print, print_json};
use crate::settings::{KEYS, Settings};

pub(crate) fn run(settings: &Settings, as_json: bool) -> Result<ExitCode> {
    if as_json {
        print_json(&told(settings))?;
    } else {
        print(&shown(settings))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn told(settings: &Settings) -> Value {
    let key = |key: &crate::settings::Key| {
        let set = settings.set.get(key.name);
        let value = json!({
            "flag": format!("--{}", key.flag),
            "values": set.map(|s| &s.values),
            "from": set.map(|s| &s.place),
            "over": set.and_then(|s| s.over.as_ref()),
        });
        (key.name.to_owned(), value)
    };
    json!({
        "settings": KEYS.iter().map(key).collect::<serde_json::Map<_, _>>(),
        "files": settings.files.iter().map(|(file, is_there)| json!({ "file": file, "read": is_there })).collect::<Vec<_>>(),
    })
}

fn shown(settings: &Settings) -> String {
    let mut out = String::from("Settings in force; a flag of a command beats each of them.\n\n");
    let value = |name: &str| match settings.set.get(name) {
        Some(setting) => setting.values.join(", "),
        None => "-".to_owned(),
    };
    let width = KEYS.iter().map(|key| value(key.name).chars().count()).max().unwrap_or(0);
    for key in KEYS {
        let from = settings.set.get(key.name).map_or_else(String::new, |setting| {
            let over = setting.over.as_ref().map(|place| format!(", over {place}"));
            format!("{}{}", setting.place, over.unwrap_or_default())
        });
        let line = format!("  {:<9} {:<width$}  {from}", key.name, value(key.name));
        let _ = writeln!(out, "{}", line.trim_end());
    }
    out.push('\n');
    for (file, is_there) in &settings.files {
        let _ = writeln!(out, "  {file}: {}", if *is_there { "read" } else { "not there" });
    }
    out.push_str("\nKeys:\n");
    for key in KEYS {
        let _ = writeln!(out, "  {:<9} --{}: {}", key.name, key.flag, key.about);
    }
    out
}
