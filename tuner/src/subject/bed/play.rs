//! Runs of a testbed: alone, side by side, and as a search asks for them.

use std::time::Duration;

use engine::shape::Shape;
use engine::{Config, Deployment, Iteration};
use loadgen::ReplayOptions;
use rayon::prelude::*;
use workloads::{Trace, TraceRequest};

use super::run::Run;
use super::testbed::Testbed;
use crate::subject::observation::{Detailed, Observation};
use crate::subject::unfit::Unfit;
use crate::subject::{Refused, Relax, Stop, Subject, Trial};

/// A search for capacity must not be throttled by the client to what the server manages.
const LIFTED: ReplayOptions = ReplayOptions { lift_session_cap: true };

impl Testbed {
    /// One run of `deployment` with everything kept that a report draws.
    ///
    /// # Errors
    /// When the machine that computes it fails; so in all of these. A simulation does not.
    pub fn detail(&self, deployment: &Deployment, scale: f64) -> Result<Detailed, Refused> {
        self.detail_of(deployment, self.trace.requests.len(), scale)
    }

    /// The same over the first `head` requests.
    ///
    /// # Errors
    /// See [`Testbed::detail`].
    pub fn detail_of(
        &self,
        deployment: &Deployment,
        head: usize,
        scale: f64,
    ) -> Result<Detailed, Refused> {
        self.play(deployment, head, scale, LIFTED, &mut |_| ())
    }

    /// The same; `watch` sees every iteration (or stretch of equal ones) as it ends.
    ///
    /// # Errors
    /// See [`Testbed::detail`].
    pub fn watched(
        &self,
        deployment: &Deployment,
        scale: f64,
        watch: &mut dyn FnMut(&Iteration),
    ) -> Result<Detailed, Refused> {
        self.play(deployment, self.trace.requests.len(), scale, LIFTED, watch)
    }

    /// One run of `deployment` as a client really makes it, with its cap on what is in flight. `watch` as
    /// above.
    ///
    /// # Errors
    /// See [`Testbed::detail`].
    pub fn rerun(
        &self,
        deployment: &Deployment,
        scale: f64,
        watch: &mut dyn FnMut(&Iteration),
    ) -> Result<Detailed, Refused> {
        let options = ReplayOptions { lift_session_cap: false };
        self.play(deployment, self.trace.requests.len(), scale, options, watch)
    }

    fn play(
        &self,
        deployment: &Deployment,
        head: usize,
        scale: f64,
        options: ReplayOptions,
        watch: &mut dyn FnMut(&Iteration),
    ) -> Result<Detailed, Refused> {
        let _turn = self.turn();
        let mut run = Run::new(self, deployment, self.head(head), scale, options)?;
        run.keep(watch);
        run.play()?;
        Ok(run.detailed())
    }

    /// One run of `config` over the whole trace, `scale` times as fast as recorded.
    ///
    /// # Errors
    /// When it cannot run.
    pub fn replay(&self, config: &Config, scale: f64) -> Result<Observation, Refused> {
        let deployment = self.deployment(config, Relax::Nothing)?;
        self.observe(&deployment, self.trace.requests.len(), scale)
    }

    /// One run with everything offered at once: the throughput of `config` without waiting for
    /// arrivals.
    ///
    /// # Errors
    /// When it cannot run.
    pub fn saturated(&self, config: &Config) -> Result<Observation, Refused> {
        self.replay(config, f64::INFINITY)
    }

    /// Runs `trials` to their ends, even if the SLO is broken. Simulations do not disturb each
    /// other. Runs that a machine computes are played side by side, batch by batch, so that all are
    /// at the same second of the trace in the same seconds of the machine.
    ///
    /// # Errors
    /// When one of them cannot run.
    pub fn side_by_side(&self, trials: &[Trial<'_>]) -> Result<Vec<Observation>, Stop> {
        self.play_together(trials, |_| false)
    }

    fn play_together(
        &self,
        trials: &[Trial<'_>],
        may_end_early: impl Fn(&Trial<'_>) -> bool + Sync,
    ) -> Result<Vec<Observation>, Stop> {
        let deployments = trials.iter().map(|t| self.deployment(t.config, t.relax));
        let deployments = deployments.collect::<Result<Vec<_>, Refused>>()?;
        let begin = |(trial, deployment): (&Trial<'_>, &Deployment)| {
            let head = self.head(trial.head(self));
            let run = Run::new(self, deployment, head, trial.scale, LIFTED)?;
            Ok(if may_end_early(trial) { run.while_it_may_hold() } else { run })
        };
        let Some(machine) = &self.machine else {
            let alone = |run| {
                let mut run = begin(run)?;
                run.play()?;
                Ok(run.observe())
            };
            return trials.par_iter().zip(&deployments).map(alone).collect();
        };
        let slots = deployments.iter().map(|d| u64::from(d.kv_slots) * u64::from(lanes(&d.config)));
        let at_once = machine.at_once(slots.max().unwrap_or(0));
        let _turn = self.turn();
        let mut observations = Vec::with_capacity(trials.len());
        for (trials, deployments) in trials.chunks(at_once).zip(deployments.chunks(at_once)) {
            let begun = trials.iter().zip(deployments).map(begin);
            let mut runs = begun.collect::<Result<Vec<_>, Refused>>()?;
            abreast(&mut runs, Run::now, Run::advance)?;
            observations.extend(runs.into_iter().map(Run::observe));
        }
        Ok(observations)
    }

    /// One run of `deployment` over the first `head` requests.
    ///
    /// # Errors
    /// See [`Testbed::detail`].
    pub fn observe(
        &self,
        deployment: &Deployment,
        head: usize,
        scale: f64,
    ) -> Result<Observation, Refused> {
        let _turn = self.turn();
        let mut run = Run::new(self, deployment, self.head(head), scale, LIFTED)?;
        run.play()?;
        Ok(run.observe())
    }
}

impl Subject for Testbed {
    fn run(&self, trial: &Trial<'_>) -> Result<Observation, Stop> {
        // A trial that offers all at once asks for the throughput, so it runs to its end in any
        // case.
        let alone = std::slice::from_ref(trial);
        let at_once = trial.scale.is_infinite();
        let seen = if at_once { self.side_by_side(alone) } else { self.run_together(alone) };
        Ok(seen?.remove(0))
    }

    fn run_together(&self, trials: &[Trial<'_>]) -> Result<Vec<Observation>, Stop> {
        // A simulation costs little, and tells by how much: it ends early where nobody asks for that.
        self.play_together(trials, |trial| !self.is_simulated() || trial.verdict_only)
    }

    fn requests(&self) -> usize {
        self.trace.requests.len()
    }

    fn most(&self) -> usize {
        self.stream.as_ref().map_or(self.trace.requests.len(), |s| s.most())
    }

    fn natural_rate(&self, head: usize) -> f64 {
        self.head(head).trace.offered_rate()
    }

    fn output_tokens_per_request(&self) -> f64 {
        self.tokens_per_start(|_| true)
    }

    fn served_tokens_per_request(&self, config: &Config) -> Result<f64, Refused> {
        Ok(self.served_tokens(&self.deployment(config, Relax::Nothing)?))
    }

    fn ceiling(&self, config: &Config) -> Result<f64, Refused> {
        let deployment = self.deployment(config, Relax::Nothing)?;
        // A profile bounds a simulation, not a machine.
        let simulated = self.is_simulated();
        Ok(if simulated { ceiling(&deployment, &self.trace) } else { f64::INFINITY })
    }

    fn unfit(&self, config: &Config) -> Result<Unfit, Refused> {
        let deployment = self.deployment(config, Relax::Nothing)?;
        Ok(Unfit::of(&deployment, &self.trace.requests))
    }
}

/// Sizes of iterations that are looked at from one to its double.
const STEPS_PER_DOUBLING: u32 = 16;

/// Requests/s that no schedule can exceed: every output token (and every prompt token that no cache can hold) passes all
/// layers, at best in the iteration, of those that the configuration allows, that takes least time per token.
fn ceiling(deployment: &Deployment, trace: &Trace) -> f64 {
    let c = &deployment.config;
    // A request that can never be served is no work.
    let served =
        || trace.requests.iter().filter(|r| deployment.refuses(r.input, r.output).is_none());
    let uncached = |r: &TraceRequest| if c.prefix_cache { r.input.min(1) } else { r.input };
    let prompt: u64 = served().map(|r| u64::from(uncached(r))).sum();
    let output: u64 = served().map(|r| u64::from(r.output.saturating_sub(1))).sum();
    // Some schedulers run a prompt above the budget alone, some count decodes apart.
    let longest = served().map(|r| r.input).max().unwrap_or(0);
    let most = c.max_batch_tokens.max(longest).saturating_add(c.max_seqs);
    let seconds = |tokens: u32| {
        let shape = Shape { prefill_tokens: tokens, ..Shape::default() };
        deployment.cost.stage_ns(&shape) as f64 / 1e9
    };
    // No iteration takes less than one of fewer tokens: of all between two sizes, none has more than the second, in less
    // time than the first takes.
    let mut best = seconds(1);
    let mut from = 1;
    while from < most {
        let to = (from + 1 + from / STEPS_PER_DOUBLING).min(most);
        best = best.min(seconds(from) / f64::from(to));
        from = to;
    }
    best = best.min(seconds(most) / f64::from(most));
    let work = (prompt + output) as f64 * best;
    trace.starts() as f64 * f64::from(lanes(c)) / work.max(f64::MIN_POSITIVE)
}

/// Workers of all replicas.
fn lanes(config: &Config) -> u32 {
    config.engines() * config.workers()
}

/// Plays `runs` to their ends. The run that is furthest behind, by its own clock (`now`), goes on;
/// `advance` says whether there is more of it.
fn abreast<R, E>(
    runs: &mut [R],
    now: impl Fn(&R) -> Duration,
    mut advance: impl FnMut(&mut R) -> Result<bool, E>,
) -> Result<(), E> {
    let mut going: Vec<usize> = (0..runs.len()).collect();
    while let Some(last) = going.iter().copied().min_by_key(|i| now(&runs[*i])) {
        if !advance(&mut runs[last])? {
            going.retain(|i| *i != last);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_run_that_is_furthest_behind_goes_on(
            steps in prop::collection::vec(prop::collection::vec(1..9_u64, 1..20), 1..5)
        ) {
            let mut runs: Vec<_> = (0..).zip(steps.clone()).map(|(id, left)| (0, id, left)).collect();
            let mut log = Vec::new();
            let advance = |(clock, id, left): &mut (u64, usize, Vec<u64>)| {
                let step = left.remove(0);
                *clock += step;
                log.push((*id, step));
                Ok::<bool, ()>(!left.is_empty())
            };
            abreast(&mut runs, |run| Duration::from_secs(run.0), advance).unwrap();
            prop_assert_eq!(log.len(), steps.iter().map(Vec::len).sum::<usize>());
            let (mut clocks, mut left) = (vec![0; steps.len()], steps);
            for (id, step) in log {
                let going = (0..left.len()).filter(|i| !left[*i].is_empty());
                prop_assert_eq!(going.map(|i| clocks[i]).min(), Some(clocks[id]));
                prop_assert_eq!(left[id].remove(0), step);
                clocks[id] += step;
            }
        }
    }
}
