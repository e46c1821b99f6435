//! The contenders of a search in waves, and the schedule by which they meet.

use crate::contest::entry::{Candidate, Entry};
use crate::contest::progress::Watch;
use crate::knee::verdict;
use crate::knee::{FLOOR, Probe, rate_at};
use crate::subject::Subject;

/// The result of a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Group {
    /// Requests on which its winner is known: the whole trace or more, unless interrupted.
    pub head: usize,
    /// Index of the best entry; `None` where nothing holds the SLO.
    pub best: Option<usize>,
}

/// The result of a search.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Found {
    /// Every candidate, in the order given, then what polishing tried.
    pub entries: Vec<Entry>,
    /// Each group, by number; `None` where it has no member.
    pub groups: Vec<Option<Group>>,
    /// True where it was told to end before its time.
    pub interrupted: bool,
}

impl Found {
    /// Nothing, yet, of `contest`'s candidates.
    #[must_use]
    pub fn nothing(contest: &Contest<'_>) -> Self {
        let entries = contest.candidates.iter().cloned().map(Entry::new).collect();
        Self { entries, ..Self::default() }
    }

    /// The group that entry `i` belongs to.
    #[must_use]
    pub fn group_of(&self, i: usize) -> Option<&Group> {
        self.groups.get(self.entries[i].candidate.group)?.as_ref()
    }

    /// Requests on which entry `i` is compared with the others of its group.
    #[must_use]
    pub fn head(&self, i: usize) -> usize {
        self.group_of(i).map_or(0, |g| g.head)
    }

    /// The highest place that entry `i` holds there, if it is known.
    #[must_use]
    pub fn good(&self, i: usize) -> Option<i32> {
        self.entries[i].good(self.head(i))
    }

    /// The same as a rate, requests/s; 0 where it is not known.
    #[must_use]
    pub fn rate(&self, i: usize) -> f64 {
        self.good(i).map_or(0.0, rate_at)
    }

    /// The best entry of every group that has one.
    pub fn bests(&self) -> impl Iterator<Item = usize> {
        self.groups.iter().flatten().filter_map(|g| g.best)
    }

    /// Takes in what was found of other groups.
    pub fn absorb(&mut self, other: Self) {
        let offset = self.entries.len();
        self.entries.extend(other.entries);
        self.groups.resize(self.groups.len().max(other.groups.len()), None);
        for (own, new) in self.groups.iter_mut().zip(other.groups) {
            *own = new.map(|g| Group { best: g.best.map(|b| b + offset), ..g }).or(*own);
        }
        self.interrupted |= other.interrupted;
    }

    /// Of everything that missed the SLO on an empty machine, the run that came closest: its candidate, and the run.
    #[must_use]
    pub fn nearest_miss(&self) -> Option<(usize, &Probe)> {
        let floors = self.entries.iter().enumerate().filter_map(|(i, e)| {
            let floor = e.probes.iter().filter(|p| p.k == FLOOR && !p.passes());
            Some((i, floor.max_by_key(|p| p.head)?))
        });
        // Only runs of the same head compare.
        floors.min_by(|a, b| {
            let worst = |p: &Probe| verdict::worst(&p.observation);
            b.1.head.cmp(&a.1.head).then(worst(a.1).total_cmp(&worst(b.1)))
        })
    }

    /// Runs made at a rate.
    #[must_use]
    pub fn trials(&self) -> u64 {
        self.entries.iter().map(|e| e.probes.len() as u64).sum()
    }

    /// Requests simulated in them.
    #[must_use]
    pub fn requests(&self) -> u64 {
        self.entries.iter().flat_map(|e| &e.probes).map(|p| p.observation.summary.requests).sum()
    }
}

/// The neighbours of a candidate: one knob more or less.
pub type Near<'a> = &'a (dyn Fn(&Candidate) -> Vec<Candidate> + Sync);

/// The candidates, and the devices that they run on.
pub struct Contest<'a> {
    /// One evaluation per device; all replay the same trace.
    pub devices: &'a [&'a dyn Subject],
    /// The candidates.
    pub candidates: Vec<Candidate>,
    /// The neighbours that winners are polished with; those of other groups are left to them.
    pub near: Near<'a>,
    /// Whom to tell, and when to end.
    pub watch: Watch<'a>,
}

/// One head of the halving.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rung {
    /// Share of the trace.
    pub share: f64,
    /// Grid steps that a survivor may be below the group's best.
    pub margin: i32,
    /// Most survivors per group.
    pub keep: usize,
}

/// The default schedule. Short heads flatter what fills up slowly (seats, KV), hence wide margins at first.
pub const RUNGS: &[Rung] = &[
    Rung { share: 0.125, margin: 36, keep: 48 },
    Rung { share: 0.25, margin: 22, keep: 24 },
    Rung { share: 0.5, margin: 10, keep: 12 },
    Rung { share: 1.0, margin: 0, keep: usize::MAX },
];
