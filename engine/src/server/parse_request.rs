//! From a client's fields to the engine's request: every field is checked, and a refusal names the wrong one.

use std::sync::Arc;

use super::admit::Refusal;
use super::beams;
use super::forms::Prompt;
use super::limits::{MOST_BRANCHES, MOST_STOPS, within};
use super::reply::{Form, Wanted};
use super::service::Service;
use super::wire::{ChatMessage, ChatRequest, Common, CompletionRequest};
use crate::beam::BeamSearch;
use crate::live::Ask;
use crate::model::chat::Message;
use crate::request::Token;
use crate::sample::SamplingParams;

/// Most log probabilities per token.
const MOST_LOGPROBS: u32 = 20;
/// Longest stop string, bytes.
const LONGEST_STOP: usize = 1024;
/// Tokens of a completion that does not say how many it wants, as in OpenAI's interface.
const DEFAULT_LIMIT: u32 = 16;

impl Service {
    /// Checks a completion request and words it for the engine.
    pub(super) fn completion(&self, request: CompletionRequest) -> Result<(Ask, Wanted), Refusal> {
        if let Some(field) = request.unsupported() {
            return Err(Refusal::field(field, format!("`{field}` is not supported")));
        }
        let prompt = match request.prompt {
            Prompt::Text(text) => {
                self.could_fit("prompt", text.len())?;
                self.encode("prompt", &text, true)?
            }
            Prompt::Tokens(tokens) => tokens,
            Prompt::Several => {
                return Err(Refusal::field("prompt", "one prompt per request, please"));
            }
        };
        let limit = request.common.max_tokens.unwrap_or(DEFAULT_LIMIT);
        let beams = beams::search(&request.common, request.best_of)?;
        self.ask(prompt, limit, request.logprobs, Form::Text, beams, request.common)
    }

    /// Checks a chat request and words it for the engine.
    pub(super) fn chat(&self, request: ChatRequest) -> Result<(Ask, Wanted), Refusal> {
        if let Some(field) = request.common.unsupported() {
            return Err(Refusal::field(field, format!("`{field}` is not supported")));
        }
        let Some(renderer) = &self.model.chat else {
            let why = "this model has no chat template: use /v1/completions";
            return Err(Refusal::bad(why));
        };
        if request.messages.is_empty() {
            return Err(Refusal::field("messages", "`messages` must not be empty"));
        }
        let turns = request.messages.len();
        if turns > self.model.max_len as usize {
            let message = format!("{turns} messages exceed max-model-len {}", self.model.max_len);
            return Err(Refusal::field("messages", message));
        }
        let messages: Result<Vec<Message>, Refusal> =
            request.messages.into_iter().map(message).collect();
        let messages = messages?;
        self.could_fit("messages", messages.iter().map(|m| m.content.len()).sum())?;
        let text = renderer.render(&messages).map_err(|e| Refusal::bad(e.to_string()))?;
        // The template writes the control tokens itself.
        let prompt = self.encode("messages", &text, false)?;
        let asked = request.max_completion_tokens.or(request.common.max_tokens);
        let rest = self.model.max_len.saturating_sub(prompt.len() as u32);
        let limit = asked.unwrap_or(rest.max(1));
        let logprobs = match (request.logprobs, request.top_logprobs) {
            (Some(true), top) => Some(top.unwrap_or(0)),
            (_, Some(1..)) => {
                return Err(Refusal::field("top_logprobs", "`top_logprobs` needs `logprobs`"));
            }
            _ => None,
        };
        let beams = beams::search(&request.common, None)?;
        self.ask(prompt, limit, logprobs, Form::Chat, beams, request.common)
    }

    /// Refuses a text that is too long however it is split, before anything is done with it.
    fn could_fit(&self, field: &'static str, bytes: usize) -> Result<(), Refusal> {
        if self.model.tokenizer.could_be(bytes, self.model.max_len) {
            return Ok(());
        }
        Err(self.too_long(field, bytes))
    }

    fn too_long(&self, field: &'static str, bytes: usize) -> Refusal {
        let most = self.model.max_len;
        let message = format!("a text of {bytes} bytes exceeds max-model-len {most} tokens");
        Refusal::field(field, message)
    }

    fn encode(
        &self,
        field: &'static str,
        text: &str,
        specials: bool,
    ) -> Result<Vec<Token>, Refusal> {
        let tokens = self.model.tokenizer.encode_up_to(text, specials, self.model.max_len);
        let tokens = tokens.map_err(|e| Refusal::bad(e.to_string()))?;
        tokens.ok_or_else(|| self.too_long(field, text.len()))
    }

    fn ask(
        &self,
        prompt: Vec<Token>,
        limit: u32,
        logprobs: Option<u32>,
        form: Form,
        beams: Option<BeamSearch>,
        common: Common,
    ) -> Result<(Ask, Wanted), Refusal> {
        if let Some(name) = common.model.as_ref().filter(|name| **name != self.model.name) {
            return Err(Refusal::no_model(name, &self.model.name));
        }
        let vocab = self.model.vocab;
        if prompt.is_empty() {
            return Err(Refusal::field("prompt", "the prompt must have at least one token"));
        }
        if let Some(token) = prompt.iter().find(|token| **token >= vocab) {
            let message = format!("token {token} is not one of the model's {vocab}");
            return Err(Refusal::field("prompt", message));
        }
        let n = common.n.unwrap_or(1);
        within("n", u32::from(n), 1, u32::from(MOST_BRANCHES))?;
        within("max_tokens", limit, 1, u32::MAX)?;
        within("min_tokens", common.min_tokens.unwrap_or(0), 0, limit)?;
        within("logprobs", logprobs.unwrap_or(0), 0, MOST_LOGPROBS)?;
        let ends = self.ends(&common)?;
        let wanted = Wanted {
            form,
            branches: n,
            searched: beams.is_some(),
            prompt: prompt.len() as u32,
            token_ids: common.return_token_ids.unwrap_or(false),
            stream: common.stream.unwrap_or(false),
            usage: common.stream_options.and_then(|o| o.include_usage).unwrap_or(false),
        };
        let sampling = sampling(&common, logprobs, &ends)?;
        let stops = stops(common.stop.unwrap_or_default().0)?;
        // In vLLM a lower number goes first.
        let priority = common.priority.unwrap_or(0).saturating_neg();
        let (prompt, width) = (prompt.into(), n);
        let ask = Ask { prompt, limit, width, priority, sampling, ends, stops, beams };
        Ok((ask, wanted))
    }

    /// The tokens that end a completion.
    fn ends(&self, common: &Common) -> Result<Arc<[Token]>, Refusal> {
        let mut ends = common.stop_token_ids.clone().unwrap_or_default();
        if ends.len() > MOST_STOPS {
            let message = format!("at most {MOST_STOPS} stop tokens");
            return Err(Refusal::field("stop_token_ids", message));
        }
        if common.ignore_eos != Some(true) {
            ends.extend_from_slice(&self.model.ends);
        }
        Ok(ends.into())
    }
}

fn sampling(
    common: &Common,
    logprobs: Option<u32>,
    ends: &Arc<[Token]>,
) -> Result<SamplingParams, Refusal> {
    let top_k = match common.top_k.unwrap_or(0) {
        -1 => 0,
        k => u32::try_from(k)
            .map_err(|_| Refusal::field("top_k", format!("top_k = {k} must be -1, 0 or more")))?,
    };
    let params = SamplingParams {
        temperature: common.temperature.unwrap_or(1.0),
        top_k,
        top_p: common.top_p.unwrap_or(1.0),
        min_p: common.min_p.unwrap_or(0.0),
        repetition_penalty: common.repetition_penalty.unwrap_or(1.0),
        presence_penalty: common.presence_penalty.unwrap_or(0.0),
        frequency_penalty: common.frequency_penalty.unwrap_or(0.0),
        seed: common.seed.map_or_else(rand::random, i64::cast_unsigned),
        logprobs,
        forbidden: Arc::clone(ends),
        min_tokens: common.min_tokens.unwrap_or(0),
        offers: None,
    };
    params.check().map_err(Refusal::bad)?;
    Ok(params)
}

fn stops(stops: Vec<String>) -> Result<Vec<String>, Refusal> {
    if stops.len() > MOST_STOPS || stops.iter().any(|s| s.len() > LONGEST_STOP) {
        let message = format!("at most {MOST_STOPS} stop strings of {LONGEST_STOP} bytes");
        return Err(Refusal::field("stop", message));
    }
    Ok(stops)
}

/// A message as templates want it: its texts put together.
fn message(said: ChatMessage) -> Result<Message, Refusal> {
    let content = said.content.unwrap_or_default();
    match content.alien {
        Some(kind) => {
            let message = format!("content of type `{kind}` is not supported: only text");
            Err(Refusal::field("messages", message))
        }
        None => Ok(Message { role: said.role, content: content.text }),
    }
}
