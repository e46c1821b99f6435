//! Replays what real engines did on real GPUs and prints what the simulator would have said, good and bad.
//!
//!     cargo run --release -p knee-tuner --example real_runs -- ../shared/profiles/real-runs [SET] [--json FILE]
//!
//! The folder is not part of the repository (its README lists sources, licences and grades); LLMServingSim's bench
//! lies beside it. Some constants come from runs of this folder, which the output names: these runs are no evidence for
//! them. Nothing else is fitted to any of these runs. `--profile NAME=FILE` and `--calibration FILE` replace a device's profile or add what `knee calibrate` found on
//! another run.

mod causes;
mod loads;
mod models;
mod requests;
mod setup;
mod sweeps;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use engine::DeviceProfile;
use serde::Serialize;
use tuner::evidence::accuracy::Uncertainty;
use tuner::evidence::validate::{Setup, Validation};

/// A set: what it adds to the results.
type Set = fn(&Source, &mut Results);

/// Every set, in the order of detail.
const SETS: &[(&str, Set)] = &[
    ("llmservingsim", requests::llmservingsim),
    ("blis", requests::blis),
    ("kubecon", sweeps::kubecon),
    ("lmbench-70b", requests::lmbench),
    ("sim-to-real", sweeps::stages),
    ("distserve", requests::distserve),
    ("exp7-8b", sweeps::exp7),
    ("ispass26", loads::ispass),
    ("bsc-bursts", loads::bursts),
];

/// The parts of profiles that were fitted to runs of this data, and those runs.
const FITTED: [(&str, &str); 3] = [
    (
        "what vLLM 0.15 leaves unhidden, and its front end",
        "sim-to-real's H100 stages of other models than Llama-2 and CodeLlama by mean TPOT; all of them by mean TTFT",
    ),
    (
        "sustained compute of H100",
        "bsc-bursts of prompts alone, by how their time grows with the prompt",
    ),
    ("host time of vLLM 0.11", "kubecon's sweeps of V1 below their knees, by mean TPOT"),
];

/// Sets that are not run, and why.
const LEFT_OUT: [(&str, &str); 3] = [
    ("transcribed (B)", "input and output lengths were not published"),
    ("mlperf-v5.1 (B)", "FP8 weights are not modelled; TensorRT-LLM's are graded C"),
    ("accelmark, yobitel (C+)", "lengths or flags were not recorded"),
];

/// Everything that `sets` show.
fn run_sets(sets: &[(&str, Set)], source: &Source) -> Results {
    let mut results = Results::default();
    for (_, set) in sets {
        set(source, &mut results);
    }
    results
}

/// One number of one setup in both worlds.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Line {
    set: &'static str,
    setup: String,
    what: &'static str,
    unit: &'static str,
    measured: f64,
    predicted: f64,
    /// Signed, percent.
    error: f64,
    /// The error that it may have, percent; 0 if there is no aim.
    aim: f64,
}

/// Something that cannot be compared, and why.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Skipped {
    set: String,
    why: String,
}

/// Everything gathered.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Results {
    lines: Vec<Line>,
    skipped: Vec<Skipped>,
    /// Why some missed.
    causes: Vec<causes::Checked>,
    /// Residuals of the per-request runs, by device.
    uncertainty: Vec<Uncertainty>,
}

impl Results {
    /// Adds the residuals of the rates of one setup.
    pub(crate) fn residuals(&mut self, device: &str, rates: &[&Validation]) {
        let at = self.uncertainty.iter().position(|u| u.device == device).unwrap_or_else(|| {
            self.uncertainty.push(Uncertainty::new(device));
            self.uncertainty.len() - 1
        });
        self.uncertainty[at].add(rates);
    }

    pub(crate) fn skip(&mut self, set: impl Into<String>, why: impl Into<String>) {
        self.skipped.push(Skipped { set: set.into(), why: why.into() });
    }
}

/// The source of data and profiles.
#[derive(Clone)]
pub(crate) struct Source {
    dir: PathBuf,
    profiles: Vec<(String, String)>,
    calibrations: Vec<tuner::evidence::calibrate::Overlay>,
    /// Only sets whose name contains this.
    only: Option<String>,
    /// The change that is made to every setup, to see its effect.
    change: fn(&mut Setup),
}

impl Source {
    /// The same, with every setup changed.
    pub(crate) fn changed(&self, change: fn(&mut Setup)) -> Self {
        Self { change, ..self.clone() }
    }

    pub(crate) fn path(&self, relative: &str) -> PathBuf {
        self.dir.join(relative)
    }

    pub(crate) fn json(&self, relative: &str) -> Option<serde_json::Value> {
        let text = std::fs::read_to_string(self.path(relative)).ok()?;
        serde_json::from_str(&text).ok()
    }

    /// The profile of a device, replaced and calibrated as asked; none if it does not exist.
    pub(crate) fn device(&self, name: &str) -> Option<Arc<DeviceProfile>> {
        let file = self.profiles.iter().find(|p| p.0 == name).map_or(name, |p| &p.1);
        let profile = DeviceProfile::load(file).ok()?;
        Some(Arc::new(self.overlay(name).map_or(profile.clone(), |o| o.apply(&profile))))
    }

    fn overlay(&self, name: &str) -> Option<&tuner::evidence::calibrate::Overlay> {
        self.calibrations.iter().find(|c| c.device == name)
    }

    /// The calibrated corrections of its operators.
    pub(crate) fn correction(&self, name: &str) -> Option<Arc<engine::exec::Correction>> {
        self.overlay(name)?.correction().ok()?
    }
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("real_runs: {message}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), String> {
    let mut args = std::env::args().skip(1);
    let mut source = Source {
        dir: PathBuf::new(),
        profiles: Vec::new(),
        calibrations: Vec::new(),
        only: None,
        change: |_| (),
    };
    let mut json = None;
    let mut words = Vec::new();
    while let Some(word) = args.next() {
        let mut value = || args.next().ok_or_else(|| format!("{word} needs a value"));
        match word.as_str() {
            "--json" => json = Some(PathBuf::from(value()?)),
            "--profile" => {
                let pair = value()?;
                let (name, file) = pair.split_once('=').ok_or("--profile takes NAME=FILE")?;
                source.profiles.push((name.to_owned(), file.to_owned()));
            }
            "--calibration" => {
                let overlay = tuner::evidence::calibrate::Overlay::read(Path::new(&value()?));
                source.calibrations.push(overlay.map_err(|e| e.to_string())?);
            }
            _ => words.push(word),
        }
    }
    source.dir = PathBuf::from(words.first().ok_or("give the folder of real runs")?);
    source.only = words.get(1).cloned();
    if !source.dir.join("README.md").exists() {
        return Err(format!(
            "{} is not the folder of real runs: no README.md",
            source.dir.display()
        ));
    }
    let wanted = |name: &str| source.only.as_ref().is_none_or(|only| name.contains(only.as_str()));
    let sets: Vec<(&str, Set)> = SETS.iter().filter(|(name, _)| wanted(name)).copied().collect();
    let mut results = run_sets(&sets, &source);
    for (set, why) in LEFT_OUT {
        results.skip(set, why);
    }
    results.causes = causes::checked(&source, &results.lines);
    print(&results);
    if let Some(path) = json {
        let text = serde_json::to_string_pretty(&results).map_err(|e| e.to_string())?;
        std::fs::write(&path, text).map_err(|e| format!("cannot write {}: {e}", path.display()))?;
    }
    Ok(())
}

/// The table, and what is not in it.
fn print(results: &Results) {
    println!(
        "{:<15} {:<40} {:<12} {:>9} {:>9} {:>7}",
        "set", "setup", "what", "measured", "predicted", "error"
    );
    let mut last = ("", "");
    for l in &results.lines {
        let same = last == (l.set, l.setup.as_str());
        let (set, setup) = if same { ("", "") } else { (l.set, l.setup.as_str()) };
        let mark = match l.aim {
            0.0 => ' ',
            aim if l.error.abs() <= aim => '+',
            _ => '!',
        };
        let what = format!("{} {}", l.what, l.unit);
        println!(
            "{set:<15} {setup:<40.40} {what:<12} {:>9} {:>9} {:>+6.1}%{mark}",
            three(l.measured),
            three(l.predicted),
            l.error
        );
        last = (l.set, &l.setup);
    }
    println!(
        "\n+ within the aim, ! outside it, unmarked: no aim\n\nmedian |error| by set and figure:"
    );
    let mut seen: Vec<(&str, &str)> = results.lines.iter().map(|l| (l.set, l.what)).collect();
    seen.sort_unstable();
    seen.dedup();
    for (set, what) in seen {
        let of = |l: &&Line| l.set == set && l.what == what;
        let mut errors: Vec<f64> = results.lines.iter().filter(of).map(|l| l.error.abs()).collect();
        errors.sort_by(f64::total_cmp);
        let worst = errors[errors.len() - 1];
        println!(
            "  {set:<15} {what:<10} {:>6.1}% of {:>2}, worst {worst:.1}%",
            errors[errors.len() / 2],
            errors.len()
        );
    }
    causes::print(&results.causes, &causes::unexplained(&results.lines));
    println!("\nerror bars of a prediction (90 %), from the residuals of per-request setups:");
    for u in &results.uncertainty {
        for statistic in ["ttft:mean", "ttft:p99", "tpot:mean", "tpot:p99", "e2e:p50", "e2e:p99"] {
            let Some(s) = u.spread(statistic) else { continue };
            let (low, high) = s.factors(0.9);
            println!(
                "  {:<15} {statistic:<10} x {low:.2} to x {high:.2} ({} setups)",
                u.device, s.runs
            );
        }
    }
    println!("\nfitted to, so no evidence:");
    for (what, runs) in FITTED {
        println!("  {what}: {runs}");
    }
    println!("\nnot compared:");
    for s in &results.skipped {
        println!("  {}: {}", s.set, s.why);
    }
}

fn three(x: f64) -> String {
    let digits = 2 - x.abs().max(1e-9).log10().floor() as i32;
    format!("{x:.*}", digits.clamp(0, 4) as usize)
}
