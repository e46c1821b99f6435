//! The meaning of one event of a stream: a token, the end, or bad news.
//!
//! A token is what has text, reasoning or a tool call's content; it may be a string or parts nested
//! in lists. Roles, filters' notes, empty deltas and counts are no token. Other members of an event
//! are ignored here, in any form.

use crate::json::Json;

/// Members of a message, or of a part of one, that the model said.
const SAID: [&str; 3] = ["content", "text", "refusal"];
/// The same, of what it thought.
const THOUGHT: [&str; 6] = [
    "reasoning_content",
    "reasoning",
    "thinking",
    "summary",
    "reasoning_details",
    "thinking_blocks",
];
/// Members in which servers say what went wrong, the most telling first.
const WORDS: [&str; 8] =
    ["message", "detail", "error", "msg", "error_msg", "error_message", "reason", "description"];
/// Words in finish reasons that mean a breakdown, not an end.
const BROKEN: [&str; 10] = [
    "abort",
    "error",
    "cancel",
    "fail",
    "timeout",
    "timed_out",
    "overload",
    "insufficient",
    "interrupt",
    "disconnect",
];

/// Token counts by the server's own account.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Usage {
    pub(crate) prompt_tokens: Option<u32>,
    pub(crate) completion_tokens: Option<u32>,
}

/// The reason that a server gives for the end of a response.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Finish {
    /// It does not say so.
    #[default]
    None,
    /// As long as it may be.
    Length,
    /// For another reason.
    Other,
}

/// One event of a stream, as a client reads it.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Chunk<'a> {
    /// The text that the model says aloud, in pieces none of which is empty.
    pub(crate) said: Vec<&'a str>,
    /// The text of its thoughts and calls, which no turn repeats as a part of the answer.
    pub(crate) aside: Vec<&'a str>,
    /// The ids of its tokens, where the server tells them.
    pub(crate) ids: &'a [Json<'a>],
    pub(crate) finish: Finish,
    pub(crate) usage: Option<Usage>,
    /// True where the counts come alone, as they do last.
    pub(crate) alone: bool,
    /// The failure, in the server's words.
    pub(crate) error: Option<String>,
}

impl<'a> Chunk<'a> {
    /// Reads `event`.
    pub(crate) fn of(event: &'a Json<'a>) -> Self {
        let mut chunk = Self { usage: usage(event.get("usage")), ..Self::default() };
        let choices = event.get("choices").each();
        for choice in choices {
            chunk.take(choice);
        }
        if choices.is_empty() {
            chunk.alone = chunk.usage.is_some_and(|u| u.completion_tokens > Some(0));
            chunk.error = told(event);
        }
        if !event.get("error").is_nothing() {
            chunk.error = Some(words(event.get("error")));
        }
        chunk
    }

    fn take(&mut self, choice: &'a Json<'a>) {
        let places = [choice, choice.get("delta"), choice.get("message")];
        for from in places.into_iter().filter(|from| !from.members().is_empty()) {
            said_in(from, &mut self.said);
            aside_in(from, &mut self.aside);
        }
        let ids = choice.get("token_ids").each();
        self.ids = if ids.is_empty() { self.ids } else { ids };
        let reason = choice.get("finish_reason");
        let name = reason.text().or_else(|| reason.get("type").text()).unwrap_or_default();
        if !choice.get("error").is_nothing() {
            self.error = Some(words(choice.get("error")));
        } else if is_broken(name) {
            let why = words_in(reason).filter(|why| *why != name);
            let why = why.map_or_else(String::new, |why| format!(": {why}"));
            self.error =
                Some(format!("the server ended the response with finish_reason {name:?}{why}"));
        } else if !reason.is_nothing() && !is_no_reason(name) {
            let length = name.to_ascii_lowercase().contains("length");
            self.finish = if length { Finish::Length } else { Finish::Other };
        }
    }

    /// True if it stands for a token at least.
    pub(crate) fn is_token(&self) -> bool {
        !self.said.is_empty() || !self.aside.is_empty() || !self.ids.is_empty()
    }

    /// True if it holds several words: one token hardly ever does.
    pub(crate) fn is_several(&self) -> bool {
        self.said.iter().chain(&self.aside).any(|text| several(text.as_bytes()))
    }

    /// The text of a token that is that and nothing else, and whether it is said aloud.
    pub(crate) fn plain_text(&self) -> Option<(&'a str, bool)> {
        let more = self.finish != Finish::None || self.usage.is_some() || self.error.is_some();
        match (&self.said[..], &self.aside[..]) {
            _ if more || !self.ids.is_empty() => None,
            ([text], []) => Some((text, true)),
            ([], [text]) => Some((text, false)),
            _ => None,
        }
    }
}

/// Some servers write the absence of a reason as a word.
fn is_no_reason(name: &str) -> bool {
    ["null", "none"].iter().any(|none| name.trim().eq_ignore_ascii_case(none))
}

fn is_broken(reason: &str) -> bool {
    let reason = reason.to_ascii_lowercase();
    BROKEN.iter().any(|word| reason.contains(word))
}

/// True if `text` holds two words: a blank with something on both sides.
pub(crate) fn several(text: &[u8]) -> bool {
    let blank = |b: &u8| b.is_ascii_whitespace();
    let inner = text.trim_ascii();
    inner.len() > 2 && inner.iter().any(blank) && inner.iter().any(u8::is_ascii_alphanumeric)
}

/// Collects what a delta or message says aloud.
fn said_in<'a>(delta: &'a Json<'_>, to: &mut Vec<&'a str>) {
    for name in SAID {
        texts(delta.get(name), &[], to);
    }
}

/// Collects what it thinks or calls.
fn aside_in<'a>(delta: &'a Json<'_>, to: &mut Vec<&'a str>) {
    thought_in(delta, to);
    for part in delta.get("content").each() {
        thought_in(part, to);
    }
    called_in(delta, to);
}

fn thought_in<'a>(delta: &'a Json<'_>, to: &mut Vec<&'a str>) {
    let before = to.len();
    for name in THOUGHT {
        // Servers say the same under several names.
        if to.len() == before {
            texts(delta.get(name), &THOUGHT, to);
        }
    }
}

fn called_in<'a>(delta: &'a Json<'_>, to: &mut Vec<&'a str>) {
    let calls = delta.get("tool_calls").each().iter();
    for call in calls
        .flat_map(|call| [call.get("function"), call.get("custom")])
        .chain([delta.get("function_call")])
    {
        for name in ["name", "arguments", "input"] {
            texts(call.get(name), &["*"], to);
        }
    }
}

/// All texts in `json`: itself, those of a list's parts, and those of a part's members that hold what was said, or what
/// `also` names (`*`: any).
fn texts<'a>(json: &'a Json<'_>, also: &[&str], to: &mut Vec<&'a str>) {
    match json {
        Json::Text(text) if !text.is_empty() => to.push(text),
        Json::List(parts) => parts.iter().for_each(|part| texts(part, also, to)),
        Json::Object(members) => {
            for (name, value) in members {
                let name = name.as_ref();
                if SAID.contains(&name) || also.contains(&name) || also == ["*"] {
                    texts(value, also, to);
                }
            }
        }
        _ => {}
    }
}

/// Counts, in whatever numbers; none where nothing was counted.
fn usage(json: &Json<'_>) -> Option<Usage> {
    let usage = Usage {
        prompt_tokens: json.get("prompt_tokens").count(),
        completion_tokens: json.get("completion_tokens").count(),
    };
    (usage != Usage::default()).then_some(usage)
}

/// The words of a refusal: of `json`, which is known to be bad news.
pub(crate) fn bad_news(json: &Json<'_>) -> Option<String> {
    words_in(json).map(str::to_owned)
}

/// The bad news that an event without choices is, if it is one.
fn told(event: &Json<'_>) -> Option<String> {
    let is = |name: &str| event.get(name).text().is_some_and(|t| t.eq_ignore_ascii_case("error"));
    let coded = ["code", "status", "status_code", "error_code"].into_iter().any(|name| {
        match (event.get(name), event.get(name).text()) {
            (Json::Number(code), _) => *code >= 400.0 || *code < 0.0,
            (_, Some(text)) => is_broken(text),
            _ => false,
        }
    });
    let bad = ["object", "type", "status", "event"].into_iter().any(is)
        || event.get("success") == &Json::Bool(false)
        || (coded && words_in(event).is_some())
        || !event.get("detail").is_nothing();
    bad.then(|| words(event))
}

/// The words of `json`, which is bad news; all that it holds where it has no words for it.
pub(crate) fn words(json: &Json<'_>) -> String {
    fn leaves(json: &Json<'_>, to: &mut Vec<String>) {
        match json {
            Json::Text(text) => to.push(text.to_string()),
            Json::Number(number) => to.push(number.to_string()),
            Json::List(list) => list.iter().for_each(|one| leaves(one, to)),
            Json::Object(members) => members.iter().for_each(|(_, one)| leaves(one, to)),
            Json::Null | Json::Bool(_) => {}
        }
    }
    words_in(json).map_or_else(
        || {
            let mut all = Vec::new();
            leaves(json, &mut all);
            format!("an error without a message: {}", all.join(" "))
        },
        str::to_owned,
    )
}

/// The words of an error, wherever they are in it.
fn words_in<'a>(json: &'a Json<'_>) -> Option<&'a str> {
    match json {
        Json::Text(text) if !text.trim().is_empty() => Some(text),
        Json::List(list) => list.iter().find_map(words_in),
        Json::Object(_) => WORDS.iter().find_map(|name| words_in(json.get(name))),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunk(text: &str) -> Chunk<'static> {
        Chunk::of(Box::leak(Box::new(Json::of(text.as_bytes()).unwrap().owned())))
    }

    fn delta(delta: &str) -> String {
        format!(r#"{{"choices":[{{"index":0,"delta":{delta},"finish_reason":null}}]}}"#)
    }

    #[test]
    fn a_token_is_text_reasoning_or_a_call() {
        for token in [
            r#"{"choices":[{"index":0,"text":" a","finish_reason":null}]}"#,
            r#"{"choices":[{"text":"\u00e9\n","finish_reason":"stop"}]}"#,
            r#"{"choices":[{"text":"\ud83d"}]}"#,
            r#"{"choices":[{"text":"","token_ids":[7]}]}"#,
            r#"{"choices":[{"message":{"content":"whole"}}]}"#,
            r#"{"choices":[{"delta":null,"text":" a"}]}"#,
            &delta(r#"{"role":"assistant","content":"Hi"}"#),
            &delta(r#"{"content":" "}"#),
            &delta(r#"{"reasoning_content":"Hm","content":null}"#),
            &delta(r#"{"reasoning":"Hm"}"#),
            &delta(r#"{"reasoning_details":[{"type":"reasoning.text","text":"Hm"}]}"#),
            &delta(r#"{"refusal":"No"}"#),
            &delta(r#"{"content":[{"type":"text","text":"a"}]}"#),
            &delta(r#"{"content":{"type":"text","text":"a"}}"#),
            &delta(r#"{"content":[{"type":"thinking","thinking":[{"type":"text","text":"a"}]}]}"#),
            &delta(r#"{"tool_calls":[{"index":0,"function":{"name":"f","arguments":""}}]}"#),
            &delta(r#"{"tool_calls":[{"index":0,"function":{"arguments":"{"}}]}"#),
            &delta(r#"{"tool_calls":[{"function":{"arguments":{"city":"Oslo"}}}]}"#),
            &delta(r#"{"tool_calls":{"function":{"arguments":"x"}}}"#),
            &delta(r#"{"function_call":{"arguments":"x"}}"#),
        ] {
            assert!(chunk(token).is_token(), "{token}");
        }
        for none in [
            "{}",
            r#"{"choices":null}"#,
            r#"{"choices":[{}]}"#,
            r#"{"choices":[{"text":""}]}"#,
            r#"{"choices":[{"text":null,"delta":null,"message":null}]}"#,
            r#"{"choices":[{"text":"","finish_reason":"length"}]}"#,
            r#"{"choices":[{"index":0,"content_filter_results":{"hate":{"filtered":false}}}]}"#,
            r#"{"choices":[],"usage":{"completion_tokens":7}}"#,
            r#"{"object":"ping"}"#,
            "[1]",
            &delta("{}"),
            &delta(r#"{"content":""}"#),
            &delta(r#"{"role":"assistant","content":"","tool_calls":[]}"#),
            &delta(r#"{"role":"assistant","content":[]}"#),
            &delta(r#"{"content":[{"type":"text","text":""}]}"#),
            &delta(r#"{"tool_calls":[{"index":0,"id":"c1","type":"function"}]}"#),
            &delta(r#"{"function_call":null,"reasoning":null}"#),
        ] {
            assert!(!chunk(none).is_token(), "{none}");
        }
    }

    #[test]
    fn ends_are_told_from_breakdowns() {
        let end = |reason: &str| {
            chunk(&format!(r#"{{"choices":[{{"text":"","finish_reason":{reason}}}]}}"#))
        };
        for (reason, finish) in [
            ("\"length\"", Finish::Length),
            ("\"stop\"", Finish::Other),
            ("\"eos_token\"", Finish::Other),
            ("\"something new\"", Finish::Other),
            ("{\"type\":\"length\",\"length\":8}", Finish::Length),
            ("null", Finish::None),
            ("\"\"", Finish::None),
        ] {
            assert_eq!((end(reason).finish, end(reason).error), (finish, None), "{reason}");
        }
        for reason in [
            "\"abort\"",
            "\"error\"",
            "\"cancelled\"",
            "\"insufficient_system_resource\"",
            "\"ERROR\"",
        ] {
            let error = end(reason).error.unwrap();
            assert!(error.contains(reason) && end(reason).finish == Finish::None, "{error}");
        }
        let why = end(r#"{"type":"abort","message":"out of memory"}"#).error.unwrap();
        assert!(why.contains("out of memory"), "{why}");
    }

    #[test]
    fn bad_news_in_every_form_keeps_its_words() {
        for news in [
            r#"{"error":{"message":"no memory","code":500}}"#,
            r#"{"error":"no memory"}"#,
            r#"{"error":{"error":{"message":"no memory"}}}"#,
            r#"{"error":[{"msg":"no memory"}]}"#,
            r#"{"object":"error","message":"no memory","code":500}"#,
            r#"{"type":"error","error":{"type":"overloaded_error","message":"no memory"}}"#,
            r#"{"code":500,"message":"no memory"}"#,
            r#"{"detail":"no memory"}"#,
            r#"{"detail":[{"loc":["body"],"msg":"no memory"}]}"#,
            r#"{"status":"error","reason":"no memory"}"#,
            r#"{"choices":[{"error":{"message":"no memory"},"finish_reason":"error"}]}"#,
            r#"{"choices":[{"text":"a"}],"error":"no memory"}"#,
        ] {
            assert_eq!(chunk(news).error.as_deref(), Some("no memory"), "{news}");
        }
        let code = chunk(r#"{"error":{"code":"context_length_exceeded","param":null}}"#).error;
        assert!(code.unwrap().ends_with("context_length_exceeded"));
        for fine in [
            r#"{"choices":[],"error":null}"#,
            r#"{"choices":[{"text":"a"}],"error":{}}"#,
            r#"{"choices":[{"text":"a","error":null}],"code":200,"message":"ok"}"#,
            r#"{"object":"ping","status":"loading","message":"90 %"}"#,
            r#"{"code":200,"message":"fine"}"#,
        ] {
            assert_eq!(chunk(fine).error, None, "{fine}");
        }
    }

    #[test]
    fn counts_in_any_number() {
        let of = |usage: &str| chunk(&format!(r#"{{"choices":[],"usage":{usage}}}"#)).usage;
        let both = Some(Usage { prompt_tokens: Some(5), completion_tokens: Some(7) });
        assert_eq!(of(r#"{"prompt_tokens":5,"completion_tokens":7,"x":1}"#), both);
        assert_eq!(of(r#"{"prompt_tokens":5.0,"completion_tokens":"7"}"#), both);
        assert_eq!((of("null"), of("{}"), of("3"), of("[]")), (None, None, None, None));
        assert!(chunk(r#"{"usage":{"completion_tokens":7}}"#).alone);
        assert!(!chunk(r#"{"choices":[{"text":"a"}],"usage":{"completion_tokens":1}}"#).alone);
    }

    #[test]
    fn several_words_are_several_tokens() {
        for (text, is) in [
            (" word", false),
            ("word ", false),
            (". ", false),
            ("\n\n  ", false),
            ("a b", true),
            (" w w", true),
        ] {
            assert_eq!(several(text.as_bytes()), is, "{text:?}");
        }
    }
}
