//! A workload that goes on: as many requests of it as a rate needs, the longer trace beginning with the shorter.
//!
//! A trace replayed ten times as fast is over ten times as soon, and then too short to say what a
//! server holds for longer. So it goes on in *passes*. A synthesised workload is drawn anew for
//! each of them, under a seed of its own; a recorded one is replayed. A pass begins one mean gap
//! after the last arrival of the one before. Its sessions are new, and so are its blocks: nothing
//! of an earlier pass is found in a prefix cache.

use std::time::Duration;

use crate::{Arrival, Spec, Trace, TraceRequest, synthesise};

/// Most requests a trace is made longer to.
const MOST: usize = 1 << 20;

/// A trace and how it goes on.
#[derive(Debug, Clone)]
pub struct Stream {
    first: Trace,
    drawn: Option<(Spec, u64)>,
}

impl Stream {
    /// Goes on after `first` by replaying it.
    #[must_use]
    pub fn replayed(first: Trace) -> Self {
        Self { first, drawn: None }
    }

    /// Goes on after `first`, the whole or the first part of what `spec` makes under `seed`, by drawing more of it.
    #[must_use]
    pub fn drawn(first: Trace, spec: Spec, seed: u64) -> Self {
        Self { first, drawn: Some((spec, seed)) }
    }

    /// Its first pass.
    #[must_use]
    pub fn first(&self) -> &Trace {
        &self.first
    }

    /// True if later passes repeat the first, request by request.
    #[must_use]
    pub fn repeats(&self) -> bool {
        self.drawn.is_none()
    }

    /// Requests it can give: those of the first pass alone where that has no rate to go on at.
    #[must_use]
    pub fn most(&self) -> usize {
        let own = self.first.requests.len();
        let blocks = self.first.block_ids.len().max(1);
        // Spans of blocks count them in 32 bits; a pass drawn anew may have half as many again.
        let fit = own.saturating_mul((u32::MAX as usize / blocks / 2).max(1));
        if self.first.offered_rate() > 0.0 { fit.min(MOST).max(own) } else { own }
    }

    /// Its first `n` requests, [`most`](Self::most) at most.
    #[must_use]
    pub fn head(&self, n: usize) -> Trace {
        let n = n.min(self.most());
        let mut trace = self.first.clone();
        let mut passes = 1_u64;
        while trace.requests.len() < n {
            append(&mut trace, &self.pass(passes), passes);
            passes += 1;
        }
        if passes > 1 {
            let how = if self.repeats() { "replayed" } else { "drawn" };
            trace.provenance.push(format!("{passes} passes, {how} one after the other"));
        }
        trace.head(n)
    }

    /// A later pass, by itself. No request in it is longer than the longest of the first, by which deployments are sized.
    fn pass(&self, number: u64) -> Trace {
        let Some((spec, seed)) = &self.drawn else { return self.first.clone() };
        let seed = mix(*seed, number);
        // The first pass is as good as any where nothing arrives under a seed.
        let drawn = synthesise(spec, Some(seed)).unwrap_or_else(|_| self.first.clone());
        drawn.head(self.first.requests.len()).cut(self.first.longest())
    }
}

/// Adds `pass`, the `number`-th after the first, to the end of `trace`.
fn append(trace: &mut Trace, pass: &Trace, number: u64) {
    let at = |r: &TraceRequest| match r.arrival {
        Arrival::At(at) => Some(at),
        Arrival::After { .. } => None,
    };
    let begins = pass.requests.iter().filter_map(at).min().unwrap_or_default();
    let gap = Duration::from_secs_f64(1.0 / trace.offered_rate());
    let start = trace.span() + gap;
    let sessions = trace.requests.iter().filter_map(|r| r.session).max().map_or(0, |s| s + 1);
    let (requests, blocks) = (trace.requests.len() as u32, trace.block_ids.len() as u32);
    trace.requests.extend(pass.requests.iter().map(|r| {
        let mut r = *r;
        r.arrival = match r.arrival {
            Arrival::At(at) => Arrival::At(at - begins + start),
            Arrival::After { previous, think } => {
                Arrival::After { previous: previous + requests, think }
            }
        };
        r.session = r.session.map(|s| s + sessions);
        r.blocks.start += blocks;
        r
    }));
    trace.block_ids.extend(pass.block_ids.iter().map(|id| mix(*id, number)));
}

/// Another number for each pair: of one pass never the same for two ids, of several hardly ever.
fn mix(id: u64, pass: u64) -> u64 {
    let scramble = |x: u64| {
        let x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        x ^ (x >> 31)
    };
    scramble(id ^ scramble(pass.wrapping_mul(0x9E37_79B9_7F4A_7C15)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{describe, preset};
    use std::collections::{BTreeMap, BTreeSet};

    fn streams() -> Vec<Stream> {
        let mut all = Vec::new();
        for (name, n) in [("chat", 700), ("code", 400), ("rag-long", 300), ("agentic", 500)] {
            let spec = preset(name).unwrap();
            let first = synthesise(&spec, Some(3)).unwrap().head(n);
            all.push(Stream::replayed(first.clone()));
            all.push(Stream::drawn(first, spec, 3));
        }
        all
    }

    #[test]
    fn the_longer_begins_with_the_shorter() {
        for stream in streams() {
            let n = stream.first().requests.len();
            let longest = stream.head(5 * n + 7);
            assert_eq!(longest.requests.len(), 5 * n + 7);
            for m in [n / 3, n, n + 1, 3 * n] {
                let shorter = stream.head(m);
                assert_eq!(shorter.requests, longest.requests[..m], "{} {m}", shorter.name);
                let blocks = shorter.block_ids.len();
                assert_eq!(shorter.block_ids, longest.block_ids[..blocks]);
            }
            assert_eq!(stream.head(n).requests, stream.first().requests);
        }
    }

    #[test]
    fn passes_have_the_rate_of_the_first_and_share_nothing_with_it() {
        for stream in streams() {
            let (first, n) = (stream.first(), stream.first().requests.len());
            let long = stream.head(4 * n);
            let (one, all) = (first.offered_rate(), long.offered_rate());
            assert!((all / one - 1.0).abs() < 0.35, "{}: {one} and {all}", first.name);
            assert!(long.longest() <= first.longest());
            let at = |r: &TraceRequest| match r.arrival {
                Arrival::At(at) => Some(at),
                Arrival::After { .. } => None,
            };
            assert!(long.requests.iter().filter_map(at).is_sorted());
            let mut owner = BTreeMap::new();
            let mut sessions = BTreeSet::new();
            for (i, r) in long.requests.iter().enumerate() {
                let pass = i / n;
                for id in long.blocks_of(r) {
                    assert_eq!(*owner.entry(*id).or_insert(pass), pass, "{}", first.name);
                }
                sessions.extend(r.session.map(|s| (s, pass)));
                if let Arrival::After { previous, .. } = r.arrival {
                    assert!((previous as usize) < i && previous as usize / n == pass);
                    assert_eq!(long.requests[previous as usize].session, r.session);
                }
            }
            let numbers: BTreeSet<u32> = sessions.iter().map(|(s, _)| *s).collect();
            assert_eq!(numbers.len(), sessions.len(), "a session is of one pass");
            // Prompts share within a pass as before.
            let reuse = |t: &Trace| describe(t).prefix.map(|p| p.hit_rate);
            if let (Some(one), Some(all)) = (reuse(first), reuse(&long)) {
                assert!((one - all).abs() < 0.2, "{}: {one} and {all}", first.name);
            }
        }
    }

    #[test]
    fn a_synthesised_pass_is_new_and_a_replayed_one_is_not() {
        for stream in streams() {
            let n = stream.first().requests.len();
            let long = stream.head(2 * n);
            let lengths = |r: &[TraceRequest]| -> Vec<(u32, u32)> {
                r.iter().map(|r| (r.input, r.output)).collect()
            };
            let same = lengths(&long.requests[..n]) == lengths(&long.requests[n..]);
            assert_eq!(same, stream.repeats());
        }
    }

    #[test]
    fn without_a_rate_there_is_one_pass() {
        let one = synthesise(&preset("chat").unwrap(), None).unwrap().head(1);
        let stream = Stream::replayed(one);
        assert_eq!((stream.most(), stream.head(9).requests.len()), (1, 1));
    }
}
