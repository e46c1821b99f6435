//! The bodies of requests: prompts of a known length that share what the trace says they share, and nothing else.
//!
//! Where the server takes token ids, a prompt is exactly as long as the trace wants. Otherwise it is words, as many
//! as the server's own count of a few probes says. Either is a function of (salt, block identity) for blocks that
//! the trace shares between requests, of (salt, request) for all others: prefixes that are alike in the trace are
//! alike on the wire, and the salt, new in every run, keeps a server's cache of the last run from answering this one.

use std::io::Write as _;

use workloads::{Trace, TraceRequest};

use super::endpoint::{Api, Endpoint};

/// Token ids used: above the special tokens of every vocabulary, within the smallest one in use.
const IDS: std::ops::Range<u64> = 1_000..20_000;

/// Words that common vocabularies hold as one token each.
const WORDS: [&str; 64] = [
    "time",
    "year",
    "people",
    "way",
    "day",
    "man",
    "thing",
    "woman",
    "life",
    "child",
    "world",
    "school",
    "state",
    "family",
    "student",
    "group",
    "country",
    "problem",
    "hand",
    "part",
    "place",
    "case",
    "week",
    "company",
    "system",
    "program",
    "question",
    "work",
    "government",
    "number",
    "night",
    "point",
    "home",
    "water",
    "room",
    "mother",
    "area",
    "money",
    "story",
    "fact",
    "month",
    "lot",
    "right",
    "study",
    "book",
    "eye",
    "job",
    "word",
    "business",
    "issue",
    "side",
    "kind",
    "head",
    "house",
    "service",
    "friend",
    "father",
    "power",
    "hour",
    "game",
    "line",
    "end",
    "member",
    "law",
];

/// What a prompt is made of.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Prompts {
    /// Token ids.
    Ids,
    /// Words; a prompt of `w` words has `overhead + w · per_word` tokens.
    Text {
        /// Tokens per word.
        per_word: f64,
        /// Tokens that the server adds (a template, a beginning).
        overhead: f64,
    },
}

/// Renders requests.
pub(crate) struct Prompter {
    prompts: Prompts,
    api: Api,
    salt: u64,
    /// Whether blocks that the trace shares are shared on the wire.
    shared: bool,
    /// Head of every request, up to the value of its name.
    head: String,
    /// Beginning and end of every body.
    opening: String,
    closing: String,
}

impl Prompter {
    /// For requests to `endpoint`; `extra` is JSON members added to every body, without braces.
    pub(crate) fn new(
        endpoint: &Endpoint,
        prompts: Prompts,
        model: &str,
        extra: &str,
        (salt, shared): (u64, bool),
    ) -> Self {
        let api = endpoint.api;
        let lines = "content-type: application/json\r\naccept: text/event-stream\r\n";
        let head = endpoint.head("POST", api.path());
        let head = format!("{head}{lines}x-request-id: knee-{salt:x}-");
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
        let extra = if extra.is_empty() { String::new() } else { format!(",{extra}") };
        let model = serde_json::Value::from(model);
        Self {
            prompts,
            api,
            salt,
            shared,
            head,
            opening: format!("{{\"model\":{model},{opening}"),
            closing: format!("{closing}{extra}"),
        }
    }

    /// The API its requests are for.
    pub(crate) fn api(&self) -> Api {
        self.api
    }

    /// A whole HTTP request for request `index` of the trace, appended to `to`. `body` is scratch space.
    pub(crate) fn render(&self, trace: &Trace, index: u32, body: &mut Vec<u8>, to: &mut Vec<u8>) {
        let request = &trace.requests[index as usize];
        body.clear();
        self.body(trace, request, index, body);
        to.extend_from_slice(self.head.as_bytes());
        // Writing to a vector cannot fail.
        let _ = write!(to, "{index}\r\ncontent-length: {}\r\n\r\n", body.len());
        to.extend_from_slice(body);
    }

    fn body(&self, trace: &Trace, request: &TraceRequest, index: u32, to: &mut Vec<u8>) {
        to.extend_from_slice(self.opening.as_bytes());
        self.prompt(trace, request, index, to);
        to.extend_from_slice(self.closing.as_bytes());
        let output = request.output.max(1);
        let _ = write!(
            to,
            ",\"max_tokens\":{output},\"stream\":true,\"stream_options\":{{\"include_usage\":true}}}}"
        );
    }

    /// The prompt's tokens or words, blocks of the trace from their identities.
    fn prompt(&self, trace: &Trace, request: &TraceRequest, index: u32, to: &mut Vec<u8>) {
        let length = self.units(request.input);
        let own = mix(self.salt ^ mix(u64::from(index) + 1));
        let blocks = if self.shared { trace.blocks_of(request) } else { &[] };
        let block_tokens = u64::from(trace.block_tokens);
        let mut random = own;
        for position in 0..length {
            if block_tokens > 0 && position % block_tokens == 0 {
                let block = blocks.get((position / block_tokens) as usize);
                random = block.map_or(own ^ mix(position), |&id| mix(self.salt ^ mix(id ^ SHARED)));
            }
            random = random.wrapping_add(0x9E37_79B9_7F4A_7C15);
            self.unit(position, mix(random), to);
        }
    }

    /// Tokens or words that make up a prompt of `tokens`.
    fn units(&self, tokens: u32) -> u64 {
        match self.prompts {
            Prompts::Ids => u64::from(tokens.max(1)),
            Prompts::Text { per_word, overhead } => {
                ((f64::from(tokens) - overhead) / per_word).round().max(1.0) as u64
            }
        }
    }

    fn unit(&self, position: u64, random: u64, to: &mut Vec<u8>) {
        match self.prompts {
            Prompts::Ids => {
                let span = u128::from(IDS.end - IDS.start);
                let id = IDS.start + ((u128::from(random) * span) >> 64) as u64;
                if position > 0 {
                    to.push(b',');
                }
                to.extend_from_slice(itoa::Buffer::new().format(id).as_bytes());
            }
            Prompts::Text { .. } => {
                if position > 0 {
                    to.push(b' ');
                }
                to.extend_from_slice(WORDS[(random >> 58) as usize].as_bytes());
            }
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
    use crate::live::endpoint::Server;
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
        let prompter = Prompter::new(&endpoint, prompts, "m\"1", r#""top_k":1"#, (salt, shared));
        let body = |index| {
            let (mut scratch, mut bytes) = (Vec::new(), Vec::new());
            prompter.render(&trace(), index, &mut scratch, &mut bytes);
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
        assert_eq!((&b[0]["max_tokens"], &b[0]["top_k"]), (&Value::from(5), &Value::from(1)));
        assert_eq!(b, of(1, true), "the same salt gives the same prompts");
        assert_ne!(ids(&of(2, true)[0])[0], first[0], "another salt shares nothing");
        let unshared = of(1, false);
        assert_ne!(ids(&unshared[0])[0], ids(&unshared[1])[0]);
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
}
