//! The layout of each format whose requests are rows of a table.

use super::clock::Unit;
use super::known::Format;
use super::layout::Layout;
use super::time::TimeUnit;
use super::{bailian, blis, burstgpt, logs, mooncake};

/// The peculiarities of a format's rows. Formats that are no tables have readers of their own.
pub(super) fn of(format: Format) -> Layout {
    match format {
        Format::BurstGpt => burstgpt::LAYOUT,
        Format::Mooncake => mooncake::LAYOUT,
        Format::GuideLlm => mooncake::GUIDELLM,
        Format::Bailian => bailian::LAYOUT,
        Format::Blis => blis::LAYOUT,
        Format::LiteLlm => logs::LITELLM,
        Format::Langfuse => logs::LANGFUSE,
        Format::Otel => logs::OTEL,
        Format::OpenAi => logs::OPENAI,
        Format::Vidur => Layout { unit: Unit::Known(TimeUnit::Seconds), ..Layout::PLAIN },
        _ => Layout::PLAIN,
    }
}
