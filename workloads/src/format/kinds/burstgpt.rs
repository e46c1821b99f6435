//! BurstGPT: seconds since the first day, token counts, and a log type that tells conversations from API calls.
//! Releases have six columns, or eight with `Session ID` and `Elapsed time`.

use crate::format::clock::Unit;
use crate::format::kind::{Kind, Layout, Reader};
use crate::format::names::Slot;
use crate::format::time::TimeUnit;

pub(super) const FORMAT: Kind = Kind {
    name: "burstgpt",
    about: "BurstGPT, of six or eight columns",
    tells: |seen| seen.has_all(&["timestamp", "request_tokens", "response_tokens"]),
    reader: Reader::Table(Layout {
        names: &[(Slot::Class, "log_type")],
        unit: Unit::Known(TimeUnit::Seconds),
        // A response of 0 tokens is how the trace marks a failure.
        zero_output_failed: true,
        ..Layout::PLAIN
    }),
    writer: None,
};
