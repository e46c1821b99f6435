//! A workload as every other part sees it: the requests, their sizes, their times, and the prompts
//! that share a beginning.
//!
//! A trace is immutable once read or generated. Replaying it at another rate is the load generator's business.

use std::time::Duration;

/// Requests in order of arrival; closed-loop turns come after the turn they wait for.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Trace {
    /// Its name in reports: a preset's name or a file's stem.
    pub name: String,
    /// Open-loop requests are sorted by arrival; a closed-loop turn comes after its predecessor.
    pub requests: Vec<TraceRequest>,
    /// Identities of blocks of tokens for all requests, each request owning a [`BlockSpan`] of it.
    pub block_ids: Vec<u64>,
    /// Tokens per entry of `block_ids`; 0 when the trace knows nothing about shared prefixes.
    pub block_tokens: u32,
    /// At most so many sessions open at once, when the source is closed-loop and says so.
    pub max_concurrent_sessions: Option<u32>,
    /// Names of request classes (tenants, request types); `TraceRequest::class` indexes it. Never empty.
    pub classes: Vec<String>,
    /// Its origin: file and format, or preset, seed and the sources of its figures.
    pub provenance: Vec<String>,
}

/// One request of a [`Trace`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceRequest {
    /// The moment it is sent.
    pub arrival: Arrival,
    /// Prompt length, tokens.
    pub input: u32,
    /// Tokens generated before it ends, including the first.
    pub output: u32,
    /// Its entries in `Trace::block_ids`: block `i` identifies tokens `[i*block_tokens, (i+1)*block_tokens)` of
    /// prompt and output together (everything before included, as a chained hash does). They cover the prompt,
    /// the last one perhaps partially, and may run on into the output where a later turn is known to reuse it.
    pub blocks: BlockSpan,
    /// Index into `Trace::classes`.
    pub class: u16,
    /// Session it belongs to, if any.
    pub session: Option<u32>,
}

/// The moment a request is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arrival {
    /// Open loop: so long after the trace's origin, whatever the server does.
    At(Duration),
    /// Closed loop: `think` after the response to request `previous` (an index into `Trace::requests`) has ended.
    After {
        /// Index of the turn it waits for; always smaller than its own.
        previous: u32,
        /// The user's (or tool's) pause.
        think: Duration,
    },
}

/// A range of `Trace::block_ids`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct BlockSpan {
    /// First entry.
    pub start: u32,
    /// Number of entries.
    pub len: u32,
}

impl Trace {
    /// The block identities of `request`, empty when unknown.
    #[must_use]
    pub fn blocks_of(&self, request: &TraceRequest) -> &[u64] {
        let start = request.blocks.start as usize;
        &self.block_ids[start..start + request.blocks.len as usize]
    }

    /// From the origin to the last open-loop arrival.
    #[must_use]
    pub fn span(&self) -> Duration {
        let at = |r: &TraceRequest| match r.arrival {
            Arrival::At(t) => t,
            Arrival::After { .. } => Duration::ZERO,
        };
        self.requests.iter().map(at).max().unwrap_or_default()
    }

    /// Mean prompt tokens of a request.
    #[must_use]
    pub fn mean_prompt(&self) -> f64 {
        let tokens: u64 = self.requests.iter().map(|r| u64::from(r.input)).sum();
        tokens as f64 / self.requests.len().max(1) as f64
    }

    /// Longest input + output, tokens.
    #[must_use]
    pub fn longest(&self) -> u32 {
        self.requests.iter().map(|r| r.input.saturating_add(r.output)).max().unwrap_or(0)
    }

    /// Requests that wait for no response to another, such as sessions' first turns: what rates count.
    #[must_use]
    pub fn starts(&self) -> usize {
        self.requests.iter().filter(|r| matches!(r.arrival, Arrival::At(_))).count()
    }

    /// Requests per second over the span, counting sessions' first turns only where later turns wait for them
    /// (then it is session starts per second). 0 without a span.
    #[must_use]
    pub fn offered_rate(&self) -> f64 {
        let span = self.span().as_secs_f64();
        if span > 0.0 { self.starts().saturating_sub(1) as f64 / span } else { 0.0 }
    }

    /// The same requests as a closed loop: as many sessions (or requests, where there are none) are under way at once as
    /// there are `streams`, and the next begins when one has ended.
    #[must_use]
    pub fn closed_loop(mut self, streams: u32) -> Self {
        let taken = self.requests.iter().filter_map(|r| r.session).max().map_or(0, |most| most + 1);
        for (session, request) in (taken..).zip(&mut self.requests) {
            if let Arrival::At(at) = &mut request.arrival {
                *at = Duration::ZERO;
            }
            request.session.get_or_insert(session);
        }
        self.max_concurrent_sessions = Some(streams);
        self
    }

    /// The same requests with at most `most` tokens each (at least 2): prompts lose their ends, and responses longer than
    /// that leave one token of the prompt.
    #[must_use]
    pub fn cut(mut self, most: u32) -> Self {
        let most = most.max(2);
        let mut shortened = 0;
        for r in &mut self.requests {
            if r.input.saturating_add(r.output) <= most {
                continue;
            }
            shortened += 1;
            r.output = r.output.min(most - 1);
            r.input = r.input.min(most - r.output);
            let blocks = r.input.div_ceil(self.block_tokens.max(1));
            r.blocks.len = r.blocks.len.min(blocks);
        }
        if shortened > 0 {
            self.provenance.push(format!("{shortened} requests cut to {most} tokens"));
        }
        self
    }

    /// The requests of at most `most` tokens, prompt and response together, and what the others leave of their sessions: a
    /// turn that waits for one that is left out is left out as well. Arrivals stay where they are.
    #[must_use]
    pub fn within(mut self, most: u32) -> Self {
        let all = self.requests.len();
        // The new place of each request that is kept.
        let mut places: Vec<Option<u32>> = Vec::with_capacity(all);
        let mut kept = Vec::with_capacity(all);
        for mut request in self.requests {
            let fits = request.input.saturating_add(request.output) <= most;
            let follows = match &mut request.arrival {
                Arrival::At(_) => true,
                Arrival::After { previous, .. } => match places[*previous as usize] {
                    Some(place) => {
                        *previous = place;
                        true
                    }
                    None => false,
                },
            };
            places.push((fits && follows).then_some(kept.len() as u32));
            if fits && follows {
                kept.push(request);
            }
        }
        if kept.len() < all {
            let left = all - kept.len();
            self.provenance.push(format!("without {left} requests beyond {most} tokens"));
        }
        self.requests = kept;
        self
    }

    /// The first `n` requests, all that they refer to included: predecessors always come earlier.
    #[must_use]
    pub fn head(&self, n: usize) -> Self {
        let requests = self.requests[..n.min(self.requests.len())].to_vec();
        let end = |r: &TraceRequest| r.blocks.start as usize + r.blocks.len as usize;
        let blocks = requests.iter().map(end).max().unwrap_or(0);
        let mut provenance = self.provenance.clone();
        if requests.len() < self.requests.len() {
            provenance.push(format!("the first {n} of {} requests", self.requests.len()));
        }
        Self {
            name: self.name.clone(),
            requests,
            block_ids: self.block_ids[..blocks].to_vec(),
            block_tokens: self.block_tokens,
            max_concurrent_sessions: self.max_concurrent_sessions,
            classes: self.classes.clone(),
            provenance,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn requests_within_a_limit_keep_their_order_and_predecessors(
            sizes in prop::collection::vec((1_u32..50, 1_u32..50, any::<bool>()), 1..40), most in 2_u32..100,
        ) {
            let requests: Vec<TraceRequest> = (0_u32..)
                .zip(&sizes)
                .map(|(i, &(input, output, turn))| TraceRequest {
                    arrival: match turn && i > 0 {
                        true => Arrival::After { previous: i - 1, think: Duration::from_secs(u64::from(i)) },
                        false => Arrival::At(Duration::from_secs(u64::from(i))),
                    },
                    input,
                    output,
                    blocks: BlockSpan::default(),
                    class: 0,
                    session: None,
                })
                .collect();
            let trace = Trace { requests, ..Trace::default() };
            let within = trace.clone().within(most);
            prop_assert!(within.longest() <= most);
            for (i, r) in within.requests.iter().enumerate() {
                if let Arrival::After { previous, .. } = r.arrival {
                    prop_assert!((previous as usize) < i);
                }
            }
            // Alone it would be kept: only a predecessor that is too long keeps a short request out.
            let lost = trace.requests.iter().filter(|r| matches!(r.arrival, Arrival::At(_)) && r.input + r.output <= most);
            prop_assert_eq!(within.starts(), lost.count());
            prop_assert_eq!(trace.clone().within(u32::MAX).requests, trace.requests);
        }

        #[test]
        fn a_cut_trace_fits_and_keeps_requests_that_fitted(
            lengths in prop::collection::vec((1..5000_u32, 0..5000_u32), 1..30), most in 2..6000_u32,
        ) {
            let requests = lengths.iter().enumerate().map(|(i, &(input, output))| TraceRequest {
                arrival: Arrival::At(Duration::from_secs(i as u64)),
                input,
                output,
                blocks: BlockSpan { start: 0, len: input.div_ceil(16) },
                class: 0,
                session: None,
            });
            let trace = Trace { requests: requests.collect(), block_tokens: 16, ..Trace::default() };
            let cut = trace.clone().cut(most);
            prop_assert!(cut.longest() <= most);
            for (whole, r) in trace.requests.iter().zip(&cut.requests) {
                prop_assert!(r.input >= 1 && r.blocks.len == r.input.div_ceil(16));
                let fits = whole.input + whole.output <= most;
                prop_assert!(!fits || whole == r);
                // A response is shortened only where no prompt is left to shorten.
                prop_assert!(r.output == whole.output || r.input == 1);
            }
        }
    }
}
