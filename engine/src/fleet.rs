//! Replicas behind a router, in virtual time: the next thing that happens anywhere happens next.
//!
//! The source of the load says when its next request is due; everything before that instant is played out, iteration by
//! iteration. Time is predicted, or measured by an executor. With as few replicas as one deployment has, looking at
//! each for the earliest event is cheaper than a heap.

use std::time::Duration;

use crate::engine::Engine;
use crate::event::Iteration;
use crate::fault::Fault;
use crate::request::Request;
use crate::router::{self, Router};
use crate::state::Rejected;

/// The reason for which [`Fleet::advance`] stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// The request announced is due: submit it.
    Arrival,
    /// This replica committed an iteration.
    Iteration(usize),
    /// Nothing is under way, and no request was announced.
    Idle,
    /// Nothing happens any more, because a device has failed ([`Fleet::fault`]).
    Broken,
}

/// Replicas of one engine.
pub struct Fleet {
    replicas: Vec<Engine>,
    /// Engines of each replica: ranks of attention, which begin their iterations together.
    ranks: usize,
    router: Router,
    /// True if the end of a request at one replica may cause a request at another (closed-loop load).
    coupled: bool,
    now: Duration,
}

impl Fleet {
    /// These replicas; `coupled` when requests wait for responses.
    #[must_use]
    pub fn new(mut replicas: Vec<Engine>, router: Router, coupled: bool) -> Self {
        if !coupled {
            replicas.iter_mut().for_each(Engine::keep_open);
        }
        // An iteration of another replica may bring a request at its very end.
        if !coupled || replicas.len() == 1 {
            replicas.iter_mut().for_each(Engine::tell_arrivals);
        }
        Self { replicas, ranks: 1, router, coupled, now: Duration::ZERO }
    }

    /// The same engines, `ranks` of which are ranks of one replica.
    #[must_use]
    pub fn meeting(self, ranks: usize) -> Self {
        Self { ranks, ..self }
    }

    /// Makes every iteration a step of its own; results are the same, only slower.
    pub fn disable_stretches(&mut self) {
        self.replicas.iter_mut().for_each(Engine::disable_stretches);
    }

    /// Virtual time.
    #[must_use]
    pub fn now(&self) -> Duration {
        self.now
    }

    /// Takes a request in at `at`, no earlier than now.
    ///
    /// # Errors
    /// When it could never run.
    pub fn add_request(&mut self, request: Request, at: Duration) -> Result<(), Rejected> {
        self.now = self.now.max(at);
        let ranks = |replica: usize| &self.replicas[replica * self.ranks..][..self.ranks];
        let load = |replica: usize| ranks(replica).iter().map(|rank| rank.load(self.now)).sum();
        let to = match self.replicas.len() / self.ranks {
            1 => 0,
            n => self.router.pick(&request, n, load),
        };
        let rank = if self.ranks == 1 { 0 } else { router::rank(ranks(to)) };
        self.replicas[to * self.ranks + rank].add_request_at(request, at)
    }

    /// Plays on until the next request is due at `arrival`, or an iteration ends before that.
    pub fn advance(&mut self, arrival: Option<Duration>) -> Next {
        loop {
            let until = arrival.unwrap_or(Duration::MAX);
            self.start(until);
            self.wait(until);
            if self.fault().is_some() {
                return Next::Broken;
            }
            match (self.next_event(), arrival) {
                (None, None) => return Next::Idle,
                (None, Some(_)) => return Next::Arrival,
                (Some((at, _)), Some(arrival)) if arrival <= at => return Next::Arrival,
                (Some((at, i)), _) => {
                    self.now = at;
                    if self.replicas[i].step(at).is_some() {
                        return Next::Iteration(i);
                    }
                }
            }
        }
    }

    fn start(&mut self, until: Duration) {
        let mut together = true;
        for i in 0..self.replicas.len() {
            let first = i - i % self.ranks;
            // Ranks begin together: none while another still computes.
            if i == first && self.ranks > 1 {
                together = self.meet(first);
            }
            if together && self.replicas[i].is_ready(self.now) {
                let mut until = until;
                if self.coupled {
                    let ranks = first..first + self.ranks;
                    let others =
                        self.replicas.iter().enumerate().filter(|(j, _)| !ranks.contains(j));
                    // The end of a replica that is about to start is not known yet.
                    let event = |e: &Engine| {
                        if e.is_ready(self.now) { Some(self.now) } else { e.next_event() }
                    };
                    let next = others.filter_map(|(_, e)| event(e)).min();
                    until = next.map_or(until, |t| t.min(until));
                }
                self.replicas[i].start(self.now, until);
            }
        }
    }

    /// True where the ranks from `first` on may begin an iteration now.
    fn meet(&self, first: usize) -> bool {
        self.ranks_from(first).iter().all(|rank| rank.is_between_steps(self.now))
    }

    fn ranks_from(&self, first: usize) -> &[Engine] {
        &self.replicas[first..][..self.ranks]
    }

    /// When the ranks from `first` on begin their next step, where one waits for that: it has work and does not compute.
    /// None where the end of another's plan is known, which comes first.
    fn next_meeting(&self, first: usize) -> Option<Duration> {
        let ranks = self.ranks_from(first);
        let waits = ranks.iter().any(|rank| rank.is_ready(self.now))
            && !ranks.iter().any(Engine::is_ending);
        waits.then(|| ranks.iter().filter_map(Engine::reached).max()).flatten()
    }

    /// Replicas of several ranks, by the first rank; none where they have one.
    fn groups(&self) -> impl Iterator<Item = usize> + use<> {
        let all = if self.ranks > 1 { self.replicas.len() } else { 0 };
        (0..all).step_by(self.ranks)
    }

    /// Lets every replica compute until one of its batches is done, but begin no step at `until`; ranks go on only when
    /// the one that waits for them is there.
    fn wait(&mut self, until: Duration) {
        if self.ranks == 1 {
            self.replicas.iter_mut().for_each(|replica| replica.wait(self.now, until));
        }
        for first in self.groups() {
            let until = if self.next_meeting(first).is_some() { self.now } else { until };
            let ranks = &mut self.replicas[first..][..self.ranks];
            ranks.iter_mut().for_each(|rank| rank.wait(self.now, until));
        }
    }

    /// The next event, and the replica that has it.
    fn next_event(&self) -> Option<(Duration, usize)> {
        let own = self.replicas.iter().enumerate().filter_map(|(i, r)| Some((r.next_event()?, i)));
        let meetings = self.groups().filter_map(|first| Some((self.next_meeting(first)?, first)));
        own.chain(meetings).min()
    }

    /// The reason for which nothing happens any more, if that is so.
    #[must_use]
    pub fn fault(&self) -> Option<&Fault> {
        self.replicas.iter().find_map(Engine::fault)
    }

    /// Brings every ledger up to now.
    pub fn settle(&mut self) {
        for replica in &mut self.replicas {
            replica.settle(self.now);
        }
    }

    /// The iteration that replica `i` committed last.
    #[must_use]
    pub fn iteration(&self, i: usize) -> &Iteration {
        self.replicas[i].last_iteration()
    }

    /// The replicas.
    #[must_use]
    pub fn replicas(&self) -> &[Engine] {
        &self.replicas
    }
}
