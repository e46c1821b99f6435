//! This machine as the device: which model it computes, how, and with how much KV memory.

use std::sync::Arc;

use anyhow::{Result, bail};
use engine::exec::cpu::{Isa, Precision};
use engine::exec::cuda::{self, Arithmetic, Layout};
use engine::model::Model;
use engine::{Config, Machine, ModelShape};

use crate::cli::{Computing, Random};
use crate::shape::named;

/// The default size of keys and values, bytes.
const KV_MEMORY: u64 = 1_000_000_000;
/// Most KV slots of a worker: indices of them are 32 bits.
const MOST_SLOTS: u32 = 1 << 29;

/// A GPU that is emulated, where knee was built with the feature `emulator`.
const EMULATED: &str = "emulated";

/// True of a `device` that is this machine.
pub(crate) fn is_here(device: &str) -> bool {
    let device = device.to_ascii_lowercase();
    let emulated = cfg!(feature = "emulator") && device == EMULATED;
    device == "cpu" || device == "cuda" || device.starts_with("cuda:") || emulated
}

/// The emulated GPU, if that is what `device` is and this machine can emulate one.
#[cfg(feature = "emulator")]
fn emulated(device: &str) -> Result<Option<cuda::Device>> {
    use kernels::cuda::emulator;

    if device != EMULATED {
        return Ok(None);
    }
    if let Some(reason) = emulator::absent() {
        bail!("--device {EMULATED}: {reason}");
    }
    Ok(Some(emulator::device(&std::env::temp_dir(), 0)))
}

#[cfg(not(feature = "emulator"))]
fn emulated(_: &str) -> Result<Option<cuda::Device>> {
    Ok(None)
}

/// Most GPUs of a machine.
const MOST_GPUS: usize = 64;

/// The GPUs that `device` names; none when it is the processor.
fn gpus(device: &str) -> Result<Vec<usize>> {
    let numbers = match device {
        "cpu" => return Ok(Vec::new()),
        "cuda" => Some(vec![0]),
        other => other.strip_prefix("cuda:").and_then(numbers),
    };
    let Some(numbers) = numbers else {
        bail!(
            "unknown device `{device}`: this machine is cpu, cuda:N, or several GPUs as cuda:0-3 or cuda:0,2"
        );
    };
    match numbers.iter().enumerate().find(|(i, n)| numbers[..*i].contains(n)) {
        Some((_, twice)) => bail!("{device} names GPU {twice} twice"),
        None => Ok(numbers),
    }
}

/// The numbers in a list of numbers and ranges.
fn numbers(text: &str) -> Option<Vec<usize>> {
    let mut numbers = Vec::new();
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (usize, usize) = (first.parse().ok()?, last.parse().ok()?);
        if first > last || last >= MOST_GPUS {
            return None;
        }
        numbers.extend(first..=last);
    }
    Some(numbers)
}

/// A machine with its model loaded.
pub(crate) struct Here {
    pub(crate) machine: Arc<Machine>,
    pub(crate) shape: Arc<ModelShape>,
    pub(crate) kv_slots: u32,
    /// Its name in results.
    pub(crate) name: String,
}

impl Computing {
    /// Loads the model called `name` for `device`, which [`is_here`], split as `config` says.
    pub(crate) fn load(&self, device: &str, name: &str, config: &Config) -> Result<Here> {
        // A device that is not there is refused before a model is read.
        let device = self.device(device)?;
        self.compute(&device, name, &mut self.open(name)?, config)
    }

    /// Opens `device`, which [`is_here`].
    pub(crate) fn device(&self, device: &str) -> Result<Device> {
        let emulated = emulated(device)?;
        let gpus = if emulated.is_some() { Vec::new() } else { gpus(device)? };
        if gpus.is_empty() && emulated.is_none() {
            return Ok(Device::Cpu);
        }
        if self.precision.is_some_and(|p| p != Precision::Bf16) {
            bail!("a GPU computes in bf16: leave --precision out");
        }
        if self.cpu_threads.is_some() {
            bail!("--cpu-threads goes with --device cpu");
        }
        if self.isa.is_some() {
            bail!("--isa goes with --device cpu");
        }
        let opened = gpus.into_iter().map(cuda::Device::open);
        let devices = opened.chain(emulated.map(Ok)).collect::<Result<_, _>>()?;
        Ok(Device::Gpus(devices))
    }

    /// Opens it: text and weights.
    pub(crate) fn open(&self, name: &str) -> Result<Model> {
        Ok(Model::open(name, self.weights.map(|Random(seed)| seed))?)
    }

    /// Packs its weights for this machine, split over ranks and stages as `config` says.
    pub(crate) fn compute(
        &self,
        device: &Device,
        name: &str,
        model: &mut Model,
        config: &Config,
    ) -> Result<Here> {
        let shape = named(name, model.weights.config());
        let (machine, device) = match device {
            Device::Cpu => self.on_processor(model, config)?,
            Device::Gpus(devices) => self.on_gpus(devices, model, config)?,
        };
        let token = machine.kv_bytes_per_token();
        let kv_memory = machine.kv_memory(config, self.kv_memory)?.unwrap_or(KV_MEMORY);
        let kv_slots = u32::try_from(kv_memory / token).unwrap_or(u32::MAX).min(MOST_SLOTS);
        if kv_slots < 16 {
            bail!("--kv-memory holds {kv_slots} tokens of {token} bytes: give it more");
        }
        Ok(Here { machine: Arc::new(machine), shape: Arc::new(shape), kv_slots, name: device })
    }

    fn on_processor(&self, model: &mut Model, config: &Config) -> Result<(Machine, String)> {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        let threads = self.cpu_threads.map_or(processors, |n| n as usize);
        let precision = self.precision.unwrap_or(Precision::Int8);
        let isa = self.isa.unwrap_or_else(Isa::best);
        let split = (config.tp, config.pp);
        let machine = Machine::load(model.weights.as_mut(), precision, (isa, threads), split)?;
        let by = self.isa.map_or_else(String::new, |isa| format!(" by {}", isa.name()));
        let precision = match precision {
            Precision::Int8 => "int8",
            Precision::Bf16 => "bf16",
            Precision::F32 => "f32",
        };
        Ok((machine, format!("cpu ({precision}{by}, {threads} threads)")))
    }

    fn on_gpus(
        &self,
        devices: &[cuda::Device],
        model: &mut Model,
        config: &Config,
    ) -> Result<(Machine, String)> {
        let (arithmetic, name) = if self.deterministic {
            (Arithmetic::Invariant, "bf16, deterministic")
        } else {
            (Arithmetic::Fast, "bf16")
        };
        let (ranks, stages) = (config.tp as usize, config.pp as usize);
        let layout = Layout { arithmetic, ranks, stages };
        let machine = Machine::on_gpus(model.weights.as_mut(), devices, layout)?;
        let machine = if self.no_graphs { machine.without_graphs() } else { machine };
        let split = match (ranks, stages) {
            (1, 1) => String::new(),
            (ranks, 1) => format!(", {ranks} ranks"),
            (1, stages) => format!(", {stages} stages"),
            (ranks, stages) => format!(", {stages} stages of {ranks} ranks"),
        };
        let name = match devices {
            [one] if split.is_empty() => format!("{} ({name})", one.name()),
            [one] => format!("{} ({name}{split} on one GPU)", one.name()),
            [one, ..] => format!(
                "{} x {} ({name}{split}; not tested on several GPUs)",
                devices.len(),
                one.name()
            ),
            [] => name.to_owned(),
        };
        Ok((machine, name))
    }
}

/// A device that was found.
pub(crate) enum Device {
    /// The processor.
    Cpu,
    /// GPUs: one, or one for each part of a model.
    Gpus(Vec<cuda::Device>),
}
