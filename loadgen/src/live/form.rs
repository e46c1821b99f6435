//! The form of a request: which of the members that a measurement would like to send a server takes.

use super::api::Api;

/// The material of a prompt.
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

impl Prompts {
    /// Words of a token each, if no tokenizer counts them.
    pub const WORDS: Self = Self::Text { per_word: 1.0, overhead: 0.0 };
}

/// The form of every request of a run.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Form {
    pub(crate) prompts: Prompts,
    pub(crate) length: Length,
    pub(crate) end: End,
    /// True where it asks for temperature 0.
    pub(crate) greedy: bool,
    /// True where it asks the stream for a count of its tokens.
    pub(crate) counts: bool,
    /// True if a stream came back. If the server answers only requests that do not stream, nothing
    /// of a run can be measured, and the server's answer to the run is all there is to report.
    pub(crate) streams: bool,
}

/// The member that says how many tokens to generate at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Length {
    MaxTokens,
    MaxCompletionTokens,
}

/// The member that keeps a model from ending early.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// `ignore_eos`.
    Ignored,
    /// `min_tokens`, as many as are asked for.
    Postponed,
    /// Nothing.
    Free,
}

impl Form {
    /// All that a measurement would like.
    pub(crate) fn full(prompts: Prompts) -> Self {
        Self {
            prompts,
            length: Length::MaxTokens,
            end: End::Ignored,
            greedy: true,
            counts: true,
            streams: true,
        }
    }

    /// The form that any server should take, with that member for the length.
    pub(crate) fn plain(length: Length) -> Self {
        let prompts = Prompts::WORDS;
        Self { prompts, length, end: End::Free, greedy: false, counts: false, streams: true }
    }

    /// Members that are the same in every request, each with a comma before it.
    pub(crate) fn fixed(&self) -> String {
        let mut members = String::new();
        if self.greedy {
            members += r#","temperature":0"#;
        }
        if self.end == End::Ignored {
            members += r#","ignore_eos":true"#;
        }
        members
    }

    /// The member that asks for `output` tokens at most.
    pub(crate) fn member(&self) -> &'static str {
        match self.length {
            Length::MaxTokens => "max_tokens",
            Length::MaxCompletionTokens => "max_completion_tokens",
        }
    }

    /// The parts of the full form that a server of `api` does not take, each with its consequence.
    /// `exact` is true if a tokenizer was given.
    pub(crate) fn given_up(&self, api: Api, exact: bool) -> Vec<&'static str> {
        let ids = api == Api::Chat || exact || self.prompts == Prompts::Ids;
        [
            (!self.streams, "streams (nothing that it does not stream can be measured)"),
            (!ids, "token ids (prompts are words)"),
            (self.end == End::Postponed, "ignore_eos (min_tokens stands in for it)"),
            (self.end == End::Free, "ignore_eos (answers may end before the length asked for)"),
            (!self.greedy, "temperature 0 (its answers are sampled)"),
            (
                self.length == Length::MaxCompletionTokens,
                "max_tokens (max_completion_tokens stands in for it)",
            ),
            (!self.counts, "stream_options (it does not count the tokens of a stream)"),
        ]
        .into_iter()
        .filter_map(|(given_up, what)| given_up.then_some(what))
        .collect()
    }
}
