//! BLIS's TraceV2: the CSV of a recorded or simulated run, times in microseconds, service classes, and groups of
//! prompts that begin alike.
//!
//! A prompt in a group is counted without the beginning it shares; outside of groups the server's count is the whole
//! one. BLIS replays failed requests like all others, and so they are kept.

use crate::format::identities::BLOCK_TOKENS;
use crate::format::kind::{Kind, Layout, Reader};
use crate::format::names::Slot;

pub(super) const FORMAT: Kind = Kind {
    name: "blis",
    about: "BLIS's TraceV2",
    tells: |seen| seen.has_all(&["prefix_group", "slo_class", "arrival_time_us"]),
    reader: Reader::Table(Layout {
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
    }),
    writer: None,
};
