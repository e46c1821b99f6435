//! From a request to a [`TuneResult`]: search, refine every device's winner, see what of it survives the error of
//! predictions, ask why the others lost, say what it costs.
//!
//! Whatever is done for the winner is done for every device's best, before they are compared: a device's figures do not
//! depend on the company it is tried in.

use std::time::Instant;

use crate::result::TuneResult;
use counted::{Counted, Counts};
use tuning::Tuning;

pub use request::{Demand, DeviceUnderTest, Method, Request, TuneError};

mod answer;
mod choice;
mod counted;
mod examine;
mod field;
mod fleet;
mod losers;
mod request;
mod steady;
mod tuning;

/// Tunes.
pub fn tune(request: &Request<'_>) -> Result<TuneResult, TuneError> {
    let (began, counts) = (Instant::now(), Counts::default());
    let evaluations = request.devices.iter().map(|d| d.evaluate);
    let counted: Vec<_> = evaluations.map(|e| Counted { evaluate: e, counts: &counts }).collect();
    let devices = request.devices.iter().zip(&counted);
    let devices = devices.map(|(d, evaluate)| DeviceUnderTest { evaluate, ..d.clone() }).collect();
    let request = &Request { devices, ..request.clone() };
    let mut tuning = Tuning::new(request)?;
    match request.demand {
        Some(_) => tuning.sizes(),
        None => tuning.grid()?,
    }
    if tuning.field.candidates == 0 {
        return Err(tuning.field.empty());
    }
    tuning.settle();
    tuning.trust();
    let losers = tuning.losers();
    let mut result = tuning.result()?;
    result.losers = losers;
    result.interrupted = request.watch.cancelled();
    (result.trials, result.simulated_requests) = (counts.runs(), counts.requests());
    result.wall_s = began.elapsed().as_secs_f64();
    Ok(result)
}

#[cfg(test)]
mod tests;
