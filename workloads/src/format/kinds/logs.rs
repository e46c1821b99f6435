//! Logs of proxies and of observability tools: rows of many kinds, of which calls with token counts are requests.

use crate::format::clock::Unit;
use crate::format::kind::{Kind, Layout, Reader};
use crate::format::names::Slot;
use crate::format::time::TimeUnit;

/// LiteLLM: rows of its spend logs, and the payloads of its callbacks, whose times are seconds since 1970.
pub(super) const LITELLM: Kind = Kind {
    name: "litellm",
    about: "LiteLLM's spend logs and callback payloads",
    tells: |seen| {
        let costs = ["call_type", "spend", "response_cost"];
        seen.has("start_time") && costs.iter().any(|name| seen.has(name))
    },
    reader: Reader::Table(Layout {
        names: &[(Slot::Status, "status")],
        unit: Unit::Known(TimeUnit::Seconds),
        log: true,
        ..Layout::PLAIN
    }),
    writer: None,
};

/// Langfuse: exported observations, of which generations are requests.
pub(super) const LANGFUSE: Kind = Kind {
    name: "langfuse",
    about: "observations exported from Langfuse",
    tells: |seen| {
        let observed = seen.has("usage_details") || seen.within("usage_details.");
        seen.has_all(&["trace_id", "start_time"]) && (observed || seen.has("type"))
    },
    reader: Reader::Table(Layout {
        names: &[(Slot::Kind, "type"), (Slot::Status, "level")],
        log: true,
        ..Layout::PLAIN
    }),
    writer: None,
};

/// OpenTelemetry: spans as OTLP's JSON has them, or flattened, with the attributes of gen_ai or of OpenInference.
pub(super) const OTEL: Kind = Kind {
    name: "otel",
    about: "OpenTelemetry spans with the attributes of gen_ai",
    tells: |seen| seen.within("gen_ai.") || seen.within("llm.") || seen.has("span_id"),
    reader: Reader::Table(Layout {
        names: &[
            (Slot::Status, "status.code"),
            (Slot::Status, "status"),
            (Slot::Kind, "attributes.openinference.span.kind"),
        ],
        log: true,
        ..Layout::PLAIN
    }),
    writer: None,
};

/// Answers of OpenAI's interface with their usage: seconds since 1970.
pub(super) const OPENAI: Kind = Kind {
    name: "openai",
    about: "answers of OpenAI's interface with their usage",
    tells: |seen| {
        let dated = seen.has("created") || seen.has("created_at") || seen.within(".created");
        seen.within("usage.") && dated
    },
    reader: Reader::Table(Layout {
        unit: Unit::Known(TimeUnit::Seconds),
        log: true,
        ..Layout::PLAIN
    }),
    writer: None,
};
