//! The questions to a server before it can be measured: which model it serves, in which form it takes requests, and
//! how it counts the tokens of text.
//!
//! The questions are the run's own requests, byte for byte, and are judged by what comes of them: a
//! form works when a stream of tokens comes back, whatever the status of those that did not work.
//! If the full form does not work, the plainest that does is found, and every member that a
//! measurement would like is tried on top of it.

use std::time::Duration;

use workloads::{Arrival, BlockSpan, Trace, TraceRequest};

use super::answer::{Answer, Trouble};
use super::api::Api;
use super::call::{call, failed};
use super::chunk::Finish;
use super::conversation::Hearing;
use super::endpoint::Endpoint;
use super::failure::{Kind, is_busy, one_line};
use super::form::{End, Form, Length, Prompts};
use super::greet::{choose_address, first_model, unauthorised};
use super::prompt::{Asked, Prompter};
use super::server::Server;
use super::vocabulary::Vocabulary;
use crate::error::Error;
use crate::json::Json;

/// Lengths of the probes, tokens or words.
const SHORT: u32 = 32;
const LONG: u32 = 384;
/// Tokens asked for: servers refuse very few.
const OUTPUT: u32 = 16;
/// A count of prompt tokens so far from what was sent is not of that.
const OFF: u32 = 4;
/// Most repetitions of a probe that met a busy server.
const RETRIES: u32 = 2;
/// The wait before each, where the server does not say.
const USUAL_WAIT: Duration = Duration::from_secs(1);
/// The longest that a probe waits because it was told to.
const LONGEST_WAIT: Duration = Duration::from_secs(5);

/// The findings.
#[derive(Debug, Clone)]
pub(super) struct Probed {
    pub(super) model: String,
    pub(super) form: Form,
    pub(super) vocabulary: Vocabulary,
    /// True where the server's streams say why they end.
    pub(super) reasons: bool,
}

/// Asks.
pub(super) fn probe(
    endpoint: &mut Endpoint,
    server: &Server,
    timeout: Duration,
) -> Result<Probed, Error> {
    choose_address(endpoint, timeout)?;
    let exact = server.tokenizer.is_some();
    let vocabulary = server.tokenizer.as_ref().map(Vocabulary::of).transpose()?.unwrap_or_default();
    let model = match &server.model {
        Some(model) => model.clone(),
        None => first_model(endpoint, timeout)?,
    };
    let mut asker = Asker { endpoint, model: &model, vocabulary: &vocabulary, timeout };
    let (form, heard) = asker.negotiate(exact)?;
    let reasons = heard.reason;
    let form = match form.prompts {
        Prompts::Ids => form,
        Prompts::Text { .. } => Form { prompts: asker.calibrate(&form, &heard)?, ..form },
    };
    if let Prompts::Text { per_word, .. } = form.prompts
        && exact
        && per_word != 1.0
    {
        return Err(Error::Endpoint(format!(
            "a word that is one token by --tokenizer is {per_word:.3} by the server's count: give the tokenizer of the model that it serves"
        )));
    }
    Ok(Probed { model, form, vocabulary, reasons })
}

/// Text instead of token ids, unless the server says which tokens its answers are (vLLM's `return_token_ids`): a turn
/// that repeats an answer must have it in the form that the rest of the prompt has.
pub(super) fn for_answers(
    endpoint: &mut Endpoint,
    probed: &mut Probed,
    timeout: Duration,
) -> Result<(), Error> {
    if probed.form.prompts != Prompts::Ids {
        return Ok(());
    }
    let (model, vocabulary) = (probed.model.clone(), probed.vocabulary.clone());
    let mut asker = Asker { endpoint, model: &model, vocabulary: &vocabulary, timeout };
    if asker.ask(&probed.form, SHORT, true)?.returns_ids {
        return Ok(());
    }
    let words = Form { prompts: Prompts::WORDS, ..probed.form.clone() };
    let heard = asker.ask(&words, SHORT, false)?;
    if let Err(trouble) = &heard.outcome {
        return Err(asker.refused(trouble));
    }
    probed.form.prompts = asker.calibrate(&words, &heard)?;
    Ok(())
}

/// Asks one server for one model.
struct Asker<'a> {
    endpoint: &'a mut Endpoint,
    model: &'a str,
    vocabulary: &'a Vocabulary,
    timeout: Duration,
}

/// The outcome of a request.
struct Heard {
    outcome: Result<(), Trouble>,
    /// Prompt tokens as the server counted them.
    prompt_tokens: Option<u32>,
    retry_after: Option<Duration>,
    /// True where the answer has its token ids.
    returns_ids: bool,
    /// True where the answer has a finish reason.
    reason: bool,
}

impl Heard {
    /// True if tokens came back, and token ids were taken for such.
    fn works(&self, form: &Form) -> bool {
        let counted = self.prompt_tokens.filter(|n| *n > 0);
        let as_sent =
            form.prompts != Prompts::Ids || counted.is_none_or(|n| n.abs_diff(SHORT) < OFF);
        self.outcome.is_ok() && as_sent
    }

    /// True if an answer came back, though one that the model ended before its first token.
    fn ends(&self) -> bool {
        matches!(self.outcome, Ok(()) | Err((Kind::Empty, _)))
    }

    /// The status of a refusal for now.
    fn busy(&self) -> bool {
        matches!(self.outcome, Err((Kind::Status(status), _)) if is_busy(status))
    }
}

impl Asker<'_> {
    /// The nearest form to the full one that works, and what came of it.
    fn negotiate(&mut self, exact: bool) -> Result<(Form, Heard), Error> {
        let ids = self.endpoint.api == Api::Completions && !exact;
        let full = Form::full(if ids { Prompts::Ids } else { Prompts::WORDS });
        let heard = self.ask(&full, SHORT, false)?;
        if heard.works(&full) {
            return Ok((full, heard));
        }
        let mut best = match self.plainest(heard) {
            Ok(best) => best,
            Err(error @ (Error::NotReady(_) | Error::Nobody(_))) => return Err(error),
            Err(error) => {
                // It may serve and not stream.
                let mut forms = [full, Form::plain(Length::MaxTokens)].into_iter();
                let form = forms.find(|form| self.whole(form, SHORT).is_some()).ok_or(error)?;
                let heard = Heard::of(Err((Kind::NotSse, String::new())));
                return Ok((Form { streams: false, ..form }, heard));
            }
        };
        for change in CHANGES {
            let mut form = best.0.clone();
            if !change(&mut form, ids) {
                continue;
            }
            let mut heard = self.ask(&form, SHORT, false)?;
            for _ in 0..RETRIES {
                if !heard.busy() {
                    break;
                }
                std::thread::sleep(heard.retry_after.unwrap_or(USUAL_WAIT).min(LONGEST_WAIT));
                heard = self.ask(&form, SHORT, false)?;
            }
            if heard.works(&form) {
                best = (form, heard);
            }
        }
        Ok(best)
    }

    /// The plainest form that works, where the full one came to `first`.
    fn plainest(&mut self, first: Heard) -> Result<(Form, Heard), Error> {
        if let Err((Kind::Status(status @ (401 | 403 | 407)), said)) = &first.outcome {
            return Err(unauthorised(self.endpoint, *status, said));
        }
        let mut at_first = None;
        loop {
            let (mut told, mut missing) = (None, false);
            for length in [Length::MaxTokens, Length::MaxCompletionTokens] {
                let form = Form::plain(length);
                let heard = self.ask(&form, SHORT, false)?;
                if heard.ends() {
                    return Ok((form, heard));
                }
                missing |= matches!(heard.outcome, Err((Kind::Status(404 | 405), _)));
                told = told.or(heard.outcome.err());
            }
            at_first = at_first.or(told);
            if !missing || !self.endpoint.next_root() {
                break;
            }
        }
        let trouble = at_first.or(first.outcome.err()).unwrap_or((Kind::Empty, String::new()));
        Err(self.refused(&trouble))
    }

    /// The error for a server that takes no form, the plainest with `trouble`.
    fn refused(&mut self, trouble: &Trouble) -> Error {
        let (server, target) = (self.endpoint.shown().0, self.endpoint.target());
        let said = one_line(&trouble.1);
        match trouble.0 {
            Kind::Status(status) if is_busy(status) => {
                Error::NotReady(format!("POST {target} says {status}: {said}"))
            }
            Kind::Status(status @ (404 | 405 | 501)) => {
                let out = if self.answers_chat() {
                    "; it answers chats: give --api chat"
                } else {
                    ": name another model with --model, or the endpoint's whole path with --url"
                };
                Error::Endpoint(format!(
                    "the server at {server} does not know the model or {target} (status {status}): {said}{out}"
                ))
            }
            Kind::NotSse => Error::Endpoint(format!(
                "the server at {server} does not stream its answers, so nothing but their ends could be measured: {said}"
            )),
            Kind::Refused | Kind::Unreachable | Kind::Timeout | Kind::Cut | Kind::Reset => {
                failed(self.endpoint, &format!("POST {target}"), trouble)
            }
            kind => Error::Endpoint(format!(
                "the server at {server} refuses every form of request to {target}; the plainest with {kind}: {said}"
            )),
        }
    }

    /// True if a server that knows no completions knows chats.
    fn answers_chat(&mut self) -> bool {
        if self.endpoint.api == Api::Chat || self.endpoint.whole {
            return false;
        }
        self.endpoint.api = Api::Chat;
        let heard = self.ask(&Form::plain(Length::MaxTokens), SHORT, false);
        self.endpoint.api = Api::Completions;
        heard.is_ok_and(|heard| heard.ends())
    }

    /// One request behind a prompt of `length`, after redirects on the same server.
    ///
    /// # Errors
    /// No server there, no end in time, or a redirect that leads to another server. Any answer of
    /// the server is a success.
    fn ask(&mut self, form: &Form, length: u32, awaited: bool) -> Result<Heard, Error> {
        for _ in 0..3 {
            let mut answer = Answer::default();
            answer.stream.hearing = awaited.then(|| Box::new(Hearing::new(true)));
            let bytes = self.bytes(form, length, awaited);
            let mut answer = match call(self.endpoint, &bytes, answer, self.timeout) {
                Ok(answer) => answer,
                Err(trouble)
                    if matches!(
                        trouble.0,
                        Kind::Refused
                            | Kind::Unreachable
                            | Kind::Denied
                            | Kind::Tls
                            | Kind::Timeout
                    ) =>
                {
                    return Err(failed(self.endpoint, "asking the server", &trouble));
                }
                Err(trouble) => return Ok(Heard::of(Err(trouble))),
            };
            let target = self.endpoint.target();
            if let (300..=399, Some(location)) = (answer.response.status, &answer.response.location)
            {
                let to = self.endpoint.redirected(&target, location)?;
                self.endpoint.moves(to);
                continue;
            }
            let outcome = answer.verdict();
            let heard = answer.stream.hearing.take();
            return Ok(Heard {
                prompt_tokens: answer.stream.usage.prompt_tokens,
                retry_after: answer.response.retry_after,
                returns_ids: outcome.is_ok() && heard.is_some_and(|h| h.has_ids()),
                reason: answer.stream.finish != Finish::None,
                ..Heard::of(outcome)
            });
        }
        let (server, target) = (self.endpoint.shown().0, self.endpoint.target());
        Err(Error::Endpoint(format!("{server} redirects in circles at {target}")))
    }

    /// A request of the run.
    fn bytes(&self, form: &Form, length: u32, awaited: bool) -> Vec<u8> {
        // Drawn from the clock: a probe must not be answered from a cache either.
        let salt = (crate::net::clock::now(), false);
        let prompter = Prompter::new(self.endpoint, (form, self.vocabulary), self.model, salt);
        let request = TraceRequest {
            arrival: Arrival::At(Duration::ZERO),
            input: length,
            output: OUTPUT,
            blocks: BlockSpan::default(),
            class: 0,
            session: None,
        };
        let trace = Trace { requests: vec![request], ..Trace::default() };
        let (mut body, mut whole) = (Vec::new(), Vec::new());
        let asked = Asked { trace: &trace, index: 0, passages: &[], awaited };
        prompter.render(&asked, &mut body, &mut whole);
        whole
    }

    /// The server's count of prompts of words, of which a short one came to `short`.
    fn calibrate(&mut self, form: &Form, short: &Heard) -> Result<Prompts, Error> {
        let long = self.ask(form, LONG, false)?;
        let counts = |short: Option<u32>, long: Option<u32>| Some((short?, long?));
        let streamed = counts(short.prompt_tokens, long.prompt_tokens).filter(|(s, l)| l > s);
        let counted = match streamed {
            Some(counted) => Some(counted),
            // Some count only what they do not stream.
            None => counts(self.count(form, SHORT), self.count(form, LONG)).filter(|(s, l)| l > s),
        };
        // Without a count that tells long from short: these words are one token each in nearly every vocabulary.
        let Some((short, long)) = counted else { return Ok(Prompts::WORDS) };
        let per_word = f64::from(long - short) / f64::from(LONG - SHORT);
        Ok(Prompts::Text { per_word, overhead: f64::from(short) - per_word * f64::from(SHORT) })
    }

    /// Prompt tokens as the server counts them where it does not stream.
    fn count(&self, form: &Form, length: u32) -> Option<u32> {
        self.whole(form, length)?.get("usage").get("prompt_tokens").count()
    }

    /// The answer to a request that does not stream, if it is one.
    fn whole(&self, form: &Form, length: u32) -> Option<Json<'static>> {
        let text = String::from_utf8(self.bytes(form, length, false)).ok()?;
        let (head, body) = text.split_once("\r\n\r\n")?;
        let body = body.replace(r#""stream":true"#, r#""stream":false"#);
        let body = body.replace(r#","stream_options":{"include_usage":true}"#, "");
        let lines = head.split("\r\n").filter(|l| !l.starts_with("content-length"));
        let head: String = lines.map(|line| format!("{line}\r\n")).collect();
        let request = format!("{head}content-length: {}\r\n\r\n{body}", body.len());
        let answer = Answer::keeping(1 << 20);
        let answer = call(self.endpoint, request.as_bytes(), answer, self.timeout).ok()?;
        let said = answer.said();
        let json = Json::of(said.as_bytes()).ok()?.owned();
        (answer.response.succeeded() && !json.get("choices").is_nothing()).then_some(json)
    }
}

impl Heard {
    fn of(outcome: Result<(), Trouble>) -> Self {
        Self { outcome, prompt_tokens: None, retry_after: None, returns_ids: false, reason: false }
    }
}

/// A step from a plainer form towards the full one; false if it changes nothing. The steps that
/// matter most to a measurement come first.
type Change = fn(&mut Form, bool) -> bool;

const CHANGES: [Change; 5] = [
    |form, ids| {
        form.prompts = if ids { Prompts::Ids } else { form.prompts };
        ids
    },
    |form, _| {
        form.end = End::Ignored;
        true
    },
    |form, _| {
        let free = form.end == End::Free;
        form.end = if free { End::Postponed } else { form.end };
        free
    },
    |form, _| {
        form.counts = true;
        true
    },
    |form, _| {
        form.greedy = true;
        true
    },
];
