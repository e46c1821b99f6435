//! Devices, their data sheets and their prices.

use super::*;

#[test]
fn devices_are_listed_with_their_measurements() {
    let all = json(&["devices", "--json"]);
    let of = |name: &str| all.as_array().unwrap().iter().find(|d| d["name"] == name).unwrap();
    assert_eq!(
        (&of("h100-sxm")["measured"], &of("mi300x")["measured"]),
        (&true.into(), &false.into())
    );
    assert!(of("b200")["timed_under"].as_str().unwrap().starts_with("vLLM "));
    assert_eq!(of("mi300x")["borrowed_from"], "h200-sxm");
    let shown = text(&knee(&["devices"]).stdout);
    assert!(
        shown.contains("borrowed from h200-sxm") && shown.lines().all(|l| l.chars().count() <= 100)
    );
}

#[test]
fn a_device_is_described_by_its_data_sheet() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("new.toml");
    let path = path.to_str().unwrap();
    let add = [
        "device",
        "add",
        "new-gpu",
        "--bf16",
        "990TFLOPS",
        "--fp8",
        "1980TFLOPS",
        "--link",
        "450GB/s",
    ];
    let add = with(&add, &["--memory", "141GB", "--price", "3", "--to", path]);
    assert!(refused(&with(&add, &["--bandwidth", "4.8"])).contains("with its unit"));
    assert!(knee(&with(&add, &["--bandwidth", "4.8TB/s"])).status.success());
    assert!(refused(&with(&add, &["--bandwidth", "4.8TB/s"])).contains("exists"));
    let few = ["tune", "--slo", "ttft=1s", "--requests", "200", "--max-seqs", "64", "--json"];
    let few = with(&few, &["--max-batch-tokens", "2048", "--policy", "chunked"]);
    let tuned = |device: &str, more: &[&str]| json(&with(&with(&few, &["--device", device]), more));
    let (own, like) = (tuned(path, &[]), tuned("h200-sxm", &[]));
    let capacity = |r: &Value| r["best"]["capacity_rps"].as_f64().unwrap();
    assert!(
        (capacity(&own) / capacity(&like) - 1.0).abs() < 0.05,
        "the same GPU under another name"
    );
    // Nothing of it was measured: the interval is wider.
    let width = |r: &Value| {
        let [low, high] = [0, 1].map(|i| r["answer"]["interval_rps"][i].as_f64().unwrap());
        high / low.max(1e-9)
    };
    assert!(width(&own) > width(&like), "{} {}", own["answer"], like["answer"]);
    assert!(
        own["devices"][0]["provenance"]
            .as_str()
            .unwrap()
            .contains("No operator of it was measured")
    );
}

#[test]
fn an_operator_without_a_table_is_named_in_the_answer_and_on_the_page() {
    let dir = tempfile::tempdir().unwrap();
    let few = ["tune", "--slo", "ttft=2s", "--requests", "120", "--max-seqs", "32", "--json"];
    let few = with(&few, &["--max-batch-tokens", "2048", "--policy", "chunked"]);
    let notes = |model: &str| {
        let out = dir.path().join(model.replace('/', "-"));
        let on = ["--device", "a40", "--model", model, "--out", out.to_str().unwrap()];
        let tuned = json(&with(&few, &on));
        let notes = tuned["answer"]["notes"].as_array().unwrap().clone();
        (notes, std::fs::read_to_string(out.join("report.html")).unwrap())
    };
    let (dense, _) = notes("llama-3.1-8b");
    assert!(dense.is_empty(), "{dense:?}");
    let (experts, page) = notes("openai/gpt-oss-20b");
    let said = "the mixture of experts is not measured";
    assert!(experts.iter().any(|n| n.as_str().unwrap().contains(said)), "{experts:?}");
    assert!(page.contains(said));
}

#[test]
fn prices_can_be_given() {
    let few = ["tune", "--slo", "ttft=1s", "--requests", "200", "--max-seqs", "64", "--json"];
    let few = with(&few, &["--max-batch-tokens", "2048", "--policy", "chunked"]);
    let tuned = |more: &[&str]| json(&with(&few, more));
    let own = tuned(&["--price", "h100=1.25"]);
    assert_eq!(own["best"]["usd_per_hour"], 1.25);
    assert_eq!(
        own["answer"]["interval_rps"],
        tuned(&[])["answer"]["interval_rps"],
        "a price changes no time"
    );
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("prices.toml");
    std::fs::write(&path, "h100-sxm = 2.75\nl40s = 0.9\n").unwrap();
    let file = ["--prices", path.to_str().unwrap()];
    assert_eq!(tuned(&file)["best"]["usd_per_hour"], 2.75);
    assert_eq!(tuned(&with(&file, &["--price", "h100-sxm=1"]))["best"]["usd_per_hour"], 1.0);
    assert!(refused(&with(&few, &["--price", "l40s=1"])).contains("none of the devices asked for"));
    assert!(refused(&with(&few, &["--price", "h100=free"])).contains("DEVICE=USD"));
}
