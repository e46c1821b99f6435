//! From names and files to the things the library works on.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use engine::exec::cost::CostModel;
use engine::files::{LONGEST_SETTINGS, read_text};
use engine::{Config, DeviceProfile, EngineProfile, ModelShape};
use loadgen::{BoundSlo, Slo};
use tuner::subject::bed::Testbed;
use workloads::{Description, ReadOptions, Reference, Spec, Stream, Trace};

use crate::cli::{Computing, Reading, Scenario, Workload};
use crate::computing::Here;
use crate::devices::Hardware;
use crate::shape::shape;
use crate::tell::tell;

/// A trace and what its source is known to be like, where it was synthesised.
pub(crate) struct Loaded {
    pub(crate) trace: Trace,
    pub(crate) reference: Option<Reference>,
    pub(crate) seed: u64,
    /// Its description, where it was synthesised.
    spec: Option<Spec>,
}

impl Loaded {
    /// Its statistics.
    pub(crate) fn describe(&self) -> Description {
        workloads::describe(&self.trace)
    }

    /// `first`, which it begins with, and how that goes on.
    fn stream(&self, first: Trace) -> Stream {
        match &self.spec {
            Some(spec) => Stream::drawn(first, spec.clone(), self.seed),
            None => Stream::replayed(first),
        }
    }
}

/// Reads or synthesises what `name` stands for: a preset, a workload TOML, a trace file.
pub(crate) fn load(name: &str, reading: &Reading) -> Result<Loaded> {
    if let Some(spec) = spec(name)? {
        return synthesised(spec, reading, name);
    }
    let path = Path::new(name);
    if name != "-" && !path.exists() {
        let known: Vec<String> = workloads::presets().into_iter().map(|(n, _)| n).collect();
        let meant = workloads::meant(name, known.iter().map(String::as_str));
        bail!(
            "no workload `{name}`: {meant}it is neither a preset ({}) nor a file",
            known.join(", ")
        );
    }
    let options = ReadOptions {
        format: reading.format,
        time_unit: reading.time_unit,
        rate: reading.arrival_rate,
        block_tokens: reading.block_tokens,
        keep_failed: reading.keep_failed,
        map: reading.map.clone(),
        date_order: reading.date_order,
        seed: reading.seed.unwrap_or(1),
    };
    let trace = workloads::read(path, &options)?;
    Ok(Loaded { trace, reference: None, seed: options.seed, spec: None })
}

/// The trace that `spec` describes, which was asked for as `name`.
fn synthesised(spec: Spec, reading: &Reading, name: &str) -> Result<Loaded> {
    if let Some(flag) = reading.of_files() {
        bail!("{flag} says how to read a trace file, and {name} is synthesised: leave it out");
    }
    let trace = workloads::synthesise(&spec, reading.seed)?;
    let seed = reading.seed.unwrap_or(spec.seed());
    let reference = spec.reference().cloned();
    Ok(Loaded { trace, reference, seed, spec: Some(spec) })
}

/// The default number of requests of one size.
const RANDOM: u32 = 1000;

/// The requests of one size that are asked for instead of a workload.
fn random(workload: &Workload) -> Result<Option<Spec>> {
    let (Some(input), Some(output)) = (workload.isl, workload.osl) else { return Ok(None) };
    let requests = workload.requests.map_or(RANDOM, |n| u32::try_from(n).unwrap_or(u32::MAX));
    Ok(Some(Spec::random(input, output, workload.range_ratio, requests)?))
}

impl Reading {
    /// The first flag that only means something for a file, if one was given.
    fn of_files(&self) -> Option<&'static str> {
        [
            (self.format.is_some(), "--format"),
            (self.time_unit.is_some(), "--time-unit"),
            (self.arrival_rate.is_some(), "--arrival-rate"),
            (self.block_tokens.is_some(), "--block-tokens"),
            (self.keep_failed, "--keep-failed"),
            (!self.map.is_empty(), "--map"),
            (self.date_order.is_some(), "--date-order"),
        ]
        .iter()
        .find_map(|&(given, flag)| given.then_some(flag))
    }
}

/// The description `name` stands for, unless it is a trace file.
pub(crate) fn spec(name: &str) -> Result<Option<Spec>> {
    if let Some(spec) = workloads::preset(name) {
        return Ok(Some(spec));
    }
    if !name.ends_with(".toml") {
        return Ok(None);
    }
    let text = read_text(Path::new(name), LONGEST_SETTINGS);
    let text = text.with_context(|| format!("cannot read {name}"))?;
    Ok(Some(Spec::parse(name, &text)?))
}

/// The trace to run, with something in it.
pub(crate) fn workload(workload: &Workload) -> Result<(Arc<Trace>, u64)> {
    let (stream, seed) = stream(workload)?;
    Ok((Arc::new(stream.first().clone()), seed))
}

/// The same trace, and its continuation. A synthesised one has as many requests as are asked for.
fn stream(workload: &Workload) -> Result<(Stream, u64)> {
    let loaded = match random(workload)? {
        Some(spec) => synthesised(spec, &workload.read, "--isl")?,
        None => load(&workload.workload, &workload.read)?,
    };
    let mut trace = loaded.trace.clone();
    match workload.requests {
        Some(n) if n > trace.requests.len() && loaded.spec.is_some() => {
            trace = loaded.stream(trace).head(n);
        }
        Some(n) => trace = trace.head(n),
        None => {}
    }
    if let Some(most) = workload.cut {
        trace = trace.cut(most);
    }
    if trace.longest() == 0 {
        bail!("{}: no request has a prompt or a response: nothing to run", trace.name);
    }
    Ok((loaded.stream(trace), loaded.seed))
}

/// Refuses traces whose speed cannot be changed, for lack of one.
pub(crate) fn need_rate(trace: &Trace) -> Result<()> {
    let (name, rate) = (&trace.name, trace.offered_rate());
    match trace.requests.len() {
        _ if rate > 0.0 && rate.is_finite() => Ok(()),
        1 => bail!("{name}: one request has no rate to search; use a longer trace"),
        _ => bail!(
            "{name}: all requests arrive at one instant, so there is no rate to search; use a longer trace, or --arrival-rate if the file has no times"
        ),
    }
}

/// By how much to speed `trace` up for requests to arrive at `rate` per second.
pub(crate) fn scale(trace: &Trace, rate: f64) -> Result<f64> {
    need_rate(trace)?;
    fitting(trace, rate / trace.offered_rate())
}

/// `scale`, unless virtual time, which counts nanoseconds in 64 bits, had no room for the trace then.
pub(crate) fn fitting(trace: &Trace, scale: f64) -> Result<f64> {
    let years = trace.span().as_secs_f64() / scale / (365.25 * 86_400.0);
    if scale <= 0.0 || years > 250.0 {
        bail!("{}: at that rate it lasts more than 250 years; raise it", trace.name);
    }
    Ok(scale)
}

/// Trace and targets of a scenario, and the seed of what was synthesised.
pub(crate) struct Prepared {
    pub(crate) trace: Arc<Trace>,
    stream: Arc<Stream>,
    pub(crate) slo: BoundSlo,
    pub(crate) seed: u64,
    told: RefCell<BTreeSet<String>>,
}

impl Prepared {
    /// Its requests of at most `most` tokens, and their share of all.
    pub(crate) fn within(self, most: u32) -> (Self, f64) {
        let all = self.trace.requests.len().max(1) as f64;
        let trace = Trace::clone(&self.trace).within(most);
        let share = trace.requests.len() as f64 / all;
        let stream = Arc::new(Stream::replayed(trace.clone()));
        (Self { stream, trace: Arc::new(trace), ..self }, share)
    }

    /// The same requests as a closed loop of so many streams.
    pub(crate) fn closed_loop(self, streams: u32) -> Self {
        let trace = self.stream.first().clone().closed_loop(streams);
        Self { stream: Arc::new(Stream::replayed(trace.clone())), trace: Arc::new(trace), ..self }
    }

    /// The scenario on `device`, of the model that `scenario` names.
    pub(crate) fn on(&self, device: Hardware, scenario: &Scenario) -> Result<Testbed> {
        let model = Arc::new(shape(scenario.model())?);
        let engine = scenario.instead.by.profile()?;
        self.remark(&model, &device.profile, &engine);
        let bed = Testbed::new(Arc::clone(&self.trace), model, device.profile, self.slo.clone());
        let bed = bed.under(engine).corrected(device.correction);
        Ok(bed.going_on(Arc::clone(&self.stream)))
    }

    /// Says what is left out of a model, and what of it was not measured on a device or of an engine: each once.
    fn remark(&self, model: &ModelShape, device: &DeviceProfile, engine: &EngineProfile) {
        let (name, own) = (&model.name, model.notes.iter());
        let borrowed = CostModel::untabled(model, device).into_iter();
        let borrowed = borrowed.map(|b| format!("{name} on {}: {b}", device.name));
        let own = own.map(|note| format!("{name}: {note}"));
        for note in own.chain(borrowed).chain(engine.note()) {
            if self.told.borrow_mut().insert(note.clone()) {
                tell(&format!("knee: note: {note}"));
            }
        }
    }

    /// The notes of the models and devices asked for.
    pub(crate) fn notes(&self) -> Vec<String> {
        self.told.borrow().iter().cloned().collect()
    }

    /// The scenario computed on this machine, the model split as `config` says.
    pub(crate) fn here(
        &self,
        device: &str,
        scenario: &Scenario,
        how: &Computing,
        config: &Config,
    ) -> Result<Testbed> {
        let here = how.load(device, scenario.model(), config)?;
        let bed = self.like(&here, here.machine.limits(&here.name)?)?;
        Ok(bed.computed(here.machine))
    }

    /// The scenario predicted for this machine by `profile`.
    pub(crate) fn like(&self, here: &Here, profile: DeviceProfile) -> Result<Testbed> {
        let (trace, shape) = (Arc::clone(&self.trace), Arc::clone(&here.shape));
        let bed = Testbed::new(trace, shape, Arc::new(profile), self.slo.clone());
        let bed = bed.under(Arc::new(EngineProfile::bare()));
        Ok(bed.with_kv_slots(here.kv_slots))
    }
}

/// Traffic and targets.
pub(crate) fn prepare(scenario: &Scenario) -> Result<Prepared> {
    let slo = Slo::parse(&scenario.slo, scenario.attainment.as_deref())?;
    let (stream, seed) = stream(&scenario.workload)?;
    let trace = Arc::new(stream.first().clone());
    let slo = slo.bind(&trace.classes)?;
    Ok(Prepared { trace, stream: Arc::new(stream), slo, seed, told: RefCell::default() })
}
