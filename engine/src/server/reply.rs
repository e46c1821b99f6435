//! One request's answer: the engine's updates as they come, put into OpenAI's words, whole or as a stream, and
//! measured.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::http::StatusCode;
use axum::response::sse::{Event, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use serde_json::json;

use super::admit::{Place, Refusal};
use super::metrics::{Ended, Times};
use super::service::{Service, unix_time};
use super::wire::{Choice, Completion, PromptDetails, Said, TextLogprobs, TokenLogprob, Usage};
use crate::live::{Answer, Finish, Step, Update};
use crate::request::Token;
use crate::sample::Logprobs;

/// The interface that is spoken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// Completions.
    Text,
    /// Chat completions.
    Chat,
}

/// The form of answer that the client wants.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted {
    pub(super) form: Form,
    pub(super) branches: u16,
    /// True where all of it comes at once.
    pub(super) searched: bool,
    pub(super) prompt: u32,
    pub(super) token_ids: bool,
    pub(super) stream: bool,
    pub(super) usage: bool,
}

/// An answer under way. Dropped before its end, it cancels its request.
pub(super) struct Reply {
    service: Arc<Service>,
    answer: Answer,
    place: Option<Place>,
    wanted: Wanted,
    id: String,
    created: u64,
    times: Times,
    cached: u32,
    branches: Vec<Progress>,
    reason: &'static str,
}

/// The progress of a completion.
#[derive(Debug, Clone, Copy, Default)]
struct Progress {
    tokens: u32,
    /// Characters shown.
    shown: usize,
    last: Option<Duration>,
    done: bool,
}

impl Reply {
    pub(super) fn new(
        service: &Arc<Service>,
        answer: Answer,
        place: Place,
        wanted: Wanted,
    ) -> Self {
        service.metrics.accepted(wanted.prompt);
        let prefix = if wanted.form == Form::Chat { "chatcmpl" } else { "cmpl" };
        Self {
            service: Arc::clone(service),
            times: Times { asked: answer.asked, ..Times::default() },
            answer,
            place: Some(place),
            wanted,
            id: format!("{prefix}-{:016x}", rand::random::<u64>()),
            created: unix_time(),
            cached: 0,
            branches: vec![Progress::default(); usize::from(wanted.branches)],
            reason: "abort",
        }
    }

    /// The whole answer, or a stream of it.
    pub(super) async fn respond(self) -> Response {
        if self.wanted.stream {
            return Sse::new(self.events()).into_response();
        }
        self.whole().await.unwrap_or_else(Refusal::into_response)
    }

    /// The next token of any branch; none when all have ended, or the engine has died.
    async fn step(&mut self) -> Option<Step> {
        loop {
            match self.answer.next().await? {
                Update::Admitted { cached, at } => {
                    self.place = None;
                    self.cached = cached;
                    self.times.admitted = Some(at);
                }
                Update::Step(step) => {
                    self.note(&step);
                    return Some(step);
                }
            }
        }
    }

    fn note(&mut self, step: &Step) {
        let branch = &mut self.branches[usize::from(step.branch)];
        branch.tokens += u32::from(step.token.is_some());
        if self.wanted.searched {
            self.service.metrics.found(step.token.is_some());
        } else if let Some(last) = branch.last.replace(step.at) {
            self.service.metrics.gap(step.at.saturating_sub(last));
        }
        branch.done = step.finish.is_some();
        self.times.first.get_or_insert(step.at);
        self.times.last = Some(step.at);
        if self.is_done()
            && let Some(finish) = step.finish
        {
            self.reason = word(finish);
        }
    }

    fn is_done(&self) -> bool {
        self.branches.iter().all(|b| b.done)
    }

    fn usage(&self) -> Usage {
        let output = self.branches.iter().map(|b| b.tokens).sum();
        Usage {
            prompt_tokens: self.wanted.prompt,
            completion_tokens: output,
            total_tokens: self.wanted.prompt + output,
            prompt_tokens_details: PromptDetails { cached_tokens: self.cached },
        }
    }

    fn completion(&self, choices: Vec<Choice>, usage: Option<Usage>) -> Completion {
        let object = match (self.wanted.form, self.wanted.stream) {
            (Form::Text, _) => "text_completion",
            (Form::Chat, false) => "chat.completion",
            (Form::Chat, true) => "chat.completion.chunk",
        };
        let (id, model) = (self.id.clone(), self.service.model.name.clone());
        Completion { id, object, created: self.created, model, choices, usage }
    }

    async fn whole(mut self) -> Result<Response, Refusal> {
        let mut branches = vec![Collected::default(); self.branches.len()];
        while let Some(step) = self.step().await {
            let offset = self.shown(&step);
            let branch = &mut branches[usize::from(step.branch)];
            branch.text += &step.text;
            branch.finish = step.finish;
            if let (Some(token), Some(logprobs)) = (step.token, step.logprobs) {
                branch.logprobs.push((token, logprobs, offset));
            }
            branch.tokens.extend(step.token);
        }
        if !self.is_done() {
            return Err(Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "the engine has stopped"));
        }
        let choice = |(index, branch): (u16, Collected)| {
            let logprobs = self.logprobs(&branch.logprobs);
            let mut choice = Choice {
                index,
                logprobs,
                finish_reason: branch.finish.map(word),
                token_ids: self.wanted.token_ids.then_some(branch.tokens),
                ..Choice::default()
            };
            match self.wanted.form {
                Form::Text => choice.text = Some(branch.text),
                Form::Chat => {
                    choice.message = Some(Said { role: Some("assistant"), content: branch.text });
                }
            }
            choice
        };
        let choices = (0..).zip(branches).map(choice).collect();
        Ok(Json(self.completion(choices, Some(self.usage()))).into_response())
    }

    /// One event per token, then the usage if it is wanted, then OpenAI's last word.
    fn events(self) -> impl stream::Stream<Item = Result<Event, Infallible>> {
        stream::unfold((self, Stage::Tokens), |(mut reply, stage)| async move {
            let (event, next) = match stage {
                Stage::Tokens => match reply.step().await {
                    Some(step) => (reply.chunk(step), Stage::Tokens),
                    None if !reply.is_done() => (broken(), Stage::Over),
                    None if reply.wanted.usage => {
                        let usage = Some(reply.usage());
                        (data(&reply.completion(Vec::new(), usage)), Stage::Done)
                    }
                    None => (Event::default().data("[DONE]"), Stage::Over),
                },
                Stage::Done => (Event::default().data("[DONE]"), Stage::Over),
                Stage::Over => return None,
            };
            Some((Ok(event), (reply, next)))
        })
    }

    fn chunk(&mut self, step: Step) -> Event {
        let first = self.branches[usize::from(step.branch)].tokens <= 1;
        let offset = self.shown(&step);
        let shown: Vec<_> =
            step.token.zip(step.logprobs).map(|(t, l)| (t, l, offset)).into_iter().collect();
        let mut choice = Choice {
            index: step.branch,
            logprobs: self.logprobs(&shown),
            finish_reason: step.finish.map(word),
            token_ids: self.wanted.token_ids.then(|| step.token.into_iter().collect()),
            ..Choice::default()
        };
        match self.wanted.form {
            Form::Text => choice.text = Some(step.text),
            Form::Chat => {
                let role = first.then_some("assistant");
                choice.delta = Some(Said { role, content: step.text });
            }
        }
        data(&self.completion(vec![choice], None))
    }

    /// The start of the text of `step` in its completion, in characters.
    fn shown(&mut self, step: &Step) -> usize {
        let branch = &mut self.branches[usize::from(step.branch)];
        let offset = branch.shown;
        branch.shown += step.text.chars().count();
        offset
    }

    /// Log probabilities in the form of the interface; none when they were not asked for.
    fn logprobs(&self, tokens: &[(Token, Logprobs, usize)]) -> Option<serde_json::Value> {
        if tokens.is_empty() {
            return None;
        }
        let bytes = |token: Token| self.service.model.tokenizer.piece(token);
        let text = |token: Token| String::from_utf8_lossy(bytes(token)).into_owned();
        let value = if self.wanted.form == Form::Text {
            let mut lists = TextLogprobs::default();
            for (token, logprobs, offset) in tokens {
                lists.tokens.push(text(*token));
                lists.token_logprobs.push(finite(logprobs.chosen));
                let top = logprobs.top.iter().map(|(t, l)| (text(*t), json!(finite(*l))));
                lists.top_logprobs.push(top.collect());
                lists.text_offset.push(*offset);
            }
            json!(lists)
        } else {
            let one = |token: Token, logprob: f32, top_logprobs| TokenLogprob {
                token: text(token),
                logprob: finite(logprob),
                bytes: bytes(token).to_vec(),
                top_logprobs,
            };
            let content: Vec<TokenLogprob> = tokens
                .iter()
                .map(|(token, logprobs, _)| {
                    let top = logprobs.top.iter().map(|(t, l)| one(*t, *l, None)).collect();
                    one(*token, logprobs.chosen, Some(top))
                })
                .collect();
            json!({ "content": content })
        };
        Some(value)
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        self.service.metrics.over(Ended {
            reason: self.reason,
            prompt: self.wanted.prompt,
            output: self.usage().completion_tokens,
            paced: if self.wanted.searched { 0 } else { self.branches[0].tokens },
            times: self.times,
        });
    }
}

/// The next part of a stream.
enum Stage {
    Tokens,
    Done,
    Over,
}

/// A completion put together.
#[derive(Debug, Clone, Default)]
struct Collected {
    text: String,
    tokens: Vec<Token>,
    logprobs: Vec<(Token, Logprobs, usize)>,
    finish: Option<Finish>,
}

fn word(finish: Finish) -> &'static str {
    match finish {
        Finish::Stop => "stop",
        Finish::Length => "length",
    }
}

/// JSON has no infinity: the impossible is very unlikely, as in OpenAI's interface.
fn finite(logprob: f32) -> f32 {
    logprob.max(-9999.0)
}

fn data(value: &impl serde::Serialize) -> Event {
    Event::default().json_data(value).unwrap_or_else(|_| broken())
}

fn broken() -> Event {
    let error = json!({"error": {"message": "the engine has stopped", "type": "server_error",
        "param": null, "code": 500}});
    Event::default().data(error.to_string())
}
