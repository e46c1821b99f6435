//! The engine, or several replicas of it behind a router, on a thread of their own, with a real clock: requests come
//! in by a channel, tokens and text go out.
//!
//! The thread owns the engines, so nothing of them is locked. It is told about a client that went away by the drop of
//! its [`Answer`], and ends that sequence before it plans again. Text is made here and not at the client's side,
//! because a stop string ends a sequence.

mod open;
mod update;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::oneshot;

pub use update::{Finish, Step, Update};

use open::{Branch, Open};

use crate::beam::{BeamSearch, Search};
use crate::config::RouterKind;
use crate::engine::Engine;
use crate::event::{Event, Iteration};
use crate::fault::Fault;
use crate::model::tokenizer::Tokenizer;
use crate::model::tokenizer::stream::{Characters, Stops};
use crate::request::{Content, Request, RequestId, Token};
use crate::router::Router;
use crate::sample::{Sampler, SamplingParams};
use crate::state::Rejected;

/// A client's request.
#[derive(Debug, Clone)]
pub struct Ask {
    /// At least one token.
    pub prompt: Arc<[Token]>,
    /// Most tokens of output; at least 1.
    pub limit: u32,
    /// Completions wanted.
    pub width: u16,
    /// Higher goes first where the queue looks at it.
    pub priority: i32,
    /// The way tokens are chosen.
    pub sampling: SamplingParams,
    /// Tokens that end a completion (once it has `sampling.min_tokens`); they are counted and not shown.
    pub ends: Arc<[Token]>,
    /// Strings that end it; they are not shown.
    pub stops: Vec<String>,
    /// Search for the likeliest completions instead of sampling: they come when the search is over, best first, and
    /// `stops` is not looked at.
    pub beams: Option<BeamSearch>,
}

/// The reasons for which a request gets no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// It could never run.
    #[error(transparent)]
    Never(Rejected),
    /// Too many wait already.
    #[error("{waiting} requests are waiting already; try again later")]
    Full {
        /// Requests that wait to be started, of the replica it would have gone to.
        waiting: u32,
    },
    /// The engine has ended.
    #[error("the engine has stopped")]
    Stopped,
}

impl From<Rejected> for Refused {
    fn from(rejected: Rejected) -> Self {
        match rejected {
            Rejected::Full { waiting } => Self::Full { waiting },
            never => Self::Never(never),
        }
    }
}

/// A request's answer as it comes. Dropped before its end, it cancels the request.
#[derive(Debug)]
pub struct Answer {
    id: RequestId,
    /// When the request was made.
    pub asked: Duration,
    updates: UnboundedReceiver<Update>,
    commands: Arc<Sender<Command>>,
}

impl Answer {
    /// The next update; none after the last, or if the engine has died.
    pub async fn next(&mut self) -> Option<Update> {
        self.updates.recv().await
    }

    /// The same for callers without an executor of futures.
    pub fn wait(&mut self) -> Option<Update> {
        self.updates.blocking_recv()
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        // The engine knows nothing any more of an answer that has ended; and the engine may have ended.
        let _ = self.commands.send(Command::Cancel(self.id));
    }
}

/// Looks at the replicas after every iteration of one (given), and whenever all go idle.
pub type Watch = Box<dyn FnMut(Option<&Iteration>, &[Engine]) + Send>;

enum Command {
    Ask(RequestId, Box<Ask>, UnboundedSender<Update>, oneshot::Sender<Result<(), Rejected>>),
    Cancel(RequestId),
    /// A batch may be done.
    Look,
}

/// A running engine. When it is dropped, it finishes what it has begun and ends.
#[derive(Debug)]
pub struct Live {
    commands: Arc<Sender<Command>>,
    thread: JoinHandle<()>,
    origin: Instant,
    next: AtomicU32,
    fault: Arc<OnceLock<Fault>>,
}

impl Live {
    /// Starts `engine`. Its executors choose tokens by `sampler`; without a tokenizer there is no text.
    ///
    /// # Errors
    /// When the system has no thread to give.
    pub fn start(
        engine: Engine,
        sampler: Sampler,
        tokenizer: Option<Arc<Tokenizer>>,
        watch: Watch,
    ) -> std::io::Result<Self> {
        let router = Router::new(RouterKind::LeastLoaded);
        Self::start_replicas(vec![engine], router, sampler, tokenizer, watch)
    }

    /// Starts `replicas` (at least one) of an engine behind `router`. They run side by side where their executors
    /// compute while the engine goes on, otherwise they take turns.
    ///
    /// # Errors
    /// When the system has no thread to give.
    pub fn start_replicas(
        mut replicas: Vec<Engine>,
        router: Router,
        sampler: Sampler,
        tokenizer: Option<Arc<Tokenizer>>,
        watch: Watch,
    ) -> std::io::Result<Self> {
        let (commands, inbox) = channel();
        let commands = Arc::new(commands);
        // An executor does not keep the engine alive that it works for.
        let caller = Arc::downgrade(&commands);
        let wake: Arc<dyn Fn() + Send + Sync> = Arc::new(move || {
            if let Some(commands) = caller.upgrade() {
                // The engine may have ended.
                let _ = commands.send(Command::Look);
            }
        });
        let origin = Instant::now();
        replicas.iter_mut().for_each(|replica| replica.wake_by(&wake));
        let (requests, tokens) = (HashMap::new(), Vec::new());
        let fault = Arc::<OnceLock<Fault>>::default();
        let found = Arc::clone(&fault);
        let turn =
            Loop { replicas, router, sampler, tokenizer, watch, origin, found, requests, tokens };
        let thread = std::thread::Builder::new().name("engine".to_owned());
        let thread = thread.spawn(move || turn.run(&inbox))?;
        Ok(Self { commands, thread, origin, next: AtomicU32::new(0), fault })
    }

    /// Time since the engine's start.
    #[must_use]
    pub fn now(&self) -> Duration {
        self.origin.elapsed()
    }

    /// The reason for which the engine has ended, once a device under it has failed. Answers under way end without
    /// their last step then.
    #[must_use]
    pub fn fault(&self) -> Arc<OnceLock<Fault>> {
        Arc::clone(&self.fault)
    }

    /// True where the engine's thread has ended, which it only does by itself if something is broken.
    #[must_use]
    pub fn is_dead(&self) -> bool {
        self.thread.is_finished()
    }

    /// Sends a request in.
    ///
    /// # Errors
    /// When it could never run, too many wait, or the engine has ended.
    pub async fn ask(&self, ask: Ask) -> Result<Answer, Refused> {
        let (answer, verdict) = self.send(ask)?;
        verdict.await.map_err(|_| Refused::Stopped)??;
        Ok(answer)
    }

    /// The same for callers without an executor of futures.
    ///
    /// # Errors
    /// When it could never run, too many wait, or the engine has ended.
    pub fn ask_blocking(&self, ask: Ask) -> Result<Answer, Refused> {
        let (answer, verdict) = self.send(ask)?;
        verdict.blocking_recv().map_err(|_| Refused::Stopped)??;
        Ok(answer)
    }

    fn send(&self, ask: Ask) -> Result<(Answer, Verdict), Refused> {
        let (id, asked) = (self.next.fetch_add(1, Ordering::Relaxed), self.now());
        let (sender, updates) = unbounded_channel();
        let (reply, verdict) = oneshot::channel();
        let command = Command::Ask(id, Box::new(ask), sender, reply);
        self.commands.send(command).map_err(|_| Refused::Stopped)?;
        let commands = Arc::clone(&self.commands);
        Ok((Answer { id, asked, updates, commands }, verdict))
    }
}

type Verdict = oneshot::Receiver<Result<(), Rejected>>;

/// The possessions of the thread.
struct Loop {
    replicas: Vec<Engine>,
    router: Router,
    sampler: Sampler,
    tokenizer: Option<Arc<Tokenizer>>,
    watch: Watch,
    origin: Instant,
    found: Arc<OnceLock<Fault>>,
    requests: HashMap<RequestId, Open>,
    /// Scratch of `deliver`.
    tokens: Vec<(RequestId, u16, Token)>,
}

impl Loop {
    fn run(mut self, inbox: &Receiver<Command>) {
        loop {
            while let Ok(command) = inbox.try_recv() {
                self.obey(command);
            }
            let next = self.next();
            if let Some(fault) = self.replicas.iter().find_map(Engine::fault) {
                // It is set before waiting clients are let go, and only here, because the loop ends.
                let _ = self.found.set(fault.clone());
                return;
            }
            let Some((at, replica)) = next else {
                let busy = self.replicas.iter().position(|r| r.in_flight().next().is_some());
                if busy.is_none() {
                    (self.watch)(None, &self.replicas);
                }
                match (inbox.recv(), busy) {
                    (Ok(command), _) => self.obey(command),
                    // No client is left who could be told.
                    (Err(_), Some(busy)) => {
                        self.replicas[busy].wait(self.origin.elapsed(), Duration::MAX);
                    }
                    (Err(_), None) => return,
                }
                continue;
            };
            let now = self.origin.elapsed();
            if at > now {
                match inbox.recv_timeout(at - now) {
                    Ok(command) => {
                        self.obey(command);
                        continue;
                    }
                    Err(RecvTimeoutError::Timeout) => {}
                    Err(RecvTimeoutError::Disconnected) => std::thread::sleep(at - now),
                }
            }
            if self.replicas[replica].step(self.origin.elapsed().max(at)).is_some() {
                self.deliver(replica);
                (self.watch)(Some(self.replicas[replica].last_iteration()), &self.replicas);
            }
        }
    }

    /// Lets every replica begin that can; the time of the next event, and its replica.
    fn next(&mut self) -> Option<(Duration, usize)> {
        for replica in &mut self.replicas {
            replica.start(self.origin.elapsed(), Duration::MAX);
            let now = self.origin.elapsed();
            replica.wait(now, now);
        }
        let next = self.replicas.iter().enumerate();
        next.filter_map(|(i, replica)| Some((replica.next_event()?, i))).min()
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Ask(id, ask, updates, reply) => {
                let verdict = self.take_in(id, *ask, updates);
                if reply.send(verdict).is_err() && verdict.is_ok() {
                    self.cancel(id);
                }
            }
            Command::Cancel(id) => self.cancel(id),
            Command::Look => {}
        }
    }

    fn take_in(
        &mut self,
        id: RequestId,
        ask: Ask,
        updates: UnboundedSender<Update>,
    ) -> Result<(), Rejected> {
        let (limit, branches) = (ask.limit.max(1), ask.width.max(1));
        let width = ask.beams.map_or(branches, |how| how.width.max(1));
        let input = ask.prompt.len() as u32;
        let request = Request {
            id,
            input,
            limit,
            fate: None,
            width,
            priority: ask.priority,
            content: Content::Tokens(ask.prompt),
        };
        let replica = match self.replicas.len() {
            1 => 0,
            n => {
                let now = self.origin.elapsed();
                self.router.pick(&request, n, |i| self.replicas[i].load(now))
            }
        };
        let engine = &mut self.replicas[replica];
        let mut sampling = ask.sampling;
        let search = match ask.beams {
            Some(how) => {
                engine.add_together(request)?;
                let how = BeamSearch { width, ..how };
                Some(Search::new(how, input, limit, Arc::clone(&ask.ends), sampling.logprobs))
            }
            None => {
                engine.add_request(request)?;
                None
            }
        };
        sampling.offers = search.as_ref().map(Search::offers);
        let branch = Branch {
            characters: Characters::default(),
            stops: Stops::new(if search.is_some() { Vec::new() } else { ask.stops }),
            count: 0,
            done: false,
        };
        let open = Open {
            replica,
            updates,
            branches: vec![branch; usize::from(branches)],
            limit,
            min_tokens: sampling.min_tokens,
            ends: ask.ends,
            search,
        };
        self.requests.insert(id, open);
        self.sampler.insert(id, sampling);
        Ok(())
    }

    fn cancel(&mut self, id: RequestId) {
        if let Some(open) = self.requests.remove(&id) {
            self.sampler.remove(id);
            self.replicas[open.replica].end(id, None, self.origin.elapsed());
        }
    }

    /// Hands out the tokens and events of the last iteration of `replica`.
    fn deliver(&mut self, replica: usize) {
        let iteration = self.replicas[replica].last_iteration();
        let at = iteration.ends.last().copied().unwrap_or_default();
        for event in &iteration.events {
            if let Event::Admitted { request, hit, at } = *event
                && let Some(open) = self.requests.get(&request)
            {
                // A client that has gone away is taken note of when its answer is dropped.
                let _ = open.updates.send(Update::Admitted { cached: hit, at });
            }
        }
        let mut tokens = std::mem::take(&mut self.tokens);
        tokens.extend(iteration.emitted.iter().zip(&iteration.tokens).map(|(&r, &t)| (r, 0, t)));
        tokens.extend(iteration.branches.iter().map(|b| (b.request, b.branch, b.token)));
        let settled = iteration.settled.clone();
        for (request, branch, token) in tokens.drain(..) {
            self.hand_out(request, branch, token, at);
        }
        self.tokens = tokens;
        settled.into_iter().for_each(|request| self.search(request, at));
    }

    /// All beams of `id` are computed: they go on, or are the answer.
    fn search(&mut self, id: RequestId, at: Duration) {
        let Some(open) = self.requests.get_mut(&id) else { return };
        let Some(search) = &mut open.search else { return };
        let next = search.advance(|branch| self.sampler.take_offers(id, branch));
        let (engine, now) = (&mut self.replicas[open.replica], self.origin.elapsed());
        if !next.is_empty() {
            return engine.choose(id, &next, now);
        }
        engine.end(id, None, now);
        self.sampler.remove(id);
        let Some(mut open) = self.requests.remove(&id) else { return };
        open.answer(self.tokenizer.as_deref(), at);
    }

    fn hand_out(&mut self, id: RequestId, branch: u16, token: Token, at: Duration) {
        let Some(open) = self.requests.get_mut(&id) else { return };
        let mut step = open.step(branch, token, self.tokenizer.as_deref());
        step.at = at;
        step.logprobs = self.sampler.take_logprobs(id, branch);
        let ended = step.finish.is_some();
        let early = ended && open.branches[usize::from(branch)].count < open.limit;
        open.send(step);
        let (over, replica) = (ended && open.branches.iter().all(|b| b.done), open.replica);
        if early {
            self.replicas[replica].end(id, Some(branch), self.origin.elapsed());
        }
        if over {
            self.requests.remove(&id);
            self.sampler.remove(id);
        }
    }
}

#[cfg(test)]
mod tests;
