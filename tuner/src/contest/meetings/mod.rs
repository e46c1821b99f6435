//! The real engine decides: the configurations that a simulation found best are tried on the
//! machine that would run them.
//!
//! A real run costs what it lasts, so few are made; and on a machine that others use too, two runs
//! in different minutes cannot be compared. So the likeliest winner leads: its knee is searched
//! alone, from where the simulation puts it. Then all finalists meet at the rate where it fails, in
//! the same minutes ([`Subject::run_together`]). A finalist that holds there leads on from there;
//! one that fails is out. The contest ends at a rate that no finalist holds, or when its time is
//! up. Finalists that are expected to carry clearly less than the first are not tried at all. At
//! last the winner is run with everything offered at once: it carries no more than it completes per
//! second then, however well it meets the targets for as long as the trace lasts.
//!
//! The finalists rest on a profile that was measured in seconds, maybe in a bad minute. The first
//! runs show it: a single one that the machine is clearly faster than its profile, the first search
//! that it is slower. The simulation is then made anew at that pace, once, and its recommendations
//! join the race.

use std::time::Duration;

use crate::contest::progress::Watch;
use crate::result::{Answer, TuneResult};
use crate::subject::{Stop, Subject};
use decision::Decision;

mod decision;
mod finalists;

pub(crate) use finalists::SLACK;

/// The recommendations of a simulation, and a real engine's answer to them.
pub struct Decided {
    /// The simulation's result: at the machine's own pace, where its profile misjudged it.
    pub screened: TuneResult,
    /// The real engine's answer; none where the simulation was interrupted.
    pub answer: Option<Answer>,
}

/// Tries the recommendations of `screen`, a simulation, on `real`. If the first runs show another
/// pace of iterations than the profile's, `screen` is asked once more, at that pace. Runs take
/// `budget` at most; none begins after that. `on` is the name of what is asked.
///
/// # Errors
/// When it was cancelled before anything was known, the engine refuses what was screened, or `screen` fails.
pub fn decide<E: From<Stop>>(
    mut screen: impl FnMut(Option<f64>) -> Result<TuneResult, E>,
    (on, real): (&str, &dyn Subject),
    budget: Duration,
    watch: &Watch<'_>,
) -> Result<Decided, E> {
    let mut screened = screen(None)?;
    if screened.interrupted {
        return Ok(Decided { screened, answer: None });
    }
    let subjects = [real];
    let mut decision = Decision::new(&subjects, budget, *watch);
    if let Some(pace) = decision.run(&screened, None)? {
        let mut anew = screen(Some(pace))?;
        if !anew.interrupted {
            decision.run(&anew, Some(pace))?;
            anew.trials += screened.trials;
            anew.simulated_requests += screened.simulated_requests;
            (anew.wall_s, anew.cpu_s) =
                (anew.wall_s + screened.wall_s, anew.cpu_s + screened.cpu_s);
            screened = anew;
        }
    }
    let answer = Some(decision.answer(on.to_owned()));
    screened.interrupted = watch.cancelled();
    Ok(Decided { screened, answer })
}

#[cfg(test)]
mod tests;
