//! The engine of a simulation as it is asked for, and a configuration by its defaults.

use std::sync::Arc;

use anyhow::{Result, bail};
use engine::engines::Outside;
use engine::{Config, DeviceProfile, EngineProfile};
use tuner::export::lacks;

use crate::cli::By;
use crate::knobs::Knobs;

impl By {
    /// The engine that was asked for, or any.
    pub(crate) fn profile(&self) -> Result<Arc<EngineProfile>> {
        let engine = match (&self.engine, self.host_time.as_deref()) {
            (Some(name), _) => EngineProfile::load(name)?,
            (None, Some("vllm-v0")) => {
                EngineProfile::any().with_times(EngineProfile::load("vllm@0")?.outside)
            }
            (None, Some(_)) => EngineProfile::any().with_times(Outside::default()),
            (None, None) => EngineProfile::any(),
        };
        Ok(Arc::new(engine))
    }

    /// Refuses an engine where none is simulated, because `there` runs one.
    pub(crate) fn none_beside(&self, there: &str) -> Result<()> {
        let flag = if self.engine.is_some() { "--engine" } else { "--host-time" };
        if self.engine.is_some() || self.host_time.is_some() {
            bail!("{flag} is of simulations, and {there} runs an engine of its own: leave it out");
        }
        Ok(())
    }

    /// The defaults of `engine` on `device`, with `knobs` set.
    pub(crate) fn config(
        &self,
        engine: &EngineProfile,
        device: &DeviceProfile,
        knobs: &Knobs,
    ) -> Result<Config> {
        let config = knobs.over(engine.config(device))?.settled(&knobs.pins()?);
        if self.engine.is_some()
            && let Some(missing) = lacks(engine, &config).into_iter().next()
        {
            let why = missing.why.map_or_else(String::new, |why| format!(": {why}"));
            let (engine, knob, value) = (&engine.title, &missing.knob, &missing.value);
            bail!("{engine} cannot be told {knob} {value}{why}");
        }
        Ok(config)
    }
}
