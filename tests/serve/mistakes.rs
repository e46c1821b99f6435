//! Impossible requests: each mistake has its status and its line.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::process::Command;

use serde_json::{Value, json};

use crate::client::{Response, Server, asked, with};

#[test]
fn mistakes_are_told() {
    let server = Server::start(&["--max-model-len", "256", "--max-seqs", "8"]);
    let refused = |path: &str, body: &str| {
        let response = Response::read(server.send("POST", path, body, ""));
        (response.status, response.error())
    };
    let told = |body: Value| refused("/v1/completions", &body.to_string());
    assert_eq!(
        told(asked("abc", 254)),
        (400, "prompt and output of 257 tokens exceed max-model-len 256".to_owned())
    );
    assert_eq!(
        told(with(asked("abc", 4), json!({"n": 9}))),
        (400, "n = 9 branches cannot run side by side here".to_owned())
    );
    assert_eq!(
        told(with(asked("abc", 4), json!({"n": 0}))),
        (400, "n = 0 must be between 1 and 128".to_owned())
    );
    assert_eq!(
        told(json!({"prompt": [1, 999]})),
        (400, "token 999 is not one of the model's 258".to_owned())
    );
    assert_eq!(
        told(json!({"prompt": ["a", "b"]})),
        (400, "one prompt per request, please".to_owned())
    );
    assert_eq!(
        told(json!({"prompt": ""})),
        (400, "the prompt must have at least one token".to_owned())
    );
    assert_eq!(
        told(with(asked("a", 4), json!({"echo": true}))),
        (400, "`echo` is not supported".to_owned())
    );
    assert_eq!(
        told(with(asked("a", 4), json!({"temperature": -1}))),
        (400, "temperature = -1 must be between 0 and 100".to_owned())
    );
    assert_eq!(
        told(with(asked("a", 4), json!({"model": "gpt-5"}))),
        (404, "the model `gpt-5` does not exist; this is `tiny`".to_owned())
    );
    let (status, message) = refused("/v1/completions", "{\"prompt\": ");
    assert!(
        status == 400 && message.starts_with("not a valid request: EOF while parsing"),
        "{message}"
    );
    assert_eq!(refused("/v1/completions", &"[".repeat(100_000)).0, 400);
    assert_eq!(
        refused("/v1/chat/completions", "{\"messages\": []}"),
        (400, "`messages` must not be empty".to_owned())
    );
    assert_eq!(
        refused("/v1/embeddings", "{}"),
        (404, "there is no POST /v1/embeddings".to_owned())
    );
    let wrong = Response::read(server.send("DELETE", "/v1/models", "", ""));
    assert_eq!((wrong.status, wrong.error()), (405, "/v1/models does not take DELETE".to_owned()));
    // Headers and bodies of any size do not get in.
    assert_eq!(
        Response::read(server.send(
            "GET",
            "/health",
            "",
            &format!("X: {}\r\n", "y".repeat(300_000))
        ))
        .status,
        431
    );
    let length = "Content-Length: 9000000\r\n";
    let head =
        format!("POST /v1/completions HTTP/1.1\r\nHost: knee\r\nConnection: close\r\n{length}\r\n");
    let mut stream = TcpStream::connect(&server.address).unwrap();
    stream.write_all(head.as_bytes()).unwrap();
    // The server may end the connection before it has read all of it.
    let _ = stream.write_all(&vec![b'x'; 9_000_000]);
    let mut answer = [0; 12];
    if stream.read_exact(&mut answer).is_ok() {
        assert_eq!(&answer, b"HTTP/1.1 413");
    }
    assert_eq!(server.get("/health").status, 200);
    server.comes_to_rest();
}

#[test]
fn a_model_is_asked_for_by_its_name() {
    let server = Server::start(&["--served-model-name", "org/tiny v1"]);
    for path in ["/v1/models/org/tiny%20v1", "/v1/models/org%2Ftiny%20v1"] {
        let found = server.get(path);
        assert_eq!((found.status, &found.json()["id"]), (200, &json!("org/tiny v1")), "{path}");
        assert_eq!(found.json(), server.get("/v1/models").json()["data"][0]);
    }
    for path in ["/v1/models/tiny", "/v1/models/org", "/v1/models/org/tiny%20v1/x"] {
        let none = server.get(path);
        assert!(none.status == 404 && none.error().contains("this is `org/tiny v1`"), "{path}");
        assert_eq!(none.json()["error"]["param"], "model");
    }
}

#[test]
fn an_api_key_is_required_where_set() {
    let server = Server::start(&["--api-key", "secret"]);
    let get = |path: &str, headers: &str| Response::read(server.send("GET", path, "", headers));
    assert_eq!(get("/v1/models", "").error(), "the API key is missing or wrong");
    assert_eq!(get("/v1/models", "Authorization: Bearer wrong\r\n").status, 401);
    let models = get("/v1/models", "Authorization: Bearer secret\r\n").json();
    assert_eq!(
        (&models["data"][0]["id"], &models["data"][0]["max_model_len"]),
        (&json!("tiny"), &json!(4096))
    );
    assert_eq!((get("/health", "").status, get("/metrics", "").status), (200, 200));
}

#[test]
fn models_that_cannot_be_served_are_told_on_one_line() {
    let told = |flags: &[&str]| {
        let out =
            Command::new(env!("CARGO_BIN_EXE_knee")).arg("serve").args(flags).output().unwrap();
        assert!(!out.status.success());
        String::from_utf8(out.stderr).unwrap()
    };
    assert_eq!(
        told(&["--model", "llama-3.1-8b"]),
        "knee: llama-3.1-8b: unsupported model: expected tiny, a Hugging Face folder, a .gguf file, hf:ORG/NAME, or a shape with random weights\n"
    );
    assert_eq!(
        told(&["--model", "tiny", "--pp", "5"]),
        "knee: model tiny: layers = 4 do not fill 5 pipeline stages\n"
    );
    assert_eq!(
        told(&["--model", "tiny", "--replicas", "2", "--policy", "disagg"]),
        "knee: several replicas of several workers cannot share this machine: leave replicas at 1\n"
    );
    assert_eq!(
        told(&["--model", "tiny", "--max-model-len", "5000"]),
        "knee: max-model-len 5000 is beyond the model's 4096 tokens: lower it, or add --allow-long-context\n"
    );
    assert_eq!(
        told(&["--model", "tiny", "--kv-memory", "1MiB"]),
        "knee: --kv-memory holds 1024 tokens per worker, but one request may need 4096: raise it, or lower max-model-len\n"
    );
    assert!(
        told(&["--model", "nowhere.gguf"])
            .starts_with("knee: cannot read nowhere.gguf: No such file")
    );
}
