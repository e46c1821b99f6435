//! Traces from descriptions.
//!
//! Arrivals, rate shapes, lengths and sessions each draw from a ChaCha stream of their own under
//! one seed, so that another rate leaves the lengths as they were. A block's identity stands for
//! everything up to its end, as a chained hash does: a request that shares it shares all before it.

use std::time::Duration;

use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution as _, StandardNormal, StandardUniform};

use crate::arrival::stream;
use crate::error::printable;
use crate::format::BlockPool;
use crate::length::{Dist, normal_correlation};
use crate::spec::{Mode, Prefix, Session, Spec, Written};
use crate::{Arrival, BlockSpan, Trace, TraceError, TraceRequest};

const GAPS: u64 = 0;
const RATE_SHAPE: u64 = 1;
const LENGTHS: u64 = 2;
const SESSIONS: u64 = 3;

/// Longest prompt or response made, as when reading.
const MOST_TOKENS: u32 = 100_000_000;

/// Requests of one trace.
const MOST_REQUESTS: usize = crate::spec::MOST_REQUESTS as usize;

const TOO_MANY: &str = "more than 10 million requests; shorten [size] or lower rates and turns";

/// Lengths that are swapped between requests so that all fit, at most: a second.
const MOST_TRIES: u64 = 20_000_000;

/// Makes the trace that `spec` describes, from its own seed unless another is given.
///
/// # Errors
/// If it ends up without a request or with more blocks than a trace can hold.
pub fn synthesise(spec: &Spec, seed: Option<u64>) -> Result<Trace, TraceError> {
    let written = &spec.0;
    let seed = seed.unwrap_or(written.seed);
    let fail = |problem: String| TraceError::spec(&written.name, problem);
    let mut trace = match &written.session {
        None => independent(written, seed).map_err(fail)?,
        Some(session) => Sessions::new(written, session, seed).run().map_err(fail)?,
    };
    if trace.requests.is_empty() {
        return Err(fail(
            "nothing arrives within [size] duration_s; lengthen it or raise rate_rps".to_owned(),
        ));
    }
    trace.name = printable(&written.name);
    trace.classes = vec!["default".to_owned()];
    trace.provenance = vec![format!("synthesised from {}, seed {seed}", written.name)];
    trace.provenance.extend(written.provenance.iter().cloned());
    Ok(trace)
}

/// Arrival times until the size is reached, in microseconds.
fn arrivals(written: &Written, seed: u64, most: usize) -> impl Iterator<Item = Duration> {
    let end = written.size.duration_s.unwrap_or(f64::INFINITY);
    let times = written.arrival.times(stream(seed, GAPS), stream(seed, RATE_SHAPE));
    // A rate that falls silent for ever would otherwise never end: 7e9 s, 220 years, is beyond any duration.
    times.take_while(move |&t| t < end && t < 7e9).take(most).map(micros)
}

/// Put back to the clock tick before.
fn quantised(written: &Written, at: Duration) -> Duration {
    let tick = micros(written.arrival.quantize_s).as_micros();
    let at = at.as_micros();
    Duration::from_micros(at.checked_rem(tick).map_or(at, |past| at - past) as u64)
}

fn micros(seconds: f64) -> Duration {
    Duration::from_micros((seconds * 1e6).round() as u64)
}

/// Requests that have nothing to do with each other, but perhaps begin alike.
fn independent(written: &Written, seed: u64) -> Result<Trace, String> {
    let most = written.size.requests.map_or(usize::MAX, |n| n as usize);
    let arrivals: Vec<Duration> = arrivals(written, seed, most.min(MOST_REQUESTS + 1)).collect();
    if arrivals.len() > MOST_REQUESTS {
        return Err(TOO_MANY.to_owned());
    }
    let lengths = lengths(written, seed, arrivals.len());
    let mut blocks = Blocks::new(written.prefix.as_ref());
    let mut random = stream(seed, SESSIONS);
    let mut requests = Vec::with_capacity(arrivals.len());
    for (at, (input, output)) in arrivals.into_iter().zip(lengths) {
        let root = root(written, &mut random).min(input);
        let chain = blocks.fresh(root, input)?;
        let blocks = blocks.pool.push(&chain)?;
        requests.push(TraceRequest {
            arrival: Arrival::At(at),
            input,
            output,
            blocks,
            class: 0,
            session: None,
        });
    }
    Ok(blocks.into_trace(requests))
}

/// Tokens this prompt has in common with the others.
fn root(written: &Written, random: &mut ChaCha8Rng) -> u32 {
    let root = written.prefix.as_ref().and_then(|p| p.shared_root.as_ref());
    root.map_or(0, |dist| count(dist, random, &written.quantile_levels))
}

fn count(dist: &Dist, random: &mut ChaCha8Rng, levels: &[f64]) -> u32 {
    dist.count(StandardNormal.sample(random), levels).min(MOST_TOKENS)
}

/// Prompts and responses with their rank correlation. Pairs beyond the limit exchange their responses with other
/// requests', which leaves both distributions as they are; one for which no partner is found is cut.
fn lengths(written: &Written, seed: u64, n: usize) -> Vec<(u32, u32)> {
    let l = &written.lengths;
    let levels = &written.quantile_levels;
    let r = normal_correlation(l.spearman);
    let rest = (1.0 - r * r).max(0.0).sqrt();
    let mut random = stream(seed, LENGTHS);
    let mut pairs: Vec<(u32, u32)> = (0..n)
        .map(|_| {
            let (a, b): (f64, f64) =
                (StandardNormal.sample(&mut random), StandardNormal.sample(&mut random));
            let input = l.input.as_ref().map_or(1, |dist| dist.count(a, levels));
            (input.clamp(1, MOST_TOKENS), l.output.count(r * a + rest * b, levels).min(MOST_TOKENS))
        })
        .collect();
    let Some(limit) = l.max_total_tokens else { return pairs };
    let fits = |(input, output): (u32, u32)| input + output <= limit;
    let mut tries = MOST_TRIES;
    for index in 0..n {
        for _ in 0..1000 {
            if fits(pairs[index]) || tries == 0 {
                break;
            }
            tries -= 1;
            let u: f64 = StandardUniform.sample(&mut random);
            let other = (u * n as f64) as usize;
            let swapped = ((pairs[index].0, pairs[other].1), (pairs[other].0, pairs[index].1));
            if other != index && fits(swapped.0) && fits(swapped.1) {
                (pairs[index], pairs[other]) = swapped;
            }
        }
        pairs[index].0 = pairs[index].0.min(limit);
        pairs[index].1 = pairs[index].1.min(limit - pairs[index].0);
    }
    pairs
}

/// Block identities under construction.
struct Blocks {
    /// Tokens per block; 0 without `[prefix]`.
    size: u32,
    /// Identities of what all share.
    root: Vec<u64>,
    next: u64,
    pool: BlockPool,
}

impl Blocks {
    fn new(prefix: Option<&Prefix>) -> Self {
        Self {
            size: prefix.map_or(0, |p| p.block_tokens),
            root: Vec::new(),
            next: 0,
            pool: BlockPool::default(),
        }
    }

    /// A chain for a prompt of `tokens`, of which `root` are shared with every other.
    fn fresh(&mut self, root: u32, tokens: u32) -> Result<Vec<u64>, String> {
        if self.size == 0 {
            return Ok(Vec::new());
        }
        // A block that is the root's in part only is not the same block.
        let shared = (root / self.size) as usize;
        self.pool.room(u64::from(root.max(tokens).div_ceil(self.size)))?;
        while self.root.len() < shared {
            self.root.push(self.next);
            self.next += 1;
        }
        let mut chain = self.root[..shared].to_vec();
        self.extend(&mut chain, tokens);
        Ok(chain)
    }

    /// Goes on with new identities until `tokens` are covered.
    fn extend(&mut self, chain: &mut Vec<u64>, tokens: u32) {
        if self.size > 0 {
            let wanted = tokens.div_ceil(self.size) as usize;
            let new = wanted.saturating_sub(chain.len()) as u64;
            chain.extend(self.next..self.next + new);
            self.next += new;
        }
    }

    fn into_trace(self, requests: Vec<TraceRequest>) -> Trace {
        Trace {
            requests,
            block_ids: self.pool.into_ids(),
            block_tokens: self.size,
            ..Trace::default()
        }
    }
}

/// One turn before its blocks are stored.
struct Turn {
    input: u32,
    output: u32,
    chain: Vec<u64>,
    /// Seconds since the turn before (open: its arrival, closed: its response).
    pause: f64,
}

/// Sessions under construction.
struct Sessions<'a> {
    written: &'a Written,
    session: &'a Session,
    seed: u64,
    lengths: ChaCha8Rng,
    random: ChaCha8Rng,
    blocks: Blocks,
    requests: Vec<TraceRequest>,
}

impl<'a> Sessions<'a> {
    fn new(written: &'a Written, session: &'a Session, seed: u64) -> Self {
        Self {
            written,
            session,
            seed,
            lengths: stream(seed, LENGTHS),
            random: stream(seed, SESSIONS),
            blocks: Blocks::new(written.prefix.as_ref()),
            requests: Vec::new(),
        }
    }

    fn run(mut self) -> Result<Trace, String> {
        let most = self.written.size.requests.map_or(usize::MAX, |n| n as usize);
        let closed = self.session.mode == Mode::Closed;
        for (number, at) in (0..).zip(arrivals(self.written, self.seed, usize::MAX)) {
            let turns = self.turns()?;
            if self.requests.len() > MOST_REQUESTS {
                return Err(TOO_MANY.to_owned());
            }
            let at = if closed { at } else { self.start_with_room(at, &turns) };
            self.store(number, at, &turns)?;
            if closed && self.requests.len() >= most {
                break;
            }
        }
        if !closed {
            let end = self.written.size.duration_s.map_or(Duration::MAX, micros);
            let late = |r: &TraceRequest| matches!(r.arrival, Arrival::At(at) if at >= end);
            self.requests.retain(|r| !late(r));
            self.requests.sort_by_key(|r| match r.arrival {
                Arrival::At(at) => at,
                Arrival::After { .. } => Duration::ZERO,
            });
        }
        self.requests.truncate(most);
        let mut trace = self.blocks.into_trace(self.requests);
        trace.max_concurrent_sessions = self.written.arrival.max_concurrent_sessions;
        Ok(trace)
    }

    /// An open session's start, moved so that all its turns fall within the duration, as they did in the window of a
    /// source that its turns and gaps were counted in: starts are spread over what the session leaves room for.
    fn start_with_room(&self, at: Duration, turns: &[Turn]) -> Duration {
        let end = self.written.size.duration_s.unwrap_or(f64::INFINITY);
        let lasts: f64 = turns.iter().skip(1).map(|t| t.pause).sum();
        at.mul_f64((1.0 - lasts / end).max(0.0))
    }

    fn draw(&mut self, dist: &Dist) -> f64 {
        dist.at(StandardNormal.sample(&mut self.random), &self.written.quantile_levels)
    }

    fn chance(&mut self, probability: f64) -> bool {
        let u: f64 = StandardUniform.sample(&mut self.random);
        u < probability
    }

    /// The turns of one session.
    fn turns(&mut self) -> Result<Vec<Turn>, String> {
        let s = self.session;
        let levels = &self.written.quantile_levels;
        let limit = s.max_total_tokens.unwrap_or(2 * MOST_TOKENS);
        let number = self.draw(&s.turns).round().clamp(1.0, 1e6) as usize;
        let root = root(self.written, &mut self.random);
        let mut turns: Vec<Turn> = Vec::new();
        let mut held = 0;
        for index in 0..number {
            let output = count(&self.written.lengths.output, &mut self.lengths, levels);
            let compacted = s.compacted_input.as_ref().filter(|_| index > 0);
            let first = count(compacted.unwrap_or(&s.first_input), &mut self.lengths, levels);
            let opening = s.opening.as_ref().filter(|o| index <= o.turns as usize);
            let step = opening.map(|o| &o.growth).or(s.growth_per_turn.as_ref());
            let step = step.or(s.new_input_per_turn.as_ref());
            let step = step.map_or(0, |dist| count(dist, &mut self.lengths, levels));
            let pause = s
                .turn_gap_s
                .as_ref()
                .or(s.think_time_s.as_ref())
                .map_or(0.0, |dist| self.draw(dist));
            let (fresh, breaks) = (self.chance(s.shrink_prob), !self.chance(s.extend_prob));
            let base = turns.last().map_or(0, |t| {
                if s.growth_per_turn.is_some() { t.input } else { t.input + t.output }
            });
            let grown = base.saturating_add(step);
            let fresh = fresh || index == 0 || grown.saturating_add(output) > limit;
            let input = if fresh { first } else { grown }.clamp(1, limit);
            let output = output.min(limit - input);
            let chain = match turns.last_mut() {
                Some(last) if !fresh && !breaks => self.blocks.follow(last, input),
                _ => self.blocks.fresh(root.min(input), input)?,
            };
            held += chain.len() as u64;
            self.blocks.pool.room(held)?;
            turns.push(Turn { input, output, chain, pause: pause.min(s.think_time_cap_s) });
        }
        Ok(turns)
    }

    fn store(&mut self, number: u32, start: Duration, turns: &[Turn]) -> Result<(), String> {
        let mut at = start;
        for (index, turn) in turns.iter().enumerate() {
            let pause = micros(turn.pause.min(1e9));
            let arrival = match self.session.mode {
                _ if index == 0 => Arrival::At(quantised(self.written, start)),
                Mode::Open => {
                    at += pause;
                    Arrival::At(quantised(self.written, at))
                }
                Mode::Closed => {
                    Arrival::After { previous: self.requests.len() as u32 - 1, think: pause }
                }
            };
            let blocks: BlockSpan = self.blocks.pool.push(&turn.chain)?;
            let (input, output) = (turn.input, turn.output);
            self.requests.push(TraceRequest {
                arrival,
                input,
                output,
                blocks,
                class: 0,
                session: Some(number),
            });
        }
        Ok(())
    }
}

impl Blocks {
    /// The chain of a prompt that begins with all of `last`'s, and with its response if it is long enough for that.
    /// In the first case `last` learns the identities of its response.
    fn follow(&mut self, last: &mut Turn, input: u32) -> Vec<u64> {
        if self.size == 0 {
            return Vec::new();
        }
        if input >= last.input + last.output {
            self.extend(&mut last.chain, last.input + last.output);
            let mut chain = last.chain.clone();
            self.extend(&mut chain, input);
            return chain;
        }
        // The text after the prompt differs, so the prompt's last block is only shared if it is full.
        let mut chain = last.chain[..(last.input.min(input) / self.size) as usize].to_vec();
        self.extend(&mut chain, input);
        chain
    }
}
