//! Vidur: request traces (`arrived_at` in seconds) and files of lengths without times.

use super::TimeUnit;
use super::table::{Layout, Slot};

pub(crate) fn layout() -> Layout {
    let columns = [
        (Slot::Time, "arrived_at"),
        (Slot::Input, "num_prefill_tokens"),
        (Slot::Output, "num_decode_tokens"),
    ];
    Layout::new(&columns, Some(TimeUnit::Seconds))
}

pub(crate) fn lengths() -> Layout {
    Layout::new(&[(Slot::Input, "num_prefill_tokens"), (Slot::Output, "num_decode_tokens")], None)
}
