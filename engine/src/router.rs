//! The choice of a replica for a request.

use crate::config::RouterKind;
use crate::engine::Engine;
use crate::request::{Content, Request, mix};

/// Tokens of a prompt that decide its replica under [`RouterKind::PrefixAffine`].
const PREFIX_TOKENS: u32 = 256;

/// Load beyond which a replica is passed over although it knows the prefix: this much above the lightest, in tokens
/// to compute, and twice as much in proportion.
const OVERLOAD_TOKENS: u64 = 16_384;

/// Spreads requests over replicas.
#[derive(Debug)]
pub struct Router {
    kind: RouterKind,
    next: usize,
}

impl Router {
    /// A router of this kind.
    #[must_use]
    pub fn new(kind: RouterKind) -> Self {
        Self { kind, next: 0 }
    }

    /// The one of `replicas` replicas for `request`, by the tokens that each has still to compute.
    pub fn pick(
        &mut self,
        request: &Request,
        replicas: usize,
        load: impl Fn(usize) -> u64,
    ) -> usize {
        let lightest = || (0..replicas).min_by_key(|&i| load(i)).unwrap_or(0);
        match self.kind {
            RouterKind::RoundRobin => {
                self.next = (self.next + 1) % replicas;
                self.next
            }
            RouterKind::LeastLoaded => lightest(),
            RouterKind::PrefixAffine => {
                let Some(key) = prefix_key(&request.content) else { return lightest() };
                let home = (key % replicas as u64) as usize;
                let least = lightest();
                let overloaded = load(home) > 2 * load(least) + OVERLOAD_TOKENS;
                if overloaded { least } else { home }
            }
        }
    }
}

/// The rank of attention that a request of their replica goes to: the one with the fewest requests, where one that waits
/// counts as four that run (vLLM's `DPLBAsyncMPClient`).
#[must_use]
pub fn rank(ranks: &[Engine]) -> usize {
    let requests = |i: &usize| 4 * ranks[*i].state.queued() + ranks[*i].state.running();
    (0..ranks.len()).min_by_key(requests).unwrap_or(0)
}

/// A key of the beginning of a prompt, if another request could have the same.
fn prefix_key(content: &Content) -> Option<u64> {
    match content {
        Content::Private => None,
        Content::Blocks(ids) => {
            let blocks = (PREFIX_TOKENS.div_ceil(ids.block_tokens)).min(ids.len) as usize;
            let at = ids.start as usize;
            let key = |k, &id: &u64| mix(k, id);
            (blocks > 0).then(|| ids.table[at..at + blocks].iter().fold(0, key))
        }
        Content::Tokens(tokens) => {
            let head = &tokens[..tokens.len().min(PREFIX_TOKENS as usize)];
            Some(head.iter().fold(0, |k, &t| mix(k, u64::from(t))))
        }
    }
}
