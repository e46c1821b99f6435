//! A client's request, and the identity of its tokens for the sharing of prefixes.
//!
//! The engine never needs text. Live, a prompt is token ids; simulated, it is a length and the identity of its
//! blocks, so that a million-token prompt costs nothing and prefix hits are still exact.

use std::sync::Arc;

/// The sender's name for a request; the engine hands it back in events.
pub type RequestId = u32;

/// A token of the model's vocabulary.
pub type Token = u32;

/// A request as it enters the engine.
#[derive(Debug, Clone)]
pub struct Request {
    /// The sender's name for it.
    pub id: RequestId,
    /// Prompt length, tokens; at least 1.
    pub input: u32,
    /// Most tokens it may generate.
    pub limit: u32,
    /// Tokens it will generate, where that is known beforehand: in simulation.
    pub fate: Option<u32>,
    /// Completions wanted (n); each becomes a sequence, forked when the prompt is computed.
    pub width: u16,
    /// Higher goes first where the queue or the victim choice looks at it.
    pub priority: i32,
    /// The prompt.
    pub content: Content,
}

/// The identity of a sequence's tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// Tokens that no other sequence has: only the sequence itself can meet its own blocks again.
    Private,
    /// Known by the identity of its blocks.
    Blocks(BlockIds),
    /// The tokens themselves.
    Tokens(Arc<[Token]>),
}

/// Identities of the blocks a request's tokens fall into, in blocks of the trace's own size.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlockIds {
    /// The whole trace's identities, shared by all its requests.
    pub table: Arc<[u64]>,
    /// This request's first entry.
    pub start: u32,
    /// Its number of entries.
    pub len: u32,
    /// Tokens per entry.
    pub block_tokens: u32,
}

/// Blocks of tokens with the same key hold the same tokens after the same history.
pub type BlockKey = u64;

/// The parent of a sequence's first block.
pub const ROOT: BlockKey = 0x6b6e_6565_0000_0001;

/// Mixes two words into a key (the finaliser of splitmix64 over their combination).
#[must_use]
pub fn mix(a: u64, b: u64) -> u64 {
    let mut z = a.rotate_left(23) ^ b.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

impl BlockIds {
    /// Tokens whose identity is known. The trace's last block may be only partly prompt; what follows the prompt
    /// inside it is generated and unknown, unless further entries show that the list runs on into the output.
    #[must_use]
    pub fn covered(&self, input: u32) -> u32 {
        let whole = self.len.saturating_mul(self.block_tokens);
        if whole >= input && whole - input < self.block_tokens { input } else { whole }
    }

    /// The key of block `index` of `size` tokens, after a block with key `parent`. A small block takes the identity
    /// of the trace block that holds its last token: identities include everything before them, so a block that
    /// straddles two is known by the later one. A large block is known by the last one it holds.
    #[must_use]
    pub fn key(&self, parent: BlockKey, index: u32, size: u32) -> BlockKey {
        let last = (u64::from(index) + 1) * u64::from(size) - 1;
        let entry = self.start as usize + (last / u64::from(self.block_tokens)) as usize;
        mix(mix(parent, self.table[entry]), u64::from(index))
    }
}
