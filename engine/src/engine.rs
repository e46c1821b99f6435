//! Plan, submit, complete, commit: the loop that ties a scheduler, KV memory and executors together.
//!
//! The engine is told the time and never asks for it. Whoever owns the clock calls [`Engine::start`] to let idle workers
//! begin, learns from [`Engine::next_event`] when something will happen, and calls [`Engine::step`] when it has: a virtual
//! clock jumps there, a live one waits. Where only the executor can tell when it is done, [`Engine::wait`] waits for it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use crate::event::{Event, Iteration};
use crate::exec::{Batch, Executor, Horizon, Outcome, Ticket, Transfer, Wake};
use crate::fault::Fault;
use crate::kv::waste::{Classes, Ledger};
use crate::plan::{Chunk, Plan, WorkerId};
use crate::request::{Request, RequestId, Token};
use crate::sched::Scheduler;
use crate::sequence::{SeqId, Sequence};
use crate::shape::Shape;
use crate::state::{Refusal, Rejected, State};

/// One worker's executor and what it is doing.
struct Lane {
    executor: Box<dyn Executor>,
    flights: VecDeque<Flight>,
    /// When another plan may be submitted.
    free: Duration,
    /// When an idle worker wants to look again.
    wake: Option<Duration>,
    /// KV on its way here, in order of arrival.
    transfers: VecDeque<Duration>,
    /// What planning did that no iteration has told yet.
    events: Vec<Event>,
    /// Whether something changed since this worker last had nothing to do.
    stale: bool,
    ledger: Ledger,
}

/// A plan under way.
struct Flight {
    plan: Plan,
    ticket: Ticket,
    start: Duration,
    shape: Shape,
    recomputed: u32,
    /// What happened when it was planned.
    events: Vec<Event>,
}

/// What workers have done, all together.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Totals {
    /// Iterations.
    pub iterations: u64,
    /// Tokens through the model, padding and recomputation included.
    pub executed: u64,
    /// Tokens computed to fill a static batch.
    pub padded: u64,
    /// Tokens computed before, then lost to a preemption.
    pub recomputed: u64,
    /// Times a request gave way.
    pub preemptions: u64,
    /// Sequence-nanoseconds: sequences in a plan times its length.
    pub batch: u128,
    /// Worker-nanoseconds in iterations.
    pub busy: u128,
    /// Worker-nanoseconds in iterations that filled the token budget.
    pub full: u128,
    /// Worker-nanoseconds in which the head of the queue was refused for want of a seat.
    pub refused_seats: u128,
    /// Worker-nanoseconds in which it was refused for want of KV memory.
    pub refused_kv: u128,
}

/// One serving engine: a queue, workers, a policy.
pub struct Engine {
    /// Who waits and runs.
    pub state: State,
    scheduler: Box<dyn Scheduler>,
    lanes: Vec<Lane>,
    /// Plans in flight per worker.
    depth: usize,
    totals: Totals,
    iteration: Iteration,
    outcome: Outcome,
    spare: Vec<Plan>,
    /// Repeat plans where nothing but lengths would change.
    stretches: bool,
    /// Why nothing happens any more.
    fault: Option<Fault>,
}

impl Engine {
    /// An idle engine; `executors` are one per worker of `state`.
    #[must_use]
    pub fn new(
        state: State,
        scheduler: Box<dyn Scheduler>,
        executors: Vec<Box<dyn Executor>>,
    ) -> Self {
        let lane = |executor| Lane {
            executor,
            flights: VecDeque::new(),
            free: Duration::ZERO,
            wake: None,
            transfers: VecDeque::new(),
            events: Vec::new(),
            stale: true,
            ledger: Ledger::default(),
        };
        Self {
            depth: state.config.pp as usize,
            lanes: executors.into_iter().map(lane).collect(),
            state,
            scheduler,
            totals: Totals::default(),
            iteration: Iteration::default(),
            outcome: Outcome::default(),
            spare: Vec::new(),
            stretches: true,
            fault: None,
        }
    }

    /// Makes every iteration a step of its own; results are the same, only slower.
    pub fn disable_stretches(&mut self) {
        self.stretches = false;
    }

    /// Why nothing happens here any more, if that is so: a device has failed.
    #[must_use]
    pub fn fault(&self) -> Option<&Fault> {
        self.fault.as_ref()
    }

    /// Looks whether the device under `worker` has failed.
    fn check(&mut self, worker: WorkerId) {
        if self.fault.is_none() {
            self.fault = self.lanes[worker].executor.fault().cloned();
        }
    }

    /// Takes a request in.
    ///
    /// # Errors
    /// When it could never run here.
    pub fn submit(&mut self, request: Request) -> Result<(), Rejected> {
        self.take_in(request, false)
    }

    /// The same for a request whose branches go on together, by tokens that are not sampled but chosen from outside
    /// ([`Engine::choose`]). It begins with one branch, and never has more than its width.
    ///
    /// # Errors
    /// When it could never run here.
    pub fn submit_together(&mut self, request: Request) -> Result<(), Rejected> {
        self.take_in(request, true)
    }

    fn take_in(&mut self, request: Request, together: bool) -> Result<(), Rejected> {
        // Planning runs ahead of the device by one iteration.
        let planned = self.lanes.iter().any(|l| !l.flights.is_empty());
        if self.state.config.async_scheduling && planned {
            self.state.enqueue_unseen(request, together)?;
        } else {
            self.state.enqueue(request, together)?;
        }
        self.changed();
        Ok(())
    }

    /// How the branches of `request` go on from `now`, which the last iteration settled: branch `n` with the token
    /// `next[n].1` after what branch `next[n].0` was. Branches that nobody names end; [`Engine::end`] ends all.
    ///
    /// # Panics
    /// When `request` is not settled, or `next` is empty.
    pub fn choose(&mut self, request: RequestId, next: &[(u16, Token)], now: Duration) {
        for id in self.state.living(request, None) {
            self.account(self.state.seq(id).worker as WorkerId, now);
        }
        self.state.choose(request, next);
        self.changed();
    }

    /// Ends at `now` what `request` has not generated yet; only its branch `branch`, where one is given. Its KV is free
    /// for the next plan, or when the iteration is over that computes it. Not for executors that repeat batches.
    pub fn end(&mut self, request: RequestId, branch: Option<u16>, now: Duration) {
        for id in self.state.living(request, branch) {
            self.account(self.state.seq(id).worker as WorkerId, now);
            self.state.end(id);
            self.changed();
        }
    }

    fn changed(&mut self) {
        for lane in &mut self.lanes {
            lane.stale = true;
        }
    }

    /// Lets every worker that can begin an iteration at `now`; none is repeated beyond `until` or another worker's
    /// next event.
    pub fn start(&mut self, now: Duration, until: Duration) {
        // Again from the first, because who was preempted on one worker may start on another.
        while let Some(worker) = (0..self.lanes.len()).find(|&w| self.can_start(w, now)) {
            let others = (0..self.lanes.len()).filter(|&w| w != worker);
            // Who is about to begin ends nobody knows when.
            let event = |w| if self.can_start(w, now) { Some(now) } else { self.lane_event(w) };
            let until = others.filter_map(event).min().unwrap_or(until).min(until);
            self.start_one(worker, now, until);
        }
    }

    /// Whether [`Engine::start`] has anything to look at.
    #[must_use]
    pub fn is_ready(&self, now: Duration) -> bool {
        (0..self.lanes.len()).any(|w| self.can_start(w, now))
    }

    fn can_start(&self, worker: WorkerId, now: Duration) -> bool {
        let lane = &self.lanes[worker];
        let room = lane.stale && lane.flights.len() < self.depth && lane.free <= now;
        room && self.fault.is_none()
    }

    fn start_one(&mut self, worker: WorkerId, now: Duration, until: Duration) {
        self.account(worker, now);
        self.state.forget_refusal(worker);
        let mut plan = self.spare.pop().unwrap_or_default();
        plan.clear();
        let late = self.state.knows_late(worker);
        self.scheduler.plan(&mut self.state, worker, now, &mut plan);
        if late {
            self.state.forget_late(worker);
        }
        let seen = self.state.see();
        let lane = &mut self.lanes[worker];
        self.state.drain_events(&mut lane.events);
        lane.wake = plan.wake;
        if plan.is_idle() {
            lane.stale = seen || late;
        }
        if plan.preempted {
            self.changed();
        }
        if plan.is_idle() {
            self.start_transfers(worker, &plan, now);
            self.spare.push(plan);
            return;
        }
        let (mut shape, recomputed) = self.measure(&plan);
        let copies = self.state.workers[worker].kv.copies();
        shape.copied_tokens = copies.iter().map(|c| u64::from(c.len)).sum();
        // What this plan did not know of the next one will.
        let repeats = self.stretches && !late;
        let steps = if repeats { self.state.repeats(&plan, worker) } else { 1 };
        let batch = Batch { worker, plan: &plan, state: &self.state, shape, copies: &copies };
        let lane = &mut self.lanes[worker];
        let ticket = lane.executor.submit(&batch, now, Horizon { steps, until });
        lane.free = ticket.next;
        // After the batch's copies: KV may be received where one of them still reads.
        self.start_transfers(worker, &plan, now);
        let lane = &mut self.lanes[worker];
        let events = std::mem::take(&mut lane.events);
        lane.flights.push_back(Flight { plan, ticket, start: now, shape, recomputed, events });
        self.check(worker);
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

    /// The work of `plan`, and how much of it was done before.
    fn measure(&self, plan: &Plan) -> (Shape, u32) {
        let (mut shape, mut recomputed) = (Shape::default(), 0);
        for &Chunk { seq, n } in &plan.chunks {
            let seq: &Sequence = self.state.seq(seq);
            let samples = seq.computed + n == seq.len;
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

    /// When something happens next on `worker`.
    fn lane_event(&self, worker: WorkerId) -> Option<Duration> {
        let lane = &self.lanes[worker];
        let done = lane.flights.front().and_then(|f| f.ticket.done);
        let room = !lane.flights.is_empty() && lane.flights.len() < self.depth && lane.stale;
        let events = [done, lane.transfers.front().copied(), lane.wake, room.then_some(lane.free)];
        events.into_iter().flatten().min()
    }

    /// Lets time pass from `now` until a batch is done of which nobody could say when, but not beyond `until` or
    /// whatever else is due.
    pub fn wait(&mut self, now: Duration, until: Duration) {
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

    /// Who is told whenever [`Engine::wait`] would find a batch done.
    pub fn wake_by(&mut self, wake: &Wake) {
        self.lanes.iter_mut().for_each(|lane| lane.executor.wake_by(Arc::clone(wake)));
    }

    /// When something happens next, if that is known of anything; nothing does where a device has failed.
    #[must_use]
    pub fn next_event(&self) -> Option<Duration> {
        if self.fault.is_some() {
            return None;
        }
        (0..self.lanes.len()).filter_map(|w| self.lane_event(w)).min()
    }

    /// Lets happen what is due at `now`: at most one iteration is committed, and whose.
    pub fn step(&mut self, now: Duration) -> Option<WorkerId> {
        for worker in 0..self.lanes.len() {
            if self.lanes[worker].wake.is_some_and(|at| at <= now) {
                self.lanes[worker].wake = None;
                self.lanes[worker].stale = true;
            }
            while self.lanes[worker].transfers.front().is_some_and(|&at| at <= now) {
                self.lanes[worker].transfers.pop_front();
                // Only these two change; others may be in the middle of a stretch.
                let from = self.state.incoming_from(worker);
                [Some(worker), from].into_iter().flatten().for_each(|w| self.account(w, now));
                self.state.arrive(worker);
                self.changed();
            }
        }
        let due =
            |l: &Lane| l.flights.front().is_some_and(|f| f.ticket.done.is_some_and(|at| at <= now));
        let worker = self.lanes.iter().position(due)?;
        self.finish(worker);
        Some(worker)
    }

    /// The iteration committed last.
    #[must_use]
    pub fn last_iteration(&self) -> &Iteration {
        &self.iteration
    }

    /// Commits the oldest plan of `worker`.
    fn finish(&mut self, worker: WorkerId) {
        let Some(mut flight) = self.lanes[worker].flights.pop_front() else { return };
        self.outcome.ends.clear();
        self.outcome.tokens.clear();
        self.lanes[worker].executor.complete(&mut self.outcome);
        let ends = &self.outcome.ends;
        let (steps, end) = (ends.len() as u32, ends[ends.len() - 1]);
        self.iteration.clear();
        self.iteration.worker = worker;
        self.iteration.start = flight.start;
        self.iteration.shape = flight.shape;
        self.iteration.ends.extend_from_slice(ends);
        if steps == 1 {
            self.account(worker, end);
        }
        let before = self.state.holding(worker);
        let counts = self.counts(worker);
        self.state.commit(worker, &flight.plan, steps, &self.outcome.tokens, &mut self.iteration);
        if steps > 1 {
            let decoding = flight.plan.chunks.len() as u64;
            let lane = &mut self.lanes[worker];
            let growth = self.state.growth();
            lane.ledger.stretch(&self.outcome.ends, before, decoding, growth, counts.0, counts.1);
        }
        if self.state.is_prefill_worker(worker) {
            self.state.hand_over(worker, &flight.plan);
        }
        self.iteration.events.append(&mut flight.events);
        self.state.drain_events(&mut self.iteration.events);
        self.total(worker, &flight, steps, end);
        self.spare.push(flight.plan);
        self.changed();
    }

    fn total(&mut self, worker: WorkerId, flight: &Flight, steps: u32, end: Duration) {
        let (t, length, steps) =
            (&mut self.totals, (end - flight.start).as_nanos(), u64::from(steps));
        let executed = u64::from(flight.shape.tokens());
        let preempted = |e: &&Event| matches!(e, Event::Preempted { .. });
        t.preemptions += self.iteration.events.iter().filter(preempted).count() as u64;
        t.iterations += steps;
        t.executed += executed * steps;
        t.padded += executed.saturating_sub(u64::from(flight.plan.tokens)) * steps;
        t.recomputed += u64::from(flight.recomputed);
        t.batch += length * flight.plan.chunks.len() as u128;
        t.busy += length;
        if flight.shape.tokens() >= self.state.config.max_batch_tokens {
            t.full += length;
        }
        match self.state.workers[worker].refusal {
            Refusal::None => {}
            Refusal::Seats => t.refused_seats += length,
            Refusal::Kv => t.refused_kv += length,
        }
    }

    fn counts(&self, worker: WorkerId) -> (u32, u32) {
        (self.state.workers[worker].running.len() as u32, self.state.waiting.len() as u32)
    }

    /// Brings `worker`'s ledger up to `now`: what it holds has not changed since it was last brought up.
    fn account(&mut self, worker: WorkerId, now: Duration) {
        let (running, waiting) = self.counts(worker);
        let holding = self.state.holding(worker);
        self.lanes[worker].ledger.advance(now, holding, running, waiting);
    }

    /// Brings every ledger up to `now`, at which nothing is in flight.
    pub fn settle(&mut self, now: Duration) {
        (0..self.lanes.len()).for_each(|w| self.account(w, now));
    }

    /// Tokens still to compute or generate at `now`, over everybody: what routers compare. The steps of a stretch
    /// count when they end, not when all of it does.
    #[must_use]
    pub fn load(&self, now: Duration) -> u64 {
        let done = |lane: &Lane| {
            let decoding = lane.flights.front().map_or(0, |f| f.plan.chunks.len());
            u64::from(lane.executor.steps_before(now)) * decoding as u64
        };
        self.state.load() - self.lanes.iter().map(done).sum::<u64>()
    }

    /// What has been done so far.
    #[must_use]
    pub fn totals(&self) -> Totals {
        self.totals
    }

    /// Each worker's ledger.
    pub fn ledgers(&self) -> impl Iterator<Item = &Ledger> {
        self.lanes.iter().map(|l| &l.ledger)
    }

    /// KV slots of all workers by what became of them.
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
