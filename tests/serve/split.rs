//! A model split over ranks and stages, or copied, says what one says.

use std::process::Command;

use crate::client::{Server, asked};

/// Ranks compute every number as one would, in int8 too.
#[test]
fn tensor_parallel_ranks_answer_as_one_does() {
    for precision in ["f32", "bf16", "int8"] {
        let said = |flags: &[&str]| {
            let tiny = ["--model", "tiny", "--kv-memory", "20MiB", "--precision", precision];
            let server = Server::of(&[&tiny, flags].concat());
            let choice = server.complete(&asked("To be, or not to be", 200))["choices"][0].clone();
            server.comes_to_rest();
            choice["token_ids"].clone()
        };
        let one = said(&[]);
        assert_eq!(one.as_array().unwrap().len(), 200);
        assert_eq!(said(&["--tp", "2"]), one, "{precision}");
    }
    let refused = Command::new(env!("CARGO_BIN_EXE_knee"))
        .args(["serve", "--model", "tiny", "--tp", "3"])
        .output()
        .unwrap();
    assert!(!refused.status.success());
    let why = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(why.contains("3 ranks"), "{why}");
}

/// Stages hand on what they computed as it is, and replicas are copies: several clients at once get the tokens of one model
/// in one piece.
#[test]
fn pipeline_stages_and_replicas_answer_as_one_does() {
    let said = |flags: &[&str]| {
        let server = Server::start(flags);
        let ids = std::thread::scope(|scope| {
            let ask = |i: usize| {
                let prompt = &"To be, or not to be"[i..];
                server.complete(&asked(prompt, 40))["choices"][0]["token_ids"].clone()
            };
            let clients: Vec<_> = (0..5).map(|i| scope.spawn(move || ask(i))).collect();
            clients.into_iter().map(|client| client.join().unwrap()).collect::<Vec<_>>()
        });
        server.comes_to_rest();
        ids
    };
    let one = said(&[]);
    assert!(one.iter().all(|ids| ids.as_array().unwrap().len() == 40));
    assert_eq!(said(&["--pp", "2"]), one);
    assert_eq!(said(&["--pp", "4", "--policy", "continuous"]), one);
    assert_eq!(said(&["--tp", "2", "--pp", "2"]), said(&["--tp", "2"]));
    assert_eq!(said(&["--replicas", "3", "--router", "round-robin"]), one);
    assert_eq!(said(&["--replicas", "2", "--pp", "2"]), one);
}
