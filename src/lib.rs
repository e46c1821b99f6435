//! Which LLM-serving configuration gives the most throughput under latency targets: the library of the program `knee`.
//!
//! This crate is the stable surface: what stands in its documentation keeps its meaning within a minor version. The
//! crates below it (`knee-engine`, `knee-tuner` and so on) are internal and change without notice; types of theirs
//! that stand here are stable in what the examples show of them.
//!
//! The way from traffic to an answer: [`trace()`] reads it, [`model`] and [`device`] describe what serves it, a
//! [`Scenario`] puts them together under latency targets, [`Scenario::simulate`] tries one configuration at one rate,
//! [`Scenario::tune`] searches for the best, and an [`Answer`] is read, drawn as a page or printed.
//!
//! ```
//! let trace = knee::trace("chat")?.head(200);
//! let scenario = knee::Scenario::new(trace, knee::model("llama-3.1-8b")?, knee::device("h100-sxm")?);
//! let scenario = scenario.targets(&["ttft=1s", "tpot=50ms"])?;
//!
//! // One configuration at one rate.
//! let config = knee::config(&[("policy", "chunked"), ("max-seqs", "64")])?;
//! let run = scenario.simulate(&config, 4.0)?;
//! assert!(run.holds());
//!
//! // The best of many.
//! let answer = scenario.tune(1, &[("policy", "chunked"), ("max-seqs", "64")])?;
//! let best = answer.result().best.as_ref().expect("something holds these targets");
//! assert!(best.capacity_rps > 4.0);
//! assert!(answer.html().starts_with("<!DOCTYPE html>"));
//! println!("{}", answer.text());
//! # Ok::<(), knee::Error>(())
//! ```

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use loadgen::Slo;
use reports::{About, Detail, TuneReport};
use tuner::contest::progress::{Silent, Watch};
use tuner::evidence::accuracy;
use tuner::result::{Objective, config_of};
use tuner::space::{Scope, Space};
use tuner::subject::bed::Testbed;
use tuner::subject::observation::Detailed;
use tuner::subject::{Relax, Subject};
use tuner::tune::{DeviceUnderTest, Method, Question};
use workloads::ReadOptions;

pub use engine::{Config, DeviceProfile, ModelShape};
pub use loadgen::{Metric, Stats, Summary};
pub use tuner::result::{Operating, TuneResult};
pub use workloads::Trace;

/// A mistake, in one line for a person.
#[derive(Debug)]
pub struct Error(String);

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Error {}

/// The one road by which errors of the crates below become ours.
fn told(error: impl fmt::Display) -> Error {
    Error(error.to_string())
}

/// The traffic called `name`: a preset such as `chat`, or a trace file in any format that `knee trace inspect` reads.
///
/// ```
/// let trace = knee::trace("code")?;
/// assert!(trace.requests.len() > 100);
/// # Ok::<(), knee::Error>(())
/// ```
///
/// # Errors
/// If it is neither, or the file cannot be read.
pub fn trace(name: &str) -> Result<Trace, Error> {
    match workloads::preset(name) {
        Some(preset) => workloads::synthesise(&preset, None).map_err(told),
        None => workloads::read(Path::new(name), &ReadOptions::default()).map_err(told),
    }
}

/// The model called `name`: one that ships (`knee models` lists them), a folder with a `config.json`, such a file, or
/// `hf:ORG/NAME`.
///
/// ```
/// assert!(knee::model("llama-3.1-8b").is_ok());
/// assert!(knee::model("no-such-model").unwrap_err().to_string().contains("no-such-model"));
/// ```
///
/// # Errors
/// If there is no such model, or its layers are of a kind that is not known.
pub fn model(name: &str) -> Result<ModelShape, Error> {
    ModelShape::load(name).map_err(told)
}

/// The GPU called `name`: one that ships (`knee devices` lists them), or a profile's file.
///
/// ```
/// assert_eq!(knee::device("h100-sxm")?.name, "h100-sxm");
/// # Ok::<(), knee::Error>(())
/// ```
///
/// # Errors
/// If there is no such device, or its profile is not valid.
pub fn device(name: &str) -> Result<DeviceProfile, Error> {
    DeviceProfile::load(name).map_err(told)
}

/// A configuration: the defaults with `knobs`, names and values as typed after `--` on the command line, laid over them
/// in order.
///
/// ```
/// let config = knee::config(&[("policy", "paged"), ("max-seqs", "128")])?;
/// assert_eq!(config.max_seqs, 128);
/// assert!(knee::config(&[("max-seqs", "many")]).is_err());
/// # Ok::<(), knee::Error>(())
/// ```
///
/// # Errors
/// Names a knob that there is not, or a value that it does not take.
pub fn config(knobs: &[(&str, &str)]) -> Result<Config, Error> {
    let mut config = Config::default();
    for (knob, value) in knobs {
        config.set(knob, value).map_err(told)?;
    }
    Ok(config.canonical())
}

/// Traffic on a model and a device, under latency targets. Every time is predicted by the cost model; the same scenario
/// gives the same figures on every machine.
pub struct Scenario(Testbed);

impl Scenario {
    /// Without targets: what the load can be kept up with counts alone.
    #[must_use]
    pub fn new(trace: Trace, model: ModelShape, device: DeviceProfile) -> Self {
        let none = Slo::parse::<&str>(&[], None).and_then(|slo| slo.bind(&trace.classes));
        let none = none.unwrap_or_else(|_| unreachable!("no target names a class"));
        Self(Testbed::new(Arc::new(trace), Arc::new(model), Arc::new(device), none))
    }

    /// The same under `targets`, such as `ttft=200ms` or `tpot:p95=40ms`.
    ///
    /// # Errors
    /// Names a target that cannot be read, or is of a class that the traffic has not.
    pub fn targets(self, targets: &[&str]) -> Result<Self, Error> {
        let (model, device) = (Arc::clone(self.0.model()), Arc::clone(self.0.device()));
        let trace = self.0.trace().clone();
        let slo = Slo::parse(targets, None).map_err(told)?.bind(&trace.classes).map_err(told)?;
        Ok(Self(Testbed::new(Arc::new(trace), model, device, slo)))
    }

    /// One configuration with requests arriving at `rate` per second.
    ///
    /// # Errors
    /// If the configuration cannot run: the model does not fit, say; or the traffic has no rate to change.
    pub fn simulate(&self, config: &Config, rate: f64) -> Result<Run, Error> {
        let natural = self.0.natural_rate(self.0.requests());
        let scale = rate / natural;
        if !(scale.is_finite() && scale > 0.0) {
            return Err(Error(format!(
                "a rate of {rate} requests/s cannot be made of this traffic"
            )));
        }
        let deployment = self.0.deployment(config, Relax::Nothing).map_err(told)?;
        self.0.detail(&deployment, scale).map(Run).map_err(told)
    }

    /// The configuration of at most `gpus` GPUs that carries the most requests/s within the targets. `knobs` are pinned,
    /// as with flags of `knee tune`; all others are searched.
    ///
    /// # Errors
    /// If no configuration is possible within the pinned knobs, or the traffic has no rate to search.
    pub fn tune(&self, gpus: u32, knobs: &[(&str, &str)]) -> Result<Answer, Error> {
        let (bed, model) = (&self.0, self.0.model());
        let mut space = Space::new(Scope {
            gpus,
            fewer_gpus: false,
            shared_prefixes: bed.trace().block_tokens > 0,
            allow_lossy_kv: false,
            experts: model.has_experts(),
        });
        for (knob, value) in knobs {
            space.pin(knob, value).map_err(told)?;
        }
        space.check().map_err(told)?;
        let go_on = AtomicBool::new(false);
        let question = Question {
            devices: vec![DeviceUnderTest {
                info: bed.device_info(),
                subject: bed,
                accuracy: accuracy::pace(bed.device(), model, bed.engine()),
            }],
            space: &space,
            slo: bed.slo().slo(),
            objective: Objective::Rps,
            workload: bed.workload_info(),
            model: model.name.clone(),
            experts: model.has_experts(),
            notes: model.notes.clone(),
            engine: None,
            engines: Vec::new(),
            seed: 1,
            simulated: true,
            method: Method::Halving,
            demand: None,
            watch: Watch { progress: &Silent, cancel: &go_on },
        };
        let result = tuner::tune::tune(&question).map_err(told)?;
        let detail = match &result.best {
            None => None,
            Some(best) => {
                let config = config_of(&best.config).map_err(told)?;
                Some(Detail::new(&self.simulate(&config, best.capacity_rps)?.0))
            }
        };
        Ok(Answer(TuneReport::new(About::default(), result, None, Vec::new(), detail)))
    }
}

/// One configuration at one rate.
pub struct Run(Detailed);

impl Run {
    /// True where the targets held, and the load could have gone on for ever.
    #[must_use]
    pub fn holds(&self) -> bool {
        self.0.observation.summary.verdict.met && self.0.observation.sustain.sustained
    }

    /// Latencies, throughput and goodput: `run.summary().stats(Metric::Ttft).p99`.
    #[must_use]
    pub fn summary(&self) -> &Summary {
        &self.0.observation.summary
    }
}

/// The answer of a search.
pub struct Answer(TuneReport);

impl Answer {
    /// It as data, the same that `knee tune --json` prints.
    #[must_use]
    pub fn result(&self) -> &TuneResult {
        &self.0.result
    }

    /// It as one page of HTML that needs no network.
    #[must_use]
    pub fn html(&self) -> String {
        reports::tune_page(&self.0)
    }

    /// It as plain text for a terminal.
    #[must_use]
    pub fn text(&self) -> String {
        reports::terminal::tune(&self.0, reports::terminal::Terminal::default())
    }
}
