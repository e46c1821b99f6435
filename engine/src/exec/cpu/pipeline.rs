//! Pipeline-parallel stages: each on a thread of its own with its layers' weights, keys and values; batches go through
//! them one behind the other.
//!
//! A batch takes its token ids, block tables and copies along, so every stage sees batches, and their changes to its
//! keys and values, in the order of submission. The engine goes on as soon as a batch is submitted, and learns that it
//! is done when its logits come out of the last stage. The time that a stage is idle in between is a bubble. One stage
//! alone is a worker that computes beside others, as replicas do.
//!
//! While a batch is inside, the clock runs in real time; while none is, the owner of the clock may let it jump.

use std::panic::resume_unwind;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::inputs::Inputs;
use super::memory::KvMemory;
use super::stage::{Share, Stage};
use crate::exec::flights::Flights;
use crate::exec::forward::{Chooser, Sample};
use crate::exec::{Batch, Executor, Horizon, Outcome, Ticket, Transfer, Wake};
use crate::kv::KvCopy;
use crate::state::State;

/// One worker whose model is split over stages, with a KV memory and a sampler. Sequences must carry their tokens.
///
/// # Panics
/// When a stage has: nothing could go on.
pub struct CpuPipeline {
    /// Into the first stage; none when no more is to come.
    inlet: Option<Sender<Job>>,
    /// Out of the last.
    outlet: Receiver<Job>,
    threads: Vec<JoinHandle<()>>,
    wake: Arc<OnceLock<Wake>>,
    /// Batches between the two.
    inside: usize,
    /// The time at an instant: when the pipeline was last entered while nothing was inside.
    clock: (Duration, Instant),
    /// The first of the padding's slots.
    padding: u32,
    vocab: usize,
    chooser: Chooser,
    flights: Flights,
    spare: Vec<Job>,
}

/// A batch on its way.
#[derive(Debug, Default)]
struct Job {
    inputs: Inputs,
    copies: Vec<KvCopy>,
    /// The residual stream, as the stage before left it.
    x: Vec<f32>,
    /// As the last stage left them.
    logits: Vec<f32>,
}

/// The way out of a stage. The waker behind the last one is told of every batch, and of the stage's end.
struct Outlet {
    next: Option<Sender<Job>>,
    wake: Option<Arc<OnceLock<Wake>>>,
}

impl Outlet {
    /// True where it was taken.
    fn send(&self, job: Job) -> bool {
        let sent = self.next.as_ref().is_some_and(|next| next.send(job).is_ok());
        self.wake();
        sent
    }

    fn wake(&self) {
        if let Some(wake) = self.wake.as_ref().and_then(|wake| wake.get()) {
            wake();
        }
    }
}

impl Drop for Outlet {
    fn drop(&mut self) {
        self.next = None;
        self.wake();
    }
}

impl CpuPipeline {
    /// A worker with `slots` of KV over these stages, in order: of each, the shares of its tensor-parallel ranks.
    ///
    /// # Panics
    /// When these are not all parts of one model, or the system has no threads to give.
    #[must_use]
    pub fn new(stages: &[Vec<Share>], slots: u32, sampler: Box<dyn Sample>) -> Self {
        let wake = Arc::new(OnceLock::new());
        let (inlet, mut inbox) = channel();
        let (mut threads, mut vocab) = (Vec::with_capacity(stages.len()), 0);
        for (at, ranks) in stages.iter().enumerate() {
            let stage = Stage::new(ranks, at, stages.len());
            vocab = stage.vocab();
            let (next, outbox) = channel();
            let wake = (at + 1 == stages.len()).then(|| Arc::clone(&wake));
            let (memory, outlet) = (stage.memory(slots), Outlet { next: Some(next), wake });
            let thread = std::thread::Builder::new().name(format!("stage-{at}"));
            let thread = thread.spawn(move || serve(stage, memory, &inbox, &outlet));
            threads.push(thread.unwrap_or_else(|e| panic!("cannot start a thread: {e}")));
            inbox = outbox;
        }
        Self {
            inlet: Some(inlet),
            outlet: inbox,
            threads,
            wake,
            inside: 0,
            clock: (Duration::ZERO, Instant::now()),
            padding: slots,
            vocab,
            chooser: Chooser::new(sampler),
            flights: Flights::default(),
            spare: Vec::new(),
        }
    }

    fn time(&self) -> Duration {
        self.clock.0 + self.clock.1.elapsed()
    }

    /// A stage has ended, which it only does by itself if something is broken.
    fn broken(&mut self) -> ! {
        self.inlet = None;
        let ends = self.threads.drain(..).map(JoinHandle::join);
        match ends.filter_map(Result::err).next() {
            Some(panic) => resume_unwind(panic),
            None => panic!("a pipeline stage ended"),
        }
    }
}

/// The life of a stage: until nothing can come any more, or its results are not taken.
fn serve(mut stage: Stage, mut memories: Vec<KvMemory>, inbox: &Receiver<Job>, to: &Outlet) {
    while let Ok(mut job) = inbox.recv() {
        for memory in &mut memories {
            job.copies.iter().for_each(|copy| memory.copy(copy));
        }
        stage.forward(&job.inputs, &job.x, &mut memories);
        if to.wake.is_some() {
            std::mem::swap(&mut job.logits, stage.logits());
        } else {
            job.x.clear();
            job.x.extend_from_slice(stage.residual(job.inputs.rows.len()));
        }
        if !to.send(job) {
            return;
        }
    }
}

impl Executor for CpuPipeline {
    fn submit(&mut self, batch: &Batch<'_>, now: Duration, _horizon: Horizon) -> Ticket {
        if self.inside == 0 {
            self.clock = (now, Instant::now());
        }
        let mut job = self.spare.pop().unwrap_or_default();
        job.inputs.fill(batch, self.padding);
        job.copies.clear();
        job.copies.extend_from_slice(batch.copies);
        if self.inlet.as_ref().is_none_or(|inlet| inlet.send(job).is_err()) {
            self.broken();
        }
        self.inside += 1;
        Ticket { next: now, done: None }
    }

    fn wait(&mut self, state: &State, now: Duration, until: Duration) -> Option<Duration> {
        let left = until.saturating_sub(self.time());
        let mut job = match self.outlet.recv_timeout(left) {
            Ok(job) => job,
            Err(RecvTimeoutError::Timeout) => return None,
            Err(RecvTimeoutError::Disconnected) => self.broken(),
        };
        self.inside -= 1;
        let mut outcome = self.flights.outcome();
        let rows = job.logits.chunks_exact_mut(self.vocab);
        self.chooser.choose(state, &job.inputs.rows.sampled, rows, &mut outcome.tokens);
        self.spare.push(job);
        let done = self.time().max(now);
        outcome.ends.push(done);
        self.flights.depart(outcome);
        Some(done)
    }

    fn wake_by(&mut self, wake: Wake) {
        // The first waker is kept.
        let _ = self.wake.set(wake);
    }

    fn complete(&mut self, outcome: &mut Outcome) {
        self.flights.arrive(outcome);
    }

    fn transfer(&mut self, _: &Transfer<'_>, _: Duration) -> Duration {
        unreachable!("workers that hand KV over have one stage (see `deployment::check`)")
    }
}

impl Drop for CpuPipeline {
    fn drop(&mut self) {
        self.inlet = None;
        for thread in self.threads.drain(..) {
            // A panic of the thread has been passed on already, or its reader is gone.
            let _ = thread.join();
        }
    }
}
