//! The messages on the wire: OpenAI's completions and chat completions, with vLLM's extensions that make sense here.
//!
//! Fields that are not known are ignored, as both do. Fields that are known, would change the answer and are not
//! supported are kept here, so that they can be refused.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::forms::{Content, Filled, Prompt, StopStrings};
use crate::request::Token;

/// The fields that completions and chat completions have in common.
#[derive(Debug, Clone, Default, Deserialize)]
pub(super) struct Common {
    pub(super) model: Option<String>,
    pub(super) max_tokens: Option<u32>,
    pub(super) min_tokens: Option<u32>,
    pub(super) n: Option<u16>,
    pub(super) temperature: Option<f32>,
    pub(super) top_p: Option<f32>,
    pub(super) top_k: Option<i64>,
    pub(super) min_p: Option<f32>,
    pub(super) repetition_penalty: Option<f32>,
    pub(super) presence_penalty: Option<f32>,
    pub(super) frequency_penalty: Option<f32>,
    pub(super) seed: Option<i64>,
    pub(super) stop: Option<StopStrings>,
    pub(super) stop_token_ids: Option<Vec<Token>>,
    pub(super) ignore_eos: Option<bool>,
    pub(super) priority: Option<i32>,
    pub(super) stream: Option<bool>,
    pub(super) stream_options: Option<StreamOptions>,
    pub(super) return_token_ids: Option<bool>,
    logit_bias: Option<Filled>,
    response_format: Option<Format>,
    tools: Option<Filled>,
    functions: Option<Filled>,
    pub(super) use_beam_search: Option<bool>,
    pub(super) length_penalty: Option<f64>,
}

/// The format in which an answer is to be written; only text is supported.
#[derive(Debug, Clone, Deserialize)]
struct Format {
    r#type: Option<String>,
}

/// The last part of a stream.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
pub(super) struct StreamOptions {
    pub(super) include_usage: Option<bool>,
}

/// `POST /v1/completions`.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct CompletionRequest {
    pub(super) prompt: Prompt,
    pub(super) logprobs: Option<u32>,
    echo: Option<bool>,
    suffix: Option<String>,
    pub(super) best_of: Option<u16>,
    #[serde(skip)]
    pub(super) common: Common,
}

/// `POST /v1/chat/completions`.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct ChatRequest {
    pub(super) messages: Vec<ChatMessage>,
    pub(super) max_completion_tokens: Option<u32>,
    pub(super) logprobs: Option<bool>,
    pub(super) top_logprobs: Option<u32>,
    #[serde(skip)]
    pub(super) common: Common,
}

/// A request that is read in two passes, its own fields and the common ones: a single pass would keep every field that is
/// not known in memory, however long, until all are read.
pub(super) trait Request: DeserializeOwned {
    /// The place of the common fields.
    fn common(&mut self) -> &mut Common;

    /// Reads it from JSON.
    fn read(json: &[u8]) -> serde_json::Result<Self> {
        let mut request: Self = serde_json::from_slice(json)?;
        *request.common() = serde_json::from_slice(json)?;
        Ok(request)
    }
}

impl Request for CompletionRequest {
    fn common(&mut self) -> &mut Common {
        &mut self.common
    }
}

impl Request for ChatRequest {
    fn common(&mut self) -> &mut Common {
        &mut self.common
    }
}

/// One turn of a conversation.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct ChatMessage {
    pub(super) role: String,
    pub(super) content: Option<Content>,
}

impl Common {
    /// The field that is set and not supported, if any.
    pub(super) fn unsupported(&self) -> Option<&'static str> {
        let set = |field: Option<Filled>| field == Some(Filled(true));
        let format = self.response_format.as_ref().and_then(|format| format.r#type.as_deref());
        let fields = [
            ("logit_bias", set(self.logit_bias)),
            ("response_format", format.is_some_and(|kind| kind != "text")),
            ("tools", set(self.tools)),
            ("functions", set(self.functions)),
        ];
        fields.iter().find(|(_, set)| *set).map(|(name, _)| *name)
    }
}

impl CompletionRequest {
    /// The field that is set and not supported, if any.
    pub(super) fn unsupported(&self) -> Option<&'static str> {
        // Sampled completions have no order from best to worst.
        let searched = self.common.use_beam_search == Some(true);
        let best = self.best_of.is_some_and(|best| best != self.common.n.unwrap_or(1)) && !searched;
        let fields = [
            ("echo", self.echo == Some(true)),
            ("suffix", self.suffix.as_ref().is_some_and(|s| !s.is_empty())),
            ("best_of", best),
        ];
        let own = fields.iter().find(|(_, set)| *set).map(|(name, _)| *name);
        own.or_else(|| self.common.unsupported())
    }
}

/// An answer, whole or a piece of a stream.
#[derive(Debug, Serialize)]
pub(super) struct Completion {
    pub(super) id: String,
    pub(super) object: &'static str,
    pub(super) created: u64,
    pub(super) model: String,
    pub(super) choices: Vec<Choice>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) usage: Option<Usage>,
}

/// One of its completions. It has a `text`, a `message` or a `delta`, by the request.
#[derive(Debug, Default, Serialize)]
pub(super) struct Choice {
    pub(super) index: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) text: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) message: Option<Said>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) delta: Option<Said>,
    pub(super) logprobs: Option<serde_json::Value>,
    pub(super) finish_reason: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) token_ids: Option<Vec<Token>>,
}

/// The text of the assistant, or a piece of it.
#[derive(Debug, Default, Serialize)]
pub(super) struct Said {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) role: Option<&'static str>,
    pub(super) content: String,
}

/// Tokens in and out.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub(super) struct Usage {
    pub(super) prompt_tokens: u32,
    pub(super) completion_tokens: u32,
    pub(super) total_tokens: u32,
    pub(super) prompt_tokens_details: PromptDetails,
}

/// The sources of prompt tokens.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub(super) struct PromptDetails {
    pub(super) cached_tokens: u32,
}

/// Log probabilities as completions show them: lists side by side.
#[derive(Debug, Default, Serialize)]
pub(super) struct TextLogprobs {
    pub(super) tokens: Vec<String>,
    pub(super) token_logprobs: Vec<f32>,
    pub(super) top_logprobs: Vec<serde_json::Map<String, serde_json::Value>>,
    pub(super) text_offset: Vec<usize>,
}

/// A token's log probability as chat completions show it.
#[derive(Debug, Serialize)]
pub(super) struct TokenLogprob {
    pub(super) token: String,
    pub(super) logprob: f32,
    pub(super) bytes: Vec<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) top_logprobs: Option<Vec<Self>>,
}
