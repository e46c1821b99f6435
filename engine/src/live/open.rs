//! One request's completions on their way to its client: text out of tokens, and where they end.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc::UnboundedSender;

use super::update::{Finish, Step, Update};
use crate::beam::Search;
use crate::model::tokenizer::Tokenizer;
use crate::model::tokenizer::stream::{Characters, Stops};
use crate::request::Token;

/// A request under way.
pub(super) struct Open {
    /// Its replica.
    pub(super) replica: usize,
    pub(super) updates: UnboundedSender<Update>,
    pub(super) branches: Vec<Branch>,
    pub(super) limit: u32,
    pub(super) min_tokens: u32,
    pub(super) ends: Arc<[Token]>,
    pub(super) search: Option<Search>,
}

/// A completion under way.
#[derive(Clone)]
pub(super) struct Branch {
    pub(super) characters: Characters,
    pub(super) stops: Stops,
    pub(super) count: u32,
    pub(super) done: bool,
}

impl Open {
    /// Hands the answers of its search out.
    pub(super) fn answer(&mut self, tokenizer: Option<&Tokenizer>, at: Duration) {
        let Some(search) = self.search.take() else { return };
        let branches = self.branches.len() as u16;
        let mut answers = search.answers().into_iter();
        for branch in 0..branches {
            let beam = answers.next().unwrap_or_default();
            let mut logprobs = beam.logprobs.into_iter();
            for token in beam.tokens {
                let step = self.step(branch, token, tokenizer);
                self.send(Step { at, logprobs: logprobs.next(), ..step });
            }
            if !self.branches[usize::from(branch)].done {
                // The model has fewer answers than were asked for.
                let (text, finish) = (String::new(), Some(Finish::Stop));
                self.send(Step { branch, token: None, text, logprobs: None, finish, at });
            }
        }
    }

    pub(super) fn send(&self, step: Step) {
        // A client that has gone away is taken note of when its answer is dropped.
        let _ = self.updates.send(Update::Step(step));
    }

    /// The step that `token` is for `branch`.
    pub(super) fn step(
        &mut self,
        branch: u16,
        token: Token,
        tokenizer: Option<&Tokenizer>,
    ) -> Step {
        let b = &mut self.branches[usize::from(branch)];
        b.count += 1;
        let watched = b.count > self.min_tokens;
        let mut finish = (watched && self.ends.contains(&token)).then_some(Finish::Stop);
        let mut fresh = String::new();
        if let Some(tokenizer) = tokenizer.filter(|t| finish.is_none() && !t.is_special(token)) {
            b.characters.push(tokenizer.piece(token), &mut fresh);
        }
        if finish.is_none() && b.count >= self.limit {
            finish = Some(Finish::Length);
        }
        if finish.is_some() {
            b.characters.finish(&mut fresh);
        }
        let mut text = String::new();
        if !watched {
            text = fresh;
        } else if b.stops.push(&fresh, &mut text) {
            finish = Some(Finish::Stop);
        } else if finish.is_some() {
            b.stops.finish(&mut text);
        }
        b.done = finish.is_some();
        Step { branch, token: Some(token), text, logprobs: None, finish, at: Duration::ZERO }
    }
}
