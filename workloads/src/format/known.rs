//! The formats of trace files that are known, and their names.

/// A trace file's format. The file itself tells whether it is CSV, JSON or Parquet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Format {
    /// Azure LLM inference traces of 2023, 2024 and 2025.
    Azure,
    /// BurstGPT, six or eight columns.
    BurstGpt,
    /// Mooncake and AIPerf: times in milliseconds.
    Mooncake,
    /// GuideLLM: Mooncake's columns, with times in seconds.
    GuideLlm,
    /// Alibaba's Bailian traces of Qwen.
    Bailian,
    /// BLIS's TraceV2.
    Blis,
    /// LLMServingSim's workloads (JSONL).
    LlmServingSim,
    /// Agent sessions of kv-cache-tester (JSON), or flattened to a line per turn (JSONL).
    Weka,
    /// Message lengths of conversations (CSV): `conv,turn,role,tokens`.
    ShareGpt,
    /// Vidur request traces: `arrived_at` in seconds.
    Vidur,
    /// Prompt and response lengths without times, in Vidur's column names.
    Lengths,
    /// LiteLLM's spend logs and callback payloads.
    LiteLlm,
    /// Observations exported from Langfuse.
    Langfuse,
    /// OpenTelemetry spans with the attributes of gen_ai.
    Otel,
    /// Answers of OpenAI's interface with their usage.
    OpenAi,
    /// A table with columns recognised by name.
    Csv,
    /// JSON with keys recognised by name.
    Json,
    /// Our own JSONL, schema `knee.trace/1`.
    Jsonl,
}

impl Format {
    /// All formats, in the order in which they are listed to people.
    pub const ALL: [Self; 18] = [
        Self::Azure,
        Self::BurstGpt,
        Self::Mooncake,
        Self::GuideLlm,
        Self::Bailian,
        Self::Blis,
        Self::LlmServingSim,
        Self::Weka,
        Self::ShareGpt,
        Self::Vidur,
        Self::Lengths,
        Self::LiteLlm,
        Self::Langfuse,
        Self::Otel,
        Self::OpenAi,
        Self::Csv,
        Self::Json,
        Self::Jsonl,
    ];

    /// Its name on a command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Azure => "azure",
            Self::BurstGpt => "burstgpt",
            Self::Mooncake => "mooncake",
            Self::GuideLlm => "guidellm",
            Self::Bailian => "bailian",
            Self::Blis => "blis",
            Self::LlmServingSim => "llmservingsim",
            Self::Weka => "weka",
            Self::ShareGpt => "sharegpt",
            Self::Vidur => "vidur",
            Self::Lengths => "lengths",
            Self::LiteLlm => "litellm",
            Self::Langfuse => "langfuse",
            Self::Otel => "otel",
            Self::OpenAi => "openai",
            Self::Csv => "csv",
            Self::Json => "json",
            Self::Jsonl => "jsonl",
        }
    }

    /// True of a format that is no table, and whose names are fixed.
    pub(super) fn is_own(self) -> bool {
        matches!(self, Self::Weka | Self::ShareGpt | Self::LlmServingSim | Self::Jsonl)
    }
}

impl std::str::FromStr for Format {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        let known = || Self::ALL.map(Self::name).join(", ");
        Self::ALL
            .into_iter()
            .find(|f| f.name() == s)
            .ok_or_else(|| format!("unknown format {s:?}: use one of {}", known()))
    }
}
