//! A flag that is raised to stop, shared by whoever raises it and whoever looks.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// A flag that stays raised once it is. Clones are the same flag.
#[derive(Debug, Clone, Default)]
pub struct Interrupt(Arc<State>);

#[derive(Debug, Default)]
struct State {
    is_raised: AtomicBool,
    /// Nanoseconds of the longest piece of work that was finished.
    longest: AtomicU64,
}

impl Interrupt {
    /// A flag that is not raised.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Raises the flag: what works with it stops as soon as it can.
    pub fn raise(&self) {
        self.0.is_raised.store(true, Ordering::Relaxed);
    }

    /// Whether the flag is raised.
    #[must_use]
    pub fn is_raised(&self) -> bool {
        self.0.is_raised.load(Ordering::Relaxed)
    }

    /// Does a piece of work that does not look at the flag, and remembers how long it took.
    pub fn timed<T>(&self, work: impl FnOnce() -> T) -> T {
        let began = Instant::now();
        let done = work();
        self.0.longest.fetch_max(began.elapsed().as_nanos() as u64, Ordering::Relaxed);
        done
    }

    /// The longest piece of work so far: about so long it may take until a raised flag is seen. Zero where nothing is known.
    #[must_use]
    pub fn longest(&self) -> Duration {
        Duration::from_nanos(self.0.longest.load(Ordering::Relaxed))
    }
}
