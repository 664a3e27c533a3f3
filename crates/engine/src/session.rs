//! With what a job is done: threads, memory, somebody who watches, and a way to stop it.

use std::num::NonZeroUsize;
use std::sync::{Mutex, OnceLock, PoisonError};

use basin_volume::interrupt::Interrupt;
use basin_volume_models::curvature;
use basin_volume_models::memory::{self, Budget};
use basin_volume_models::train;
use rayon::{ThreadPool, ThreadPoolBuilder};

use crate::error::Error;
use crate::events::{Event, Observer};
use crate::spread::{Launcher, ShardChoice};

/// With what a job is done.
pub struct Session {
    /// Worker threads.
    pub threads: NonZeroUsize,
    /// Memory that may be used.
    pub memory: Option<Budget>,
    /// Raised to stop.
    pub interrupt: Interrupt,
    /// Which one this process is of those that compute parts of a job on this machine, from 0.
    pub task_here: u64,
    observer: Mutex<Box<dyn Observer>>,
    pool: OnceLock<ThreadPool>,
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session").field("threads", &self.threads).field("memory", &self.memory).finish_non_exhaustive()
    }
}

impl Session {
    /// A session with these threads, all cores where none are asked for.
    pub fn new(threads: Option<NonZeroUsize>, memory: Option<Budget>, interrupt: Interrupt, observer: Box<dyn Observer>) -> Self {
        let threads = threads.or_else(|| std::thread::available_parallelism().ok()).unwrap_or(NonZeroUsize::MIN);
        Self { threads, memory, interrupt, task_here: 0, observer: Mutex::new(observer), pool: OnceLock::new() }
    }

    /// The same as one of several on this machine, where the part of the job is found out.
    #[must_use]
    pub fn computing(self, part: ShardChoice) -> Self {
        Self { task_here: if part == ShardChoice::Auto { Launcher::here_on_machine() } else { 0 }, ..self }
    }

    /// Tells whoever watches.
    pub fn tell(&self, event: &Event<'_>) {
        self.observer.lock().unwrap_or_else(PoisonError::into_inner).event(event);
    }

    /// A line for a person.
    pub fn note(&self, text: &str) {
        self.tell(&Event::Note(text));
    }

    /// Ends the job if that is asked for.
    ///
    /// # Errors
    /// [`Error::Interrupted`].
    pub fn proceed(&self) -> Result<(), Error> {
        if self.interrupt.is_raised() { Err(Error::Interrupted) } else { Ok(()) }
    }

    /// All threads, for what is done once.
    ///
    /// # Errors
    /// When they cannot be started.
    pub fn pool(&self) -> Result<&ThreadPool, Error> {
        if let Some(pool) = self.pool.get() {
            return Ok(pool);
        }
        let pool = ThreadPoolBuilder::new().num_threads(self.threads.get()).build()?;
        Ok(self.pool.get_or_init(|| pool))
    }

    /// Memory that may be used, in bytes: four fifths of what is free unless a size is given.
    #[must_use]
    pub fn allowed(&self) -> u64 {
        match self.memory {
            Some(Budget::Bytes(bytes)) => bytes,
            _ => memory::free_memory() / 5 * 4,
        }
    }

    /// Follows the computation of a curvature.
    pub fn curvature<'s>(&'s self, kind: &'s str) -> CurvatureObserver<'s> {
        CurvatureObserver { session: self, kind }
    }

    /// Follows a training.
    pub fn training(&self) -> TrainingObserver<'_> {
        TrainingObserver(self)
    }
}

/// Follows the computation of a curvature.
#[derive(Debug)]
pub struct CurvatureObserver<'s> {
    session: &'s Session,
    kind: &'s str,
}

impl curvature::Observer for CurvatureObserver<'_> {
    fn step(&mut self, done: usize, total: usize) {
        self.session.tell(&Event::Curvature { kind: self.kind, done, total });
    }

    fn interrupted(&self) -> bool {
        self.session.interrupt.is_raised()
    }
}

/// Follows a training.
#[derive(Debug)]
pub struct TrainingObserver<'s>(&'s Session);

impl train::Observer for TrainingObserver<'_> {
    fn step(&mut self, step: usize, total: usize, loss: f64) {
        self.0.tell(&Event::Training { step, total, loss });
    }

    fn phase(&mut self, name: &str) {
        self.0.tell(&Event::TrainingPhase(name));
    }

    fn interrupted(&self) -> bool {
        self.0.interrupt.is_raised()
    }
}
