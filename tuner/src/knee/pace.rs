//! The test that a machine ran at its usual pace while it was measured.
//!
//! The work of others on a shared machine can make everything on it half as fast for a minute. A
//! run that fails then says nothing about the configuration. Every measured run tells how long its
//! iterations took against what the profile says of such iterations
//! ([`Work::pace`](crate::subject::observation::Work::pace)); that depends little on the
//! configuration, so a run that is far above the others met a slower machine.

/// The factor on the usual pace from which a run counts as slower. Runs on a calm machine differ by
/// 5 %, and a profile errs by as much between configurations, while neighbours on the machine cost
/// 10 to 70 %.
const SLOWER: f64 = 1.1;

/// The paces of all runs on one machine.
#[derive(Debug, Clone)]
pub struct Paces(Vec<f64>);

impl Default for Paces {
    /// Before any run there is the word of the profile. It was measured here too, for longer than a run lasts.
    fn default() -> Self {
        Self(vec![1.0; 3])
    }
}

impl Paces {
    /// A run went at `pace`, if that is known.
    pub fn note(&mut self, pace: Option<f64>) {
        let Some(pace) = pace else { return };
        let at = self.0.partition_point(|known| *known < pace);
        self.0.insert(at, pace);
    }

    /// The pace that a fifth of the runs did not exceed. It is that of the machine on its own, even
    /// if it is mostly shared.
    #[must_use]
    pub fn usual(&self) -> f64 {
        self.0[(self.0.len() - 1) / 5]
    }

    /// True where a run at `pace` met a slower machine.
    #[must_use]
    pub fn is_slow(&self, pace: Option<f64>) -> bool {
        pace.is_some_and(|pace| pace > SLOWER * self.usual())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_run_is_told_from_the_other_runs() {
        let mut paces = Paces::default();
        assert!(!paces.is_slow(None) && !paces.is_slow(Some(1.1)) && paces.is_slow(Some(1.6)));
        // A machine that is never as fast as its profile is no slower than usual.
        for _ in 0..12 {
            paces.note(Some(1.6));
        }
        assert!(paces.is_slow(Some(1.6)), "the profile may be right yet");
        paces.note(None);
        paces.note(Some(1.5));
        assert_eq!(paces.usual(), 1.5);
        assert!(!paces.is_slow(Some(1.6)));
        assert!(paces.is_slow(Some(1.8)));
    }
}
