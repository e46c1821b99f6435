//! Groups against a model that remembers every page by what it holds, as plainly as can be.

use std::collections::{HashMap, HashSet};

use proptest::prelude::*;

use super::*;
use crate::kv::waste::{Classes, Holding};
use crate::request::{Content, Token};
use crate::sequence::{Place, testing};

fn sequence(id: SeqId, prompt: &[Token], end: u32) -> Sequence {
    Sequence {
        end,
        place: Place::Running,
        fated: true,
        started: true,
        request: id,
        content: Content::Tokens(prompt.to_vec().into()),
        tokens: prompt.to_vec(),
        ..testing::sequence(prompt.len() as u32)
    }
}

/// Groups that all keep tokens: pages of one length times a few.
fn token_groups() -> impl Strategy<Value = Vec<Group>> {
    let reach = prop_oneof![Just(Reach::All), (1u32..30).prop_map(Reach::Window)];
    let group = (reach, prop_oneof![Just(1u32), Just(2), Just(3)]);
    (1u32..6, prop::collection::vec(group, 1..4)).prop_map(|(base, groups)| {
        let group = |&(reach, times): &(Reach, u32)| Group { reach, block: base * times };
        let mut groups: Vec<Group> = groups.iter().map(group).collect();
        groups.sort_by_key(|g| g.reach != Reach::All);
        groups
    })
}

/// Those, and states.
fn any_groups() -> impl Strategy<Value = Vec<Group>> {
    (token_groups(), 0usize..3).prop_map(|(mut groups, states)| {
        let block = groups[0].block;
        groups.extend(std::iter::repeat_n(Group { reach: Reach::State, block }, states));
        groups
    })
}

/// The tokens of a group that token `at` sees, before itself.
fn seen(group: &Group, at: u32) -> std::ops::Range<u32> {
    match group.reach {
        Reach::All => 0..at,
        Reach::Window(window) => (at + 1).saturating_sub(window)..at,
        Reach::State => 0..0,
    }
}

/// A step of a random life.
#[derive(Debug, Clone)]
enum Step {
    Open { prompt: Vec<Token>, more: u32, first: u32 },
    Compute { which: prop::sample::Index, tokens: u32 },
    Fork { which: prop::sample::Index },
    Close { which: prop::sample::Index, again: bool },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let which = any::<prop::sample::Index>;
    let prompt = prop::collection::vec(0u32..2, 1..60);
    let step = prop_oneof![
        2 => (prompt, 1u32..40, 1u32..60)
            .prop_map(|(prompt, more, first)| Step::Open { prompt, more, first }),
        6 => (which(), prop_oneof![3 => Just(1u32), 1 => 1u32..30])
            .prop_map(|(which, tokens)| Step::Compute { which, tokens }),
        1 => which().prop_map(|which| Step::Fork { which }),
        1 => (which(), any::<bool>()).prop_map(|(which, again)| Step::Close { which, again }),
    ];
    prop::collection::vec(step, 1..120)
}

/// The laws of memory, group by group and in sum.
fn check_memory(kv: &Paged, live: &HashMap<SeqId, Sequence>) -> Result<(), TestCaseError> {
    kv.check();
    let size = kv.pool.size();
    let mut owners: HashMap<u32, usize> = HashMap::new();
    let (mut used, mut allocated) = (0_u64, 0_u64);
    for (g, group) in kv.groups.iter().enumerate() {
        let (mut own, mut holds) = (0_u64, 0_u64);
        for (&id, seq) in live {
            let pages = &kv.tables[kv.at(id, g)];
            // A page belongs to one group.
            for &page in pages.held() {
                prop_assert_eq!(*owners.entry(page).or_insert(g), g, "a page of two groups");
            }
            own += pages.held().len() as u64 * u64::from(size);
            if !group.keeps_tokens() {
                prop_assert_eq!(pages.held().len(), 1, "one page a state");
                holds += u64::from(size);
                continue;
            }
            // The tokens that the next one sees are there.
            for token in seen(group, seq.computed) {
                let index = token / group.block;
                prop_assert!(index >= pages.first, "token {token} is seen by {}", seq.computed);
            }
            // A page is behind no longer than until the page after is taken.
            let full = seq.computed - seq.computed % group.block;
            let needed =
                if group.reach == Reach::All { 0 } else { seen(group, full).start / group.block };
            let due = full == seq.computed && pages.first + 1 == needed;
            prop_assert!(pages.first == needed || due, "{} of {needed} pages behind", pages.first);
            holds += u64::from((seq.computed - pages.first * group.block) * (size / group.block));
        }
        prop_assert!(holds <= own, "used + waste = allocated in group {g}");
        (used, allocated) = (used + holds, allocated + own);
    }
    let usage = kv.usage();
    let held = live.values().map(|seq| u64::from(seq.computed)).sum();
    let beyond = live.iter().map(|(&id, seq)| u64::from(kv.beyond(id, seq.end))).sum();
    let classes = Classes::from(Holding { usage, held, beyond, refused: false });
    prop_assert_eq!(classes.used, used - u64::from(usage.shared));
    prop_assert_eq!(owners.len() as u32 * size, usage.taken, "pages in use + free = pool");
    prop_assert!(u64::from(usage.taken) <= allocated);
    prop_assert_eq!(classes.to_array().iter().sum::<u64>(), u64::from(usage.capacity));
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    /// Sequences do anything in a small pool: memory is accounted for, and no token misses those it sees.
    #[test]
    fn no_page_is_lost_or_left(
        groups in any_groups(), pages in 4u32..60, cache in any::<bool>(), steps in steps(), chunk in 5u32..40,
    ) {
        let size = crate::kv::page_slots(&groups);
        let mut kv = Paged::grouped(pages * size, &groups, chunk, cache);
        let mut live: HashMap<SeqId, Sequence> = HashMap::new();
        let mut ids: Vec<SeqId> = Vec::new();
        for (step, next) in steps.into_iter().zip(0u32..) {
            match step {
                Step::Open { prompt, more, first } => {
                    let mut seq = sequence(next, &prompt, prompt.len() as u32 + more);
                    if let Ok(opened) = kv.open(next, &seq, first.min(chunk), 0) {
                        seq.computed = opened.hit;
                        seq.slots = opened.slots;
                        live.insert(next, seq);
                        ids.push(next);
                    }
                }
                Step::Compute { which, tokens } if !ids.is_empty() => {
                    let id = ids[which.index(ids.len())];
                    let seq = live.get_mut(&id).unwrap();
                    let n = tokens.min(chunk).min(seq.len - seq.computed);
                    if n > 0 && kv.grow(id, seq, seq.computed + n).is_ok() {
                        let before = seq.computed;
                        seq.computed += n;
                        seq.reached = seq.reached.max(seq.computed);
                        kv.commit(id, seq, before);
                        if seq.computed == seq.len && seq.len < seq.end {
                            seq.len += 1;
                            seq.tokens.push(next % 2);
                        }
                    }
                }
                Step::Fork { which } if !ids.is_empty() => {
                    let parent = ids[which.index(ids.len())];
                    let child = live[&parent].clone();
                    if kv.fork(parent, next, &child, 0).is_ok() {
                        live.insert(next, child);
                        ids.push(next);
                    }
                }
                Step::Close { which, again } if !ids.is_empty() => {
                    let id = ids.swap_remove(which.index(ids.len()));
                    let seq = live.remove(&id).unwrap();
                    kv.close(id, &seq, again);
                }
                _ => {}
            }
            check_memory(&kv, &live)?;
        }
        for id in ids {
            kv.close(id, &live[&id], false);
        }
        let usage = kv.usage();
        prop_assert_eq!((usage.taken, usage.shared, usage.states, usage.behind), (0, 0, 0, 0));
    }

    /// With room for all, a beginning is found where each group has computed, ever, all pages that its next token sees:
    /// remembered by their group and every token up to their end.
    #[test]
    fn a_hit_is_a_hit_in_every_group(
        groups in token_groups(),
        prompts in prop::collection::vec((prop::collection::vec(0u32..2, 1..90), 1u32..50), 1..12),
    ) {
        let size = crate::kv::page_slots(&groups);
        let mut kv = Paged::grouped(5000 * size, &groups, 50, true);
        let mut known: HashSet<(usize, Vec<Token>)> = HashSet::new();
        for (id, (prompt, chunk)) in (0u32..).zip(prompts) {
            let mut seq = sequence(id, &prompt, prompt.len() as u32);
            let complete = |&end: &u32| groups.iter().enumerate().all(|(g, group)| {
                seen(group, end).all(|token| {
                    let until = (token / group.block + 1) * group.block;
                    until <= end && known.contains(&(g, prompt[..until as usize].to_vec()))
                })
            });
            let ends = (0..seq.len).rev().filter(|end| end % size == 0);
            let want = ends.clone().find(complete).unwrap_or(0);
            // Layers that see one token alone would take any beginning; a page of it must be known all the same.
            prop_assert_eq!(kv.lookup(&seq), want);
            let opened = kv.open(id, &seq, chunk, 0).unwrap();
            prop_assert_eq!(opened.hit, want);
            seq.computed = want;
            while seq.computed < seq.len {
                let before = seq.computed;
                let n = chunk.min(seq.len - before);
                kv.grow(id, &seq, before + n).unwrap();
                seq.computed += n;
                for (g, group) in groups.iter().enumerate() {
                    for page in before / group.block..seq.computed / group.block {
                        let until = ((page + 1) * group.block) as usize;
                        known.insert((g, prompt[..until].to_vec()));
                    }
                }
                kv.commit(id, &seq, before);
            }
            if id % 2 == 0 {
                kv.close(id, &seq, id % 4 == 0);
            }
            kv.check();
        }
    }
}
