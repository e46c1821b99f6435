//! The order of the queue: first come, first served, unless another is clearly worth it.
//!
//! Another order carries more by letting some requests wait. It wins only where it carries more than the winner is
//! thought to at the upper end of its interval, and the slowest request in a thousand waits no longer than twice the
//! target for the first token. Else it is told of, with what it does to that request.

use super::tuning::{Rival, Tuning};
use crate::contest::entry::Candidate;
use crate::contest::waves::Group;
use crate::knee::place_of;
use crate::result::Reordered;
use engine::config::QueueOrder;
use loadgen::Metric;

/// The most that the slowest request may wait, in targets.
const TARGETS: f64 = 2.0;

impl Tuning<'_, '_> {
    /// Gives the winner's queue another order, or tells what that would do.
    pub(super) fn reorder(&mut self) {
        let Some(best) = self.best else { return };
        let Candidate { device, config, .. } = self.found.entries[best].candidate.clone();
        let own = self.question.demand.is_none() && config.queue == QueueOrder::Fcfs;
        let queues = self.sensitivity.iter().filter(|n| own && n.knob == "queue");
        let more = queues.filter(|n| n.capacity_rps > n.winner_rps * 1.0001);
        let most = more.max_by(|a, b| a.capacity_rps.total_cmp(&b.capacity_rps));
        let Some((order, rps)) = most.map(|n| (n.to.clone(), n.capacity_rps)) else { return };
        let mut other = config;
        let candidate = match other.set("queue", &order) {
            Ok(()) => self.candidate(device, other),
            Err(_) => None,
        };
        let Some(candidate) = candidate else { return };
        let Some(at) = self.measured(&Rival { candidate, good: place_of(rps) }) else { return };
        if self.worth(at) <= self.worth(best) {
            return;
        }
        let Some(why) = self.not_worth_it(at, best) else {
            let (head, group) = (self.found.head(at), self.found.entries[at].candidate.group);
            self.found.groups[group] = Some(Group { head, best: Some(at) });
            (self.best, self.sensitivity) = (Some(at), self.neighbours(at));
            return;
        };
        self.reordered = Some(Reordered {
            at: self.operating(at),
            slowest_ttft_ms: self.slowest(at),
            winner_slowest_ttft_ms: self.slowest(best),
            why,
        });
    }

    /// Why entry `at`, which carries more than `best`, is not the winner for it; none if it is.
    fn not_worth_it(&mut self, at: usize, best: usize) -> Option<String> {
        if let Some(trust) = self.confidence(best) {
            let high = trust.high_rps;
            self.trusted.insert(best, trust);
            if self.found.rate(at) <= high {
                return Some("the gain is within the interval of the capacity".to_owned());
            }
        }
        let targets = self.question.slo.targets().iter().filter(|t| t.metric == Metric::Ttft);
        let limit = targets.map(|t| t.limit.as_secs_f64() * 1e3).min_by(f64::total_cmp)?;
        let holds = self.slowest(at).is_some_and(|ms| ms <= TARGETS * limit);
        (!holds).then(|| {
            "the slowest request in a thousand waits more than twice the target".to_owned()
        })
    }

    /// The TTFT of the slowest request in a thousand of entry `i` at its capacity, ms.
    fn slowest(&self, i: usize) -> Option<f64> {
        let probe = self.found.entries[i].probe(self.found.head(i), self.found.good(i)?)?;
        probe.observation.summary.stats(Metric::Ttft).p999.millis()
    }
}
