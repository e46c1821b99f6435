//! Vidur's request traces, and lengths without times under the same names.

use crate::format::clock::Unit;
use crate::format::kind::{Kind, Layout, Reader};
use crate::format::time::TimeUnit;

pub(super) const FORMAT: Kind = Kind {
    name: "vidur",
    about: "Vidur's request traces, times in seconds",
    tells: |seen| seen.has_all(&["arrived_at", "num_prefill_tokens", "num_decode_tokens"]),
    reader: Reader::Table(Layout { unit: Unit::Known(TimeUnit::Seconds), ..Layout::PLAIN }),
    writer: None,
};

pub(super) const LENGTHS: Kind = Kind {
    name: "lengths",
    about: "prompt and response lengths without times, in Vidur's names",
    tells: |seen| {
        seen.has_all(&["num_prefill_tokens", "num_decode_tokens"]) && seen.columns.len() <= 4
    },
    reader: Reader::Table(Layout::PLAIN),
    writer: None,
};
