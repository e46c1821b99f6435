//! One branch of a request: tokens, and how many of them have been computed.
//!
//! There is no prefill phase and no decode phase. `todo` tokens are not computed yet: one when decoding, more when
//! prefilling or recomputing. Everything a policy may ask about a sequence is here.

use crate::request::{BlockKey, Content, RequestId, Token, mix};

/// Index of a sequence in the state; reused after it ends.
pub type SeqId = u32;

/// The place of a sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// In the queue.
    Waiting,
    /// In a worker's running list.
    Running,
    /// Computed, its KV given up again, until the rest of its group is computed too.
    Parked,
    /// Prefilled, its KV still on a prefill worker, until a decode worker pulls it.
    Bridge,
    /// Its KV is on the way to a decode worker.
    Moving,
    /// Ended, but still in its seat (static batches).
    Ended,
}

/// Tokens that a drafter expects to come next.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Draft {
    /// The tokens, where tokens are real.
    pub tokens: Vec<Token>,
    /// Those that the model will say too, where tokens are not real: known beforehand, as ends are.
    pub right: u32,
}

/// A sequence in the engine. What every iteration touches comes first, in one line of the cache.
#[derive(Debug, Clone)]
#[repr(C, align(64))]
pub struct Sequence {
    /// Tokens so far, prompt and generated.
    pub len: u32,
    /// Of these, tokens whose keys and values are in the cache.
    pub computed: u32,
    /// Tokens of it in a plan that has been submitted and not committed; 0 = free to be planned.
    pub in_flight: u32,
    /// Length at which it ends: known in simulation, otherwise the most it may reach.
    pub end: u32,
    /// Slots its table holds: it may be computed up to here without asking the allocator.
    pub slots: u32,
    /// Slots of its table that lie beyond its end, of all groups of layers.
    pub beyond: u32,
    /// Prompt length.
    pub prompt: u32,
    /// The most it ever had computed: tokens computed again below this are recomputation.
    pub reached: u32,
    /// Its place.
    pub place: Place,
    /// True if `end` is its actual end; else the latest one.
    pub fated: bool,
    /// True if it ends as soon as it is neither computed nor moved.
    pub cut: bool,
    /// Its place among its request's branches.
    pub branch: u16,
    /// Branches its request asks for.
    pub width: u16,
    /// True if its request's other branches exist.
    pub forked: bool,
    /// True if its request's branches go on together, by tokens that are chosen from outside (beam search).
    pub together: bool,
    /// True if it is computed and waits for its next token, until the rest of its group is computed too.
    pub held: bool,
    /// True if it has left the queue before.
    pub started: bool,
    /// Worker whose KV it holds.
    pub worker: u32,
    /// The request it answers.
    pub request: RequestId,
    /// Its request's group when it has several branches.
    pub group: u32,
    /// Higher goes first, where priority counts.
    pub priority: i32,
    /// Tokens drafted after `len`: they are computed together with the next one, and stay as far as the model says the
    /// same.
    pub drafted: u32,
    /// Order of arrival; kept through preemption, so that first come stays first.
    pub ticket: u64,
    /// Its prompt.
    pub content: Content,
    /// Tokens whose identity the content knows (0 when private).
    pub covered: u32,
    /// All tokens, when live; empty when simulated.
    pub tokens: Vec<Token>,
    /// The drafted tokens, as far as they are known.
    pub draft: Draft,
}

/// `Sequence::group` of a request with one branch.
pub const ALONE: u32 = u32::MAX;

impl Sequence {
    /// Tokens not computed yet and not in flight, drafted ones included.
    #[must_use]
    pub fn todo(&self) -> u32 {
        self.len + self.drafted - self.computed - self.in_flight
    }

    /// True if its next token extends a computed prompt by one.
    #[must_use]
    pub fn decodes(&self) -> bool {
        self.len - self.computed == 1 && self.computed >= self.prompt
    }

    /// True if the first `at` are all of its tokens, drafted ones included: what follows is sampled.
    #[must_use]
    pub fn samples_after(&self, at: u32) -> bool {
        at == self.len + self.drafted
    }

    /// Its tokens from `first`, which is no drafted one, up to `end`, which may be.
    pub fn tokens_in(&self, first: u32, end: u32) -> impl Iterator<Item = Token> + '_ {
        let own = &self.tokens[first as usize..end.min(self.len) as usize];
        let drafted = &self.draft.tokens[..end.saturating_sub(self.len) as usize];
        own.iter().chain(drafted).copied()
    }

    /// Leaves its first `n` drafted tokens.
    pub fn shorten_draft(&mut self, n: u32) {
        self.drafted = self.drafted.min(n);
        self.draft.right = self.draft.right.min(n);
        self.draft.tokens.truncate(n as usize);
    }

    /// True if it may be put into a plan now.
    #[must_use]
    pub fn free(&self) -> bool {
        self.in_flight == 0 && self.place == Place::Running
    }

    /// True if its request's other branches start when its prompt is computed.
    #[must_use]
    pub fn forks(&self) -> bool {
        self.width > 1 && !self.forked
    }

    /// Tokens generated.
    #[must_use]
    pub fn output(&self) -> u32 {
        self.len - self.prompt
    }

    /// True if block `index` of `size` tokens may be met by another sequence (its key is not this one's alone).
    #[must_use]
    pub fn is_shared_block(&self, index: u32, size: u32) -> bool {
        match self.content {
            Content::Private => false,
            Content::Blocks(_) => (index + 1) * size <= self.covered,
            Content::Tokens(_) => true,
        }
    }

    /// True if another sequence may ask for block `index` of `size` tokens once this sequence has ended: sequences with
    /// the same content, and the other branches of its request for the blocks they share.
    #[must_use]
    pub fn may_be_met(&self, index: u32, size: u32) -> bool {
        self.is_shared_block(index, size) || (self.width > 1 && (index + 1) * size <= self.prompt)
    }

    /// The key of its block `index` of `size` tokens after a block with key `parent`.
    #[must_use]
    pub fn block_key(&self, parent: BlockKey, index: u32, size: u32) -> BlockKey {
        match &self.content {
            Content::Blocks(ids) if (index + 1) * size <= self.covered => {
                ids.key(parent, index, size)
            }
            Content::Tokens(_) => {
                let at = (index * size) as usize;
                let tokens = &self.tokens[at..at + size as usize];
                tokens.iter().fold(parent, |key, &t| mix(key, u64::from(t)))
            }
            _ => {
                // The prompt is the same for all branches.
                let branch = if (index + 1) * size <= self.prompt { 0 } else { self.branch };
                let own = u64::from(self.request) << 32 | u64::from(branch) << 20;
                mix(own ^ 0x5eed, u64::from(index))
            }
        }
    }
}

#[cfg(test)]
pub(crate) mod testing {
    use super::*;

    /// A private sequence with a prompt of `len` tokens.
    pub(crate) fn sequence(len: u32) -> Sequence {
        Sequence {
            len,
            computed: 0,
            drafted: 0,
            draft: Draft::default(),
            in_flight: 0,
            end: len + 10_000,
            slots: 0,
            beyond: 0,
            prompt: len,
            reached: 0,
            place: Place::Waiting,
            fated: false,
            cut: false,
            branch: 0,
            width: 1,
            forked: false,
            together: false,
            held: false,
            started: false,
            worker: 0,
            request: 0,
            group: ALONE,
            priority: 0,
            ticket: 0,
            content: Content::Private,
            covered: 0,
            tokens: Vec::new(),
        }
    }
}
