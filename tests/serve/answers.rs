//! Answers to clients: streamed and whole, alone and in a crowd, in the form that the document
//! gives.

use serde_json::{Value, json};

use crate::client::{Server, asked, with};

#[test]
fn an_answer_is_the_same_streamed_and_whole() {
    let server = Server::start(&[]);
    let body = asked("Once upon a time", 40);
    let whole = server.complete(&body);
    let choice = &whole["choices"][0];
    assert_eq!(whole["object"], "text_completion");
    assert_eq!(
        whole["usage"],
        json!({"prompt_tokens": 16, "completion_tokens": 40, "total_tokens": 56,
        "prompt_tokens_details": {"cached_tokens": 0}})
    );
    assert_eq!(
        (choice["finish_reason"].as_str(), choice["token_ids"].as_array().unwrap().len()),
        (Some("length"), 40)
    );
    let streamed =
        with(body.clone(), json!({"stream": true, "stream_options": {"include_usage": true}}));
    let mut events = server.post("/v1/completions", &streamed).events();
    let usage = events.pop().unwrap();
    assert_eq!((&usage["choices"], &usage["usage"]["completion_tokens"]), (&json!([]), &json!(40)));
    // The same prompt again: the prefix cache is on, and holds all but the last block.
    assert_eq!(usage["usage"]["prompt_tokens_details"]["cached_tokens"], 0);
    assert_eq!(events.len(), 40, "an event per token");
    let joined = |field: fn(&Value) -> String| events.iter().map(field).collect::<String>();
    assert_eq!(
        joined(|e| e["choices"][0]["text"].as_str().unwrap().to_owned()),
        choice["text"].as_str().unwrap()
    );
    let tokens: Vec<Value> = events
        .iter()
        .flat_map(|e| e["choices"][0]["token_ids"].as_array().unwrap().clone())
        .collect();
    assert_eq!(json!(tokens), choice["token_ids"]);
    let (last, others) = events.split_last().unwrap();
    assert_eq!(last["choices"][0]["finish_reason"], "length");
    assert!(others.iter().all(|e| e["choices"][0]["finish_reason"].is_null()));
    // Tokens instead of text.
    let ids: Vec<u32> = "Once upon a time".bytes().map(u32::from).collect();
    assert_eq!(
        server.complete(&with(body, json!({"prompt": ids})))["choices"][0]["text"],
        choice["text"]
    );
    server.comes_to_rest();
}

#[test]
fn a_crowd_does_not_change_an_answer() {
    let server =
        Server::start(&["--max-seqs", "6", "--max-batch-tokens", "32", "--max-model-len", "512"]);
    let alone: Vec<Value> = (0..6)
        .map(|i| server.complete(&asked(&"ab ".repeat(3 + 5 * i), 30))["choices"].clone())
        .collect();
    std::thread::scope(|scope| {
        for i in 0..18 {
            let (server, alone) = (&server, &alone);
            scope.spawn(move || {
                let crowd = server.complete(&asked(&"ab ".repeat(3 + 5 * (i % 6)), 30));
                assert_eq!(crowd["choices"], alone[i % 6]);
            });
        }
    });
    server.comes_to_rest();
    assert_eq!(server.metric("vllm:request_success_total"), 24.0);
    assert_eq!(server.metric("vllm:generation_tokens_total"), 24.0 * 30.0);
    assert_eq!(server.metric("vllm:time_to_first_token_seconds_count"), 24.0);
    assert_eq!(server.metric("vllm:inter_token_latency_seconds_count"), 24.0 * 29.0);
    assert_eq!(server.metric("vllm:request_generation_tokens_sum"), 24.0 * 30.0);
}

#[test]
fn every_policy_gives_the_same_tokens() {
    let policies: [&[&str]; 4] = [
        &["--policy", "static"],
        &["--policy", "continuous"],
        &["--policy", "paged", "--block-size", "1"],
        &["--policy", "disagg"],
    ];
    let text = |flags: &[&str]| {
        let server = Server::start(
            &[flags, &["--max-model-len", "512", "--max-seqs", "8", "--max-batch-tokens", "64"]]
                .concat(),
        );
        let token_ids =
            server.complete(&asked("the same for all of them", 25))["choices"][0]["token_ids"]
                .clone();
        server.comes_to_rest();
        token_ids
    };
    let chunked = text(&["--policy", "chunked"]);
    for policy in policies {
        assert_eq!(text(policy), chunked, "{policy:?}");
    }
}

#[test]
fn stops_seeds_and_several_completions() {
    let server = Server::start(&[]);
    let body = asked("In the beginning", 60);
    let whole = server.complete(&body)["choices"][0].clone();
    let tokens: Vec<u64> =
        whole["token_ids"].as_array().unwrap().iter().map(|t| t.as_u64().unwrap()).collect();
    // The first token of its kind ends it, is counted, and is not shown.
    let at = (5..60).find(|&i| !tokens[..i].contains(&tokens[i])).expect("some token is new");
    let stopped = server.complete(&with(body.clone(), json!({"stop_token_ids": [tokens[at]]})));
    assert_eq!(stopped["usage"]["completion_tokens"], at + 1);
    assert_eq!(stopped["choices"][0]["finish_reason"], "stop");
    assert!(
        whole["text"].as_str().unwrap().starts_with(
            stopped["choices"][0]["text"].as_str().unwrap().trim_end_matches('\u{fffd}')
        )
    );
    // A stop string that spans tokens: two neighbouring characters.
    let text = whole["text"].as_str().unwrap();
    let letters: Vec<char> = text.chars().collect();
    let pair = letters
        .windows(2)
        .skip(8)
        .find(|w| w.iter().all(char::is_ascii))
        .map(|w| w.iter().collect::<String>());
    if let Some(pair) = pair {
        let stopped = server.complete(&with(body.clone(), json!({"stop": [pair]})));
        assert_eq!(
            stopped["choices"][0]["text"].as_str().unwrap(),
            &text[..text.find(&pair).unwrap()]
        );
        assert_eq!(stopped["choices"][0]["finish_reason"], "stop");
    }
    // Sampling: repeatable with a seed, and branches of one request differ.
    let warm =
        with(body, json!({"temperature": 1.5, "seed": 7, "n": 3, "max_tokens": 20, "logprobs": 2}));
    let (first, second) = (server.complete(&warm), server.complete(&warm));
    assert_eq!(first["choices"], second["choices"]);
    let choices = first["choices"].as_array().unwrap();
    assert_eq!(choices.iter().map(|c| c["index"].as_u64().unwrap()).collect::<Vec<_>>(), [0, 1, 2]);
    assert!(
        choices[0]["token_ids"] != choices[1]["token_ids"]
            && choices[1]["token_ids"] != choices[2]["token_ids"]
    );
    assert_eq!(first["usage"]["completion_tokens"], 60);
    for list in ["tokens", "token_logprobs", "top_logprobs", "text_offset"] {
        assert_eq!(choices[2]["logprobs"][list].as_array().unwrap().len(), 20, "{list}");
    }
    server.comes_to_rest();
}

#[test]
fn a_conversation() {
    let server = Server::start(&[]);
    let body = json!({"messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": [{"type": "text", "text": "Hi"}]}],
        "max_completion_tokens": 12, "temperature": 0, "ignore_eos": true, "logprobs": true, "top_logprobs": 3});
    let whole = server.post("/v1/chat/completions", &body).json();
    // Around each turn two control tokens and two line ends; a byte a token.
    let said = ["system", "Be brief.", "user", "Hi", "assistant"].concat().len();
    assert_eq!(whole["usage"]["prompt_tokens"], said + 2 * 4 + 2);
    let choice = &whole["choices"][0];
    assert_eq!(
        (whole["object"].as_str(), choice["message"]["role"].as_str()),
        (Some("chat.completion"), Some("assistant"))
    );
    let content = choice["logprobs"]["content"].as_array().unwrap();
    assert!(
        content.len() == 12
            && content.iter().all(|t| t["top_logprobs"].as_array().unwrap().len() == 3)
    );
    assert!(
        content.iter().all(|t| t["logprob"] == t["top_logprobs"][0]["logprob"]),
        "greedy takes the best"
    );
    let events = server.post("/v1/chat/completions", &with(body, json!({"stream": true}))).events();
    assert_eq!(events[0]["choices"][0]["delta"]["role"], "assistant");
    let text: String =
        events.iter().map(|e| e["choices"][0]["delta"]["content"].as_str().unwrap()).collect();
    assert_eq!(text, choice["message"]["content"].as_str().unwrap());
    assert!(
        events.iter().all(|e| e["object"] == "chat.completion.chunk" && e.get("usage").is_none())
    );
}

/// Answers have the form that the document gives.
#[test]
fn answers_are_those_of_the_document() {
    let server = Server::start(&[]);
    let document = server.get("/openapi.json").json();
    let check = |name: &str, value: &Value| {
        let schema = json!({"$ref": format!("#/components/schemas/{name}"), "components": document["components"]});
        let validator = jsonschema::validator_for(&schema).unwrap();
        let errors: Vec<String> = validator.iter_errors(value).map(|e| e.to_string()).collect();
        assert!(errors.is_empty(), "{name}: {errors:?} in {value}");
    };
    let completion = with(
        asked("hello", 5),
        json!({"logprobs": 1, "stop": "never", "seed": 3, "top_k": -1, "user": "me"}),
    );
    check("CompletionRequest", &completion);
    check("Completion", &server.complete(&completion));
    let chat =
        json!({"messages": [{"role": "user", "content": "hello"}], "max_completion_tokens": 5});
    check("ChatRequest", &chat);
    check("ChatCompletion", &server.post("/v1/chat/completions", &chat).json());
    check("Models", &server.get("/v1/models").json());
    check("Model", &server.get("/v1/models/tiny").json());
    check("Error", &server.get("/v1/models/other").json());
    check("Error", &server.post("/v1/completions", &json!({})).json());
    assert_eq!(document["paths"].as_object().unwrap().len(), 7);
}

/// The model that `scripts/fetch-model` fetches, where it has.
#[test]
fn a_real_model_answers() {
    let home = std::env::var("HOME").unwrap_or_default();
    let cache = std::env::var("XDG_CACHE_HOME").unwrap_or_else(|_| format!("{home}/.cache"));
    let path = format!("{cache}/knee/SmolLM2-135M-Instruct.Q4_1.gguf");
    if !std::path::Path::new(&path).exists() {
        eprintln!("skipped: {path} is not there (scripts/fetch-model fetches it)");
        return;
    }
    let cases = [
        ("bf16", "What is the capital of France?", "The capital of France is Paris."),
        ("int8", "Name three colours.", "1. Red"),
    ];
    for (precision, question, answer) in cases {
        let flags = ["--model", &path, "--precision", precision, "--max-model-len", "512"];
        let server = Server::of(&flags);
        let messages = [json!({"role": "user", "content": question})];
        let body = json!({"messages": messages, "temperature": 0, "max_completion_tokens": 10});
        let choice = server.post("/v1/chat/completions", &body).json()["choices"][0].clone();
        let said = choice["message"]["content"].as_str().unwrap();
        assert!(said.starts_with(answer), "{precision}: {said}");
        let ends = said == answer;
        assert_eq!(choice["finish_reason"], if ends { "stop" } else { "length" }, "{precision}");
    }
}
