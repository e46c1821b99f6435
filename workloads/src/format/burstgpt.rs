//! BurstGPT: seconds since the first day, token counts, and a log type that tells conversations from API calls.
//! Releases have six columns, or eight with `Session ID` and `Elapsed time`.

use super::TimeUnit;
use super::table::{Layout, Slot};

pub(crate) fn layout() -> Layout {
    let columns = [
        (Slot::Time, "timestamp"),
        (Slot::Input, "request_tokens"),
        (Slot::Output, "response_tokens"),
        (Slot::Class, "log_type"),
        (Slot::Session, "session_id"),
    ];
    // A response of 0 tokens is how the trace marks a failure.
    Layout { zero_output_failed: true, ..Layout::new(&columns, Some(TimeUnit::Seconds)) }
}
