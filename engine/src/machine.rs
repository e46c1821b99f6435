//! This machine as a device: a model in memory, and the threads, or the GPU, that compute it. The device of a model
//! that is split over tensor-parallel ranks and pipeline stages is one part's share of the threads.
//!
//! The other leaf than the cost model: the same engine over executors that compute. Time is the engine's own: an
//! iteration takes as long as it was measured to take, and where nothing runs the clock jumps to the next arrival, so
//! that a run at a low rate does not have to be waited for.

use std::sync::Arc;
use std::time::Duration;

use kernels::cpu::roofline;
use kernels::cuda::{self, CudaError};

use crate::config::{Config, KvDtype};
use crate::exec::Executor;
use crate::exec::cost::Widths;
use crate::exec::cpu::{CpuExecutor, CpuModel, CpuPipeline, Isa, Precision, Share, Team, measure};
use crate::exec::cuda::{
    CudaExecutor, CudaModel, CudaModelError, Device, Layout, RoomError, Uneven,
};
use crate::exec::{Measured, Part, Sample, Spent};
use crate::format::Format;
use crate::import::{self, ImportError, Imported, Row, Run};
use crate::model::DenseShape;
use crate::model::llama::LlamaConfig;
use crate::model::weights::{ModelError, Weights};
use crate::profile::DeviceProfile;

/// A processor that reaches its limits in everything.
const LIMITS: &str = include_str!("../profiles/cpu.toml");

/// A model on this machine's processor, or on its GPUs.
#[derive(Debug)]
pub struct Machine {
    config: LlamaConfig,
    computer: Computer,
}

/// The executors' model and devices.
#[derive(Debug)]
enum Computer {
    /// Pipeline stages in order, and of each its tensor-parallel ranks; at least one of both. With `apart`, workers
    /// compute on threads of their own while the engine goes on, as stages do anyway.
    Processor { stages: Vec<Vec<Share>>, apart: bool },
    Gpu {
        model: Arc<CudaModel>,
        /// True where decodes are recorded and done as a whole.
        graphs: bool,
    },
}

/// The clock that workers go by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Clock {
    /// The engine's own: workers take turns, and each is timed as if it had the machine to itself.
    Virtual,
    /// The real one: a GPU computes while the engine goes on.
    Real,
}

/// The reasons for which a GPU could not be measured, or has no room.
#[derive(Debug, thiserror::Error)]
pub enum MachineError {
    /// No profile can be made of the times.
    #[error(transparent)]
    Import(#[from] ImportError),
    /// The device failed.
    #[error(transparent)]
    Device(#[from] CudaError),
    /// There is too little memory.
    #[error(transparent)]
    Room(#[from] RoomError),
    /// The model has operators that are not timed.
    #[error(
        "{0} has experts, whose times are in no profile of this machine yet: bench, compare and serve run it as it is"
    )]
    Experts(String),
}

impl Machine {
    /// Reads `weights` and packs them in `precision`, for `tp` tensor-parallel ranks in each of `pp` pipeline stages (1
    /// and 1 = the whole model). They share `threads` threads, of which each has one at least, that compute by `isa`.
    ///
    /// # Errors
    /// When a tensor is missing or cannot be read, heads do not divide, or layers do not fill the stages.
    pub fn load(
        weights: &mut dyn Weights,
        precision: Precision,
        (isa, threads): (Isa, usize),
        (tp, pp): (u32, u32),
    ) -> Result<Self, ModelError> {
        let (ranks, stages) = (tp.max(1) as usize, pp.max(1) as usize);
        let mut share = |stage, rank| {
            let team = Arc::new(Team::with_isa(threads / (ranks * stages), isa));
            let part = Part { rank, ranks, stage, stages };
            let model = CpuModel::load_part(&team, weights, precision, part)?;
            Ok((Arc::new(model), team))
        };
        let mut stage = |stage| (0..ranks).map(|rank| share(stage, rank)).collect();
        let stages = (0..stages).map(&mut stage).collect::<Result<_, ModelError>>()?;
        let config = weights.config().clone();
        Ok(Self { config, computer: Computer::Processor { stages, apart: false } })
    }

    /// Reads `weights` and puts them, in bf16, on `devices`, to be computed as `layout` says: all parts on one
    /// device, or each on its own.
    ///
    /// # Errors
    /// When a tensor is missing or cannot be read, there are no kernels for the model, or memory is short.
    pub fn on_gpus(
        weights: &mut dyn Weights,
        devices: &[Device],
        layout: Layout,
    ) -> Result<Self, CudaModelError> {
        let config = weights.config().clone();
        let model = Arc::new(CudaModel::load(devices, weights, layout)?);
        Ok(Self { config, computer: Computer::Gpu { model, graphs: true } })
    }

    /// The same; a GPU is asked for every kernel by itself, always.
    #[must_use]
    pub fn without_graphs(mut self) -> Self {
        if let Computer::Gpu { graphs, .. } = &mut self.computer {
            *graphs = false;
        }
        self
    }

    /// Bytes of keys and values for each worker of `config`, where the machine is a GPU that knows: those that are
    /// `asked` for, or as many as its `kv_fraction` leaves beside weights and batches.
    ///
    /// # Errors
    /// When there is no room for so many.
    pub fn kv_memory(&self, config: &Config, asked: Option<u64>) -> Result<Option<u64>, RoomError> {
        match &self.computer {
            Computer::Processor { .. } => Ok(asked),
            Computer::Gpu { model, .. } => model.kv_memory(config, asked),
        }
    }

    /// So many machines (at least 1) of this one: they share its weights, and each has as many threads as is its part.
    /// None where it cannot be split.
    #[must_use]
    pub fn replicas(&self, n: u32) -> Option<Vec<Self>> {
        let Computer::Processor { stages, .. } = &self.computer else { return None };
        let share = |(model, team): &Share| {
            (Arc::clone(model), Arc::new(Team::with_isa(team.size() / n as usize, team.isa())))
        };
        let replica = |_| {
            let stages = stages.iter().map(|ranks| ranks.iter().map(share).collect()).collect();
            let computer = Computer::Processor { stages, apart: true };
            Self { config: self.config.clone(), computer }
        };
        Some((0..n).map(replica).collect())
    }

    /// The model.
    #[must_use]
    pub fn config(&self) -> &LlamaConfig {
        &self.config
    }

    /// Keys and values of one token in all layers, bytes.
    #[must_use]
    pub fn kv_bytes_per_token(&self) -> u64 {
        let f32s = match &self.computer {
            Computer::Processor { stages, .. } => stages[0][0].0.precision() == Precision::F32,
            Computer::Gpu { .. } => false,
        };
        self.config.shape().kv_bytes_per_token(KvDtype::Bf16, 1) * if f32s { 2 } else { 1 }
    }

    /// Tensor-parallel ranks of each pipeline stage, and stages.
    #[must_use]
    pub fn split(&self) -> (u32, u32) {
        match &self.computer {
            Computer::Processor { stages, .. } => (stages[0].len() as u32, stages.len() as u32),
            Computer::Gpu { model, .. } => (model.ranks() as u32, model.stages() as u32),
        }
    }

    /// The reason for which it cannot run `config`, if there is one.
    #[must_use]
    pub fn refuses(&self, config: &Config) -> Option<&'static str> {
        let (tp, pp) = self.split();
        if config.pp != pp {
            return Some("this machine's model is laid out for another pp: leave pp at 1");
        }
        if config.tp != tp {
            return Some("this machine's model is laid out for another tp: leave tp at 1");
        }
        if config.replicas > 1 && pp > 1 {
            return Some(
                "replicas take turns at this machine, pipeline stages do not: leave one of the two at 1",
            );
        }
        if config.ep > 1 || config.dp > 1 {
            return Some("this machine computes models without experts: leave ep and dp at 1");
        }
        if config.quantization.is_some() {
            return Some(
                "this machine computes with weights as they are read: leave quantization at auto",
            );
        }
        let bf16 = config.kv_dtype == KvDtype::Bf16;
        let formats = "this machine keeps keys and values in bf16 (in f32 with --precision f32): leave kv-dtype at bf16";
        (!bf16).then_some(formats)
    }

    /// The number of engines with `slots` of KV each that can take turns at it, batch by batch, each timed as if it
    /// were alone; at least one. Their memories take half of what there is at most.
    #[must_use]
    pub fn at_once(&self, slots: u64) -> usize {
        match &self.computer {
            Computer::Processor { stages, apart: false } if stages.len() == 1 => {
                let each = (slots * self.kv_bytes_per_token()).max(1);
                memory_bytes().map_or(1, |all| (all / 2 / each).max(1)) as usize
            }
            // Stages compute between calls, and a GPU's memory is one worker's.
            _ => 1,
        }
    }

    /// `workers` workers with `slots` of KV each; `sampler` makes each one's.
    ///
    /// # Errors
    /// When a GPU has not so much memory.
    pub fn executors(
        &self,
        workers: u32,
        slots: u32,
        clock: Clock,
        mut sampler: impl FnMut() -> Box<dyn Sample>,
    ) -> Result<Vec<Box<dyn Executor>>, MachineError> {
        let slots = vec![slots; workers as usize];
        Ok(match &self.computer {
            Computer::Processor { stages, apart } if *apart || stages.len() > 1 => {
                let worker = |&slots| CpuPipeline::new(stages, slots, sampler());
                slots.iter().map(worker).map(|w| Box::new(w) as Box<dyn Executor>).collect()
            }
            Computer::Processor { stages, .. } => {
                let workers = CpuExecutor::tensor_parallel(&stages[0], &slots, sampler);
                workers.into_iter().map(|w| Box::new(w) as Box<dyn Executor>).collect()
            }
            Computer::Gpu { model, graphs } => {
                let workers = CudaExecutor::workers(model, &slots, sampler)?;
                let worker = |worker: CudaExecutor| {
                    let worker = if *graphs { worker } else { worker.without_graphs() };
                    match clock {
                        Clock::Virtual => Box::new(worker) as Box<dyn Executor>,
                        Clock::Real => Box::new(worker.overlapped()),
                    }
                };
                workers.into_iter().map(worker).collect()
            }
        })
    }

    /// The machine as a device called `name` that reaches its limits in everything: no iteration takes less. Takes
    /// about a second.
    ///
    /// # Errors
    /// When a GPU fails.
    pub fn limits(&self, name: &str) -> Result<DeviceProfile, MachineError> {
        let profile: DeviceProfile = toml::from_str(LIMITS).expect("it is tested");
        let (memory, flops, bandwidth) = match &self.computer {
            Computer::Processor { stages, .. } => {
                let (model, team) = &stages[0][0];
                let limits = roofline::measure(team);
                // Operators are counted in bf16: an 8-bit weight is half of the bytes.
                let (flops, width) = match model.precision() {
                    Precision::Int8 => (limits.int8, 1.0),
                    Precision::Bf16 => (limits.f32, 2.0),
                    Precision::F32 => (limits.f32, 4.0),
                };
                (memory_bytes(), flops, limits.read * 2.0 / width)
            }
            Computer::Gpu { model, .. } => {
                let device = &model.devices()[0];
                let limits = cuda::roofline::measure(device)?;
                let memory = device.memory()?.map(|(_, all)| all as u64);
                (memory, limits.flops, limits.copy)
            }
        };
        Ok(DeviceProfile {
            name: name.to_owned(),
            memory_bytes: memory.unwrap_or(profile.memory_bytes),
            peak_flops: flops,
            memory_bandwidth: bandwidth,
            ..profile
        })
    }
}

/// Times of one grid of batches.
#[derive(Debug, Clone)]
pub struct Timings {
    batches: Vec<Measured>,
    /// Decodes of unequal lengths, where they were timed.
    uneven: Vec<Uneven>,
}

impl Machine {
    /// Times batches of sequences of up to `longest` tokens, operator by operator. Takes some ten seconds; `watch` is
    /// told the number of batches that are timed, and of all.
    ///
    /// # Errors
    /// When a GPU fails.
    pub fn time(
        &self,
        longest: u32,
        watch: &mut dyn FnMut(usize, usize),
    ) -> Result<Timings, MachineError> {
        let (batches, uneven) = match &self.computer {
            Computer::Processor { stages, .. } => {
                (measure(&stages[0][0].1, &stages[0][0].0, longest, watch), Vec::new())
            }
            Computer::Gpu { model, graphs, .. } => {
                crate::exec::cuda::measure(model, *graphs, longest, watch)?
            }
        };
        Ok(Timings { batches, uneven })
    }

    /// A profile called `name` of these times, of each batch the mean of the rounds.
    ///
    /// # Errors
    /// When no profile can be made of the times, the model has experts, or a GPU fails.
    pub fn profile(&self, name: &str, rounds: &[Timings]) -> Result<Imported, MachineError> {
        if self.config.mixture.is_some() {
            return Err(MachineError::Experts(self.config.name.clone()));
        }
        let shape = self.config.dense();
        let widths = Widths::new(&shape, 1);
        let mut rows: Vec<Row> =
            mean(rounds).iter().flat_map(|b| self::rows(b, &shape, &widths)).collect();
        rows.extend(rounds.iter().flat_map(|round| &round.uneven).map(skew));
        let limits = self.limits(name)?;
        let (flops, bandwidth) = reached(&rows);
        let mut sheet: toml::Table = toml::from_str(LIMITS).expect("it is tested");
        for operator in
            ["gemm", "prefill_attention", "decode_attention", "attention", "elementwise", "sampler"]
        {
            sheet.remove(operator);
        }
        let import = [("family", "knee"), ("system", name)];
        let import: toml::Table =
            import.into_iter().map(|(k, v)| (k.to_owned(), v.to_owned().into())).collect();
        sheet.insert("import".to_owned(), import.into());
        sheet.insert("elementwise_together".to_owned(), true.into());
        sheet.insert("name".to_owned(), name.to_owned().into());
        let model = format!(
            "{}: passes of {} timed on this machine, operator by operator",
            name, self.config.name
        );
        sheet.insert("provenance".to_owned(), model.into());
        sheet.insert("memory_bytes".to_owned(), (limits.memory_bytes as i64).into());
        sheet.insert("peak_flops".to_owned(), limits.peak_flops.max(flops).into());
        sheet.insert("memory_bandwidth".to_owned(), limits.memory_bandwidth.max(bandwidth).into());
        let sheet = sheet.to_string();
        Ok(import::measured((name, &sheet), rows, import::SEED)?)
    }
}

/// Each batch, with the mean of its times over the rounds: a run meets the slow moments of a machine too.
fn mean(rounds: &[Timings]) -> Vec<Measured> {
    let batches = rounds.first().map_or(0, |round| round.batches.len());
    let one = |i: usize| {
        let spent = Spent::mean(rounds.iter().map(|round| &round.batches[i].spent));
        Measured { spent, ..rounds[0].batches[i] }
    };
    (0..batches).map(one).collect()
}

/// The row of unequal lengths.
fn skew(uneven: &Uneven) -> Row {
    let [mixed, mean, longest] =
        [uneven.mixed, uneven.mean, uneven.longest].map(|time| time.as_secs_f64());
    Row { run: Run::Skew { mean, longest }, seconds: mixed }
}

/// The rows of operator tables that a timed batch makes; each operator on one layer.
fn rows(batch: &Measured, shape: &DenseShape, widths: &Widths) -> Vec<Row> {
    let Measured { work, layers, sampled, spent } = *batch;
    let m = f64::from(work.rows());
    let per_layer = |time: Duration| time.as_secs_f64() / f64::from(layers);
    let mut rows = Vec::new();
    let mut push = |run, seconds| rows.push(Row { run, seconds });
    for (&(n, k), &time) in widths.gemms.iter().zip(&spent.linears) {
        let run = Run::Gemm { m, n: n as u32, k: k as u32, format: Format::Bf16 };
        push(run, per_layer(time));
    }
    let (m_head, format) = (f64::from(sampled), Format::Bf16);
    let head = Run::Gemm { m: m_head, n: shape.vocab, k: shape.hidden, format };
    push(head, spent.head.as_secs_f64());
    let attention = Run::Attention {
        heads: widths.heads,
        kv: KvDtype::Bf16,
        chunks: f64::from(work.prompts),
        tokens: f64::from(work.tokens),
        history: f64::from(work.history),
        decodes: f64::from(work.decodes),
        length: f64::from(work.length),
    };
    push(attention, per_layer(spent.attention));
    let bytes = 2.0 * m * widths.moved.iter().sum::<f64>();
    let once = spent.once.as_secs_f64() / f64::from(shape.layers);
    push(Run::Move { bytes }, per_layer(spent.rest) + once);
    let bytes = 4.0 * f64::from(sampled) * f64::from(shape.vocab);
    push(Run::Choose { bytes }, spent.sampling.as_secs_f64());
    rows
}

/// The highest rates that any row shows, FLOP/s and bytes/s as rooflines count them: caches are faster than memory.
fn reached(rows: &[Row]) -> (f64, f64) {
    let (mut flops, mut bandwidth) = (0.0_f64, 0.0_f64);
    for row in rows {
        let (computed, moved) = match row.run {
            Run::Gemm { m, n, k, .. } => {
                let (n, k) = (f64::from(n), f64::from(k));
                (2.0 * m * n * k, 2.0 * (n * k + m * (n + k)))
            }
            Run::Attention { heads, chunks, tokens, history, decodes: 0.0, .. } => {
                let pairs = chunks * (tokens * history + tokens * (tokens + 1.0) / 2.0);
                (4.0 * f64::from(heads.dim) * f64::from(heads.query) * pairs, 0.0)
            }
            Run::Attention { heads, decodes, length, .. } => {
                (0.0, 4.0 * f64::from(heads.dim) * f64::from(heads.kv) * decodes * length)
            }
            Run::Move { bytes } | Run::Choose { bytes } => (0.0, bytes),
            _ => (0.0, 0.0),
        };
        flops = flops.max(computed / row.seconds);
        bandwidth = bandwidth.max(moved / row.seconds);
    }
    (flops, bandwidth)
}

/// Memory of this machine, where it says so.
fn memory_bytes() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let kib = text.lines().find_map(|l| l.strip_prefix("MemTotal:")?.trim().split(' ').next());
    Some(kib?.parse::<u64>().ok()? * 1024)
}
