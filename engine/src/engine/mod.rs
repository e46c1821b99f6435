//! Plan, submit, commit: the loop that ties a scheduler, KV memory and executors together.
//!
//! One iteration of a worker is three calls:
//!
//! ```text
//! let plan = self.plan_next(worker, now);   // the policy says which sequences get how many tokens
//! self.submit(worker, plan, now, until);    // an executor begins to compute them
//! self.commit(worker);                      // lengths grow, tokens come out, ended sequences leave
//! ```
//!
//! The first two stand in [`Engine::start`], the third in [`Engine::step`], because time passes between them. The
//! engine is told the time and never asks for it. The owner of the clock lets idle workers begin (`start`), learns when
//! something will happen ([`Engine::next_event`]), and says when it has (`step`): a virtual clock jumps there, a live
//! one waits. [`Engine::wait`] waits for an executor that cannot tell beforehand when it will be done.

mod lane;
mod observer;

use std::sync::Arc;
use std::time::Duration;

pub use observer::Totals;

use lane::{Flight, Lane};
use observer::Observer;

use crate::event::Iteration;
use crate::exec::{Batch, Executor, Horizon, Outcome, Transfer, Wake};
use crate::fault::Fault;
use crate::kv::waste::{Classes, Ledger};
use crate::plan::{Chunk, Plan, WorkerId};
use crate::request::{Request, RequestId, Token};
use crate::sched::Scheduler;
use crate::sequence::{SeqId, Sequence};
use crate::shape::Shape;
use crate::speculation::Drafter;
use crate::state::{Rejected, State};

/// One serving engine: a queue, workers, a policy.
pub struct Engine {
    /// All sequences, waiting and running.
    pub state: State,
    scheduler: Box<dyn Scheduler>,
    drafter: Option<Box<dyn Drafter>>,
    lanes: Vec<Lane>,
    /// Plans in flight per worker.
    depth: usize,
    observer: Observer,
    iteration: Iteration,
    outcome: Outcome,
    spare: Vec<Plan>,
    /// Repeat plans where nothing but lengths would change.
    stretches: bool,
    /// True where a repeated plan goes on until a request comes, however far the future is known.
    open: bool,
    /// True where nothing but requests, whose times are told, ends the repetition of a plan from outside.
    told: bool,
    /// The reason for which nothing happens any more.
    fault: Option<Fault>,
}

impl Engine {
    /// An idle engine; `executors` are one per worker of `state`.
    #[must_use]
    pub fn new(
        mut state: State,
        scheduler: Box<dyn Scheduler>,
        executors: Vec<Box<dyn Executor>>,
    ) -> Self {
        for (id, worker) in state.workers.iter_mut().enumerate() {
            worker.role = scheduler.role(id);
        }
        Self {
            depth: state.config.pp as usize,
            observer: Observer::new(executors.len()),
            lanes: executors.into_iter().map(Lane::new).collect(),
            state,
            scheduler,
            drafter: None,
            iteration: Iteration::default(),
            outcome: Outcome::default(),
            spare: Vec::new(),
            stretches: true,
            open: false,
            told: false,
            fault: None,
        }
    }

    /// Lets `drafter` draft tokens for decoding sequences: as many as `draft_tokens` of the configuration says.
    #[must_use]
    pub fn drafting(mut self, drafter: Option<Box<dyn Drafter>>) -> Self {
        self.drafter = drafter;
        self
    }

    /// Makes every iteration a step of its own; results are the same, only slower.
    pub fn disable_stretches(&mut self) {
        self.stretches = false;
    }

    /// Lets a plan of the only worker be repeated until a request comes, beyond what [`Engine::start`] says of the future.
    pub fn keep_open(&mut self) {
        self.open = self.lanes.len() == 1 && self.depth == 1;
    }

    /// Nothing outside the engine ends the repetition of a plan but requests, and each is taken in at its time
    /// ([`Engine::add_request_at`]). Where plans are made ahead, a plan then goes on for the step that was planned before
    /// the request was seen.
    pub fn tell_arrivals(&mut self) {
        self.told = self.lanes.len() == 1;
    }

    /// No step of an open plan begins any more but one that is planned already.
    fn close(&mut self) {
        for lane in &mut self.lanes {
            if let Some(flight) = lane.flights.front_mut().filter(|f| f.ticket.done.is_none()) {
                flight.ticket.done = lane.executor.close();
            }
        }
    }

    /// When the last step ends that is known of an open plan.
    #[must_use]
    pub fn reached(&self) -> Option<Duration> {
        let open = self.lanes.iter().filter(|lane| !lane.flights.is_empty());
        open.filter_map(|lane| lane.executor.reached()).max()
    }

    /// True where the end of a plan is known.
    #[must_use]
    pub fn is_ending(&self) -> bool {
        self.lanes.iter().flat_map(|lane| &lane.flights).any(|f| f.ticket.done.is_some())
    }

    /// True where nothing is under way at `now`, or only a plan that is between two steps.
    #[must_use]
    pub fn is_between_steps(&self, now: Duration) -> bool {
        let paused = |lane: &Lane| lane.executor.reached().is_some_and(|at| at <= now);
        let between = |lane: &Lane, f: &Flight| f.ticket.done.is_none() && paused(lane);
        self.lanes.iter().all(|lane| lane.flights.iter().all(|f| between(lane, f)))
    }

    /// Takes a request in.
    ///
    /// # Errors
    /// When it could never run here, or too many wait already.
    pub fn add_request(&mut self, request: Request) -> Result<(), Rejected> {
        self.take_in(request, false, None)
    }

    /// Takes a request in that comes `at` this time.
    ///
    /// # Errors
    /// When it could never run here, or too many wait already.
    pub fn add_request_at(&mut self, request: Request, at: Duration) -> Result<(), Rejected> {
        self.take_in(request, false, Some(at))
    }

    /// The same for a request whose branches go on together, by tokens that are not sampled but chosen from outside
    /// ([`Engine::choose`]). It begins with one branch, and never has more than its width.
    ///
    /// # Errors
    /// When it could never run here, or too many wait already.
    pub fn add_together(&mut self, request: Request) -> Result<(), Rejected> {
        self.take_in(request, true, None)
    }

    fn take_in(
        &mut self,
        request: Request,
        together: bool,
        at: Option<Duration>,
    ) -> Result<(), Rejected> {
        self.close();
        // Planning runs ahead of the device by one iteration.
        let at = at.unwrap_or(Duration::MAX);
        if self.state.config.plans_ahead() && !self.lanes.iter().all(|lane| lane.sees(at)) {
            self.state.enqueue_unseen(request, together)?;
        } else {
            self.state.enqueue(request, together)?;
        }
        self.changed();
        Ok(())
    }

    /// Lets every worker that can begin an iteration at `now`; none is repeated beyond `until` or another worker's
    /// next event.
    pub fn start(&mut self, now: Duration, until: Duration) {
        // Again from the first, because a sequence preempted on one worker may start on another.
        while let Some(worker) = (0..self.lanes.len()).find(|&w| self.can_start(w, now)) {
            let others = (0..self.lanes.len()).filter(|&w| w != worker);
            // The end of a worker that is about to start is not known yet.
            let event = |w| if self.can_start(w, now) { Some(now) } else { self.lane_event(w) };
            let until = others.filter_map(event).min().unwrap_or(until).min(until);
            let plan = self.plan_next(worker, now);
            self.submit(worker, plan, now, until);
        }
    }

    /// Asks the policy for the next iteration of `worker`: an empty plan where there is nothing to compute.
    fn plan_next(&mut self, worker: WorkerId, now: Duration) -> Plan {
        self.observer.advance(&self.state, worker, now);
        self.state.forget_refusal(worker);
        if let Some(drafter) = &mut self.drafter {
            self.state.draft(worker, drafter.as_mut());
        }
        let mut plan = self.spare.pop().unwrap_or_default();
        plan.clear();
        self.scheduler.plan(&mut self.state, worker, now, &mut plan);
        plan.behind = self.state.catch_up(worker);
        let lane = &mut self.lanes[worker];
        self.state.drain_events(&mut lane.events);
        lane.wake = plan.wake;
        if plan.is_idle() {
            lane.stale = plan.behind;
        }
        if plan.preempted {
            self.changed();
        }
        plan
    }

    /// Hands `plan` to the executor of `worker`, and begins to move the KV it pulls. No step begins after `until`.
    fn submit(&mut self, worker: WorkerId, plan: Plan, now: Duration, until: Duration) {
        if plan.is_idle() {
            self.start_transfers(worker, &plan, now);
            self.spare.push(plan);
            return;
        }
        let (mut shape, recomputed) = self.measure(&plan);
        let copies = self.state.workers[worker].kv.copies();
        if !copies.is_empty() {
            let token = u64::from(self.state.workers[worker].kv.usage().token.max(1));
            let slots: u64 = copies.iter().map(|c| u64::from(c.len)).sum();
            shape.copied_tokens = slots.div_ceil(token);
        }
        // Copies leave room, which a request that was refused before may take.
        let repeated = self.stretches && copies.is_empty();
        let steps = if repeated { self.state.repeats(&plan, worker) } else { 1 };
        // A queue ordered by cached prefixes would see them a step too early.
        let ahead =
            self.told && self.state.config.plans_ahead() && !self.state.waiting.wants_cached();
        let horizon = Horizon { steps, until, open: self.open, ahead };
        let batch = Batch { worker, plan: &plan, state: &self.state, shape, copies: &copies };
        let lane = &mut self.lanes[worker];
        let ticket = lane.executor.submit(&batch, now, horizon);
        lane.free = ticket.next;
        // After the batch's copies: KV may be received where one of them still reads.
        self.start_transfers(worker, &plan, now);
        let lane = &mut self.lanes[worker];
        let events = std::mem::take(&mut lane.events);
        let waiting = self.state.waiting.len() as u32;
        let flight = Flight { plan, ticket, start: now, shape, recomputed, waiting, events };
        lane.flights.push_back(flight);
        self.check(worker);
    }

    /// Ends the oldest plan of `worker`: its sequences have their tokens, and the ended ones leave.
    fn commit(&mut self, worker: WorkerId) {
        let lane = &mut self.lanes[worker];
        let Some(mut flight) = lane.flights.pop_front() else { return };
        self.outcome.ends.clear();
        self.outcome.tokens.clear();
        lane.executor.complete(&mut self.outcome);
        let Outcome { ends, tokens } = &self.outcome;
        let before = Observer::look(&self.state, worker);
        let it = &mut self.iteration;
        it.clear();
        (it.worker, it.start, it.shape) = (worker, flight.start, flight.shape);
        it.ends.extend_from_slice(ends);
        self.state.commit(worker, &flight.plan, ends.len() as u32, tokens, it);
        it.events.append(&mut flight.events);
        self.state.drain_events(&mut it.events);
        self.observer.iteration(&self.state, &before, &flight, it);
        self.spare.push(flight.plan);
        self.changed();
    }

    /// Performs the events that are due at `now`: at most one iteration is committed, and its worker is returned.
    pub fn step(&mut self, now: Duration) -> Option<WorkerId> {
        for worker in 0..self.lanes.len() {
            let lane = &mut self.lanes[worker];
            if lane.wake.is_some_and(|at| at <= now) {
                (lane.wake, lane.stale) = (None, true);
            }
            while self.lanes[worker].transfers.front().is_some_and(|&at| at <= now) {
                self.receive(worker, now);
            }
        }
        let worker = self.lanes.iter().position(|lane| lane.is_done(now))?;
        self.commit(worker);
        Some(worker)
    }

    /// The KV that was pulled first has arrived at `worker`.
    fn receive(&mut self, worker: WorkerId, now: Duration) {
        self.lanes[worker].transfers.pop_front();
        // Only these two change; others may be in the middle of a stretch.
        let from = self.state.incoming_from(worker);
        for w in [Some(worker), from].into_iter().flatten() {
            self.observer.advance(&self.state, w, now);
        }
        self.state.arrive(worker);
        self.changed();
    }

    fn start_transfers(&mut self, worker: WorkerId, plan: &Plan, now: Duration) {
        for &seq in &plan.pulls {
            let from = self.state.seq(seq).worker as usize;
            let tokens = self.state.moving_tokens(worker, seq);
            let transfer = Transfer { state: &self.state, seq, from, to: worker, tokens };
            let lane = &mut self.lanes[worker];
            let at = lane.executor.transfer(&transfer, now);
            lane.transfers.push_back(at);
        }
        self.check(worker);
    }

    /// The work of `plan`, and the part of it that was done before.
    fn measure(&self, plan: &Plan) -> (Shape, u32) {
        let (mut shape, mut recomputed) = (Shape::default(), 0);
        for &Chunk { seq, n } in &plan.chunks {
            let seq: &Sequence = self.state.seq(seq);
            let samples = seq.samples_after(seq.computed + n);
            shape.add(seq.computed, n, seq.decodes(), samples);
            recomputed += seq.reached.min(seq.computed + n).saturating_sub(seq.computed);
            if samples && seq.forks() {
                shape.sampled += u32::from(seq.width) - 1;
            }
        }
        if plan.padded_to > 0 {
            shape = shape.padded(plan.seats, plan.padded_to);
        }
        (shape, recomputed)
    }

    /// Continues the branches of `request` from `now`, which the last iteration settled: branch `n` becomes a copy of
    /// branch `next[n].0` with the token `next[n].1` after it. Branches that `next` does not name end; [`Engine::end`]
    /// ends all.
    ///
    /// # Panics
    /// When `request` is not settled, or `next` is empty.
    pub fn choose(&mut self, request: RequestId, next: &[(u16, Token)], now: Duration) {
        for id in self.state.living(request, None) {
            self.observe_worker_of(id, now);
        }
        self.state.choose(request, next);
        self.changed();
    }

    /// Ends at `now` the branches of `request` that are still being generated; only branch `branch`, where one is
    /// given. Its KV is free for the next plan, or when the iteration is over that computes it. Not for executors that
    /// repeat batches.
    pub fn end(&mut self, request: RequestId, branch: Option<u16>, now: Duration) {
        for id in self.state.living(request, branch) {
            self.observe_worker_of(id, now);
            self.state.end(id);
            self.changed();
        }
    }

    /// Brings the ledger up to `now` on the worker whose memory is about to change with `id`.
    fn observe_worker_of(&mut self, id: SeqId, now: Duration) {
        let worker = self.state.seq(id).worker as WorkerId;
        self.observer.advance(&self.state, worker, now);
    }

    /// Every worker should look again.
    fn changed(&mut self) {
        for lane in &mut self.lanes {
            lane.stale = true;
        }
    }

    /// True if [`Engine::start`] has anything to look at.
    #[must_use]
    pub fn is_ready(&self, now: Duration) -> bool {
        (0..self.lanes.len()).any(|w| self.can_start(w, now))
    }

    fn can_start(&self, worker: WorkerId, now: Duration) -> bool {
        self.lanes[worker].can_start(self.depth, now) && self.fault.is_none()
    }

    /// The time of the next event on `worker`.
    fn lane_event(&self, worker: WorkerId) -> Option<Duration> {
        self.lanes[worker].next_event(self.depth)
    }

    /// The time of the next event, if any is known; none where a device has failed.
    #[must_use]
    pub fn next_event(&self) -> Option<Duration> {
        if self.fault.is_some() {
            return None;
        }
        (0..self.lanes.len()).filter_map(|w| self.lane_event(w)).min()
    }

    /// Lets time pass from `now` until a batch is done whose end was not known beforehand, but not beyond `until` or
    /// another event that is due.
    pub fn wait(&mut self, now: Duration, until: Duration) {
        let is_open = |lane: &Lane| lane.flights.front().is_some_and(|f| f.ticket.done.is_none());
        if !self.lanes.iter().any(is_open) {
            return;
        }
        let until = self.next_event().map_or(until, |at| at.min(until));
        for worker in 0..self.lanes.len() {
            if self.fault.is_some() {
                return;
            }
            let lane = &mut self.lanes[worker];
            let open = lane.flights.front_mut().filter(|f| f.ticket.done.is_none());
            if let Some(flight) = open {
                flight.ticket.done = lane.executor.wait(&self.state, now, until);
                self.check(worker);
            }
        }
    }

    /// Tells `wake` whenever [`Engine::wait`] would find a batch done.
    pub fn wake_by(&mut self, wake: &Wake) {
        self.lanes.iter_mut().for_each(|lane| lane.executor.wake_by(Arc::clone(wake)));
    }

    /// The reason for which nothing happens here any more, if that is so: a device has failed.
    #[must_use]
    pub fn fault(&self) -> Option<&Fault> {
        self.fault.as_ref()
    }

    /// Takes note if the device under `worker` has failed.
    fn check(&mut self, worker: WorkerId) {
        if self.fault.is_none() {
            self.fault = self.lanes[worker].executor.fault().cloned();
        }
    }

    /// The iteration committed last.
    #[must_use]
    pub fn last_iteration(&self) -> &Iteration {
        &self.iteration
    }

    /// Brings every ledger up to `now`, at which nothing is in flight.
    pub fn settle(&mut self, now: Duration) {
        (0..self.lanes.len()).for_each(|w| self.observer.advance(&self.state, w, now));
    }

    /// Tokens still to compute or generate at `now`, over all sequences: routers compare this. The steps of a stretch
    /// count when they end, not when all of it does.
    #[must_use]
    pub fn load(&self, now: Duration) -> u64 {
        self.state.load() - self.lanes.iter().map(|lane| lane.generated(now)).sum::<u64>()
    }

    /// All work so far.
    #[must_use]
    pub fn totals(&self) -> Totals {
        self.observer.totals
    }

    /// Each worker's ledger.
    pub fn ledgers(&self) -> impl Iterator<Item = &Ledger> {
        self.observer.ledgers.iter()
    }

    /// KV slots of all workers by their fate.
    #[must_use]
    pub fn classes(&self) -> [(&'static str, u64); 6] {
        let mut classes = Classes::NAMES.map(|name| (name, 0));
        for worker in 0..self.lanes.len() {
            let held = Classes::from(self.state.holding(worker)).to_array();
            classes.iter_mut().zip(held).for_each(|(class, slots)| class.1 += slots);
        }
        classes
    }

    /// Workers.
    #[must_use]
    pub fn workers(&self) -> usize {
        self.lanes.len()
    }

    /// Sequences that iterations in flight name.
    pub fn in_flight(&self) -> impl Iterator<Item = SeqId> + '_ {
        self.lanes.iter().flat_map(|l| &l.flights).flat_map(|f| &f.plan.chunks).map(|c| c.seq)
    }
}
