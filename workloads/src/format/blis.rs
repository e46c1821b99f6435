//! BLIS's TraceV2: the CSV of a recorded or simulated run, times in microseconds, service classes, and groups of
//! prompts that begin alike.
//!
//! A prompt in a group is counted without the beginning it shares; outside of groups the server's count is the whole
//! one. BLIS replays failed requests like all others, and so they are kept.

use super::identities::BLOCK_TOKENS;
use super::layout::Layout;
use super::names::Slot;

pub(crate) const LAYOUT: Layout = Layout {
    names: &[
        (Slot::Class, "slo_class"),
        (Slot::Status, "status"),
        (Slot::PrefixGroup, "prefix_group"),
        (Slot::PrefixLength, "prefix_length"),
        (Slot::ServerInput, "server_input_tokens"),
    ],
    block_tokens: BLOCK_TOKENS,
    keeps_failed: true,
    ..Layout::PLAIN
};
