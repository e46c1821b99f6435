//! The places that results go to: a folder, standard output, or both.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use anyhow::{Context, Result, bail};
use engine::EngineProfile;
use engine::profile::{DeviceProfile, PriceBasis};
use reports::{About, Assumption, Report};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tuner::export::quoted;
use tuner::subject::study::{Identity, Runs, StudyError};

use super::{print, print_as_is, print_json, question, secrets, terminal};
use crate::cli::Output;
use crate::settings;
use crate::tell::{detail, tell};

/// The folder of the folders that are made where none is given: beside the work, out of its way.
const DEFAULT: &str = "knee-out";
/// The link in it to the one written last.
const LATEST: &str = "latest";

impl Output {
    /// The folder to write: as asked, else the question's own; none when only JSON was asked for.
    pub(crate) fn folder(&self) -> Option<PathBuf> {
        static OWN: OnceLock<PathBuf> = OnceLock::new();
        match &self.out {
            Some(dir) => Some(dir.clone()),
            None if self.json => None,
            None => Some(OWN.get_or_init(|| question::asked().folder(Path::new(DEFAULT))).clone()),
        }
    }

    /// Fails early where results could not be written in the end, or would overwrite those of another question.
    pub(crate) fn check(&self) -> Result<()> {
        let Some(dir) = self.folder() else { return Ok(()) };
        let failed = || format!("cannot write to {}", dir.display());
        question::asked().check(&dir)?;
        std::fs::create_dir_all(&dir).with_context(failed)?;
        // Of its own, because another run may be trying the same folder.
        let probe = dir.join(format!(".knee-probe-{}", std::process::id()));
        std::fs::write(&probe, b"").with_context(failed)?;
        std::fs::remove_file(&probe).with_context(failed)?;
        detail(&format!("results go to {}", dir.display()));
        Ok(())
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
            false => print_as_is(&report.terminal(terminal())),
        };
        let Some(dir) = self.folder() else { return printed };
        let text = serde_json::to_string_pretty(result)? + "\n";
        let page = report.write(&dir);
        let drawn = page.is_ok();
        let question = question::asked().store(&dir);
        let mut done = vec![printed, question, file(&dir, "result.json", text.as_bytes())];
        done.push(page.map(drop).map_err(Into::into));
        done.extend(more(&dir));
        if drawn && self.out.is_none() {
            link(&dir);
        }
        if drawn && !self.json {
            done.push(print(&format!("\nReport: {}\n", dir.join(reports::PAGE).display())));
        }
        all(done)
    }
}

/// Points the link to the latest results at `dir`. A link is a convenience: one that cannot be made is done without.
fn link(dir: &Path) {
    #[cfg(unix)]
    if let (Some(parent), Some(name)) = (dir.parent(), dir.file_name()) {
        let made = parent.join(format!(".{LATEST}-{}", std::process::id()));
        let place = parent.join(LATEST);
        let ours = place.symlink_metadata().map_or(true, |there| there.is_symlink());
        if ours && std::os::unix::fs::symlink(name, &made).is_ok() {
            let _ = std::fs::rename(&made, place);
        }
    }
}

/// The file of a folder's runs.
const STUDY: &str = "study.sqlite";

/// The runs that `dir` remembers. Those that were made with something else than now, such as another build of this
/// program, are set aside, and the search begins anew.
pub(crate) fn study<R>(dir: &Path, identity: &Identity) -> Result<Runs<R>>
where
    R: Clone + Serialize + DeserializeOwned,
{
    let path = dir.join(STUDY);
    let (what, theirs, ours) = match Runs::open(&path, identity) {
        Err(StudyError::Other { what, theirs, ours, .. }) => (what, theirs, ours),
        opened => {
            let study = opened?;
            detail(&format!("{}: {} runs remembered", path.display(), study.len()));
            return Ok(study);
        }
    };
    let aside = (1..).map(|n| dir.join(format!("study-{n}.sqlite"))).find(|path| !path.exists());
    let aside = aside.unwrap_or_else(|| path.with_extension("old"));
    std::fs::rename(&path, &aside)
        .with_context(|| format!("cannot set {} aside", path.display()))?;
    tell(&format!(
        "knee: note: earlier runs were made with {what} = {theirs}, now it is {ours}: they are set aside as {}",
        aside.display()
    ));
    Ok(Runs::open(&path, identity)?)
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
pub(crate) fn about(devices: &[&DeviceProfile], engine: &EngineProfile) -> About {
    let command = typed();
    let set = settings::used().iter().map(|used| Assumption {
        what: format!("{}, which was not typed", used.flag),
        source: format!("{} in {}", used.key, used.place),
    });
    let assumptions =
        devices.iter().flat_map(|d| assumptions(d)).chain(outside(engine)).chain(set).collect();
    About { command, assumptions }
}

/// The command as it was typed, secrets aside: it is stored.
pub(crate) fn typed() -> String {
    let words = secrets::words(std::env::args().skip(1)).into_iter();
    let words = words.map(|word| quoted(&word));
    std::iter::once("knee".to_owned()).chain(words).collect::<Vec<_>>().join(" ")
}

fn assumptions(device: &DeviceProfile) -> Vec<Assumption> {
    let (name, price) = (&device.name, &device.price);
    let basis = match price.basis {
        PriceBasis::Quoted => "quoted",
        PriceBasis::Assumed => "assumed",
    };
    let mut entries = vec![entry(format!("{name}: times of operators"), &device.provenance)];
    if let Some(host) = &device.host {
        let (step, seq) = (host.step_us, host.seq_us);
        let what = format!("{name}: host time {step} µs per iteration, {seq} µs per sequence");
        entries.push(entry(what, &host.source));
    }
    entries.push(entry(
        format!(
            "{name}: {:.2} {} per GPU and hour ({basis}, {})",
            price.per_gpu_hour, price.currency, price.date
        ),
        &format!("{} (another: --price {name}=USD)", price.source),
    ));
    entries
}

fn entry(what: String, source: &str) -> Assumption {
    Assumption { what, source: source.to_owned() }
}

/// Times outside the GPU.
fn outside(engine: &EngineProfile) -> Vec<Assumption> {
    let of = engine.times_of.as_ref().map_or_else(String::new, |of| format!(", as {of}"));
    let name = format!("{}{of}", engine.label());
    let times = |[step, seq]: [f64; 2]| format!("{step} µs per iteration, {seq} µs per sequence");
    let (host, unhidden) = (&engine.outside.host, &engine.outside.unhidden);
    let (launch, front_end) = (&engine.outside.launch, &engine.outside.front_end);
    let mut entries = Vec::new();
    if !host.ranks.is_empty() {
        entries.push(entry(format!("{name}: host time {}", times(host.at(1))), &host.source));
    }
    if unhidden != host {
        let what =
            format!("{name}: not hidden by asynchronous scheduling {}", times(unhidden.at(1)));
        entries.push(entry(what, &unhidden.source));
    }
    if launch.kernel_us > 0.0 {
        let (us, tokens) = (launch.kernel_us, launch.graph_tokens);
        let what = format!(
            "{name}: {us} µs to launch a kernel outside CUDA graphs, which hold up to {tokens} tokens"
        );
        entries.push(entry(what, &launch.source));
    }
    if !front_end.is_nothing() {
        let (request, token) = (front_end.request_ms, front_end.token_us);
        let what =
            format!("{name}: front end {request} ms per request, {token} µs per prompt token");
        entries.push(entry(what, &front_end.source));
    }
    entries
}
