//! OpenAI's requests, as much of them as the mock needs. The JSON is visited without being built: a prompt of ten
//! thousand token ids is a count.

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

    /// True where the answer comes token by token.
    pub(crate) fn streams(&self) -> bool {
        self.stream.unwrap_or(false)
    }

    /// True where the answer's tokens are wanted beside its text.
    pub(crate) fn wants_ids(&self) -> bool {
        self.return_token_ids.unwrap_or(false)
    }

    /// True where a stream shall end with a count of its tokens.
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

#[cfg(test)]
mod tests {
    use super::*;

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
