//! The parts that the sets share: settings by engine version, rows without outcome, and the making
//! of a line.
//!
//! Settings are the recorded flags, and vLLM's defaults of the version that ran where there was no
//! flag. An engine of the V1 kind is `chunked` (it always chunks), one of the V0 kind `paged`.

use std::sync::Arc;
use std::time::Duration;

use engine::engines::FrontEnd;
use engine::{Config, DeviceProfile, EngineProfile};
use tuner::evidence::validate::recorded::Row;
use tuner::evidence::validate::{self, Setup, Validation};

use crate::models::shape;
use crate::{Line, Results, Source};

/// The aim of each figure of a run: the error that it may have, percent.
pub(crate) struct Aims {
    pub(crate) ttft: f64,
    pub(crate) ttft_p99: f64,
    pub(crate) tpot: f64,
    pub(crate) e2e: f64,
    pub(crate) e2e_p99: f64,
}

pub(crate) const NONE: Aims = Aims { ttft: 0.0, ttft_p99: 0.0, tpot: 0.0, e2e: 0.0, e2e_p99: 0.0 };

pub(crate) fn push(
    r: &mut Results,
    set: &'static str,
    setup: &str,
    what: (&'static str, &'static str),
    m: f64,
    p: f64,
    aim: f64,
) {
    let error = 100.0 * (p / m - 1.0);
    r.lines.push(Line {
        set,
        setup: setup.to_owned(),
        what: what.0,
        unit: what.1,
        measured: m,
        predicted: p,
        error,
        aim,
    });
}

/// The figures of one run.
pub(crate) fn figures(
    r: &mut Results,
    set: &'static str,
    setup: &str,
    v: &Validation,
    aims: &Aims,
) {
    let (m, p) = (&v.measured, &v.predicted);
    let rows = [
        ("TTFT mean", m.ttft.mean, p.ttft.mean, aims.ttft),
        ("TTFT p50", m.ttft.p50, p.ttft.p50, aims.ttft),
        ("TTFT p99", m.ttft.p99, p.ttft.p99, aims.ttft_p99),
        ("TPOT mean", m.tpot.mean, p.tpot.mean, aims.tpot),
        ("TPOT p50", m.tpot.p50, p.tpot.p50, aims.tpot),
        ("TPOT p99", m.tpot.p99, p.tpot.p99, aims.tpot),
        ("E2E p50", m.e2e.p50, p.e2e.p50, aims.e2e),
        ("E2E p99", m.e2e.p99, p.e2e.p99, aims.e2e_p99),
    ];
    for (what, measured, predicted, aim) in rows {
        if let (Some(measured), Some(predicted)) = (measured, predicted) {
            push(r, set, setup, (what, "ms"), measured, predicted, aim);
        }
    }
    push(r, set, setup, ("req/s", ""), m.throughput_rps, p.throughput_rps, 0.0);
}

pub(crate) fn v1(tp: u32, seqs: u32, tokens: u32) -> Config {
    Config { tp, max_seqs: seqs, max_batch_tokens: tokens, ..Config::default() }
}

/// vLLM from 0.14 on plans ahead of the device unless told otherwise.
pub(crate) fn ahead(tp: u32, seqs: u32, tokens: u32) -> Config {
    Config { async_scheduling: true, ..v1(tp, seqs, tokens) }
}

/// The engine of a recorded run.
pub(crate) fn engine(text: &str) -> Arc<EngineProfile> {
    Arc::new(EngineProfile::load(text).unwrap_or_else(|e| panic!("{e}")))
}

/// The engine of a run whose times are those of its own clock, which begins where requests reach its scheduler.
pub(crate) fn by_its_own_clock(text: &str) -> Arc<EngineProfile> {
    let mut engine = EngineProfile::clone(&engine(text));
    engine.outside.front_end = FrontEnd::default();
    Arc::new(engine)
}

/// The engine of the V0 kind, or before, which plans and processes outputs between iterations.
pub(crate) fn between_iterations(setup: &mut Setup) {
    setup.engine = engine("vllm@0");
}

/// A recorded deployment: device, model and settings.
pub(crate) fn setup(
    source: &Source,
    device: &str,
    model: &str,
    (by, config): (&str, Config),
) -> Result<Setup, String> {
    let profile: Arc<DeviceProfile> = source
        .device(device)
        .ok_or_else(|| format!("no profile of {device} (--profile {device}=FILE)"))?;
    let model = Arc::new(shape(model).ok_or_else(|| format!("the shape of {model} is not known"))?);
    let correction = source.correction(device);
    let engine = engine(by);
    let (kv_blocks, in_flight) = (None, None);
    let mut setup =
        Setup { model, device: profile, engine, config, correction, kv_blocks, in_flight };
    (source.change)(&mut setup);
    Ok(setup)
}

/// Requests of equal length at a constant rate, from the pool of 100 prompts of inference-perf (10 system prompts x 10
/// users), as so many rows without outcome.
pub(crate) fn constant(
    rate: f64,
    n: usize,
    input: u32,
    output: u32,
    pool: Option<u32>,
) -> Vec<Row> {
    let row = |i: usize| Row {
        arrival: Duration::from_secs_f64(i as f64 / rate),
        admitted: None,
        first_token: None,
        last_token: None,
        input,
        output,
        prompt: pool.map(|pool| i as u64 % u64::from(pool)),
        failed: false,
    };
    (0..n).map(row).collect()
}

/// Means, and percentiles where published, of `records` beside published figures in ms.
pub(crate) fn published(
    r: &mut Results,
    set: &'static str,
    setup: &str,
    p: &validate::Side,
    m: &[(&'static str, Option<f64>)],
) {
    for (what, measured) in m {
        let predicted = match *what {
            "TTFT mean" => p.ttft.mean,
            "TTFT p50" => p.ttft.p50,
            "TTFT p99" => p.ttft.p99,
            "TPOT mean" => p.tpot.mean,
            "TPOT p99" => p.tpot.p99,
            "E2E mean" => p.e2e.mean,
            "E2E p50" => p.e2e.p50,
            _ => p.e2e.p99,
        };
        if let (Some(m), Some(p)) = (measured.filter(|m| *m > 0.0), predicted) {
            push(r, set, setup, (what, "ms"), m, p, 0.0);
        }
    }
}
