//! `--model hf:ORG/NAME` against a hub on this machine: what is fetched says the same as the folder it comes from.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

use engine::model::llama::LlamaConfig;
use engine::model::random::RandomWeights;
use engine::model::weights::Weights as _;
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use serde_json::{Value, json};

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// A small model's files, its weights in two.
fn write_model(dir: &Path) {
    let config = LlamaConfig {
        layers: 1,
        hidden: 32,
        heads: 2,
        kv_heads: 1,
        head_dim: 16,
        ffn: 48,
        ..LlamaConfig::tiny()
    };
    let c = &config;
    let about = json!({
        "model_type": "llama", "hidden_size": c.hidden, "num_hidden_layers": c.layers,
        "num_attention_heads": c.heads, "num_key_value_heads": c.kv_heads, "head_dim": c.head_dim,
        "intermediate_size": c.ffn, "vocab_size": c.vocab, "rms_norm_eps": c.rms_eps,
        "max_position_embeddings": c.max_position, "rope_theta": c.rope_theta,
        "tie_word_embeddings": true, "eos_token_id": 257,
    });
    std::fs::write(dir.join("config.json"), about.to_string()).unwrap();
    let bytes = (0..=255u32).map(|b| (format!("<0x{b:02X}>"), b));
    let vocab: BTreeMap<String, u32> =
        bytes.chain([("<unk>".to_owned(), 256), ("</s>".to_owned(), 257)]).collect();
    let tokenizer = json!({"version": "1.0", "added_tokens": [],
        "decoder": {"type": "Sequence", "decoders": [{"type": "ByteFallback"}, {"type": "Fuse"}]},
        "model": {"type": "BPE", "byte_fallback": true, "unk_token": "<unk>", "vocab": vocab, "merges": []}});
    std::fs::write(dir.join("tokenizer.json"), tokenizer.to_string()).unwrap();
    std::fs::write(dir.join("generation_config.json"), r#"{"eos_token_id": 257}"#).unwrap();
    let layer = [
        "input_layernorm",
        "post_attention_layernorm",
        "self_attn.q_proj",
        "self_attn.k_proj",
        "self_attn.v_proj",
        "self_attn.o_proj",
        "mlp.gate_proj",
        "mlp.up_proj",
        "mlp.down_proj",
    ];
    let names = layer.map(|part| format!("model.layers.0.{part}.weight"));
    let whole = ["model.embed_tokens.weight", "model.norm.weight"].map(str::to_owned);
    let mut weights = RandomWeights { config, seed: 9 };
    let mut map = BTreeMap::new();
    for (at, names) in [&names[..], &whole[..]].into_iter().enumerate() {
        let file = format!("model-{}-of-2.safetensors", at + 1);
        let tensors: Vec<_> =
            names.iter().map(|name| (name, weights.tensor(name).unwrap())).collect();
        let data: Vec<Vec<u8>> = tensors
            .iter()
            .map(|(_, t)| t.data.iter().flat_map(|x| x.to_le_bytes()).collect())
            .collect();
        let views = tensors.iter().zip(&data).map(|((name, t), data)| {
            let dims = if t.rows == 1 { vec![t.cols] } else { vec![t.rows, t.cols] };
            (name.as_str(), TensorView::new(Dtype::F32, dims, data).unwrap())
        });
        safetensors::serialize_to_file(views, None, &dir.join(&file)).unwrap();
        map.extend(names.iter().map(|name| (name.clone(), file.clone())));
    }
    let index = json!({ "weight_map": map });
    std::fs::write(dir.join("model.safetensors.index.json"), index.to_string()).unwrap();
}

/// A hub: folders by the name of their model, and what it was asked for.
struct Hub {
    endpoint: String,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Hub {
    fn start(models: Vec<(&'static str, PathBuf)>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let asked = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&asked);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                answer(&models, &mut stream.unwrap(), &seen);
            }
        });
        Self { endpoint, asked }
    }

    /// The requests since the last call.
    fn asked(&self) -> Vec<String> {
        std::mem::take(&mut self.asked.lock().unwrap())
    }
}

/// One request of a connection; then it is closed.
fn answer(models: &[(&str, PathBuf)], stream: &mut TcpStream, seen: &Mutex<Vec<String>>) {
    let mut lines = BufReader::new(stream.try_clone().unwrap()).lines().map_while(Result::ok);
    let Some(request) = lines.next() else { return };
    let path = request.split(' ').nth(1).unwrap_or_default().to_owned();
    let head: Vec<String> = lines.take_while(|line| !line.is_empty()).collect();
    let range =
        head.iter().find_map(|l| l.to_lowercase().strip_prefix("range: bytes=").map(str::to_owned));
    seen.lock().unwrap().push(path.clone());
    let (status, headers, body) = reply(models, &path, range.as_deref());
    let length = body.len();
    let head = format!(
        "HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: {length}\r\n{headers}\r\n"
    );
    // The client may have gone away.
    let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&body));
}

fn reply(
    models: &[(&str, PathBuf)],
    path: &str,
    range: Option<&str>,
) -> (&'static str, String, Vec<u8>) {
    let nothing = |status| (status, String::new(), Vec::new());
    if path.contains("/gated/") {
        return nothing("401 Unauthorized");
    }
    if path.contains("/broken/") {
        return nothing("503 Service Unavailable");
    }
    for (name, dir) in models {
        if path == format!("/api/models/{name}/revision/main") {
            let mut names: Vec<String> = std::fs::read_dir(dir)
                .unwrap()
                .map(|entry| entry.unwrap().file_name().into_string().unwrap())
                .collect();
            names.sort();
            let siblings: Vec<Value> =
                names.iter().map(|name| json!({"rfilename": name})).collect();
            let info = json!({"sha": COMMIT, "siblings": siblings});
            return ("200 OK", String::new(), info.to_string().into_bytes());
        }
        if let Some(file) = path.strip_prefix(&format!("/{name}/resolve/{COMMIT}/")) {
            let Ok(whole) = std::fs::read(dir.join(file)) else { return nothing("404 Not Found") };
            let (from, to) = range.and_then(|r| r.split_once('-')).unwrap_or(("0", ""));
            let from: usize = from.parse().unwrap();
            let to = to.parse().map_or(whole.len(), |last: usize| last + 1);
            let headers = format!(
                "ETag: \"{}-{file}\"\r\nX-Repo-Commit: {COMMIT}\r\nContent-Range: bytes {from}-{}/{}\r\n",
                name.replace('/', "-"),
                to - 1,
                whole.len()
            );
            return ("206 Partial Content", headers, whole[from..to].to_vec());
        }
    }
    nothing("404 Not Found")
}

/// `knee` whose hub and cache are these.
fn knee(hub: &str, home: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_knee"));
    command.env("HF_ENDPOINT", hub).env("HF_HOME", home).env_remove("HF_TOKEN");
    for proxy in ["http_proxy", "https_proxy", "all_proxy"] {
        command.env_remove(proxy).env_remove(proxy.to_uppercase());
    }
    command
}

struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The name under which a model is served, and the tokens it generates.
fn said(hub: &str, home: &Path, model: &str) -> (String, Value) {
    let flags = [
        "serve",
        "--port",
        "0",
        "--cpu-threads",
        "1",
        "--kv-memory",
        "1MB",
        "--precision",
        "f32",
        "--model",
        model,
    ];
    let child = knee(hub, home).args(flags).stdout(Stdio::piped()).spawn().unwrap();
    let mut server = Server(child);
    let mut line = String::new();
    BufReader::new(server.0.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let words: Vec<&str> = line.split_whitespace().collect();
    let [_, name, _, address, ..] = words[..] else { panic!("it says where it is: {line}") };
    let mut stream = TcpStream::connect(address.trim_start_matches("http://")).unwrap();
    let body = json!({"prompt": [84, 104, 101, 32], "max_tokens": 24, "temperature": 0,
        "ignore_eos": true, "return_token_ids": true})
    .to_string();
    let head = format!(
        "POST /v1/completions HTTP/1.1\r\nHost: knee\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all((head + &body).as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let body = answer.split_once("\r\n\r\n").expect("a body").1;
    let json: Value = serde_json::from_str(body).unwrap_or_else(|e| panic!("{e}: {answer}"));
    (name.to_owned(), json["choices"][0]["token_ids"].clone())
}

/// The one line with which `knee` refuses.
fn told(hub: &str, home: &Path, model: &str) -> String {
    let out = knee(hub, home).args(["serve", "--port", "0", "--model", model]).output().unwrap();
    let said = String::from_utf8(out.stderr).unwrap();
    assert!(!out.status.success() && said.lines().count() == 1, "{said}");
    said
}

#[test]
fn a_model_of_the_hub_answers_as_its_folder_does() {
    let (source, home) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    write_model(source.path());
    // The hub has more than is needed.
    std::fs::write(source.path().join("README.md"), "about it").unwrap();
    let hub = Hub::start(vec![("org/small-1.5", source.path().to_owned())]);
    let (_, want) = said(&hub.endpoint, home.path(), &source.path().to_string_lossy());
    assert!(want.as_array().is_some_and(|ids| ids.len() == 24), "{want}");
    assert!(hub.asked().is_empty(), "a folder needs no hub");

    let model = "hf:org/small-1.5";
    // A simulation needs to know what it is and nothing else.
    let bench = [
        "bench",
        "--model",
        model,
        "--device",
        "h100-sxm",
        "--requests",
        "20",
        "--rate",
        "1",
        "--json",
    ];
    let out = knee(&hub.endpoint, home.path()).args(bench).output().unwrap();
    let result: Value = serde_json::from_slice(&out.stdout).unwrap();
    assert_eq!(result["model"], "org/small-1.5");
    let fetched = |asked: Vec<String>| -> Vec<String> {
        let mut files: Vec<String> = asked
            .iter()
            .filter(|path| path.contains("/resolve/"))
            .map(|path| path.rsplit('/').next().unwrap().to_owned())
            .collect();
        files.sort();
        files.dedup();
        files
    };
    assert_eq!(fetched(hub.asked()), ["config.json"]);

    assert_eq!(said(&hub.endpoint, home.path(), model), ("org/small-1.5".to_owned(), want.clone()));
    assert_eq!(
        fetched(hub.asked()),
        [
            "generation_config.json",
            "model-1-of-2.safetensors",
            "model-2-of-2.safetensors",
            "model.safetensors.index.json",
            "tokenizer.json"
        ]
    );
    // The second time it asks whether that is still the current commit; and without a hub it takes what it has.
    assert_eq!(said(&hub.endpoint, home.path(), model).1, want);
    assert_eq!(hub.asked(), ["/api/models/org/small-1.5/revision/main"]);
    let nowhere = "http://127.0.0.1:9";
    assert_eq!(said(nowhere, home.path(), model).1, want);
    let empty = tempfile::tempdir().unwrap();
    let cache = empty.path().join("hub");
    assert_eq!(
        told(nowhere, empty.path(), model),
        format!(
            "knee: hf:org/small-1.5: {nowhere} cannot be reached, and the model is not in {}\n",
            cache.display()
        )
    );
}

#[test]
fn models_that_the_hub_does_not_give_are_told_on_one_line() {
    let (odd, home) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    write_model(odd.path());
    std::fs::write(odd.path().join("config.json"), r#"{"model_type": "mamba"}"#).unwrap();
    let bare = tempfile::tempdir().unwrap();
    write_model(bare.path());
    std::fs::remove_file(bare.path().join("tokenizer.json")).unwrap();
    let hub = Hub::start(vec![("org/odd", odd.path().into()), ("org/bare", bare.path().into())]);
    let told = |model| told(&hub.endpoint, home.path(), model);
    let at = &hub.endpoint;
    assert_eq!(
        told("hf:gated/model"),
        format!(
            "knee: hf:gated/model: {at} says 401: there is no such model, or it needs the token of an account with access to it (HF_TOKEN)\n"
        )
    );
    assert_eq!(
        told("hf:org/none"),
        format!("knee: hf:org/none: {at} says 404: there is no such model\n")
    );
    assert_eq!(
        told("hf:broken/model"),
        format!("knee: hf:broken/model: {at} says 503: try again later\n")
    );
    assert_eq!(told("hf:org/bare"), "knee: hf:org/bare: it has no tokenizer.json\n");
    let name = "knee: hf:../etc: expected hf:ORG/NAME, such as hf:HuggingFaceTB/SmolLM2-135M\n";
    assert_eq!(told("hf:../etc"), name);
    hub.asked();
    let said = told("hf:org/odd");
    assert!(said.contains("unsupported architecture `mamba`"), "{said}");
    assert!(
        !hub.asked().iter().any(|path| path.contains("safetensors")),
        "weights are not fetched for that"
    );
}
