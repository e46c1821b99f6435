//! BurstGPT: seconds since the first day, token counts, and a log type that tells conversations from API calls.
//! Releases have six columns, or eight with `Session ID` and `Elapsed time`.

use super::clock::Unit;
use super::layout::Layout;
use super::names::Slot;
use super::time::TimeUnit;

pub(crate) const LAYOUT: Layout = Layout {
    names: &[(Slot::Class, "log_type")],
    unit: Unit::Known(TimeUnit::Seconds),
    // A response of 0 tokens is how the trace marks a failure.
    zero_output_failed: true,
    ..Layout::PLAIN
};
