//! `knee bench`: one configuration at one rate.

use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Result, bail};
use serde_json::{Value, json};
use tuner::evaluate::{Evaluate, Relax};
use tuner::observation::Detailed;
use tuner::trial::Simulator;

use super::print_json;
use crate::cli;
use crate::input;

pub(crate) fn run(args: &cli::Bench) -> Result<ExitCode> {
    let prepared = input::prepare(&args.scenario)?;
    let device = input::device(&args.device)?;
    let sim = Simulator::new(
        Arc::clone(&prepared.trace),
        Arc::clone(&prepared.model),
        device,
        prepared.slo,
    );
    let deployment = sim.deployment(&args.knobs.config()?, Relax::Nothing)?;
    let scale = scale(args, sim.natural_rate(sim.requests()))?;
    let (run, cost) = super::measure(|| sim.detail(&deployment, scale));
    if args.output.json {
        print_json(&result(&run, &cost))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// By how much the trace is sped up.
fn scale(args: &cli::Bench, natural: f64) -> Result<f64> {
    let scale = match (args.rate, args.rate_scale) {
        _ if args.saturated => return Ok(f64::INFINITY),
        (Some(rate), _) => rate / natural,
        (None, Some(scale)) => scale,
        (None, None) => 1.0,
    };
    if !(scale.is_finite() && scale > 0.0) {
        bail!("the rate must be above 0 and finite; --saturated offers everything at once");
    }
    Ok(scale)
}

fn result(run: &Detailed, cost: &super::Cost) -> Value {
    let o = &run.observation;
    let mut flat = o.summary.flat();
    let w = &o.work;
    let mut put = |key: &str, value: Value| flat.insert(key.to_owned(), value);
    put("iterations", json!(w.iterations));
    put("preemptions", json!(w.preemptions));
    put("tokens_executed", json!(w.tokens_executed));
    put("tokens_padded", json!(w.tokens_padded));
    put("tokens_recomputed", json!(w.tokens_recomputed));
    put("mean_batch", json!(w.mean_batch));
    put("kv", json!(o.kv));
    put("wall_s", json!(cost.wall_s));
    put("cpu_s", json!(cost.cpu_s));
    put("simulated", json!(true));
    Value::Object(flat)
}
