//! The door for fronts that must not be blocked: an estimate, or any other job, on threads of its own.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use basin_volume::interrupt::Interrupt;
use basin_volume::run::answer::Answer;

use crate::error::{Context, Error};
use crate::estimate::{self, Outcome};
use crate::events::{Event, Observer};
use crate::request::{Estimate, Machine};
use crate::runs::{RunGroup, read_all};
use crate::session::Session;
use crate::subject::Subject;

/// A job at work. Dropping it interrupts the work and waits for its end, so that no thread outlives it.
pub struct Job<T> {
    interrupt: Interrupt,
    end: Receiver<Result<T, Error>>,
    thread: Option<JoinHandle<()>>,
}

impl<T> std::fmt::Debug for Job<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Job").field("interrupt", &self.interrupt).finish_non_exhaustive()
    }
}

/// Begins any work of this crate on threads of its own; the observer is called from one of them.
///
/// # Errors
/// When the thread cannot be started.
pub fn spawn<T: Send + 'static>(
    machine: Machine,
    observer: Box<dyn Observer>,
    work: impl FnOnce(&Session) -> Result<T, Error> + Send + 'static,
) -> Result<Job<T>, Error> {
    let interrupt = Interrupt::new();
    let (sender, end) = channel();
    let raised = interrupt.clone();
    let thread = move || {
        let work = move || work(&Session::new(machine.threads, machine.memory.map(|memory| memory.0), raised, observer));
        // A panic in a cost of somebody else's must not hang whoever waits.
        let result = catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| Err(Error::failed("the estimate panicked")));
        // Nobody may be waiting any more.
        let _ = sender.send(result);
    };
    let thread = Builder::new().name("basin-volume".to_owned()).spawn(thread).context(|| "cannot start a thread")?;
    Ok(Job { interrupt, end, thread: Some(thread) })
}

impl<T> Job<T> {
    /// Tells the work to stop: it does within two gradients or one evaluation of the cost, and keeps what is done.
    pub fn interrupt(&self) {
        self.interrupt.raise();
    }

    /// Waits so long for the end; none if it has not come. The end comes once.
    pub fn wait(&self, time: Duration) -> Option<Result<T, Error>> {
        match self.end.recv_timeout(time) {
            Ok(result) => Some(result),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => Some(Err(Error::failed("the estimate has ended already"))),
        }
    }
}

impl<T> Drop for Job<T> {
    fn drop(&mut self) {
        self.interrupt();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// An estimate at work. Dropping it interrupts the work and waits for its end, so that no thread outlives it.
#[derive(Debug)]
pub struct Handle {
    job: Job<Outcome>,
    folder: Arc<Mutex<Option<PathBuf>>>,
}

/// Begins an estimate of the volume of a subject.
///
/// Everything is computed on threads of its own; the observer is called from one of them. What can be seen to be wrong at once is an error here.
///
/// # Errors
/// When the request cannot be, or the thread not be started.
pub fn start(estimate: Estimate, subject: Arc<dyn Subject>, observer: Box<dyn Observer>) -> Result<Handle, Error> {
    estimate.ask.check()?;
    let folder = Arc::new(Mutex::new(estimate.out.clone()));
    let noting = Noting { observer, folder: Arc::clone(&folder) };
    let job = spawn(estimate.machine, Box::new(noting), move |session| estimate::run(&estimate, &*subject, session))?;
    Ok(Handle { job, folder })
}

/// Notes where the runs are, and passes everything on.
struct Noting {
    observer: Box<dyn Observer>,
    folder: Arc<Mutex<Option<PathBuf>>>,
}

impl Observer for Noting {
    fn event(&mut self, event: &Event<'_>) {
        if let Event::Folder(path) = event {
            *self.folder.lock().unwrap_or_else(PoisonError::into_inner) = Some(path.to_path_buf());
        }
        self.observer.event(event);
    }
}

impl Handle {
    /// Tells the work to stop: it does within two gradients or one evaluation of the cost, and keeps what is done.
    pub fn interrupt(&self) {
        self.job.interrupt();
    }

    /// Waits so long for the end; none if it has not come. The end comes once.
    pub fn wait(&self, time: Duration) -> Option<Result<Outcome, Error>> {
        self.job.wait(time)
    }

    /// What is on disk so far, as answers that say how far they can be trusted.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub fn inspect(&self) -> Result<Vec<Answer>, Error> {
        let folder = self.folder.lock().unwrap_or_else(PoisonError::into_inner).clone();
        match folder.filter(|folder| folder.exists()) {
            Some(folder) => Ok(read_all(&folder)?.iter().flat_map(RunGroup::answers).collect()),
            None => Ok(Vec::new()),
        }
    }
}
