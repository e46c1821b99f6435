//! From a question to a [`TuneResult`]: search, refine every device's winner, see what of it survives the error of
//! predictions, ask why the others lost, say what it costs.
//!
//! Every device's best gets the same treatment as the winner, before they are compared. A device's
//! figures do not depend on the other devices of the search.

use std::time::Instant;

use crate::result::TuneResult;
use counted::Counts;
use tuning::Tuning;

pub use question::{Demand, DeviceUnderTest, Method, Question, TuneError};

mod answer;
mod choice;
mod counted;
mod engines;
mod examine;
mod field;
mod fleet;
mod losers;
mod order;
mod question;
mod steady;
mod ties;
mod tuning;

/// Tunes.
pub fn tune(question: &Question<'_>) -> Result<TuneResult, TuneError> {
    let (began, counts) = (Instant::now(), Counts::default());
    let subjects = question.devices.iter().map(|d| d.subject);
    let counted: Vec<_> = subjects.map(|subject| counts.of(subject)).collect();
    let devices = question.devices.iter().zip(&counted);
    let devices = devices.map(|(d, subject)| DeviceUnderTest { subject, ..d.clone() }).collect();
    let question = &Question { devices, ..question.clone() };
    let mut tuning = Tuning::new(question)?;
    match question.demand {
        Some(_) => tuning.sizes(),
        None => tuning.grid()?,
    }
    if tuning.field.candidates == 0 {
        return Err(tuning.field.empty());
    }
    tuning.settle();
    tuning.reorder();
    tuning.trust();
    let engines = tuning.of_engines();
    let losers = tuning.losers();
    let mut result = tuning.result()?;
    result.losers = losers;
    result.engines = engines;
    result.interrupted = question.watch.cancelled();
    (result.trials, result.simulated_requests) = (counts.runs(), counts.requests());
    result.wall_s = began.elapsed().as_secs_f64();
    Ok(result)
}

#[cfg(test)]
mod tests;
