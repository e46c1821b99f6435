//! Batches on a device, and the thread that waits for them while the engine goes on.

use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use kernels::cuda::{CudaError, Device, Fetched, Mark};

use crate::exec::Wake;
use crate::sequence::SeqId;

/// The results of a batch. Kept and filled again.
#[derive(Debug)]
pub(super) struct Job {
    /// Tokens that the device has chosen, of a batch of which it chooses all.
    pub(super) ids: Fetched<i32>,
    /// Rows of logits, of any other.
    pub(super) logits: Fetched<f32>,
    /// True where they are tokens that the device chose.
    pub(super) chosen: bool,
    /// Their sequences.
    pub(super) sampled: Vec<(SeqId, u32)>,
    /// When all of it is done.
    pub(super) done: Option<Mark>,
}

impl Job {
    pub(super) fn new(device: &Device) -> Self {
        let (ids, logits) = (device.fetched(), device.fetched());
        Self { ids, logits, chosen: false, sampled: Vec::new(), done: None }
    }

    /// Waits for it.
    pub(super) fn wait(&self) -> Result<(), CudaError> {
        self.done.as_ref().map_or(Ok(()), Mark::wait)
    }
}

/// A batch that is over, and since when, or why it never will be.
pub(super) type Landed = (Job, Result<Instant, CudaError>);

/// The thread, and the way to it and back.
pub(super) struct Watch {
    /// None when no more is to come.
    inlet: Option<Sender<Job>>,
    outlet: Receiver<Landed>,
    thread: Option<JoinHandle<()>>,
    wake: Arc<OnceLock<Wake>>,
}

impl Watch {
    /// # Panics
    /// When the system has no threads to give.
    pub(super) fn new() -> Self {
        let ((inlet, inbox), (outbox, outlet)) = (channel::<Job>(), channel());
        let wake = Arc::<OnceLock<Wake>>::default();
        let told = Arc::clone(&wake);
        let serve = move || {
            while let Ok(job) = inbox.recv() {
                let over = job.wait().map(|()| Instant::now());
                let taken = outbox.send((job, over)).is_ok();
                if let Some(wake) = told.get() {
                    wake();
                }
                if !taken {
                    return;
                }
            }
        };
        let thread = std::thread::Builder::new().name("device".to_owned()).spawn(serve);
        let thread = thread.unwrap_or_else(|e| panic!("cannot start a thread: {e}"));
        Self { inlet: Some(inlet), outlet, thread: Some(thread), wake }
    }

    /// It waits for `job`; whether it still can.
    pub(super) fn follow(&self, job: Job) -> bool {
        self.inlet.as_ref().is_some_and(|inlet| inlet.send(job).is_ok())
    }

    /// The first batch that is over, if one is within `left`.
    pub(super) fn next(&self, left: Duration) -> Result<Landed, RecvTimeoutError> {
        self.outlet.recv_timeout(left)
    }

    /// Sets the waker that is called for every batch that is over.
    pub(super) fn wake_by(&self, wake: Wake) {
        // The first waker is kept.
        let _ = self.wake.set(wake);
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.inlet = None;
        if let Some(thread) = self.thread.take() {
            // It does nothing that could panic.
            let _ = thread.join();
        }
    }
}
