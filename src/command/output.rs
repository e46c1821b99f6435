//! Where results go: a folder, standard output, or both.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use engine::profile::{DeviceProfile, PriceBasis};
use reports::{About, Assumption, Report};
use serde::Serialize;
use tuner::export::quoted;

use super::{print, print_json};
use crate::cli::Output;

/// Where a report goes when nobody says: beside the work, out of its way.
const DEFAULT: &str = "knee-out";

impl Output {
    /// The folder to write: as asked, else the default one; none when only JSON was asked for.
    pub(crate) fn folder(&self) -> Option<PathBuf> {
        match &self.out {
            Some(dir) => Some(dir.clone()),
            None => (!self.json).then(|| PathBuf::from(DEFAULT)),
        }
    }

    /// Fails early where results could not be written in the end.
    pub(crate) fn check(&self) -> Result<()> {
        let Some(dir) = self.folder() else { return Ok(()) };
        let failed = || format!("cannot write to {}", dir.display());
        std::fs::create_dir_all(&dir).with_context(failed)?;
        // Of its own, because another run may be trying the same folder.
        let probe = dir.join(format!(".knee-probe-{}", std::process::id()));
        std::fs::write(&probe, b"").with_context(failed)?;
        std::fs::remove_file(&probe).with_context(failed)
    }

    /// Writes `report` and `result` and prints one of them.
    pub(crate) fn deliver(&self, report: &Report, result: &impl Serialize) -> Result<()> {
        let folder = self.folder();
        if let Some(dir) = &folder {
            let text = serde_json::to_string_pretty(result)? + "\n";
            reports::write_file(dir, "result.json", text.as_bytes())?;
            report.write(dir)?;
        }
        if self.json {
            return print_json(result);
        }
        print(&report.terminal(std::io::stdout().is_terminal()))?;
        match &folder {
            Some(dir) => print(&format!("\nReport: {}\n", dir.join(reports::PAGE).display())),
            None => Ok(()),
        }
    }
}

/// Every request and iteration of a run, for other tools.
pub(crate) fn write_run(dir: &Path, title: &str, run: &tuner::observation::Detailed) -> Result<()> {
    let mut bytes = Vec::new();
    reports::csv::requests(&run.records, &mut bytes)?;
    reports::write_file(dir, "requests.csv", &bytes)?;
    bytes.clear();
    reports::chrome_trace::write(title, &run.iterations, &run.kv_series, &mut bytes)?;
    reports::write_file(dir, "trace.json", &bytes)?;
    Ok(())
}

/// How this report came about, and what it takes for granted.
pub(crate) fn about(devices: &[&DeviceProfile]) -> About {
    let command = typed();
    let assumptions = devices.iter().flat_map(|d| assumptions(d)).collect();
    About { command, assumptions }
}

/// The command as it was typed, keys aside: it is stored.
pub(crate) fn typed() -> String {
    let mut hide = false;
    let words = std::env::args().skip(1).map(|word| {
        let secret =
            std::mem::replace(&mut hide, matches!(word.as_str(), "--api-key" | "--header"));
        match word.split_once('=') {
            _ if secret => "***".to_owned(),
            Some((flag @ ("--api-key" | "--header"), _)) => format!("{flag}=***"),
            _ if word.contains(' ') => quoted(&unkeyed(&word)),
            _ => quoted(&word),
        }
    });
    std::iter::once("knee".to_owned()).chain(words).collect::<Vec<_>>().join(" ")
}

/// A command for a shell, keys and tokens aside.
pub(crate) fn unkeyed(command: &str) -> String {
    let mut hide = false;
    let words = command.split_inclusive(char::is_whitespace).map(|piece| {
        let word = piece.trim_end();
        let gap = &piece[word.len()..];
        let secret = |name: &str| {
            let name = name.trim_start_matches('-').to_ascii_lowercase().replace('-', "_");
            ["api_key", "token", "secret", "password"].iter().any(|end| name.ends_with(end))
        };
        let hidden = !word.is_empty() && std::mem::take(&mut hide);
        match word.split_once('=') {
            _ if hidden => format!("***{gap}"),
            Some((name, _)) if secret(name) => format!("{name}=***{gap}"),
            None if word.starts_with("--") && secret(word) => {
                hide = true;
                piece.to_owned()
            }
            _ => piece.to_owned(),
        }
    });
    words.collect()
}

fn assumptions(device: &DeviceProfile) -> Vec<Assumption> {
    let (name, price, host) = (&device.name, &device.price, &device.host);
    let basis = match price.basis {
        PriceBasis::Quoted => "quoted",
        PriceBasis::Assumed => "assumed",
    };
    let entry = |what: String, source: &str| Assumption { what, source: source.to_owned() };
    vec![
        entry(format!("{name}: times of operators"), &device.provenance),
        entry(
            format!(
                "{name}: host time {} µs per iteration, {} µs per sequence",
                host.step_us, host.seq_us
            ),
            &host.source,
        ),
        entry(
            format!(
                "{name}: {:.2} {} per GPU and hour ({basis}, {})",
                price.per_gpu_hour, price.currency, price.date
            ),
            &price.source,
        ),
    ]
}
