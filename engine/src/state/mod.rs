//! The sequences that wait, run and move, and the three verbs by which a policy changes that.
//!
//! [`State::admit`] starts the head of the queue, [`State::extend`] gives running sequences their next tokens (and
//! preempts where memory runs out), [`State::pull`] fetches a prefilled sequence from another worker. Each is written
//! once; a scheduler only decides in which order to call them. There is no clock, thread or random number in this file.

mod admission;
mod ahead;
mod beams;
mod commit;
mod draft;
mod end;
mod kv_transfer;
mod stretch;

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

use crate::config::Config;
use crate::event::Event;
use crate::kv::waste::{Growth, Holding};
use crate::kv::{Growing, KvAllocator};
use crate::plan::{Role, WorkerId};
use crate::request::{Content, Request};
use crate::sequence::{ALONE, Draft, Place, SeqId, Sequence};
use crate::waiting::Waiting;

/// The reasons for which the head of the queue cannot start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Refusal {
    /// None was refused.
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
    /// The part of a request's work that is done here: the policy's answer.
    pub role: Role,
    /// Its KV memory.
    pub kv: Box<dyn KvAllocator>,
    /// The way in which sequences grow there.
    growing: Growing,
    /// Seats taken, of `max_seqs`.
    pub seats: u32,
    /// The reason for which the head of the queue was refused when it last asked.
    pub refusal: Refusal,
    /// Tokens computed or being computed, summed over tables.
    held: u64,
    /// Slots that tables hold beyond the length their sequence ends at.
    beyond: u64,
    /// KV on its way here.
    incoming: VecDeque<Move>,
    /// Given back by the iteration that ended last, where the next was planned before that.
    late: Room,
}

/// Room on a worker.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Room {
    seats: u32,
    slots: u32,
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
    /// True if members of a batch that end keep their seats until all have.
    pub closed_batches: bool,
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
    /// Requests that have never run.
    unstarted: u32,
    /// Came after the plan that is being computed was made, oldest first: the next plan does not see them.
    unseen: Vec<SeqId>,
    /// Sequences that ask for slots in a stretch, by time; empty in between.
    asks: BinaryHeap<Reverse<u64>>,
}

/// The reasons for which a request is refused when it comes.
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
    /// As many requests wait as may.
    #[error("{waiting} requests are waiting already; try again later")]
    Full {
        /// Requests that wait to be started: the knob `max_queue`.
        waiting: u32,
    },
}

impl State {
    /// An idle engine with these pools, one per worker.
    #[must_use]
    pub fn new(config: Config, pools: Vec<Box<dyn KvAllocator>>) -> Self {
        let worker = |kv: Box<dyn KvAllocator>| Worker {
            running: Vec::new(),
            role: Role::Whole,
            growing: kv.growing(),
            kv,
            seats: 0,
            refusal: Refusal::None,
            held: 0,
            beyond: 0,
            incoming: VecDeque::new(),
            late: Room::default(),
        };
        Self {
            waiting: Waiting::new(config.queue),
            bridge: VecDeque::new(),
            workers: pools.into_iter().map(worker).collect(),
            closed_batches: config.scheduler.traits().closes_batches,
            seqs: Vec::new(),
            unused: Vec::new(),
            groups: Vec::new(),
            unused_groups: Vec::new(),
            tickets: 0,
            events: Vec::new(),
            growth: Vec::new(),
            ended: Vec::new(),
            load: 0,
            unstarted: 0,
            unseen: Vec::new(),
            asks: BinaryHeap::new(),
            config,
        }
    }

    /// The sequence called `id`.
    #[must_use]
    pub fn seq(&self, id: SeqId) -> &Sequence {
        &self.seqs[id as usize]
    }

    /// True if nothing waits, runs or moves.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.seqs.len() == self.unused.len()
    }

    /// Tokens still to compute or generate, over all sequences, as far as their ends are known.
    #[must_use]
    pub fn load(&self) -> u64 {
        self.load
    }

    /// Requests that wait to be started, those that the next plan does not see included.
    #[must_use]
    pub fn queued(&self) -> usize {
        self.waiting.len() + self.unseen.len()
    }

    /// Sequences that run, on all workers.
    #[must_use]
    pub fn running(&self) -> usize {
        self.workers.iter().map(|w| w.running.len()).sum()
    }

    /// Puts a request into the queue, or rejects it when it could not run even alone, or too many wait. With
    /// `together`, its branches go on together (see [`State::choose`]).
    pub fn enqueue(&mut self, request: Request, together: bool) -> Result<(), Rejected> {
        let id = self.take_in(request, together)?;
        self.wait(id);
        Ok(())
    }

    fn take_in(&mut self, request: Request, together: bool) -> Result<SeqId, Rejected> {
        let mut seq = self.sequence(request, self.tickets);
        // Beams fork at the search's word, not where the prompt ends.
        (seq.together, seq.forked) = (together, together);
        self.reject(&seq)?;
        if self.config.max_queue > 0 && self.unstarted >= self.config.max_queue {
            return Err(Rejected::Full { waiting: self.unstarted });
        }
        self.tickets += 1;
        self.unstarted += 1;
        self.load += u64::from(seq.end);
        let grouped = seq.width > 1 || together;
        let id = self.insert(seq);
        if grouped {
            let group = self.unused_groups.pop().unwrap_or_else(|| {
                self.groups.push(Group::default());
                self.groups.len() as u32 - 1
            });
            self.groups[group as usize] = Group { members: vec![id], live: 1, seated: 0 };
            self.seqs[id as usize].group = group;
        }
        Ok(id)
    }

    /// Refuses a request that could never run here, so that none waits for ever.
    fn reject(&self, seq: &Sequence) -> Result<(), Rejected> {
        let (tokens, limit) = (seq.end.max(seq.len), self.config.max_model_len);
        if tokens > limit {
            return Err(Rejected::TooLong { tokens, limit });
        }
        // Branches share blocks within one pool; they cannot be moved to another one by one.
        let moves = self.workers.iter().any(|w| w.role != Role::Whole);
        let forks = seq.width > 1 || seq.together;
        if u32::from(seq.width) > self.config.max_seqs || (moves && forks) {
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
            drafted: 0,
            draft: Draft::default(),
            in_flight: 0,
            end: input.saturating_add(generated),
            slots: 0,
            beyond: 0,
            prompt: input,
            reached: 0,
            place: Place::Waiting,
            fated: request.fate.is_some(),
            cut: false,
            branch: 0,
            width: request.width.max(1),
            forked: false,
            together: false,
            held: false,
            started: false,
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

    /// The most that the head of the queue would have computed, if there is one.
    #[must_use]
    pub fn head_todo(&self) -> Option<u32> {
        self.waiting.head().map(|id| self.seq(id).len)
    }

    /// Slots of `worker` that an admission must leave free: only while something runs there, so that a request that
    /// fits an empty worker always starts.
    fn spare(&self, worker: WorkerId) -> u32 {
        let w = &self.workers[worker];
        if w.running.is_empty() {
            return 0;
        }
        (self.config.watermark * f64::from(w.kv.capacity())) as u32
    }

    /// The head of the queue may be asked anew. A closed batch asks once, when it is formed: the answer stands while it
    /// runs.
    pub fn forget_refusal(&mut self, worker: WorkerId) {
        let w = &mut self.workers[worker];
        if !self.closed_batches || w.running.is_empty() {
            w.refusal = Refusal::None;
        }
    }

    /// Hands over all events since the last call, in order.
    pub fn drain_events(&mut self, into: &mut Vec<Event>) {
        into.append(&mut self.events);
    }

    /// The contents of `worker`'s KV memory.
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
            let beyond: u64 = self.seqs.iter().filter(on).map(|s| u64::from(s.beyond)).sum();
            assert_eq!(beyond, w.beyond, "slots beyond the end on worker {at}");
            assert!(w.seats <= self.config.max_seqs, "seats of worker {at}");
        }
        let waits = |s: &&Sequence| s.place == Place::Waiting && !s.started;
        assert_eq!(self.seqs.iter().filter(waits).count() as u32, self.unstarted, "never started");
        let left: u64 = self.seqs.iter().map(|s| u64::from(s.end - s.computed)).sum();
        assert_eq!(left, self.load, "tokens still to compute");
    }
}
