//! Batches that are recorded once and then done as a whole: decodes, whose launches are all alike.
//!
//! A graph is for one number of rows and, where attention is laid out by the longest context, one length: batches are
//! filled up with rows of padding to the next of few sizes. Memory that has grown since makes a graph useless, so it is
//! recorded again.

use std::collections::HashMap;

use kernels::cuda::{CudaError, Graph};

use super::pass::{Pass, Place};

/// Batches of more rows take long enough for the host to keep up with.
const MOST_ROWS: usize = 256;
/// The shortest context that is told from others.
const LEAST_REACH: i32 = 512;
/// Graphs that are kept; each takes some memory of the device.
const MOST: usize = 96;

/// The key of a recorded batch: rows, and the context that they are laid out for.
pub(super) type Key = (usize, i32);

/// The number of rows that a batch of `rows` is filled up to, if it is recorded: powers of two, and from 16 on the
/// numbers halfway between them.
pub(super) fn bucket(rows: usize) -> Option<usize> {
    let power = rows.next_power_of_two();
    let halfway = power / 4 * 3;
    let rows = if power >= 32 && rows <= halfway { halfway } else { power };
    (1..=MOST_ROWS).contains(&rows).then_some(rows)
}

/// The context that a batch with sequences of up to `longest` tokens is laid out for.
pub(super) fn reach(longest: i32) -> i32 {
    (longest.max(LEAST_REACH) as u32).next_power_of_two() as i32
}

/// The recorded batches.
#[derive(Debug, Default)]
pub(super) struct Graphs {
    /// None where it was only seen.
    known: HashMap<Key, Option<Graph>>,
    /// When memory had grown so often.
    grown: u64,
}

impl Graphs {
    /// Does `work` for `batch`, or replays its recording. A batch of a new kind is done as it is, and finds the memory
    /// that it needs; when it comes again it is recorded.
    pub(super) fn run(
        &mut self,
        key: Key,
        Place { device, batch, .. }: &Place,
        pass: &mut Pass,
        work: impl FnOnce(&mut Pass) -> Result<(), CudaError>,
    ) -> Result<(), CudaError> {
        if self.grown != pass.grown() {
            self.known.values_mut().for_each(|graph| *graph = None);
            self.grown = pass.grown();
        }
        if self.known.len() >= MOST && !self.known.contains_key(&key) {
            self.known.clear();
        }
        match self.known.get_mut(&key) {
            None => {
                work(pass)?;
                self.known.insert(key, None);
                Ok(())
            }
            Some(Some(graph)) if graph.fits(batch) => device.replay(graph, batch),
            Some(known) => {
                let graph = device.record(batch, || work(pass))?;
                device.replay(known.insert(graph), batch)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_are_filled_up_by_a_third_at_most_once_they_are_large() {
        for rows in 1..=MOST_ROWS {
            let to = bucket(rows).unwrap();
            assert!(to >= rows && bucket(to) == Some(to), "{rows} to {to}");
            assert!(rows < 16 || to * 2 <= rows * 3, "{rows} to {to}");
        }
        let sizes: std::collections::BTreeSet<_> = (1..=MOST_ROWS).filter_map(bucket).collect();
        assert_eq!(Vec::from_iter(sizes), [1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128, 192, 256]);
        assert_eq!(bucket(MOST_ROWS + 1), None);
    }
}
