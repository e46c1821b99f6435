//! The configuration to run next: screening on a part of the trace, racing on more of it, proof on all of it.
//!
//! Capacity costs some ten runs of the trace; a discard costs one run of a part of it. So:
//! *successive halving* over the head of the trace, and on each head a *race*: a candidate is first
//! tried at the rate that the best of its group holds, less a margin that shrinks as heads grow. A
//! candidate that fails there is out. The survivors are measured on the next head; on the whole
//! trace the margin is zero and only what beats the best by a grid step is measured fully. The
//! leader is then *polished*: its neighbours race against it, and theirs against whichever of them
//! wins.
//!
//! A *group* is a race of its own: what is found in it depends on nothing outside it, so it is the same whatever else is
//! searched. Its members take the same device and GPUs, so that more requests/s are better by every objective. Each
//! group has the length of trace that it needs: where requests are too few for the rates it meets, the trace is made
//! longer, as far as it can be.
//!
//! Work proceeds in waves whose members depend on earlier results only, never on timing, so that
//! every number of threads makes the same runs. [`exhaustive`] also measures the candidates that
//! screening dropped; [`random`] (for regret) measures as many as fit in a given amount of work.

use crate::contest::entry::{Candidate, Entry};
use halving::Halving;
use rayon::prelude::*;
use tally::Tally;

mod contenders;
mod halving;
mod tally;

pub use contenders::{Contest, Found, Group, Near, RUNGS, Rung};

/// Successive halving over `rungs` with a race on each, then polishing: every group by itself.
#[must_use]
pub fn halving(contest: &Contest<'_>, rungs: &[Rung]) -> Found {
    each_group(contest, Found::nothing(contest), |race| race.halve(rungs))
}

/// Goes on from `found`: measures every candidate in full that was dropped on the way, and polishes again.
#[must_use]
pub fn exhaustive(contest: &Contest<'_>, found: Found) -> Found {
    each_group(contest, found, |race| race.measure_the_rest())
}

/// Races the members of every group of `found`.
fn each_group(
    contest: &Contest<'_>,
    found: Found,
    run: impl Fn(&mut Halving<'_, '_>) + Sync,
) -> Found {
    let count = found.entries.iter().map(|e| e.candidate.group + 1).max().unwrap_or(0);
    let mut members: Vec<Vec<usize>> = vec![Vec::new(); count];
    for (i, entry) in found.entries.iter().enumerate() {
        members[entry.candidate.group].push(i);
    }
    let tally = Tally::new(contest.watch.progress, found.entries.len());
    let raced: Vec<_> = (members.par_iter().enumerate())
        .with_max_len(1)
        .filter(|(_, own)| !own.is_empty())
        .map(|(group, own)| {
            let entries = own.iter().map(|i| found.entries[*i].clone()).collect();
            let known = found.groups.get(group).copied().flatten();
            let mut race = Halving::new(contest, &tally, entries, known.map(|g| g.head));
            run(&mut race);
            (group, race.finish())
        })
        .collect();
    let mut all = Found { groups: vec![None; count], ..found };
    all.interrupted = contest.watch.cancelled();
    for (group, (entries, Group { head, best })) in raced {
        let own = &mut members[group];
        for (n, entry) in entries.into_iter().enumerate() {
            match own.get(n) {
                Some(at) => all.entries[*at] = entry,
                None => {
                    own.push(all.entries.len());
                    all.entries.push(entry);
                }
            }
        }
        all.groups[group] = Some(Group { head, best: best.map(|b| own[b]) });
    }
    all
}

/// Measures candidates drawn uniformly without replacement until `work` requests were simulated, all as one group.
#[must_use]
pub fn random(contest: &Contest<'_>, seed: u64, work: u64) -> Found {
    let mut order: Vec<usize> = (0..contest.candidates.len()).collect();
    // A hash per candidate is a uniform permutation that needs no state.
    order.sort_by_key(|i| splitmix(seed ^ splitmix(*i as u64)));
    let one = |i: &usize| Candidate { group: 0, ..contest.candidates[*i].clone() };
    let entries: Vec<Entry> = order.iter().map(one).map(Entry::new).collect();
    let tally = Tally::new(contest.watch.progress, entries.len());
    let mut race = Halving::new(contest, &tally, entries, None);
    race.measure_some(work);
    let (entries, group) = race.finish();
    Found { entries, groups: vec![Some(group)], interrupted: contest.watch.cancelled() }
}

fn splitmix(mut x: u64) -> u64 {
    x = x.wrapping_add(0x9E37_79B9_7F4A_7C15);
    x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests;
