//! Several clients under one schedule: each takes its share of the requests and sends them when the whole would have.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use workloads::{Arrival, Trace};

use crate::error::Error;

/// One of several clients, `i/n` with `i` from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Worker {
    /// Its number, from 0.
    pub index: u32,
    /// The number of clients.
    pub of: u32,
}

impl Worker {
    /// The requests of `trace` that it sends: every n-th of those that wait for no other request,
    /// with all that follow on them, and every n-th session whole.
    #[must_use]
    pub fn owns(self, trace: &Trace) -> Vec<bool> {
        let mut owner: Vec<u32> = Vec::with_capacity(trace.requests.len());
        let mut starts = 0;
        for request in &trace.requests {
            owner.push(match (request.session, request.arrival) {
                (Some(session), _) => session % self.of,
                // A turn that waits for a later one is refused when it is replayed.
                (None, Arrival::After { previous, .. }) => {
                    owner.get(previous as usize).copied().unwrap_or_default()
                }
                (None, Arrival::At(_)) => {
                    starts += 1;
                    (starts - 1) % self.of
                }
            });
        }
        owner.into_iter().map(|owner| owner == self.index).collect()
    }

    /// Its part of `whole` streams.
    #[must_use]
    pub fn part_of(self, whole: u32) -> u32 {
        whole / self.of + u32::from(self.index < whole % self.of)
    }
}

impl FromStr for Worker {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let numbers =
            text.split_once('/').and_then(|(i, n)| Some((i.parse().ok()?, n.parse().ok()?)));
        match numbers {
            Some((index, of)) if index < of => Ok(Self { index, of }),
            _ => Err(Error::Worker(text.to_owned())),
        }
    }
}

impl fmt::Display for Worker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.index, self.of)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::replay::{Due, Replay, ReplayOptions};

    /// Everything that comes due, each request ending at once.
    fn all(mut replay: Replay) -> Vec<Due> {
        let mut sent = Vec::new();
        while let Some(at) = replay.peek() {
            while let Some(due) = replay.next(at) {
                sent.push(due);
                replay.completed(due.request, due.at);
            }
        }
        assert!(replay.is_done());
        sent
    }

    #[test]
    fn shares_together_are_the_whole_at_the_same_times() {
        for preset in ["chat", "agentic"] {
            let spec = workloads::preset(preset).unwrap();
            let mut trace = workloads::synthesise(&spec, None).unwrap().head(200);
            trace.max_concurrent_sessions = None;
            let replay = || Replay::new(&trace, 2.0, ReplayOptions::default()).unwrap();
            let mut whole = all(replay());
            for of in [1, 2, 3, 7] {
                let part = |index| all(replay().share(&trace, Worker { index, of }));
                let mut parts: Vec<Due> = (0..of).flat_map(part).collect();
                parts.sort_unstable();
                whole.sort_unstable();
                assert_eq!(parts, whole, "{preset} by {of}");
                let (least, most) = (whole.len() / of as usize / 3, whole.len() * 3 / of as usize);
                assert!(
                    (0..of).all(|i| (least..=most).contains(&part(i).len())),
                    "{preset} by {of}"
                );
            }
        }
    }

    #[test]
    fn streams_are_shared_out_whole() {
        for (whole, of) in [(8, 3), (2, 5), (9, 9), (1024, 7)] {
            let sum: u32 = (0..of).map(|index| Worker { index, of }.part_of(whole)).sum();
            assert_eq!(sum, whole);
        }
        for bad in ["", "1", "3/3", "0/0", "-1/2", "a/b"] {
            assert!(bad.parse::<Worker>().is_err(), "{bad}");
        }
        assert_eq!("1/3".parse::<Worker>().unwrap().to_string(), "1/3");
    }
}
