//! Engines and fleets, put together from the parts that a configuration names.

use std::convert::Infallible;
use std::sync::Arc;

use crate::config::{AllocatorKind, Config};
use crate::deployment::Deployment;
use crate::engine::Engine;
use crate::exec::Greedy;
use crate::exec::{Executor, RankExecutor, SimExecutor};
use crate::fleet::Fleet;
use crate::kv::{Contiguous, Group, KvAllocator, Paged};
use crate::machine::{Clock, Machine, MachineError};
use crate::router::Router;
use crate::sched;
use crate::speculation::{Drafter, PromptLookup, Speculation};
use crate::state::State;

/// The allocator `config` names, over `slots` slots for `groups` of layers. `config.max_model_len` must be resolved.
#[must_use]
pub fn allocator(config: &Config, slots: u32, groups: &[Group]) -> Box<dyn KvAllocator> {
    match config.allocator {
        AllocatorKind::Contiguous => {
            Box::new(Contiguous::new(slots, config.reserve, config.max_model_len))
        }
        AllocatorKind::Paged => {
            Box::new(Paged::grouped(slots, groups, config.longest_chunk(), config.prefix_cache))
        }
    }
}

/// An engine of `config` over these executors, one per worker, each with `slots` of KV; all layers are alike.
#[must_use]
pub fn engine(config: &Config, slots: u32, executors: Vec<Box<dyn Executor>>) -> Engine {
    grouped(config, slots, &[Group::all(config.block_size)], executors)
}

/// The same for `groups` of layers.
#[must_use]
pub fn grouped(
    config: &Config,
    slots: u32,
    groups: &[Group],
    executors: Vec<Box<dyn Executor>>,
) -> Engine {
    let pools = executors.iter().map(|_| allocator(config, slots, groups)).collect();
    Engine::new(State::new(config.clone(), pools), sched::of(config), executors)
}

/// The drafter that `config` names, for real tokens; none where none are drafted.
#[must_use]
pub fn drafter(config: &Config) -> Option<Box<dyn Drafter>> {
    match config.speculation {
        Speculation::PromptLookup => Some(Box::new(PromptLookup::default())),
        Speculation::Off | Speculation::Mtp => None,
    }
}

/// All replicas of a deployment, simulated. `coupled` when requests wait for responses (closed-loop load).
#[must_use]
pub fn simulated(deployment: &Deployment, coupled: bool) -> Fleet {
    let executor = || -> Box<dyn Executor> {
        let executor = SimExecutor::new(Arc::clone(&deployment.cost), deployment.config.pp);
        Box::new(executor.corrected(deployment.correction.clone()))
    };
    let (workers, dp) = (deployment.config.workers(), deployment.config.dp);
    let mut ranks = Vec::new();
    let executors = || {
        if dp == 1 {
            return Ok((0..workers).map(|_| executor()).collect());
        }
        if ranks.is_empty() {
            ranks = RankExecutor::group(dp, &deployment.cost, deployment.correction.as_ref());
        }
        Ok(ranks.pop().map(|rank| Box::new(rank) as Box<dyn Executor>).into_iter().collect())
    };
    let drafts = || Some(Box::new(deployment.drafts.clone()?) as Box<dyn Drafter>);
    fleet(deployment, &deployment.layout.groups, coupled, executors, drafts)
        .unwrap_or_else(|never: Infallible| match never {})
}

/// All replicas of a deployment, computed on `machine`, where they take turns.
///
/// # Errors
/// When a device has not the memory for it.
pub fn computed(
    deployment: &Deployment,
    coupled: bool,
    machine: &Machine,
) -> Result<Fleet, MachineError> {
    let workers = deployment.config.workers();
    let greedy = || Box::new(Greedy::default()) as _;
    let slots = deployment.kv_slots;
    // The kernels keep every token of every layer.
    let groups = [Group::all(deployment.config.block_size)];
    let executors = || machine.executors(workers, slots, Clock::Virtual, greedy);
    fleet(deployment, &groups, coupled, executors, || drafter(&deployment.config))
}

fn fleet<E>(
    deployment: &Deployment,
    groups: &[Group],
    coupled: bool,
    mut executors: impl FnMut() -> Result<Vec<Box<dyn Executor>>, E>,
    drafter: impl Fn() -> Option<Box<dyn Drafter>>,
) -> Result<Fleet, E> {
    let config = &deployment.config;
    let slots = deployment.kv_slots;
    let engine = |_| Ok(grouped(config, slots, groups, executors()?).drafting(drafter()));
    let engines = (0..config.engines()).map(engine).collect::<Result<_, E>>()?;
    Ok(Fleet::new(engines, Router::new(config.router), coupled).meeting(config.dp as usize))
}
