//! Results beside each other (`knee diff`) and beside requirements (`knee check`).

use super::*;

/// Two results of the same kind in folders `a` and `b`.
fn two() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, device) in [("a", "h100-sxm"), ("b", "h200-sxm")] {
        let out = dir.path().join(name);
        let more = ["--device", device, "--out", out.to_str().unwrap()];
        assert!(knee(&with(QUICK, &more)).status.success());
    }
    dir
}

#[test]
fn results_are_compared_and_held_to_requirements() {
    let dir = two();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let (a, b, html, xml) = (path("a"), path("b"), path("d.html"), path("j.xml"));
    // The differences.
    let same = text(&knee(&["diff", &a, &a]).stdout);
    assert!(
        same.contains("The same question; capacity is") && same.contains("as before"),
        "{same}"
    );
    assert!(!same.contains("better") && !same.contains("worse"), "{same}");
    let shown = text(&knee(&["diff", &a, &b, "--html", &html]).stdout);
    for said in ["Another question; capacity went from", "h100-sxm", "h200-sxm", "better"] {
        assert!(shown.contains(said), "{said}: {shown}");
    }
    let page = std::fs::read_to_string(&html).unwrap();
    assert!(
        page.contains("SIMULATED") && page.contains("What was asked") && page.contains("h200-sxm")
    );
    let told = json(&["diff", &a, &format!("{b}/result.json"), "--json"]);
    assert_fits("diff.json", &told);
    assert_fits("diff.json", &json(&["diff", &a, &a, "--json"]));
    assert_eq!(told["question"][0]["what"], "devices");
    let capacity = &told["figures"][0];
    assert_eq!(
        (capacity["what"].as_str(), capacity["better"].as_bool()),
        (Some("capacity"), Some(true))
    );
    let stored = |dir: &str| {
        let text = std::fs::read_to_string(format!("{dir}/result.json")).unwrap();
        serde_json::from_str::<Value>(&text).unwrap()["best"]["capacity_rps"].as_f64().unwrap()
    };
    let (rate, other) = (stored(&a), stored(&b));
    assert_eq!(capacity["before"].as_f64(), Some(rate));
    assert!((capacity["change"].as_f64().unwrap() - (other / rate - 1.0)).abs() < 1e-12);
    // Requirements.
    let check = |more: &[&str]| {
        let out = knee(&with(&["check", &a], more));
        (out.status.code(), text(&out.stdout) + &text(&out.stderr))
    };
    let (little, much) = (format!("{}rpm", 54.0 * rate), format!("{}", rate * 1.1));
    assert_eq!(check(&["--min-rps", &little, "--max", "ttft=1s,tpot=30ms"]).0, Some(0));
    let (code, said) = check(&["--min-rps", &much, "--max", "ttft=1s", "--junit", &xml]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("FAILED  capacity >= ") && said.contains("1 passed, 1 failed"), "{said}");
    let xml = std::fs::read_to_string(&xml).unwrap();
    assert!(
        xml.contains("tests=\"2\" failures=\"1\"") && xml.contains("<failure message="),
        "{xml}"
    );
    assert_eq!(check(&["--against", &a]).0, Some(0));
    let (code, said) = check(&["--against", &b, "--tolerance", "3%"]);
    assert!(code == Some(1) && said.contains("devices was h200-sxm, and is h100-sxm"), "{said}");
    let out = knee(&["check", &a, "--max", "ttft=1us", "--json"]);
    let told: Value = serde_json::from_slice(&out.stdout).unwrap();
    assert_eq!((told["passed"].as_bool(), out.status.code()), (Some(false), Some(1)));
    assert_fits("check.json", &told);
    assert_fits("check.json", &json(&["check", &a, "--against", &a, "--json"]));
    // A mistake has a status of its own.
    for (args, says) in [
        (&[][..], "nothing is required"),
        (&["--min-rps", "x"], "such as 2.5"),
        (&["--max", "ttft=0.2"], "is it 0.2 s or 0.2 ms?"),
        (&["--max", "ttft:p50=1s"], "this result has"),
        (&["--against", "/nosuch"], "/nosuch"),
        (&["--tolerance", "3"], "percentage"),
    ] {
        let (code, said) = check(args);
        assert_eq!((code, said.lines().count()), (Some(2), 1), "{said}");
        assert!(said.contains(says), "{said}");
    }
}
