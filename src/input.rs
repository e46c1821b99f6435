//! From names and files to the things the library works on.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use engine::{DeviceProfile, ModelShape};
use loadgen::{BoundSlo, Slo};
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

/// The profile called `name`.
pub(crate) fn device(name: &str) -> Result<Arc<DeviceProfile>> {
    Ok(Arc::new(DeviceProfile::load(name)?))
}
