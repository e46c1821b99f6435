//! Who waits, who runs where, and the five verbs by which a policy changes that.
//!
//! `admit`, `extend`, `preempt`, `pull`, `reject` are written once, here; a scheduler only decides in which order to
//! call them. There is no clock, thread or random number in this file.

use std::collections::VecDeque;
use std::time::Duration;

use crate::config::{Config, PromptKv, SchedulerKind, Victim};
use crate::event::{BranchToken, Event, Iteration};
use crate::kv::KvAllocator;
use crate::kv::waste::{Growth, Holding};
use crate::plan::{Plan, WorkerId};
use crate::request::{Content, Request, Token};
use crate::sequence::{ALONE, Place, SeqId, Sequence};
use crate::waiting::Waiting;

/// Why the head of the queue could not start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Refusal {
    /// Nobody was refused.
    #[default]
    None,
    /// Every seat is taken.
    Seats,
    /// KV memory is full.
    Kv,
}

/// One running list on one KV pool.
pub struct Worker {
    /// In order of admission.
    pub running: Vec<SeqId>,
    /// Its KV memory.
    pub kv: Box<dyn KvAllocator>,
    /// Seats taken, of `max_seqs`.
    pub seats: u32,
    /// Why the head of the queue was refused when it last asked.
    pub refusal: Refusal,
    /// Tokens computed or being computed, summed over tables.
    held: u64,
    /// Slots that tables hold beyond the length their sequence ends at.
    beyond: u64,
    /// KV on its way here.
    incoming: VecDeque<Move>,
}

/// A request of several branches.
#[derive(Debug, Clone, Default)]
struct Group {
    members: Vec<SeqId>,
    /// Members not ended.
    live: u32,
    /// Members running somewhere; the group's seats are given back with the last.
    seated: u32,
}

/// A sequence whose KV is moving between workers.
#[derive(Debug, Clone, Copy)]
struct Move {
    seq: SeqId,
    hit: u32,
    slots: u32,
}

/// The engine's state.
pub struct State {
    /// The knobs.
    pub config: Config,
    /// Those not running.
    pub waiting: Waiting,
    /// Prefilled sequences whose KV waits to be pulled, oldest first.
    pub bridge: VecDeque<SeqId>,
    /// The workers.
    pub workers: Vec<Worker>,
    seqs: Vec<Sequence>,
    unused: Vec<SeqId>,
    groups: Vec<Group>,
    unused_groups: Vec<u32>,
    tickets: u64,
    events: Vec<Event>,
    growth: Vec<Growth>,
    /// Scratch of `commit`.
    ended: Vec<SeqId>,
    load: u64,
}

/// Why a request was refused outright.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Rejected {
    /// Longer than `max_model_len`.
    #[error("prompt and output of {tokens} tokens exceed max-model-len {limit}")]
    TooLong {
        /// Prompt and output.
        tokens: u32,
        /// The knob.
        limit: u32,
    },
    /// Longer than all of KV memory.
    #[error("prompt and output of {tokens} tokens exceed the KV memory of {slots} slots")]
    TooBig {
        /// Prompt and output.
        tokens: u32,
        /// Slots of one worker.
        slots: u32,
    },
    /// More branches than can run side by side.
    #[error("n = {width} branches cannot run side by side here")]
    TooWide {
        /// Branches asked for.
        width: u16,
    },
}

impl State {
    /// An idle engine with these pools, one per worker.
    #[must_use]
    pub fn new(config: Config, pools: Vec<Box<dyn KvAllocator>>) -> Self {
        let worker = |kv| Worker {
            running: Vec::new(),
            kv,
            seats: 0,
            refusal: Refusal::None,
            held: 0,
            beyond: 0,
            incoming: VecDeque::new(),
        };
        Self {
            waiting: Waiting::new(config.queue),
            bridge: VecDeque::new(),
            workers: pools.into_iter().map(worker).collect(),
            seqs: Vec::new(),
            unused: Vec::new(),
            groups: Vec::new(),
            unused_groups: Vec::new(),
            tickets: 0,
            events: Vec::new(),
            growth: Vec::new(),
            ended: Vec::new(),
            load: 0,
            config,
        }
    }

    /// The sequence called `id`.
    #[must_use]
    pub fn seq(&self, id: SeqId) -> &Sequence {
        &self.seqs[id as usize]
    }

    /// Whether nothing waits, runs or moves.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.seqs.len() == self.unused.len()
    }

    /// Tokens still to compute or generate, over everybody, as far as their ends are known.
    #[must_use]
    pub fn load(&self) -> u64 {
        self.load
    }

    /// Puts a request into the queue, or rejects it when it could not run even alone.
    pub fn enqueue(&mut self, request: Request) -> Result<(), Rejected> {
        let seq = self.sequence(request, self.tickets);
        self.reject(&seq)?;
        self.tickets += 1;
        self.load += u64::from(seq.end);
        let wide = seq.width > 1;
        let id = self.insert(seq);
        if wide {
            let group = self.unused_groups.pop().unwrap_or_else(|| {
                self.groups.push(Group::default());
                self.groups.len() as u32 - 1
            });
            self.groups[group as usize] = Group { members: vec![id], live: 1, seated: 0 };
            self.seqs[id as usize].group = group;
        }
        self.wait(id);
        Ok(())
    }

    /// Refuses what could never run here, so that nothing waits for ever.
    fn reject(&self, seq: &Sequence) -> Result<(), Rejected> {
        let (tokens, limit) = (seq.end.max(seq.len), self.config.max_model_len);
        if tokens > limit {
            return Err(Rejected::TooLong { tokens, limit });
        }
        // Branches share blocks within one pool; they cannot be moved to another one by one.
        let disagg = self.config.scheduler == SchedulerKind::Disagg;
        if u32::from(seq.width) > self.config.max_seqs || (disagg && seq.width > 1) {
            return Err(Rejected::TooWide { width: seq.width });
        }
        match self.workers.iter().find(|w| !w.kv.fits(seq)) {
            Some(w) => Err(Rejected::TooBig { tokens, slots: w.kv.capacity() }),
            None => Ok(()),
        }
    }

    fn sequence(&self, request: Request, ticket: u64) -> Sequence {
        let input = request.input.max(1);
        let generated = request.fate.unwrap_or(request.limit);
        let (covered, tokens) = match &request.content {
            Content::Private => (0, Vec::new()),
            Content::Blocks(ids) if request.width > 1 => {
                (ids.covered(input).min(input), Vec::new())
            }
            Content::Blocks(ids) => (ids.covered(input), Vec::new()),
            Content::Tokens(tokens) => (0, tokens.to_vec()),
        };
        Sequence {
            len: input,
            computed: 0,
            in_flight: 0,
            end: input.saturating_add(generated),
            slots: 0,
            prompt: input,
            reached: 0,
            place: Place::Waiting,
            fated: request.fate.is_some(),
            branch: 0,
            width: request.width.max(1),
            forked: false,
            worker: 0,
            request: request.id,
            group: ALONE,
            priority: request.priority,
            ticket,
            content: request.content,
            covered,
            tokens,
        }
    }

    fn insert(&mut self, seq: Sequence) -> SeqId {
        if let Some(id) = self.unused.pop() {
            self.seqs[id as usize] = seq;
            id
        } else {
            self.seqs.push(seq);
            self.seqs.len() as SeqId - 1
        }
    }

    fn wait(&mut self, id: SeqId) {
        let seq = &mut self.seqs[id as usize];
        seq.place = Place::Waiting;
        let seq = &self.seqs[id as usize];
        let cached = if self.waiting.wants_cached() { self.workers[0].kv.lookup(seq) } else { 0 };
        self.waiting.insert(id, seq, cached);
    }

    /// What the head of the queue would have computed at most, if anyone waits.
    #[must_use]
    pub fn head_todo(&self) -> Option<u32> {
        self.waiting.head().map(|id| self.seq(id).len)
    }

    /// Slots of `worker` that an admission must leave free: only while something runs there, so that what fits an
    /// empty worker always starts.
    fn spare(&self, worker: WorkerId) -> u32 {
        let w = &self.workers[worker];
        if w.running.is_empty() {
            return 0;
        }
        (self.config.watermark * f64::from(w.kv.capacity())) as u32
    }

    /// The head of the queue may be asked anew. A static batch asks once, when it is formed: the answer stands while
    /// it runs.
    pub fn forget_refusal(&mut self, worker: WorkerId) {
        let w = &mut self.workers[worker];
        if self.config.scheduler != SchedulerKind::Static || w.running.is_empty() {
            w.refusal = Refusal::None;
        }
    }

    /// Starts the head of the queue on `worker`, if there is a seat and room, with `n` tokens of the plan at most (0 =
    /// it only takes its seat). Returns the tokens planned.
    pub fn admit(
        &mut self,
        worker: WorkerId,
        plan: &mut Plan,
        n: u32,
        now: Duration,
    ) -> Option<u32> {
        let id = self.waiting.head()?;
        let seq = &self.seqs[id as usize];
        let group = seq.group;
        let seats = match group {
            ALONE => 1,
            g if self.groups[g as usize].seated > 0 => 0,
            _ => u32::from(seq.width),
        };
        if self.workers[worker].seats + seats > self.config.max_seqs {
            self.workers[worker].refusal = Refusal::Seats;
            return None;
        }
        let spare = self.spare(worker);
        let first = match self.config.prompt_kv {
            PromptKv::Whole => u32::MAX,
            PromptKv::Chunk => n,
        };
        let w = &mut self.workers[worker];
        let Ok(opened) = w.kv.open(id, seq, first, spare) else {
            w.refusal = Refusal::Kv;
            return None;
        };
        self.waiting.pop();
        w.running.push(id);
        w.seats += seats;
        w.held += u64::from(opened.hit);
        self.load -= u64::from(opened.hit);
        let seq = &mut self.seqs[id as usize];
        seq.place = Place::Running;
        seq.worker = worker as u32;
        seq.computed = opened.hit;
        let (request, first_time) = (seq.request, seq.reached == 0 && seq.branch == 0);
        seq.reached = seq.reached.max(opened.hit);
        if group != ALONE {
            self.groups[group as usize].seated += 1;
        }
        self.set_slots(id, opened.slots);
        if first_time {
            self.events.push(Event::Admitted { request, hit: opened.hit, at: now });
        }
        let n = n.min(self.seqs[id as usize].todo());
        if n > 0 {
            self.take(plan, id, n);
        }
        Some(n)
    }

    fn set_slots(&mut self, id: SeqId, slots: u32) {
        let seq = &mut self.seqs[id as usize];
        let beyond = |slots: u32| u64::from(slots.saturating_sub(seq.end));
        let w = &mut self.workers[seq.worker as usize];
        w.beyond = w.beyond + beyond(slots) - beyond(seq.slots);
        seq.slots = slots;
    }

    fn take(&mut self, plan: &mut Plan, id: SeqId, n: u32) {
        let seq = &mut self.seqs[id as usize];
        seq.in_flight = n;
        self.workers[seq.worker as usize].held += u64::from(n);
        plan.take(id, n);
    }

    /// Gives every running sequence that is free the tokens it wants, in order and within `budget`, preempting where
    /// KV runs out. With `whole`, a want is met entirely or not at all, unless it is the plan's first.
    pub fn extend(
        &mut self,
        worker: WorkerId,
        plan: &mut Plan,
        budget: u32,
        whole: bool,
        want: impl Fn(&Sequence) -> u32,
    ) {
        // Micro-batches of a pipeline share the running sequences out evenly.
        let pp = self.config.pp as usize;
        let share = self.workers[worker].running.len().div_ceil(pp).max(1);
        let mut at = 0;
        while at < self.workers[worker].running.len() && plan.tokens < budget {
            let id = self.workers[worker].running[at];
            at += 1;
            let seq = &self.seqs[id as usize];
            if !seq.free() || (pp > 1 && plan.chunks.len() >= share) {
                continue;
            }
            let room = budget - plan.tokens;
            let mut n = want(seq);
            if n > room {
                n = if !whole {
                    room
                } else if plan.is_idle() {
                    n
                } else {
                    0
                };
            }
            if n == 0 {
                continue;
            }
            if seq.computed + n > seq.slots {
                let Some(next) = self.secure(worker, id, n, plan, at) else { return };
                at = next;
                if self.seq(id).place != Place::Running {
                    continue;
                }
            }
            self.take(plan, id, n);
        }
    }

    /// Makes room for `n` more tokens of `id`, preempting others and at last itself. Returns where `extend` goes on
    /// in the running list, or nothing when everybody has to wait for memory that is about to be given back.
    fn secure(
        &mut self,
        worker: WorkerId,
        id: SeqId,
        n: u32,
        plan: &mut Plan,
        mut next: usize,
    ) -> Option<usize> {
        loop {
            let seq = &self.seqs[id as usize];
            if let Ok(slots) = self.workers[worker].kv.grow(id, seq, seq.computed + n) {
                self.set_slots(id, slots);
                return Some(next);
            }
            plan.full = true;
            let victim = self.victim(worker)?;
            let alone = victim == id && self.workers[worker].running.len() == 1;
            if self.is_flying(victim, plan) || (alone && self.others_hold(worker)) {
                return None;
            }
            let before = self.workers[worker].running[..next].to_vec();
            self.preempt(victim, plan);
            next = before.iter().filter(|&&s| self.seq(s).place == Place::Running).count();
            if self.seq(id).place != Place::Running {
                return Some(next);
            }
        }
    }

    /// Whether memory of `worker` is held by sequences that are not in its running list.
    fn others_hold(&self, worker: WorkerId) -> bool {
        !self.workers[worker].incoming.is_empty()
            || self.seqs.iter().any(|s| {
                s.worker as usize == worker && matches!(s.place, Place::Bridge | Place::Moving)
            })
    }

    /// Whether a plan submitted before this one is computing tokens of `id`.
    fn is_flying(&self, id: SeqId, plan: &Plan) -> bool {
        self.seq(id).in_flight > 0 && !plan.chunks.iter().any(|c| c.seq == id)
    }

    /// Who gives way on `worker`. Nobody is passed over because it is in flight: the next best might be the one that
    /// got furthest, and two that take turns at giving way would never end.
    fn victim(&self, worker: WorkerId) -> Option<SeqId> {
        let running = self.workers[worker].running.iter().copied().rev();
        let mut candidates = running.filter(|&id| self.seq(id).place == Place::Running);
        match self.config.victim {
            Victim::Last => candidates.next(),
            Victim::Priority => candidates.min_by_key(|&id| self.seq(id).priority),
            Victim::LeastComputed => candidates.min_by_key(|&id| self.seq(id).computed),
        }
    }

    /// Takes a sequence off its worker and back into the queue. Other branches of its request stay: they keep the
    /// blocks they share with it.
    pub fn preempt(&mut self, id: SeqId, plan: &mut Plan) {
        (plan.preempted, plan.full) = (true, true);
        plan.drop_seq(id);
        self.leave(id, true);
        self.wait(id);
        let (request, worker) = (self.seq(id).request, self.seq(id).worker as usize);
        self.events.push(Event::Preempted { request });
        self.end_batch(worker);
    }

    /// Frees a running sequence's KV and its seat.
    fn leave(&mut self, id: SeqId, again: bool) {
        let seq = &mut self.seqs[id as usize];
        let w = &mut self.workers[seq.worker as usize];
        w.held -= u64::from(seq.computed + seq.in_flight);
        self.load += u64::from(seq.computed);
        seq.in_flight = 0;
        w.kv.close(id, seq, again);
        if let Some(at) = w.running.iter().position(|&s| s == id) {
            w.running.remove(at);
        }
        self.set_slots(id, 0);
        self.give_seat(id);
        self.seqs[id as usize].computed = 0;
    }

    fn give_seat(&mut self, id: SeqId) {
        let seq = &self.seqs[id as usize];
        let seats = match seq.group {
            ALONE => 1,
            g => {
                let group = &mut self.groups[g as usize];
                group.seated -= 1;
                if group.seated == 0 { u32::from(seq.width) } else { 0 }
            }
        };
        self.workers[seq.worker as usize].seats -= seats;
    }

    /// Starts moving the oldest prefilled sequence's KV to `worker`, if it has a seat and room there.
    pub fn pull(&mut self, worker: WorkerId, plan: &mut Plan) -> Option<SeqId> {
        let &id = self.bridge.front()?;
        if self.workers[worker].seats >= self.config.max_seqs {
            return None;
        }
        let spare = self.spare(worker);
        let w = &mut self.workers[worker];
        let opened = w.kv.open(id, &self.seqs[id as usize], u32::MAX, spare).ok()?;
        w.seats += 1;
        w.held += u64::from(opened.hit);
        w.incoming.push_back(Move { seq: id, hit: opened.hit, slots: opened.slots });
        self.bridge.pop_front();
        self.seqs[id as usize].place = Place::Moving;
        plan.pulls.push(id);
        Some(id)
    }

    /// Tokens of KV that the move of `id` to `worker` has to carry: those not found there already.
    #[must_use]
    pub fn moving_tokens(&self, worker: WorkerId, id: SeqId) -> u32 {
        let hit = self.workers[worker].incoming.iter().find(|m| m.seq == id).map_or(0, |m| m.hit);
        self.seq(id).computed.saturating_sub(hit)
    }

    /// The worker that the KV pulled first comes from.
    #[must_use]
    pub fn incoming_from(&self, worker: WorkerId) -> Option<WorkerId> {
        let first = self.workers[worker].incoming.front()?;
        Some(self.seq(first.seq).worker as usize)
    }

    /// The KV pulled first has arrived at `worker`: its sequence runs there, and its old worker is rid of it.
    pub fn arrive(&mut self, worker: WorkerId) {
        let Some(Move { seq: id, slots, hit }) = self.workers[worker].incoming.pop_front() else {
            return;
        };
        let computed = self.seq(id).computed;
        self.leave(id, false);
        self.load -= u64::from(computed);
        let seq = &mut self.seqs[id as usize];
        (seq.place, seq.worker, seq.computed) = (Place::Running, worker as u32, computed);
        self.set_slots(id, slots);
        let w = &mut self.workers[worker];
        w.held += u64::from(computed - hit);
        w.running.push(id);
        w.kv.commit(id, &self.seqs[id as usize], hit);
    }

    /// Whether nobody who waits for `worker` can start before something changes there.
    fn is_closed(&self, worker: WorkerId) -> bool {
        if !self.workers[worker].incoming.is_empty() {
            return false;
        }
        let admits = match self.config.scheduler {
            SchedulerKind::Static => false,
            SchedulerKind::Disagg if !self.bridge.is_empty() => return false,
            SchedulerKind::Disagg => self.is_prefill_worker(worker),
            SchedulerKind::Continuous | SchedulerKind::Chunked => true,
        };
        !admits
            || self.waiting.is_empty()
            || match self.workers[worker].refusal {
                Refusal::Seats => true,
                Refusal::Kv => !self.config.prefix_cache,
                Refusal::None => false,
            }
    }

    /// How many times `plan` may be repeated without anything but lengths changing: everybody decodes, nobody ends,
    /// nobody can join, and memory suffices.
    #[must_use]
    pub fn repeats(&self, plan: &Plan, worker: WorkerId) -> u32 {
        let w = &self.workers[worker];
        if plan.preempted || self.config.pp > 1 || !self.is_closed(worker) {
            return 1;
        }
        let (mut left, mut room, mut running) = (u32::MAX, u32::MAX, 0);
        for &id in &w.running {
            let seq = self.seq(id);
            if seq.place == Place::Ended {
                continue;
            }
            if seq.in_flight != 1 || !seq.decodes() || !seq.fated {
                return 1;
            }
            // Who publishes a block of equal content first must not depend on how steps are grouped.
            if self.config.prefix_cache && seq.covered > seq.computed {
                return 1;
            }
            running += 1;
            left = left.min(seq.end - seq.len);
            room = room.min(seq.slots - seq.computed);
        }
        // Blocks taken on the way push cached ones out, which a queue ordered by what is cached could see.
        if !self.waiting.wants_cached() {
            let headroom = w.kv.headroom();
            room = room.max(headroom.blocks / running.max(1) * headroom.block);
        }
        left.min(room).max(1)
    }

    /// The plan was executed `steps` times; `tokens` are the sampled ones, when they are real, in the order of its
    /// chunks (`width` of them where a prompt with several branches ends).
    pub fn commit(
        &mut self,
        worker: WorkerId,
        plan: &Plan,
        steps: u32,
        tokens: &[Token],
        out: &mut Iteration,
    ) {
        self.growth.clear();
        self.growth.resize(steps as usize, Growth::default());
        let block = self.workers[worker].kv.headroom().block;
        let mut tokens = tokens.iter().copied();
        let mut ended = std::mem::take(&mut self.ended);
        for chunk in &plan.chunks {
            let id = chunk.seq;
            let seq = &mut self.seqs[id as usize];
            let (before, extra) = (seq.computed, steps - 1);
            seq.in_flight = 0;
            seq.computed += chunk.n + extra;
            seq.reached = seq.reached.max(seq.computed);
            let emits = seq.computed - extra == seq.len;
            if seq.computed > seq.slots {
                self.grow_late(id, before + chunk.n, block);
            }
            self.workers[worker].held += u64::from(extra);
            self.load -= u64::from(chunk.n + extra);
            let seq = &self.seqs[id as usize];
            if block > 0 && seq.computed / block != before / block {
                self.workers[worker].kv.commit(id, seq, before);
            }
            if emits && self.emit(id, steps, &mut tokens, out) {
                ended.push(id);
            }
        }
        for id in ended.drain(..) {
            self.finish(id);
        }
        self.ended = ended;
        self.end_batch(worker);
    }

    /// Takes the slots that `id` grew into during a stretch, and notes at which step.
    fn grow_late(&mut self, id: SeqId, first: u32, block: u32) {
        let seq = &self.seqs[id as usize];
        let (mut slots, end, worker) = (seq.slots, seq.end, seq.worker as usize);
        let held = self.workers[worker].kv.grow(id, seq, seq.computed);
        let held = held.expect("a stretch is no longer than memory allows");
        while slots < held {
            let grown = (slots + block).min(held);
            let step = &mut self.growth[(slots + 1 - first) as usize];
            step.slots += grown - slots;
            step.beyond += grown.saturating_sub(end) - slots.saturating_sub(end);
            slots = grown;
        }
        self.set_slots(id, held);
    }

    /// Appends what `id` sampled; returns whether it ends.
    fn emit(
        &mut self,
        id: SeqId,
        steps: u32,
        tokens: &mut impl Iterator<Item = Token>,
        out: &mut Iteration,
    ) -> bool {
        let seq = &mut self.seqs[id as usize];
        if seq.len < seq.end {
            if seq.branch == 0 {
                out.emitted.push(seq.request);
            } else {
                out.branch_tokens += steps;
            }
            seq.len += steps;
            if let Some(token) = tokens.next() {
                seq.tokens.push(token);
                if seq.branch == 0 {
                    out.tokens.push(token);
                } else {
                    let (request, branch) = (seq.request, seq.branch);
                    out.branches.push(BranchToken { request, branch, token });
                }
            }
            if seq.forks() {
                self.fork(id, tokens, out);
            }
        }
        self.seq(id).len >= self.seq(id).end
    }

    /// The prompt of a request of several branches is computed: the others start from it.
    fn fork(&mut self, id: SeqId, tokens: &mut impl Iterator<Item = Token>, out: &mut Iteration) {
        self.seqs[id as usize].forked = true;
        let parent = self.seq(id).clone();
        let (group, worker) = (parent.group as usize, parent.worker as usize);
        for branch in 1..parent.width {
            let mut seq = Sequence { branch, slots: 0, place: Place::Running, ..parent.clone() };
            out.branch_tokens += 1;
            if let (Some(token), Some(last)) = (tokens.next(), seq.tokens.last_mut()) {
                *last = token;
                out.branches.push(BranchToken { request: parent.request, branch, token });
            }
            if seq.len == seq.end {
                continue;
            }
            self.load += u64::from(seq.end);
            let child = self.insert(seq);
            self.groups[group].members.push(child);
            self.groups[group].live += 1;
            let spare = self.spare(worker);
            let w = &mut self.workers[worker];
            match w.kv.fork(id, child, &parent, spare) {
                Ok(slots) => {
                    w.held += u64::from(parent.computed);
                    self.load -= u64::from(parent.computed);
                    w.running.push(child);
                    self.groups[group].seated += 1;
                    self.set_slots(child, slots);
                }
                Err(_) => {
                    self.seqs[child as usize].computed = 0;
                    self.wait(child);
                }
            }
        }
        // Whoever writes next must ask, because the last block may be shared now.
        let members = self.groups[group].members.clone();
        for member in members {
            if self.seq(member).place == Place::Running {
                let computed = self.seq(member).computed;
                self.set_slots(member, computed);
            }
        }
    }

    fn finish(&mut self, id: SeqId) {
        let (request, group) = (self.seq(id).request, self.seq(id).group);
        let last = match group {
            ALONE => true,
            g => {
                self.groups[g as usize].live -= 1;
                self.groups[g as usize].live == 0
            }
        };
        if last {
            self.events.push(Event::Finished { request });
        }
        if self.config.scheduler == SchedulerKind::Static {
            self.seqs[id as usize].place = Place::Ended;
        } else {
            self.forget(id);
        }
    }

    fn forget(&mut self, id: SeqId) {
        self.leave(id, false);
        let seq = &mut self.seqs[id as usize];
        self.load -= u64::from(seq.end);
        seq.place = Place::Ended;
        (seq.content, seq.tokens) = (Content::Private, Vec::new());
        (seq.end, seq.len) = (0, 0);
        let group = seq.group;
        self.unused.push(id);
        if group != ALONE {
            let members = &mut self.groups[group as usize].members;
            members.retain(|&m| m != id);
            if members.is_empty() {
                self.unused_groups.push(group);
            }
        }
    }

    /// A static batch whose every member has ended gives its seats and memory back.
    fn end_batch(&mut self, worker: WorkerId) {
        let running = &self.workers[worker].running;
        if running.iter().all(|&id| self.seq(id).place == Place::Ended) {
            for id in running.clone() {
                self.forget(id);
            }
        }
    }

    /// Whether `worker` only prefills.
    #[must_use]
    pub fn is_prefill_worker(&self, worker: WorkerId) -> bool {
        self.config.scheduler == SchedulerKind::Disagg
            && worker < self.config.prefill_workers as usize
    }

    /// Moves the prefilled sequences of `plan` onto the bridge; their KV stays where it is until it is pulled.
    pub fn hand_over(&mut self, worker: WorkerId, plan: &Plan) {
        for chunk in &plan.chunks {
            let seq = &mut self.seqs[chunk.seq as usize];
            if seq.place == Place::Running && seq.decodes() {
                seq.place = Place::Bridge;
                self.workers[worker].running.retain(|&s| s != chunk.seq);
                self.bridge.push_back(chunk.seq);
            }
        }
    }

    /// What happened since this was last asked, in order.
    pub fn drain_events(&mut self, into: &mut Vec<Event>) {
        into.append(&mut self.events);
    }

    /// Slots taken at each step of the stretch committed last.
    #[must_use]
    pub fn growth(&self) -> &[Growth] {
        &self.growth
    }

    /// What `worker`'s KV memory holds.
    #[must_use]
    pub fn holding(&self, worker: WorkerId) -> Holding {
        let w = &self.workers[worker];
        Holding {
            usage: w.kv.usage(),
            held: w.held,
            beyond: w.beyond,
            refused: w.refusal == Refusal::Kv,
        }
    }

    /// Panics unless counters agree with what they count; for tests.
    pub fn check(&self) {
        for (at, w) in self.workers.iter().enumerate() {
            w.kv.check();
            let on = |s: &&Sequence| s.worker as usize == at && s.slots > 0;
            let held: u64 =
                self.seqs.iter().filter(on).map(|s| u64::from(s.computed + s.in_flight)).sum();
            let found: u64 = w.incoming.iter().map(|m| u64::from(m.hit)).sum();
            assert_eq!(held + found, w.held, "tokens held by worker {at}");
            let beyond: u64 =
                self.seqs.iter().filter(on).map(|s| u64::from(s.slots.saturating_sub(s.end))).sum();
            assert_eq!(beyond, w.beyond, "slots beyond the end on worker {at}");
            assert!(w.seats <= self.config.max_seqs, "seats of worker {at}");
        }
        let left: u64 = self.seqs.iter().map(|s| u64::from(s.end - s.computed)).sum();
        assert_eq!(left, self.load, "tokens still to compute");
    }
}
