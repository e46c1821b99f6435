//! Groups of layers whose pages are kept alike, and the pages of a sequence in each as a function of its tokens.
//!
//! As vLLM's hybrid KV cache manager has it: a page has the same bytes in every group, all groups take theirs from one
//! pool, and a sequence has a page list per group.

/// The tokens that a group's layers keep.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reach {
    /// All of them.
    All,
    /// The latest, as many as the next token sees, itself included.
    Window(u32),
    /// None: one state, for a sequence of any length.
    State,
}

/// Layers that share a page list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Group {
    /// The tokens they keep.
    pub reach: Reach,
    /// Tokens of a page; a state takes one page at any size.
    pub block: u32,
}

impl Group {
    /// Layers that keep every token, in pages of `block` tokens.
    #[must_use]
    pub fn all(block: u32) -> Self {
        Self { reach: Reach::All, block }
    }

    /// True if its pages hold tokens.
    #[must_use]
    pub fn keeps_tokens(&self) -> bool {
        self.reach != Reach::State
    }

    /// Whole pages that a token may see before the page it is in; `u32::MAX` where it sees all.
    #[must_use]
    pub fn kept(&self) -> u32 {
        match self.reach {
            Reach::All | Reach::State => u32::MAX,
            Reach::Window(window) => window.saturating_sub(1).div_ceil(self.block),
        }
    }

    /// The end of the page list of a sequence of `len` tokens.
    #[must_use]
    pub fn end(&self, len: u32) -> u32 {
        if self.keeps_tokens() { len.div_ceil(self.block) } else { 1 }
    }

    /// Pages at the front of that list that no token sees any more, once `computed` tokens are; as of the last full
    /// page.
    #[must_use]
    pub fn behind(&self, computed: u32) -> u32 {
        (computed / self.block).saturating_sub(self.kept())
    }

    /// The tokens that are computed when page `index` falls behind.
    #[must_use]
    pub fn leaves_at(&self, index: u32) -> u32 {
        (index + 1).saturating_add(self.kept()).saturating_mul(self.block)
    }

    /// Pages that a sequence of at most `len` tokens ever holds, of which an iteration computes at most `chunk`.
    #[must_use]
    pub fn most(&self, len: u32, chunk: u32) -> u32 {
        match self.reach {
            Reach::All | Reach::State => self.end(len),
            Reach::Window(_) => {
                // A chunk begins anywhere in a page.
                let ahead = chunk.div_ceil(self.block).saturating_add(1);
                self.end(len).min(self.kept().saturating_add(ahead))
            }
        }
    }
}

/// The length of the longest sequence that `pages` pages hold, an iteration of which computes at most `chunk` tokens.
#[must_use]
pub fn longest(groups: &[Group], pages: u32, chunk: u32) -> u32 {
    let fits = |len: u32| {
        groups.iter().map(|g| u64::from(g.most(len, chunk))).sum::<u64>() <= u64::from(pages)
    };
    let (mut fit, mut over) = (0_u32, u32::MAX);
    while fit + 1 < over {
        let middle = fit + (over - fit) / 2;
        if fits(middle) { fit = middle } else { over = middle }
    }
    fit
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Token by token: no page that a later token sees is behind, and every page behind is seen by none.
        #[test]
        fn a_window_loses_what_no_token_sees(window in 1u32..70, block in 1u32..20, computed in 0u32..300) {
            let group = Group { reach: Reach::Window(window), block };
            let first_seen = (computed + 1).saturating_sub(window);
            let behind = group.behind(computed);
            prop_assert!(behind * block <= first_seen, "the next token sees what is kept");
            // At most a page more than at the last full page would be out of reach.
            let full = computed - computed % block;
            prop_assert_eq!(behind, (full + 1).saturating_sub(window) / block);
            for index in 0..behind {
                prop_assert!(group.leaves_at(index) <= full);
            }
            prop_assert!(group.leaves_at(behind) > full);
        }

        #[test]
        fn the_longest_fits_and_one_more_does_not(
            window in 1u32..100, block in 1u32..20, states in 0usize..3, pages in 0u32..400, chunk in 1u32..200,
        ) {
            let mut groups = vec![Group::all(block), Group { reach: Reach::Window(window), block }];
            groups.extend(std::iter::repeat_n(Group { reach: Reach::State, block }, states));
            let need = |len| groups.iter().map(|g| g.most(len, chunk)).sum::<u32>();
            let len = longest(&groups, pages, chunk);
            prop_assert!(len == 0 || need(len) <= pages);
            prop_assert!(need(len + 1) > pages);
            prop_assert_eq!(longest(&[Group::all(block)], pages, chunk), pages * block);
        }
    }
}
