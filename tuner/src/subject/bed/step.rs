//! Iterations one by one, however they were played.

use engine::{Iteration, Shape};

/// One iteration.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Step {
    /// The batch that was computed.
    pub shape: Shape,
    /// The time it took, seconds.
    pub seconds: f64,
}

/// The iterations of a stretch, each as a row of its own.
pub fn steps_of(it: &Iteration) -> impl Iterator<Item = Step> + '_ {
    let starts = std::iter::once(it.start).chain(it.ends.iter().copied());
    let mut shape = it.shape;
    starts.zip(&it.ends).enumerate().map(move |(i, (start, end))| {
        if i > 0 {
            shape.copied_tokens = 0;
            shape.next_decode();
        }
        Step { shape, seconds: (*end - start).as_secs_f64() }
    })
}
