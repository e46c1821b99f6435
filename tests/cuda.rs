//! `--device cuda:N` where there is no GPU: one clear line, whatever the command, before anything is loaded.

use std::process::{Command, Output};

fn knee(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_knee")).args(arguments).output().unwrap()
}

fn says(arguments: &[&str]) -> String {
    let out = knee(arguments);
    assert!(!out.status.success(), "{arguments:?}");
    let said = String::from_utf8(out.stderr).unwrap();
    assert_eq!(said.trim().lines().count(), 1, "one line: {said}");
    assert!(!said.contains("panicked"), "{said}");
    said
}

#[test]
fn no_driver_is_said_in_one_line() {
    let on_gpu =
        |rest: &[&'static str]| [rest, &["--device", "cuda:0", "--model", "tiny"]].concat();
    let (serve, measure) =
        (&["serve", "--port", "0"][..], &["profile", "measure", "--to", "/dev/null"]);
    let bench = &["bench", "--slo", "ttft=1s", "--workload", "chat", "--requests", "5"];
    if std::path::Path::new("/dev/nvidiactl").exists() {
        return println!("skipped: this machine has an NVIDIA driver");
    }
    for command in [serve, measure, bench] {
        let said = says(&on_gpu(command));
        assert!(said.contains("no NVIDIA driver on this machine"), "{said}");
    }
}

#[test]
fn limits_of_gpus_are_told() {
    let on_gpu = ["serve", "--port", "0", "--model", "tiny", "--device", "cuda:0"];
    let said = says(&[&on_gpu[..], &["--precision", "f32"]].concat());
    assert!(said.contains("a GPU computes in bf16"), "{said}");
    let said = says(&["serve", "--port", "0", "--model", "tiny", "--device", "cuda:first"]);
    assert!(said.contains("unknown device `cuda:first`"), "{said}");
    for unknown in ["cuda:3-1", "cuda:0,", "cuda:0-4096", "cuda:-1"] {
        let said = says(&["serve", "--port", "0", "--model", "tiny", "--device", unknown]);
        assert!(said.contains(&format!("unknown device `{unknown}`")), "{said}");
        assert!(said.contains("several GPUs as cuda:0-3 or cuda:0,2"), "{said}");
    }
    let said = says(&["serve", "--port", "0", "--model", "tiny", "--device", "cuda:0-2,1"]);
    assert!(said.contains("cuda:0-2,1 names GPU 1 twice"), "{said}");
}
