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
pub struct Plan<'a> {
    /// Number of samples over all shards: the indices are below it.
    pub samples: u64,
    /// Which of them are computed here.
    pub shard: Shard,
    /// Indices that are in the folder already.
    pub present: &'a BTreeSet<u64>,
    /// How the work is spread.
    pub workers: Workers,
    /// Raised to stop: the workers finish what they have begun.
    pub interrupt: &'a Interrupt,
}

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RunEnd {
    /// Every sample of the shard is in the folder.
    Completed,
    /// The interrupt flag was raised; the samples in flight were finished and written.
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
    plan: Plan<'_>,
    mut observe: impl FnMut(T::Record),
) -> Result<RunEnd, RunError<T::Error>> {
    let Plan { samples, shard, present, workers, interrupt } = plan;
    let missing = Mutex::new(shard.indices(samples).filter(|index| !present.contains(index)).peekable());
    if lock(&missing).peek().is_none() {
        return Ok(RunEnd::Completed);
    }
    let pools = (0..workers.rays.get())
        .map(|_| rayon::ThreadPoolBuilder::new().num_threads(workers.threads_per_ray.get()).build())
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| RunError::Threads(error.to_string()))?;
    let stop = AtomicBool::new(false);
    // No queue: a sample that is computed waits for the disk, so that a kill loses no more than the samples in flight.
    let (sender, receiver) = mpsc::sync_channel(0);
    let mut failure = None;
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
                Err(error) => Err(RunError::Estimator { index, error }),
            };
            match written {
                Ok(record) => observe(record),
                // The first failure is the one to tell; samples still in flight are written if they can be.
                Err(error) => {
                    stop.store(true, Ordering::Relaxed);
                    failure.get_or_insert(error);
                }
            }
        }
    });
    match failure {
        Some(error) => Err(error),
        None if interrupt.is_raised() && lock(&missing).peek().is_some() => Ok(RunEnd::Interrupted),
        None => Ok(RunEnd::Completed),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
