//! The measurements, one function a table.

use std::collections::HashMap;
use std::time::Duration;

use loadgen::{LiveOptions, LiveRun, Truth};

use super::bare;
use super::fixture::{Rig, load, rank};

/// Answers per second in a closed loop on a server without delays.
pub(crate) fn throughput() -> super::Outcome {
    println!("closed loop, 32-token streams, no delays; requests/s by client, CPU µs per request");
    println!(
        "{:>8} {:>12} {:>12} {:>12} {:>12} {:>10}",
        "streams", "knee", "client µs", "mock µs", "bare loop", "verdict"
    );
    for streams in [16, 64, 256] {
        let n = 150_000;
        let rig = Rig::start("0s", "0s", "-", false)?;
        let trace = load(n, Duration::ZERO, 8, 32);
        let before = rig.cpu_s();
        let options = LiveOptions { streams: Some(streams), ..LiveOptions::default() };
        let run = rig.run(&trace, &options, &[])?;
        let mock = (rig.cpu_s() - before) * 1e6 / f64::from(n);
        let client = run.audit.cpu_s * 1e6 / f64::from(n);
        let request = request(32);
        let bare = bare::answers(&rig.address, request.as_bytes(), 2, Duration::from_secs(2))?;
        println!(
            "{streams:>8} {:>12.0} {client:>12.1} {mock:>12.1} {bare:>12.0} {:>10}",
            completed_rps(&run),
            run.audit.verdict
        );
    }
    Ok(())
}

/// Errors of reported latencies at true TTFT 50 ms and ITL 20 ms: so many streams one after the other, and as many
/// at a time with evenly spaced beginnings.
pub(crate) fn streams() -> super::Outcome {
    println!("true TTFT 50 ms, ITL 20 ms, 128 tokens; reported − true, ms");
    header();
    for streams in [256, 1024] {
        let rig = Rig::start("50ms", "20ms", "-", true)?;
        let trace = load(streams * 4, Duration::ZERO, 64, 128);
        let options = LiveOptions { streams: Some(streams), ..LiveOptions::default() };
        let run = rig.run(&trace, &options, &["ttft=200ms", "itl=50ms"])?;
        compare(&format!("{streams} streams"), &run, &rig.end()?);
        let rig = Rig::start("50ms", "20ms", "-", true)?;
        let trace = load(streams * 4, Duration::from_millis(50 + 127 * 20) / streams, 64, 128);
        let run = rig.run(&trace, &LiveOptions::default(), &["ttft=200ms", "itl=50ms"])?;
        compare(&format!("{:.0} at a time", run.audit.streams_held), &run, &rig.end()?);
        let rig = Rig::start("50ms", "20ms", "-", false)?;
        let bare = bare::reads(&rig.address, request(128).as_bytes(), streams as usize)?;
        println!("         a loop that only waits and reads: {bare:.2} µs per token");
    }
    Ok(())
}

/// A request for so many tokens.
fn request(tokens: u32) -> String {
    let body = format!(
        r#"{{"model":"mock","prompt":[1,2,3,4,5,6,7,8],"max_tokens":{tokens},"stream":true,"stream_options":{{"include_usage":true}}}}"#
    );
    let length = body.len();
    format!("POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: {length}\r\n\r\n{body}")
}

/// Lateness of sends in an open loop, beside a loop that does nothing but wake up.
pub(crate) fn pace() -> super::Outcome {
    println!(
        "open loop; lateness of sends, ms, beside waking up and doing nothing (with the same spin)"
    );
    println!(
        "{:>8} {:>9} {:>9} {:>9} {:>9} {:>9} {:>9} {:>8} {:>9}",
        "rate/s", "p50", "p99", "max", "bare p50", "bare p99", "bare max", "unsent", "verdict"
    );
    for rate in [500u32, 5_000] {
        let rig = Rig::start("20ms", "5ms", "-", false)?;
        let trace = load(rate * 10, Duration::from_secs(1) / rate, 64, 8);
        let options = LiveOptions::default();
        let run = rig.run(&trace, &options, &["ttft=200ms"])?;
        let mut bare = bare::wakes(rate, Duration::from_secs(10), options.spin);
        let a = &run.audit;
        let unsent = trace.requests.len() - run.wires.iter().filter(|w| w.sent.is_some()).count();
        println!(
            "{rate:>8} {:>9.3} {:>9.3} {:>9.3} {:>9.3} {:>9.3} {:>9.3} {unsent:>8} {:>9}",
            a.send_lateness_p50_ms,
            a.send_lateness_p99_ms,
            a.send_lateness_max_ms,
            rank(&mut bare, 50.0),
            rank(&mut bare, 99.0),
            rank(&mut bare, 100.0),
            a.verdict
        );
    }
    Ok(())
}

/// Many streams at once, and the memory they take.
pub(crate) fn many() -> super::Outcome {
    println!(
        "closed loop, true TTFT 2 s, ITL 500 ms, 16 tokens; reported − true, ms, and this process's peak memory"
    );
    header();
    for streams in [8_000, 16_000] {
        let rig = Rig::start("2s", "500ms", "-", true)?;
        let trace = load(streams, Duration::ZERO, 64, 16);
        let options = LiveOptions { streams: Some(streams), ..LiveOptions::default() };
        let run = rig.run(&trace, &options, &[])?;
        compare(&format!("{streams} streams"), &run, &rig.end()?);
        println!("         held {} at most, {} MB", run.audit.streams_peak, peak_mb());
    }
    Ok(())
}

/// A server that stands still for a second.
pub(crate) fn stall() -> super::Outcome {
    println!(
        "open loop at 50/s for 30 s, true TTFT 50 ms; at 10 s the server stands still for 1 s"
    );
    let rig = Rig::start("50ms", "10ms", "10s:1s", true)?;
    let trace = load(1_500, Duration::from_millis(20), 64, 16);
    let run = rig.run(&trace, &LiveOptions::default(), &["ttft=200ms"])?;
    let of = |records: &[loadgen::Record], percent| {
        let mut ns: Vec<i64> =
            records.iter().filter_map(|r| Some(r.ttft()?.as_nanos() as i64)).collect();
        rank(&mut ns, percent)
    };
    for (name, recording) in [("from schedule", &run.recording), ("from send", &run.from_send)] {
        println!(
            "{name:>14}: TTFT p50 {:.1} p95 {:.1} p99 {:.1} ms",
            of(&recording.records, 50.0),
            of(&recording.records, 95.0),
            of(&recording.records, 99.0)
        );
    }
    // A client with a bounded number of streams (4 are enough until the stall) waits for the server before it sends.
    let rig = Rig::start("50ms", "10ms", "10s:1s", false)?;
    let options = LiveOptions { most_in_flight: Some(12), ..LiveOptions::default() };
    let run = rig.run(&trace, &options, &["ttft=200ms"])?;
    println!("with at most 12 requests in flight (as many clients have a limit):");
    for (name, recording) in [("from schedule", &run.recording), ("from send", &run.from_send)] {
        println!(
            "{name:>14}: TTFT p50 {:.1} p95 {:.1} p99 {:.1} ms",
            of(&recording.records, 50.0),
            of(&recording.records, 95.0),
            of(&recording.records, 99.0)
        );
    }
    Ok(())
}

/// Compares lengths of polling before a send is due, and a thread of its own for waking up.
pub(crate) fn pacing() -> super::Outcome {
    println!(
        "open loop at 1,000/s for 5 s while 200 streams are read; lateness p50, p99, max in ms and CPU by spin"
    );
    for spin in [0, 20, 50, 100, 500] {
        let rig = Rig::start("20ms", "20ms", "-", false)?;
        let trace = load(5_000, Duration::from_millis(1), 64, 10);
        let options = LiveOptions { spin: Duration::from_micros(spin), ..LiveOptions::default() };
        let run = rig.run(&trace, &options, &[])?;
        let a = &run.audit;
        println!(
            "one thread, spin {spin:>3} µs: {:.3} {:.3} {:.3}, {:.0} % of a core",
            a.send_lateness_p50_ms,
            a.send_lateness_p99_ms,
            a.send_lateness_max_ms,
            100.0 * a.cpu_share
        );
        let beside = std::thread::spawn(move || {
            bare::wakes(1_000, Duration::from_secs(5), Duration::from_micros(spin))
        });
        let run = rig.run(&trace, &options, &[])?;
        let mut woken = beside.join().map_err(|_| "a thread panicked")?;
        println!(
            "  a second thread that only wakes up beside it: {:.3} {:.3} {:.3}; the loop's own sends then {:.3} p99",
            rank(&mut woken, 50.0),
            rank(&mut woken, 99.0),
            rank(&mut woken, 100.0),
            run.audit.send_lateness_p99_ms
        );
    }
    Ok(())
}

fn header() {
    println!(
        "{:>14} {:>26} {:>26} {:>17} {:>9} {:>9}",
        "", "TTFT, seen - written", "TTFT, reported - served", "ITL, diff of", "CPU µs", "verdict"
    );
    println!(
        "{:>14} {:>8} {:>8} {:>8} {:>8} {:>8} {:>8} {:>8} {:>8} {:>9}",
        "", "p50", "p99", "max", "p50", "p99", "max", "p50", "p99", "per token"
    );
}

/// Prints how far reported latencies are from the true ones, request by request.
///
/// "Seen - written": how much later than the server handed its first token to the socket the client saw it, on
/// their common clock: the client's own error. "Reported - served": TTFT from the send less the server's own (from the
/// arrival of the request to the write): all that lies between the two.
fn compare(name: &str, run: &LiveRun, truths: &HashMap<u32, Truth>) {
    let (mut seen, mut reported, mut served) = (Vec::new(), Vec::new(), Vec::new());
    let mut true_gaps: Vec<i64> = Vec::new();
    for record in &run.from_send.records {
        let Some(truth) = truths.get(&record.request) else { continue };
        let (Some(first), Some(read), Some(ttft)) =
            (truth.first_ns, record.first_token, record.ttft())
        else {
            continue;
        };
        served.push(first as i64 - truth.started_ns.unwrap_or(first) as i64);
        seen.push((run.origin_ns + read.as_nanos() as u64) as i64 - first as i64);
        reported.push(ttft.as_nanos() as i64 - (first - truth.arrived_ns) as i64);
        true_gaps.extend(truth.writes.windows(2).map(|w| (w[1].0 - w[0].0) as i64));
    }
    let itl = run.recording.itl_of_all();
    let gap = |p| itl.percentile(p).map_or(f64::NAN, |d: Duration| d.as_nanos() as f64 / 1e6);
    let chunks: u64 = run.wires.iter().map(|w| u64::from(w.chunks)).sum();
    print!("{name:>14}");
    for values in [&mut seen, &mut reported] {
        print!(
            " {:>8.3} {:>8.3} {:>8.3}",
            rank(values, 50.0),
            rank(values, 99.0),
            rank(values, 100.0)
        );
    }
    println!(
        " {:>8.3} {:>8.3} {:>9.2} {:>9}",
        gap(50.0) - rank(&mut true_gaps, 50.0),
        gap(99.0) - rank(&mut true_gaps, 99.0),
        run.audit.cpu_s * 1e6 / chunks as f64,
        run.audit.verdict
    );
    let least = served.iter().copied().min().unwrap_or(0);
    served.iter_mut().for_each(|ns| *ns -= least);
    println!(
        "         the mock's own first tokens beyond its quickest: p50 {:.3}, p99 {:.3} ms",
        rank(&mut served, 50.0),
        rank(&mut served, 99.0)
    );
    for reason in &run.audit.reasons {
        println!("         {reason}");
    }
}

fn completed_rps(run: &LiveRun) -> f64 {
    let done = run.recording.records.iter().filter(|r| r.completed());
    let last = done.clone().filter_map(|r| r.last_token).max().unwrap_or_default();
    done.count() as f64 / last.as_secs_f64()
}

/// Peak resident memory of this process, MB (Linux).
fn peak_mb() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"));
    line.and_then(|l| l.trim().split(' ').next()?.parse::<u64>().ok()).unwrap_or(0) / 1024
}
