//! Measuring a server from the command line: `knee bench --url` and `knee tune --url` against `knee mock`.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::net::TcpStream;
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

mod common;
#[path = "../loadgen/tests/live/odd.rs"]
mod odd;

use common::workload;
use odd::{Asked, good, reply, serve};

/// The binary, at work in a folder of the tests' own: it makes its default one where it is started.
fn knee(words: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_knee"));
    let folder = workload().parent().unwrap();
    command.args(words).current_dir(folder).env_remove("OPENAI_API_KEY");
    command
}

/// `knee mock` on a free port, ended with the value.
struct Mock {
    child: Child,
    url: String,
}

impl Mock {
    fn start(words: &[&str]) -> Self {
        let mut command = knee(&["mock", "--listen", "127.0.0.1:0"]);
        let mut child = command.args(words).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let url = line.split_whitespace().find(|w| w.starts_with("http://")).unwrap().to_owned();
        Self { child, url }
    }

    fn bench(&self, words: &[&str]) -> Command {
        let mut command = knee(&["bench", "--url", &self.url, "--workload"]);
        command.arg(workload()).args(words);
        command
    }
}

impl Drop for Mock {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn json(output: &Output) -> Value {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn keys(value: &Value) -> BTreeSet<String> {
    value.as_object().unwrap().keys().cloned().collect()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn a_measurement_has_every_key_of_a_simulation() {
    let mock = Mock::start(&["--ttft", "5ms", "--itl", "1ms"]);
    let words = ["--requests", "50", "--json", "--slo", "ttft=2s", "--slo", "itl=1s"];
    let measured = json(&mock.bench(&words).output().unwrap());
    let simulated = json(&knee(&["bench", "--requests", "50", "--json"]).output().unwrap());
    let missing: Vec<_> = keys(&simulated).difference(&keys(&measured)).cloned().collect();
    assert!(missing.is_empty(), "{missing:?}");
    assert_eq!((&measured["simulated"], &measured["slo_met"]), (&false.into(), &true.into()));
    assert_eq!((&measured["completed"], &measured["requests"]), (&50.into(), &50.into()));
    for key in ["mean_batch", "kv", "gpus", "iterations"] {
        assert!(measured[key].is_null(), "{key}: a server does not tell");
    }
    for key in ["mean_ttft_ms", "p99_ttft_ms", "p50_tpot_ms", "p99_itl_ms", "p90_e2e_ms"] {
        assert!(measured[key].as_f64().unwrap() > 0.0, "{key}");
        assert!(measured["from_send"][key].as_f64().unwrap() <= measured[key].as_f64().unwrap());
    }
    let audit = &measured["audit"];
    for key in ["send_lateness_p50_ms", "send_lateness_p99_ms", "cpu_s", "streams_held", "fluidity"]
    {
        assert!(audit[key].is_number(), "{key}");
    }
    assert!(["VALID", "SUSPECT", "INVALID"].contains(&audit["verdict"].as_str().unwrap()));
    assert!(audit["reasons"].is_array());
}

/// A measurement is no more the same the second time.
#[test]
fn each_measurement_has_a_folder_of_its_own() {
    let mock = Mock::start(&["--ttft", "1ms", "--itl", "1ms"]);
    let dir = TempDir::new().unwrap();
    for _ in 0..2 {
        let output = mock.bench(&["--requests", "10"]).current_dir(dir.path()).output().unwrap();
        assert!(output.status.success(), "{}", stderr(&output));
    }
    let found = std::fs::read_dir(dir.path().join("knee-out")).unwrap();
    let mut names: Vec<_> = found.map(|f| f.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    let [first, second, latest] = &names[..] else { panic!("{names:?}") };
    assert_eq!((second, latest.as_str()), (&format!("{first}-2"), "latest"));
    let latest = std::fs::read_link(dir.path().join("knee-out/latest")).unwrap();
    assert_eq!(latest, std::path::Path::new(second));
}

#[test]
fn the_report_is_labelled_measured_and_can_be_drawn_again() {
    let mock = Mock::start(&["--ttft", "5ms", "--itl", "1ms", "--fault", "429=20%"]);
    let dir = TempDir::new().unwrap();
    let out = dir.path().to_str().unwrap();
    let secrets = ["--api-key", "hush-hush", "--header", "x-team: hush-hush"];
    let words = ["--requests", "60", "--out", out, "--export", "vllm,aiperf"];
    let output = mock.bench(&[&words[..], &secrets].concat()).output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(said.contains("MEASURED") && said.contains("status_429"), "{said}");
    let read = |name: &str| std::fs::read_to_string(dir.path().join(name)).unwrap();
    for name in ["report.html", "report.json", "result.json", "question.json"] {
        assert!(!read(name).contains("hush-hush"), "{name} keeps the key");
    }
    let page = read("report.html");
    assert!(page.contains("Can these figures be trusted?") && !page.contains("KV memory"));
    let again = knee(&["report", out]).output().unwrap();
    assert!(String::from_utf8(again.stdout).unwrap().contains("MEASURED"));
    assert_eq!(page, read("report.html"));
    assert_eq!(read("requests.jsonl").lines().count(), 60);
    assert!(read("latencies.hlog").contains("Tag=ttft"));
    let vllm: Value = serde_json::from_str(&read("vllm.json")).unwrap();
    let failed = vllm["failed"].as_u64().unwrap();
    assert!(failed > 0 && vllm["completed"].as_u64().unwrap() + failed == 60);
    let gaps = |i: usize| vllm["itls"][i].as_array().unwrap().len() as u64;
    for (i, length) in vllm["output_lens"].as_array().unwrap().iter().enumerate() {
        assert_eq!(gaps(i), length.as_u64().unwrap().saturating_sub(1));
        assert_eq!(vllm["errors"][i].as_str().unwrap().is_empty(), length.as_u64() != Some(0));
    }
    for name in ["requests.csv", "requests.jsonl", "vllm.json", "profile_export.jsonl"] {
        let runs = tuner::evidence::validate::read::read(&dir.path().join(name)).unwrap();
        let [run] = &runs[..] else { panic!("{name} holds {} runs", runs.len()) };
        assert_eq!((run.rows.len(), run.failures.values().sum()), (60, failed), "{name}");
        let first = run.rows.iter().find(|row| !row.failed).unwrap();
        let ttft = first.first_token.unwrap() - first.arrival;
        assert!(ttft >= std::time::Duration::from_millis(5), "{name}: {ttft:?}");
        assert!(first.input > 0 && first.output > 0, "{name}");
    }
    let summary =
        tuner::evidence::validate::read::read(&dir.path().join("profile_export_aiperf.json"));
    assert!(summary.unwrap_err().to_string().contains("give the file that is written beside it"));
}

#[test]
fn the_file_for_aiperf_has_its_keys_units_and_sense() {
    let mock = Mock::start(&["--ttft", "20ms", "--itl", "2ms", "--fault", "429=20%"]);
    let dir = TempDir::new().unwrap();
    let out = dir.path().to_str().unwrap();
    let words = ["--requests", "80", "--out", out, "--export", "aiperf", "--slo", "ttft=2s"];
    let output = mock.bench(&words).output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    let file = std::fs::read(dir.path().join("profile_export_aiperf.json")).unwrap();
    let file: Value = serde_json::from_slice(&file).unwrap();
    let result = std::fs::read(dir.path().join("result.json")).unwrap();
    let result: Value = serde_json::from_slice(&result).unwrap();
    let (completed, failed) = (&result["completed"], &result["rejected"]);
    let figure = |name: &str, unit: &str, figure: &str| {
        assert_eq!(file[name]["unit"], unit, "{name}");
        file[name][figure].as_f64().unwrap_or_else(|| panic!("{name}.{figure}"))
    };
    for name in ["time_to_first_token", "inter_token_latency", "request_latency"] {
        assert_eq!(&file[name]["count"], completed, "{name}");
        let at = |p: &str| figure(name, "ms", p);
        let rising = ["min", "p1", "p5", "p10", "p25", "p50", "p75", "p90", "p95", "p99", "max"];
        assert!(rising.windows(2).all(|w| at(w[0]) <= at(w[1])), "{name}");
        assert!((at("sum") / at("count") - at("avg")).abs() < 1e-6 && at("std") >= 0.0);
    }
    // A mean gap is its inter-token latency, every gap its inter-chunk latency: the mock's is 2 ms.
    assert!(figure("time_to_first_token", "ms", "min") >= 20.0);
    assert!((figure("inter_token_latency", "ms", "p50") - 2.0).abs() < 0.5);
    let gaps = figure("inter_chunk_latency", "ms", "count");
    let tokens = figure("total_osl", "tokens", "avg");
    assert_eq!(gaps, tokens - completed.as_f64().unwrap());
    assert_eq!(figure("output_sequence_length", "tokens", "sum"), tokens);
    assert_eq!(figure("request_count", "requests", "avg"), completed.as_f64().unwrap());
    assert_eq!(figure("error_request_count", "requests", "avg"), failed.as_f64().unwrap());
    let (rate, lasts) = (
        figure("request_throughput", "requests/sec", "avg"),
        figure("benchmark_duration", "sec", "avg"),
    );
    assert!((rate * lasts - completed.as_f64().unwrap()).abs() < 1e-6);
    assert_eq!(file["error_summary"][0]["count"], *failed);
    assert_eq!(file["error_summary"][0]["error_details"]["code"], 429);
    assert_eq!(file["good_request_count"]["avg"], file["request_count"]["avg"]);
    assert!(file["start_time"].as_str() < file["end_time"].as_str());
}

#[test]
fn a_closed_loop_keeps_its_streams() {
    let mock = Mock::start(&["--ttft", "5ms", "--itl", "1ms"]);
    let words = ["--requests", "100", "--json", "--concurrency", "8", "--api", "chat"];
    let measured = json(&mock.bench(&words).output().unwrap());
    let audit = &measured["audit"];
    assert_eq!((&audit["streams_peak"], &audit["streams_asked"]), (&8.into(), &8.into()));
    assert!(measured["rate_rps"].is_null());
}

#[test]
fn a_growing_queue_makes_figures_suspect_and_a_steady_one_does_not() {
    let mock = Mock::start(&["--ttft", "20ms", "--slots", "2", "--itl", "1ms"]);
    let verdict = |rate: &str| {
        let words = ["--rate", rate, "--requests", "400", "--json"];
        let measured = json(&mock.bench(&words).output().unwrap());
        measured["audit"]["reasons"].to_string()
    };
    // Two slots and 25 ms carry 80 requests/s.
    let behind = verdict("120");
    assert!(behind.contains("falls behind") && behind.contains("lower the rate"), "{behind}");
    assert!(!verdict("40").contains("queue grew"));
}

#[test]
fn sending_goes_on_until_the_figure_is_known_and_ends_with_every_answer() {
    let mock = Mock::start(&["--ttft", "5ms", "--itl", "1ms", "--slots", "2"]);
    let until = |wanted: &str, words: &[&str]| {
        let words = [&["--json", "--until-ci", wanted], words].concat();
        json(&mock.bench(&words).output().unwrap())
    };
    let narrow = |found: &Value| {
        let all = found["precision"].as_array().unwrap();
        let one = all.iter().find(|p| p["measured"] == "ttft:mean").unwrap();
        let at = |key: &str| one[key].as_f64().unwrap();
        assert!((at("value_ms") - found["mean_ttft_ms"].as_f64().unwrap()).abs() < 1e-3);
        (at("high_ms") - at("low_ms")) / 2.0 / at("value_ms")
    };
    let coarse = until("ttft:mean=20%", &["--rate", "100"]);
    let fine = until("ttft:mean=6%", &["--rate", "100", "--duration", "60s"]);
    assert!(
        narrow(&coarse) < 0.22 && narrow(&fine) < 0.07,
        "{} {}",
        narrow(&coarse),
        narrow(&fine)
    );
    assert!(coarse["requests"].as_u64() < fine["requests"].as_u64());
    for found in [&coarse, &fine] {
        assert_eq!(
            (&found["completed"], &found["interrupted"]),
            (&found["requests"], &false.into())
        );
    }
    let short = until("ttft:mean=0.01%", &["--concurrency", "4", "--duration", "2s"]);
    let reasons = short["audit"]["reasons"].to_string();
    assert!(
        reasons.contains("raise --duration") && short["audit"]["verdict"] != "VALID",
        "{reasons}"
    );
    let wrong = mock.bench(&["--until-ci", "itl=5%"]).output().unwrap();
    assert!(stderr(&wrong).contains("ttft:p99=5%"), "{}", stderr(&wrong));
}

#[test]
fn workers_share_one_schedule_and_their_parts_make_one_run() {
    let mock = Mock::start(&["--ttft", "5ms", "--itl", "1ms", "--fault", "429=5%"]);
    let dir = TempDir::new().unwrap();
    let folder = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let start = format!("{}", since.as_secs() + 4);
    let begin = |worker: &str, name: &str| {
        let words =
            ["--requests", "300", "--rate", "150", "--slo", "ttft=2s", "--start-at", &start];
        let own = ["--worker", worker, "--out", &folder(name)];
        mock.bench(&[&words[..], &own].concat()).stdout(Stdio::null()).spawn().unwrap()
    };
    let workers = [begin("0/3", "a"), begin("1/3", "b"), begin("2/3", "c")];
    for mut worker in workers {
        assert!(worker.wait().unwrap().success());
    }
    let result = |name: &str| -> Value {
        let bytes = std::fs::read(dir.path().join(name).join("result.json")).unwrap();
        serde_json::from_slice(&bytes).unwrap()
    };
    let parts = ["a", "b", "c"].map(&result);
    let of_parts = |key: &str| parts.iter().map(|p| p[key].as_u64().unwrap()).sum::<u64>();
    assert!(parts.iter().all(|p| p["requests"] == 100), "each has a third");
    let (a, b, c, all) = (folder("a"), folder("b"), folder("c"), folder("all"));
    let output = knee(&["report", &a, &c, &b, "--out", &all]).output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(said.contains("3 workers") && said.contains("150 requests/s"), "{said}");
    let whole = result("all");
    assert_eq!(whole["requests"], 300);
    for key in ["requests", "completed", "rejected"] {
        assert_eq!(whole[key].as_u64().unwrap(), of_parts(key), "{key}");
    }
    let asked = whole["audit"]["asked_rps"].as_f64().unwrap();
    assert!((130.0..170.0).contains(&asked), "{asked}");
    // Percentiles of the whole are those of all requests, not means of the parts'.
    let lines =
        |name: &str| std::fs::read_to_string(dir.path().join(name).join("requests.jsonl")).unwrap();
    let mut ttfts: Vec<f64> = ["a", "b", "c"]
        .iter()
        .flat_map(|name| lines(name).lines().map(str::to_owned).collect::<Vec<_>>())
        .map(|line| serde_json::from_str::<Value>(&line).unwrap())
        .filter(|r| r["outcome"] == "completed")
        .map(|r| 1e3 * (r["first_token_s"].as_f64().unwrap() - r["scheduled_s"].as_f64().unwrap()))
        .collect();
    ttfts.sort_by(f64::total_cmp);
    let median = whole["p50_ttft_ms"].as_f64().unwrap();
    assert!((ttfts[150 - 1] - median).abs() < 1e-3, "{} {median}", ttfts[149]);
    let scheduled: Vec<f64> = lines("all")
        .lines()
        .map(|l| serde_json::from_str::<Value>(l).unwrap()["scheduled_s"].as_f64().unwrap())
        .collect();
    assert!(scheduled.is_sorted() && scheduled.len() == 300, "as if one had sent them all");
    let two = json(&knee(&["report", &a, &b, "--json"]).output().unwrap());
    assert!(two["audit"]["reasons"].to_string().contains("1 of 3 workers are missing"));
    let twice = knee(&["report", &a, &a, "--json"]).output().unwrap();
    assert!(stderr(&twice).contains("twice"), "{}", stderr(&twice));
    let late = ["--worker", "0/2", "--start-at", "1000", "--json", "--out", &folder("late")];
    let late = mock.bench(&late).output();
    assert!(stderr(&late.unwrap()).contains("has passed"));
}

#[test]
fn members_that_a_server_refuses_are_reported_for_all_workers() {
    let url = serve(|asked: &Asked, to: &mut TcpStream| match asked.body.get("ignore_eos") {
        Some(_) => reply(to, 400, "", r#"{"error":{"message":"unknown member ignore_eos"}}"#),
        None => good(asked, to),
    });
    let dir = TempDir::new().unwrap();
    let folder = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let start = format!("{}", since.as_secs() + 4);
    let begin = |worker: &str, name: &str| {
        let mut command = knee(&["bench", "--url", &url, "--requests", "20", "--rate", "50"]);
        command.arg("--workload").arg(workload()).args(["--start-at", &start, "--worker", worker]);
        command.args(["--out", &folder(name)]).stdout(Stdio::null()).spawn().unwrap()
    };
    for mut worker in [begin("0/2", "a"), begin("1/2", "b")] {
        assert!(worker.wait().unwrap().success());
    }
    let output = knee(&["report", &folder("a"), &folder("b")]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(said.matches("The server does not take ignore_eos").count(), 1, "{said}");
}

#[test]
fn a_script_for_workers_is_printed_without_measuring() {
    let words = ["--workers", "slurm=4", "--start-at", "2026-05-04T12:00:00Z", "--rate", "9"];
    let output = knee(&[&["bench", "--url", "http://no-such-host.invalid"], &words[..]].concat())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{}", stderr(&output));
    let line = "exec knee bench --url http://no-such-host.invalid --rate 9 \\";
    assert!(said.contains(line) && said.contains("--start-at 1777896000 "), "{said}");
    let none =
        knee(&["bench", "--url", "http://x", "--workers", "pbs=4", "--start-at", "1"]).output();
    assert!(stderr(&none.unwrap()).contains("k8s=N or slurm=N"));
}

#[cfg(unix)]
#[test]
fn an_interruption_keeps_measurements() {
    let mock = Mock::start(&["--ttft", "5ms", "--itl", "1ms"]);
    let dir = TempDir::new().unwrap();
    let mut command = mock.bench(&["--rate", "20", "--out", dir.path().to_str().unwrap()]);
    let child = command.stdout(Stdio::piped()).spawn().unwrap();
    std::thread::sleep(Duration::from_secs(2));
    let id = child.id().to_string();
    assert!(Command::new("kill").args(["-INT", &id]).status().unwrap().success());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130));
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(said.contains("interrupted"), "{said}");
    let result = std::fs::read(dir.path().join("result.json")).unwrap();
    let result: Value = serde_json::from_slice(&result).unwrap();
    assert!(result["completed"].as_u64().unwrap() > 5);
    assert_eq!(result["interrupted"], true);
}

#[test]
fn a_run_without_measurements_is_no_success() {
    let url = serve(|asked: &Asked, to: &mut TcpStream| match asked.body["stream"] == true {
        true => reply(to, 422, "", r#"{"detail":"no streams today"}"#),
        false => good(asked, to),
    });
    let dir = TempDir::new().unwrap();
    let mut command =
        knee(&["bench", "--url", &url, "--requests", "20", "--slo", "ttft=1s", "--json"]);
    command.arg("--workload").arg(workload()).arg("--out").arg(dir.path());
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    assert!(
        stderr(&output)
            .contains("nothing was measured: 20 of 20 failed with 422 (no streams today)"),
        "{}",
        stderr(&output)
    );
    let found: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&found["completed"], &found["slo_met"]), (&0.into(), &false.into()));
    assert_eq!(found["audit"]["verdict"], "INVALID");
    let page = std::fs::read_to_string(dir.path().join("report.html")).unwrap();
    assert!(page.contains("nothing was measured") && page.contains("no streams today"));
}

#[test]
fn a_search_tells_refusals_from_slowness_and_survives_them() {
    let (seats, refused) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
    let counts = (Arc::clone(&seats), Arc::clone(&refused));
    let url = serve(move |asked: &Asked, to: &mut TcpStream| {
        if !asked.posts() {
            return good(asked, to);
        }
        let (seats, refused) = &counts;
        let taken = seats.fetch_add(1, Ordering::SeqCst);
        // A client that was refused is refused again for a while: the two questions after the first refusal too.
        let busy = taken >= 3 || (1..4).contains(&(refused.load(Ordering::SeqCst) % 7));
        let said = if busy {
            refused.fetch_add(1, Ordering::SeqCst);
            reply(to, 429, "", r#"{"error":{"message":"three at a time"}}"#)
        } else {
            std::thread::sleep(Duration::from_millis(50));
            good(asked, to)
        };
        seats.fetch_sub(1, Ordering::SeqCst);
        said
    });
    let mut command =
        knee(&["tune", "--url", &url, "--slo", "ttft=5s", "--probe", "1s", "--budget", "12s"]);
    command.arg("--json").arg("--workload").arg(workload());
    let found = json(&command.output().unwrap());
    assert!(found["capacity_rps"].as_f64().unwrap() > 0.0, "{found}");
    let tried = found["answer"]["contenders"][0]["tried"].as_array().unwrap();
    let failed: Vec<&Value> = tried.iter().filter(|t| t["held"] == false).collect();
    let bound = failed.iter().rfind(|t| t["rate_rps"] == found["fails_at_rps"]).unwrap();
    assert!(refused.load(Ordering::SeqCst) > 0 && bound["limit"] == "admission", "{found}");
    assert!(bound["why"].as_str().unwrap().contains("refused with 429 (three at a time)"));
    for rate in failed {
        assert!(rate["why"].as_str().unwrap().contains("refused with 429"), "{rate}");
    }
}

#[test]
fn a_server_that_is_still_starting_is_waited_for() {
    let mock = Mock::start(&["--ready-after", "1500ms"]);
    let output = mock.bench(&["--requests", "5", "--rate", "50", "--json"]).output().unwrap();
    let said = stderr(&output);
    assert!(said.contains("Waiting for the server") && said.contains("still starting"), "{said}");
    assert_eq!(json(&output)["completed"], 5);
    let mock = Mock::start(&["--ready-after", "60s"]);
    let output = mock.bench(&["--ready-timeout", "1s"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("still starting"), "{}", stderr(&output));
}

#[test]
fn mistakes_are_one_line() {
    let mock = Mock::start(&["--api-key", "right"]);
    let refused = |words: &[&str]| {
        let output = knee(words).output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{words:?}");
        let said = stderr(&output);
        assert_eq!(said.lines().count(), 1, "{said}");
        said
    };
    let url = mock.url.as_str();
    assert!(refused(&["bench", "--url", url]).contains("API key"));
    assert!(refused(&["bench", "--url", "http://127.0.0.1:1"]).contains("refused"));
    assert!(refused(&["bench", "--url", "localhost:8000"]).contains("http://"));
    assert!(refused(&["bench", "--url", "http://127.0.0.1:99999"]).contains("65535"));
    assert!(refused(&["bench", "--url", url, "--max-seqs", "8"]).contains("own configuration"));
    assert!(refused(&["bench", "--url", url, "--device", "h100-sxm"]).contains("--url"));
    assert!(refused(&["bench", "--max-in-flight", "8"]).contains("--url"));
    assert!(refused(&["tune", "--url", url]).contains("--slo"));
    assert!(
        refused(&["bench", "--url", url, "--api-key", "right", "--model", "other"])
            .contains("does not exist")
    );
    assert!(refused(&["mock", "--fault", "sulk"]).contains("sulk"));
    assert!(refused(&["mock", "--listen", "nowhere"]).contains("--listen"));
}

#[test]
fn a_target_that_an_idle_server_misses_has_no_capacity() {
    let mock = Mock::start(&["--ttft", "20ms", "--itl", "1ms"]);
    let mut command = knee(&["tune", "--url", &mock.url, "--slo", "ttft=1ms", "--out"]);
    let dir = TempDir::new().unwrap();
    let output = command.arg(dir.path()).arg("--workload").arg(workload()).output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
    assert!(String::from_utf8(output.stdout).unwrap().contains("nothing that was tried holds"));
}

#[test]
fn a_search_ends_between_a_rate_that_holds_and_one_that_fails() {
    let mock = Mock::start(&["--ttft", "20ms", "--itl", "1ms", "--slots", "4"]);
    let mut command = knee(&["tune", "--url", &mock.url, "--slo", "ttft=200ms", "--json"]);
    // More requests are offered than the workload has: it is sent again and again.
    command.args(["--probe", "1500ms", "--budget", "40s", "--requests", "60"]);
    command.arg("--workload").arg(workload());
    let found = json(&command.output().unwrap());
    let (lo, hi) =
        (found["capacity_rps"].as_f64().unwrap(), found["fails_at_rps"].as_f64().unwrap());
    assert!(lo < hi);
    // A rate is tried again when it bounds the answer, and the last try counts.
    let shots = found["answer"]["contenders"][0]["tried"].as_array().unwrap();
    for (i, shot) in shots.iter().enumerate() {
        let (rate, again) = (&shot["rate_rps"], &shots[i + 1..]);
        let last = again.iter().all(|later| later["rate_rps"] != *rate);
        assert!(!last || rate.as_f64().unwrap() >= hi || shot["held"] == true, "{shots:?}");
    }
    assert_eq!(found["rate_rps"], found["capacity_rps"], "the figures are of that rate");
}

#[test]
fn an_interrupted_search_goes_on_where_it_was() {
    let mock = Mock::start(&["--ttft", "20ms", "--itl", "2ms", "--slots", "4"]);
    let dir = TempDir::new().unwrap();
    let search = || {
        let mut command =
            knee(&["tune", "--url", &mock.url, "--slo", "ttft=200ms", "--probe", "1s"]);
        command.args(["--header", "x-route: hush-hush", "--header", "x-api-key: hush-hush"]);
        command.arg("--workload").arg(workload()).arg("--out").arg(dir.path());
        command
    };
    let mut child = search().stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let told: Vec<String> =
        lines.map_while(Result::ok).filter(|l| l.contains(" requests/s for ")).take(2).collect();
    child.kill().unwrap();
    child.wait().unwrap();
    let whole = search().output().unwrap();
    assert!(whole.status.success(), "{}", stderr(&whole));
    let lines = |output: &Output| -> Vec<String> {
        let all = stderr(output);
        all.lines().filter(|l| l.contains(" requests/s for ")).map(str::to_owned).collect()
    };
    // The rates already measured are told again as they were, to the digit; the last may not have been written down yet.
    let sure = told.len().saturating_sub(1);
    assert_eq!(lines(&whole)[..sure], told[..sure]);
    let read = || -> Value {
        let found = std::fs::read(dir.path().join("result.json")).unwrap();
        serde_json::from_slice(&found).unwrap()
    };
    let first = read();
    let again = search().output().unwrap();
    assert!(again.status.success() && stderr(&again).contains("are not repeated"));
    assert_eq!(lines(&again), lines(&whole));
    for key in ["capacity_rps", "fails_at_rps", "answer", "p99_ttft_ms", "p50_e2e_ms", "requests"] {
        assert_eq!(read()[key], first[key], "{key}");
        assert!(!first[key].is_null(), "{key}");
    }
    let mut other = search();
    let refused = other.args(["--timeout", "9s"]).output().unwrap();
    assert!(
        refused.status.code() == Some(1)
            && stderr(&refused).contains("--timeout was 10min, and is 9s")
    );
    let mut other = search();
    let refused = other.args(["--header", "x-route: elsewhere"]).output().unwrap();
    let said = stderr(&refused);
    assert!(refused.status.code() == Some(1) && said.contains("and is x-api-key, x-route #"));
    for file in std::fs::read_dir(dir.path()).unwrap() {
        let file = file.unwrap().path();
        let bytes = std::fs::read(&file).unwrap();
        let secret = bytes.windows(9).any(|bytes| bytes == b"hush-hush");
        assert!(!secret && !said.contains("hush-hush"), "{} keeps a header", file.display());
    }
}
