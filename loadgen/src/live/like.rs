//! The tokens of a stream come in events that differ in their text only. Once one has been parsed, others like it need
//! not be: the same bytes around another plain text are a token too.

use memchr::memmem;

/// Events tried for a pattern before a stream is left to the parser.
const TRIES: u8 = 3;

/// What the events of one stream have in common.
#[derive(Debug, Default)]
pub(super) struct Like {
    /// All before the text, and all after it; empty until an event has been learnt from.
    head: Vec<u8>,
    tail: Vec<u8>,
    tries: u8,
}

impl Like {
    /// The text of `data`, where that is an event that the parser would call a token and nothing else.
    pub(super) fn token<'a>(&self, data: &'a [u8]) -> Option<&'a [u8]> {
        let rest = if self.head.is_empty() { None } else { data.strip_prefix(&*self.head) };
        let text = rest.and_then(|rest| rest.strip_suffix(&*self.tail))?;
        let plain = |b: &u8| *b >= b' ' && *b != b'"' && *b != b'\\';
        let fine = !text.is_empty() && text.iter().all(plain) && std::str::from_utf8(text).is_ok();
        fine.then_some(text)
    }

    /// Learns from an event that was parsed as a token and nothing else.
    ///
    /// Unescaped, `"text":"` can only be a name and the beginning of its value. Whatever plain text that value is, the
    /// event means the same: were it not the token's own, then that would be in the bytes that stay.
    pub(super) fn learn(&mut self, data: &[u8]) {
        if self.tries >= TRIES {
            return;
        }
        self.tries += 1;
        let name = |name: &[u8]| Some(memmem::find(data, name)? + name.len());
        let Some(start) = name(br#""text":""#).or_else(|| name(br#""content":""#)) else { return };
        let value = &data[start..];
        let Some(end) = memchr::memchr2(b'"', b'\\', value).filter(|&end| value[end] == b'"')
        else {
            return;
        };
        self.head.clear();
        self.tail.clear();
        self.head.extend_from_slice(&data[..start]);
        self.tail.extend_from_slice(&value[end..]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json::Json;
    use crate::live::chunk::Chunk;
    use proptest::prelude::*;

    fn event(text: &str, finish: &str) -> String {
        format!(
            r#"{{"id":"a","choices":[{{"index":0,"text":"{text}","finish_reason":{finish}}}],"usage":null}}"#
        )
    }

    proptest! {
        #[test]
        fn what_it_calls_a_token_is_one(
            text in prop::collection::vec(any::<u8>(), 0..6), first in "[a-z\"\\\\]{0,3}",
            junk in any::<bool>(),
        ) {
            let mut like = Like::default();
            let learnt = event(&first.replace('\\', "\\\\").replace('"', "\\\""), "null");
            like.learn(learnt.as_bytes());
            let mut data = event("@", if junk { "\"stop\"" } else { "null" }).into_bytes();
            let at = data.iter().position(|b| *b == b'@').unwrap();
            data.splice(at..=at, text);
            if like.token(&data).is_some() {
                let strict: serde_json::Value = serde_json::from_slice(&data).unwrap();
                prop_assert!(strict["choices"][0]["text"].is_string());
                prop_assert!(Chunk::of(&Json::of(&data).unwrap()).is_plain_token());
            }
        }
    }

    #[test]
    fn plain_text_is_recognised_and_nothing_else() {
        let mut like = Like::default();
        let is_token = |like: &Like, data: &str| like.token(data.as_bytes()).is_some();
        assert!(!is_token(&like, &event("a", "null")));
        like.learn(event("a", "null").as_bytes());
        for text in [" b", "é", "<|x|>"] {
            assert!(is_token(&like, &event(text, "null")), "{text}");
        }
        for (text, finish) in
            [("", "null"), ("\\n", "null"), ("a", "\"length\""), ("\u{7}", "null")]
        {
            assert!(!is_token(&like, &event(text, finish)), "{text:?} {finish}");
        }
        let chat = r#"{"choices":[{"delta":{"content":"x"}}]}"#;
        like.learn(chat.as_bytes());
        assert!(is_token(&like, &chat.replace('x', "yz")));
    }
}
