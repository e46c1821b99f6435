//! The work that an emulated device was asked for and has not done: nothing is done before a host
//! waits for it, as late as a real device might be, so that a host that does not wait where it must
//! is found out.

use std::collections::{HashMap, VecDeque};
use std::fmt::Debug;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use super::super::backend::Shape;
use super::super::error::CudaError;
use super::fault::{failed, locked};

/// One thing to do.
#[derive(Debug, Clone)]
pub(super) enum Op {
    Launch { kernel: &'static str, shape: Shape, words: Vec<u64> },
    Write { to: u64, bytes: Vec<u8> },
    Copy { from: u64, to: u64, bytes: usize },
    Mark(u64),
    Meet { meeting: Arc<dyn Meeting>, rank: usize },
}

/// A point where several devices meet.
pub(super) trait Meeting: Debug + Send + Sync {
    /// A rank's device has done everything before. Others are made to come; when all have, it happens.
    fn come(&self, rank: usize) -> Result<(), CudaError>;
}

/// The goal of work.
#[derive(Clone, Copy)]
pub(super) enum Goal<'a> {
    Mark(u64),
    /// That a device has come to where several meet.
    Met(&'a dyn Fn() -> bool),
    /// Everything.
    All,
}

/// Things to do, in order.
#[derive(Debug, Default)]
pub(super) struct Stream {
    asked: Mutex<Asked>,
    /// The lock under which a thread does the operations, and those of devices that it meets.
    turn: Arc<Mutex<()>>,
}

#[derive(Debug, Default)]
struct Asked {
    queue: VecDeque<Op>,
    /// The recording under way, which takes what is asked for instead.
    recording: Option<Vec<Op>>,
    recordings: HashMap<u64, Vec<Op>>,
    /// The moments at which marks were reached.
    reached: HashMap<u64, Instant>,
    ids: u64,
    /// The reason why nothing is done any more.
    broken: Option<String>,
}

impl Asked {
    fn sound(&self) -> Result<(), CudaError> {
        self.broken.as_ref().map_or(Ok(()), |reason| Err(failed(reason)))
    }

    fn id(&mut self) -> u64 {
        self.ids += 1;
        self.ids
    }
}

impl Stream {
    /// One of a device that may meet those with the same `turn`.
    pub(super) fn taking_turns(turn: &Arc<Mutex<()>>) -> Self {
        Self { asked: Mutex::default(), turn: Arc::clone(turn) }
    }

    /// To be done, or recorded.
    pub(super) fn ask(&self, op: Op) -> Result<(), CudaError> {
        let mut asked = locked(&self.asked);
        asked.sound()?;
        let Asked { queue, recording, .. } = &mut *asked;
        match recording {
            Some(recording) => recording.push(op),
            None => queue.push_back(op),
        }
        Ok(())
    }

    /// Refuses what a real device cannot do while it records.
    pub(super) fn not_recording(&self, what: &str) -> Result<(), CudaError> {
        let recording = locked(&self.asked).recording.is_some();
        if recording { Err(failed(format!("{what} while work is recorded"))) } else { Ok(()) }
    }

    pub(super) fn mark(&self) -> Result<u64, CudaError> {
        let id = locked(&self.asked).id();
        self.ask(Op::Mark(id))?;
        Ok(id)
    }

    pub(super) fn unmark(&self, mark: u64) {
        locked(&self.asked).reached.remove(&mark);
    }

    /// Does, by `work`, what was asked for, up to `mark` or all of it; when the mark was reached.
    pub(super) fn work_off(
        &self,
        mark: Option<u64>,
        work: impl FnMut(Op) -> Result<(), CudaError>,
    ) -> Result<Option<Instant>, CudaError> {
        let _turn = locked(&self.turn);
        self.work_until(mark.map_or(Goal::All, Goal::Mark), work)
    }

    /// The same for a thread that has the turn already.
    pub(super) fn work_until(
        &self,
        goal: Goal<'_>,
        mut work: impl FnMut(Op) -> Result<(), CudaError>,
    ) -> Result<Option<Instant>, CudaError> {
        loop {
            let next = {
                let mut asked = locked(&self.asked);
                asked.sound()?;
                match goal {
                    Goal::Mark(mark) => {
                        if let Some(&at) = asked.reached.get(&mark) {
                            return Ok(Some(at));
                        }
                    }
                    Goal::Met(here) if here() => return Ok(None),
                    Goal::Met(_) | Goal::All => {}
                }
                asked.queue.pop_front()
            };
            match next {
                None => return Ok(None),
                Some(Op::Mark(id)) => {
                    locked(&self.asked).reached.insert(id, Instant::now());
                }
                Some(op) => {
                    if let Err(error) = work(op) {
                        let mut asked = locked(&self.asked);
                        asked.queue.clear();
                        asked.broken = Some(match &error {
                            CudaError::Call { reason, .. } => reason.clone(),
                            other => other.to_string(),
                        });
                        return Err(error);
                    }
                }
            }
        }
    }

    pub(super) fn begin_recording(&self) -> Result<(), CudaError> {
        let mut asked = locked(&self.asked);
        asked.sound()?;
        asked.recording = Some(Vec::new());
        Ok(())
    }

    pub(super) fn end_recording(&self) -> Result<u64, CudaError> {
        let mut asked = locked(&self.asked);
        asked.sound()?;
        let ops = asked.recording.take().ok_or_else(|| failed("nothing is recorded"))?;
        let id = asked.id();
        asked.recordings.insert(id, ops);
        Ok(id)
    }

    pub(super) fn replay(&self, recording: u64) -> Result<(), CudaError> {
        let mut asked = locked(&self.asked);
        asked.sound()?;
        let ops = asked.recordings.get(&recording).cloned();
        asked.queue.extend(ops.ok_or_else(|| failed("there is no such recording"))?);
        Ok(())
    }

    pub(super) fn forget(&self, recording: u64) {
        locked(&self.asked).recordings.remove(&recording);
    }
}
