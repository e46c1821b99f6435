//! The flags with which a server carries most: one server per configuration, started, measured and ended, in turn.
//!
//! A real server costs its start and the load it is tried with, so few are started and little is asked of each. The
//! server's own defaults come first: what they carry is what every other configuration has to beat. The rest come in
//! the order listed, or, where a simulation has ranked them, the likeliest winner first, and are tried as
//! [`crate::contest::meetings`] tries its finalists: first at a rate a little above the best one so far, and no further unless
//! they hold it; and not at all when, by all that was learnt about the simulation's error, they are clearly slower.
//! A server that does not start, dies or hangs is a failed trial and nothing worse.

pub mod flags;
mod screen;

use std::time::Duration;

use crate::contest::entry::expected_too_little;
use crate::contest::meetings::SLACK;
use crate::result::{Answer, Contender, Source, Standing};
use crate::subject::server::Aim;

pub use screen::{Screened, screen, searched};

/// By how much another configuration must beat the best one: real runs do not repeat closer.
pub const BETTER: f64 = 1.03;

/// Why a configuration was not measured where the user ended the search.
const INTERRUPTED: &str = "interrupted";

/// The terms of a contest in turns.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rules {
    /// The time that a rate must hold; see [`Aim::probe`].
    pub probe: Option<Duration>,
    /// Load to spend at most, on all together.
    pub budget: Duration,
    /// True where each is measured in full, even where another carries more.
    pub in_full: bool,
}

/// Runs `contenders` against each other. `measure` starts a server, searches it as told, and returns what became of the
/// contender; `go_on` says no when the user wants the end. `on` is the name of what is measured.
pub fn run(
    on: &str,
    contenders: Vec<Contender>,
    rules: Rules,
    go_on: &dyn Fn() -> bool,
    measure: &mut dyn FnMut(usize, Contender, &Aim) -> Contender,
) -> Answer {
    let mut turns = Turns { rules, met: Vec::new(), best: None, residual: None, load_s: 0.0 };
    for (i, contender) in contenders.into_iter().enumerate() {
        let contender = turns.turn(i, contender, go_on, measure);
        turns.load_s += contender.tried.iter().map(|t| t.seconds).sum::<f64>();
        if let Some(rps) = contender.standing.carries()
            && turns.best.is_none_or(|(_, best)| rps > best)
        {
            turns.best = Some((i, rps));
        }
        turns.met.push(contender);
        turns.residual = residual(&turns.met);
    }
    let source = Source { simulated: false, on: on.to_owned() };
    let answer = Answer::new(source, turns.met, turns.best.map(|(i, _)| i));
    Answer { residual: turns.residual, interrupted: !go_on(), ..answer }
}

/// A contest in turns under way.
struct Turns {
    rules: Rules,
    /// Those whose turn it was, in order.
    met: Vec<Contender>,
    /// The index of the one that carries most, and what that is.
    best: Option<(usize, f64)>,
    residual: Option<f64>,
    load_s: f64,
}

impl Turns {
    /// The turn of one contender, the `i`-th.
    fn turn(
        &self,
        i: usize,
        contender: Contender,
        go_on: &dyn Fn() -> bool,
        measure: &mut dyn FnMut(usize, Contender, &Aim) -> Contender,
    ) -> Contender {
        let expected = contender.predicted_rps.map(|p| p * self.residual.unwrap_or(1.0));
        if let Some(why) = self.untried(expected, go_on()) {
            return contender.left_out(why);
        }
        let beat = self.best.map(|(_, rps)| BETTER * rps).filter(|_| !self.rules.in_full);
        let left = (self.rules.budget.as_secs_f64() - self.load_s).max(0.0);
        let budget = Duration::from_secs_f64(left);
        let measured =
            measure(i, contender, &Aim { probe: self.rules.probe, budget, beat, expected });
        match measured.standing {
            // A search that was broken off says nothing of the server.
            Standing::Failed(_) | Standing::Nothing if !go_on() => measured.left_out(INTERRUPTED),
            _ => measured,
        }
    }

    /// The reason not to start a configuration, if there is one.
    fn untried(&self, expected: Option<f64>, go_on: bool) -> Option<String> {
        let hopeless = |e: &f64| self.best.is_some_and(|(_, best)| e * SLACK < best);
        if !go_on {
            return Some(INTERRUPTED.to_owned());
        }
        if self.load_s >= self.rules.budget.as_secs_f64() {
            return Some("the budget of load was spent".to_owned());
        }
        expected.filter(|e| !self.rules.in_full && hopeless(e)).map(expected_too_little)
    }
}

/// Geometric mean of measured over predicted capacity, where both are known.
fn residual(met: &[Contender]) -> Option<f64> {
    let ratios = met.iter().filter_map(|c| Some(c.standing.carries()? / c.predicted_rps?));
    let logs: Vec<f64> = ratios.map(f64::ln).collect();
    (!logs.is_empty()).then(|| (logs.iter().sum::<f64>() / logs.len() as f64).exp())
}

#[cfg(test)]
mod tests;
