//! Timing this machine, a bar meanwhile.

use anyhow::Result;
use engine::import::Imported;
use engine::machine::Timings;
use tuner::contest::progress::{Progress, Status};

use super::progress::Bar;
use crate::computing::Here;

/// The profile of this machine with its model.
pub(crate) fn timed(here: &Here, longest: u32) -> Result<Imported> {
    Ok(here.machine.profile(&here.name, &[timings(here, longest)?])?)
}

/// Times this machine with its model, a bar meanwhile.
pub(crate) fn timings(here: &Here, longest: u32) -> Result<Timings> {
    let bar = Bar::new();
    let phase = format!("timing {}", here.machine.config().name);
    let timings = here.machine.time(longest, &mut |done, total| {
        bar.update(&Status { phase: phase.clone(), done, total, best: None });
    });
    bar.finish();
    Ok(timings?)
}
