//! What a server has to be asked before it can be measured: which model it serves, whether it takes token ids and
//! the request to ignore an early end, and how it counts the tokens of text.

use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};
use workloads::{Arrival, BlockSpan, Trace, TraceRequest};

use super::call::{Reply, call};
use super::endpoint::{Api, Endpoint, Server};
use super::prompt::{Asked, Prompter, Prompts};
use super::vocabulary::Vocabulary;
use crate::error::Error;

/// Members of every request: greedy, and as long as asked whatever the model wants to say.
pub(super) const GREEDY: &str = r#""temperature":0,"ignore_eos":true"#;
/// The same for servers that refuse members that they do not know.
const PLAIN: &str = r#""temperature":0"#;
/// Lengths of the probes, tokens or words.
const SHORT: u32 = 32;
const LONG: u32 = 384;

/// What was found out.
#[derive(Debug, Clone)]
pub(super) struct Probed {
    pub(super) model: String,
    pub(super) prompts: Prompts,
    pub(super) vocabulary: Vocabulary,
    pub(super) extra: String,
}

#[derive(Deserialize)]
struct Models {
    data: Vec<ModelId>,
}

#[derive(Deserialize)]
struct ModelId {
    id: String,
}

/// Asks.
pub(super) fn probe(
    endpoint: &mut Endpoint,
    server: &Server,
    timeout: Duration,
) -> Result<Probed, Error> {
    choose_address(endpoint, timeout);
    let model = match &server.model {
        Some(model) => model.clone(),
        None => first_model(endpoint, timeout)?,
    };
    let vocabulary = server.tokenizer.as_ref().map(Vocabulary::of).transpose()?;
    let exact = vocabulary.is_some();
    let vocabulary = vocabulary.unwrap_or_default();
    let ids = (endpoint.api == Api::Completions && !exact).then_some(Prompts::Ids);
    let text = Prompts::Text { per_word: 1.0, overhead: 0.0 };
    let mut said = String::new();
    for prompts in ids.into_iter().chain([text]) {
        for extra in [GREEDY, PLAIN] {
            let form = (prompts, &vocabulary, extra);
            let ask = |length| ask(endpoint, &model, form, length, timeout);
            let reply = ask(SHORT)?;
            match reply.status {
                200 if prompts == Prompts::Ids
                    && counted(&reply).is_none_or(|n| n.abs_diff(SHORT) < 4) =>
                {
                    return Ok(Probed { model, prompts, vocabulary, extra: extra.to_owned() });
                }
                // It takes a list of numbers for something else: text then.
                200 if prompts == Prompts::Ids => {}
                200 => {
                    let prompts = calibrated(counted(&reply), counted(&ask(LONG)?))?;
                    if let Prompts::Text { per_word, .. } = prompts
                        && exact
                        && per_word != 1.0
                    {
                        return Err(Error::Endpoint(format!(
                            "a word that is one token by --tokenizer is {per_word:.3} by the server's count: give the tokenizer of the model that it serves"
                        )));
                    }
                    return Ok(Probed { model, prompts, vocabulary, extra: extra.to_owned() });
                }
                400 | 422 => {}
                status => return Err(refused(endpoint, status, &reply)),
            }
            said = format!("status {}: {}", reply.status, reply.said());
        }
    }
    Err(Error::Endpoint(format!("the server refuses every form of request; the last with {said}")))
}

/// Text instead of token ids, unless the server says which tokens its answers are (vLLM's `return_token_ids`): a turn
/// that repeats an answer must have it in the form that the rest of the prompt has.
pub(super) fn for_answers(
    endpoint: &Endpoint,
    probed: &mut Probed,
    timeout: Duration,
) -> Result<(), Error> {
    if probed.prompts != Prompts::Ids {
        return Ok(());
    }
    let Probed { model, extra, vocabulary, .. } = &*probed;
    let returning = format!(r#"{extra},"return_token_ids":true"#);
    let reply = ask(endpoint, model, (Prompts::Ids, vocabulary, &returning), SHORT, timeout)?;
    let body: Value = serde_json::from_slice(&reply.body).unwrap_or_default();
    if reply.status == 200 && body["choices"][0]["token_ids"].is_array() {
        return Ok(());
    }
    let text = (Prompts::Text { per_word: 1.0, overhead: 0.0 }, vocabulary, extra.as_str());
    let short = ask(endpoint, model, text, SHORT, timeout)?;
    if short.status != 200 {
        return Err(refused(endpoint, short.status, &short));
    }
    let long = ask(endpoint, model, text, LONG, timeout)?;
    probed.prompts = calibrated(counted(&short), counted(&long))?;
    Ok(())
}

/// Whether a server that may still be starting takes requests: by `/health`, or by `/v1/models` where it has no such
/// path. Whatever else keeps it from answering means that it is not there yet.
pub(super) fn answers(endpoint: &mut Endpoint, timeout: Duration) -> bool {
    choose_address(endpoint, timeout);
    let status = |path| call(endpoint, "GET", path, None, timeout).map_or(0, |r| r.status);
    match status("/health") {
        200 => true,
        404 | 405 => status("/v1/models") == 200,
        _ => false,
    }
}

/// Puts the first of the host's addresses that answers in front.
fn choose_address(endpoint: &mut Endpoint, timeout: Duration) {
    let answers = |a: &_| std::net::TcpStream::connect_timeout(a, timeout).is_ok();
    if endpoint.addresses.len() > 1
        && let Some(first) = endpoint.addresses.iter().position(answers)
    {
        endpoint.addresses.swap(0, first);
    }
}

fn first_model(endpoint: &Endpoint, timeout: Duration) -> Result<String, Error> {
    let reply = call(endpoint, "GET", "/v1/models", None, timeout)?;
    if reply.status != 200 {
        return Err(refused(endpoint, reply.status, &reply));
    }
    let models: Models = serde_json::from_slice(&reply.body).map_err(|e| {
        Error::Endpoint(format!("GET /v1/models did not answer with a list of models: {e}"))
    })?;
    let first = models.data.into_iter().next();
    first.map(|m| m.id).ok_or_else(|| Error::Endpoint("the server lists no model".to_owned()))
}

fn refused(endpoint: &Endpoint, status: u16, reply: &Reply) -> Error {
    let what = match status {
        401 | 403 => "wants another API key",
        404 => "does not know the model or the path",
        429 | 503 => "is not ready or too busy",
        _ => "refuses to be measured",
    };
    let address = endpoint.addresses[0];
    Error::Endpoint(format!("the server at {address} {what} (status {status}): {}", reply.said()))
}

/// One request for one token behind a prompt of `length`.
fn ask(
    endpoint: &Endpoint,
    model: &str,
    (prompts, vocabulary, extra): (Prompts, &Vocabulary, &str),
    length: u32,
    timeout: Duration,
) -> Result<Reply, Error> {
    // Drawn from the clock: a probe must not be answered from a cache either.
    let salt = (crate::net::clock::now(), false);
    let prompter = Prompter::new(endpoint, (prompts, vocabulary), model, extra, salt);
    let request = TraceRequest {
        arrival: Arrival::At(Duration::ZERO),
        input: length,
        output: 1,
        blocks: BlockSpan::default(),
        class: 0,
        session: None,
    };
    let trace = Trace { requests: vec![request], ..Trace::default() };
    let (mut body, mut whole) = (Vec::new(), Vec::new());
    let asked = Asked { trace: &trace, index: 0, passages: &[], awaited: false };
    prompter.render(&asked, &mut body, &mut whole);
    let mut value: Value = serde_json::from_slice(&body)
        .map_err(|e| Error::Endpoint(format!("--extra-body makes a body that is not JSON: {e}")))?;
    value["stream"] = json!(false);
    if let Some(members) = value.as_object_mut() {
        members.remove("stream_options");
    }
    call(endpoint, "POST", prompter.api().path(), Some(&value.to_string()), timeout)
}

/// Prompt tokens as the server counted them.
fn counted(reply: &Reply) -> Option<u32> {
    let body: Value = serde_json::from_slice(&reply.body).ok()?;
    u32::try_from(body["usage"]["prompt_tokens"].as_u64()?).ok()
}

/// The line through the counts of a short and a long text.
fn calibrated(short: Option<u32>, long: Option<u32>) -> Result<Prompts, Error> {
    let (Some(short), Some(long)) = (short, long) else {
        // A server that does not count: these words are one token each in nearly every vocabulary.
        return Ok(Prompts::Text { per_word: 1.0, overhead: 0.0 });
    };
    if long <= short {
        let why = format!("{LONG} words are {long} tokens by its count, {SHORT} words {short}");
        return Err(Error::Endpoint(format!(
            "the server's count of prompt tokens is no use: {why}"
        )));
    }
    let per_word = f64::from(long - short) / f64::from(LONG - SHORT);
    Ok(Prompts::Text { per_word, overhead: f64::from(short) - per_word * f64::from(SHORT) })
}
