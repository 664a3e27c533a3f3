//! index -> sample -> folder, on all cores, interruptible.

use std::collections::BTreeSet;
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError, mpsc};

use super::folder::{FolderError, RunFolder};
use super::record::Record;
use super::shard::Shard;
use crate::interrupt::Interrupt;

/// Something that computes records by index, each a pure function of it.
pub trait IndexedEstimator: Sync {
    /// What one index gives.
    type Record: Record;
    /// How it can fail.
    type Error: Send;

    /// The record of this index.
    ///
    /// # Errors
    /// Stops the run; what is already computed stays in the folder.
    fn compute(&self, index: u64) -> Result<Self::Record, Self::Error>;

    /// Whether the error says that the record was given up because an interrupt is raised.
    fn is_interrupt(error: &Self::Error) -> bool;

    /// The record of this index is on disk: what was kept of the way there is of no use any more.
    fn written(&self, index: u64) {
        let _ = index;
    }

    /// The run has stopped, all workers at rest: what they have in common is kept where the run is to go on, or of no use any more where it is
    /// complete.
    ///
    /// # Errors
    /// When it can't be kept.
    fn stopped(&self, is_complete: bool) -> Result<(), Self::Error> {
        let _ = is_complete;
        Ok(())
    }
}

/// How the work is spread: so many samples at once, each with so many threads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Workers {
    /// Samples computed at the same time.
    pub rays: NonZeroUsize,
    /// Threads of rayon's pool within one sample.
    pub threads_per_ray: NonZeroUsize,
}

impl Workers {
    /// Parallel over rays for small models, inside an evaluation for large ones (where the working copy of the weights of several
    /// rays would compete for memory).
    #[must_use]
    pub fn automatic(threads: NonZeroUsize, dimension: usize) -> Self {
        const LARGE: usize = 50_000_000;
        let one = NonZeroUsize::MIN;
        if dimension >= LARGE { Self { rays: one, threads_per_ray: threads } } else { Self { rays: threads, threads_per_ray: one } }
    }
}

/// What is to be computed, and how.
#[derive(Debug, Clone, Copy)]
pub struct SamplePlan<'a> {
    /// Number of samples over all shards: the indices are below it.
    pub samples: u64,
    /// Which of them are computed here.
    pub shard: Shard,
    /// Indices that are in the folder already.
    pub present: &'a BTreeSet<u64>,
    /// How the work is spread.
    pub workers: Workers,
    /// Raised to stop: the workers begin nothing more, and give up what they have begun if its estimator looks at the interrupt.
    pub interrupt: &'a Interrupt,
}

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RunEnd {
    /// Every sample of the shard is in the folder.
    Completed,
    /// The interrupt was raised; samples in flight that were finished nevertheless are in the folder.
    Interrupted,
}

/// Why a run stopped early.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RunError<E> {
    /// The estimator failed.
    #[error("sample {index} failed: {error}")]
    Estimator {
        /// Which sample.
        index: u64,
        /// Why.
        error: E,
    },
    /// What the samples have in common cannot be kept for a run that goes on.
    #[error("cannot keep what was begun: {0}")]
    Keep(E),
    /// The folder cannot be written.
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// No threads.
    #[error("cannot start the worker threads: {0}")]
    Threads(String),
}

/// Computes the samples of a plan that are missing, and appends each to the folder as it comes.
///
/// `observe` is called in this thread after a record is safely on disk.
///
/// # Errors
/// If the estimator fails, the folder cannot be written or the threads cannot be started; everything computed before is in the folder.
pub fn run<T: IndexedEstimator>(
    estimator: &T,
    folder: &mut RunFolder,
    plan: SamplePlan<'_>,
    mut observe: impl FnMut(T::Record),
) -> Result<RunEnd, RunError<T::Error>> {
    let SamplePlan { samples, shard, present, workers, interrupt } = plan;
    let missing = Mutex::new(shard.indices(samples).filter(|index| !present.contains(index)).peekable());
    if lock(&missing).peek().is_none() {
        return estimator.stopped(true).map(|()| RunEnd::Completed).map_err(RunError::Keep);
    }
    let pools = (0..workers.rays.get())
        .map(|_| rayon::ThreadPoolBuilder::new().num_threads(workers.threads_per_ray.get()).build())
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| RunError::Threads(error.to_string()))?;
    let stop = AtomicBool::new(false);
    // No queue: a sample that is computed waits for the disk, so that a kill loses no more than the samples in flight.
    let (sender, receiver) = mpsc::sync_channel(0);
    let (mut failure, mut is_given_up) = (None, false);
    std::thread::scope(|scope| {
        for pool in &pools {
            let sender = sender.clone();
            let (stop, missing) = (&stop, &missing);
            scope.spawn(move || {
                while !stop.load(Ordering::Relaxed) && !interrupt.is_raised() {
                    let Some(index) = lock(missing).next() else { break };
                    let result = pool.install(|| estimator.compute(index));
                    if sender.send((index, result)).is_err() {
                        break;
                    }
                }
            });
        }
        drop(sender);
        for (index, result) in receiver {
            let written = match result {
                Ok(record) => folder.append(&record).map(|()| record).map_err(RunError::from),
                Err(error) if T::is_interrupt(&error) => {
                    stop.store(true, Ordering::Relaxed);
                    is_given_up = true;
                    continue;
                }
                Err(error) => Err(RunError::Estimator { index, error }),
            };
            match written {
                Ok(record) => {
                    estimator.written(index);
                    observe(record);
                }
                // The first failure is the one to tell; samples still in flight are written if they can be.
                Err(error) => {
                    stop.store(true, Ordering::Relaxed);
                    failure.get_or_insert(error);
                }
            }
        }
    });
    let is_interrupted = is_given_up || interrupt.is_raised() && lock(&missing).peek().is_some();
    let kept = estimator.stopped(failure.is_none() && !is_interrupted).map_err(RunError::Keep);
    match failure {
        Some(error) => Err(error),
        None => kept.map(|()| if is_interrupted { RunEnd::Interrupted } else { RunEnd::Completed }),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
