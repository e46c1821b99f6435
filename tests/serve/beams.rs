//! Beam search, which other requests do not notice.

use serde_json::{Value, json};

use crate::client::{Server, asked, eventually, with};

/// The likeliest completions, best first, whatever runs beside them and however; and nothing is held afterwards.
#[test]
fn beam_search() {
    let beams = |n: u32| {
        with(asked("In the beginning", 12), json!({"use_beam_search": true, "n": n, "logprobs": 2}))
    };
    let server = Server::start(&[]);
    let four = server.complete(&beams(4));
    let choices = four["choices"].as_array().unwrap();
    let sum = |choice: &Value| -> f64 {
        let logprobs = choice["logprobs"]["token_logprobs"].as_array().unwrap();
        assert_eq!(logprobs.len(), 12);
        logprobs.iter().map(|l| l.as_f64().unwrap()).sum()
    };
    let sums: Vec<f64> = choices.iter().map(sum).collect();
    assert!(sums.len() == 4 && sums.is_sorted_by(|a, b| a >= b), "best first: {sums:?}");
    for (i, choice) in choices.iter().enumerate() {
        assert_eq!((&choice["index"], &choice["finish_reason"]), (&json!(i), &json!("length")));
        assert!(choices[..i].iter().all(|c| c["token_ids"] != choice["token_ids"]));
    }
    assert_eq!(four["usage"]["completion_tokens"], 48);
    assert_eq!(server.metric("vllm:generation_tokens_total"), 48.0);
    assert_eq!(server.metric("vllm:inter_token_latency_seconds_count"), 0.0, "all came at once");
    // One beam that nothing ends is greedy; of four, the best two may be asked for.
    let greedy = server.complete(&asked("In the beginning", 12))["choices"][0]["token_ids"].clone();
    assert_eq!(server.complete(&beams(1))["choices"][0]["token_ids"], greedy);
    let two = server.complete(&with(beams(2), json!({"best_of": 4, "temperature": 0})));
    assert_eq!(two["choices"].as_array().unwrap()[..], choices[..2]);
    // A token that ends it makes an answer that is shorter.
    let end = choices[0]["token_ids"][5].clone();
    let ended = server.complete(&with(beams(4), json!({"stop_token_ids": [end]})));
    let stopped = |c: &&Value| c["finish_reason"] == "stop";
    assert!(ended["choices"].as_array().unwrap().iter().any(|c| stopped(&c)), "{ended}");
    server.comes_to_rest();
    let limits = ["--max-model-len", "256", "--max-seqs", "8", "--max-batch-tokens", "32"];
    let policies: [&[&str]; 5] = [
        &["--policy", "static"],
        &["--policy", "continuous"],
        &["--policy", "paged", "--block-size", "1"],
        &["--pp", "2"],
        &["--replicas", "2"],
    ];
    for policy in policies {
        let server = Server::start(&[policy, &limits].concat());
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    assert_eq!(
                        server.complete(&beams(4))["choices"],
                        four["choices"],
                        "{policy:?}"
                    );
                });
                scope.spawn(|| {
                    let tokens = &server.complete(&asked("In the beginning", 12))["choices"][0];
                    assert_eq!(tokens["token_ids"], greedy, "{policy:?}");
                });
            }
        });
        // A client that goes away in the middle leaves nothing behind.
        let long = with(beams(4), json!({"max_tokens": 200})).to_string();
        let client = server.send("POST", "/v1/completions", &long, "");
        eventually("it runs", || server.metric("vllm:num_requests_running") > 0.0);
        drop(client);
        server.comes_to_rest();
    }
}

#[test]
fn impossible_beams_are_refused() {
    let server = Server::start(&["--max-seqs", "8"]);
    let told = |more: Value| {
        let body = with(asked("abc", 4), json!({"use_beam_search": true, "n": 2}));
        let response = server.post("/v1/completions", &with(body, more));
        (response.status, response.error())
    };
    let no_meaning =
        |field| (400, format!("`{field}` has no meaning in beam search: leave it out"));
    assert_eq!(
        told(json!({"stream": true})),
        (400, "beam search cannot be streamed: nothing is certain before its end".to_owned())
    );
    assert_eq!(told(json!({"temperature": 0.7})), no_meaning("temperature"));
    assert_eq!(told(json!({"top_p": 0.5})), no_meaning("top_p"));
    assert_eq!(told(json!({"stop": ["x"]})), no_meaning("stop"));
    assert_eq!(
        told(json!({"best_of": 1})),
        (400, "best_of = 1 must be between 2 and 128".to_owned())
    );
    assert_eq!(
        told(json!({"length_penalty": 1e9})),
        (400, "length_penalty = 1000000000 must be between -100 and 100".to_owned())
    );
    assert_eq!(
        told(json!({"n": 9})),
        (400, "n = 9 branches cannot run side by side here".to_owned())
    );
    let plain = with(asked("abc", 4), json!({"n": 1, "best_of": 2}));
    let refused = server.post("/v1/completions", &plain);
    assert_eq!((refused.status, refused.error()), (400, "`best_of` is not supported".to_owned()));
    server.comes_to_rest();
}
