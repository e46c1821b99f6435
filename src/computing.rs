//! This machine as the device: which model it computes, how, and with how much KV memory.

use std::sync::Arc;

use anyhow::{Result, bail};
use clap::Args;
use engine::exec::cpu::Precision;
use engine::exec::cuda::{self, Arithmetic};
use engine::model::Model;
use engine::{Config, Machine, ModelShape};

/// How the real engine runs (`--device cpu`, `--device cuda:N`).
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "The engine on this machine (--device cpu, cuda:N)")]
pub(crate) struct Computing {
    /// What to compute with instead of the model's own weights: random, or random:SEED
    #[arg(long, value_name = "random[:SEED]", value_parser = weights)]
    pub(crate) weights: Option<Random>,
    /// Number format of weights: int8, bf16 or f32 (default: int8; on a GPU bf16, and nothing else)
    #[arg(long, value_parser = precision)]
    pub(crate) precision: Option<Precision>,
    /// Threads that compute (default: one per processor)
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub(crate) cpu_threads: Option<u32>,
    /// On a GPU: results that do not depend on what else is in the batch, with slower kernels (a processor's never do)
    #[arg(long)]
    pub(crate) deterministic: bool,
    /// On a GPU: launch every kernel by itself instead of replaying decodes as CUDA graphs
    #[arg(long)]
    pub(crate) no_graphs: bool,
    /// Memory for keys and values of each worker, such as 512MB or 2GB (default: 1GB; on a GPU what kv-fraction of its
    /// memory leaves beside weights and a batch)
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub(crate) kv_memory: Option<u64>,
}

/// Bytes of keys and values where nobody says how many.
const KV_MEMORY: u64 = 1_000_000_000;
/// Most KV slots of a worker: indices of them are 32 bits.
const MOST_SLOTS: u32 = 1 << 29;

/// A seed of made-up weights.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Random(pub(crate) u64);

fn weights(text: &str) -> Result<Random, String> {
    let seed = match text.split_once(':') {
        None if text == "random" => Some(0),
        Some(("random", seed)) => seed.parse().ok(),
        _ => None,
    };
    seed.map(Random).ok_or_else(|| "expected random or random:SEED, such as random:7".to_owned())
}

fn precision(text: &str) -> Result<Precision, String> {
    match text {
        "int8" => Ok(Precision::Int8),
        "bf16" => Ok(Precision::Bf16),
        "f32" => Ok(Precision::F32),
        _ => Err("expected int8, bf16 or f32".to_owned()),
    }
}

fn size(text: &str) -> Result<u64, String> {
    let bad = || "expected a size with its unit, such as 512MB or 2GB".to_owned();
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(bad)?;
    let number: f64 = text[..digits].parse().map_err(|_| bad())?;
    let unit = match text[digits..].trim() {
        "MB" => 1e6,
        "GB" => 1e9,
        "MiB" => f64::from(1 << 20),
        "GiB" => f64::from(1 << 30),
        _ => return Err(bad()),
    };
    let bytes = number * unit;
    if (1e6..1e15).contains(&bytes) { Ok(bytes as u64) } else { Err(bad()) }
}

/// Whether `device` is this machine.
pub(crate) fn is_here(device: &str) -> bool {
    device == "cpu" || device == "cuda" || device.starts_with("cuda:")
}

/// Which GPU `device` is; none when it is the processor.
fn gpu(device: &str) -> Result<Option<usize>> {
    let number = match device {
        "cpu" => return Ok(None),
        "cuda" => Some(0),
        other => other.strip_prefix("cuda:").and_then(|n| n.parse().ok()),
    };
    match number {
        Some(number) => Ok(Some(number)),
        None => bail!("unknown device `{device}`: this machine is cpu, or cuda:N"),
    }
}

/// A machine with its model loaded.
pub(crate) struct Here {
    pub(crate) machine: Arc<Machine>,
    pub(crate) shape: Arc<ModelShape>,
    pub(crate) kv_slots: u32,
    /// What it is called in results.
    pub(crate) name: String,
}

impl Computing {
    /// Loads the model called `name` for `device`, which [`is_here`], split as `config` says.
    pub(crate) fn load(&self, device: &str, name: &str, config: &Config) -> Result<Here> {
        // Whether there is such a device is told before a model is read.
        let device = self.device(device)?;
        self.compute(&device, name, &mut self.open(name)?, config)
    }

    /// Opens `device`, which [`is_here`].
    pub(crate) fn device(&self, device: &str) -> Result<Device> {
        let Some(index) = gpu(device)? else { return Ok(Device::Cpu) };
        if self.precision.is_some_and(|p| p != Precision::Bf16) {
            bail!("a GPU computes in bf16: leave --precision out");
        }
        if self.cpu_threads.is_some() {
            bail!("--cpu-threads goes with --device cpu");
        }
        Ok(Device::Gpu(cuda::Device::open(index)?))
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
        let shape = crate::input::named(name, model.weights.config());
        let (machine, device) = match device {
            Device::Cpu => self.on_processor(model, config)?,
            Device::Gpu(_) if config.pp > 1 => {
                bail!("a model runs on one GPU here: leave pp at 1")
            }
            Device::Gpu(device) => self.on_gpu(device, model, config.tp)?,
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
        let machine =
            Machine::load(model.weights.as_mut(), precision, threads, (config.tp, config.pp))?;
        let precision = match precision {
            Precision::Int8 => "int8",
            Precision::Bf16 => "bf16",
            Precision::F32 => "f32",
        };
        Ok((machine, format!("cpu ({precision}, {threads} threads)")))
    }

    fn on_gpu(
        &self,
        device: &cuda::Device,
        model: &mut Model,
        ranks: u32,
    ) -> Result<(Machine, String)> {
        let (arithmetic, name) = if self.deterministic {
            (Arithmetic::Invariant, "bf16, deterministic")
        } else {
            (Arithmetic::Fast, "bf16")
        };
        let machine = Machine::on_gpu(model.weights.as_mut(), device, arithmetic, ranks)?;
        let machine = if self.no_graphs { machine.without_graphs() } else { machine };
        let split = if ranks > 1 { format!(", {ranks} ranks on one GPU") } else { String::new() };
        Ok((machine, format!("{} ({name}{split})", device.name())))
    }
}

/// What computes, found.
pub(crate) enum Device {
    /// The processor.
    Cpu,
    /// A GPU.
    Gpu(cuda::Device),
}
