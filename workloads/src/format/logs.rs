//! Logs of proxies and of observability tools: rows of many kinds, of which calls with token counts are requests.

use super::clock::Unit;
use super::layout::Layout;
use super::names::Slot;
use super::time::TimeUnit;

/// LiteLLM: rows of its spend logs, and the payloads of its callbacks, whose times are seconds since 1970.
pub(crate) const LITELLM: Layout = Layout {
    names: &[(Slot::Status, "status")],
    unit: Unit::Known(TimeUnit::Seconds),
    log: true,
    ..Layout::PLAIN
};

/// Langfuse: exported observations, of which generations are requests.
pub(crate) const LANGFUSE: Layout =
    Layout { names: &[(Slot::Kind, "type"), (Slot::Status, "level")], log: true, ..Layout::PLAIN };

/// OpenTelemetry: spans as OTLP's JSON has them, or flattened, with the attributes of gen_ai or of OpenInference.
pub(crate) const OTEL: Layout = Layout {
    names: &[
        (Slot::Status, "status.code"),
        (Slot::Status, "status"),
        (Slot::Kind, "attributes.openinference.span.kind"),
    ],
    log: true,
    ..Layout::PLAIN
};

/// Answers of OpenAI's interface with their usage: seconds since 1970.
pub(crate) const OPENAI: Layout =
    Layout { unit: Unit::Known(TimeUnit::Seconds), log: true, ..Layout::PLAIN };
