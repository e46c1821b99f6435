//! The tokens of a stream come in events that differ in their text only. Once one has been parsed, others like it need
//! not be: the same bytes around another plain text are a token too.

/// The pattern of the event parsed last, which others of its stream follow.
#[derive(Debug, Default)]
pub(super) struct Like {
    /// All before the text, and all after it; empty until an event has been learnt from.
    head: Vec<u8>,
    tail: Vec<u8>,
    /// True where the text is said aloud.
    aloud: bool,
}

impl Like {
    /// The text of `data` and whether it is said aloud, where that is an event that the parser would call a token and
    /// nothing else.
    pub(super) fn token<'a>(&self, data: &'a [u8]) -> Option<(&'a [u8], bool)> {
        let rest = if self.head.is_empty() { None } else { data.strip_prefix(&*self.head) };
        let text = rest.and_then(|rest| rest.strip_suffix(&*self.tail))?;
        let plain = |b: &u8| *b >= b' ' && *b != b'"' && *b != b'\\';
        let fine = !text.is_empty() && text.iter().all(plain);
        (fine && (text.is_ascii() || std::str::from_utf8(text).is_ok()))
            .then_some((text, self.aloud))
    }

    /// Learns from an event that was parsed as a token of `text` and nothing else.
    ///
    /// A text without escapes was not copied by the parser, so that its place in `data` is known.
    /// The event means the same with any other plain text in that place.
    pub(super) fn learn(&mut self, data: &[u8], text: &str, aloud: bool) {
        let start = text.as_ptr().addr().wrapping_sub(data.as_ptr().addr());
        let end = start.wrapping_add(text.len());
        if data.get(start..end) != Some(text.as_bytes()) {
            return;
        }
        self.head.clear();
        self.tail.clear();
        self.head.extend_from_slice(&data[..start]);
        self.tail.extend_from_slice(&data[end..]);
        self.aloud = aloud;
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

    /// Parses `data` and learns from it, as a stream does.
    fn learn(like: &mut Like, data: &str) {
        let event = Json::of(data.as_bytes()).unwrap();
        if let Some((text, aloud)) = Chunk::of(&event).plain_text() {
            like.learn(data.as_bytes(), text, aloud);
        }
    }

    proptest! {
        #[test]
        fn every_token_of_the_fast_path_is_a_token(
            text in prop::collection::vec(any::<u8>(), 0..6), first in "[a-z\"\\\\]{0,3}",
            junk in any::<bool>(),
        ) {
            let mut like = Like::default();
            learn(&mut like, &event(&first.replace('\\', "\\\\").replace('"', "\\\""), "null"));
            let mut data = event("@", if junk { "\"stop\"" } else { "null" }).into_bytes();
            let at = data.iter().position(|b| *b == b'@').unwrap();
            data.splice(at..=at, text);
            if let Some(found) = like.token(&data) {
                let strict: serde_json::Value = serde_json::from_slice(&data).unwrap();
                let (text, aloud) = (std::str::from_utf8(found.0).unwrap(), found.1);
                prop_assert_eq!(strict["choices"][0]["text"].as_str(), Some(text));
                let event = Json::of(&data).unwrap();
                prop_assert_eq!(Chunk::of(&event).plain_text(), Some((text, aloud)));
            }
        }
    }

    #[test]
    fn plain_text_is_recognised_and_nothing_else() {
        let mut like = Like::default();
        let is_token = |like: &Like, data: &str| like.token(data.as_bytes()).is_some();
        assert!(!is_token(&like, &event("a", "null")));
        learn(&mut like, &event("a", "null"));
        for text in [" b", "é", "<|x|>"] {
            assert!(is_token(&like, &event(text, "null")), "{text}");
        }
        for (text, finish) in
            [("", "null"), ("\\n", "null"), ("a", "\"length\""), ("\u{7}", "null")]
        {
            assert!(!is_token(&like, &event(text, finish)), "{text:?} {finish}");
        }
    }

    #[test]
    fn a_stream_is_learnt_after_any_other_events() {
        let of = |delta: &str| format!(r#"{{"choices":[{{"delta":{delta}}}]}}"#);
        let mut like = Like::default();
        for first in [r#"{"content":"\n"}"#, r#"{"content":"\""}"#, r#"{"content":"a","role":"x"}"#]
        {
            (0..9).for_each(|_| learn(&mut like, &of(first)));
        }
        for (name, aloud) in [("reasoning_content", false), ("content", true), ("thinking", false)]
        {
            let event = |text: &str| of(&format!(r#"{{"role":"assistant","{name}":"{text}"}}"#));
            learn(&mut like, &event("assistant"));
            assert_eq!(like.token(event(" b").as_bytes()), Some((&b" b"[..], aloud)), "{name}");
        }
        let told = |id: u32| format!(r#"{{"choices":[{{"text":" a","token_ids":[{id}]}}]}}"#);
        learn(&mut like, &told(7));
        assert_eq!(like.token(told(7).as_bytes()), None, "ids are to be read");
    }
}
