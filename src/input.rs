//! From names and files to the things the library works on.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use engine::exec::Correction;
use engine::{DeviceProfile, ModelShape};
use loadgen::{BoundSlo, Slo};
use tuner::calibrate::Overlay;
use workloads::{Description, ReadOptions, Reference, Spec, Trace};

use crate::cli::{Reading, Scenario, Workload};

/// A trace and what its source is known to be like, where it was synthesised.
pub(crate) struct Loaded {
    pub(crate) trace: Trace,
    pub(crate) reference: Option<Reference>,
    pub(crate) seed: u64,
}

impl Loaded {
    /// Its statistics.
    pub(crate) fn describe(&self) -> Description {
        workloads::describe(&self.trace)
    }
}

/// Reads or synthesises what `name` stands for: a preset, a workload TOML, a trace file.
pub(crate) fn load(name: &str, reading: &Reading) -> Result<Loaded> {
    if let Some(spec) = spec(name)? {
        let trace = workloads::synthesise(&spec, reading.seed)?;
        let seed = reading.seed.unwrap_or(spec.seed());
        return Ok(Loaded { trace, reference: spec.reference().cloned(), seed });
    }
    let path = Path::new(name);
    if !path.exists() {
        let known: Vec<String> = workloads::presets().into_iter().map(|(n, _)| n).collect();
        bail!("no workload `{name}`: neither a preset ({}) nor a file", known.join(", "));
    }
    let parse = |what: &Option<String>| what.as_deref().map(str::to_owned);
    let options = ReadOptions {
        format: parse(&reading.format)
            .map(|f| f.parse().map_err(anyhow::Error::msg))
            .transpose()?,
        time_unit: parse(&reading.time_unit)
            .map(|u| u.parse().map_err(anyhow::Error::msg))
            .transpose()?,
        rate: reading.arrival_rate,
        block_tokens: reading.block_tokens,
        keep_failed: reading.keep_failed,
        seed: reading.seed.unwrap_or(1),
    };
    let trace = workloads::read(path, &options)?;
    Ok(Loaded { trace, reference: None, seed: options.seed })
}

/// The description `name` stands for, unless it is a trace file.
pub(crate) fn spec(name: &str) -> Result<Option<Spec>> {
    if let Some(spec) = workloads::preset(name) {
        return Ok(Some(spec));
    }
    if !name.ends_with(".toml") {
        return Ok(None);
    }
    let text = std::fs::read_to_string(name).with_context(|| format!("cannot read {name}"))?;
    Ok(Some(Spec::parse(name, &text)?))
}

/// The trace to run, with something in it.
fn workload(workload: &Workload) -> Result<(Arc<Trace>, u64)> {
    let Loaded { mut trace, seed, .. } = load(&workload.workload, &workload.read)?;
    if let Some(n) = workload.requests {
        trace = trace.head(n);
    }
    if trace.requests.is_empty() {
        bail!("{}: no requests in this trace: nothing to run", trace.name);
    }
    Ok((Arc::new(trace), seed))
}

/// Trace, model and targets of a scenario, and the seed of what was synthesised.
pub(crate) struct Prepared {
    pub(crate) trace: Arc<Trace>,
    pub(crate) model: Arc<ModelShape>,
    pub(crate) slo: BoundSlo,
    pub(crate) seed: u64,
}

/// Everything but the device.
pub(crate) fn prepare(scenario: &Scenario) -> Result<Prepared> {
    let slo = Slo::parse(&scenario.slo, scenario.attainment.as_deref())?;
    let model = Arc::new(ModelShape::load(&scenario.model)?);
    let (trace, seed) = workload(&scenario.workload)?;
    let slo = slo.bind(&trace.classes)?;
    Ok(Prepared { trace, model, slo, seed })
}

/// A device, and what calibration found about it.
pub(crate) struct Hardware {
    pub(crate) profile: Arc<DeviceProfile>,
    pub(crate) correction: Option<Arc<Correction>>,
}

/// The device `name` stands for: a profile's name or file, or the file of a calibration, which names its profile.
/// `calibration` is laid over it.
pub(crate) fn hardware(name: &str, calibration: Option<&Path>) -> Result<Hardware> {
    let is_overlay = |path: &Path| {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        text.lines().any(|l| l.trim_start().starts_with("calibrates"))
    };
    let overlay = match calibration {
        Some(path) => Some(Overlay::read(path)?),
        None if name.ends_with(".toml") && is_overlay(Path::new(name)) => {
            Some(Overlay::read(Path::new(name))?)
        }
        None => None,
    };
    let base = match &overlay {
        Some(overlay) if calibration.is_none() => overlay.device.clone(),
        _ => name.to_owned(),
    };
    let mut profile = DeviceProfile::load(&base)?;
    let mut correction = None;
    if let Some(overlay) = overlay {
        let same = DeviceProfile::load(&overlay.device).is_ok_and(|p| p.name == profile.name);
        if overlay.device != base && !same {
            bail!("this calibration belongs to {}, not to {base}", overlay.device);
        }
        correction = overlay.correction().map_err(anyhow::Error::msg)?;
        profile = overlay.apply(&profile);
    }
    Ok(Hardware { profile: Arc::new(profile), correction })
}
