//! The places that results go to: a folder, standard output, or both.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use engine::profile::{DeviceProfile, PriceBasis};
use reports::{About, Assumption, Report};
use serde::Serialize;
use tuner::export::quoted;

use super::{print, print_as_is, print_json, secrets};
use crate::cli::Output;

/// The default folder of a report: beside the work, out of its way.
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

    /// Prints `report` or `result`, and writes both.
    pub(crate) fn deliver(&self, report: &Report, result: &impl Serialize) -> Result<()> {
        self.deliver_with(report, result, |_| Vec::new())
    }

    /// The same with `more` files. The findings are printed before any file is written, and the
    /// other files are written even if one cannot be. So a full disk loses no answer.
    pub(crate) fn deliver_with(
        &self,
        report: &Report,
        result: &impl Serialize,
        more: impl FnOnce(&Path) -> Vec<Result<()>>,
    ) -> Result<()> {
        let printed = match self.json {
            true => print_json(result),
            false => print_as_is(&report.terminal(std::io::stdout().is_terminal())),
        };
        let Some(dir) = self.folder() else { return printed };
        let text = serde_json::to_string_pretty(result)? + "\n";
        let page = report.write(&dir);
        let drawn = page.is_ok();
        let mut done = vec![printed, file(&dir, "result.json", text.as_bytes())];
        done.push(page.map(drop).map_err(Into::into));
        done.extend(more(&dir));
        if drawn && !self.json {
            done.push(print(&format!("\nReport: {}\n", dir.join(reports::PAGE).display())));
        }
        all(done)
    }
}

/// Says everything that failed.
pub(crate) fn all(done: impl IntoIterator<Item = Result<()>>) -> Result<()> {
    let failed = done.into_iter().filter_map(|done| Some(format!("{:#}", done.err()?)));
    let failed: Vec<String> = failed.collect();
    if failed.is_empty() { Ok(()) } else { bail!("{}", failed.join("; ")) }
}

/// Writes one file of a run.
pub(crate) fn file(dir: &Path, name: &str, bytes: &[u8]) -> Result<()> {
    Ok(reports::write_file(dir, name, bytes).map(drop)?)
}

/// Every request and iteration of a run, for other tools.
pub(crate) fn write_run(
    dir: &Path,
    title: &str,
    run: &tuner::subject::observation::Detailed,
) -> Vec<Result<()>> {
    let requests = || {
        let mut bytes = Vec::new();
        reports::csv::requests(&run.records, &mut bytes)?;
        file(dir, "requests.csv", &bytes)
    };
    let trace = || {
        let mut bytes = Vec::new();
        reports::chrome_trace::write(title, &run.iterations, &run.kv_series, &mut bytes)?;
        file(dir, "trace.json", &bytes)
    };
    vec![requests(), trace()]
}

/// The command behind a report, and the assumptions it rests on.
pub(crate) fn about(devices: &[&DeviceProfile]) -> About {
    let command = typed();
    let assumptions = devices.iter().flat_map(|d| assumptions(d)).collect();
    About { command, assumptions }
}

/// The command as it was typed, secrets aside: it is stored.
pub(crate) fn typed() -> String {
    let words = secrets::words(std::env::args().skip(1)).into_iter();
    let words = words.map(|word| quoted(&word));
    std::iter::once("knee".to_owned()).chain(words).collect::<Vec<_>>().join(" ")
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
