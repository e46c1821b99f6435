//! Alibaba's Bailian traces of Qwen: seconds, hash ids of 16 tokens, and chats whose turns name the turn before.

use super::clock::Unit;
use super::layout::Layout;
use super::names::Slot;
use super::time::TimeUnit;

pub(crate) const LAYOUT: Layout = Layout {
    names: &[(Slot::Id, "chat_id"), (Slot::Parent, "parent_chat_id"), (Slot::Class, "type")],
    unit: Unit::Known(TimeUnit::Seconds),
    block_tokens: 16,
    ..Layout::PLAIN
};
