//! `--tokenizer`: every prompt has exactly as many tokens as the workload asks for, by the count of a server that has the
//! same tokenizer.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};
use tempfile::TempDir;

/// The in-tree engine with its built-in model, whose tokens are bytes.
struct Server(Child, String);

impl Server {
    fn start() -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_knee"))
            .args(["serve", "--port", "0", "--cpu-threads", "1", "--model", "tiny"])
            .args(["--kv-memory", "20MiB", "--precision", "f32"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let url = line.split_whitespace().find(|w| w.starts_with("http://")).unwrap();
        Self(child, url.to_owned())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The `tokenizer.json` of a model that reads bytes.
fn of_bytes() -> Value {
    // GPT-2's letter for each byte.
    let (mut vocab, mut next) = (BTreeMap::new(), 0x100);
    for byte in 0..=255_u8 {
        let shown = matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
        let letter = if shown { char::from(byte) } else { char::from_u32(next).unwrap() };
        next += u32::from(!shown);
        vocab.insert(letter.to_string(), u32::from(byte));
    }
    let model = json!({"type": "BPE", "vocab": vocab, "merges": []});
    let byte_level = byte_level();
    json!({"version": "1.0", "added_tokens": [], "pre_tokenizer": byte_level, "decoder": byte_level, "model": model})
}

/// That of a model that reads words.
fn of_words() -> Value {
    let words = "[UNK] time year people way day man thing woman life child world school state family student group";
    let vocab: BTreeMap<&str, usize> = words.split(' ').zip(0..).collect();
    let model = json!({"type": "WordLevel", "vocab": vocab, "unk_token": "[UNK]"});
    let split = json!({"type": "Whitespace"});
    json!({"version": "1.0", "added_tokens": [], "pre_tokenizer": split, "decoder": byte_level(), "model": model})
}

fn byte_level() -> Value {
    json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true})
}

/// Request lengths of every kind, as a file.
fn workload(to: &Path) -> Vec<u64> {
    let lengths: Vec<u64> = (0..60).map(|i| 40 + i * 5 % 37 + i * i % 211).collect();
    let row =
        |(i, n): (usize, &u64)| format!("2024-05-10 00:00:00.{:02}0000,{n},{}\n", i, 2 + i % 3);
    let rows: String = lengths.iter().enumerate().map(row).collect();
    std::fs::write(to, format!("TIMESTAMP,ContextTokens,GeneratedTokens\n{rows}")).unwrap();
    lengths
}

fn bench(url: &str, dir: &TempDir, tokenizer: &Path, api: &str) -> std::process::Output {
    let file = |name: &str| dir.path().join(name);
    let mut command = Command::new(env!("CARGO_BIN_EXE_knee"));
    command.args(["bench", "--url", url, "--api", api, "--json", "--workload"]);
    command.arg(file("lengths.csv")).arg("--tokenizer").arg(tokenizer);
    command.arg("--out").arg(file(api)).current_dir(dir.path()).output().unwrap()
}

#[test]
fn every_prompt_is_as_long_as_asked_by_the_servers_own_count() {
    let (server, dir) = (Server::start(), TempDir::new().unwrap());
    let lengths = workload(&dir.path().join("lengths.csv"));
    let bytes = dir.path().join("tokenizer.json");
    std::fs::write(&bytes, of_bytes().to_string()).unwrap();
    for api in ["completions", "chat"] {
        let output = bench(&server.1, &dir, &bytes, api);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{said}");
        let result: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(result["completed"], 60, "{said}");
        let lines = std::fs::read_to_string(dir.path().join(api).join("requests.jsonl")).unwrap();
        let lines = lines.lines().map(|l| serde_json::from_str::<Value>(l).unwrap());
        for (line, asked) in lines.zip(&lengths) {
            assert_eq!(line["prompt_tokens"], *asked, "{api}: {line}");
        }
    }
}

#[test]
fn another_models_tokenizer_is_refused() {
    let (server, dir) = (Server::start(), TempDir::new().unwrap());
    workload(&dir.path().join("lengths.csv"));
    let file = dir.path().join("tokenizer.json");
    std::fs::write(&file, of_words().to_string()).unwrap();
    let output = bench(&server.1, &dir, &file, "completions");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains("of the model that it serves"), "{said}");
    for (text, why) in [("{}", "not a tokenizer"), ("", "not a tokenizer")] {
        std::fs::write(&file, text).unwrap();
        let output = bench(&server.1, &dir, &file, "completions");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(said.contains(why) && said.lines().count() == 1, "{said}");
    }
}
