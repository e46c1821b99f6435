//! The origin of results: their scenario, their machine and their cost.

use std::time::Instant;

use cpu_time::ProcessTime;
use tuner::result::{DeviceInfo, WorkloadInfo};
use tuner::subject::bed::Testbed;

/// The cost of a computation.
pub(crate) struct Cost {
    /// Elapsed seconds.
    pub(crate) wall_s: f64,
    /// CPU seconds of this process, all threads.
    pub(crate) cpu_s: f64,
}

/// Runs `work`; its result and its cost.
pub(crate) fn measure<T>(work: impl FnOnce() -> T) -> (T, Cost) {
    let (wall, cpu) = (Instant::now(), ProcessTime::now());
    let result = work();
    let cost = Cost { wall_s: wall.elapsed().as_secs_f64(), cpu_s: cpu.elapsed().as_secs_f64() };
    (result, cost)
}

/// The origin of a result, as every stored one tells it.
pub(crate) struct Common {
    pub(crate) version: String,
    pub(crate) seed: u64,
    pub(crate) workload: WorkloadInfo,
    pub(crate) device: DeviceInfo,
    pub(crate) slo: Vec<String>,
    pub(crate) host: String,
    /// Times are predicted.
    pub(crate) simulated: bool,
}

impl Common {
    pub(crate) fn new(seed: u64, sim: &Testbed) -> Self {
        Self {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            seed,
            workload: sim.workload_info(),
            device: sim.device_info(),
            slo: sim.slo().slo().targets().iter().map(ToString::to_string).collect(),
            host: host(),
            simulated: sim.is_simulated(),
        }
    }

    /// The same, as reports put it.
    pub(crate) fn scenario(
        self,
        model: &str,
        notes: Vec<String>,
        cost: &Cost,
    ) -> reports::Scenario {
        reports::Scenario {
            version: self.version,
            simulated: self.simulated,
            seed: self.seed,
            workload: self.workload,
            model: model.to_owned(),
            notes,
            device: self.device,
            slo: self.slo,
            wall_s: cost.wall_s,
            cpu_s: cost.cpu_s,
            host: self.host,
        }
    }
}

/// The processor this runs on.
pub(crate) fn host() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = info.lines().find_map(|l| l.strip_prefix("model name")?.split_once(": "));
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    format!("{} x {}", cores, name.map_or("unknown processor", |n| n.1))
}
