//! Alibaba's Bailian traces of Qwen: seconds, hash ids of 16 tokens, and chats whose turns name the turn before.

use crate::format::clock::Unit;
use crate::format::kind::{Kind, Layout, Reader};
use crate::format::names::Slot;
use crate::format::time::TimeUnit;

pub(super) const FORMAT: Kind = Kind {
    name: "bailian",
    about: "Alibaba's Bailian traces of Qwen",
    tells: |seen| seen.has_all(&["chat_id", "parent_chat_id", "turn"]),
    reader: Reader::Table(Layout {
        names: &[(Slot::Id, "chat_id"), (Slot::Parent, "parent_chat_id"), (Slot::Class, "type")],
        unit: Unit::Known(TimeUnit::Seconds),
        block_tokens: 16,
        ..Layout::PLAIN
    }),
    writer: None,
};
