//! The OpenAI wire format, as much of it as measuring needs: requests that the mock reads, chunks that the client
//! reads. Both visit the JSON without building it: a prompt of ten thousand token ids is a count, a chunk is three
//! facts and a length.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, Error, IgnoredAny, SeqAccess, Visitor};

/// Bytes of English text per token, about, for servers without a tokenizer.
const BYTES_PER_TOKEN: u32 = 4;

/// A completion or chat request, as a server reads it.
#[derive(Debug, Deserialize)]
pub(crate) struct Ask<'a> {
    #[serde(borrow)]
    pub(crate) model: Option<Cow<'a, str>>,
    prompt: Option<Prompt>,
    messages: Option<Vec<Message>>,
    max_tokens: Option<u32>,
    max_completion_tokens: Option<u32>,
    stream: Option<bool>,
    stream_options: Option<StreamOptions>,
    return_token_ids: Option<bool>,
    pub(crate) n: Option<u32>,
}

#[derive(Debug, Deserialize)]
struct StreamOptions {
    include_usage: Option<bool>,
}

#[derive(Debug, Deserialize)]
struct Message {
    content: Option<Prompt>,
}

impl Ask<'_> {
    /// Prompt tokens: ids by number, text by its length.
    pub(crate) fn prompt_tokens(&self) -> Option<u32> {
        let messages = || {
            let contents = self.messages.as_ref()?.iter().filter_map(|m| m.content.as_ref());
            Some(contents.fold(0u32, |sum, c| sum.saturating_add(c.tokens())))
        };
        self.prompt.as_ref().map(Prompt::tokens).or_else(messages)
    }

    /// Tokens to generate.
    pub(crate) fn output_tokens(&self) -> Option<u32> {
        self.max_completion_tokens.or(self.max_tokens)
    }

    /// Whether the answer comes token by token.
    pub(crate) fn streams(&self) -> bool {
        self.stream.unwrap_or(false)
    }

    /// Whether the answer's tokens are wanted beside its text.
    pub(crate) fn wants_ids(&self) -> bool {
        self.return_token_ids.unwrap_or(false)
    }

    /// Whether a stream shall end with a count of its tokens.
    pub(crate) fn wants_usage(&self) -> bool {
        self.stream_options.as_ref().and_then(|o| o.include_usage).unwrap_or(false)
    }
}

/// The size of a prompt: token ids, or bytes of text.
#[derive(Debug, Clone, Copy, Default)]
struct Prompt {
    ids: u32,
    bytes: u32,
}

impl Prompt {
    fn tokens(&self) -> u32 {
        self.ids.saturating_add(self.bytes.div_ceil(BYTES_PER_TOKEN))
    }
}

impl<'de> Deserialize<'de> for Prompt {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(PromptVisitor)
    }
}

/// A string, token ids, or a list of one of these; of chat, also a list of parts with a `text`.
struct PromptVisitor;

impl<'de> Visitor<'de> for PromptVisitor {
    type Value = Prompt;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string, token ids, or a list of parts with text")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Prompt, E> {
        Ok(Prompt { ids: 0, bytes: u32::try_from(text.len()).unwrap_or(u32::MAX) })
    }

    fn visit_u64<E: Error>(self, _: u64) -> Result<Prompt, E> {
        Ok(Prompt { ids: 1, bytes: 0 })
    }

    fn visit_unit<E: Error>(self) -> Result<Prompt, E> {
        Ok(Prompt::default())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Prompt, A::Error> {
        let mut sum = Prompt::default();
        while let Some(part) = seq.next_element::<Prompt>()? {
            sum.ids = sum.ids.saturating_add(part.ids);
            sum.bytes = sum.bytes.saturating_add(part.bytes);
        }
        Ok(sum)
    }

    fn visit_map<A: serde::de::MapAccess<'de>>(self, mut map: A) -> Result<Prompt, A::Error> {
        let mut sum = Prompt::default();
        while let Some(key) = map.next_key::<Cow<'de, str>>()? {
            if key == "text" {
                sum = map.next_value()?;
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(sum)
    }
}

/// One event of a stream, as a client reads it.
#[derive(Debug, Default, PartialEq, Deserialize)]
pub(crate) struct Chunk {
    #[serde(default)]
    choices: Choices,
    #[serde(default)]
    pub(crate) usage: Option<Usage>,
    #[serde(default)]
    error: Option<ErrorBody>,
}

/// Token counts by the server's own account.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
pub(crate) struct Usage {
    pub(crate) prompt_tokens: Option<u32>,
    pub(crate) completion_tokens: Option<u32>,
}

/// An error in the body, in any of the forms servers use.
#[derive(Debug, PartialEq, Deserialize)]
#[serde(untagged)]
pub(crate) enum ErrorBody {
    /// `{"error": {"message": ...}}`
    Object {
        /// What the server says.
        message: String,
    },
    /// `{"error": "..."}`
    Text(String),
    /// Anything else.
    Other(IgnoredAny),
}

impl Chunk {
    /// Whether it stands for at least one token. An empty text without role or end is a token too: a part of a
    /// character that cannot be shown yet.
    pub(crate) fn has_token(&self) -> bool {
        let c = &self.choices;
        c.any && (c.text > 0 || !(c.role || c.finished))
    }

    /// Whether the server says that the response is complete.
    pub(crate) fn finished(&self) -> bool {
        self.choices.finished
    }

    /// The error it reports instead of a token.
    pub(crate) fn error(&self) -> Option<&str> {
        self.error.as_ref().map(|e| match e {
            ErrorBody::Object { message } => message.as_str(),
            ErrorBody::Text(text) => text,
            ErrorBody::Other(_) => "an error without a message",
        })
    }
}

/// All choices of a chunk, added up.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Choices {
    any: bool,
    /// Bytes of text: `text` of a completion, `content` or reasoning of a chat.
    text: usize,
    role: bool,
    finished: bool,
}

impl<'de> Deserialize<'de> for Choices {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct All;
        impl<'de> Visitor<'de> for All {
            type Value = Choices;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of choices")
            }
            fn visit_unit<E: Error>(self) -> Result<Choices, E> {
                Ok(Choices::default())
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Choices, A::Error> {
                let mut all = Choices::default();
                while let Some(choice) = seq.next_element::<Choice>()? {
                    all.any = true;
                    all.text += choice.text.0 + choice.delta.bytes() + choice.message.bytes();
                    all.role |= choice.delta.role.0 > 0;
                    all.finished |= choice.finish_reason.0 > 0;
                }
                Ok(all)
            }
        }
        from.deserialize_any(All)
    }
}

#[derive(Deserialize, Default)]
struct Choice {
    #[serde(default)]
    text: Bytes,
    #[serde(default)]
    delta: Delta,
    #[serde(default)]
    message: Delta,
    #[serde(default)]
    finish_reason: Bytes,
}

#[derive(Deserialize, Default)]
struct Delta {
    #[serde(default)]
    role: Bytes,
    #[serde(default)]
    content: Bytes,
    #[serde(default)]
    reasoning_content: Bytes,
    #[serde(default)]
    reasoning: Bytes,
    #[serde(default)]
    refusal: Bytes,
    #[serde(default)]
    tool_calls: Option<IgnoredAny>,
}

impl Delta {
    fn bytes(&self) -> usize {
        let text = self.content.0 + self.reasoning_content.0 + self.reasoning.0 + self.refusal.0;
        text + usize::from(self.tool_calls.is_some())
    }
}

/// The length of a string; 0 for null.
#[derive(Default, Clone, Copy)]
struct Bytes(usize);

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Length;
        impl Visitor<'_> for Length {
            type Value = Bytes;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string or null")
            }
            fn visit_str<E: Error>(self, text: &str) -> Result<Bytes, E> {
                Ok(Bytes(text.len()))
            }
            fn visit_unit<E: Error>(self) -> Result<Bytes, E> {
                Ok(Bytes(0))
            }
        }
        from.deserialize_any(Length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunk(json: &str) -> Chunk {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn what_counts_as_a_token() {
        let token = |json: &str| chunk(json).has_token();
        assert!(token(r#"{"choices":[{"index":0,"text":" a","finish_reason":null}]}"#));
        assert!(token(r#"{"choices":[{"text":"\u00e9\n","finish_reason":"stop"}]}"#));
        assert!(token(r#"{"choices":[{"text":"","finish_reason":null}]}"#));
        assert!(!token(r#"{"choices":[{"text":"","finish_reason":"length"}]}"#));
        assert!(!token(r#"{"choices":[{"delta":{"role":"assistant","content":""}}]}"#));
        assert!(token(r#"{"choices":[{"delta":{"role":"assistant","content":"Hi"}}]}"#));
        assert!(token(r#"{"choices":[{"delta":{"reasoning_content":"Hm","content":null}}]}"#));
        assert!(token(r#"{"choices":[{"delta":{"tool_calls":[{"index":0}]}}]}"#));
        assert!(!token(r#"{"choices":[],"usage":{"completion_tokens":7}}"#));
        assert!(!token(r#"{"object":"ping"}"#));
    }

    #[test]
    fn usage_end_and_errors() {
        let end =
            chunk(r#"{"choices":[],"usage":{"prompt_tokens":5,"completion_tokens":7,"x":1}}"#);
        assert_eq!(end.usage.unwrap().completion_tokens, Some(7));
        assert!(chunk(r#"{"choices":[{"text":"","finish_reason":"length"}]}"#).finished());
        assert_eq!(chunk(r#"{"error":{"message":"no","code":500}}"#).error(), Some("no"));
        assert_eq!(chunk(r#"{"error":"no"}"#).error(), Some("no"));
        assert_eq!(chunk(r#"{"error":[1]}"#).error(), Some("an error without a message"));
        assert_eq!(chunk(r#"{"choices":[],"error":null}"#).error(), None);
    }

    #[test]
    fn prompts_are_counted_in_every_form() {
        let tokens = |json: &str| serde_json::from_str::<Ask<'_>>(json).unwrap().prompt_tokens();
        assert_eq!(tokens(r#"{"prompt":[1,2,3]}"#), Some(3));
        assert_eq!(tokens(r#"{"prompt":[[1,2,3]]}"#), Some(3));
        assert_eq!(tokens(r#"{"prompt":"12345"}"#), Some(2));
        assert_eq!(tokens(r#"{"messages":[{"role":"user","content":"12345678"}]}"#), Some(2));
        let parts =
            r#"{"messages":[{"content":[{"type":"text","text":"1234"}]},{"content":null}]}"#;
        assert_eq!(tokens(parts), Some(1));
        assert_eq!(tokens(r#"{"model":"m"}"#), None);
    }
}
