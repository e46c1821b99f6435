//! The time of a pass, operator by operator: profiles of this machine are fitted to it.

use std::iter::Sum;
use std::time::Duration;

/// Time by operator, all layers together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Spent {
    /// Matrix products: queries, keys and values; attention's output; gate and up; down.
    pub linears: [Duration; 4],
    /// Attention.
    pub attention: Duration,
    /// Norms, rotary embedding, quantisation of activations.
    pub rest: Duration,
    /// Work that is done once a pass and not in every layer: looking tokens up, turning positions into angles.
    pub once: Duration,
    /// The vocabulary head, its norm included.
    pub head: Duration,
    /// Choosing tokens.
    pub sampling: Duration,
}

impl Spent {
    /// All of it.
    #[must_use]
    pub fn total(&self) -> Duration {
        let linears: Duration = self.linears.iter().sum();
        linears + self.attention + self.rest + self.once + self.head + self.sampling
    }

    /// The same if computing took `share` of its time, and choosing tokens as long as it did.
    #[must_use]
    pub(in crate::exec) fn computing(&self, share: f64) -> Self {
        Self {
            linears: self.linears.map(|time| time.mul_f64(share)),
            attention: self.attention.mul_f64(share),
            rest: self.rest.mul_f64(share),
            once: self.once.mul_f64(share),
            head: self.head.mul_f64(share),
            sampling: self.sampling,
        }
    }

    /// The mean of several, operator by operator; nothing of none.
    #[must_use]
    pub fn mean<'a>(all: impl Iterator<Item = &'a Self>) -> Self {
        let mut n = 0;
        let sum: Self = all.inspect(|_| n += 1).sum();
        let n = n.max(1);
        Self {
            linears: sum.linears.map(|time| time / n),
            attention: sum.attention / n,
            rest: sum.rest / n,
            once: sum.once / n,
            head: sum.head / n,
            sampling: sum.sampling / n,
        }
    }
}

impl<'a> Sum<&'a Self> for Spent {
    fn sum<I: Iterator<Item = &'a Self>>(all: I) -> Self {
        all.fold(Self::default(), |sum, one| Self {
            linears: std::array::from_fn(|i| sum.linears[i] + one.linears[i]),
            attention: sum.attention + one.attention,
            rest: sum.rest + one.rest,
            once: sum.once + one.once,
            head: sum.head + one.head,
            sampling: sum.sampling + one.sampling,
        })
    }
}

/// The figure that an operator's time is added to.
pub(in crate::exec) type Entry = fn(&mut Spent) -> &mut Duration;

/// Those that there are.
pub(in crate::exec) mod entry {
    use super::Entry;

    pub(in crate::exec) const ONCE: Entry = |spent| &mut spent.once;
    pub(in crate::exec) const REST: Entry = |spent| &mut spent.rest;
    pub(in crate::exec) const QKV: Entry = |spent| &mut spent.linears[0];
    pub(in crate::exec) const ATTENTION: Entry = |spent| &mut spent.attention;
    pub(in crate::exec) const OUT: Entry = |spent| &mut spent.linears[1];
    pub(in crate::exec) const GATE_UP: Entry = |spent| &mut spent.linears[2];
    pub(in crate::exec) const DOWN: Entry = |spent| &mut spent.linears[3];
    pub(in crate::exec) const HEAD: Entry = |spent| &mut spent.head;
    pub(in crate::exec) const SAMPLING: Entry = |spent| &mut spent.sampling;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn computing_faster_leaves_the_choice_of_tokens() {
        let ms = Duration::from_millis;
        let spent = Spent {
            linears: [ms(4); 4],
            attention: ms(6),
            rest: ms(2),
            once: ms(2),
            head: ms(8),
            sampling: ms(1),
        };
        let faster = spent.computing(0.5);
        assert_eq!((faster.linears[3], faster.head, faster.sampling), (ms(2), ms(4), ms(1)));
        assert_eq!(faster.total() - faster.sampling, (spent.total() - spent.sampling) / 2);
    }

    #[test]
    fn the_mean_is_that_of_each_operator() {
        let spent = |us: u64| {
            let time = |i: u64| Duration::from_micros(us * i);
            Spent {
                linears: [1, 2, 3, 4].map(time),
                attention: time(5),
                rest: time(6),
                once: time(9),
                head: time(7),
                sampling: time(8),
            }
        };
        assert_eq!(Spent::mean([spent(1), spent(3)].iter()), spent(2));
        assert_eq!(spent(1).total(), Duration::from_micros(45));
        assert_eq!(Spent::mean(std::iter::empty()), Spent::default());
    }
}
