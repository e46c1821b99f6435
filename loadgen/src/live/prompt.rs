//! The bodies of requests: prompts of a known length that share what the trace says they share, and nothing else.
//!
//! A prompt of token ids, for a server that takes them, is exactly as long as the trace wants.
//! Otherwise a prompt is words. Their number follows from the server's own count of a few probes;
//! words of its own tokenizer make it exact too. Either is a function of (salt, block identity) for
//! blocks that the trace shares between requests, of (salt, request) for all others: prefixes that
//! are alike in the trace are alike on the wire, and the salt, new in every run, keeps a server's
//! cache of the last run from answering this one. A turn that repeats an answer
//! ([`Talks`](super::conversation::Talks)) has the server's own words in that place.

use std::io::Write as _;

use workloads::{Trace, TraceRequest};

use super::api::Api;
use super::conversation::Passage;
use super::endpoint::Endpoint;
use super::form::{End, Form, Prompts};
use super::vocabulary::Vocabulary;

/// Token ids used: above the special tokens of every vocabulary, within the smallest one in use.
const IDS: std::ops::Range<u64> = 1_000..20_000;

/// Renders requests.
pub(crate) struct Prompter {
    form: Form,
    vocabulary: Vocabulary,
    api: Api,
    salt: u64,
    /// True where blocks that the trace shares are shared on the wire.
    shared: bool,
    /// Head of every request, up to the last group of its name.
    head: String,
    /// Beginning and end of every body.
    opening: String,
    closing: String,
}

impl Prompter {
    /// For requests to `endpoint` in that form.
    pub(crate) fn new(
        endpoint: &Endpoint,
        (form, vocabulary): (&Form, &Vocabulary),
        model: &str,
        (salt, shared): (u64, bool),
    ) -> Self {
        let (api, prompts) = (endpoint.api, form.prompts);
        let lines = "content-type: application/json\r\naccept: text/event-stream\r\n";
        let head = endpoint.head("POST", &endpoint.target());
        let opening = match (api, prompts) {
            (Api::Chat, _) => r#""messages":[{"role":"user","content":""#,
            (_, Prompts::Ids) => r#""prompt":["#,
            (_, Prompts::Text { .. }) => r#""prompt":""#,
        };
        let closing = match (api, prompts) {
            (Api::Chat, _) => r#""}]"#,
            (_, Prompts::Ids) => "]",
            (_, Prompts::Text { .. }) => r#"""#,
        };
        let model = serde_json::Value::from(model);
        Self {
            vocabulary: vocabulary.clone(),
            api,
            salt,
            shared,
            head: format!("{head}{lines}x-request-id: {}", name(salt)),
            opening: format!("{{\"model\":{model},{opening}"),
            closing: format!("{closing}{}", form.fixed()),
            form: form.clone(),
        }
    }

    /// True where it writes token ids.
    pub(crate) fn writes_ids(&self) -> bool {
        self.form.prompts == Prompts::Ids
    }

    /// True where blocks that the trace shares are shared on the wire.
    pub(crate) fn shares(&self) -> bool {
        self.shared
    }

    /// A whole HTTP request, appended to `to`. `body` is scratch space.
    pub(crate) fn render(&self, ask: &Asked<'_>, body: &mut Vec<u8>, to: &mut Vec<u8>) {
        body.clear();
        self.body(ask, body);
        to.extend_from_slice(self.head.as_bytes());
        let index = ask.index;
        // Writing to a vector cannot fail.
        let _ = write!(to, "{index:012x}\r\ncontent-length: {}\r\n\r\n", body.len());
        to.extend_from_slice(body);
    }

    fn body(&self, ask: &Asked<'_>, to: &mut Vec<u8>) {
        let request = ask.request();
        to.extend_from_slice(self.opening.as_bytes());
        let made_up = MadeUp::new(self, ask);
        match self.form.prompts {
            Prompts::Ids => ids(made_up, ask, to),
            Prompts::Text { per_word, overhead } => {
                let (vocabulary, chat) = (&self.vocabulary, self.api == Api::Chat);
                Text { made_up, vocabulary, per_word, at: overhead, chat, begun: false }
                    .write(ask, to);
            }
        }
        to.extend_from_slice(self.closing.as_bytes());
        if ask.awaited && self.writes_ids() {
            to.extend_from_slice(br#","return_token_ids":true"#);
        }
        let output = request.output.max(1);
        let _ = write!(to, ",\"{}\":{output}", self.form.member());
        if self.form.end == End::Postponed {
            let _ = write!(to, ",\"min_tokens\":{output}");
        }
        to.extend_from_slice(br#","stream":true"#);
        if self.form.counts {
            to.extend_from_slice(br#","stream_options":{"include_usage":true}"#);
        }
        to.push(b'}');
    }
}

/// The name of a run's requests, a UUID of version 4 up to its last group, which is the request's
/// number: servers refuse names that are no UUID.
fn name(salt: u64) -> String {
    let (high, middle, low) = (salt >> 32, (salt >> 16) & 0xFFFF, salt & 0xFFFF);
    format!("{high:08x}-{middle:04x}-4{:03x}-8{:x}00-", low >> 4, low & 0xF)
}

/// A request to be rendered.
pub(crate) struct Asked<'a> {
    pub(crate) trace: &'a Trace,
    pub(crate) index: u32,
    /// The parts of its prompt that have been said before.
    pub(crate) passages: &'a [Passage<'a>],
    /// True where a later turn repeats its answer.
    pub(crate) awaited: bool,
}

impl Asked<'_> {
    fn request(&self) -> &TraceRequest {
        &self.trace.requests[self.index as usize]
    }
}

/// Random numbers by position in a prompt, alike where the trace's blocks are.
struct MadeUp<'a> {
    salt: u64,
    own: u64,
    blocks: &'a [u64],
    block_tokens: u32,
    /// The start of the current block, and the seed of its numbers.
    block: (u32, u64),
}

impl<'a> MadeUp<'a> {
    fn new(prompter: &Prompter, ask: &Asked<'a>) -> Self {
        let blocks = if prompter.shared { ask.trace.blocks_of(ask.request()) } else { &[] };
        let own = mix(prompter.salt ^ mix(u64::from(ask.index) + 1));
        let block_tokens = if blocks.is_empty() { 0 } else { ask.trace.block_tokens };
        let mut made_up = Self { salt: prompter.salt, own, blocks, block_tokens, block: (0, own) };
        made_up.enter(0);
        made_up
    }

    fn enter(&mut self, position: u32) {
        if let Some(block) = position.checked_div(self.block_tokens) {
            let start = block * self.block_tokens;
            let known = self.blocks.get(block as usize);
            let seed = known
                .map_or(self.own ^ mix(u64::from(start)), |&id| mix(self.salt ^ mix(id ^ SHARED)));
            self.block = (start, seed);
        }
    }

    /// The number at `position`; positions are best asked for in order.
    fn at(&mut self, position: u32) -> u64 {
        let offset = position.wrapping_sub(self.block.0);
        if self.block_tokens > 0 && offset >= self.block_tokens {
            self.enter(position);
        }
        let offset = u64::from(position - self.block.0);
        mix(self.block.1.wrapping_add(0x9E37_79B9_7F4A_7C15_u64.wrapping_mul(offset + 1)))
    }
}

/// A prompt of token ids, said and made up.
fn ids(mut made_up: MadeUp<'_>, ask: &Asked<'_>, to: &mut Vec<u8>) {
    let mut position = 0;
    let mut fill = |from: u32, until: u32, to: &mut Vec<u8>| {
        for position in from..until {
            let span = u128::from(IDS.end - IDS.start);
            let id = (u128::from(made_up.at(position)) * span) >> 64;
            push_id(position, IDS.start + id as u64, to);
        }
    };
    for passage in ask.passages.iter().filter(|p| !p.ids().is_empty()) {
        // Two answers in one place are two to the same prompt: the first stands.
        if passage.at < position {
            continue;
        }
        fill(position, passage.at, to);
        position = passage.at;
        for &id in passage.ids() {
            push_id(position, u64::from(id), to);
            position += 1;
        }
    }
    fill(position, ask.request().input.max(1), to);
}

fn push_id(position: u32, id: u64, to: &mut Vec<u8>) {
    if position > 0 {
        to.push(b',');
    }
    to.extend_from_slice(itoa::Buffer::new().format(id).as_bytes());
}

/// A prompt of words in the course of being written.
struct Text<'a> {
    made_up: MadeUp<'a>,
    vocabulary: &'a Vocabulary,
    per_word: f64,
    /// Tokens so far, by the server's count.
    at: f64,
    chat: bool,
    /// True once the current message has any words.
    begun: bool,
}

impl Text<'_> {
    fn write(mut self, ask: &Asked<'_>, to: &mut Vec<u8>) {
        let mut covered = 0;
        for passage in ask.passages.iter().filter(|p| !p.text().is_empty()) {
            if passage.at < covered {
                continue;
            }
            self.words(passage.at, to);
            self.answer(passage.text(), to);
            covered = passage.at + passage.take;
            self.at = f64::from(passage.end());
        }
        self.words(ask.request().input, to);
    }

    /// Words until there are `until` tokens, to the nearest word; one at least.
    fn words(&mut self, until: u32, to: &mut Vec<u8>) {
        loop {
            if self.begun {
                to.extend_from_slice(self.vocabulary.gap.as_bytes());
            }
            self.begun = true;
            let random = self.made_up.at(self.at.max(0.0) as u32);
            to.extend_from_slice(self.vocabulary.word(random).as_bytes());
            self.at += self.per_word;
            if self.at + self.per_word / 2.0 > f64::from(until) {
                return;
            }
        }
    }

    /// Writes the server's words, in a chat as a message of its own.
    fn answer(&mut self, text: &str, to: &mut Vec<u8>) {
        let quoted = serde_json::Value::from(text).to_string();
        let escaped = &quoted[1..quoted.len() - 1];
        if self.chat {
            to.extend_from_slice(br#""},{"role":"assistant","content":""#);
        }
        to.extend_from_slice(escaped.as_bytes());
        if self.chat {
            to.extend_from_slice(br#""},{"role":"user","content":""#);
            self.begun = false;
        }
    }
}

/// Tells the numbers of blocks from those of requests.
const SHARED: u64 = 0x5348_4152_4544_0000;

/// SplitMix64's finaliser.
fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::live::server::Server;
    use serde_json::Value;
    use std::time::Duration;
    use workloads::{Arrival, BlockSpan};

    fn trace() -> Trace {
        let request = |input, start, len| TraceRequest {
            arrival: Arrival::At(Duration::ZERO),
            input,
            output: 5,
            blocks: BlockSpan { start, len },
            class: 0,
            session: None,
        };
        Trace {
            name: "t".to_owned(),
            // The first two share two blocks of 4 and go their own ways; the third shares nothing.
            requests: vec![request(12, 0, 3), request(10, 3, 3), request(9, 6, 0)],
            block_ids: vec![7, 8, 9, 7, 8, 10],
            block_tokens: 4,
            max_concurrent_sessions: None,
            classes: vec!["all".to_owned()],
            provenance: Vec::new(),
        }
    }

    fn bodies(api: Api, prompts: Prompts, salt: u64, shared: bool) -> Vec<Value> {
        let server = Server { url: "http://127.0.0.1".to_owned(), api, ..Server::default() };
        let endpoint = Endpoint::find(&server).unwrap();
        let form = Form::full(prompts);
        let vocabulary = Vocabulary::default();
        let prompter = Prompter::new(&endpoint, (&form, &vocabulary), "m\"1", (salt, shared));
        let body = |index| {
            let (mut scratch, mut bytes) = (Vec::new(), Vec::new());
            let trace = trace();
            let asked = Asked { trace: &trace, index, passages: &[], awaited: false };
            prompter.render(&asked, &mut scratch, &mut bytes);
            let text = String::from_utf8(bytes).unwrap();
            let (head, body) = text.split_once("\r\n\r\n").unwrap();
            assert!(head.contains(&format!("content-length: {}", body.len())), "{head}");
            serde_json::from_str(body).unwrap()
        };
        (0..3).map(body).collect()
    }

    fn ids(body: &Value) -> Vec<u64> {
        body["prompt"].as_array().unwrap().iter().map(|id| id.as_u64().unwrap()).collect()
    }

    #[test]
    fn token_ids_are_as_many_and_as_shared_as_the_trace_says() {
        let of = |salt, shared| bodies(Api::Completions, Prompts::Ids, salt, shared);
        let b = of(1, true);
        let [first, second, third] = [0, 1, 2].map(|i| ids(&b[i]));
        assert_eq!((first.len(), second.len(), third.len()), (12, 10, 9));
        assert_eq!(first[..8], second[..8]);
        assert!(first[8] != second[8] && first[0] != third[0]);
        assert!(first.iter().all(|id| IDS.contains(id)));
        assert_eq!(b[0]["model"], "m\"1");
        assert_eq!(
            (&b[0]["max_tokens"], &b[0]["ignore_eos"]),
            (&Value::from(5), &Value::from(true))
        );
        assert_eq!(b, of(1, true), "the same salt gives the same prompts");
        assert_ne!(ids(&of(2, true)[0])[0], first[0], "another salt shares nothing");
        let unshared = of(1, false);
        assert_ne!(ids(&unshared[0])[0], ids(&unshared[1])[0]);
    }

    #[test]
    fn a_form_sends_its_members_and_no_more() {
        let server = Server { url: "http://127.0.0.1".to_owned(), ..Server::default() };
        let endpoint = Endpoint::find(&server).unwrap();
        let body = |form: &Form| -> Value {
            let prompter = Prompter::new(&endpoint, (form, &Vocabulary::default()), "m", (1, true));
            let (mut scratch, mut bytes, trace) = (Vec::new(), Vec::new(), trace());
            let asked = Asked { trace: &trace, index: 0, passages: &[], awaited: false };
            prompter.render(&asked, &mut scratch, &mut bytes);
            serde_json::from_slice(&scratch).unwrap()
        };
        let full = body(&Form::full(Prompts::Ids));
        for member in ["temperature", "ignore_eos", "max_tokens", "stream", "stream_options"] {
            assert!(!full[member].is_null(), "{member}");
        }
        let plain = body(&Form::plain(super::super::form::Length::MaxCompletionTokens));
        let members: Vec<&String> = plain.as_object().unwrap().keys().collect();
        assert_eq!(members, ["max_completion_tokens", "model", "prompt", "stream"]);
        let late = body(&Form { end: End::Postponed, ..Form::full(Prompts::Ids) });
        assert_eq!((&late["min_tokens"], &late["ignore_eos"]), (&5.into(), &Value::Null));
    }

    #[test]
    fn names_are_uuids_and_no_two_alike() {
        let name = |salt, index: u32| format!("{}{index:012x}", name(salt));
        for salt in [0, 1, u64::MAX, 0x0123_4567_89ab_cdef] {
            let text = name(salt, 77);
            let groups: Vec<usize> = text.split('-').map(str::len).collect();
            assert_eq!(groups, [8, 4, 4, 4, 12], "{text}");
            assert!(text.as_bytes()[14] == b'4' && text.as_bytes()[19] == b'8', "{text}");
            assert!(text.bytes().all(|b| b == b'-' || b.is_ascii_hexdigit()), "{text}");
        }
        assert_eq!(name(0x0123_4567_89ab_cdef, 77), "01234567-89ab-4cde-8f00-00000000004d");
        assert_ne!(name(1, 0), name(2, 0));
        assert_ne!(name(1, 0), name(1, 1));
    }

    #[test]
    fn words_are_calibrated() {
        let prompts = Prompts::Text { per_word: 2.0, overhead: 4.0 };
        let chat = bodies(Api::Chat, prompts, 1, true);
        let content = chat[0]["messages"][0]["content"].as_str().unwrap();
        assert_eq!(content.split(' ').count(), 4, "{content}");
        let plain = bodies(Api::Completions, prompts, 1, true);
        assert!(plain[0]["prompt"].as_str().unwrap().starts_with(content));
    }

    /// Two turns of a session: 6 tokens and an answer of 4, all of which the second repeats.
    fn session() -> Trace {
        let mut trace = trace();
        trace.requests.truncate(2);
        for (index, (input, output, blocks)) in
            [(6, 4, (0, 3)), (14, 3, (0, 4))].into_iter().enumerate()
        {
            let request = &mut trace.requests[index];
            (request.input, request.output, request.session) = (input, output, Some(1));
            request.blocks = BlockSpan { start: blocks.0, len: blocks.1 };
        }
        trace.requests[1].arrival = Arrival::After { previous: 0, think: Duration::ZERO };
        trace
    }

    /// The bodies of both turns, the first of which was answered with `events`.
    fn turns(api: Api, prompts: Prompts, events: &[&str], usage: Option<(u32, u32)>) -> [Value; 2] {
        use crate::json::Json;
        use crate::live::chunk::{Chunk, Usage};
        use crate::live::conversation::{Hearing, Talks};
        let server = Server { url: "http://127.0.0.1".to_owned(), api, ..Server::default() };
        let endpoint = Endpoint::find(&server).unwrap();
        let form = Form::full(prompts);
        let prompter = Prompter::new(&endpoint, (&form, &Vocabulary::default()), "m", (7, true));
        let (trace, mut talks) = (session(), Talks::new(&session(), true));
        let body = |talks: &Talks, index| {
            let passages = talks.passages(&trace, index);
            let awaited = talks.awaits(index);
            let (mut scratch, mut bytes) = (Vec::new(), Vec::new());
            let asked = Asked { trace: &trace, index, passages: &passages, awaited };
            prompter.render(&asked, &mut scratch, &mut bytes);
            serde_json::from_slice(&scratch).unwrap()
        };
        let first = body(&talks, 0);
        let mut hearing = Hearing::new(prompts == Prompts::Ids);
        for event in events {
            let event = Json::of(event.as_bytes()).unwrap();
            let chunk = Chunk::of(&event);
            hearing.take_in(&chunk.said, &chunk.aside, chunk.ids);
        }
        let (prompt_tokens, completion_tokens) = usage.unzip();
        talks.heard(&trace, 0, hearing, Usage { prompt_tokens, completion_tokens });
        talks.over(0);
        [first, body(&talks, 1)]
    }

    #[test]
    fn a_turn_is_the_prompt_before_it_the_answer_and_more() {
        let events =
            [r#"{"choices":[{"token_ids":[5,6]}]}"#, r#"{"choices":[{"token_ids":[7,8]}]}"#];
        let [first, second] = turns(Api::Completions, Prompts::Ids, &events, None);
        assert_eq!(
            (&first["return_token_ids"], &second["return_token_ids"]),
            (&true.into(), &Value::Null)
        );
        let (first, second) = (ids(&first), ids(&second));
        assert_eq!((first.len(), second.len()), (6, 14));
        assert_eq!((&second[..6], &second[6..10]), (&first[..], &[5, 6, 7, 8][..]));
        assert!(second[10..].iter().all(|id| IDS.contains(id)));
        // Half an answer is followed by what would have stood there anyway.
        let [_, short] = turns(Api::Completions, Prompts::Ids, &events[..1], None);
        let [_, none] = turns(Api::Completions, Prompts::Ids, &[], None);
        let (short, none) = (ids(&short), ids(&none));
        assert_eq!((&short[6..8], &short[8..], none.len()), (&[5, 6][..], &none[8..], 14));
        assert_eq!((&none[..6], &none[10..]), (&first[..], &second[10..]));
    }

    #[test]
    fn text_and_messages_carry_the_answer_too() {
        let events =
            [r#"{"choices":[{"text":" \"a\n"}]}"#, r#"{"choices":[{"delta":{"content":"b"}}]}"#];
        let words = Prompts::Text { per_word: 1.0, overhead: 2.0 };
        let [first, second] = turns(Api::Completions, words, &events, Some((6, 4)));
        let (first, second) =
            (first["prompt"].as_str().unwrap(), second["prompt"].as_str().unwrap());
        assert_eq!(first.split(' ').count(), 4);
        let rest = second.strip_prefix(first).unwrap().strip_prefix(" \"a\nb ").unwrap();
        assert_eq!(rest.split(' ').count(), 4, "{second}");
        // By the server's count the two were 12 tokens: two are left.
        let [first, second] = turns(Api::Chat, words, &events, Some((8, 4)));
        let message =
            |role: &str, content: Value| serde_json::json!({"role": role, "content": content});
        let messages = second["messages"].as_array().unwrap();
        assert_eq!(messages[0], first["messages"][0]);
        assert_eq!(messages[1], message("assistant", " \"a\nb".into()));
        let last = messages[2]["content"].as_str().unwrap();
        assert_eq!((messages.len(), last.split(' ').count()), (3, 2), "{second}");
        assert_eq!(messages[2], message("user", last.into()));
    }
}
