//! Subjects that stand before another one: a reference to it, a count of its runs, a memory of them. A wrapper says what
//! it knows and what it has seen; everything else is passed on here, once for all of them.

use super::observation::Observation;
use super::unfit::Unfit;
use super::{Refused, Stop, Subject, Trial};
use engine::Config;

/// A subject that stands before another.
pub trait Wrapper: Sync {
    /// The kind of subject behind it.
    type Inner: Subject + ?Sized;

    /// The subject behind it.
    fn inner(&self) -> &Self::Inner;

    /// The observation of `trial`, where that is known without a run.
    fn known(&self, _: &Trial<'_>) -> Option<Observation> {
        None
    }

    /// Takes note of what a run showed.
    ///
    /// # Errors
    /// When it cannot: then the run counts as not made.
    fn seen(&self, _: &Trial<'_>, _: &Observation) -> Result<(), Stop> {
        Ok(())
    }
}

impl<E: Subject + ?Sized> Wrapper for &E {
    type Inner = E;

    fn inner(&self) -> &E {
        self
    }
}

impl<W: Wrapper> Subject for W {
    fn run(&self, trial: &Trial<'_>) -> Result<Observation, Stop> {
        if let Some(known) = self.known(trial) {
            return Ok(known);
        }
        let observation = self.inner().run(trial)?;
        self.seen(trial, &observation)?;
        Ok(observation)
    }

    fn run_together(&self, trials: &[Trial<'_>]) -> Result<Vec<Observation>, Stop> {
        let known: Vec<_> = trials.iter().map(|trial| self.known(trial)).collect();
        let asked = trials.iter().zip(&known).filter(|(_, known)| known.is_none());
        let asked: Vec<Trial<'_>> = asked.map(|(trial, _)| *trial).collect();
        let mut seen =
            if asked.is_empty() { Vec::new() } else { self.inner().run_together(&asked)? };
        asked.iter().zip(&seen).try_for_each(|(trial, saw)| self.seen(trial, saw))?;
        let mut fresh = seen.drain(..);
        Ok(known.into_iter().filter_map(|known| known.or_else(|| fresh.next())).collect())
    }

    fn requests(&self) -> usize {
        self.inner().requests()
    }

    fn most(&self) -> usize {
        self.inner().most()
    }

    fn natural_rate(&self, head: usize) -> f64 {
        self.inner().natural_rate(head)
    }

    fn output_tokens_per_request(&self) -> f64 {
        self.inner().output_tokens_per_request()
    }

    fn served_tokens_per_request(&self, config: &Config) -> Result<f64, Refused> {
        self.inner().served_tokens_per_request(config)
    }

    fn ceiling(&self, config: &Config) -> Result<f64, Refused> {
        self.inner().ceiling(config)
    }

    fn unfit(&self, config: &Config) -> Result<Unfit, Refused> {
        self.inner().unfit(config)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::subject::fake::{Fake, Shared};
    use crate::subject::{Length, Relax};
    use std::sync::Mutex;
    use std::sync::atomic::Ordering;

    /// Knows one trial, and keeps what it sees.
    struct Keeping<S> {
        inner: S,
        knows: f64,
        seen: Mutex<Vec<f64>>,
    }

    impl<S: Subject> Wrapper for Keeping<S> {
        type Inner = S;
        fn inner(&self) -> &S {
            &self.inner
        }
        fn known(&self, trial: &Trial<'_>) -> Option<Observation> {
            (trial.scale == self.knows).then(|| Fake::new(&[]).run(trial).unwrap())
        }
        fn seen(&self, trial: &Trial<'_>, _: &Observation) -> Result<(), Stop> {
            self.seen.lock().unwrap().push(trial.scale);
            Ok(())
        }
    }

    #[test]
    fn what_runs_together_runs_together_behind_any_wrapper() {
        let shared = Shared::new(Fake::new(&[]), |fake, trial, _| fake.run(trial).unwrap());
        let keeping = Keeping { inner: &shared, knows: 2.0, seen: Mutex::default() };
        let config = Config::default();
        let trial = |scale| Trial {
            config: &config,
            relax: Relax::Nothing,
            length: Length::Requests(100),
            scale,
            verdict_only: false,
        };
        let trials = [1.0, 2.0, 3.0].map(trial);
        let together = (&keeping as &dyn Subject).run_together(&trials).unwrap();
        // One meeting, of those whose runs were not known; the answers come in the order asked.
        assert_eq!(shared.asked.load(Ordering::Relaxed), 1);
        assert_eq!(*keeping.seen.lock().unwrap(), [1.0, 3.0]);
        let alone = trials.map(|trial| Fake::new(&[]).run(&trial).unwrap());
        assert!(together.iter().zip(&alone).all(|(a, b)| a.summary == b.summary));
        keeping.run_together(&trials[1..2]).unwrap();
        assert_eq!(shared.asked.load(Ordering::Relaxed), 1);
    }
}
